package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/records"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

func (a *app) certsListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the CAs, every certificate and every revocation list, with the time that is left",
		Long: `List asks every host for the certificates and revocation lists that its tasks keep,
and lists them with the fleet's CAs and the clients' certificates that were exported:
how much of their lifetime is left, whether the server presents what is on its disk,
and what is due. The last line names what ends first.`,
		Example: `  pgfleet certs list
  pgfleet certs list --detailed-exitcode    exits 0 when nothing is due, 2 when something is, 1 after an error`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.certsList(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&a.detailed, "detailed-exitcode", false, "exit with 2 when something is due, and with 1 after any error")
	return cmd
}

func (a *app) certsList(ctx context.Context, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := (&certsRun{}).prepare(ctx, s, nil); err != nil {
		return err
	}
	v, err := s.viewCA(ctx, s.instances, false)
	if err != nil {
		return err
	}
	d, err := s.listCerts(v)
	if err != nil {
		return err
	}
	if asJSON {
		err = a.ui.JSON(d)
	} else {
		a.ui.Print(renderCerts(d, a.ui.style))
	}
	switch {
	case err != nil:
		return err
	case len(d.Problems) > 0:
		return errHostFailed
	case d.Due && a.detailed:
		return errChangesDue
	}
	return nil
}

// listCerts puts together what was found.
func (s *session) listCerts(v *caView) (certsDocument, error) {
	d := certsDocument{
		Format: jsonFormat, Pgfleet: version(), Fleet: s.fleet.Name,
		CAs: []listedCA{}, Certificates: []listedCert{}, CRLs: []listedCRL{}, now: v.now,
	}
	d.CAs = append(d.CAs, listCAs(s.authority(v.held), v.now)...)
	for _, k := range v.asked {
		id := k.Instance.ID()
		if k.Err != nil {
			d.Problems = append(d.Problems, listProblem{id, k.Err.Error()})
			continue
		}
		for _, b := range v.bound[id] {
			if !b.Selected {
				continue
			}
			found, err := b.FoundCertificates(k.State)
			if err != nil {
				d.Problems = append(d.Problems, listProblem{id, fmt.Sprintf("%s: %v", b.Name, err)})
			}
			for _, f := range found {
				d.addFound(id, f, v.revoked)
			}
		}
	}
	clients, err := s.dueClients(v.now)
	if err != nil {
		return d, &inputError{err}
	}
	d.Certificates = append(d.Certificates, clients...)
	switch {
	case v.err != nil:
		d.Problems = append(d.Problems, listProblem{"", v.err.Error()})
	case v.Stage != pki.Settled:
		d.Rotation = v.status(s)
	}
	d.Due = d.anyDue()
	return d, nil
}

// addFound adds what a task keeps on a host.
func (d *certsDocument) addFound(id inventory.InstanceID, f tasks.FoundCertificate, revoked []records.Revocation) {
	due := strings.Join(f.Due, "; ")
	switch {
	case f.Leaf != nil:
		c := certOf(*f.Leaf)
		c.Instance, c.File, c.Usage, c.Due = id, f.File, f.Usage.String(), due
		c.Revoked = isRevoked(revoked, f.Leaf.Serial)
		switch {
		case f.NotServed != "":
			c.Served = "unknown"
		case f.Served != nil && f.Served.Fingerprint == f.Leaf.Fingerprint:
			c.Served = "yes"
		case f.Served != nil:
			c.Served = "no"
			c.Due = strings.TrimPrefix(c.Due+"; the server presents another one", "; ")
		}
		d.Certificates = append(d.Certificates, c)
	case f.Kind == "certificate":
		d.Certificates = append(d.Certificates, listedCert{Instance: id, File: f.File, Usage: f.Usage.String(), Names: []string{}, Due: due, missing: true})
	}
	for i, l := range f.Lists {
		c := listedCRL{Instance: id, File: f.File, Issuer: shortName(l.Issuer), Revoked: len(l.Revoked), lifetime: lifetime{l.ThisUpdate, l.NextUpdate}}
		if i == 0 {
			c.Due = due
		}
		d.CRLs = append(d.CRLs, c)
	}
	if f.Kind != "certificate" && len(f.Lists) == 0 && due != "" {
		d.Files = append(d.Files, listedFile{id, f.File, due})
	}
}

// shortName leaves the CN= away of a name that is nothing but a common name.
func shortName(name string) string {
	if short, ok := strings.CutPrefix(name, "CN="); ok && !strings.ContainsAny(short, ",+\\") {
		return short
	}
	return name
}

func certOf(l pki.Leaf) listedCert {
	return listedCert{
		Subject: l.Subject, Names: namesOf(l), Issuer: l.IssuerName(), Serial: l.Serial, lifetime: lifetime{l.NotBefore, l.NotAfter},
	}
}

func (d certsDocument) anyDue() bool {
	return len(d.Files) > 0 || slices.ContainsFunc(d.CAs, func(c listedCA) bool { return c.Due != "" }) ||
		slices.ContainsFunc(d.Certificates, func(c listedCert) bool { return c.Due != "" }) ||
		slices.ContainsFunc(d.CRLs, func(c listedCRL) bool { return c.Due != "" })
}

