package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

const blockCRL = "X509 CRL"

// DefaultCRLValidity is how long a revocation list is valid unless told otherwise:
// 30 days.
const DefaultCRLValidity = 30 * 24 * time.Hour

// A Revocation is a certificate that its CA revokes.
type Revocation struct {
	Serial *big.Int
	At     time.Time // when it was revoked
	Reason int       // CRLReason of RFC 5280, 5.3.1; 0 for none
}

// RevocationList returns a certificate revocation list (RFC 5280, 5) of the CA, as
// PEM. It is valid for the lifetime from now on, DefaultCRLValidity if that is zero,
// backdated as certificates are, and never for longer than the CA. Its number grows
// with the time.
func (ca *CA) RevocationList(revoked []Revocation, now time.Time, lifetime time.Duration) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("revocation list of %v: %w", ca, err)
	}
	switch {
	case now.IsZero():
		return fail(errors.New("no time is given"))
	case lifetime < 0:
		return fail(fmt.Errorf("the lifetime %v is negative", lifetime))
	case lifetime == 0:
		lifetime = DefaultCRLValidity
	case ca.cert.KeyUsage != 0 && ca.cert.KeyUsage&x509.KeyUsageCRLSign == 0:
		return fail(errors.New("its certificate may not sign revocation lists (key usage cRLSign)"))
	}
	from, until, err := ca.valid(now, lifetime)
	if err != nil {
		return fail(err)
	}
	list := &x509.RevocationList{Number: big.NewInt(now.UnixMilli()), ThisUpdate: from, NextUpdate: until}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: r.Serial, RevocationTime: r.At.UTC(), ReasonCode: r.Reason,
		})
	}
	// crypto/x509 wants both, where RFC 5280 is content without: an old root may
	// have neither.
	issuer := *ca.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	if len(issuer.SubjectKeyId) == 0 {
		id := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
		issuer.SubjectKeyId = id[:20]
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, &issuer, ca.key())
	if err != nil {
		return fail(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockCRL, Bytes: der}), nil
}

// A CRL holds the facts of a revocation list.
type CRL struct {
	Issuer     string
	Number     *big.Int // nil where it has none
	ThisUpdate time.Time
	NextUpdate time.Time
	Revoked    []string // serial numbers, hexadecimal, lower case, in the list's order

	list *x509.RevocationList
}

// SignedBy reports whether the list is that of a CA.
func (c CRL) SignedBy(ca *x509.Certificate) bool {
	return bytes.Equal(c.list.RawIssuer, ca.RawSubject) && c.list.CheckSignatureFrom(ca) == nil
}

// PEM returns the list as it is.
func (c CRL) PEM() []byte { return pem.EncodeToMemory(&pem.Block{Type: blockCRL, Bytes: c.list.Raw}) }

// Revocations returns what the list holds, in its order.
func (c CRL) Revocations() []Revocation {
	var all []Revocation
	for _, e := range c.list.RevokedCertificateEntries {
		all = append(all, Revocation{Serial: e.SerialNumber, At: e.RevocationTime, Reason: e.ReasonCode})
	}
	return all
}

// Equal reports whether two lists are the same to the letter.
func (c CRL) Equal(other CRL) bool { return bytes.Equal(c.list.Raw, other.list.Raw) }

// Left returns the time until NextUpdate, negative once it has passed.
func (c CRL) Left(now time.Time) time.Duration { return c.NextUpdate.Sub(now) }

