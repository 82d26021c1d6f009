// Package pki is the fleet's own certificate authority.
//
// A [CA] signs certificates for keys that never leave the host that made them: the
// host sends a signing request, and [CA.Sign] takes nothing from it but the public
// key. Names, addresses, lifetime and usage are those that were declared. [Inspect]
// reads the facts of a certificate, [Judge] says why a new one is due. The package
// reads no clock and no file: the time is always given, and keys come and go as
// secrets.
//
// The form of certificates follows RFC 5280 and, where it is stricter, what libpq
// and Go's crypto/x509 demand: names stand in the subject alternative name only.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

const (
	// DefaultValidity is how long a leaf lives unless told otherwise: 90 days.
	DefaultValidity = 90 * 24 * time.Hour
	// DefaultCAValidity is how long a CA lives unless told otherwise: ten years.
	DefaultCAValidity = 3650 * 24 * time.Hour
	// Backdate is how long before its making a certificate is valid at most, for
	// hosts whose clock is behind; a tenth of its lifetime where that is less.
	Backdate = 5 * time.Minute
)

// backdate returns how long before its making something of that lifetime is valid.
func backdate(lifetime time.Duration) time.Duration { return min(Backdate, lifetime/10) }

const (
	blockCertificate = "CERTIFICATE"
	blockRequest     = "CERTIFICATE REQUEST"
	blockKey         = "PRIVATE KEY"
)

// A CA is a certificate authority with its key. It may be used by several
// goroutines at once, and prints as its subject.
type CA struct {
	cert  *x509.Certificate
	above []*x509.Certificate // the certificates above it, as far as they are known; the root last
	// key returns the key. It is a function so that what prints a CA by reflection
	// cannot reach the key.
	key func() crypto.Signer
}

// CAOptions says what a new CA is like.
type CAOptions struct {
	CommonName string        // its subject, such as "prod CA 2026"
	Validity   time.Duration // DefaultCAValidity if zero
	Now        time.Time     // must not be zero

	// Names and addresses that the CA may sign for, as name constraints (RFC 5280,
	// 4.2.1.10); no constraint if both are empty. A domain covers what is below it.
	// If only one of them is given, the other kind is not allowed at all.
	PermittedDomains []string
	PermittedIPs     []netip.Prefix
}

// NewCA makes a key (ECDSA P-256) and its self-signed root certificate with path
// length 0: it signs leaves, and no further CA.
func NewCA(o CAOptions) (*CA, error) {
	switch {
	case o.Now.IsZero():
		return nil, errors.New("new CA: no time is given")
	case o.CommonName == "":
		return nil, errors.New("new CA: it has no name")
	case len(o.CommonName) > maxCommonName:
		return nil, fmt.Errorf("new CA: the name %q is longer than %d characters", o.CommonName, maxCommonName)
	case o.Validity < 0:
		return nil, fmt.Errorf("new CA: the lifetime %v is negative", o.Validity)
	case o.Validity == 0:
		o.Validity = DefaultCAValidity
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("new CA: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: o.CommonName},
		NotBefore:             o.Now.Add(-backdate(o.Validity)),
		NotAfter:              o.Now.Add(o.Validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	if err := constrain(template, o); err != nil {
		return nil, fmt.Errorf("new CA: %w", err)
	}
	cert, err := create(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("new CA: %w", err)
	}
	return &CA{cert: cert, key: func() crypto.Signer { return key }}, nil
}

// constrain adds the name constraints. A kind of name that has none would not be
// constrained at all, so the kind that is not declared is excluded as a whole.
func constrain(template *x509.Certificate, o CAOptions) error {
	if len(o.PermittedDomains) == 0 && len(o.PermittedIPs) == 0 {
		return nil
	}
	template.PermittedDNSDomainsCritical = true
	for _, domain := range o.PermittedDomains {
		if err := checkDNSName(domain); err != nil {
			return err
		}
	}
	template.PermittedDNSDomains = o.PermittedDomains
	for _, prefix := range o.PermittedIPs {
		if !prefix.IsValid() {
			return errors.New("an invalid network is given")
		}
		template.PermittedIPRanges = append(template.PermittedIPRanges, ipNet(prefix))
	}
	if len(o.PermittedIPs) == 0 {
		template.ExcludedIPRanges = []*net.IPNet{
			ipNet(netip.MustParsePrefix("0.0.0.0/0")), ipNet(netip.MustParsePrefix("::/0")),
		}
	}
	if len(o.PermittedDomains) == 0 {
		template.ExcludedDNSDomains = []string{""}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ErrOtherKey is why [ParseCA] refuses a key.
var ErrOtherKey = errors.New("the key does not belong to the certificate")

// ParseCA reads a CA from its certificate and its key as PEM. The certificate, the
// first in certPEM, may be an intermediate of another authority; those above it may
// follow in any order, and what else follows is of no account, so that a bundle with
// the roots of earlier days will do. It is an error if key and certificate do not
// belong together or a certificate is not one of a CA; whether it is still valid is
// seen when it signs.
func ParseCA(certPEM []byte, keyPEM secrets.Secret) (*CA, error) {
	certs, err := ParseBundle(certPEM)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	cert := certs[0]
	if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("CA: the certificate of %q may not sign certificates (key usage)", cert.Subject)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("CA: %w of %q", ErrOtherKey, cert.Subject)
	}
	return &CA{cert: cert, above: Linked(certs)[1:], key: func() crypto.Signer { return key }}, nil
}

// parseKey reads a private key in PKCS #8 or SEC 1 form. Its errors do not wrap
// those of the parsers, which could quote the input.
func parseKey(keyPEM secrets.Secret) (crypto.Signer, error) {
	rest := keyPEM.Expose()
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("the key is not a PEM block of the type PRIVATE KEY or EC PRIVATE KEY")
		}
		var key any
		var err error
		switch block.Type {
		case blockKey:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the key is protected by a passphrase: keep it in a secret store without one")
		default:
			continue
		}
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil, errors.New("the key cannot be read")
		}
		return signer, nil
	}
}

// String returns the CA's subject.
func (ca *CA) String() string { return ca.cert.Subject.String() }

// GoString returns the CA's subject.
func (ca *CA) GoString() string { return ca.String() }

// Certificate returns the CA's certificate, which must not be changed.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// CertificatePEM returns the CA's certificate as PEM: what clients trust.
func (ca *CA) CertificatePEM() []byte { return encodeCertificate(ca.cert) }

// KeyPEM returns the CA's key in PKCS #8 form as PEM, for a secret store.
func (ca *CA) KeyPEM() (secrets.Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key())
	if err != nil {
		return secrets.Secret{}, fmt.Errorf("key of CA %v: %w", ca, err)
	}
	return secrets.New(pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})), nil
}

// create signs a certificate with a random serial number of 128 bits.
func create(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	rand.Read(serial)
	template.SerialNumber = new(big.Int).SetBytes(serial)
	if template.SerialNumber.Sign() == 0 {
		return nil, errors.New("the random serial number is zero") // RFC 5280 wants a positive one
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	// RFC 5280, 4.2.1.2, leaves open how the identifier is made, as long as it is
	// unique for the key.
	id := sha256.Sum256(spki)
	template.SubjectKeyId = id[:20]
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: cert.Raw})
}
