package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// maxCommonName is ub-common-name of RFC 5280.
const maxCommonName = 64

// minRSABits is what OpenSSL's security level 2, Debian's default, accepts.
const minRSABits = 2048

// A Usage says what a certificate is for.
type Usage int

const (
	// Server certificates prove a server to its clients; they need a name or an
	// address.
	Server Usage = iota
	// Client certificates prove a client to a server; they need a CommonName,
	// which PostgreSQL's cert method compares with the role.
	Client
)

// String returns "server" or "client".
func (u Usage) String() string {
	switch u {
	case Server:
		return "server"
	case Client:
		return "client"
	}
	return fmt.Sprintf("Usage(%d)", int(u))
}

func (u Usage) extKeyUsage() x509.ExtKeyUsage {
	if u == Client {
		return x509.ExtKeyUsageClientAuth
	}
	return x509.ExtKeyUsageServerAuth
}

// Options says what a certificate is to hold. Nothing else is put into it.
type Options struct {
	CommonName string        // for a server, the first name that fits if empty
	DNSNames   []string      // host names; "*." may stand in front
	IPs        []netip.Addr  // addresses
	Validity   time.Duration // DefaultValidity if zero
	Now        time.Time     // must not be zero
	Usage      Usage
}

// A Signer issues certificates. A [CA] is one; others may ask an authority elsewhere.
type Signer interface {
	// Issue signs the request and returns the certificate and, after it, the
	// intermediate certificates that a server must send along, as PEM.
	Issue(ctx context.Context, csrPEM []byte, o Options) ([]byte, error)
}

// Issue implements [Signer]. The CA's own certificate and those above it are put
// after the leaf, but for a root, which clients have.
func (ca *CA) Issue(ctx context.Context, csrPEM []byte, o Options) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	leaf, err := ca.Sign(csrPEM, o)
	if err != nil {
		return nil, err
	}
	for _, cert := range append([]*x509.Certificate{ca.cert}, ca.above...) {
		if !selfSigned(cert) {
			leaf = append(leaf, encodeCertificate(cert)...)
		}
	}
	return leaf, nil
}

// Sign returns a certificate, as PEM, for the public key in the signing request,
// whose signature proves that its sender has the private key. The names and
// extensions in the request are ignored. A certificate never outlives its CA.
func (ca *CA) Sign(csrPEM []byte, o Options) ([]byte, error) {
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("signing request: %w", err)
	}
	template, err := ca.template(o)
	if err == nil {
		err = o.permitted(append([]*x509.Certificate{ca.cert}, ca.above...))
	}
	if err != nil {
		return nil, fmt.Errorf("new certificate: %w", err)
	}
	leaf, err := create(template, ca.cert, csr.PublicKey, ca.key())
	if err != nil {
		return nil, fmt.Errorf("new certificate: %w", err)
	}
	// What name constraints forbid would be found by clients only.
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	top := ca.cert
	for _, cert := range ca.above {
		between.AddCert(top)
		top = cert
	}
	roots.AddCert(top)
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: o.Now, KeyUsages: []x509.ExtKeyUsage{o.Usage.extKeyUsage()},
	})
	if err != nil {
		return nil, fmt.Errorf("new certificate: clients would refuse it: %w", err)
	}
	return encodeCertificate(leaf), nil
}

func (ca *CA) template(o Options) (*x509.Certificate, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	validity := o.Validity
	if validity == 0 {
		validity = DefaultValidity
	}
	notBefore, notAfter, err := ca.valid(o.Now, validity)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: o.commonName()},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{o.Usage.extKeyUsage()},
		BasicConstraintsValid: true, // with IsCA false: CA:FALSE
		DNSNames:              o.DNSNames,
	}
	for _, ip := range o.IPs {
		template.IPAddresses = append(template.IPAddresses, ip.Unmap().AsSlice())
	}
	return template, nil
}

// valid returns from when until when something that the CA signs now is valid: never
// longer than the CA and those above it.
func (ca *CA) valid(now time.Time, lifetime time.Duration) (notBefore, notAfter time.Time, err error) {
	notBefore, notAfter = now.Add(-backdate(lifetime)), now.Add(lifetime)
	for _, cert := range append([]*x509.Certificate{ca.cert}, ca.above...) {
		switch {
		case now.Before(cert.NotBefore):
			return notBefore, notAfter, fmt.Errorf("the CA %v is valid from %s only", cert.Subject, date(cert.NotBefore))
		case !now.Before(cert.NotAfter):
			return notBefore, notAfter, fmt.Errorf("the CA %v has expired on %s: rotate it", cert.Subject, date(cert.NotAfter))
		}
		if notBefore.Before(cert.NotBefore) {
			notBefore = cert.NotBefore
		}
		if notAfter.After(cert.NotAfter) {
			notAfter = cert.NotAfter
		}
	}
	return notBefore, notAfter, nil
}

