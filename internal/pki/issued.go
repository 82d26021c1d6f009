package pki

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// issuedSlack is how much longer than asked for a certificate may be valid: for an
// authority's clock, which is not ours.
const issuedSlack = 5 * time.Minute

// CheckIssued judges what another authority has answered a signing request with: the
// certificate and, in any order after it, those between it and a root, as PEM. The
// certificate must be for the request's key, of the usage, name and addresses asked
// for and no others, valid now and no longer than asked for, and lead to one of the
// roots. It returns the certificate and the intermediate certificates, each issued by
// the next one, without the root, as PEM.
func CheckIssued(answerPEM, csrPEM []byte, o Options, roots []*x509.Certificate) ([]byte, error) {
	o, err := o.Complete()
	if err != nil {
		return nil, err
	}
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("signing request: %w", err)
	}
	leaf, others, err := parseIssued(answerPEM)
	if err != nil {
		return nil, err
	}
	if key, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(csr.PublicKey) {
		return nil, errors.New("the certificate is for another key than the signing request's")
	}
	if leaf.BasicConstraintsValid && leaf.IsCA {
		return nil, errors.New("the certificate is one of a CA (CA:TRUE)")
	}
	if err := checkIssuedNames(leaf, o); err != nil {
		return nil, err
	}
	if err := checkIssuedTime(leaf, o); err != nil {
		return nil, err
	}
	return issuedChain(leaf, others, o, roots)
}

func parseIssued(answerPEM []byte) (leaf *x509.Certificate, others []*x509.Certificate, err error) {
	rest := answerPEM
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil && leaf == nil:
			return nil, nil, errors.New("there is no PEM block of the type CERTIFICATE")
		case block == nil:
			return leaf, others, nil
		case block.Type != blockCertificate:
			return nil, nil, fmt.Errorf("there is a PEM block of the type %q, where there should be certificates only", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate: %w", err)
		}
		if leaf == nil {
			leaf = cert
		} else {
			others = append(others, cert)
		}
	}
}

func checkIssuedNames(cert *x509.Certificate, o Options) error {
	leaf := inspect(cert)
	var found []string
	judgeNames(leaf, Want{DNSNames: o.DNSNames, IPs: o.IPs, CommonName: o.CommonName}, func(_ ReasonCode, format string, args ...any) {
		found = append(found, fmt.Sprintf(format, args...))
	})
	if len(found) > 0 {
		return fmt.Errorf("the certificate is not for what was asked for: %s", joinFew(found))
	}
	return checkKindsOfNames(cert)
}

// joinFew names the first few reasons.
func joinFew(all []string) string {
	const few = 4
	text := all[0]
	for i, s := range all[1:] {
		if i+1 == few {
			return fmt.Sprintf("%s, and %d more", text, len(all)-few)
		}
		text += ", " + s
	}
	return text
}

// The tags of names and addresses among the alternative names (RFC 5280, 4.2.1.6).
const (
	tagDNSName   = 2
	tagIPAddress = 7
)

// checkKindsOfNames refuses names of other kinds than those that are asked for, of
// which crypto/x509 shows only some: e-mail addresses, URIs, principals of Windows.
func checkKindsOfNames(cert *x509.Certificate) error {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			return fmt.Errorf("the certificate's alternative names: %w", err)
		}
		for _, n := range names {
			if n.Class != asn1.ClassContextSpecific || n.Tag != tagDNSName && n.Tag != tagIPAddress {
				return errors.New("the certificate has an alternative name that is neither a host name nor an address, and was not asked for")
			}
		}
	}
	return nil
}

func checkIssuedTime(cert *x509.Certificate, o Options) error {
	switch {
	case o.Now.Before(cert.NotBefore):
		return fmt.Errorf("the certificate is valid from %s only, and it is %s here: compare the clocks", date(cert.NotBefore), date(o.Now))
	case !o.Now.Before(cert.NotAfter):
		return fmt.Errorf("the certificate has expired on %s", date(cert.NotAfter))
	case cert.NotAfter.After(o.Now.Add(o.Validity + issuedSlack)):
		return fmt.Errorf("the certificate is valid until %s, longer than the %s that were asked for", date(cert.NotAfter), span(o.Validity))
	}
	return nil
}

// issuedChain returns the certificate with those between it and a root.
func issuedChain(leaf *x509.Certificate, others []*x509.Certificate, o Options, roots []*x509.Certificate) ([]byte, error) {
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	for _, c := range others {
		between.AddCert(c)
	}
	usage := o.Usage.extKeyUsage()
	verify := func(usage x509.ExtKeyUsage) ([][]*x509.Certificate, error) {
		return leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: o.Now, KeyUsages: []x509.ExtKeyUsage{usage}})
	}
	chains, err := verify(usage)
	if err != nil {
		// Which of the two it is cannot be told from the error alone.
		if _, other := verify(x509.ExtKeyUsageAny); other == nil {
			return nil, fmt.Errorf("the certificate is not for use as a %v", o.Usage)
		}
		if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
			return nil, fmt.Errorf("the certificate, signed by %s, leads to none of the trusted CAs through the %d certificates after it", leaf.Issuer, len(others))
		}
		return nil, fmt.Errorf("clients would refuse the certificate: %w", err)
	}
	chain := chains[0]
	for _, c := range chains[1:] {
		if len(c) < len(chain) {
			chain = c
		}
	}
	text := encodeCertificate(leaf)
	for _, c := range chain[1 : len(chain)-1] {
		text = append(text, encodeCertificate(c)...)
	}
	return text, nil
}

// Complete returns the options with their defaults in place, and what is wrong with
// them.
func (o Options) Complete() (Options, error) {
	if err := o.check(); err != nil {
		return o, err
	}
	o.CommonName = o.commonName()
	if o.Validity == 0 {
		o.Validity = DefaultValidity
	}
	return o, nil
}
