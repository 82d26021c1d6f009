package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
)

// A heldCA is the fleet's CA as it was found here: the file with its certificates, and
// the versions of its key.
type heldCA struct {
	text   []byte // of the file
	bundle []*x509.Certificate
	ref    secrets.Ref

	current, pending *secrets.Entry
	earlier          []secrets.Entry
	keys             pki.CAKeys
	versions         []secrets.Version
}

// holdCA reads the fleet's CA: its certificates, and the versions of its key where there
// is one here.
func (s *session) holdCA(ctx context.Context) (*heldCA, error) {
	h, err := s.readCA()
	if err != nil || h.ref == (secrets.Ref{}) {
		return h, err
	}
	if err := h.readKeys(ctx, s); err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	return h, nil
}

// readCA reads the certificates alone, and no store.
func (s *session) readCA() (*heldCA, error) {
	h := &heldCA{}
	name := s.fleet.CA.Certificate.Value
	var err error
	if h.text, err = s.local(name); err != nil {
		return nil, &inputError{fmt.Errorf("%s: certificate: %w", s.fleet.CA.Certificate.Pos(), err)}
	}
	if h.bundle, err = pki.ParseBundle(h.text); err != nil {
		return nil, &inputError{fmt.Errorf("%s: certificate: %s: %w", s.fleet.CA.Certificate.Pos(), name, err)}
	}
	if s.fleet.CA.Key.Value == "" {
		return h, nil
	}
	if h.ref, err = secrets.ParseRef(s.fleet.CA.Key.Value); err != nil {
		return nil, &inputError{fmt.Errorf("%s: key: %w", s.fleet.CA.Key.Pos(), err)}
	}
	return h, nil
}

// authority is what [ca] names. Where one of its files cannot be read, which was reported,
// there is the bundle alone.
func (s *session) authority(h *heldCA) *tasks.Authority {
	a, errs := tasks.LoadAuthority(s.fleet, s.local)
	if len(errs) > 0 {
		return &tasks.Authority{CA: s.fleet.CA, Bundle: h.bundle}
	}
	return a
}

// readKeys reads the versions of the key that the store keeps.
func (h *heldCA) readKeys(ctx context.Context, s *session) error {
	store, err := s.secrets.Store(h.ref.Store)
	if err != nil {
		return err
	}
	if h.versions, err = store.Versions(ctx, h.ref.Path); err != nil {
		return err
	}
	versions := h.versions
	if versions == nil { // a store that keeps none has the current one
		versions = []secrets.Version{{Stage: secrets.Current}}
	}
	for _, v := range versions {
		e, err := store.Get(ctx, h.ref.Path, v.ID)
		if err != nil && v.Stage == secrets.Retired {
			continue // some stores list what they have thrown away
		}
		if err != nil {
			return err
		}
		e.Stage = v.Stage
		key, err := h.keyOf(e, s.app.ui.redactor)
		if err != nil && (v.Stage == secrets.Retired || v.Stage == secrets.Previous) {
			continue // it held something else once
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.ref.At(string(v.Stage)), err)
		}
		switch v.Stage {
		case secrets.Current:
			h.current, h.keys.Current = &e, key
		case secrets.Pending:
			h.pending, h.keys.Pending = &e, key
		default:
			h.earlier, h.keys.Earlier = append(h.earlier, e), append(h.keys.Earlier, key)
		}
	}
	return nil
}

func (h *heldCA) keyOf(e secrets.Entry, redactor *secrets.Redactor) (string, error) {
	value, err := e.Value(h.ref.Key)
	if err != nil {
		return "", err
	}
	redactor.Add(value)
	return pki.PublicKeyOf(value)
}

// keyName is the name that the key has in its secret.
func (h *heldCA) keyName() string {
	if h.ref.Key != "" || h.current == nil {
		return h.ref.Key
	}
	return slices.Sorted(maps.Keys(h.current.Keys))[0] // its only one, or Value had failed
}

// same reports whether store and file are as they were.
func (h *heldCA) same(other *heldCA) bool {
	return bytes.Equal(h.text, other.text) && slices.EqualFunc(h.versions, other.versions, func(a, b secrets.Version) bool {
		return a.ID == b.ID && a.Stage == b.Stage
	})
}

// putKey writes a key as the pending version of the CA's, and returns its ID.
func (s *session) putKey(ctx context.Context, h *heldCA, key secrets.Secret, replace bool) (id string, err error) {
	store, err := s.writableCA(h)
	if err != nil {
		return "", err
	}
	// Who has put one in the meantime wins: IfCurrent and the store's refusal of a second
	// pending version see to that.
	id, err = store.Put(ctx, h.ref.Path, secrets.Change{
		Set: map[string]secrets.Secret{h.keyName(): key}, IfCurrent: h.current.ID, Replace: replace,
	})
	s.secrets.Forget(h.ref.Store, h.ref.Path)
	return id, err
}

func (s *session) promoteKey(ctx context.Context, h *heldCA, id string) error {
	store, err := s.writableCA(h)
	if err != nil {
		return err
	}
	err = store.Promote(ctx, h.ref.Path, id)
	s.secrets.Forget(h.ref.Store, h.ref.Path)
	return err
}

func (s *session) writableCA(h *heldCA) (secrets.WritableStore, error) {
	store, err := s.secrets.WritableStore(h.ref.Store)
	if errors.Is(err, secrets.ErrReadOnly) {
		return nil, fmt.Errorf("%w: a CA is rotated in a store that pgfleet can write to, such as age", err)
	}
	return store, err
}

// writeCA writes the file with the CA's certificates, whole or not at all, and durably:
// who reads it meanwhile, such as another pgfleet, finds the old one or the new one.
func (s *session) writeCA(text []byte) error {
	path := s.fleet.File(s.fleet.CA.Certificate.Value)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link stays one
	}
	mode := os.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".pgfleet-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
