package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/records"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A caView is how far a rotation of the CA is, here and on the hosts.
type caView struct {
	pki.Rotation
	err      error // why that is not known; the rotation is empty then, or settled
	held     *heldCA
	file     string // of the CA's certificates
	asked    []rollout.Known
	bound    map[inventory.InstanceID][]*tasks.Bound
	revoked  []records.Revocation
	places   []pki.RotationPlace
	newer    []string // what hosts have of CAs that are newer than those here
	exported []pki.FoundLeaf
	now      time.Time
}

// viewCA asks the hosts, with the tasks about certificates. Rotates is false for who
// does not go on with a rotation.
func (s *session) viewCA(ctx context.Context, wanted []inventory.Instance, rotates bool) (*caView, error) {
	v := &caView{file: s.fleet.CA.Certificate.Value, now: time.Now()}
	var err error
	if v.held, err = s.readCA(); err != nil {
		return nil, err
	}
	// Who only looks need not be able to read the key, as long as nothing says that it
	// has a successor.
	v.Rotation = pki.Rotation{Stage: pki.Settled, Old: v.held.bundle[0]}
	if byHand(s.fleet.CA) == nil && (rotates || len(v.held.bundle) > 1) {
		if err := v.held.readKeys(ctx, s); err != nil {
			v.err = fmt.Errorf("the CA's key: %w", err)
		} else {
			v.Rotation, v.err = pki.FindRotation(v.held.bundle, v.held.keys)
		}
	}
	if v.exported, v.revoked, err = exportedClients(s.fleet); err != nil {
		return nil, &inputError{err}
	}
	s.takeBackCA = rotates // which looks at what that is by itself
	known, bound, err := s.plan(ctx, s.fleet.Instances(), wanted, nil)
	s.takeBackCA = false
	if err != nil {
		return nil, err
	}
	v.asked, v.bound = known, bound
	authority := s.authority(v.held)
	for _, k := range known {
		p := placeOf(k, bound[k.Instance.ID()], v.Old)
		v.places = append(v.places, p)
		if err := newerThan(authority, p); err != nil {
			v.newer = append(v.newer, err.Error())
		}
	}
	return v, nil
}

// newerThan says that an instance has something of a newer CA than those here.
func newerThan(a *tasks.Authority, p pki.RotationPlace) error {
	for _, f := range p.Bundles {
		if c := a.NewerCA(f.Certificates); c != nil && f.Kept {
			return a.Outdated(p.Name, c.Subject.CommonName)
		}
	}
	for _, l := range p.Leaves {
		if name := a.NewerSigner(l.Leaf); name != "" {
			return a.Outdated(p.Name, name)
		}
	}
	return nil
}

// behind reports whether the hosts that are known lack what is found here of the phase
// that was begun last, and an apply would bring it. That a certificate is due because
// its time is nearly over is none of a rotation's business.
func (v *caView) behind() bool {
	if !slices.ContainsFunc(v.asked, somethingRuns) {
		return false
	}
	for _, p := range v.places {
		if p.Problem != "" {
			continue
		}
		for _, f := range p.Bundles {
			if f.Kept && (!f.Loaded || !sameCAs(f.Certificates, v.held.bundle)) {
				return true
			}
		}
		for _, f := range p.Lists {
			if v.New != nil && !slices.ContainsFunc(f.Lists, func(c pki.CRL) bool { return c.SignedBy(v.New) }) {
				return true
			}
		}
		for _, l := range p.Leaves {
			if v.Stage == pki.Switched && l.Leaf.SignedBy(v.Old) {
				return true
			}
		}
	}
	return false
}

// sameCAs reports whether two lists hold the same certificates, in whatever order.
func sameCAs(a, b []*x509.Certificate) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(c *x509.Certificate) bool { return !slices.ContainsFunc(b, c.Equal) })
}

// known is why something is not known of a host, or nil.
func (v *caView) known() error {
	for _, k := range v.asked {
		if k.Err != nil {
			return fmt.Errorf("%s: %w", k.Instance.ID(), k.Err)
		}
	}
	return nil
}

func (v *caView) awaits(s *session, clientsReady bool) []string {
	if len(v.newer) > 0 {
		return v.newer
	}
	return v.Awaits(v.places, v.exported, v.now, time.Duration(s.fleet.CA.Overlap.Value), clientsReady)
}

// exportedClients returns the exported certificates that are not revoked, and what is.
func exportedClients(fleet *inventory.Fleet) ([]pki.FoundLeaf, []records.Revocation, error) {
	folder := records.Open(fleet.File(fleet.CA.Records))
	list, err := folder.List()
	if err != nil {
		return nil, nil, err
	}
	revoked, err := folder.Revoked("")
	if err != nil {
		return nil, nil, err
	}
	revoked = records.InForce(revoked)
	var found []pki.FoundLeaf
	for _, c := range list {
		if !isRevoked(revoked, c.Leaf.Serial) {
			found = append(found, pki.FoundLeaf{Where: filepath.Join(fleet.CA.Records, c.File), Leaf: c.Leaf})
		}
	}
	return found, revoked, nil
}

