package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ParseBundle returns the certificates of CAs in a PEM file, in its order: what an
// ssl_ca_file or an sslrootcert holds. It is an error if there is none, if one of
// them is not the certificate of a CA or stands there twice, and if there is a
// private key in it or anything else than certificates, because the file is given to
// clients as it is, with the text between them.
func ParseBundle(pemBytes []byte) ([]*x509.Certificate, error) {
	for _, secret := range []string{"PRIVATE KEY", "AGE-SECRET-KEY-"} {
		if bytes.Contains(pemBytes, []byte(secret)) {
			return nil, errors.New("it holds a private key; keep that in a secret store, because this file is copied to servers and clients")
		}
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		block, pemBytes = pem.Decode(pemBytes)
		switch {
		case block == nil && len(certs) == 0:
			return nil, errors.New("it holds no certificate in PEM form")
		case block == nil:
			return certs, nil
		case block.Type != blockCertificate:
			return nil, fmt.Errorf("it holds a PEM block of the type %q, where there should be certificates only", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return nil, fmt.Errorf("the certificate of %q is not one of a CA (CA:FALSE)", cert.Subject)
		}
		for _, c := range certs {
			if c.Equal(cert) {
				return nil, fmt.Errorf("the certificate of %q is in it twice", cert.Subject)
			}
		}
		certs = append(certs, cert)
	}
}

// CheckChain says why a chain of certificates, the one that signs first, does not
// lead to one of the roots by signatures; nil if it does.
func CheckChain(chain, roots []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("there is no certificate")
	}
	links := Linked(chain)
	last := links[len(links)-1]
	for _, root := range roots {
		if last.Equal(root) || last.CheckSignatureFrom(root) == nil {
			return nil
		}
	}
	return fmt.Errorf("%q was signed by %q, which is not among the certificates that are trusted", last.Subject, last.Issuer)
}

// Linked returns the first certificate and those that follow from it by signatures,
// a root at the end included.
func Linked(certs []*x509.Certificate) []*x509.Certificate {
	chain := certs[:1:1]
	for len(chain) < len(certs) && !selfSigned(chain[len(chain)-1]) {
		before := len(chain)
		for _, c := range certs[1:] {
			if chain[before-1].CheckSignatureFrom(c) == nil {
				chain = append(chain, c)
				break
			}
		}
		if len(chain) == before {
			break
		}
	}
	return chain
}

// selfSigned reports whether a certificate is a root's.
func selfSigned(cert *x509.Certificate) bool { return bytes.Equal(cert.RawIssuer, cert.RawSubject) }
