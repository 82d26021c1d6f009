//go:build lab

package rotations

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/gofrs/flock"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/awsstore"
	"github.com/pgfleet/pgfleet/internal/secrets/execstore"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/awsserver"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/vaultserver"
	"github.com/pgfleet/pgfleet/internal/secrets/vaultstore"
)

// A fault is which call of a store fails, or hangs, and how. All that follow it fail
// too if from is set.
type fault struct {
	Call int
	From bool
	Kind faults.Fault
}

func (f fault) String() string {
	text := "call " + strconv.Itoa(f.Call)
	if f.From {
		text = "from " + text
	}
	return text + map[faults.Fault]string{faults.Before: " not done", faults.After: " done, answer lost", faults.Hang: " hangs before", faults.HangAfter: " hangs after"}[f.Kind]
}

func (f fault) plan() func(int) faults.Fault {
	if f.From {
		return faults.From(f.Call, f.Kind)
	}
	return faults.Once(f.Call, f.Kind)
}

// A backend is one of the stores, which can be made to fail, and be looked at past
// pgfleet.
type backend struct {
	name  string
	table string // of fleet.toml
	env   []string
	store secrets.WritableStore // as others see it; while nothing fails
	// fail has calls fail from now on that are about a path; nil ends that. It also
	// counts anew.
	fail func(t *testing.T, path string, f *fault)
	seen func() int
	// hangs reports whether pgfleet, whose process is given, hangs in the call.
	hangs func(pid int) bool
}

// backends are a store of each kind.
func backends(t *testing.T, b *bench) []backend {
	t.Helper()
	return []backend{ageBackend(t, b), vaultBackend(t), awsBackend(t), execBackend(t)}
}

func injected(i *faults.Injector) backend {
	return backend{
		fail: func(_ *testing.T, _ string, f *fault) {
			if f == nil {
				i.Set(nil)
				return
			}
			i.Set(f.plan())
		},
		seen:  i.Seen,
		hangs: func(int) bool { return i.Hung() > 0 },
	}
}

func vaultBackend(t *testing.T) backend {
	t.Helper()
	server := vaultserver.New(t)
	token := server.Token(vaultserver.Rule{Path: "secret/*", Capabilities: []string{"read", "create", "update", "list"}})
	x := injected(server.Faults)
	x.name, x.env = "vault", []string{"LAB_VAULT_TOKEN=" + token}
	x.table = fmt.Sprintf("[secrets.vault]\naddress = %q\ntoken = \"env:LAB_VAULT_TOKEN\"\ntimeout = \"3s\"\n", server.URL)
	store, err := vaultstore.New(vaultstore.Config{
		Address: server.URL, Token: secrets.Ref{Store: "env", Path: "LAB_VAULT_TOKEN"},
		Read:      func(context.Context, secrets.Ref) (secrets.Secret, error) { return secrets.NewString(token), nil },
		LookupEnv: os.LookupEnv,
	})
	if err != nil {
		t.Fatal(err)
	}
	x.store = store
	return x
}

func awsBackend(t *testing.T) backend {
	t.Helper()
	server := awsserver.New(t)
	x := injected(server.Faults)
	x.name = "aws"
	x.table = fmt.Sprintf("[secrets.aws]\nregion = %q\nendpoint = %q\ntimeout = \"3s\"\n", awsserver.Region, server.URL)
	for name, v := range server.Env() {
		x.env = append(x.env, name+"="+v)
		t.Setenv(name, v)
	}
	x.store = awsstore.New(awsstore.Config{Region: awsserver.Region, Endpoint: server.URL, RetryWait: time.Millisecond})
	return x
}

// ageBackend is the age store. Its calls are no requests, so what can be made to hang
// or to fail are its two writes: the pending version, and the promotion.
func ageBackend(t *testing.T, b *bench) backend {
	t.Helper()
	text, err := os.ReadFile(b.identity)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := secrets.NewResolver(secrets.Config{Dir: b.Dir, Age: secrets.AgeConfig{Identities: []string{b.identity}, Recipients: []string{identity.Recipient().String()}}})
	if err != nil {
		t.Fatal(err)
	}
	store, err := r.WritableStore("age")
	if err != nil {
		t.Fatal(err)
	}
	a := &ageFaults{store: store, lock: filepath.Join(b.Dir, "secrets", ".lock")}
	return backend{name: "age", store: store, fail: a.fail, seen: func() int { return 2 }, hangs: a.hangs}
}

// ageFaults has the writes of an age store fail, from outside.
type ageFaults struct {
	store secrets.WritableStore
	lock  string

	end  func() // what is going on
	mu   sync.Mutex
	hung bool
	kind faults.Fault
}

func (a *ageFaults) fail(t *testing.T, path string, f *fault) {
	t.Helper()
	if a.end != nil {
		a.end()
		a.end = nil
	}
	if f == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	before := versionsOf(t, a.store, path)
	a.mu.Lock()
	a.hung, a.kind = false, f.Kind
	a.mu.Unlock()
	a.end = func() {
		cancel()
		<-ended
	}
	go func() {
		defer close(ended)
		// It fails before the first write is done, or, for the second one, as soon as
		// the first one is; what hangs after its effect is found when that is seen.
		writes := f.Call
		if f.Kind == faults.Hang || f.Kind == faults.Before {
			writes--
		}
		for writesSince(a.store, path, before) < writes {
			if ctx.Err() != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		a.mu.Lock()
		a.hung = true
		a.mu.Unlock()
		if f.Kind == faults.HangAfter {
			<-ctx.Done()
			return
		}
		if f.Kind == faults.Before {
			_ = os.Remove(a.lock)
			_ = os.Mkdir(a.lock, 0o700)
			<-ctx.Done()
			_ = os.Remove(a.lock)
			return
		}
		l := flock.New(a.lock)
		_ = l.Lock()
		<-ctx.Done()
		_ = l.Close()
	}()
}

// hangs reports whether the process waits for the lock.
func (a *ageFaults) hangs(pid int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.hung || a.kind != faults.Hang {
		return a.hung
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		to, _ := os.Readlink(fd)
		return to == a.lock
	})
}

