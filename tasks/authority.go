package tasks

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
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
	Signing   *x509.Certificate // whose key signs; nil where a program does
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
			a.Signing, a.Issuer.Chain = chain[0], text
			if err := pki.CheckChain(chain, a.Bundle); err != nil {
				errs.Add(ca.Intermediate.Pos(), "intermediate: %s: %v", ca.Intermediate.Value, err)
			}
		}
	}
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

// same reports whether two PEM texts hold the same certificates in the same order.
func samePEM(a, b []byte) bool {
	for {
		x, restA := pem.Decode(a)
		y, restB := pem.Decode(b)
		if x == nil || y == nil {
			return x == nil && y == nil
		}
		if x.Type != y.Type || !bytes.Equal(x.Bytes, y.Bytes) {
			return false
		}
		a, b = restA, restB
	}
}

// needsCA is what to say of a task that needs [ca] where there is none.
const needsCA = `there is no table [ca] in fleet.toml, which says who signs; "pgfleet certs init" makes a CA and writes it`