// placeOf is what a rotation has to know of an instance.
func placeOf(k rollout.Known, bound []*tasks.Bound, old *x509.Certificate) pki.RotationPlace {
	p := pki.RotationPlace{Name: string(k.Instance.ID())}
	if k.Err != nil {
		p.Problem = k.Err.Error()
		return p
	}
	for _, b := range bound {
		if !b.Selected {
			continue
		}
		found, err := b.FoundCertificates(k.State)
		if err != nil {
			p.Problem = fmt.Sprintf("%s: %v", b.Name, err)
			continue
		}
		for _, f := range found {
			switch {
			case f.Trusted != nil:
				p.Bundles = append(p.Bundles, pki.TrustedFile{Path: f.File, Certificates: f.Trusted, Loaded: f.Loaded, Kept: true})
			case f.Kind == "crl_file":
				p.Lists = append(p.Lists, pki.ListFile{Path: f.File, Lists: f.Lists, Loaded: f.Loaded})
			case f.Leaf != nil:
				p.Leaves = append(p.Leaves, pki.FoundLeaf{Where: f.File, Leaf: *f.Leaf})
			}
			switch {
			case f.NotServed != "" && p.Problem == "":
				p.Problem = "what the server presents is not known: " + f.NotServed
			case f.Served != nil:
				p.Leaves = append(p.Leaves, pki.FoundLeaf{Where: "served", Leaf: *f.Served})
			}
		}
	}
	// A file that no ca_file task keeps counts as well, if the fleet's CA is in it.
	file, trusted, loaded, err := k.State.TrustedByServer()
	kept := slices.ContainsFunc(p.Bundles, func(f pki.TrustedFile) bool { return f.Path == file })
	switch {
	case err != nil && p.Problem == "":
		p.Problem = err.Error()
	case !kept && old != nil && slices.ContainsFunc(trusted, old.Equal):
		p.Bundles = append(p.Bundles, pki.TrustedFile{Path: file, Certificates: trusted, Loaded: loaded})
	}
	lists := k.State.ListsOfServer()
	if lists != "" && old != nil && slices.ContainsFunc(trusted, old.Equal) &&
		!slices.ContainsFunc(p.Lists, func(f pki.ListFile) bool { return f.Path == lists }) {
		p.Lists = append(p.Lists, pki.ListFile{Path: lists})
	}
	return p
}

// A caStatus is where a rotation of the CA stands.
type caStatus struct {
	Stage pki.RotationStage `json:"stage"`
	Old   string            `json:"old"`
	New   string            `json:"new,omitempty"`
	// Next is what the next call of rotate-ca does, and Awaits why it would be refused.
	Next   string   `json:"next"`
	Awaits []string `json:"awaits,omitempty"`
}

func (v *caView) status(s *session) *caStatus {
	x := &caStatus{Stage: v.Stage, Old: v.Old.Subject.CommonName, Awaits: v.awaits(s, false)}
	if v.New != nil {
		x.New = v.New.Subject.CommonName
	}
	switch v.Stage {
	case pki.Settled:
		x.Next = "phase 1 of a rotation"
		if v.behind() && len(v.newer) == 0 {
			x.Next = "the rest of phase 3"
		}
	case pki.Begun:
		x.Next = "the rest of phase 1"
	case pki.Introduced:
		x.Next = "phase 2"
		if v.behind() {
			x.Next = "the rest of phase 1"
		}
	case pki.Promoted:
		x.Next = "the rest of phase 2"
	case pki.Switched:
		x.Next = "phase 3"
		if v.behind() {
			x.Next = "the rest of phase 2"
		}
	}
	return x
}

// text is the status for the reader.
func (x *caStatus) text(st style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rotation of the CA: %s, %s", st.yellow(string(x.Stage)), clean(x.Old))
	if x.New != "" {
		fmt.Fprintf(&b, " → %s", clean(x.New))
	}
	fmt.Fprintf(&b, "; next is %s: pgfleet certs rotate-ca\n", x.Next)
	for _, why := range x.Awaits {
		fmt.Fprintf(&b, "  waits: %s\n", clean(why))
	}
	return b.String()
}

type caStatusDocument struct {
	Format   int       `json:"format"`
	Pgfleet  string    `json:"pgfleet"`
	Fleet    string    `json:"fleet"`
	Rotation *caStatus `json:"rotation"`
}

// caStatus prints where a rotation of the CA stands.
func (a *app) caStatus(ctx context.Context, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := (&certsRun{}).prepare(ctx, s, nil); err != nil {
		return err
	}
	v, err := s.viewCA(ctx, s.instances, true)
	if err == nil {
		err = v.err
	}
	if err != nil {
		return err
	}
	x := v.status(s)
	if asJSON {
		err = a.ui.JSON(caStatusDocument{jsonFormat, version(), s.fleet.Name, x})
	} else {
		a.ui.Print(x.text(a.ui.style))
	}
	if err == nil && v.known() != nil {
		return errHostFailed
	}
	return err
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
