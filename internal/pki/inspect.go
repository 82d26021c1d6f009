package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Leaf holds the facts of a certificate.
type Leaf struct {
	Subject         string // as in RFC 2253: "CN=db1,O=Example"
	CommonName      string
	Issuer          string
	Serial          string // hexadecimal, lower case
	DNSNames        []string
	IPs             []netip.Addr
	NotBefore       time.Time // UTC
	NotAfter        time.Time // UTC
	IsCA            bool
	Usages          []Usage // those that this package knows
	KeyType         string  // "ECDSA P-256", "RSA 2048", "Ed25519"
	Fingerprint     string  // SHA-256 of the certificate, hexadecimal, lower case
	PublicKeySHA256 string  // SHA-256 of the SubjectPublicKeyInfo, as `openssl pkey -pubout -outform DER | sha256sum` says it

	cert  *x509.Certificate
	after []*x509.Certificate // those that follow it in the file
}

// SignedBy reports whether the certificate was signed by a CA.
func (l Leaf) SignedBy(ca *x509.Certificate) bool { return l.cert.CheckSignatureFrom(ca) == nil }

// Certificate returns the certificate, which must not be changed.
func (l Leaf) Certificate() *x509.Certificate { return l.cert }

// After returns the certificates that follow in the file, such as intermediates.
func (l Leaf) After() []*x509.Certificate { return l.after }

// Inspect returns the facts of the first certificate in a PEM file, which may hold
// a key and further certificates too.
func Inspect(pemBytes []byte) (Leaf, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		block, pemBytes = pem.Decode(pemBytes)
		if block == nil {
			break
		}
		if block.Type != blockCertificate {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Leaf{}, fmt.Errorf("certificate: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return Leaf{}, errors.New("certificate: there is no PEM block of the type CERTIFICATE")
	}
	l := inspect(certs[0])
	l.after = certs[1:]
	return l, nil
}

// InspectDER is [Inspect] for a certificate as a server presents it.
func InspectDER(der []byte) (Leaf, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Leaf{}, fmt.Errorf("certificate: %w", err)
	}
	return inspect(cert), nil
}

func inspect(cert *x509.Certificate) Leaf {
	l := Leaf{
		Subject:         cert.Subject.String(),
		CommonName:      cert.Subject.CommonName,
		Issuer:          cert.Issuer.String(),
		Serial:          cert.SerialNumber.Text(16),
		DNSNames:        cert.DNSNames,
		NotBefore:       cert.NotBefore.UTC(),
		NotAfter:        cert.NotAfter.UTC(),
		IsCA:            cert.BasicConstraintsValid && cert.IsCA,
		KeyType:         keyType(cert.PublicKey),
		Fingerprint:     hexSHA256(cert.Raw),
		PublicKeySHA256: hexSHA256(cert.RawSubjectPublicKeyInfo),
		cert:            cert,
	}
	for _, ip := range cert.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			l.IPs = append(l.IPs, addr.Unmap())
		}
	}
	// Without the extension a certificate is for any use (RFC 5280, 4.2.1.12).
	unlimited := len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0
	for _, u := range []Usage{Server, Client} {
		if unlimited || slices.Contains(cert.ExtKeyUsage, u.extKeyUsage()) || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) {
			l.Usages = append(l.Usages, u)
		}
	}
	return l
}

// Lifetime returns the time from NotBefore to NotAfter.
func (l Leaf) Lifetime() time.Duration { return l.NotAfter.Sub(l.NotBefore) }

// Left returns the time until NotAfter, negative once it has passed.
func (l Leaf) Left(now time.Time) time.Duration { return l.NotAfter.Sub(now) }

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func keyType(key any) string {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", key)
}

// A Want is what a certificate should be.
type Want struct {
	DNSNames        []string
	IPs             []netip.Addr
	Usage           Usage
	CommonName      string            // not looked at if empty
	CA              *x509.Certificate // who should have signed it; anybody if nil
	PublicKeySHA256 string            // of the key on the host; not looked at if empty
	Now             time.Time         // must not be zero

	// Roots, if there are any, are what is trusted: the certificates that follow in
	// the file have to lead from it to one of them. Without CA they are needed.
	Roots []*x509.Certificate

	// RenewBefore is how long before its end a certificate is due; a third of its
	// lifetime if zero.
	RenewBefore time.Duration
}

// A ReasonCode is a word for why a new certificate is due.
type ReasonCode string

