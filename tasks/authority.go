package tasks

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/records"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// An Authority is what the table [ca] names, read from the operator's machine. It
// is never modified.
type Authority struct {
	*inventory.CA
	Bundle    []*x509.Certificate // what is trusted: those of [ca].certificate, in its order
	BundlePEM []byte              // that file, as it is
	Issuer    Issuer
	Signing   *x509.Certificate    // whose key signs; nil where a program does
	Chain     []*x509.Certificate  // those of [ca].intermediate, in its order
	Revoked   []records.Revocation // all that revoked.toml says

	takesBack bool // see Options.TakeBackCA
}

// An Issuer says how the fleet's CA has a request signed.
type Issuer struct {
	Chain []byte      // PEM: the certificate that signs and those above it; nil where a program signs
	Key   secrets.Ref // its key; zero where a program signs
	Sign  []string    // that program and its arguments; nil where there is a key
	// Timeout is how long the program may take.
	Timeout time.Duration
	Bundle  []byte // PEM: what is trusted
}

// LoadAuthority reads the files that [ca] names; nil for a fleet without the table.
// Every mistake is returned, with its position.
func LoadAuthority(fleet *inventory.Fleet, local Local) (*Authority, inventory.Errors) {
	ca := fleet.CA
	if ca == nil {
		return nil, nil
	}
	var errs inventory.Errors
	a := &Authority{CA: ca, Issuer: Issuer{Sign: ca.Sign.Value, Timeout: ca.Timeout}}
	a.BundlePEM, a.Bundle = loadCertificates("certificate", ca.Certificate, local, "; \"pgfleet certs init\" makes a CA", &errs)
	a.Issuer.Bundle = a.BundlePEM
	if len(a.Bundle) > 0 && a.Issuer.Sign == nil {
		a.Signing, a.Issuer.Chain = a.Bundle[0], a.BundlePEM
	}
	if ca.Intermediate.Value != "" {
		text, chain := loadCertificates("intermediate", ca.Intermediate, local, "", &errs)
		if len(chain) > 0 && len(a.Bundle) > 0 {
			a.Signing, a.Chain, a.Issuer.Chain = chain[0], chain, text
			if err := pki.CheckChain(chain, a.Bundle); err != nil {
				errs.Add(ca.Intermediate.Pos(), "intermediate: %s: %v", ca.Intermediate.Value, err)
			}
		}
	}
	a.Revoked = loadRevoked(fleet, local, &errs)
	if ca.Key.Value != "" {
		var err error
		if a.Issuer.Key, err = secrets.ParseRef(ca.Key.Value); err != nil {
			errs.Add(ca.Key.Pos(), "key: %v", err)
		}
	}
	return a, errs
}

// loadCertificates reads a PEM file of certificates of CAs.
func loadCertificates(key string, file inventory.Positioned[string], local Local, mend string, errs *inventory.Errors) ([]byte, []*x509.Certificate) {
	if file.Value == "" {
		return nil, nil // reported while loading
	}
	text, err := local(file.Value)
	if err != nil {
		errs.Add(file.Pos(), "%s: %v%s", key, err, mend)
		return nil, nil
	}
	certs, err := pki.ParseBundle(text)
	if err != nil {
		errs.Add(file.Pos(), "%s: %s: %v", key, file.Value, err)
		return nil, nil
	}
	return text, certs
}

// loadRevoked reads what is revoked; nothing where there is no such file.
func loadRevoked(fleet *inventory.Fleet, local Local, errs *inventory.Errors) []records.Revocation {
	name := path.Join(fleet.CA.Records, records.RevokedFile)
	text, err := local(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		errs.Add(fleet.CA.Certificate.Pos(), "records: %v", err)
		return nil
	}
	list, err := records.ParseRevoked(fleet.File(name), text)
	if err != nil {
		*errs = append(*errs, asErrors(fleet.CA.Certificate.Pos(), err)...)
	}
	return list
}

// CAs returns the certificates of all CAs whose signatures count, each once: those
// that are trusted, and the intermediates.
func (a *Authority) CAs() []*x509.Certificate {
	all := slices.Clone(a.Bundle)
	for _, c := range a.Chain {
		if !slices.ContainsFunc(all, c.Equal) {
			all = append(all, c)
		}
	}
	return all
}

// IsRevoked reports whether revoked.toml has a certificate.
func (a *Authority) IsRevoked(l pki.Leaf) bool {
	signers := slices.DeleteFunc(append(a.CAs(), l.After()...), func(c *x509.Certificate) bool { return !l.SignedBy(c) })
	return slices.ContainsFunc(a.Revoked, func(r records.Revocation) bool {
		return !r.Restored() && r.Serial == l.Serial && slices.ContainsFunc(signers, func(c *x509.Certificate) bool { return r.Issuer == records.Issuer(c) })
	})
}

