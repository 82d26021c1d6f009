package secrets_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// countingStore counts how often it is asked, and fails as often as it is told.
type countingStore struct {
	secrets.Store
	asked, failures atomic.Int32
}

func (s *countingStore) Name() string { return "counting" }

func (s *countingStore) Get(ctx context.Context, path, version string) (secrets.Entry, error) {
	s.asked.Add(1)
	if s.failures.Add(-1) >= 0 {
		return secrets.Entry{}, &secrets.Error{Store: "counting", Path: path, Err: errors.New("the store is down")}
	}
	return s.Store.Get(ctx, path, version)
}

func TestResolverReadsOnce(t *testing.T) {
	store := &countingStore{Store: secrets.NewEnvStore(lookupIn(map[string]string{"A": "value-of-a", "B": "value-of-b"}))}
	store.failures.Store(1)
	redactor := secrets.NewRedactor()
	r := resolver(t, secrets.Config{Stores: []secrets.Store{store}, Redactor: redactor})
	a, b := mustRef(t, "counting:A"), mustRef(t, "counting:B")
	if _, _, err := r.Resolve(t.Context(), a); err == nil {
		t.Fatal("a store that is down gives a value")
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			lookup, err := r.Lookup(t.Context(), a, b)
			if err != nil {
				t.Error(err)
				return
			}
			if s, ok := lookup(a); !ok || string(s.Expose()) != "value-of-a" {
				t.Error("wrong value")
			}
			if _, ok := lookup(a.At("x")); ok {
				t.Error("lookup knows what was not asked for")
			}
		})
	}
	wg.Wait()
	if n := store.asked.Load(); n != 3 {
		t.Errorf("the store was asked %d times, want 3 (one failed)", n)
	}
	if got := redactor.String("it is value-of-a"); got != "it is ••••" {
		t.Errorf("the redactor does not know the value: %q", got)
	}
	r.Forget("counting", "A")
	if _, _, err := r.Resolve(t.Context(), a); err != nil || store.asked.Load() != 4 {
		t.Errorf("after Forget: %v, asked %d times", err, store.asked.Load())
	}
}

func TestResolverVersions(t *testing.T) {
	dir := t.TempDir()
	digester, err := secrets.LoadDigester(filepath.Join(dir, "state", "digest-key"))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"A": "first"}
	config := secrets.Config{LookupEnv: lookupIn(env), Digester: digester}
	ref := mustRef(t, "env:A")
	_, version, err := resolver(t, config).Resolve(t.Context(), ref)
	if err != nil || !strings.HasPrefix(version, "hmac-") {
		t.Fatalf("version %q, %v", version, err)
	}
	if err := ref.At(version).Check(); err != nil {
		t.Error(err)
	}
	if _, again, err := resolver(t, config).Resolve(t.Context(), ref.At(version)); err != nil || again != version {
		t.Errorf("the same value has version %q, then %q, %v", version, again, err)
	}
	env["A"] = "second"
	if _, _, err := resolver(t, config).Resolve(t.Context(), ref.At(version)); !errors.Is(err, secrets.ErrChanged) {
		t.Errorf("a changed value: %v", err)
	}
	if _, _, err := resolver(t, config).Resolve(t.Context(), ref.At("7")); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("version 7 of a variable: %v", err)
	}
	config.Digester = nil
	if _, version, err := resolver(t, config).Resolve(t.Context(), ref); err != nil || version != "" {
		t.Errorf("without a digester: version %q, %v", version, err)
	}
}

func TestResolverErrors(t *testing.T) {
	r := resolver(t, secrets.Config{Dir: t.TempDir(), LookupEnv: lookupIn(map[string]string{"EMPTY": ""})})
	for ref, want := range map[string]string{
		"vault:a":     "there is no secret store \"vault\" (there are age, env, file)",
		"env:MISSING": "secret env:MISSING: environment variable not found; set and export MISSING",
		"env:EMPTY":   "empty",
		"env:A-B":     "only letters, digits",
		"file:nosuch": "there is no file",
		"file:.":      "not a regular file",
		"age:nosuch":  "there is no file",
	} {
		_, _, err := r.Resolve(t.Context(), mustRef(t, ref))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
	for _, name := range []string{"env", "file"} {
		if _, err := r.WritableStore(name); !errors.Is(err, secrets.ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := secrets.NewResolver(secrets.Config{Stores: []secrets.Store{secrets.NewEnvStore(os.LookupEnv)}}); err == nil {
		t.Error("two stores of the same name")
	}
}

func TestDigester(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a", "key")
	var wg sync.WaitGroup
	digests := make([]string, 8)
	content := []byte("listen_addresses = '*'\n")
	for i := range digests {
		wg.Go(func() {
			d, err := secrets.LoadDigester(file)
			if err != nil {
				t.Error(err)
				return
			}
			digests[i] = d.Digest(secrets.New(content))
		})
	}
	wg.Wait()
	for _, d := range digests {
		if d != digests[0] || !strings.HasPrefix(d, "hmac:") || len(d) != len("hmac:")+64 {
			t.Fatalf("digests %q", digests)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	d, err := secrets.LoadDigester(file)
	if err != nil {
		t.Fatal(err)
	}
	sum, other := sha256.Sum256(content), sha256.Sum256([]byte("x"))
	for _, digest := range []string{digests[0], secrets.PlainDigest(content)} {
		if !d.Matches(digest, sum) || d.Matches(digest, other) {
			t.Errorf("Matches is wrong for %s", digest)
		}
	}
	if d.Matches("", sum) || d.Matches("hmac:", sum) {
		t.Error("an empty digest matches")
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.LoadDigester(file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	write(t, file, "nonsense")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.LoadDigester(file); err == nil || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a damaged key: %v", err)
	}
}
