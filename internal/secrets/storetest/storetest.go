// Package storetest is the suite that every secret store passes.
//
// A store's own test is a call of [Run] with a function that makes a [Fixture].
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
)

// A Fixture is an empty store to be tested.
type Fixture struct {
	// Store is the store.
	Store secrets.Store
	// Reopen returns the same store as another process would see it. If it is nil,
	// Store is used.
	Reopen func(t *testing.T) secrets.Store
	// Make makes a secret by other means than the store, under a path made from
	// name, a lower-case word, and returns that path. It is needed for stores that
	// are not writable. In a store of single values, keys holds only "".
	Make func(t *testing.T, name string, keys map[string]secrets.Secret) string
	// Path returns the path for a name in a writable store; if it is nil, the name
	// itself is the path.
	Path func(name string) string
	// Read reads a secret as an application does that knows nothing of pgfleet, and
	// that no faults concern; it may be nil if Faults is.
	Read func(t *testing.T, path string) map[string]secrets.Secret
	// Faults makes requests to the store's server fail; nil for stores without one.
	Faults *faults.Injector
}

func (f Fixture) path(name string) string {
	if f.Path == nil {
		return name
	}
	return f.Path(name)
}

func (f Fixture) reopen(t *testing.T) secrets.Store {
	if f.Reopen == nil {
		return f.Store
	}
	return f.Reopen(t)
}

// Run runs the suite. Each test gets a fixture of its own.
func Run(t *testing.T, newFixture func(t *testing.T) Fixture) {
	reading := map[string]func(*testing.T, Fixture){
		"missing":   testMissing,
		"get":       testGet,
		"cancelled": testCancelled,
		"parallel":  testParallelGet,
	}
	for name, test := range reading {
		t.Run(name, func(t *testing.T) { test(t, newFixture(t)) })
	}
	f := newFixture(t)
	if _, ok := f.Store.(secrets.WritableStore); !ok {
		return
	}
	writing := map[string]func(*testing.T, Fixture, secrets.WritableStore){
		"new secret":       testNew,
		"other keys":       testOtherKeys,
		"rotation":         testRotation,
		"taken back":       testTakenBack,
		"pending":          testPending,
		"compare and set":  testCompareAndSet,
		"odd values":       testOddValues,
		"parallel writers": testParallelPut,
		"unknown version":  testUnknownVersion,
		"cancelled write":  testCancelledWrite,
	}
	if f.Faults != nil {
		writing["faults"] = testFaults
		writing["operators"] = testOperators
	}
	for name, test := range writing {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			test(t, f, f.Store.(secrets.WritableStore))
		})
	}
}

// value is what no error may hold.
const value = "correct-horse-battery-staple"

// make makes a secret with one value and returns its path and the value's key.
func (f Fixture) make(t *testing.T, name string) (path, key string) {
	t.Helper()
	if f.Make != nil {
		return f.Make(t, name, map[string]secrets.Secret{"": secrets.NewString(value)}), ""
	}
	w := f.Store.(secrets.WritableStore)
	path = f.path(name)
	publish(t, w, path, map[string]string{"password": value})
	return path, "password"
}

func testMissing(t *testing.T, f Fixture) {
	path := f.path("nosuchthing")
	_, err := f.Store.Get(t.Context(), path, "")
	wantError(t, err, secrets.ErrNotFound, f.Store.Name(), path)
	_, err = f.Store.Versions(t.Context(), path)
	wantError(t, err, secrets.ErrNotFound, f.Store.Name(), path)
}

func testGet(t *testing.T, f Fixture) {
	path, key := f.make(t, "present")
	s := f.reopen(t)
	for _, version := range []string{"", "current"} {
		entry, err := s.Get(t.Context(), path, version)
		if err != nil {
			t.Fatal(err)
		}
		wantValue(t, entry, key, value)
	}
	versions, err := s.Versions(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := s.Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	known := slices.ContainsFunc(versions, func(v secrets.Version) bool { return v.ID == entry.ID })
	if entry.ID != "" && !known || entry.ID == "" && versions != nil {
		t.Errorf("Get found version %q, Versions lists %v", entry.ID, versions)
	}
	_, err = s.Get(t.Context(), path, "999999")
	wantError(t, err, secrets.ErrNotFound, s.Name(), path)
}

func testCancelled(t *testing.T, f Fixture) {
	path, _ := f.make(t, "cancelled")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Store.Get(ctx, path, "")
	wantError(t, err, context.Canceled, f.Store.Name(), path)
}

func testParallelGet(t *testing.T, f Fixture) {
	path, key := f.make(t, "parallel")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			entry, err := f.Store.Get(t.Context(), path, "")
			if err != nil {
				t.Error(err)
				return
			}
			wantValue(t, entry, key, value)
		})
	}
	wg.Wait()
}

