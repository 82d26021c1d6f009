package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// A caRotation is what certs rotate-ca is asked for.
type caRotation struct {
	clientsReady bool
	abort        bool
}

// Every write of a rotation is such that the one after it can be told from what is
// found, whatever died in between:
//
//	phase 1  the key, pending in the store    Begun: a certificate is made for that key
//	         its certificate, last in ca.pem  Introduced, ca_file tasks due: they are applied
//	         ca.pem on the hosts              Introduced: phase 2 is next
//	phase 2  the key is promoted              Promoted: the old key, now the previous one, still signs
//	         its certificate, first in ca.pem Switched, certificates due: they are issued
//	         certificates on the hosts        Switched: phase 3 is next
//	phase 3  the old one out of ca.pem        Settled, ca_file tasks due: they are applied
//
// With an old CA that has expired phases 1 and 2 are one call, with the same writes: the
// hosts are changed once, after the last of them.
//
// The store comes before the file each time, because it decides between two operators:
// it takes one pending version, while each has a ca.pem of their own. In all of these
// states an ordinary apply is safe: it signs with the key, of those that the store
// holds, that belongs to the first certificate.

func (a *app) certsRotateCACommand() *cobra.Command {
	x := applying{app: a}
	var r caRotation
	var status bool
	cmd := &cobra.Command{
		Use:   "rotate-ca",
		Short: "Go over to a new CA, one phase with each call",
		Long: `Rotate-ca replaces the fleet's CA in three phases. Each call finds out which one is
next, shows its plan, asks, and carries it out:

  1  a new key in the secret store, its certificate in the file of [ca] behind the one
     that signs, and that file on all hosts: the new CA is trusted, and signs nothing
  2  the new CA signs: all certificates of hosts are issued anew
  3  the old CA is not trusted any more

Phase 2 is refused as long as a host does not trust the new CA, and until clients
have had the time that [ca].overlap says to fetch the new file (pgfleet certs export);
--clients-ready says that they all have it. Phase 3 is refused as long as a
certificate of the old CA is in use: on a host, or exported for a client and neither
expired nor revoked. Every host has to be reachable for both.

A call that was interrupted is gone on with by the next one. --status says where the
rotation stands and changes nothing; --abort takes the new CA out again, before
phase 2.

If the CA has expired, nothing that it has signed is accepted any more, and there is
nothing to wait for: one call does phases 1 and 2.`,
		Example: `  pgfleet certs rotate-ca
  pgfleet certs rotate-ca --status
  pgfleet certs rotate-ca --clients-ready --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			x.lock.Why = commandLine(cmd, args)
			switch {
			case a.limit != "":
				return &inputError{errors.New("--limit: a CA is rotated on all hosts, because clients trust one or the other everywhere; leave it out")}
			case len(a.tags) > 0:
				return &inputError{errors.New("--tags: a CA is rotated by all tasks about certificates; leave it out")}
			case status && (x.yes || r.abort || r.clientsReady):
				return &inputError{errors.New("--status changes nothing, so --yes, --abort and --clients-ready mean nothing with it")}
			case r.abort && r.clientsReady:
				return &inputError{errors.New("--abort and --clients-ready exclude each other")}
			case status:
				return a.caStatus(cmd.Context(), x.asJSON)
			}
			return r.run(cmd.Context(), &x)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&status, "status", false, "say which phase is next and what it waits for")
	f.BoolVar(&r.clientsReady, "clients-ready", false, "do not wait for [ca].overlap: every client trusts the new CA")
	f.BoolVar(&r.abort, "abort", false, "take the new CA out again; before phase 2 only")
	x.flags(cmd, "--yes or --status")
	return cmd
}

// run does the next phase. What a phase changes is decided between two looks at the
// hosts: the first says how far the rotation is there, the second plans with ca.pem as
// it is going to be.
func (r caRotation) run(ctx context.Context, x *applying) error {
	x.certs = &certsRun{command: "certs rotate-ca"}
	x.certs.find = func(ctx context.Context, s *session, wanted []inventory.Instance) error {
		p, err := r.next(ctx, s, wanted)
		if err != nil {
			return err
		}
		x.certs.first = nil
		if p.text != nil || p.key != nil || p.promote != "" {
			x.certs.first = func(ctx context.Context) ([]string, error) { return p.write(ctx, s) }
		}
		if p.kinds != nil {
			s.kinds = p.kinds
		}
		s.takeBackCA = r.abort
		if p.text != nil {
			s.replaced = map[string][]byte{s.fleet.CA.Certificate.Value: p.text}
		}
		s.run.StillHolds = func(ctx context.Context, _ inventory.Instance) error { return p.stillHolds(ctx, s) }
		if !x.asJSON {
			x.app.ui.Print(p.title + "\n")
			for _, line := range p.says {
				x.app.ui.Print("  " + clean(line))
			}
		}
		return nil
	}
	return x.apply(ctx)
}

// A caPhase is what one call of rotate-ca does, before the hosts.
type caPhase struct {
	title   string
	says    []string        // what it does here
	key     *secrets.Secret // to be put into the store as the pending version; nil for none
	replace bool            // in the place of one that is pending
	promote string          // the ID of the version of the key to promote; "" for none
	text    []byte          // what ca.pem will hold; nil to leave it
	held    *heldCA         // what was found
	last    bool            // the key is put after ca.pem is written (abort)
	kinds   []string        // of the tasks that are applied; those about certificates if there are none

	// between, if not nil, is what ca.pem holds after the key is put and before it is
	// promoted: phases 1 and 2 in one call.
	between []byte
}

// introducing are the kinds of tasks that phase 1 applies. The old CA signs nothing in it:
// it may have expired, and a certificate that is due can wait for the new one.
func introducing() []string { return []string{"ca_file", "crl_file"} }

// next decides which phase the call does.
func (r caRotation) next(ctx context.Context, s *session, wanted []inventory.Instance) (*caPhase, error) {
	hand := byHand(s.fleet.CA)
	if hand != nil && !r.abort {
		return nil, &inputError{hand}
	}
	s.replaced = nil // when the hosts are asked again
	here, err := s.readCA()
	if err != nil {
		return nil, err
	}
	if _, err := s.writableCA(here); hand == nil && err != nil {
		return nil, &inputError{fmt.Errorf("%s: key: %w", s.fleet.CA.Key.Pos(), err)}
	}
	v, err := s.viewCA(ctx, wanted, true)
	if err != nil {
		return nil, err
	}
	if v.err != nil {
		return nil, v.err
	}
	if r.abort {
		return v.aborted()
	}
	if len(v.newer) > 0 {
		return nil, fmt.Errorf("nothing was changed:\n  %s", strings.Join(v.newer, "\n  "))
	}
	// Phase 1 can be applied while a host is away: the next call goes on there.
	switch v.Stage {
	case pki.Settled, pki.Begun:
		if v.Stage == pki.Settled && v.behind() {
			return &caPhase{title: "Phase 3 goes on: the hosts get the CA certificates that are trusted still", held: v.held}, nil
		}
		return v.introduce()
	case pki.Introduced:
		if v.behind() && !v.oldExpired() {
			return &caPhase{title: "Phase 1 goes on: the hosts get the certificate of the new CA", held: v.held, kinds: introducing()}, nil
		}
	case pki.Switched:
		if v.behind() && v.known() == nil {
			return &caPhase{title: "Phase 2 goes on: certificates are issued by the new CA", held: v.held}, nil
		}
	}
	signs := v.Stage == pki.Switched
	if why := v.awaits(s, r.clientsReady); len(why) > 0 && (signs || !v.oldExpired()) {
		return nil, fmt.Errorf("%s cannot begin; nothing was changed:\n  %s", map[pki.RotationStage]string{
			pki.Introduced: "phase 2", pki.Promoted: "the rest of phase 2", pki.Switched: "phase 3",
		}[v.Stage], strings.Join(why, "\n  "))
	}
	if v.Stage == pki.Switched {
		return &caPhase{
			title: "Phase 3: the old CA is not trusted any more",
			says:  []string{fmt.Sprintf("- %s out of %s", v.Old.Subject.CommonName, v.file)},
			text:  pki.EncodeBundle(pki.WithoutCA(v.held.bundle, v.Old)), held: v.held,
		}, nil
	}
	p := &caPhase{title: "Phase 2: the new CA signs" + v.atOnce(), held: v.held, text: pki.EncodeBundle(pki.FirstInBundle(v.held.bundle, v.New))}
	if v.Stage == pki.Introduced {
		p.promote = v.held.pending.ID
		p.says = append(p.says, fmt.Sprintf("~ version %s of %s becomes the current one", v.held.pending.ID, v.held.ref))
	}
	p.says = append(p.says, fmt.Sprintf("~ %s is the first in %s, which signs; %s is trusted still", v.New.Subject.CommonName, v.file, v.Old.Subject.CommonName))
	return p, nil
}

// oldExpired reports whether the CA that is left has expired. Then nobody accepts what it
// has signed, and nobody is waited for.
func (v *caView) oldExpired() bool { return !v.now.Before(v.Old.NotAfter) }

func (v *caView) atOnce() string {
	if v.oldExpired() {
		return fmt.Sprintf(" at once, because %s has expired on %s", v.Old.Subject.CommonName, day(v.Old.NotAfter))
	}
	return ""
}

// introduce is phase 1 from its beginning, or from where the key is in the store.
func (v *caView) introduce() (*caPhase, error) {
	p := &caPhase{title: "Phase 1: a new CA is trusted, and signs nothing", held: v.held}
	var key secrets.Secret
	if v.Stage == pki.Begun {
		var err error
		if key, err = v.held.pending.Value(v.held.ref.Key); err != nil {
			return nil, err
		}
	} else {
		var err error
		if key, err = pki.NewKey(); err != nil {
			return nil, err
		}
		p.key, p.replace = &key, v.held.pending != nil // a copy of the current one, see aborted
		p.says = append(p.says, fmt.Sprintf("+ a key, the pending version of %s", v.held.ref))
	}
	cert, err := pki.Successor(v.held.bundle, key, v.now)
	if err != nil {
		return nil, err
	}
	p.text = pki.EncodeBundle(append(slices.Clone(v.held.bundle), cert))
	if v.oldExpired() {
		p.title = "Phases 1 and 2: a new CA is trusted, and signs" + v.atOnce()
		p.says = append(p.says, "~ that version becomes the current one", fmt.Sprintf("+ %s, the first in %s, which signs", cert.Subject.CommonName, v.file))
		p.between, p.text = p.text, pki.EncodeBundle(pki.FirstInBundle(v.held.bundle, cert))
		if v.Stage == pki.Begun {
			p.promote = v.held.pending.ID
		}
		return p, nil
	}
	p.kinds = introducing()
	p.says = append(p.says, fmt.Sprintf("+ %s in %s, behind %s", cert.Subject.CommonName, v.file, v.Old.Subject.CommonName))
	return p, nil
}

// aborted takes phase 1 back. A store cannot drop a pending version, so that a copy of
// the current key takes its place, after ca.pem is written and before the hosts: that
// they have a newer CA than there is here is what another --abort goes by.
func (v *caView) aborted() (*caPhase, error) {
	p := &caPhase{title: "The new CA is taken out again", held: v.held}
	switch v.Stage {
	case pki.Settled:
		if v.behind() || len(v.newer) > 0 {
			return p, nil
		}
		return nil, &inputError{errors.New("no rotation of the CA is under way, so there is nothing to abort")}
	case pki.Promoted, pki.Switched:
		return nil, &inputError{fmt.Errorf("%s signs already, so it cannot be aborted; pgfleet certs rotate-ca goes on, and after it another rotation can begin", v.New.Subject.CommonName)}
	case pki.Introduced:
		p.text = pki.EncodeBundle(pki.WithoutCA(v.held.bundle, v.New))
		p.says = append(p.says, fmt.Sprintf("- %s out of %s", v.New.Subject.CommonName, v.file))
	}
	key, err := v.held.current.Value(v.held.ref.Key)
	if err != nil {
		return nil, err
	}
	p.key, p.replace, p.last = &key, true, true
	p.says = append(p.says, fmt.Sprintf("- the pending version of %s: a copy of the current one takes its place", v.held.ref))
	return p, nil
}

// write does what is to be done here, the store first.
func (p *caPhase) write(ctx context.Context, s *session) (done []string, err error) {
	// Somebody else may have been here while it was asked.
	if err := p.stillHolds(ctx, s); err != nil {
		return nil, err
	}
	file := func(text []byte) error {
		if text == nil {
			return nil
		}
		if err := s.writeCA(text); err != nil {
			return fmt.Errorf("the file could not be written: %w", err)
		}
		done = append(done, s.fleet.CA.Certificate.Value+" is written; commit it")
		return nil
	}
	if p.last {
		if err := file(p.text); err != nil {
			return done, err
		}
	}
	if p.key != nil {
		id, err := s.putKey(ctx, p.held, *p.key, p.replace)
		if err != nil {
			return done, err
		}
		done = append(done, fmt.Sprintf("%s has a pending version", p.held.ref))
		if p.between != nil {
			p.promote = id
		}
	}
	if err := file(p.between); err != nil {
		return done, err
	}
	if p.promote != "" {
		if err := s.promoteKey(ctx, p.held, p.promote); err != nil {
			return done, err
		}
		done = append(done, fmt.Sprintf("version %s of %s is the current one", p.promote, p.held.ref))
	}
	if !p.last {
		if err := file(p.text); err != nil {
			return done, err
		}
	}
	// What is found from now on is what the hosts are changed for.
	s.replaced = nil
	now, err := s.holdCA(ctx)
	if err != nil {
		return done, err
	}
	p.held = now
	return done, nil
}

// stillHolds reports whether the store and the file are as they were: by the time that
// the lease is ours somebody else may have gone on with the rotation.
func (p *caPhase) stillHolds(ctx context.Context, s *session) error {
	replaced := s.replaced
	s.replaced = nil
	now, err := s.holdCA(ctx)
	s.replaced = replaced
	if err != nil {
		return fmt.Errorf("the CA could not be read again, so nothing was done: %w; pgfleet certs rotate-ca again once it can", err)
	}
	if !p.held.same(now) {
		return fmt.Errorf("somebody else has changed %s or the versions of %s since this was planned, so nothing was done; pgfleet certs rotate-ca looks again", s.fleet.CA.Certificate.Value, now.ref)
	}
	return nil
}

// byHand says what to do for a CA that pgfleet cannot make a successor of.
func byHand(ca *inventory.CA) error {
	switch {
	case ca.Sign.Node != nil:
		return fmt.Errorf("%s: the CA is that of a program (sign), so its rotation is made there: 1. add the new root to %s, behind the old one, and pgfleet apply; 2. once all clients have it, let the program sign with the new one, and pgfleet certs renew --force; 3. take the old root out, and pgfleet apply. pgfleet certs list shows who issued what", ca.Sign.Pos(), ca.Certificate.Value)
	case ca.Intermediate.Value != "":
		return fmt.Errorf("%s: the CA is an intermediate of somebody else's root, so its rotation is made there: 1. if the root changes, add the new one to %s, behind the old one, and pgfleet apply; 2. once all clients have it, put the new intermediate first in %s, keep the old one behind it, let its key be the current version of %s (the old key then is the previous one), and pgfleet apply; 3. once no certificate of the old one is in use, take it and the old root out, and pgfleet apply. pgfleet certs list shows who issued what", ca.Intermediate.Pos(), ca.Certificate.Value, ca.Intermediate.Value, ca.Key.Value)
	}
	return nil
}
