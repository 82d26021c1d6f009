package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// OpenSSL refuses under name constraints just those common names that are refused here.
func TestCommonNamesUnderConstraints(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("there is no openssl")
	}
	at := time.Now()
	for _, o := range []CAOptions{{PermittedDomains: []string{"example.org"}}, {PermittedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, {}} {
		o.CommonName, o.Now = "test CA", at
		ca, err := NewCA(o)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		write := func(name string, text []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("ca.pem", ca.CertificatePEM())
		for _, name := range []string{"app", "app.reader", "app.example.org", "APP.EXAMPLE.ORG", "appexample.org", "example.org", "a b.c", ".app", "app.", "a..b", "a-.b", "a.-b", "a_b.c", "größe.org", "-a.b", "1.2"} {
			key := newKey(t)
			cert, err := create(&x509.Certificate{
				Subject: pkix.Name{CommonName: name}, NotBefore: at.Add(-time.Minute), NotAfter: at.Add(time.Hour),
				KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
			}, ca.cert, key.Public(), ca.key())
			if err != nil {
				t.Fatal(err)
			}
			write("leaf.pem", encodeCertificate(cert))
			cmd := exec.Command("openssl", "verify", "-purpose", "sslclient", "-CAfile", "ca.pem", "leaf.pem")
			cmd.Dir = dir
			out, verifyErr := cmd.CombinedOutput()
			_, signErr := ca.Sign(request(t, key), Options{CommonName: name, Usage: Client, Now: at})
			if (verifyErr == nil) != (signErr == nil) {
				t.Errorf("%q, permitted %v: here %v, and openssl says %s", name, o.PermittedDomains, signErr, out)
			}
		}
	}
}

func TestCheckNameAndAddress(t *testing.T) {
	domains := newCA(t, CAOptions{PermittedDomains: []string{"example.org"}})
	networks := newCA(t, CAOptions{PermittedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	for _, test := range []struct {
		ca   *CA
		name string
		want string
	}{
		{domains, "db.example.org", ""},
		{domains, "*.example.org", ""},
		{domains, "db.example.com", "may not sign for the name db.example.com: its name constraints permit example.org"},
		{domains, "-db.example.org", "is not a host name"},
		{domains, "10.0.0.1", "may not sign for the address 10.0.0.1"},
		{networks, "10.0.0.1", ""},
		{networks, "::ffff:10.0.0.1", ""},
		{networks, "11.0.0.1", "permit 10.0.0.0/8"},
		{networks, "fd00::1", "permit 10.0.0.0/8"},
		{networks, "db", "may not sign for the name db"},
	} {
		cas := []*x509.Certificate{test.ca.Certificate()}
		addr, err := netip.ParseAddr(test.name)
		if err == nil {
			err = CheckAddress(addr, cas)
		} else {
			err = CheckName(test.name, cas)
		}
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// A first name that a common name has no room for is left to the alternative names.
func TestFirstCommonName(t *testing.T) {
	long := strings.Repeat("a", 60) + ".example.org"
	if got := FirstCommonName([]string{long, "db"}); got != "db" {
		t.Errorf("the common name is %q", got)
	}
	text, err := newCA(t, CAOptions{}).Sign(request(t, newKey(t)), Options{DNSNames: []string{long}, CommonName: FirstCommonName([]string{long}), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := Inspect(text)
	if err != nil || leaf.CommonName != "" || leaf.DNSNames[0] != long {
		t.Errorf("%+v, %v", leaf, err)
	}
}
