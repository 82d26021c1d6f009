package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/records"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A revoking is what certs revoke is asked for.
type revoking struct {
	what        string
	reason      string
	endSessions bool
}

// A revokable is a certificate that can be revoked.
type revokable struct {
	where  string
	serial string // hexadecimal
	leaf   *pki.Leaf
	issuer *x509.Certificate
	listed pki.Revocation // without leaf: what the list of a host says
}

// String names the certificate, as far as it is known.
func (f revokable) String() string {
	ca := clean(f.issuer.Subject.CommonName)
	if f.leaf == nil {
		return fmt.Sprintf("%s: serial %s, of %s, is in the revocation list there", clean(f.where), f.serial, ca)
	}
	return fmt.Sprintf("%s: %s, serial %s, of %s, until %s", clean(f.where), clean(f.leaf.Subject), f.serial, ca, day(f.leaf.NotAfter))
}

func (a *app) certsRevokeCommand() *cobra.Command {
	x := applying{app: a}
	var r revoking
	cmd := &cobra.Command{
		Use:   "revoke ROLE | SERIAL | FILE",
		Short: "Revoke certificates, and give every host the revocation lists that say so",
		Long: `Revoke adds certificates to revoked.toml, in the folder that [ca].records names, and
applies the tasks of the kind crl_file: each host gets new revocation lists, and its
server loads them. It is for

  ROLE    all certificates of the role that have not expired, exported or on hosts
  SERIAL  the one with that serial number, in hexadecimal digits, as certs list --json
          and openssl x509 -serial print it
  FILE    the one in a PEM file

A server refuses a certificate when a session begins. Sessions that there are already
go on, unless --end-sessions ends those that logged in with one of the certificates.`,
		Example: `  pgfleet certs revoke reporting --reason keyCompromise --end-sessions
  pgfleet certs revoke ./stolen.crt`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &inputError{errors.New("which certificate? want one role, serial number or file")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			x.lock.Why = commandLine(cmd, args)
			r.what = args[0]
			if a.limit != "" {
				return &inputError{errors.New("--limit: a certificate is revoked on all hosts; leave it out")}
			}
			if r.reason != "" && !slices.Contains(records.Reasons(), r.reason) {
				return &inputError{fmt.Errorf("--reason: %q is none of %s%s", r.reason, strings.Join(records.Reasons(), ", "), inventory.DidYouMean(r.reason, records.Reasons()))}
			}
			return r.run(cmd.Context(), &x)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.reason, "reason", "", "why, for the revocation list: "+strings.Join(records.Reasons(), ", "))
	f.BoolVar(&r.endSessions, "end-sessions", false, "end the sessions that logged in with one of the certificates")
	x.flags(cmd, "--yes")
	if err := cmd.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions(records.Reasons(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag's name is misspelt above
	}
	return cmd
}

// run asks, writes revoked.toml, and applies. The file is written before the plan is
// made: from then on every apply and every renewal brings the lists to the hosts, so
// that what an interruption left undone is not forgotten.
func (r revoking) run(ctx context.Context, x *applying) error {
	if err := x.check(); err != nil {
		return err
	}
	found, err := r.record(ctx, x)
	if err != nil {
		return err
	}
	x.certs = &certsRun{command: "certs renew", kinds: []string{"crl_file"}}
	applied := x.apply(ctx)
	ended := r.sessions(ctx, x.app, found)
	switch {
	case applied != nil:
		return applied
	case ended != nil:
		return ended
	}
	return nil
}

// record finds the certificates, asks, and adds them to revoked.toml.
func (r revoking) record(ctx context.Context, x *applying) ([]revokable, error) {
	a := x.app
	s, err := a.open(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := (&certsRun{}).prepare(ctx, s, nil); err != nil {
		return nil, err
	}
	if s.fleet.CA.Sign.Node != nil {
		return nil, &inputError{fmt.Errorf("%s: a program signs, so its CA revokes: revoke the certificate there, and let the file of crl_file's `with` be its new list", s.fleet.CA.Sign.Pos())}
	}
	v, err := s.viewCA(ctx, s.instances, false)
	if err != nil {
		return nil, err
	}
	found, err := r.find(s, v)
	if err != nil {
		return nil, err
	}
	ui := a.ui
	now := time.Now()
	var list []records.Revocation
	for _, f := range found {
		ui.Note(f.String())
		e := records.Revocation{Serial: f.serial, Issuer: records.Issuer(f.issuer), At: now, Reason: r.reason}
		if f.leaf != nil {
			e.Subject = f.leaf.Subject
		} else {
			e.At, e.Reason = f.listed.At, cmp.Or(r.reason, records.ReasonOf(f.listed.Reason))
		}
		list = append(list, e)
	}
	for _, w := range v.withoutLists() {
		ui.Note(clean(w))
	}
	if !x.yes {
		answer, err := ui.Ask(ctx, fmt.Sprintf("\nRevoke %s? That cannot be taken back. Only 'yes' is taken for a yes: ", count(len(found), "certificate", "certificates")))
		if err != nil {
			return nil, err
		}
		if answer != "yes" {
			return nil, errors.New("nothing was changed")
		}
		x.yes = true // it was asked
	}
	added, err := records.Open(s.fleet.File(s.fleet.CA.Records)).Revoke(list...)
	if err != nil {
		return nil, fmt.Errorf("nothing was revoked: %w", err)
	}
	file := filepath.Join(s.fleet.CA.Records, records.RevokedFile)
	if len(added) == 0 {
		ui.Note("all of them stand in " + file + " already")
	} else {
		ui.Note(count(len(added), "certificate is", "certificates are") + " added to " + file + "; commit it")
	}
	return found, nil
}

// find returns the certificates that are meant.
func (r revoking) find(s *session, v *caView) ([]revokable, error) {
	signers := s.authority(v.held).CAs()
	var list []revokable
	add := func(where string, leaf pki.Leaf) error {
		if leaf.IsCA {
			return fmt.Errorf("that is a CA, %s; certs rotate-ca replaces it", leaf.Subject)
		}
		i := slices.IndexFunc(signers, leaf.SignedBy)
		if i < 0 {
			return fmt.Errorf("%s: it was signed by %s, which is no CA of this fleet", where, leaf.Issuer)
		}
		if !slices.ContainsFunc(list, func(o revokable) bool { return o.leaf.Fingerprint == leaf.Fingerprint }) {
			list = append(list, revokable{where: where, serial: leaf.Serial, leaf: &leaf, issuer: signers[i]})
		}
		return nil
	}
	if text, err := os.ReadFile(r.what); err == nil {
		leaf, err := pki.Inspect(text)
		if err == nil {
			err = add(r.what, leaf)
		}
		if err != nil {
			return nil, &inputError{fmt.Errorf("%s: %w", r.what, err)}
		}
		return list, nil
	} else if strings.ContainsRune(r.what, os.PathSeparator) {
		return nil, &inputError{err}
	}
	serial := ""
	if n, ok := new(big.Int).SetString(strings.ReplaceAll(strings.ToLower(r.what), ":", ""), 16); ok {
		serial = n.Text(16)
	}
	all := v.exported
	folder, err := records.Open(s.fleet.File(s.fleet.CA.Records)).List() // those that are revoked as well
	if err != nil {
		return nil, &inputError{err}
	}
	for _, c := range folder {
		all = append(all, pki.FoundLeaf{Where: filepath.Join(s.fleet.CA.Records, c.File), Leaf: c.Leaf})
	}
	for _, p := range v.places {
		for _, l := range p.Leaves {
			all = append(all, pki.FoundLeaf{Where: p.Name + ": " + l.Where, Leaf: l.Leaf})
		}
	}
	var roles []string
	for _, f := range all {
		client := !slices.Contains(f.Leaf.Usages, pki.Server)
		if client {
			roles = append(roles, f.Leaf.CommonName)
		}
		// By its role only what has not expired: a list need not hold the others.
		if f.Leaf.Serial == serial || client && f.Leaf.CommonName == r.what && f.Leaf.Left(v.now) > 0 {
			if err := add(f.Where, f.Leaf); err != nil {
				return nil, err
			}
		}
	}
	if len(list) == 0 && serial != "" {
		list = listedAs(serial, v.places, signers)
	}
	if len(list) == 0 {
		away := ""
		if err := v.known(); err != nil {
			away = "; not all hosts could be asked: " + err.Error()
		}
		return nil, &inputError{fmt.Errorf("there is no certificate of the role or with the serial number %q, exported or on a host%s%s; one that is known nowhere can be revoked by its file", r.what, inventory.DidYouMean(r.what, roles), away)}
	}
	return list, nil
}

// listedAs finds a serial number in the revocation lists of the hosts, where somebody else
// has revoked it.
func listedAs(serial string, places []pki.RotationPlace, signers []*x509.Certificate) []revokable {
	var found []revokable
	for _, p := range places {
		for _, f := range p.Lists {
			for _, c := range f.Lists {
				i, n := slices.IndexFunc(signers, c.SignedBy), slices.Index(c.Revoked, serial)
				if i >= 0 && n >= 0 && !slices.ContainsFunc(found, func(o revokable) bool { return o.issuer == signers[i] }) {
					found = append(found, revokable{where: p.Name + ": " + f.Path, serial: serial, issuer: signers[i], listed: c.Revocations()[n]})
				}
			}
		}
	}
	return found
}

// withoutLists names the instances that ask for client certificates and go by no
// revocation list.
func (v *caView) withoutLists() []string {
	var said []string
	for _, k := range v.asked {
		if k.State == nil || k.Err != nil {
			continue
		}
		if rules := k.State.WantsClientCertificates(); len(rules) > 0 && k.State.ListsOfServer() == "" {
			said = append(said, fmt.Sprintf("%s: the rule %q lets clients in by their certificate, and no ssl_crl_file is set: a revoked one is let in there as well. A task of the kind crl_file and that setting end this", k.Instance.ID(), rules[0]))
		}
	}
	return said
}

// sessions ends the sessions that began with one of the certificates, or counts them.
func (r revoking) sessions(ctx context.Context, a *app, found []revokable) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	var serials []string
	for _, f := range found {
		n, _ := new(big.Int).SetString(f.serial, 16)
		serials = append(serials, n.String())
	}
	query := "FROM pg_catalog.pg_stat_ssl WHERE client_serial IN (" + strings.Join(serials, ", ") + ")"
	if r.endSessions {
		query = "SELECT count(*) FILTER (WHERE pg_catalog.pg_terminate_backend(pid)) " + query
	} else {
		query = "SELECT count(*) " + query
	}
	failed := false
	for _, in := range s.instances {
		n, err := s.countSessions(ctx, in, query)
		switch {
		case err != nil:
			failed = true
			a.ui.Note(fmt.Sprintf("%s: its sessions are not known: %s", in.ID(), clean(err.Error())))
		case n > 0 && r.endSessions:
			a.ui.Note(fmt.Sprintf("%s: %s ended", in.ID(), count(n, "session", "sessions")))
		case n > 0:
			a.ui.Note(fmt.Sprintf("%s: %s with a revoked certificate; --end-sessions ends what is going on", in.ID(), count(n, "session goes on", "sessions go on")))
		}
	}
	if failed {
		return errHostFailed
	}
	return nil
}

func (s *session) countSessions(ctx context.Context, in inventory.Instance, query string) (n int, err error) {
	host, err := s.run.Conn(ctx, in.Host)
	if err != nil {
		return 0, err
	}
	conn, err := host.Postgres(ctx, transport.Endpoint{Port: in.Port, Database: "postgres"})
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, query, pgx.QueryExecModeSimpleProtocol).Scan(&n)
	return n, err
}