func (o Options) check() error {
	switch {
	case o.Now.IsZero():
		return errors.New("no time is given")
	case o.Validity < 0:
		return fmt.Errorf("the lifetime %v is negative", o.Validity)
	case o.Usage != Server && o.Usage != Client:
		return fmt.Errorf("unknown usage %v", o.Usage)
	case o.Usage == Server && len(o.DNSNames)+len(o.IPs) == 0:
		return errors.New("a server's certificate needs at least one name or address: clients look at nothing else under verify-full")
	case o.Usage == Client && o.CommonName == "":
		return errors.New("a client's certificate needs a common name: the role's name")
	case len(o.CommonName) > maxCommonName:
		return fmt.Errorf("the common name %q is longer than %d characters", o.CommonName, maxCommonName)
	}
	for _, name := range o.DNSNames {
		if err := checkDNSName(strings.TrimPrefix(name, "*.")); err != nil {
			return err
		}
	}
	for _, ip := range o.IPs {
		if !ip.IsValid() || ip.Zone() != "" {
			return fmt.Errorf("%q is not an address that a certificate can hold", ip)
		}
	}
	return nil
}

// permitted says what the CAs' name constraints forbid.
func (o Options) permitted(cas []*x509.Certificate) error {
	for _, name := range o.DNSNames {
		if err := CheckName(name, cas); err != nil {
			return err
		}
	}
	for _, ip := range o.IPs {
		if err := CheckAddress(ip, cas); err != nil {
			return err
		}
	}
	if len(o.DNSNames) == 0 {
		return CheckCommonName(o.commonName(), cas)
	}
	return nil
}

func (o Options) commonName() string {
	if o.CommonName != "" || o.Usage == Client {
		return o.CommonName
	}
	return FirstCommonName(o.DNSNames)
}

// FirstCommonName returns the first of some names that a common name has room for; "" if
// there is none, and the certificate has an empty subject then.
func FirstCommonName(names []string) string {
	for _, name := range names {
		if len(name) <= maxCommonName {
			return name
		}
	}
	return ""
}

// checkDNSName accepts host names of RFC 1123, and underscores, which hosts in
// private networks have.
func checkDNSName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%q is an address rather than a name: declare it among the addresses", name)
	}
	if name == "" || len(name) > 253 {
		return fmt.Errorf("%q is not a host name", name)
	}
	for label := range strings.SplitSeq(name, ".") {
		bad := strings.IndexFunc(label, func(c rune) bool {
			return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_')
		})
		if label == "" || len(label) > 63 || bad >= 0 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is not a host name (other alphabets are written in their xn-- form)", name)
		}
	}
	return nil
}

func parseRequest(csrPEM []byte) (*x509.CertificateRequest, error) {
	rest := csrPEM
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("it is not a PEM block of the type CERTIFICATE REQUEST")
		}
		if !slices.Contains([]string{blockRequest, "NEW CERTIFICATE REQUEST"}, block.Type) {
			continue
		}
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return nil, err
		}
		if err := csr.CheckSignature(); err != nil {
			return nil, fmt.Errorf("its signature does not prove the key: %w", err)
		}
		return csr, checkKey(csr.PublicKey)
	}
}

// checkKey refuses keys that clients or PostgreSQL cannot live with.
func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if bits := k.Curve.Params().BitSize; bits < 256 {
			return fmt.Errorf("its ECDSA key has %d bits: 256 are the least", bits)
		}
		return nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits {
			return fmt.Errorf("its RSA key has %d bits: %d are the least", bits, minRSABits)
		}
		return nil
	case ed25519.PublicKey:
		// tls-server-end-point (RFC 5929) is not defined for a signature without a
		// hash of its own, and SCRAM-SHA-256-PLUS fails.
		return errors.New("its key is Ed25519, which breaks channel binding in libpq and pgx: use ECDSA P-256")
	}
	return fmt.Errorf("its key is of the unknown type %T", key)
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
