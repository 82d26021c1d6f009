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

// Equal reports whether two lists are the same to the letter.
func (c CRL) Equal(other CRL) bool { return bytes.Equal(c.list.Raw, other.list.Raw) }

// Left returns the time until NextUpdate, negative once it has passed.
func (c CRL) Left(now time.Time) time.Duration { return c.NextUpdate.Sub(now) }

// InspectCRL returns the facts of the revocation lists in a PEM file, in its order.
// It is an error if there is none.
func InspectCRL(pemBytes []byte) ([]CRL, error) {
	var lists []CRL
	for {
		var block *pem.Block
		block, pemBytes = pem.Decode(pemBytes)
		switch {
		case block == nil && len(lists) == 0:
			return nil, errors.New("there is no PEM block of the type X509 CRL")
		case block == nil:
			return lists, nil
		case block.Type != blockCRL:
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
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
	CA      *x509.Certificate
	Revoked []Revocation
	Now     time.Time // must not be zero
}

// The reasons for which a new revocation list is due, beside those of certificates.
const (
	NoList       ReasonCode = "no-list"
	OtherRevoked ReasonCode = "other-revoked"
)

// JudgeCRL returns the reasons why a new list of a CA is due, none if the newest of
// the lists that are its own is fine: it holds what is revoked and nothing else, and
// more than half of its time is left. The newest is the one with the latest ThisUpdate,
// as for OpenSSL (get_crl_sk in crypto/x509/x509_vfy.c). It panics if want lacks the time or the CA.
func JudgeCRL(lists []CRL, want WantCRL) []Reason {
	if want.Now.IsZero() || want.CA == nil {
		panic("pki: JudgeCRL needs the time and the CA")
	}
	name := want.CA.Subject.CommonName
	var own *CRL
	for _, c := range lists {
		if c.SignedBy(want.CA) && (own == nil || c.ThisUpdate.After(own.ThisUpdate)) {
			own = &c
		}
	}
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
	var wanted []string
	for _, r := range want.Revoked {
		wanted = append(wanted, r.Serial.Text(16))
	}
	missing, extra := without(wanted, own.Revoked), without(own.Revoked, wanted)
	if len(missing) > 0 {
		add(OtherRevoked, "%s is not in the list of %s", strings.Join(missing, ", "), name)
	}
	if len(extra) > 0 {
		add(OtherRevoked, "%s is in the list of %s and not revoked any more", strings.Join(extra, ", "), name)
	}
	return reasons
}

// without returns what is in a and not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
