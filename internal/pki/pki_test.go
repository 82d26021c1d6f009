package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newCA(t *testing.T, o CAOptions) *CA {
	t.Helper()
	if o.CommonName == "" {
		o.CommonName = "test CA"
	}
	if o.Now.IsZero() {
		o.Now = now
	}
	ca, err := NewCA(o)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// request makes a signing request that asks for more than it should get.
func request(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "evil.example", Organization: []string{"Evil"}},
		DNSNames:    []string{"evil.example"},
		IPAddresses: []net.IP{net.IPv4(6, 6, 6, 6)},
		ExtraExtensions: []pkix.Extension{
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}, // CA:TRUE
		},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func serverOptions() Options {
	return Options{
		DNSNames: []string{"db1.example", "db1"},
		IPs:      []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Now:      now,
	}
}

func TestNewCA(t *testing.T) {
	ca := newCA(t, CAOptions{})
	cert := ca.Certificate()
	if !cert.IsCA || !cert.MaxPathLenZero || cert.MaxPathLen != 0 || cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("not a CA of path length 0: %v %v %v", cert.IsCA, cert.MaxPathLen, cert.KeyUsage)
	}
	if got := keyType(cert.PublicKey); got != "ECDSA P-256" {
		t.Errorf("key type %s", got)
	}
	if got := cert.NotAfter.Sub(now); got != DefaultCAValidity {
		t.Errorf("lives %v", got)
	}
	for name, o := range map[string]CAOptions{
		"no time":   {CommonName: "x"},
		"no name":   {Now: now},
		"long name": {CommonName: strings.Repeat("x", 65), Now: now},
		"negative":  {CommonName: "x", Now: now, Validity: -1},
	} {
		if _, err := NewCA(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCARoundTrip(t *testing.T) {
	ca := newCA(t, CAOptions{})
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseCA(ca.CertificatePEM(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Sign(request(t, newKey(t)), serverOptions()); err != nil {
		t.Error(err)
	}
	otherKey, err := newCA(t, CAOptions{}).KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.Sign(request(t, newKey(t)), serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	broken := secrets.New(bytes.Replace(key.Expose(), []byte("\nM"), []byte("\nN"), 1))
	for name, err := range map[string]error{
		"another key":    second(ParseCA(ca.CertificatePEM(), otherKey)),
		"a leaf":         second(ParseCA(leaf, key)),
		"no certificate": second(ParseCA(nil, key)),
		"no key":         second(ParseCA(ca.CertificatePEM(), secrets.Secret{})),
		"a broken key":   second(ParseCA(ca.CertificatePEM(), broken)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "PRIVATE KEY-----") {
			t.Errorf("%s: the error holds a key", name)
		}
	}

	// Nothing that prints a CA shows its key.
	private := ca.key().(*ecdsa.PrivateKey)
	d, err := private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	number := new(big.Int).SetBytes(d).String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		text := fmt.Sprintf(verb, struct{ a, B any }{ca, *ca})
		if strings.Contains(strings.ToLower(text), hex.EncodeToString(d)) || strings.Contains(text, number) {
			t.Errorf("%s prints the key", verb)
		}
	}
	if control := fmt.Sprintf("%+v", *private); !strings.Contains(control, number) {
		t.Error("the search would not find a printed key")
	}
}

func second(_ *CA, err error) error { return err }

func TestSign(t *testing.T) {
	ca := newCA(t, CAOptions{})
	key := newKey(t)
	leafPEM, err := ca.Sign(request(t, key), serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := Inspect(append([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), leafPEM...))
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf.cert
	if diff := cmp.Diff(serverOptions().DNSNames, leaf.DNSNames); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(serverOptions().IPs, leaf.IPs, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if leaf.Subject != "CN=db1.example" || leaf.IsCA || !cert.BasicConstraintsValid {
		t.Errorf("subject %s, CA %v", leaf.Subject, leaf.IsCA)
	}
	if !slices.Equal(leaf.Usages, []Usage{Server}) || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("usages %v, %v", leaf.Usages, cert.KeyUsage)
	}
	if !leaf.NotBefore.Equal(now.Add(-5*time.Minute)) || !leaf.NotAfter.Equal(now.Add(90*24*time.Hour)) {
		t.Errorf("valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if len(cert.SubjectKeyId) != 20 || !bytes.Equal(cert.AuthorityKeyId, ca.cert.SubjectKeyId) {
		t.Errorf("key identifiers %x, %x", cert.SubjectKeyId, cert.AuthorityKeyId)
	}
	if n := cert.SerialNumber.BitLen(); n < 96 || n > 128 {
		t.Errorf("serial number of %d bits", n)
	}
	if spki, err := x509.MarshalPKIXPublicKey(key.Public()); err != nil || leaf.PublicKeySHA256 != hexSHA256(spki) {
		t.Errorf("public key %s, %v", leaf.PublicKeySHA256, err)
	}

	// What clients do.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertificatePEM())
	for host, good := range map[string]bool{
		"db1.example": true, "db1": true, "192.0.2.1": true, "2001:db8::1": true,
		"evil.example": false, "6.6.6.6": false, "db2.example": false,
	} {
		_, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now})
		if (err == nil) != good {
			t.Errorf("verified for %s: %v", host, err)
		}
	}
	der, err := InspectDER(cert.Raw)
	if err != nil || der.Fingerprint != leaf.Fingerprint {
		t.Errorf("InspectDER: %v", err)
	}
}

func TestSignLimits(t *testing.T) {
	ca := newCA(t, CAOptions{Validity: 100 * 24 * time.Hour})
	o := serverOptions()
	o.Now = now.Add(50 * 24 * time.Hour)
	leafPEM, err := ca.Sign(request(t, newKey(t)), o)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := Inspect(leafPEM)
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.NotAfter.Equal(ca.cert.NotAfter) {
		t.Errorf("the leaf ends on %v, its CA on %v", leaf.NotAfter, ca.cert.NotAfter)
	}
	good := request(t, newKey(t))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := request(t, newKey(t))
	block, _ := pem.Decode(forged)
	block.Bytes[len(block.Bytes)-1] ^= 1
	forged = pem.EncodeToMemory(block)
	tests := []struct {
		name string
		csr  []byte
		edit func(*Options)
		want string
	}{
		{"no time", good, func(o *Options) { o.Now = time.Time{} }, "no time"},
		{"expired CA", good, func(o *Options) { o.Now = now.Add(100 * 24 * time.Hour) }, "has expired"},
		{"young CA", good, func(o *Options) { o.Now = now.Add(-time.Hour) }, "valid from"},
		{"no names", good, func(o *Options) { o.DNSNames, o.IPs = nil, nil }, "at least one name"},
		{"bad name", good, func(o *Options) { o.DNSNames = []string{"a b"} }, `"a b" is not a host name`},
		{"star inside", good, func(o *Options) { o.DNSNames = []string{"a.*.b"} }, "is not a host name"},
		{"address as name", good, func(o *Options) { o.DNSNames = []string{"10.0.0.1"} }, "is an address"},
		{"invalid address", good, func(o *Options) { o.IPs = []netip.Addr{{}} }, "not an address"},
		{"client without role", good, func(o *Options) { o.Usage = Client }, "common name"},
		{"forged", forged, nil, "signature"},
		{"Ed25519", request(t, ed), nil, "channel binding"},
		{"P-224", request(t, p224), nil, "224 bits"},
		{"garbage", []byte("x"), nil, "CERTIFICATE REQUEST"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := serverOptions()
			if test.edit != nil {
				test.edit(&o)
			}
			_, err := ca.Sign(test.csr, o)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestClientCertificate(t *testing.T) {
	ca := newCA(t, CAOptions{})
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	leafPEM, err := ca.Issue(t.Context(), request(t, rsaKey), Options{CommonName: "appuser", Now: now, Usage: Client})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := Inspect(leafPEM)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.CommonName != "appuser" || !slices.Equal(leaf.Usages, []Usage{Client}) || leaf.KeyType != "RSA 2048" || len(leaf.DNSNames) != 0 {
		t.Errorf("%+v", leaf)
	}
	want := Want{CommonName: "appuser", Usage: Client, CA: ca.Certificate(), Now: now}
	if reasons := Judge(leaf, want); len(reasons) != 0 {
		t.Errorf("%v", reasons)
	}
	want.CommonName, want.Usage = "other", Server
	if got := codes(Judge(leaf, want)); !slices.Equal(got, []ReasonCode{WrongUsage, WrongName}) {
		t.Errorf("%v", got)
	}
}

func TestNameConstraints(t *testing.T) {
	ca := newCA(t, CAOptions{PermittedDomains: []string{"example"}, PermittedIPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	namesOnly := newCA(t, CAOptions{PermittedDomains: []string{"example"}})
	ipsOnly := newCA(t, CAOptions{PermittedIPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	csr := request(t, newKey(t))
	sign := func(ca *CA, name, ip string) error {
		o := Options{Now: now}
		if name != "" {
			o.DNSNames = []string{name}
		}
		if ip != "" {
			o.IPs = []netip.Addr{netip.MustParseAddr(ip)}
		}
		_, err := ca.Sign(csr, o)
		return err
	}
	for _, test := range []struct {
		ca       *CA
		name, ip string
		good     bool
	}{
		{ca, "db1.example", "192.0.2.9", true},
		{ca, "db1.other", "", false},
		{ca, "", "192.0.3.1", false},
		{ca, "", "2001:db8::1", false},
		{namesOnly, "db1.example", "", true},
		{namesOnly, "", "192.0.2.9", false},
		{namesOnly, "", "2001:db8::1", false},
		{ipsOnly, "", "192.0.2.9", true},
		{ipsOnly, "db1.example", "", false},
	} {
		if err := sign(test.ca, test.name, test.ip); (err == nil) != test.good {
			t.Errorf("%q %q: %v, want good: %v", test.name, test.ip, err, test.good)
		}
	}
}

func codes(reasons []Reason) []ReasonCode {
	var all []ReasonCode
	for _, r := range reasons {
		all = append(all, r.Code)
	}
	return all
}

func TestJudge(t *testing.T) {
	ca := newCA(t, CAOptions{})
	sameName, other := newCA(t, CAOptions{}), newCA(t, CAOptions{CommonName: "other CA"})
	leafPEM, err := ca.Sign(request(t, newKey(t)), serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := Inspect(leafPEM)
	if err != nil {
		t.Fatal(err)
	}
	caLeaf, err := Inspect(ca.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	tests := []struct {
		name string
		leaf Leaf
		edit func(*Want)
		want []ReasonCode
		text string
	}{
		{"fine", leaf, func(*Want) {}, nil, ""},
		{"names in another order and case", leaf, func(w *Want) { w.DNSNames = []string{"DB1", "db1.example"} }, nil, ""},
		{"a day before a third is left", leaf, func(w *Want) { w.Now = now.Add(59 * day) }, nil, ""},
		{"a third left", leaf, func(w *Want) { w.Now = now.Add(60 * day) }, []ReasonCode{Expiring}, "it expires on 2026-05-30"},
		{"own limit", leaf, func(w *Want) { w.RenewBefore = 89 * day; w.Now = now.Add(2 * day) }, []ReasonCode{Expiring}, ""},
		{"expired", leaf, func(w *Want) { w.Now = now.Add(91 * day) }, []ReasonCode{Expired}, "2026-05-30"},
		{"too early", leaf, func(w *Want) { w.Now = now.Add(-day) }, []ReasonCode{NotYetValid}, ""},
		{"missing name", leaf, func(w *Want) { w.DNSNames = append(w.DNSNames, "db.example") }, []ReasonCode{MissingName}, "the name db.example is missing"},
		{"missing address", leaf, func(w *Want) { w.IPs = append(w.IPs, netip.MustParseAddr("192.0.2.2")) }, []ReasonCode{MissingName}, "the address 192.0.2.2"},
		{"extra name", leaf, func(w *Want) { w.DNSNames = w.DNSNames[:1] }, []ReasonCode{ExtraName}, "the name db1 is not declared"},
		{"another CA", leaf, func(w *Want) { w.CA = other.Certificate() }, []ReasonCode{WrongCA}, "CN=other CA"},
		{"another CA of the same name", leaf, func(w *Want) { w.CA = sameName.Certificate() }, []ReasonCode{WrongCA}, "of the same name"},
		{"another key", leaf, func(w *Want) { w.PublicKeySHA256 = strings.Repeat("0", 64) }, []ReasonCode{WrongKey}, ""},
		{"a CA's", caLeaf, func(w *Want) { w.DNSNames, w.IPs = nil, nil }, []ReasonCode{IsCA}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := serverOptions()
			w := Want{DNSNames: o.DNSNames, IPs: o.IPs, CA: ca.Certificate(), Now: now, PublicKeySHA256: test.leaf.PublicKeySHA256}
			test.edit(&w)
			reasons := Judge(test.leaf, w)
			if got := codes(reasons); !slices.Equal(got, test.want) {
				t.Errorf("reasons %v, want %v", reasons, test.want)
			}
			if test.text != "" && (len(reasons) == 0 || !strings.Contains(reasons[0].String(), test.text)) {
				t.Errorf("reasons %v do not say %q", reasons, test.text)
			}
		})
	}
}

// TestOpenSSL has OpenSSL, which hosts and clients use, make the request and verify
// the certificate.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(openssl, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem", "-out", "csr.pem", "-subj", "/CN=ignored")
	csr, err := os.ReadFile(filepath.Join(dir, "csr.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca := newCA(t, CAOptions{PermittedDomains: []string{"example", "db1"}, PermittedIPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}})
	leafPEM, err := ca.Sign(csr, serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := Inspect(leafPEM)
	if err != nil {
		t.Fatal(err)
	}
	write("leaf.pem", leafPEM)
	write("ca.pem", ca.CertificatePEM())
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	write("cakey.pem", key.Expose())
	verify := []string{"verify", "-x509_strict", "-purpose", "sslserver", "-attime", fmt.Sprint(now.Unix()), "-CAfile", "ca.pem"}
	run(append(verify, "-verify_hostname", "db1.example", "leaf.pem")...)
	run(append(verify, "-verify_ip", "192.0.2.1", "leaf.pem")...)
	run(append(verify, "-verify_ip", "2001:db8::1", "leaf.pem")...)
	cmd := exec.Command(openssl, append(verify, "-verify_hostname", "ignored", "leaf.pem")...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("openssl accepts the request's own name: %s", out)
	}
	if out := run("pkey", "-in", "cakey.pem", "-noout", "-text"); !strings.Contains(out, "P-256") {
		t.Error("openssl does not read the CA's key as P-256")
	}
	run("pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "public.der")
	public, err := os.ReadFile(filepath.Join(dir, "public.der"))
	if err != nil || hexSHA256(public) != leaf.PublicKeySHA256 {
		t.Errorf("openssl's public key differs from %s: %v", leaf.PublicKeySHA256, err)
	}
	fingerprint := strings.ToLower(strings.ReplaceAll(run("x509", "-in", "leaf.pem", "-noout", "-fingerprint", "-sha256"), ":", ""))
	if !strings.Contains(fingerprint, leaf.Fingerprint) {
		t.Errorf("openssl's %s differs from %s", fingerprint, leaf.Fingerprint)
	}
}

func FuzzInspect(f *testing.F) {
	ca, err := NewCA(CAOptions{CommonName: "fuzz", Now: now})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.CertificatePEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if leaf, err := Inspect(b); err == nil {
			Judge(leaf, Want{CA: ca.cert, Now: now})
		}
	})
}
