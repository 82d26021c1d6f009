package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// secretFile is where the store of kind age keeps a secret.
func secretFile(secret string) string { return filepath.Join(secretsDir, secret+".age") }

// makeCA makes the fleet's CA, with its key encrypted for the recipients, of whom the
// identity is one. Passwords are made by the first rotation.
func (s *staging) makeCA(ctx context.Context, fleet, identity string, recipients []string) error {
	ca, err := newFleetCA(fleet, pki.CAOptions{Now: time.Now()})
	if err != nil {
		return err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	resolver, err := secrets.NewResolver(secrets.Config{Dir: s.tmp, Age: secrets.AgeConfig{
		Dir: secretsDir, Identities: []string{identity}, Recipients: recipients,
	}})
	if err != nil {
		return err
	}
	store, err := resolver.WritableStore("age")
	if err != nil {
		return err
	}
	if err := s.keep(ctx, store, caSecret, "key", key); err != nil {
		return err
	}
	return s.write(caFile, string(ca.CertificatePEM()))
}

// keep writes a secret that is not there yet.
func (s *staging) keep(ctx context.Context, store secrets.WritableStore, secret, key string, value secrets.Secret) error {
	version, err := store.Put(ctx, secret, secrets.Change{Set: map[string]secrets.Secret{key: value}, IfCurrent: secrets.NoVersion})
	if err != nil {
		return err
	}
	if err := store.Promote(ctx, secret, version); err != nil {
		return err
	}
	s.names = append(s.names, secretFile(secret))
	return nil
}

// An ageKey is the operator's age identity, without its secret.
type ageKey struct {
	path      string
	name      string // as fleet.toml names it
	recipient string
}

// ageIdentity returns the operator's identity, made now where there is none.
func ageIdentity(lookupEnv func(string) (string, bool)) (key ageKey, made bool, err error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return key, false, fmt.Errorf("where to keep an age identity: %w", err)
	}
	key.path = filepath.Join(config, "pgfleet", "identity.txt")
	key.name = key.path
	if home, _ := lookupEnv("HOME"); home != "" {
		if rest, ok := strings.CutPrefix(key.path, filepath.Clean(home)+"/"); ok {
			key.name = "~/" + rest // every colleague has one there
		}
	}
	f, err := os.Open(key.path)
	if errors.Is(err, fs.ErrNotExist) {
		key.recipient, err = makeIdentity(key.path)
		return key, true, err
	}
	if err != nil {
		return key, false, err
	}
	defer f.Close()
	found, err := age.ParseIdentities(f)
	if err != nil {
		return key, false, fmt.Errorf("%s is no age identity that can be used without a passphrase; move it elsewhere, and init makes one", key.path)
	}
	for _, id := range found {
		switch id := id.(type) {
		case *age.X25519Identity:
			key.recipient = id.Recipient().String()
		case *age.HybridIdentity:
			key.recipient = id.Recipient().String()
		}
	}
	if key.recipient == "" {
		return key, false, fmt.Errorf("%s holds no age identity; move it elsewhere, and init makes one", key.path)
	}
	return key, false, nil
}

// makeIdentity writes a new identity in the form of age-keygen and returns its
// recipient.
func makeIdentity(path string) (string, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(f, "# created: %s\n# public key: %s\n%s\n", time.Now().Format(time.RFC3339), id.Recipient(), id)
	if err == nil {
		err = f.Sync()
	}
	return id.Recipient().String(), errors.Join(err, f.Close())
}
