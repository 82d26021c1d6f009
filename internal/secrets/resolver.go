package secrets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// hmacVersion begins the version of a value whose store keeps no versions. What
// follows is the start of an HMAC of the value, which tells nothing without the
// operator's key.
const hmacVersion = "hmac-"

// A Config says where secrets are read from: the [secrets] table of fleet.toml.
type Config struct {
	// Dir is the folder of fleet.toml, from which relative paths are seen.
	Dir string
	// Age is the store "age".
	Age AgeConfig
	// Ages are further stores of that kind, by other names.
	Ages []AgeConfig
	// LookupEnv reads the environment; nil means os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// Passphrase asks the user for the passphrase of a protected identity. It may
	// be called from any goroutine, once at a time. If it is nil, such identities
	// are an error.
	Passphrase func(prompt string) (Secret, error)
	// Digester, if not nil, gives a version to values whose store keeps none, so
	// that a saved plan notices when they have changed.
	Digester *Digester
	// Redactor, if not nil, is told of each value that is read.
	Redactor *Redactor
	// Stores are further stores, by their own names.
	Stores []Store
}

// A Resolver reads the values of references and keeps them, so that each is read
// once and stays the same for a whole run. It may be used by several goroutines at
// once.
type Resolver struct {
	stores   map[string]Store
	digester *Digester
	redactor *Redactor

	mu    sync.Mutex
	slots map[slotKey]*slot
}

type slotKey struct{ store, path, version string }

// A slot is one entry that has been read, or is being read by who took from lock.
type slot struct {
	lock  chan struct{} // holds one value while nobody reads
	entry *Entry        // nil until a read succeeded
}

// NewResolver returns a Resolver with the stores env, file and age, and those in
// c.Ages and c.Stores. Nothing is read yet: a missing identity is an error only once a secret
// needs it.
func NewResolver(c Config) (*Resolver, error) {
	lookup := c.LookupEnv
	if lookup == nil {
		lookup = os.LookupEnv
	}
	stores := []Store{NewEnvStore(lookup), NewFileStore(c.Dir, lookup)}
	for _, a := range append([]AgeConfig{c.Age}, c.Ages...) {
		age, err := newAgeStore(a, c.Dir, lookup, c.Passphrase)
		if err != nil {
			return nil, err
		}
		stores = append(stores, age)
	}
	r := &Resolver{
		stores:   make(map[string]Store),
		digester: c.Digester,
		redactor: c.Redactor,
		slots:    make(map[slotKey]*slot),
	}
	for _, s := range append(stores, c.Stores...) {
		if !isStoreName(s.Name()) {
			return nil, fmt.Errorf("the secret store's name %q is not a lower-case word", s.Name())
		}
		if _, ok := r.stores[s.Name()]; ok {
			return nil, fmt.Errorf("there are two secret stores of the name %q", s.Name())
		}
		r.stores[s.Name()] = s
	}
	return r, nil
}

// Store returns the store of that name. The error names those that there are.
func (r *Resolver) Store(name string) (Store, error) {
	if s, ok := r.stores[name]; ok {
		return s, nil
	}
	var names []string
	for n := range r.stores {
		names = append(names, n)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("there is no secret store %q (there are %s)", name, strings.Join(names, ", "))
}

// WritableStore returns the store of that name if it can be written to, otherwise
// an error that wraps ErrReadOnly.
func (r *Resolver) WritableStore(name string) (WritableStore, error) {
	s, err := r.Store(name)
	if err != nil {
		return nil, err
	}
	if w, ok := s.(WritableStore); ok {
		return w, nil
	}
	return nil, fmt.Errorf("secret store %s: %w", name, ErrReadOnly)
}

// Check returns an error if ref is malformed or names a store that does not exist.
// It reads nothing.
func (r *Resolver) Check(ref Ref) error {
	if err := ref.Check(); err != nil {
		return err
	}
	if _, err := r.Store(ref.Store); err != nil {
		return fmt.Errorf("secret %v: %w", ref, err)
	}
	return nil
}

// Resolve returns the value of ref and the version it has, which names the same
// value again as ref.At(version). The version is "" if the store keeps none and the
// Resolver has no Digester. It returns ErrNotFound if there is no such secret, and
// ErrChanged if ref names a version whose value is not there any more.
func (r *Resolver) Resolve(ctx context.Context, ref Ref) (Secret, string, error) {
	if err := r.Check(ref); err != nil {
		return Secret{}, "", err
	}
	version := ref.Version
	if strings.HasPrefix(version, hmacVersion) {
		version = "" // the current value is the only one: it is compared below
	}
	entry, err := r.entry(ctx, slotKey{ref.Store, ref.Path, version})
	if err != nil {
		return Secret{}, "", err
	}
	value, err := entry.Value(ref.Key)
	if err != nil {
		return Secret{}, "", &Error{Store: ref.Store, Path: ref.Path, Err: err}
	}
	found := entry.ID
	if found == "" && r.digester != nil {
		sum := strings.TrimPrefix(r.digester.Digest(value), "hmac:")
		found = hmacVersion + sum[:16]
	}
	if version != ref.Version && found != ref.Version {
		hint := "plan again"
		if r.digester == nil {
			hint = "it cannot be compared without the operator's key for digests"
		}
		return Secret{}, "", &Error{Store: ref.Store, Path: ref.Path, Err: fmt.Errorf("%w version %s", ErrChanged, ref.Version), Hint: hint}
	}
	return value, found, nil
}

// Lookup resolves all of refs, in parallel, and returns a function for [Expand]
// that knows them. The error joins those of all that could not be resolved.
func (r *Resolver) Lookup(ctx context.Context, refs ...Ref) (func(Ref) (Secret, bool), error) {
	values := make([]Secret, len(refs))
	errs := make([]error, len(refs))
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() { values[i], _, errs[i] = r.Resolve(ctx, ref) })
	}
	wg.Wait()
	known := make(map[Ref]Secret)
	for i, ref := range refs {
		if errs[i] == nil {
			known[ref] = values[i]
		}
	}
	lookup := func(ref Ref) (Secret, bool) {
		s, ok := known[ref]
		return s, ok
	}
	return lookup, errors.Join(errs...)
}

// Forget drops what was read of a secret, so that it is read again: for who has
// written to it.
func (r *Resolver) Forget(store, path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.slots {
		if key.store == store && key.path == path {
			delete(r.slots, key)
		}
	}
}

// entry returns what the store has, which it asks once.
func (r *Resolver) entry(ctx context.Context, key slotKey) (Entry, error) {
	r.mu.Lock()
	s, ok := r.slots[key]
	if !ok {
		s = &slot{lock: make(chan struct{}, 1)}
		s.lock <- struct{}{}
		r.slots[key] = s
	}
	r.mu.Unlock()

	select {
	case <-s.lock:
	case <-ctx.Done():
		return Entry{}, &Error{Store: key.store, Path: key.path, Err: ctx.Err()}
	}
	defer func() { s.lock <- struct{}{} }()
	if s.entry != nil {
		return *s.entry, nil
	}
	e, err := r.stores[key.store].Get(ctx, key.path, key.version)
	if err != nil {
		return Entry{}, err // not kept: the next caller may have more luck, or time
	}
	if r.redactor != nil {
		for _, value := range e.Keys {
			r.redactor.Add(value)
		}
	}
	s.entry = &e
	return e, nil
}
