package execstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/execstore"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest"
)

// helperDir has this test's program act as the program of a store, over an age store
// in the folder that it names.
const helperDir = "PGFLEET_TEST_EXEC_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperDir); dir != "" {
		if err := helper(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// helper answers one request.
func helper(dir string) error {
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
		return err
	}
	if in.Version != 1 {
		return fmt.Errorf("version %d", in.Version)
	}
	recipient, err := os.ReadFile(filepath.Join(dir, "recipient"))
	if err != nil {
		return err
	}
	r, err := secrets.NewResolver(secrets.Config{Dir: dir, Age: secrets.AgeConfig{Identities: []string{"key"}, Recipients: []string{string(recipient)}}})
	if err != nil {
		return err
	}
	s, err := r.WritableStore("age")
	if err != nil {
		return err
	}
	ctx := context.Background()
	out := map[string]any{}
	describe := func(v secrets.Version) map[string]any {
		return map[string]any{"id": v.ID, "stage": v.Stage, "created": v.Created}
	}
	switch in.Op {
	case "get":
		var entry secrets.Entry
		if entry, err = s.Get(ctx, in.Path, in.ID); err == nil {
			out = describe(entry.Version)
			keys := secrets.JSONKeys{}
			for name, v := range entry.Keys {
				keys[name] = secrets.JSONValue(v)
			}
			out["keys"] = keys
		}
	case "versions":
		var list []map[string]any
		var versions []secrets.Version
		versions, err = s.Versions(ctx, in.Path)
		for _, v := range versions {
			list = append(list, describe(v))
		}
		out["versions"] = list
	case "put":
		out["id"], err = s.Put(ctx, in.Path, secrets.Change{Set: in.Set.Secrets(), Remove: in.Remove, IfCurrent: in.IfCurrent, Replace: in.Replace})
	case "promote":
		err = s.Promote(ctx, in.Path, in.ID)
	default:
		return fmt.Errorf("op %q", in.Op)
	}
	if err != nil {
		for code, kind := range map[string]error{"not_found": secrets.ErrNotFound, "conflict": secrets.ErrConflict, "pending": secrets.ErrPending} {
			if errors.Is(err, kind) {
				return json.NewEncoder(os.Stdout).Encode(map[string]any{"error": map[string]string{"code": code}})
			}
		}
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func TestStore(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		dir := t.TempDir()
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "key"), id.String())
		write(t, filepath.Join(dir, "recipient"), id.Recipient().String())
		t.Setenv(helperDir, dir)
		return storetest.Fixture{Store: open(t, execstore.Config{Command: []string{self}, Dir: dir})}
	})
}

func open(t *testing.T, c execstore.Config) *execstore.Store {
	t.Helper()
	s, err := execstore.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name, script string
		want         string
		is           error
	}{
		{"nothing", `cat >/dev/null`, "sh: it answers nothing", nil},
		{"no JSON", `echo hunter2`, "not JSON of the protocol's form", nil},
		{"half", `printf '{"id":"1"'`, "not JSON of the protocol's form", nil},
		{"more", `echo '{"keys":{}}{}'`, "something follows its answer", nil},
		{"unknown field", `echo '{"keys":{},"colour":"hunter2"}'`, "not JSON of the protocol's form", nil},
		{"wrong type", `echo '{"keys":"hunter2"}'`, `wrong type at "keys"`, nil},
		{"no keys", `echo '{"id":"1"}'`, `lacks "keys"`, nil},
		{"bad stage", `echo '{"keys":{},"id":"1","stage":"old"}'`, `stage "old"`, nil},
		{"bad ID", `echo '{"keys":{},"id":"current"}'`, `the ID "current"`, nil},
		{"ID with a space", `echo '{"keys":{},"id":"1 2"}'`, `version "1 2" holds other characters`, nil},
		{"exit code", `echo "cannot open the vault" >&2; exit 3`, "sh: exit status 3: cannot open the vault", nil},
		{"not found", `echo '{"error":{"code":"not_found","message":"no such item","hint":"make it"}}'; exit 1`, "not found: no such item; make it", secrets.ErrNotFound},
		{"unavailable", `echo '{"error":{"code":"unavailable","message":"sign in first"}}'`, "sh cannot reach its store: sign in first", nil},
		{"unknown code", `echo '{"error":{"code":"what","message":"hm"}}'`, "sh: hm", nil},
		{"secrets and escapes", `echo "password=hunter2 $(printf '\033[31m')red" >&2; exit 1`, "password=•••• [31mred", nil},
		{"too much", `head -c 2000000 /dev/zero`, "more than 1048576 bytes", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := open(t, execstore.Config{Command: []string{"sh", "-c", test.script}, Dir: t.TempDir()}).Get(t.Context(), "app", "")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %q is not %v", err, test.is)
			}
			if !strings.HasPrefix(err.Error(), "secret exec:app: ") || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\033") {
				t.Errorf("error %q", err)
			}
		})
	}
	for _, command := range []string{"no-such-program-anywhere", "./missing", "/etc/hostname"} {
		_, err := open(t, execstore.Config{Command: []string{command}, Dir: t.TempDir()}).Get(t.Context(), "app", "")
		if err == nil || !strings.Contains(err.Error(), command+" cannot be run") || !strings.Contains(err.Error(), "correct command in [secrets.exec]") {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// TestReadOnly is a program that cannot write.
func TestReadOnly(t *testing.T) {
	s := open(t, execstore.Config{Command: []string{"sh", "-c", `echo '{"error":{"code":"read_only"}}'`}, Dir: t.TempDir()})
	if _, err := s.Put(t.Context(), "app", secrets.Change{}); !errors.Is(err, secrets.ErrReadOnly) {
		t.Errorf("Put: %v", err)
	}
	if err := s.Promote(t.Context(), "app", "1"); !errors.Is(err, secrets.ErrReadOnly) {
		t.Errorf("Promote: %v", err)
	}
}

// TestSecretsOnStandardInput looks at what others can see of the program.
func TestSecretsOnStandardInput(t *testing.T) {
	const canary = "canary-in-a-coal-mine"
	dir := t.TempDir()
	script := `tr '\0' '\n' </proc/$$/cmdline >cmdline; env >environ; cat >input; echo "I got $(cat input)" >&2; exit 1`
	s := open(t, execstore.Config{Command: []string{"sh", "-c", script}, Dir: dir})
	_, err := s.Put(t.Context(), "app", secrets.Change{Set: map[string]secrets.Secret{"password": secrets.NewString(canary)}})
	if err == nil || strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), secrets.Mask) {
		t.Errorf("what the program says is not masked: %v", err)
	}
	for name, want := range map[string]bool{"cmdline": false, "environ": false, "input": true} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || len(text) == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		if strings.Contains(string(text), canary) != want {
			t.Errorf("%s holds the value: %v, want %v", name, !want, want)
		}
	}
}

// TestTimeout has a program and its child hang.
func TestTimeout(t *testing.T) {
	dir := t.TempDir()
	s := open(t, execstore.Config{Command: []string{"sh", "-c", "sleep 60 & echo $! >child; wait"}, Dir: dir, Timeout: 300 * time.Millisecond})
	start := time.Now()
	_, err := s.Get(t.Context(), "app", "")
	if err == nil || !strings.Contains(err.Error(), "did not answer within 300ms and was ended") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	text, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if gone(pid) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("the program's child %d still runs", pid)
}

// gone reports whether a process has ended; one that nobody has waited for yet has.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}