// The reasons.
const (
	Expired     ReasonCode = "expired"
	NotYetValid ReasonCode = "not-yet-valid"
	Expiring    ReasonCode = "expiring"
	MissingName ReasonCode = "missing-name"
	ExtraName   ReasonCode = "extra-name"
	WrongName   ReasonCode = "wrong-name" // the common name
	WrongCA     ReasonCode = "wrong-ca"
	WrongChain  ReasonCode = "wrong-chain" // what follows does not lead to a root
	WrongKey    ReasonCode = "wrong-key"
	WrongUsage  ReasonCode = "wrong-usage"
	IsCA        ReasonCode = "is-ca"
)

// A Reason says why a new certificate is due.
type Reason struct {
	Code ReasonCode
	Text string // a part of a sentence, such as "the name db1.example is missing"
}

// String returns the text.
func (r Reason) String() string { return r.Text }

// Judge returns the reasons why a new certificate is due, in a fixed order; none if
// the leaf is fine. It panics if want lacks the time, or both the CA and roots.
func Judge(l Leaf, want Want) []Reason {
	if want.Now.IsZero() || want.CA == nil && len(want.Roots) == 0 {
		panic("pki: Judge needs the time and the CA")
	}
	var reasons []Reason
	add := func(code ReasonCode, format string, args ...any) {
		reasons = append(reasons, Reason{code, fmt.Sprintf(format, args...)})
	}
	judgeTime(l, want, add)
	if l.IsCA {
		add(IsCA, "it is the certificate of a CA (CA:TRUE) rather than of a server or client")
	}
	judgeSigner(l, want, add)
	if want.PublicKeySHA256 != "" && !strings.EqualFold(want.PublicKeySHA256, l.PublicKeySHA256) {
		add(WrongKey, "it does not belong to the key")
	}
	if !slices.Contains(l.Usages, want.Usage) {
		add(WrongUsage, "it is not for use as a %v", want.Usage)
	}
	judgeNames(l, want, add)
	return reasons
}

func judgeTime(l Leaf, want Want, add func(ReasonCode, string, ...any)) {
	renewBefore := want.RenewBefore
	if renewBefore == 0 {
		renewBefore = l.Lifetime() / 3
	}
	left := l.Left(want.Now)
	switch {
	case want.Now.Before(l.NotBefore):
		add(NotYetValid, "it is valid from %s only", date(l.NotBefore))
	case left < 0:
		add(Expired, "it has expired on %s", date(l.NotAfter))
	case left <= renewBefore:
		// The time that is left would make another plan of the same thing every day.
		add(Expiring, "it expires on %s", date(l.NotAfter))
	}
}

func judgeSigner(l Leaf, want Want, add func(ReasonCode, string, ...any)) {
	switch {
	case want.CA == nil || l.SignedBy(want.CA):
	case l.Issuer == want.CA.Subject.String():
		add(WrongCA, "it was signed by another CA of the same name, %s", l.Issuer)
		return
	default:
		add(WrongCA, "it was signed by %s rather than %s", l.Issuer, want.CA.Subject)
		return
	}
	if len(want.Roots) == 0 {
		return
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range want.Roots {
		roots.AddCert(c)
	}
	for _, c := range l.after {
		between.AddCert(c)
	}
	// That its own time is over is another reason.
	now := want.Now
	if now.Before(l.NotBefore) || now.After(l.NotAfter) {
		now = l.NotBefore
	}
	_, err := l.cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		add(WrongChain, "what it was signed by, %s, does not lead to a certificate that is trusted: %v", l.Issuer, err)
	}
}

// span prints a duration in days, or below two days as hours, minutes and seconds.
func span(d time.Duration) string {
	if days := int(d / (24 * time.Hour)); days >= 2 {
		return fmt.Sprintf("%d days", days)
	}
	return d.Round(time.Second).String()
}

func judgeNames(l Leaf, want Want, add func(ReasonCode, string, ...any)) {
	if want.CommonName != "" && want.CommonName != l.CommonName {
		add(WrongName, "its common name is %q rather than %q", l.CommonName, want.CommonName)
	}
	has, wants := sans(l.DNSNames, l.IPs), sans(want.DNSNames, want.IPs)
	for _, name := range wants {
		if !slices.Contains(has, name) {
			add(MissingName, "the %s is missing", name)
		}
	}
	for _, name := range has {
		if !slices.Contains(wants, name) {
			add(ExtraName, "the %s is not declared", name)
		}
	}
}

// sans describes names and addresses in a form that can be compared.
func sans(names []string, ips []netip.Addr) []string {
	var all []string
	for _, name := range names {
		all = append(all, "name "+strings.ToLower(name))
	}
	for _, ip := range ips {
		all = append(all, "address "+ip.Unmap().String())
	}
	slices.Sort(all)
	return slices.Compact(all)
}