func testNew(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("fresh")
	id := put(t, w, path, secrets.Change{Set: keys(map[string]string{"password": value})})
	_, err := f.reopen(t).Get(t.Context(), path, "")
	wantError(t, err, secrets.ErrNotFound, w.Name(), path)
	entry, err := f.reopen(t).Get(t.Context(), path, "pending")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, entry, "password", value)
	if entry.ID != id || entry.Stage != secrets.Pending {
		t.Errorf("pending version is %q in stage %q, want %q", entry.ID, entry.Stage, id)
	}
	promote(t, w, path, id)
	promote(t, w, path, id) // may be repeated
	entry, err = f.reopen(t).Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, entry, "", value) // its only key
}

func testOtherKeys(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("manykeys")
	publish(t, w, path, map[string]string{"password": "first", "user": "app", "stale": "x"})
	id := put(t, w, path, secrets.Change{
		Set:    keys(map[string]string{"password": value}),
		Remove: []string{"stale", "neverthere"},
	})
	promote(t, w, path, id)
	entry, err := f.reopen(t).Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, entry, "password", value)
	wantValue(t, entry, "user", "app")
	if _, err := entry.Value("stale"); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("removed key: %v, want ErrNotFound", err)
	}
}

func testRotation(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("rotated")
	first := publish(t, w, path, map[string]string{"password": "first"})
	second := put(t, w, path, secrets.Change{Set: keys(map[string]string{"password": "second"})})
	wantStages(t, f.reopen(t), path, map[string]string{first: "current", second: "pending"})
	wantCurrent(t, f.reopen(t), path, "first")
	promote(t, w, path, second)
	wantStages(t, f.reopen(t), path, map[string]string{first: "previous", second: "current"})
	wantCurrent(t, f.reopen(t), path, "second")
	third := publish(t, w, path, map[string]string{"password": "third"})
	wantStages(t, f.reopen(t), path, map[string]string{second: "previous", third: "current"})
	entry, err := f.reopen(t).Get(t.Context(), path, "previous")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, entry, "password", "second")
}

func testTakenBack(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("takenback")
	first := publish(t, w, path, map[string]string{"password": "first"})
	second := publish(t, w, path, map[string]string{"password": "second"})
	promote(t, w, path, first)
	wantStages(t, f.reopen(t), path, map[string]string{first: "current", second: "previous"})
	wantCurrent(t, f.reopen(t), path, "first")
}

func testPending(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("pendings")
	publish(t, w, path, map[string]string{"password": "first"})
	second := put(t, w, path, secrets.Change{Set: keys(map[string]string{"password": "second"})})
	again := secrets.Change{Set: keys(map[string]string{"password": value})}
	_, err := w.Put(t.Context(), path, again)
	wantError(t, err, secrets.ErrPending, w.Name(), path)
	again.Replace = true
	third := put(t, w, path, again)
	if third == second {
		t.Errorf("two versions have the ID %q", third)
	}
	entry, err := w.Get(t.Context(), path, "pending")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, entry, "password", value)
	// The pending version that was replaced may be what a server has.
	entry, err = w.Get(t.Context(), path, second)
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, entry, "password", "second")
}

func testCompareAndSet(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("compared")
	c := secrets.Change{Set: keys(map[string]string{"password": value}), IfCurrent: secrets.NoVersion}
	first := put(t, w, path, c)
	promote(t, w, path, first)
	_, err := w.Put(t.Context(), path, c)
	wantError(t, err, secrets.ErrConflict, w.Name(), path)
	c.IfCurrent = first
	second := put(t, w, path, c)
	promote(t, w, path, second)
	_, err = w.Put(t.Context(), path, c)
	wantError(t, err, secrets.ErrConflict, w.Name(), path)
}

func testOddValues(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("odd")
	odd := map[string]string{
		"newlines": "-----BEGIN X-----\nabc\n-----END X-----\n",
		"quotes":   `a"b'c\d$e` + "`",
		"unicode":  "pässwörd ☃ \u2028",
		"html":     "<&>",
		"binary":   "\x00\x01\xff\xfe",
		"empty":    "",
	}
	publish(t, w, path, odd)
	entry, err := f.reopen(t).Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range odd {
		wantValue(t, entry, key, want)
	}
}