// writesSince counts how far a rotation is: 1 when there is a new version, 2 when it
// is current.
func writesSince(store secrets.Store, path string, before []secrets.Version) int {
	now, _ := store.Versions(context.Background(), path)
	for _, v := range now {
		if slices.ContainsFunc(before, func(b secrets.Version) bool { return b.ID == v.ID }) {
			continue
		}
		if v.Stage == secrets.Current {
			return 2
		}
		return 1
	}
	return 0
}

func versionsOf(t *testing.T, store secrets.Store, path string) []secrets.Version {
	t.Helper()
	list, err := store.Versions(context.Background(), path)
	if err != nil && !errors.Is(err, secrets.ErrNotFound) {
		t.Fatal(err)
	}
	return list
}

// execDir has this test's program act as the program of a store of kind exec, over an
// age store in the folder that it names.
const execDir = "PGFLEET_LAB_EXEC_STORE"

func execBackend(t *testing.T) backend {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"key": identity.String(), "recipient": identity.Recipient().String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join(dir, "store")
	if err := os.WriteFile(script, []byte(fmt.Sprintf("#!/bin/sh\n%s=%s exec %s\n", execDir, dir, self)), 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := execstore.New(execstore.Config{Command: []string{script}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	x := backend{name: "exec", table: fmt.Sprintf("[secrets.exec]\ncommand = [%q]\ntimeout = \"3s\"\n", script), store: store}
	calls, plan, hung := filepath.Join(dir, "calls"), filepath.Join(dir, "plan"), filepath.Join(dir, "hung")
	x.fail = func(t *testing.T, _ string, f *fault) {
		t.Helper()
		// A program that hangs outlives pgfleet.
		if text, err := os.ReadFile(hung); err == nil {
			if pid, err := strconv.Atoi(string(text)); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		for _, name := range []string{calls, plan, hung} {
			_ = os.Remove(name)
		}
		if f == nil {
			return
		}
		text, err := json.Marshal(f)
		if err == nil {
			err = os.WriteFile(plan, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	x.seen = func() int {
		text, _ := os.ReadFile(calls)
		return len(text)
	}
	x.hangs = func(int) bool {
		_, err := os.Stat(hung)
		return err == nil
	}
	return x
}

// execProgram answers one request, or fails as it is told to.
func execProgram(dir string) int {
	n := 0
	if f, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		_, _ = f.WriteString(".")
		if info, err := f.Stat(); err == nil {
			n = int(info.Size())
		}
		_ = f.Close()
	}
	kind := faults.None
	var f fault
	if text, err := os.ReadFile(filepath.Join(dir, "plan")); err == nil && json.Unmarshal(text, &f) == nil {
		kind = f.plan()(n)
	}
	hang := func() {
		temp := filepath.Join(dir, "hung.new")
		_ = os.WriteFile(temp, []byte(strconv.Itoa(os.Getpid())), 0o600)
		_ = os.Rename(temp, filepath.Join(dir, "hung"))
		time.Sleep(time.Hour)
	}
	switch kind {
	case faults.Before:
		return 1
	case faults.Hang:
		hang()
	}
	out, err := execAnswer(dir)
	switch kind {
	case faults.After:
		return 1
	case faults.HangAfter:
		hang()
	}
	for code, is := range map[string]error{"not_found": secrets.ErrNotFound, "conflict": secrets.ErrConflict, "pending": secrets.ErrPending} {
		if errors.Is(err, is) {
			out, err = map[string]any{"error": map[string]string{"code": code}}, nil
		}
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func execAnswer(dir string) (map[string]any, error) {
	var in struct {
		Version   int
		Op        string
		Path      string
		ID        string
		Set       secrets.JSONKeys
		Remove    []string
		IfCurrent string `json:"if_current"`
		Replace   bool
	}
	d := json.NewDecoder(os.Stdin)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, err
	}
	recipient, err := os.ReadFile(filepath.Join(dir, "recipient"))
	if err != nil {
		return nil, err
	}
	r, err := secrets.NewResolver(secrets.Config{Dir: dir, Age: secrets.AgeConfig{Identities: []string{"key"}, Recipients: []string{string(recipient)}}})
	if err != nil {
		return nil, err
	}
	s, err := r.WritableStore("age")
	if err != nil {
		return nil, err
	}
	describe := func(v secrets.Version) map[string]any {
		return map[string]any{"id": v.ID, "stage": v.Stage, "created": v.Created}
	}
	ctx := context.Background()
	switch in.Op {
	case "get":
		entry, err := s.Get(ctx, in.Path, in.ID)
		out, keys := describe(entry.Version), secrets.JSONKeys{}
		for name, v := range entry.Keys {
			keys[name] = secrets.JSONValue(v)
		}
		out["keys"] = keys
		return out, err
	case "versions":
		versions, err := s.Versions(ctx, in.Path)
		list := []map[string]any{}
		for _, v := range versions {
			list = append(list, describe(v))
		}
		return map[string]any{"versions": list}, err
	case "put":
		id, err := s.Put(ctx, in.Path, secrets.Change{Set: in.Set.Secrets(), Remove: in.Remove, IfCurrent: in.IfCurrent, Replace: in.Replace})
		return map[string]any{"id": id}, err
	case "promote":
		return map[string]any{}, s.Promote(ctx, in.Path, in.ID)
	}
	return nil, fmt.Errorf("op %q", in.Op)
}
