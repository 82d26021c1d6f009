package pki

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// A RotationStage is how far the change from one CA to the next is.
type RotationStage string

// The stages, in their order. Between two of them stands one write: of the secret store
// or of the file with the CA's certificates.
const (
	// Settled: one CA, and no other key is pending.
	Settled RotationStage = "settled"
	// Begun: the new CA's key is pending in the store; no certificate of it stands in the
	// file yet.
	Begun RotationStage = "begun"
	// Introduced: the new CA's certificate stands in the file, behind the one that signs.
	Introduced RotationStage = "introduced"
	// Promoted: the new CA's key is the store's current one, and the old certificate still
	// is the first, so that the previous key signs.
	Promoted RotationStage = "promoted"
	// Switched: the new CA signs, and the old one is still trusted.
	Switched RotationStage = "switched"
)

// CAKeys are the keys that a secret store holds of the fleet's CA, each as the SHA-256
// of its SubjectPublicKeyInfo, see [Leaf.PublicKeySHA256]; "" where there is none.
// Earlier ones are those that were current once, as far as the store keeps them.
type CAKeys struct {
	Current, Pending string
	Earlier          []string
}

// A Rotation is a change from one CA to the next, as it is found.
type Rotation struct {
	Stage RotationStage
	// Old is the CA that is being left, or the only one; never nil.
	Old *x509.Certificate
	// New is the CA that is being gone over to; nil where there is none, or no
	// certificate of it yet.
	New *x509.Certificate
}

// FindRotation says how far a rotation is, from the certificates of the file, whose
// first one signs, and the keys in the store. Certificates whose key the store does not
// hold are trusted only, and no part of a rotation. It is an error if the two do not fit
// together; the message says what to do.
func FindRotation(bundle []*x509.Certificate, keys CAKeys) (Rotation, error) {
	if len(bundle) == 0 {
		return Rotation{}, errors.New("there is no certificate of a CA")
	}
	of := func(key string) *x509.Certificate {
		i := slices.IndexFunc(bundle, func(c *x509.Certificate) bool { return key != "" && KeyOf(c) == key })
		if i < 0 {
			return nil
		}
		return bundle[i]
	}
	first := bundle[0]
	current, pending := of(keys.Current), of(keys.Pending)
	left := func(c *x509.Certificate) bool {
		return slices.Contains(keys.Earlier, KeyOf(c)) && KeyOf(c) != keys.Current && KeyOf(c) != keys.Pending
	}
	switch {
	case first == current:
		old := slices.IndexFunc(bundle, left)
		switch {
		case old >= 0:
			return Rotation{Stage: Switched, Old: bundle[old], New: first}, nil
		case pending != nil && pending != first:
			return Rotation{Stage: Introduced, Old: first, New: pending}, nil
		case keys.Pending != "" && keys.Pending != keys.Current:
			return Rotation{Stage: Begun, Old: first}, nil
		}
		return Rotation{Stage: Settled, Old: first}, nil
	case left(first):
		if current != nil {
			return Rotation{Stage: Promoted, Old: first, New: current}, nil
		}
		return Rotation{}, NewerKey(first)
	}
	return Rotation{}, fmt.Errorf("the CA key in the secret store does not belong to the first certificate, of %q: put the certificate that it belongs to first, or the right key into the store", first.Subject)
}

// NewerKey says that the secret store has gone over to another CA, of which there is no
// certificate here.
func NewerKey(ca *x509.Certificate) error {
	return fmt.Errorf("the secret store holds a newer CA key than that of %q, and its certificate is not in the file: another operator has rotated the CA, so pull the newest ca.pem (it belongs into version control)", ca.Subject)
}

// Made returns when a CA was made: the beginning of its validity without the time that
// it was backdated by.
func Made(ca *x509.Certificate) time.Time {
	return ca.NotBefore.Add(backdate(ca.NotAfter.Sub(ca.NotBefore)))
}

// KeyOf returns the SHA-256 of a certificate's SubjectPublicKeyInfo, see
// [Leaf.PublicKeySHA256].
func KeyOf(cert *x509.Certificate) string { return hexSHA256(cert.RawSubjectPublicKeyInfo) }

// PublicKeyOf is [KeyOf] for a private key in PEM form.
func PublicKeyOf(keyPEM secrets.Secret) (string, error) {
	key, err := parseKey(keyPEM)
	if err != nil {
		return "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", err
	}
	return hexSHA256(spki), nil
}