// testParallelPut has writers that each add a key of their own: none may be lost.
func testParallelPut(t *testing.T, f Fixture, w secrets.WritableStore) {
	const writers = 4
	path := f.path("contended")
	publish(t, w, path, map[string]string{"start": "x"})
	var wg sync.WaitGroup
	for i := range writers {
		s, ok := f.reopen(t).(secrets.WritableStore)
		if !ok {
			t.Fatal("the store is not writable any more")
		}
		wg.Go(func() {
			if err := addKey(t.Context(), s, path, fmt.Sprintf("key%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	entry, err := f.reopen(t).Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(entry.Keys) != writers+1 {
		t.Errorf("%d writers left %d keys, want %d", writers, len(entry.Keys), writers+1)
	}
}

// addKey adds a key by compare and set until nobody has come in between.
func addKey(ctx context.Context, w secrets.WritableStore, path, key string) error {
	for {
		entry, err := w.Get(ctx, path, "")
		if err != nil {
			return err
		}
		id, err := w.Put(ctx, path, secrets.Change{Set: keys(map[string]string{key: value}), IfCurrent: entry.ID})
		if errors.Is(err, secrets.ErrPending) || errors.Is(err, secrets.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		return w.Promote(ctx, path, id)
	}
}

func testUnknownVersion(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("versions")
	wantError(t, w.Promote(t.Context(), path, "1"), secrets.ErrNotFound, w.Name(), path)
	publish(t, w, path, map[string]string{"password": "first"})
	wantError(t, w.Promote(t.Context(), path, "999999"), secrets.ErrNotFound, w.Name(), path)
	for _, version := range []string{"999999", "pending", "previous"} {
		_, err := w.Get(t.Context(), path, version)
		wantError(t, err, secrets.ErrNotFound, w.Name(), path)
	}
	wantCurrent(t, w, path, "first")
}

func testCancelledWrite(t *testing.T, f Fixture, w secrets.WritableStore) {
	path := f.path("unwritten")
	publish(t, w, path, map[string]string{"password": "first"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Put(ctx, path, secrets.Change{Set: keys(map[string]string{"password": value})})
	wantError(t, err, context.Canceled, w.Name(), path)
	_, err = f.reopen(t).Get(t.Context(), path, "pending")
	wantError(t, err, secrets.ErrNotFound, w.Name(), path)
}

func keys(values map[string]string) map[string]secrets.Secret {
	all := make(map[string]secrets.Secret)
	for name, v := range values {
		all[name] = secrets.NewString(v)
	}
	return all
}

func put(t *testing.T, w secrets.WritableStore, path string, c secrets.Change) string {
	t.Helper()
	id, err := w.Put(t.Context(), path, c)
	if err != nil {
		t.Fatal(err)
	}
	if id == "" || slices.Contains([]string{"current", "pending", "previous", secrets.NoVersion}, id) {
		t.Fatalf("the new version's ID is %q", id)
	}
	return id
}

func promote(t *testing.T, w secrets.WritableStore, path, id string) {
	t.Helper()
	if err := w.Promote(t.Context(), path, id); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, w secrets.WritableStore, path string, values map[string]string) string {
	t.Helper()
	id := put(t, w, path, secrets.Change{Set: keys(values)})
	promote(t, w, path, id)
	return id
}

func wantValue(t *testing.T, entry secrets.Entry, key, want string) {
	t.Helper()
	got, err := entry.Value(key)
	if err != nil {
		t.Error(err)
	} else if string(got.Expose()) != want {
		t.Errorf("key %q of version %q has another value than was written", key, entry.ID)
	}
}

func wantCurrent(t *testing.T, s secrets.Store, path, want string) {
	t.Helper()
	entry, err := s.Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, entry, "password", want)
}

// wantStages compares the stages of some versions, and that no other has one.
func wantStages(t *testing.T, s secrets.Store, path string, want map[string]string) {
	t.Helper()
	versions, err := s.Versions(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		if string(v.Stage) != want[v.ID] {
			t.Errorf("version %s is in stage %q, want %q", v.ID, v.Stage, want[v.ID])
		}
	}
}

// wantError checks that an error is of the right kind, names the secret and holds
// no value.
func wantError(t *testing.T, err, want error, store, path string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", want)
	}
	if !errors.Is(err, want) {
		t.Errorf("error %q is not %v", err, want)
	}
	if e, ok := errors.AsType[*secrets.Error](err); !ok || e.Store != store || e.Path != path {
		t.Errorf("error %q is not an *Error that names %s:%s", err, store, path)
	}
	if strings.Contains(err.Error(), value) {
		t.Error("the error holds a value")
	}
}
