package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
)

// testFaults has each request of a rotation fail, before and after its effect, alone
// and with all that follow it. Whatever happens, readers get the old value or the new
// one, whole, and a rotation that is begun anew comes to its end.
func testFaults(t *testing.T, f Fixture, w secrets.WritableStore) {
	plans := map[string]func(int) func(int) faults.Fault{
		"one is not done":      func(n int) func(int) faults.Fault { return faults.Once(n, faults.Before) },
		"one's answer is lost": func(n int) func(int) faults.Fault { return faults.Once(n, faults.After) },
		"none is done from":    func(n int) func(int) faults.Fault { return faults.From(n, faults.Before) },
		"no answer comes from": func(n int) func(int) faults.Fault { return faults.From(n, faults.After) },
	}
	secret := 0
	for name, plan := range plans {
		t.Run(name, func(t *testing.T) {
			tried := 0
			for _, step := range []string{"put", "promote"} {
				for n := 1; ; n++ {
					secret++
					path := f.path(fmt.Sprintf("faulty%d", secret))
					if !faultyRotation(t, f, w, path, step, n, plan(n)) {
						break
					}
					tried++
				}
			}
			if tried < 4 {
				t.Errorf("only %d requests were made to fail", tried)
			}
		})
	}
}

// faultyRotation rotates one secret, with faults in one of the steps. It reports
// whether that step had a request that failed.
func faultyRotation(t *testing.T, f Fixture, w secrets.WritableStore, path, step string, n int, plan func(int) faults.Fault) bool {
	t.Helper()
	where := fmt.Sprintf("%s, request %d", step, n)
	first := publish(t, w, path, map[string]string{"password": "first", "user": "app"})
	change := secrets.Change{Set: keys(map[string]string{"password": "second"})}
	failed := false

	during := func(s string, do func() error) error {
		if s != step {
			return do()
		}
		f.Faults.Set(plan)
		err := do()
		failed = f.Faults.Seen() >= n
		f.Faults.Set(nil)
		return err
	}

	var id string
	err := during("put", func() (err error) {
		id, err = w.Put(t.Context(), path, change)
		return err
	})
	readers(t, f, path, where, "first")
	if err != nil {
		wantNoValue(t, err)
		// Whoever begins anew looks for a pending version first.
		entry, getErr := f.reopen(t).Get(t.Context(), path, string(secrets.Pending))
		switch {
		case getErr == nil:
			wantValue(t, entry, "password", "second")
			id = entry.ID
		case errors.Is(getErr, secrets.ErrNotFound):
			id = put(t, w, path, change)
		default:
			t.Fatalf("%s: %v", where, getErr)
		}
	}
	wantStages(t, f.reopen(t), path, map[string]string{first: "current", id: "pending"})

	err = during("promote", func() error { return w.Promote(t.Context(), path, id) })
	if err == nil {
		readers(t, f, path, where, "second")
	} else {
		wantNoValue(t, err)
		readers(t, f, path, where, "first", "second")
	}
	promote(t, w, path, id)
	readers(t, f, path, where, "second")
	wantStages(t, f.reopen(t), path, map[string]string{first: "previous", id: "current"})
	entry, err := f.reopen(t).Get(t.Context(), path, first)
	if err != nil {
		t.Fatalf("%s: the version before: %v", where, err)
	}
	wantValue(t, entry, "password", "first")
	return failed
}

// readers checks that the current value is one of these and that the other key is
// there, as the store says and as an application reads it.
func readers(t *testing.T, f Fixture, path, where string, want ...string) {
	t.Helper()
	entry, err := f.reopen(t).Get(t.Context(), path, "")
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	check := func(who string, keys map[string]secrets.Secret) {
		for _, password := range want {
			if keys["password"].Equal(secrets.NewString(password)) && keys["user"].Equal(secrets.NewString("app")) && len(keys) == 2 {
				return
			}
		}
		t.Errorf("%s: %s gets neither of %v, or not its other key alone", where, who, want)
	}
	check("pgfleet", entry.Keys)
	if f.Read != nil {
		read := f.Read(t, path)
		check("an application", read)
		if !read["password"].Equal(entry.Keys["password"]) {
			t.Errorf("%s: pgfleet and an application get different values", where)
		}
	}
}

func wantNoValue(t *testing.T, err error) {
	t.Helper()
	if e, ok := errors.AsType[*secrets.Error](err); !ok {
		t.Errorf("error %q is not an *Error", err)
	} else if s := e.Err.Error(); strings.Contains(s, "first") || strings.Contains(s, "second") {
		t.Errorf("error %q holds a value", s)
	}
}

// testOperators has two operators rotate the same secret over and over, while a
// quarter of all requests fail. An application that reads it all the while always gets
// a version that was written, whole.
func testOperators(t *testing.T, f Fixture, w secrets.WritableStore) {
	const operators, rotations = 2, 12
	path := f.path("shared")
	publish(t, w, path, map[string]string{"password": "value-0", "twin": "value-0", "user": "app"})
	whole := func(who string, keys map[string]secrets.Secret) {
		if len(keys) != 3 || keys["password"].IsEmpty() || !keys["password"].Equal(keys["twin"]) || !keys["user"].Equal(secrets.NewString("app")) {
			t.Errorf("%s gets a version that is not whole", who)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // it chooses faults
	f.Faults.Set(func(int) faults.Fault {
		switch random.IntN(8) {
		case 0:
			return faults.Before
		case 1:
			return faults.After
		}
		return faults.None
	})
	var promoted, failed atomic.Int32
	var working sync.WaitGroup
	for i := range operators {
		s, ok := f.reopen(t).(secrets.WritableStore)
		if !ok {
			t.Fatal("the store is not writable any more")
		}
		working.Go(func() {
			for n := range rotations {
				v := fmt.Sprintf("value-%d-%d", i, n)
				id, err := s.Put(t.Context(), path, secrets.Change{Set: keys(map[string]string{"password": v, "twin": v}), Replace: n%3 == 0})
				if err == nil {
					err = s.Promote(t.Context(), path, id)
				}
				if err == nil {
					promoted.Add(1)
					continue
				}
				failed.Add(1)
				if strings.Contains(err.Error(), "value-") {
					t.Errorf("error %q holds a value", err)
				}
			}
		})
	}
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			whole("an application", f.Read(t, path))
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	working.Wait()
	close(done)
	reading.Wait()
	f.Faults.Set(nil)
	t.Logf("%d rotations came through, %d failed", promoted.Load(), failed.Load())
	if promoted.Load() == 0 {
		t.Error("no rotation came through")
	}

	entry, err := f.reopen(t).Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	whole("pgfleet", entry.Keys)
	if !entry.Keys["password"].Equal(f.Read(t, path)["password"]) {
		t.Error("pgfleet and an application get different values")
	}
	versions, err := w.Versions(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	stages := map[secrets.Stage]int{}
	for _, v := range versions {
		stages[v.Stage]++
		if v.Stage == secrets.Retired {
			continue
		}
		entry, err := w.Get(t.Context(), path, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		whole("who asks for version "+v.ID, entry.Keys)
	}
	if stages[secrets.Current] != 1 || stages[secrets.Pending] > 1 || stages[secrets.Previous] > 1 {
		t.Errorf("versions in stages: %v", stages)
	}
	id := put(t, w, path, secrets.Change{Set: keys(map[string]string{"password": "last", "twin": "last"}), Replace: true})
	promote(t, w, path, id)
	whole("an application, in the end,", f.Read(t, path))
}
