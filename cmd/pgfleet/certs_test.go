package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// TestCertsInitFinishes has certs init end what was cut off between the certificate and
// the promotion of its key, and not what is of another CA.
func TestCertsInitFinishes(t *testing.T) {
	for _, own := range []bool{true, false} {
		home := t.TempDir()
		dir, _, err := initIn(t, home)
		if err != nil {
			t.Fatal(err)
		}
		file, secret := filepath.Join(dir, caFile), filepath.Join(dir, secretFile(caSecret))
		if err := os.Remove(secret); err != nil {
			t.Fatal(err)
		}
		made, err := pki.NewCA(pki.CAOptions{CommonName: "cut off", Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		key, err := made.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		if own {
			if err := os.WriteFile(file, made.CertificatePEM(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		outFile, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer outFile.Close()
		term := terminal{Out: outFile, Err: outFile, LookupEnv: os.LookupEnv}
		a := &app{ui: newUI(term), term: term, fleet: filepath.Join(dir, fleetFile)}
		resolver, err := a.secretStores(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		store, err := resolver.WritableStore("age")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Put(t.Context(), caSecret, secrets.Change{Set: map[string]secrets.Secret{"key": key}}); err != nil {
			t.Fatal(err)
		}
		err = a.certsInit(t.Context(), caOptions{lifetime: "10d"})
		entry, getErr := store.Get(t.Context(), caSecret, "")
		if own && (err != nil || getErr != nil || !entry.Keys["key"].Equal(key)) {
			t.Errorf("what was cut off is not finished: %v, %v", err, getErr)
		}
		if !own && (err == nil || !strings.Contains(err.Error(), "does not hold its key") || getErr == nil) {
			t.Errorf("a key that is not that of %s: %v, %v", caFile, err, getErr)
		}
		if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
			t.Errorf("%s has changed, %v", caFile, err)
		}
	}
}