// NewKey makes a key for a CA (ECDSA P-256), in PKCS #8 form as PEM.
func NewKey() (secrets.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return secrets.Secret{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return secrets.Secret{}, err
	}
	return secrets.New(pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})), nil
}

// Successor makes the self-signed certificate of the CA that follows the first of a
// bundle, for a key that exists: with the same lifetime and name constraints, and a name
// that no other CA of the bundle has, because a revocation list is found by its issuer's
// name.
func Successor(bundle []*x509.Certificate, keyPEM secrets.Secret, now time.Time) (*x509.Certificate, error) {
	old := bundle[0]
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the new CA: %w", err)
	}
	lifetime := old.NotAfter.Sub(old.NotBefore)
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: nextName(bundle, now)},
		NotBefore:             now.Add(-backdate(lifetime)),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,

		PermittedDNSDomainsCritical: old.PermittedDNSDomainsCritical,
		PermittedDNSDomains:         old.PermittedDNSDomains,
		ExcludedDNSDomains:          old.ExcludedDNSDomains,
		PermittedIPRanges:           old.PermittedIPRanges,
		ExcludedIPRanges:            old.ExcludedIPRanges,
	}
	cert, err := create(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("the new CA: %w", err)
	}
	return cert, nil
}

// madeIn is how a name ends that says when its CA was made: "prod CA 2026", "prod CA
// 2026-2".
var madeIn = regexp.MustCompile(` \d{4}(-\d+)?$`)

func nextName(bundle []*x509.Certificate, now time.Time) string {
	stem := bundle[0].Subject.CommonName
	if stem == "" {
		stem = "CA"
	}
	stem = madeIn.ReplaceAllString(stem, "")
	if most := maxCommonName - len(" 2026-99"); len(stem) > most {
		stem = strings.ToValidUTF8(stem[:most], "")
	}
	name := fmt.Sprintf("%s %d", stem, now.Year())
	for n := 2; slices.ContainsFunc(bundle, func(c *x509.Certificate) bool { return c.Subject.CommonName == name }); n++ {
		name = fmt.Sprintf("%s %d-%d", stem, now.Year(), n)
	}
	return name
}

// LaterName reports whether name is what [Successor] calls a CA that follows on another:
// the same but for a later year or number.
func LaterName(name, other string) bool {
	split := func(name string) (stem, year string, n int) {
		end := madeIn.FindString(name)
		stem = strings.TrimSuffix(name, end)
		if most := maxCommonName - len(" 2026-99"); len(stem) > most {
			stem = stem[:most]
		}
		year, number, _ := strings.Cut(strings.TrimSpace(end), "-")
		n, _ = strconv.Atoi(number)
		return stem, year, n
	}
	stem, year, n := split(name)
	stem2, year2, n2 := split(other)
	return stem == stem2 && (year > year2 || year == year2 && n > n2)
}

// EncodeBundle returns certificates as PEM, in their order.
func EncodeBundle(certs []*x509.Certificate) []byte {
	var text []byte
	for _, c := range certs {
		text = append(text, encodeCertificate(c)...)
	}
	return text
}

// FirstInBundle returns the certificates with one of them first, and the others in their
// order.
func FirstInBundle(bundle []*x509.Certificate, first *x509.Certificate) []*x509.Certificate {
	return append([]*x509.Certificate{first}, WithoutCA(bundle, first)...)
}

// WithoutCA returns the certificates without one of them.
func WithoutCA(bundle []*x509.Certificate, ca *x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(bundle), func(c *x509.Certificate) bool { return c.Equal(ca) })
}

// A RotationPlace is one instance, with what a rotation has to know of it.
type RotationPlace struct {
	Name    string // of the instance
	Problem string // why it is not known; ""
	Bundles []TrustedFile
	Lists   []ListFile
	Leaves  []FoundLeaf
}

// A ListFile is a file with the revocation lists that a server goes by. OpenSSL refuses
// every certificate of a CA that it has no list of, as PostgreSQL asks it to.
type ListFile struct {
	Path   string
	Lists  []CRL
	Loaded bool // as for a TrustedFile
}

// A TrustedFile is a file with CAs that a server trusts.
type TrustedFile struct {
	Path         string
	Certificates []*x509.Certificate
	// Loaded is false for a file that the server has not read since it was written.
	Loaded bool
	// Kept is false for a file that holds what somebody else has put there.
	Kept bool
}

