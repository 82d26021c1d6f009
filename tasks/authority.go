package tasks

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"path"
	"slices"
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
		return r.Serial == l.Serial && slices.ContainsFunc(signers, func(c *x509.Certificate) bool { return r.Issuer == records.Issuer(c) })
	})
}

// RevokedOf returns what is revoked of a CA's certificates, for its list.
func (a *Authority) RevokedOf(ca *x509.Certificate) []pki.Revocation {
	var list []pki.Revocation
	issuer := records.Issuer(ca)
	for _, r := range a.Revoked {
		if r.Issuer == issuer {
			list = append(list, pki.Revocation{Serial: r.Number(), At: r.At, Reason: r.ReasonCode()})
		}
	}
	return list
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
