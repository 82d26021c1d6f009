package execca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/execca"
)

// An authority is a root and an issuing CA below it.
type authority struct {
	root, issuing *x509.Certificate
	rootKey, key  *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	a := authority{rootKey: newKey(t), key: newKey(t)}
	a.root = sign(t, ca("root"), ca("root"), a.rootKey.Public(), a.rootKey)
	a.issuing = sign(t, ca("issuing"), a.root, a.key.Public(), a.rootKey)
	return a
}

func encode(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

// request returns a signing request of a new key.
func request(t *testing.T, commonName string) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), key
}

func serverOptions() pki.Options {
	return pki.Options{
		DNSNames: []string{"db1.example", "db1"}, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Usage: pki.Server,
		Validity: 10 * time.Hour, Now: time.Now(),
	}
}

// leaf is what a good CA makes of serverOptions.
func leaf() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "db1.example"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * time.Hour),
		DNSNames: []string{"db1", "db1.example"}, IPAddresses: []net.IP{net.ParseIP("192.0.2.1")},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// answering returns a signer whose program answers so.
func answering(t *testing.T, a authority, text string) (*execca.Signer, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "answer"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := execca.New(execca.Config{Command: []string{"sh", "-c", "cat >request; cat answer"}, Dir: dir, Roots: []*x509.Certificate{a.root}})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func certificateAnswer(t *testing.T, text string) string {
	t.Helper()
	b, err := json.Marshal(map[string]string{"certificate": text})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestIssue has the chain in another order, with the root and a stranger in it.
func TestIssue(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	csr, key := request(t, "db1.example")
	cert := sign(t, leaf(), a.issuing, key.Public(), a.key)
	s, dir := answering(t, a, certificateAnswer(t, encode(cert, a.root, other.issuing, a.issuing)))
	got, err := s.Issue(t.Context(), csr, serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != encode(cert, a.issuing) {
		t.Errorf("issued\n%s", got)
	}
	text, err := os.ReadFile(filepath.Join(dir, "request"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"version": 1.0, "op": "sign", "csr": string(csr), "usage": "server", "common_name": "db1.example",
		"dns_names": []any{"db1.example", "db1"}, "addresses": []any{"192.0.2.1"}, "lifetime_seconds": 36000.0,
	}
	var asked map[string]any
	if err := json.Unmarshal(text, &asked); err != nil || cmp.Diff(want, asked) != "" {
		t.Errorf("request: %v %s", err, cmp.Diff(want, asked))
	}
	// A client has no names, and its lists are there nevertheless.
	csr, key = request(t, "app")
	c := leaf()
	c.Subject.CommonName, c.DNSNames, c.IPAddresses = "app", nil, nil
	s, dir = answering(t, a, certificateAnswer(t, encode(sign(t, c, a.issuing, key.Public(), a.key), a.issuing)))
	if _, err := s.Issue(t.Context(), csr, pki.Options{CommonName: "app", Usage: pki.Client, Validity: 10 * time.Hour, Now: time.Now()}); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "request")); err != nil || !bytes.Contains(text, []byte(`"usage":"client","common_name":"app","dns_names":[],"addresses":[]`)) {
		t.Errorf("request %s, %v", text, err)
	}
}

// TestJudged has answers that must not be used.
func TestJudged(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	csr, key := request(t, "db1.example")
	edited := func(edit func(c *x509.Certificate)) func(t *testing.T) string {
		return func(t *testing.T) string {
			c := leaf()
			edit(c)
			return encode(sign(t, c, a.issuing, key.Public(), a.key), a.issuing)
		}
	}
	for _, test := range []struct {
		name, want string
		answer     func(t *testing.T) string
	}{
		{"another key", "for another key", func(t *testing.T) string {
			return encode(sign(t, leaf(), a.issuing, newKey(t).Public(), a.key), a.issuing)
		}},
		{"another name", "the name evil.example is not declared", edited(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "evil.example") })},
		{"a wildcard", "the name *.example is not declared", edited(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "*.example") })},
		{"another address", "the address 192.0.2.2 is not declared", edited(func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.ParseIP("192.0.2.2")) })},
		{"no names", "not for what was asked for: the address 192.0.2.1 is missing, the name db1 is missing", edited(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil })},
		{"another common name", `its common name is "root" rather than "db1.example"`, edited(func(c *x509.Certificate) { c.Subject.CommonName = "root" })},
		{"a URI", "neither a host name nor an address", edited(func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} })},
		{"an e-mail address", "neither a host name nor an address", edited(func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example"} })},
		{"a client's", "not for use as a server", edited(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })},
		{"a CA's", "CA:TRUE", edited(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })},
		{"too long", "longer than the 10h0m0s that were asked for", edited(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) })},
		{"not yet valid", "compare the clocks", edited(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })},
		{"expired", "has expired", edited(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })},
		{"no chain", "signed by CN=issuing, leads to none of the trusted CAs through the 0 certificates after it", func(t *testing.T) string { return encode(sign(t, leaf(), a.issuing, key.Public(), a.key)) }},
		{"another CA", "leads to none of the trusted CAs", func(t *testing.T) string {
			return encode(sign(t, leaf(), other.issuing, key.Public(), other.key), other.issuing, other.root)
		}},
		{"the chain first", "for another key", func(t *testing.T) string { return encode(a.issuing, sign(t, leaf(), a.issuing, key.Public(), a.key)) }},
		{"a key", `type "PRIVATE KEY"`, func(t *testing.T) string {
			return encode(sign(t, leaf(), a.issuing, key.Public(), a.key)) + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
		}},
		{"no PEM", "no PEM block", func(*testing.T) string { return "certificate" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := answering(t, a, certificateAnswer(t, test.answer(t)))
			got, err := s.Issue(t.Context(), csr, serverOptions())
			if err == nil || got != nil || !strings.HasPrefix(err.Error(), "sh answers with a certificate that is not used: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	s, _ := answering(t, a, certificateAnswer(t, encode(sign(t, leaf(), a.issuing, key.Public(), a.key), a.issuing)))
	if _, err := s.Issue(t.Context(), csr, serverOptions()); err != nil {
		t.Errorf("the certificate that the others were made of: %v", err)
	}
}

func TestErrors(t *testing.T) {
	a := newAuthority(t)
	csr, _ := request(t, "db1.example")
	for _, test := range []struct{ script, want string }{
		{`true`, "sh: it answers nothing"},
		{`echo '{}'`, `sh: its answer lacks "certificate"`},
		{`echo '{"certificate":"x","key":"y"}'`, "sh: its answer is not JSON of the protocol's form"},
		{`echo '{"error":{"code":"refused","message":"no such role","hint":"make it"}}'; exit 1`, "sh: the CA does not sign this: no such role; make it"},
		{`echo '{"error":{"code":"unavailable","message":"it is sealed"}}'`, "sh cannot reach its CA: it is sealed"},
		{`echo '{"error":{"code":"what","message":"hm"}}'`, "sh: hm"},
		{`echo password=hunter2 >&2; exit 2`, "sh: exit status 2: password=••••"},
		{`sleep 60`, "sh did not answer within 300ms and was ended"},
	} {
		s, err := execca.New(execca.Config{Command: []string{"sh", "-c", test.script}, Dir: t.TempDir(), Roots: []*x509.Certificate{a.root}, Timeout: 300 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Issue(t.Context(), csr, serverOptions()); err == nil || err.Error() != test.want {
			t.Errorf("%s: error %v, want %q", test.script, err, test.want)
		}
	}
	s, err := execca.New(execca.Config{Command: []string{"./missing"}, Dir: t.TempDir(), Roots: []*x509.Certificate{a.root}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Issue(t.Context(), csr, serverOptions()); err == nil || !strings.Contains(err.Error(), "./missing cannot be run") || !strings.Contains(err.Error(), "correct sign in [ca]") {
		t.Error(err)
	}
	if _, err := s.Issue(t.Context(), csr, pki.Options{Now: time.Now()}); err == nil || !strings.Contains(err.Error(), "at least one name") {
		t.Errorf("a program is asked for nothing: %v", err)
	}
}
