package rollout

import (
	"errors"
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
		ca, err := pki.NewCA(pki.CAOptions{CommonName: name, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		cas = append(cas, ca)
	}
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
	lists := func(of ...*pki.CA) (issuers []string, err error) {
		run := &Run{Resolver: resolver()}
		if err := run.Resolve(t.Context(), []secrets.Ref{ref}); err != nil {
			t.Fatal(err)
		}
		a := tasks.WriteRevocationLists{Lifetime: time.Hour}
		for _, ca := range of {
			a.Lists = append(a.Lists, tasks.RevocationList{CA: ca.CertificatePEM(), Name: ca.Certificate().Subject.CommonName, Key: ref})
		}
		text, err := run.revocationLists(t.Context(), a)
		if err != nil {
			return nil, err
		}
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
	run := &Run{Resolver: resolver()}
	if err := run.Resolve(t.Context(), []secrets.Ref{ref}); err != nil {
		t.Fatal(err)
	}
	if _, err := run.authority(t.Context(), cas[2].CertificatePEM(), ref); !errors.Is(err, pki.ErrOtherKey) {
		t.Errorf("another CA: %v", err)
	}
}