// WantCRL returns what the list of a CA is to hold.
func (a *Authority) WantCRL(ca *x509.Certificate, now time.Time) pki.WantCRL {
	want := pki.WantCRL{CA: ca, Now: now}
	issuer := records.Issuer(ca)
	for _, r := range a.Revoked {
		switch {
		case r.Issuer != issuer:
		case r.Restored():
			want.Restored = append(want.Restored, r.Number())
		default:
			want.Revoked = append(want.Revoked, pki.Revocation{Serial: r.Number(), At: r.At, Reason: r.ReasonCode()})
		}
	}
	return want
}

// older reports whether a CA is an intermediate that another one has followed: it
// stands behind the one that signs, and is not above it.
func (a *Authority) older(ca *x509.Certificate) bool {
	return slices.ContainsFunc(a.Chain, ca.Equal) && !slices.ContainsFunc(pki.Linked(a.Chain), ca.Equal) && !slices.ContainsFunc(a.Bundle, ca.Equal)
}

// Signers are the CA that signs and those above it, a root included; none where a program
// signs, which knows what it may sign.
func (a *Authority) Signers() []*x509.Certificate {
	if a.Signing == nil {
		return nil
	}
	all := []*x509.Certificate{a.Signing}
	if len(a.Chain) > 0 {
		all = pki.Linked(a.Chain)
	}
	last := all[len(all)-1]
	for _, root := range a.Bundle {
		if !slices.ContainsFunc(all, root.Equal) && last.CheckSignatureFrom(root) == nil {
			return append(slices.Clone(all), root)
		}
	}
	return all
}

// first is the CA that signs here, or with a program the first that is trusted.
func (a *Authority) first() *x509.Certificate {
	if a.Signing != nil {
		return a.Signing
	}
	return a.Bundle[0]
}

// NewerCA returns a CA among those that a host trusts which is not here and is newer than
// the one that signs here; nil if there is none. Whoever has brought it there had a newer
// file than this one.
func (a *Authority) NewerCA(trusted []*x509.Certificate) *x509.Certificate {
	for _, c := range trusted {
		if !slices.ContainsFunc(a.CAs(), c.Equal) && c.NotBefore.After(a.first().NotBefore) {
			return c
		}
	}
	return nil
}

// NewerSigner returns the name of who signed a certificate on a host, if that is a CA
// which is not here and follows on the one that signs here; "" otherwise. A root is not
// in the file, so that it is known by its name alone, which says when it was made.
func (a *Authority) NewerSigner(l pki.Leaf) string {
	if slices.ContainsFunc(a.CAs(), l.SignedBy) {
		return ""
	}
	for _, c := range l.After() {
		if l.SignedBy(c) && a.NewerCA([]*x509.Certificate{c}) != nil && pki.CheckChain(append([]*x509.Certificate{c}, pki.WithoutCA(l.After(), c)...), a.Bundle) == nil {
			return c.Subject.CommonName
		}
	}
	return a.laterName(l.IssuerName(), l.NotBefore)
}

// laterName returns the name of who signed something, if rotate-ca gives such a one to a
// CA that follows on the one that signs here, which was made before that was signed.
func (a *Authority) laterName(name string, signed time.Time) string {
	if pki.LaterName(name, a.first().Subject.CommonName) && signed.After(pki.Made(a.first())) {
		return name
	}
	return ""
}

// newerLists is an error if there is a list of a CA that is not here and is newer.
func (a *Authority) newerLists(lists []pki.CRL, host string) error {
	for _, c := range lists {
		if slices.ContainsFunc(a.CAs(), c.SignedBy) || a.takesBack {
			continue
		}
		if name := a.laterName(strings.TrimPrefix(c.Issuer, "CN="), c.ThisUpdate); name != "" {
			return a.Outdated(host, name)
		}
	}
	return nil
}

// Outdated says that a host has something of a newer CA than there is here.
func (a *Authority) Outdated(host, name string) error {
	file := a.Certificate.Value
	if a.Intermediate.Value != "" {
		file += " or " + a.Intermediate.Value
	}
	return fmt.Errorf("%s has a newer CA, %s: %s here is older than what was rolled out: pull the newest (if that CA was taken out on purpose, pgfleet certs rotate-ca --abort takes it from the hosts)", host, name, file)
}

// roots are what a chain in a file has to lead to; nil where the certificate that
// signs is a root itself.
func (a *Authority) roots() []*x509.Certificate {
	if a.Signing != nil && len(a.Chain) == 0 {
		return nil
	}
	return a.Bundle
}

// needsCA is what to say of a task that needs [ca] where there is none.
const needsCA = `there is no table [ca] in fleet.toml, which says who signs; "pgfleet certs init" makes a CA and writes it`
