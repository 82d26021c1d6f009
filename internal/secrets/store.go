package secrets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Errors that a caller can tell apart with errors.Is. Every error of a store is an
// [*Error].
var (
	// ErrNotFound: the store has no such path, version or key.
	ErrNotFound = errors.New("not found")
	// ErrConflict: somebody else has written since the caller last looked.
	ErrConflict = errors.New("changed by somebody else in the meantime")
	// ErrPending: a pending version exists already.
	ErrPending = errors.New("a pending version exists already")
	// ErrReadOnly: the store cannot be written to.
	ErrReadOnly = errors.New("the store can only be read")
	// ErrChanged: the value is not the one of the version that was asked for, and
	// the store does not keep old ones.
	ErrChanged = errors.New("the value has changed since")
)

// An Error says which secret, what went wrong, and what to do about it.
type Error struct {
	Store string // the store's name
	Path  string // the secret's path in the store
	Err   error  // what went wrong
	Hint  string // what to do about it; "" if there is nothing to say
}

// Error returns one line without any secret value.
func (e *Error) Error() string {
	s := fmt.Sprintf("secret %s:%s: %v", e.Store, escapeRef(e.Path), e.Err)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// A Stage is the part that a version plays in a rotation. The words are those of
// AWS Secrets Manager's AWSCURRENT, AWSPENDING and AWSPREVIOUS. A Stage can stand
// for a version's ID in [Ref.Version] and [Store.Get].
type Stage string

// The stages.
const (
	Current  Stage = "current"  // what readers get
	Pending  Stage = "pending"  // written, not yet proven
	Previous Stage = "previous" // what was current before
	Retired  Stage = ""         // kept, readable by its ID
)

// A Version is one state of a secret in a store.
type Version struct {
	ID      string    // never one of the stages' words; unique for the path
	Stage   Stage     // at most one version of a path is in each stage but Retired
	Created time.Time // when it was written; zero if the store does not know
}

// An Entry is a secret as it was found in a store: one version with all its keys.
type Entry struct {
	Version
	Keys map[string]Secret // by name; in a store of single values the whole is ""
}

// Value returns the value of a key. The empty key stands for an entry's only one.
// The error wraps ErrNotFound and names the keys that there are, unless they were
// guessed from a value, as those of a file are.
func (e Entry) Value(key string) (Secret, error) {
	if s, ok := e.Keys[key]; ok {
		return s, nil
	}
	names := slices.Sorted(maps.Keys(e.Keys))
	switch {
	case len(names) > 0 && names[0] == "":
		return Secret{}, fmt.Errorf("key %q %w: without #%s the whole value is taken", key, ErrNotFound, escapeRef(key))
	case key == "" && len(names) == 1:
		return e.Keys[names[0]], nil
	case key == "":
		return Secret{}, fmt.Errorf("key %w: it has %d (%s) and none is named: add #KEY", ErrNotFound, len(names), strings.Join(names, ", "))
	default:
		return Secret{}, fmt.Errorf("key %q %w (it has %s)", key, ErrNotFound, strings.Join(names, ", "))
	}
}

// A Store is where secrets are kept. All methods may be called by several
// goroutines at once, keep to their context, return errors of type [*Error], and
// never put a value into one. The suite in storetest holds a store to this.
type Store interface {
	// Name is the store's name in references: "age", "env".
	Name() string

	// Get returns one version of the secret at path: the one with that ID or in
	// that stage, the current one if version is "". It returns ErrNotFound if
	// there is none. Only a store that keeps versions fills in Entry.Version.
	Get(ctx context.Context, path, version string) (Entry, error)

	// Versions lists the versions of the secret at path, oldest first, nil for a
	// store that keeps none. It returns ErrNotFound if there is no such secret.
	Versions(ctx context.Context, path string) ([]Version, error)
}

// A WritableStore is a Store that can be written to. A secret changes in two steps,
// so that neither the old nor the new value is lost whatever dies in between: Put
// writes a pending version durably, and once it has been proven, Promote makes it
// the current one.
type WritableStore interface {
	Store

	// Put writes a new pending version and returns its ID once it is durable. The
	// keys that the change does not name are taken over from the current version.
	// A secret that does not exist yet is made, with no current version.
	Put(ctx context.Context, path string, c Change) (string, error)

	// Promote makes the version with this ID the current one, and what was current
	// the previous one. Promoting the current version changes nothing, so that it
	// may be repeated when it is not known whether it went through. A version that
	// is not pending can be promoted too: this is how a rotation is taken back.
	Promote(ctx context.Context, path, id string) error
}

// A Change is what [WritableStore.Put] does to the current version's keys.
type Change struct {
	Set    map[string]Secret // keys to add or to give another value
	Remove []string          // keys to drop; naming one that is not there is no error

	// IfCurrent, if not "", is the ID of the version that the caller has seen as
	// the current one, or NoVersion: if another one is current now, Put returns
	// ErrConflict and writes nothing.
	IfCurrent string

	// Replace lets Put go ahead when there is a pending version, which becomes
	// retired. Otherwise Put returns ErrPending: the pending value may be the one
	// that a server already has.
	Replace bool
}

// NoVersion as [Change.IfCurrent] says that the secret has no current version.
const NoVersion = "none"
