package records

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// certificate returns a client certificate of the role, and its CA.
func certificate(t *testing.T, role string) ([]byte, *pki.CA) {
	t.Helper()
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "test CA", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(t.Context(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), pki.Options{CommonName: role, Usage: pki.Client, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return cert, ca
}

func TestAddAndList(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "certs"))
	if list, err := f.List(); err != nil || len(list) != 0 {
		t.Errorf("no folder: %v, %v", list, err)
	}
	var roles []string
	for _, role := range []string{"app", "App User", "../../etc/passwd", ".hidden", "-rf", "größe", "a/b\x00\n"} {
		cert, _ := certificate(t, role)
		for range 2 { // the second time nothing happens
			name, err := f.Add(cert)
			if err != nil {
				t.Fatalf("%q: %v", role, err)
			}
			if name != filepath.Base(name) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-%") != "" || strings.ContainsAny(name[:1], ".-") {
				t.Errorf("%q has the file name %q", role, name)
			}
		}
		roles = append(roles, role)
	}
	list, err := f.List()
	if err != nil || len(list) != len(roles) {
		t.Fatalf("%d certificates, %v", len(list), err)
	}
	for _, c := range list {
		if !slices.Contains(roles, c.Leaf.CommonName) || c.Leaf.Serial != c.Cert.SerialNumber.Text(16) {
			t.Errorf("%q is listed", c.Leaf.CommonName)
		}
	}
	if of := Of(list, "app"); len(of) != 1 || of[0].File != "app-"+of[0].Leaf.Serial+".pem" {
		t.Errorf("certificates of app: %v", of)
	}
	info, err := os.Stat(filepath.Join(f.Path(), list[0].File))
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// Names that are long have files of their own, whose names a file system takes.
func TestLongNames(t *testing.T) {
	seen := map[string]bool{}
	for _, end := range []string{"a", "b"} {
		for _, name := range []string{strings.Repeat(" ", 62) + end, strings.Repeat(" ", 100) + end} {
			file := Name(name) + "-" + strings.Repeat("f", 40) + extension
			if seen[file] || len(file) > 255 {
				t.Errorf("%q has the file %s, of %d bytes", name, file, len(file))
			}
			seen[file] = true
		}
	}
}