// InspectCRL returns the facts of the revocation lists in a PEM file, in its order.
// It is an error if there is none, and if one cannot be read; the others are returned all
// the same.
func InspectCRL(pemBytes []byte) ([]CRL, error) {
	var lists []CRL
	var errs []error
	for {
		var block *pem.Block
		block, pemBytes = pem.Decode(pemBytes)
		switch {
		case block == nil && len(lists)+len(errs) == 0:
			return nil, errors.New("there is no PEM block of the type X509 CRL")
		case block == nil:
			return lists, errors.Join(errs...)
		case block.Type != blockCRL:
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c := CRL{Issuer: list.Issuer.String(), Number: list.Number, ThisUpdate: list.ThisUpdate.UTC(), NextUpdate: list.NextUpdate.UTC(), list: list}
		for _, e := range list.RevokedCertificateEntries {
			c.Revoked = append(c.Revoked, e.SerialNumber.Text(16))
		}
		lists = append(lists, c)
	}
}

// A WantCRL is what the revocation list of a CA should be.
type WantCRL struct {
	CA       *x509.Certificate
	Revoked  []Revocation
	Restored []*big.Int // serial numbers whose revocation was taken back
	Now      time.Time  // must not be zero
}

// The reasons for which a new revocation list is due, beside those of certificates.
const (
	NoList       ReasonCode = "no-list"
	OtherRevoked ReasonCode = "other-revoked"
)

// JudgeCRL returns the reasons why a new list of a CA is due, none if the newest of
// the lists that are its own is fine: it holds what is revoked and nothing that was taken
// back, and more than half of its time is left. What else it holds is no reason, see
// [KeepRevoked]. The newest is the one with the latest ThisUpdate, as for OpenSSL
// (get_crl_sk in crypto/x509/x509_vfy.c). Of a CA that has expired none is due, because its
// certificates are refused anyway. It panics if want lacks the time or the CA.
func JudgeCRL(lists []CRL, want WantCRL) []Reason {
	if want.Now.IsZero() || want.CA == nil {
		panic("pki: JudgeCRL needs the time and the CA")
	}
	if !want.Now.Before(want.CA.NotAfter) {
		return nil
	}
	name := want.CA.Subject.CommonName
	own := NewestCRL(lists, want.CA)
	if own == nil {
		return []Reason{{NoList, fmt.Sprintf("there is no list of %s", name)}}
	}
	var reasons []Reason
	add := func(code ReasonCode, format string, args ...any) {
		reasons = append(reasons, Reason{code, fmt.Sprintf(format, args...)})
	}
	left := own.Left(want.Now)
	switch {
	case want.Now.Before(own.ThisUpdate):
		add(NotYetValid, "the list of %s is valid from %s only", name, date(own.ThisUpdate))
	case left < 0:
		add(Expired, "the list of %s has expired on %s, and every client certificate is refused", name, date(own.NextUpdate))
	case left <= own.NextUpdate.Sub(own.ThisUpdate)/2:
		add(Expiring, "the list of %s expires on %s", name, date(own.NextUpdate))
	}
	var missing, back []string
	for _, r := range want.Revoked {
		if s := r.Serial.Text(16); !slices.Contains(own.Revoked, s) {
			missing = append(missing, s)
		}
	}
	for _, n := range want.Restored {
		if s := n.Text(16); slices.Contains(own.Revoked, s) {
			back = append(back, s)
		}
	}
	if len(missing) > 0 {
		add(OtherRevoked, "%s is not in the list of %s", strings.Join(missing, ", "), name)
	}
	if len(back) > 0 {
		add(OtherRevoked, "%s is in the list of %s, and its revocation was taken back", strings.Join(back, ", "), name)
	}
	return reasons
}

// NewestCRL returns the list of a CA that counts, the one with the latest ThisUpdate; nil
// if there is none.
func NewestCRL(lists []CRL, ca *x509.Certificate) *CRL {
	var own *CRL
	for _, c := range lists {
		if c.SignedBy(ca) && (own == nil || c.ThisUpdate.After(own.ThisUpdate)) {
			own = &c
		}
	}
	return own
}

// KeepRevoked returns what lists of a CA hold beyond what is revoked and what was taken
// back, each once. Who revoked it may have been somebody else, whose file is not here yet:
// a new list has to hold it as well, or it would let the certificate in again.
func KeepRevoked(lists []CRL, want WantCRL) []Revocation {
	var kept []Revocation
	for _, c := range lists {
		if !c.SignedBy(want.CA) {
			continue
		}
		for _, r := range c.Revocations() {
			same := func(o Revocation) bool { return o.Serial.Cmp(r.Serial) == 0 }
			if slices.ContainsFunc(want.Revoked, same) || slices.ContainsFunc(kept, same) ||
				slices.ContainsFunc(want.Restored, func(n *big.Int) bool { return n.Cmp(r.Serial) == 0 }) {
				continue
			}
			kept = append(kept, r)
		}
	}
	return kept
}
