package pki

import (
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// rotationCAs returns a CA and its successor, with the keys of both.
func rotationCAs(t *testing.T, now time.Time) (old, next *CA, oldKey, nextKey string) {
	t.Helper()
	old, err := NewCA(CAOptions{CommonName: "prod CA 2026", Now: now.Add(-time.Hour), PermittedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	pem, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := Successor([]*x509.Certificate{old.Certificate()}, pem, now)
	if err != nil {
		t.Fatal(err)
	}
	if next, err = ParseCA(EncodeBundle([]*x509.Certificate{cert}), pem); err != nil {
		t.Fatal(err)
	}
	if nextKey, err = PublicKeyOf(pem); err != nil {
		t.Fatal(err)
	}
	return old, next, KeyOf(old.Certificate()), nextKey
}

func TestSuccessor(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	old, next, _, _ := rotationCAs(t, now)
	a, b := old.Certificate(), next.Certificate()
	if b.Subject.CommonName != "prod CA 2026-2" {
		t.Errorf("it is called %q", b.Subject.CommonName)
	}
	if len(b.PermittedIPRanges) != 1 || len(b.ExcludedDNSDomains) != len(a.ExcludedDNSDomains) || !b.PermittedDNSDomainsCritical {
		t.Errorf("its name constraints are others: %v %v", b.PermittedIPRanges, b.ExcludedDNSDomains)
	}
	if !b.MaxPathLenZero || !b.IsCA {
		t.Error("it may sign further CAs")
	}
	if got := Made(b); !got.Equal(now) {
		t.Errorf("it was made at %v, want %v", got, now)
	}
	if got := nextName([]*x509.Certificate{b, a}, now.AddDate(1, 0, 0)); got != "prod CA 2027" {
		t.Errorf("the year after it would be %q", got)
	}
}

// TestFindRotation goes through a rotation write by write, so that whatever dies between
// two of them is found.
func TestFindRotation(t *testing.T) {
	now := time.Now()
	old, next, a, b := rotationCAs(t, now)
	foreign, err := NewCA(CAOptions{CommonName: "company CA", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	x, y, z := old.Certificate(), next.Certificate(), foreign.Certificate()
	for _, test := range []struct {
		name   string
		bundle []*x509.Certificate
		keys   CAKeys
		want   RotationStage
		err    string
	}{
		{"nothing", []*x509.Certificate{x}, CAKeys{Current: a}, Settled, ""},
		{"with a CA that is trusted only", []*x509.Certificate{x, z}, CAKeys{Current: a, Earlier: []string{b}}, Settled, ""},
		{"the key is written", []*x509.Certificate{x, z}, CAKeys{Current: a, Pending: b}, Begun, ""},
		{"the certificate as well", []*x509.Certificate{x, z, y}, CAKeys{Current: a, Pending: b}, Introduced, ""},
		{"the key is current", []*x509.Certificate{x, z, y}, CAKeys{Current: b, Earlier: []string{a}}, Promoted, ""},
		{"the certificate is the first", []*x509.Certificate{y, x, z}, CAKeys{Current: b, Earlier: []string{a}}, Switched, ""},
		{"the old one is gone", []*x509.Certificate{y, z}, CAKeys{Current: b, Earlier: []string{a}}, Settled, ""},
		{"taken back: pending is a copy of current", []*x509.Certificate{x}, CAKeys{Current: a, Pending: a}, Settled, ""},
		{"somebody else's file is newer", []*x509.Certificate{x}, CAKeys{Current: b, Earlier: []string{a}}, "", "pull the newest ca.pem"},
		{"another key", []*x509.Certificate{x}, CAKeys{Current: b}, "", "does not belong"},
		{"reordered by hand", []*x509.Certificate{y, x}, CAKeys{Current: a, Pending: b}, "", "does not belong"},
		{"no key", []*x509.Certificate{x}, CAKeys{}, "", "does not belong"},
		{"no certificate", nil, CAKeys{Current: a}, "", "no certificate"},
	} {
		r, err := FindRotation(test.bundle, test.keys)
		switch {
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: the error is %v, want %q", test.name, err, test.err)
		case test.err == "" && (err != nil || r.Stage != test.want):
			t.Errorf("%s: %q, %v, want %q", test.name, r.Stage, err, test.want)
		}
	}
}

func TestAwaits(t *testing.T) {
	now := time.Now().UTC()
	_, next, _, _ := rotationCAs(t, now)
	y := next.Certificate()
	leaf := func(ca *CA, name string) Leaf {
		t.Helper()
		pem, err := ca.Sign(request(t, newKey(t)), Options{CommonName: name, DNSNames: []string{name}, Usage: Client, Now: now, Validity: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		l, err := Inspect(pem)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	unconstrained, err := NewCA(CAOptions{CommonName: "plain", Now: now.Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	x := unconstrained.Certificate()
	lists := func(cas ...*CA) (all []CRL) {
		t.Helper()
		for _, ca := range cas {
			pem, err := ca.RevocationList(nil, now, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			list, err := InspectCRL(pem)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, list...)
		}
		return all
	}
	both := TrustedFile{"root.crt", []*x509.Certificate{x, y}, true, true}
	oldLeaf := FoundLeaf{"server.pem", leaf(unconstrained, "db1")}
	has := func(what string, why []string, wanted ...string) {
		t.Helper()
		if len(why) != len(wanted) {
			t.Errorf("%s: %q, want %q", what, why, wanted)
			return
		}
		for i := range why {
			if !strings.Contains(why[i], wanted[i]) {
				t.Errorf("%s: %q, want %q", what, why[i], wanted[i])
			}
		}
	}
	r := Rotation{Introduced, x, y}
	ready := []RotationPlace{{Name: "db1", Bundles: []TrustedFile{both}, Leaves: []FoundLeaf{oldLeaf}}}
	has("within the overlap", r.Awaits(ready, nil, now.Add(time.Minute), time.Hour, false), "clients have until")
	has("clients are ready", r.Awaits(ready, nil, now.Add(time.Minute), time.Hour, true))
	has("after the overlap", r.Awaits(ready, nil, now.Add(time.Hour), time.Hour, false))
	has("not everywhere", r.Awaits([]RotationPlace{
		{Name: "db1", Problem: "no route to host"},
		{Name: "db2", Bundles: []TrustedFile{{"root.crt", []*x509.Certificate{x}, true, true}}},
		{Name: "db3", Bundles: []TrustedFile{{"root.crt", []*x509.Certificate{x, y}, false, true}}},
		{Name: "db4", Lists: []ListFile{{"root.crl", lists(unconstrained), true}}},
		{Name: "db5", Lists: []ListFile{{"root.crl", lists(unconstrained, next), true}}},
		{Name: "db6", Lists: []ListFile{{"root.crl", lists(next), false}}},
	}, nil, now, 0, true), "db1: what it trusts", "db2: root.crt does not hold", "db3: the server has not read", "db4: root.crl holds no revocation list", "db6: the server has not read")
	r.Stage = Switched
	exported := []FoundLeaf{{"certs/app.pem", leaf(unconstrained, "app")}}
	has("old leaves", r.Awaits(ready, exported, now, time.Hour, false), "db1: server.pem: db1 is of plain", "certs/app.pem: app is of plain")
	has("which have expired", r.Awaits(ready, exported, now.Add(2*time.Hour), time.Hour, false))
	r.Stage = Promoted
	has("ready when it was promoted", r.Awaits(ready, exported, now, time.Hour, false))
}