func TestForeignFiles(t *testing.T) {
	f := Open(t.TempDir())
	cert, ca := certificate(t, "app")
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"renamed.pem": cert, "README.md": []byte("text"), "empty.pem": nil, "key.pem": append(slices.Clone(cert), key.Expose()...),
	} {
		if err := os.WriteFile(filepath.Join(f.Path(), name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list, err := f.List()
	if len(list) != 1 || list[0].File != "renamed.pem" {
		t.Errorf("listed: %v", list)
	}
	for _, want := range []string{"key.pem: there is a private key in it", "empty.pem: there is no certificate in it"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := f.Add(append(slices.Clone(cert), key.Expose()...)); err == nil {
		t.Error("a key is added")
	}
}

func TestRevoke(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "certs"))
	_, ca := certificate(t, "app")
	issuer := Issuer(ca.Certificate())
	other := strings.Repeat("0a", 32)
	revoke := func(r Revocation, want int) {
		t.Helper()
		added, err := f.Revoke(r)
		if err != nil || len(added) != want {
			t.Fatalf("%v: added %v, %v", r, added, err)
		}
	}
	if list, err := f.Revoked(""); err != nil || len(list) != 0 {
		t.Errorf("no file: %v, %v", list, err)
	}
	first := Revocation{Serial: "0A:1b", Issuer: strings.ToUpper(issuer), Subject: "CN=\"a\\pp\"\n\x7f", At: now.Add(time.Millisecond), Reason: "keyCompromise"}
	revoke(first, 1)
	revoke(first, 0)
	revoke(Revocation{Serial: "a1b", Issuer: other, At: now}, 1)
	revoke(Revocation{Serial: "ff", Issuer: issuer, At: now}, 1)
	// What people write stays as it is.
	path := filepath.Join(f.Path(), RevokedFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "# the laptop that was stolen"...)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	revoke(Revocation{Serial: "2", Issuer: issuer, At: now}, 1)
	after, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(after), string(text)+"\n\n[[revoked]]\nserial = \"2\"\n") {
		t.Errorf("the file is now\n%s", after)
	}
	list, err := f.Revoked(issuer)
	if err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	want := Revocation{Serial: "a1b", Issuer: issuer, Subject: first.Subject, At: now, Reason: "keyCompromise"}
	if list[0] != want || list[1].Serial != "ff" || list[2].Serial != "2" {
		t.Errorf("%+v", list)
	}
	if list[0].Number().Int64() != 0xa1b || list[0].ReasonCode() != 1 || list[1].ReasonCode() != 0 {
		t.Errorf("number %v, reason %d", list[0].Number(), list[0].ReasonCode())
	}
	// The last entry of a certificate counts.
	revoke(Revocation{Serial: "2", Issuer: issuer, At: now, Reason: RemoveFromCRL}, 1)
	if list, err := f.Revoked(issuer); err != nil || len(list) != 3 || !list[2].Restored() || len(InForce(list)) != 2 {
		t.Errorf("taken back: %+v, %v", list, err)
	}
	revoke(Revocation{Serial: "2", Issuer: issuer, At: now}, 1)
	if list, err := f.Revoked(issuer); err != nil || len(InForce(list)) != 3 {
		t.Errorf("revoked again: %+v, %v", list, err)
	}
	if _, err := f.Revoke(Revocation{Serial: "1", Issuer: issuer, At: now, Reason: "lost"}); err == nil || !strings.Contains(err.Error(), `reason "lost" is none of unspecified, keyCompromise`) {
		t.Errorf("an unknown reason: %v", err)
	}
}

// TestRevokeAtOnce has several write at the same time.
func TestRevokeAtOnce(t *testing.T) {
	dir := t.TempDir()
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			if _, err := Open(dir).Revoke(Revocation{Serial: fmt.Sprintf("%x", i+1), Issuer: strings.Repeat("00", 32), At: now}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if list, err := Open(dir).Revoked(""); err != nil || len(list) != 20 {
		t.Errorf("%d revocations, %v", len(list), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v", entries)
	}
}

func TestMistakes(t *testing.T) {
	good := "[[revoked]]\nserial = \"1\"\nissuer = \"" + strings.Repeat("00", 32) + "\"\nat = 2026-11-26T12:00:00Z\n"
	for _, test := range []struct{ text, want string }{
		{strings.Replace(good, `"1"`, `"g"`, 1), `:2:10: serial "g" is not a serial number`},
		{strings.Replace(good, `"1"`, `"-1"`, 1), `:2:10: serial`},
		{strings.Replace(good, "00", "zz", 1), `:3:10: issuer`},
		{strings.Replace(good, "at = ", "when = ", 1), `:4:1: unknown key "when"`},
		{good + "reason = \"lost\"\n", `:5:10: reason "lost" is none of`},
		{"[[revoked]]\n", ":1:3: serial"},
		{good + "serial = \"2\"\n", ":5:1:"},
		{"[[", ":1:"},
	} {
		f := Open(t.TempDir())
		path := filepath.Join(f.Path(), RevokedFile)
		if err := os.WriteFile(path, []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Revoked(""); err == nil || !strings.Contains(err.Error(), path+test.want) {
			t.Errorf("%q: error %v, want %q", test.text, err, test.want)
		}
		if _, err := f.Revoke(Revocation{Serial: "5", Issuer: strings.Repeat("00", 32), At: now}); err == nil {
			t.Errorf("%q is written to", test.text)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != test.text {
			t.Errorf("%q has become %q", test.text, after)
		}
	}
}