// A FoundLeaf is a certificate that is in use somewhere.
type FoundLeaf struct {
	Where string // "/etc/…/server.pem", "served", "certs/app-1f.pem"
	Leaf  Leaf
}

// Awaits says why the next phase of a rotation cannot begin, in the order of the places;
// nothing when it can. Overlap is for how long clients are waited for, which clientsReady
// makes none; exported are the certificates of clients that are not revoked.
func (r Rotation) Awaits(places []RotationPlace, exported []FoundLeaf, now time.Time, overlap time.Duration, clientsReady bool) []string {
	if r.Stage == Settled || r.Stage == Begun {
		return nil
	}
	var why []string
	for _, p := range places {
		if p.Problem != "" {
			why = append(why, fmt.Sprintf("%s: what it trusts and has is not known: %s", p.Name, p.Problem))
			continue
		}
		for _, f := range p.Bundles {
			switch {
			case !slices.ContainsFunc(f.Certificates, r.New.Equal):
				why = append(why, fmt.Sprintf("%s: %s does not hold the certificate of %s", p.Name, f.Path, r.New.Subject.CommonName))
			case !f.Loaded:
				why = append(why, fmt.Sprintf("%s: the server has not read %s since it was written", p.Name, f.Path))
			}
		}
		for _, f := range p.Lists {
			switch {
			case !slices.ContainsFunc(f.Lists, func(c CRL) bool { return c.SignedBy(r.New) }):
				why = append(why, fmt.Sprintf("%s: %s holds no revocation list of %s, which a task of the kind crl_file brings; without one every client certificate of it would be refused", p.Name, f.Path, r.New.Subject.CommonName))
			case !f.Loaded:
				why = append(why, fmt.Sprintf("%s: the server has not read %s since it was written", p.Name, f.Path))
			}
		}
		if r.Stage == Switched {
			why = append(why, r.stillOld(p.Name+": ", p.Leaves, now)...)
		}
	}
	switch r.Stage {
	case Introduced:
		if left := Made(r.New).Add(overlap).Sub(now); left > 0 && !clientsReady {
			why = append(why, fmt.Sprintf("clients have until %s (in %s) to fetch the certificate of %s: give them the file that pgfleet certs export writes; --clients-ready says that all of them have it",
				Made(r.New).Add(overlap).UTC().Format("2006-01-02 15:04:05 UTC"), span(left), r.New.Subject.CommonName))
		}
	case Switched:
		why = append(why, r.stillOld("", exported, now)...)
	}
	return why
}

// stillOld names certificates that nobody would trust any more without the old CA.
func (r Rotation) stillOld(prefix string, leaves []FoundLeaf, now time.Time) []string {
	var why []string
	for _, l := range leaves {
		if l.Leaf.Left(now) > 0 && l.Leaf.SignedBy(r.Old) {
			why = append(why, fmt.Sprintf("%s%s: %s is of %s, until %s", prefix, l.Where, l.Leaf.CommonName, r.Old.Subject.CommonName, date(l.Leaf.NotAfter)))
		}
	}
	return why
}

// UnderWay says that a rotation has not ended, and what it waits for as far as that can
// be told without the hosts; "" when there is none.
func (r Rotation) UnderWay(now time.Time, overlap time.Duration) string {
	if r.Stage == Settled {
		return ""
	}
	name := r.Old.Subject.CommonName
	if r.New != nil {
		name += " to " + r.New.Subject.CommonName
	}
	text := map[RotationStage]string{
		Begun:      "the new CA is not in the file yet",
		Introduced: "the new CA is trusted, and signs nothing",
		Promoted:   "the new CA's key is in place, and the old one signs still",
		Switched:   "the new CA signs, and the old one is trusted still",
	}[r.Stage]
	if r.Stage == Introduced {
		if left := Made(r.New).Add(overlap).Sub(now); left > 0 {
			text += fmt.Sprintf("; clients have %s more to fetch the file", span(left))
		}
	}
	return fmt.Sprintf("the CA is being changed from %s: %s; pgfleet certs rotate-ca goes on", name, text)
}

// IssuerName is the common name of who signed the certificate, or its whole name where
// it has none.
func (l Leaf) IssuerName() string { return cmp.Or(l.cert.Issuer.CommonName, l.Issuer) }
