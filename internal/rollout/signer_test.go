package rollout

import (
	"bytes"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
)

// While the CA changes, lists of both CAs are signed, with the key that is pending and
// then with the previous one; a CA of which there is no key is refused.
func TestKeysWhileTheCAChanges(t *testing.T) {
	dir := t.TempDir()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(dir, "identity.txt")
	if err := os.WriteFile(identity, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	resolver := func() *secrets.Resolver {
		r, err := secrets.NewResolver(secrets.Config{Dir: dir, Age: secrets.AgeConfig{Dir: "secrets", Identities: []string{identity}, Recipients: []string{id.Recipient().String()}}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	store, err := resolver().WritableStore("age")
	if err != nil {
		t.Fatal(err)
	}
	var cas []*pki.CA
	for _, name := range []string{"old CA", "new CA", "other CA"} {
		ca, err := pki.NewCA(pki.CAOptions{CommonName: name, Now: time.Now().Add(-2 * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		cas = append(cas, ca)
	}
	var written []byte
	put := func(ca *pki.CA) string {
		key, err := ca.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		version, err := store.Put(t.Context(), "ca", secrets.Change{Set: map[string]secrets.Secret{"key": key}})
		if err != nil {
			t.Fatal(err)
		}
		return version
	}
	promote := func(version string) {
		if err := store.Promote(t.Context(), "ca", version); err != nil {
			t.Fatal(err)
		}
	}
	ref := secrets.Ref{Store: "age", Path: "ca", Key: "key"}
	there := []byte(nil) // on the host
	change := func(*tasks.RevocationList) {}
	lists := func(of ...*pki.CA) (issuers []string, err error) {
		run := &Run{Resolver: resolver()}
		if err := run.Resolve(t.Context(), []secrets.Ref{ref}); err != nil {
			t.Fatal(err)
		}
		a := tasks.WriteRevocationLists{Lifetime: time.Hour}
		for _, ca := range of {
			bundle := ca.CertificatePEM()
			for _, other := range of {
				if other != ca {
					bundle = append(bundle, other.CertificatePEM()...)
				}
			}
			l := tasks.RevocationList{CA: bundle, Name: ca.Certificate().Subject.CommonName, Key: ref}
			change(&l)
			a.Lists = append(a.Lists, l)
		}
		text, err := run.revocationLists(t.Context(), a, there)
		if err != nil || len(text) == 0 {
			return nil, err
		}
		written = text
		found, err := pki.InspectCRL(text)
		for i, c := range found {
			if !c.SignedBy(of[i].Certificate()) {
				t.Errorf("the list of %s is signed by another", c.Issuer)
			}
			issuers = append(issuers, c.Issuer)
		}
		return issuers, err
	}

	promote(put(cas[0]))
	// What the host's list holds stays in it, whoever has revoked it.
	other := pki.Revocation{Serial: big.NewInt(0xbad), At: time.Now().Add(-time.Hour).Truncate(time.Second), Reason: 1}
	if there, err = cas[0].RevocationList([]pki.Revocation{other, {Serial: big.NewInt(2), At: other.At}}, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	change = func(l *tasks.RevocationList) {
		l.Revoked, l.Restored = []pki.Revocation{{Serial: big.NewInt(1), At: other.At}}, []*big.Int{big.NewInt(2)}
	}
	if _, err := lists(cas[0]); err != nil {
		t.Fatal(err)
	}
	if found, err := pki.InspectCRL(written); err != nil || !slices.Equal(found[0].Revoked, []string{"1", "bad"}) || found[0].Revocations()[1].Reason != 1 || !found[0].Revocations()[1].At.Equal(other.At) {
		t.Errorf("the list holds %v, %v", found[0].Revocations(), err)
	}
	// Of a CA that has expired nothing is signed; its list stays, if there is one.
	change = func(l *tasks.RevocationList) { l.Expired = true }
	if _, err := lists(cas[0]); err != nil || !bytes.Equal(written, there) {
		t.Errorf("an expired CA: %v\n%s", err, written)
	}
	if got, err := lists(cas[1]); err != nil || got != nil {
		t.Errorf("an expired CA without a list: %v, %v", got, err)
	}
	change, there = func(*tasks.RevocationList) {}, nil
	if _, err := lists(cas[0], cas[1]); err == nil || !strings.Contains(err.Error(), "a revocation list of new CA cannot be signed") {
		t.Errorf("without its key: %v", err)
	}
	version := put(cas[1])
	for _, stage := range []string{"pending", "current"} {
		if stage == "current" {
			promote(version)
		}
		if got, err := lists(cas[0], cas[1]); err != nil || !slices.Equal(got, []string{"CN=old CA", "CN=new CA"}) {
			t.Errorf("the new key is %s: %v, %v", stage, got, err)
		}
		if _, err := lists(cas[2]); err == nil {
			t.Errorf("the new key is %s: a list of another CA is signed", stage)
		}
	}
	// An intermediate that was followed by another, and whose key is gone: its list stays as
	// long as it is valid and holds what is revoked.
	old := func(life time.Duration, revoked ...pki.Revocation) []byte {
		text, err := cas[2].RevocationList(revoked, time.Now().Add(-time.Hour), life)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, test := range []struct {
		there []byte
		older bool
		want  string
	}{
		{old(70*time.Minute, other), true, ""},
		{old(70*time.Minute, other), false, "cannot be signed"},
		{old(30*time.Minute, other), true, "cannot be signed"},
		{old(70 * time.Minute), true, "cannot be signed"},
		{nil, true, "cannot be signed"},
	} {
		there, change = test.there, func(l *tasks.RevocationList) { l.Older, l.Revoked = test.older, []pki.Revocation{other} }
		_, err := lists(cas[2])
		if test.want == "" && (err != nil || !bytes.Equal(written, there)) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("an older intermediate: %v, want %q", err, test.want)
		}
	}
	run := &Run{Resolver: resolver()}
	if err := run.Resolve(t.Context(), []secrets.Ref{ref}); err != nil {
		t.Fatal(err)
	}
	// A file from before the rotation, in which the new CA is not: the old one, whose key
	// is the previous one, signs nothing.
	if _, err := run.authority(t.Context(), cas[0].CertificatePEM(), ref); err == nil || errors.Is(err, pki.ErrOtherKey) || !strings.Contains(err.Error(), "pull the newest ca.pem") {
		t.Errorf("the previous CA alone: %v", err)
	}
	if ca, err := run.authority(t.Context(), append(cas[0].CertificatePEM(), cas[1].CertificatePEM()...), ref); err != nil || !ca.Certificate().Equal(cas[0].Certificate()) {
		t.Errorf("the previous CA before the new one: %v, %v", ca, err)
	}
	if _, err := run.authority(t.Context(), cas[2].CertificatePEM(), ref); !errors.Is(err, pki.ErrOtherKey) {
		t.Errorf("another CA: %v", err)
	}
}
