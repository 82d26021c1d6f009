package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// authority makes a CA below another, or a root, without restriction on the path.
func authority(t *testing.T, name string, parent *CA, from time.Time, life time.Duration) *CA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	issuer, signer := template, key
	text := []byte{}
	if parent != nil {
		issuer, signer = parent.cert, parent.key().(*ecdsa.PrivateKey)
		for _, c := range append([]*x509.Certificate{parent.cert}, parent.above...) {
			text = append(text, encodeCertificate(c)...)
		}
	}
	cert, err := create(template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ParseCA(append(encodeCertificate(cert), text...), secrets.New(pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func revocations(serials ...int64) []Revocation {
	var list []Revocation
	for _, s := range serials {
		list = append(list, Revocation{Serial: big.NewInt(s), At: now.Add(-time.Hour), Reason: 1})
	}
	return list
}

func TestRevocationList(t *testing.T) {
	ca := newCA(t, CAOptions{})
	text, err := ca.RevocationList(revocations(0xbad, 7), now, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	lists, err := InspectCRL(text)
	if err != nil || len(lists) != 1 {
		t.Fatal(lists, err)
	}
	c := lists[0]
	if !slices.Equal(c.Revoked, []string{"bad", "7"}) || !c.ThisUpdate.Equal(now.Add(-time.Minute)) || !c.NextUpdate.Equal(now.Add(10*time.Minute)) ||
		!c.SignedBy(ca.Certificate()) || c.SignedBy(newCA(t, CAOptions{}).Certificate()) || c.Number.Int64() != now.UnixMilli() {
		t.Errorf("%+v", c)
	}

	want := WantCRL{CA: ca.Certificate(), Revoked: revocations(7, 0xbad), Now: now}
	other := newCA(t, CAOptions{CommonName: "other"})
	for name, test := range map[string]struct {
		change func(*WantCRL)
		codes  []ReasonCode
	}{
		"fine":       {func(*WantCRL) {}, nil},
		"half left":  {func(w *WantCRL) { w.Now = now.Add(270 * time.Second) }, []ReasonCode{Expiring}},
		"a bit more": {func(w *WantCRL) { w.Now = now.Add(260 * time.Second) }, nil},
		"expired":    {func(w *WantCRL) { w.Now = now.Add(time.Hour) }, []ReasonCode{Expired}},
		"early":      {func(w *WantCRL) { w.Now = now.Add(-time.Hour) }, []ReasonCode{NotYetValid}},
		"missing":    {func(w *WantCRL) { w.Revoked = revocations(7, 0xbad, 9) }, []ReasonCode{OtherRevoked}},
		"extra":      {func(w *WantCRL) { w.Revoked = revocations(7) }, nil},
		"taken back": {func(w *WantCRL) { w.Revoked, w.Restored = revocations(7), []*big.Int{big.NewInt(0xbad)} }, []ReasonCode{OtherRevoked}},
		"CA expired": {func(w *WantCRL) { w.Now = ca.Certificate().NotAfter }, nil},
		"other CA":   {func(w *WantCRL) { w.CA = other.Certificate() }, []ReasonCode{NoList}},
	} {
		w := want
		test.change(&w)
		var codes []ReasonCode
		for _, r := range JudgeCRL(lists, w) {
			codes = append(codes, r.Code)
		}
		if !slices.Equal(codes, test.codes) {
			t.Errorf("%s: %v, want %v", name, JudgeCRL(lists, w), test.codes)
		}
	}

	// What others have revoked stays, with its date and reason, unless it was taken back; the
	// list of another CA is of no account.
	foreign, err := other.RevocationList(revocations(0x11), now, 0)
	if err != nil {
		t.Fatal(err)
	}
	both, err := InspectCRL(append(foreign, text...))
	if err != nil {
		t.Fatal(err)
	}
	kept := KeepRevoked(both, WantCRL{CA: ca.Certificate(), Revoked: revocations(9), Restored: []*big.Int{big.NewInt(7)}})
	if len(kept) != 1 || kept[0].Serial.Int64() != 0xbad || !kept[0].At.Equal(now.Add(-time.Hour)) || kept[0].Reason != 1 {
		t.Errorf("kept: %+v", kept)
	}

	// The newest list of a CA counts, and one never outlives its CA.
	newer, err := ca.RevocationList(nil, now.Add(5*time.Minute), DefaultCAValidity*2)
	if err != nil {
		t.Fatal(err)
	}
	lists, err = InspectCRL(append(newer, text...))
	if err != nil || len(lists) != 2 {
		t.Fatal(lists, err)
	}
	if !lists[0].NextUpdate.Equal(ca.Certificate().NotAfter) {
		t.Errorf("valid until %v, the CA until %v", lists[0].NextUpdate, ca.Certificate().NotAfter)
	}
	if why := JudgeCRL(lists, WantCRL{CA: ca.Certificate(), Now: now.Add(5 * time.Minute)}); len(why) > 0 {
		t.Errorf("the newest one: %v", why)
	}
	for name, bad := range map[string]func() ([]byte, error){
		"no time":  func() ([]byte, error) { return ca.RevocationList(nil, time.Time{}, 0) },
		"negative": func() ([]byte, error) { return ca.RevocationList(nil, now, -1) },
		"expired":  func() ([]byte, error) { return ca.RevocationList(nil, now.Add(2*DefaultCAValidity), 0) },
	} {
		if _, err := bad(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	broken := append(pem.EncodeToMemory(&pem.Block{Type: blockCRL, Bytes: []byte("x")}), text...)
	if lists, err := InspectCRL(broken); err == nil || len(lists) != 1 {
		t.Errorf("beside one that is broken: %d lists, %v", len(lists), err)
	}
	if _, err := InspectCRL(ca.CertificatePEM()); err == nil {
		t.Error("a certificate is taken for a list")
	}
}

func TestParseBundle(t *testing.T) {
	a, b := newCA(t, CAOptions{CommonName: "a"}), newCA(t, CAOptions{CommonName: "b"})
	key, err := a.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.Sign(request(t, newKey(t)), serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	join := func(texts ...[]byte) []byte { return slices.Concat(texts...) }
	certs, err := ParseBundle(join([]byte("# two\n"), a.CertificatePEM(), b.CertificatePEM()))
	if err != nil || len(certs) != 2 || !certs[0].Equal(a.cert) || !certs[1].Equal(b.cert) {
		t.Errorf("%v, %v", certs, err)
	}
	for want, text := range map[string][]byte{
		"no certificate":               []byte("x"),
		"type \"TRUSTED CERTIFICATE\"": join(a.CertificatePEM(), bytes.ReplaceAll(b.CertificatePEM(), []byte("CERTIFICATE"), []byte("TRUSTED CERTIFICATE"))),
		"is in it twice":               join(a.CertificatePEM(), b.CertificatePEM(), a.CertificatePEM()),
		"CA:FALSE":                     join(a.CertificatePEM(), leaf),
		"a private key":                join(a.CertificatePEM(), key.Expose()),
		"it holds a private key":       join(a.CertificatePEM(), []byte("-----BEGIN DSA PRIVATE KEY-----\n")),
		"holds a private key; keep":    join([]byte("# AGE-SECRET-KEY-1QQQ\n"), a.CertificatePEM()),
	} {
		if _, err := ParseBundle(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "PRIVATE KEY-----") {
			t.Errorf("%s: %v", want, err)
		}
	}
	// The first certificate signs; what is trusted beside it is of no account.
	ca, err := ParseCA(join(a.CertificatePEM(), b.CertificatePEM()), key)
	if err != nil || len(ca.above) != 0 {
		t.Errorf("a bundle: %v, %v", ca, err)
	}
	if _, err := ParseCA(join(b.CertificatePEM(), a.CertificatePEM()), key); !errors.Is(err, ErrOtherKey) {
		t.Errorf("another's key: %v", err)
	}
}

func TestBackdate(t *testing.T) {
	ca := authority(t, "root", nil, now.Add(-24*time.Hour), 48*time.Hour)
	for life, back := range map[time.Duration]time.Duration{2 * time.Minute: 12 * time.Second, 10 * time.Hour: 5 * time.Minute} {
		o := serverOptions()
		o.Validity = life
		text, err := ca.Sign(request(t, newKey(t)), o)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := Inspect(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := now.Sub(leaf.NotBefore); got != back || !leaf.NotAfter.Equal(now.Add(life)) {
			t.Errorf("%v is valid from %v before now until %v", life, got, leaf.NotAfter)
		}
		// A third of the whole is left.
		due := leaf.NotAfter.Add(-leaf.Lifetime() / 3)
		want := Want{DNSNames: o.DNSNames, IPs: o.IPs, CA: ca.cert, Now: due.Add(-time.Second)}
		if why := Judge(leaf, want); len(why) > 0 {
			t.Errorf("%v: %v", life, why)
		}
		want.Now = due
		if why := Judge(leaf, want); len(why) != 1 || why[0].Code != Expiring {
			t.Errorf("%v: %v", life, why)
		}
	}
}

// What intermediates sign is accepted by OpenSSL behind their certificates, with the
// lists of all of them, and refused once it is revoked or a list is missing.
func TestIntermediates(t *testing.T) {
	root := authority(t, "root", nil, now.Add(-time.Hour), 1000*time.Hour)
	middle := authority(t, "middle", root, now.Add(-time.Hour), 100*time.Hour)
	ca := authority(t, "issuing", middle, now.Add(-time.Hour), 200*time.Hour)
	if len(ca.above) != 2 {
		t.Fatalf("above it are %d", len(ca.above))
	}
	text, err := ca.Issue(t.Context(), request(t, newKey(t)), serverOptions())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := Inspect(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.After()) != 2 || !leaf.After()[0].Equal(ca.cert) || !leaf.After()[1].Equal(middle.cert) {
		t.Errorf("%d certificates follow", len(leaf.After()))
	}
	if !leaf.NotAfter.Equal(middle.cert.NotAfter) {
		t.Errorf("valid until %v, and what is above only until %v", leaf.NotAfter, middle.cert.NotAfter)
	}
	chain, roots := []*x509.Certificate{ca.cert, middle.cert}, []*x509.Certificate{newCA(t, CAOptions{}).cert, root.cert}
	if err := CheckChain(chain, roots); err != nil {
		t.Error(err)
	}
	if err := CheckChain(chain[:1], roots); err == nil {
		t.Error("a chain with a gap is accepted")
	}
	o := serverOptions()
	want := Want{DNSNames: o.DNSNames, IPs: o.IPs, Now: now, Roots: roots}
	if why := Judge(leaf, want); len(why) > 0 {
		t.Errorf("without the CA: %v", why)
	}
	want.CA = ca.cert
	if why := Judge(leaf, want); len(why) > 0 {
		t.Error(why)
	}
	alone, err := Inspect(encodeCertificate(leaf.cert))
	if err != nil {
		t.Fatal(err)
	}
	if why := Judge(alone, want); len(why) != 1 || why[0].Code != WrongChain {
		t.Errorf("without what follows: %v", why)
	}
	want.Roots = roots[:1]
	if why := Judge(leaf, want); len(why) != 1 || why[0].Code != WrongChain {
		t.Errorf("to another root: %v", why)
	}

	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	dir := t.TempDir()
	write := func(name string, b ...[]byte) {
		if err := os.WriteFile(filepath.Join(dir, name), slices.Concat(b...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := func(ca *CA, revoked ...Revocation) []byte {
		b, err := ca.RevocationList(revoked, now, 0)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	serial, _ := new(big.Int).SetString(leaf.Serial, 16)
	write("leaf.pem", text)
	write("root.pem", root.CertificatePEM())
	write("crl.pem", list(ca, revocations(1)...), list(middle), list(root))
	write("missing.pem", list(ca), list(middle))
	write("revoked.pem", list(ca, Revocation{Serial: serial, At: now, Reason: 1}), list(middle), list(root))
	for name, says := range map[string]string{"crl.pem": "OK", "missing.pem": "unable to get certificate CRL", "revoked.pem": "certificate revoked"} {
		cmd := exec.Command(openssl, "verify", "-x509_strict", "-crl_check_all", "-attime", fmt.Sprint(now.Unix()), "-CAfile", "root.pem", "-CRLfile", name, "-untrusted", "leaf.pem", "leaf.pem")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), says) || (err == nil) != (says == "OK") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}

func FuzzInspectCRL(f *testing.F) {
	ca, err := NewCA(CAOptions{CommonName: "fuzz", Now: now})
	if err != nil {
		f.Fatal(err)
	}
	text, err := ca.RevocationList(revocations(1), now, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(_ *testing.T, b []byte) {
		if lists, err := InspectCRL(b); err == nil {
			JudgeCRL(lists, WantCRL{CA: ca.cert, Now: now})
		}
	})
}