// isRevoked goes by the serial number alone: here they are random numbers of 128 bits,
// and the CA of a certificate may be gone from ca.pem.
func isRevoked(list []records.Revocation, serial string) bool {
	return slices.ContainsFunc(list, func(r records.Revocation) bool { return r.Serial == serial })
}

// listCAs lists the CAs: those that are trusted, and the intermediates.
func listCAs(a *tasks.Authority, now time.Time) []listedCA {
	var list []listedCA
	for _, c := range a.CAs() {
		signs := a.Signing != nil && c.Equal(a.Signing)
		list = append(list, listedCA{c.Subject.CommonName, fingerprint(c), signs, lifetime{c.NotBefore.UTC(), c.NotAfter.UTC()}, dueCA(a, c, now)})
	}
	return list
}

// dueCA says that a CA should be replaced, as a part of a sentence; "" as long as more
// than a fifth of its lifetime is left.
func dueCA(a *tasks.Authority, c *x509.Certificate, now time.Time) string {
	left := c.NotAfter.Sub(now)
	if left > c.NotAfter.Sub(c.NotBefore)/5 {
		return ""
	}
	what := "what it signed ends with it"
	switch {
	case a.Signing == nil || !c.Equal(a.Signing):
	case len(a.Chain) > 0:
		what += ", and it signs: get its successor from whoever has the root's key; pgfleet certs rotate-ca says what to do with it"
	default:
		what = "pgfleet certs rotate-ca goes over to a new one"
	}
	if left < 0 {
		return fmt.Sprintf("the CA %s has expired; %s", c.Subject.CommonName, what)
	}
	return fmt.Sprintf("the CA %s ends in %s; %s", c.Subject.CommonName, tasks.AgeText(left), what)
}

// dueClients lists the exported certificates, but for those that have been expired for
// long or were replaced: of each role those that are not expired, or the newest.
func (s *session) dueClients(now time.Time) ([]listedCert, error) {
	folder := records.Open(s.fleet.File(s.fleet.CA.Records))
	list, err := folder.List()
	if err != nil {
		return nil, err
	}
	revoked, err := folder.Revoked("")
	if err != nil {
		return nil, err
	}
	revoked = records.InForce(revoked)
	var clients []listedCert
	for _, c := range list {
		newer := slices.ContainsFunc(list, func(o records.Certificate) bool {
			return o.Leaf.CommonName == c.Leaf.CommonName && o.Leaf.NotBefore.After(c.Leaf.NotBefore) && !isRevoked(revoked, o.Leaf.Serial)
		})
		left := c.Leaf.Left(now)
		if newer && left < 0 {
			continue
		}
		x := certOf(c.Leaf)
		x.File, x.Usage, x.Revoked = filepath.Join(s.fleet.CA.Records, c.File), pki.Client.String(), isRevoked(revoked, c.Leaf.Serial)
		if !newer && !x.Revoked {
			switch {
			case left < 0:
				x.Due = fmt.Sprintf("the client certificate of %s has expired: pgfleet certs export %s, or take %s away", c.Leaf.CommonName, c.Leaf.CommonName, x.File)
			case left <= c.Leaf.Lifetime()/3:
				x.Due = fmt.Sprintf("the client certificate of %s ends in %s: pgfleet certs export %s", c.Leaf.CommonName, tasks.AgeText(left), c.Leaf.CommonName)
			}
		}
		clients = append(clients, x)
	}
	return clients, nil
}

// dueCerts says what is due soon of what an apply does not do, as a plan's last word.
func (s *session) dueCerts(ctx context.Context) []string {
	if s.fleet.CA == nil {
		return nil
	}
	var said []string
	now := time.Now()
	held, err := s.readCA()
	if err != nil {
		return nil // it was reported
	}
	for _, c := range listCAs(s.authority(held), now) {
		if c.Due != "" {
			said = append(said, c.Due)
		}
	}
	clients, err := s.dueClients(now)
	if err != nil {
		said = append(said, "whether a client's certificate is due is not known: "+err.Error())
	}
	for _, c := range clients {
		if c.Due != "" {
			said = append(said, c.Due)
		}
	}
	// Plans that need no key ask nobody for it. Of a rotation that has come no farther
	// than the store nothing is seen here.
	if byHand(s.fleet.CA) != nil || len(held.bundle) == 1 {
		return said
	}
	if err := held.readKeys(ctx, s); err != nil {
		return append(said, "how far a rotation of the CA is, is not known: "+err.Error())
	}
	r, err := pki.FindRotation(held.bundle, held.keys)
	if err != nil {
		return append(said, "how far a rotation of the CA is, is not known: "+err.Error())
	}
	if why := r.UnderWay(now, time.Duration(s.fleet.CA.Overlap.Value)); why != "" {
		said = append(said, why)
	}
	return said
}
