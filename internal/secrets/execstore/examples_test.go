package execstore_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/execstore"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest"
)

// example returns an example's path. The test is skipped where a program that it needs
// is not installed.
func example(t *testing.T, name string, needs ...string) string {
	t.Helper()
	for _, program := range append([]string{"python3"}, needs...) {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "examples", "exec-stores", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPass runs the suite with the real pass.
func TestPass(t *testing.T) {
	program := example(t, "pass", "pass", "gpg")
	// The path of gpg's socket must be short, unlike that of a test's folder.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", home)
	t.Cleanup(func() {
		// The agent that was started for this folder. It ends by itself with the folder.
		_ = exec.Command("gpgconf", "--kill", "gpg-agent").Run()
		os.RemoveAll(home)
	})
	run(t, "gpg", "--batch", "--passphrase", "", "--quick-generate-key", "pgfleet test", "future-default", "default", "never")
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		dir := t.TempDir()
		t.Setenv("PASSWORD_STORE_DIR", dir)
		run(t, "pass", "init", "pgfleet test")
		return storetest.Fixture{
			Store: open(t, execstore.Config{Name: "pass", Command: []string{program}, Dir: dir}),
			Path:  func(name string) string { return "prod/" + name },
		}
	})
	t.Run("written by hand", func(t *testing.T) {
		dir := t.TempDir()
		t.Setenv("PASSWORD_STORE_DIR", dir)
		run(t, "pass", "init", "pgfleet test")
		insert := func(text string) {
			cmd := exec.Command("pass", "insert", "--multiline", "--force", "app")
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("pass insert: %v: %s", err, out)
			}
		}
		insert("first\nuser: app\n")
		s := open(t, execstore.Config{Name: "pass", Command: []string{program}, Dir: dir})
		change := secrets.Change{Set: map[string]secrets.Secret{"password": secrets.NewString("second")}}
		id, err := s.Put(t.Context(), "app", change)
		if err == nil {
			err = s.Promote(t.Context(), "app", id)
		}
		if err != nil {
			t.Fatal(err)
		}
		if out := run(t, "pass", "show", "app"); out != "second\nuser: app\n" {
			t.Error("pass shows something else than the new password and the other key")
		}
		insert("third\nhttps://example.org\n")
		if entry, err := s.Get(t.Context(), "app", ""); err != nil || !entry.Keys["password"].Equal(secrets.NewString("third")) {
			t.Errorf("what was written by hand is not read: %v", err)
		}
		if _, err := s.Put(t.Context(), "app", change); err == nil || !strings.Contains(err.Error(), "not of the form name: value") {
			t.Errorf("an entry with a line that would be lost: %v", err)
		}
	})
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		said := ""
		if errors.As(err, &exit) {
			said = string(exit.Stderr)
		}
		t.Fatalf("%s: %v: %s", name, err, said)
	}
	return string(out)
}

// reads checks what a store for reading answers.
func reads(t *testing.T, program, path, id string, want map[string]string, missing string) {
	t.Helper()
	s := open(t, execstore.Config{Command: []string{program}, Dir: t.TempDir()})
	entry, err := s.Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	if entry.ID != id || entry.Stage != secrets.Current || entry.Created.IsZero() || len(entry.Keys) != len(want) {
		t.Errorf("version %+v with %d keys", entry.Version, len(entry.Keys))
	}
	for name, v := range want {
		if !entry.Keys[name].Equal(secrets.NewString(v)) {
			t.Errorf("key %q has another value", name)
		}
	}
	versions, err := s.Versions(t.Context(), path)
	if err != nil || len(versions) == 0 || versions[len(versions)-1].ID != id {
		t.Errorf("versions %v, %v", versions, err)
	}
	for _, missing := range []struct{ path, id string }{{missing, ""}, {path, "999999"}, {path, "pending"}, {"-x", ""}} {
		if _, err := s.Get(t.Context(), missing.path, missing.id); !errors.Is(err, secrets.ErrNotFound) {
			t.Errorf("%s, version %q: %v", missing.path, missing.id, err)
		}
	}
	if _, err := s.Put(t.Context(), path, secrets.Change{Set: map[string]secrets.Secret{"a": secrets.NewString("b")}}); !errors.Is(err, secrets.ErrReadOnly) {
		t.Errorf("writing: %v", err)
	}
}

// fake puts a program into PATH that knows these command lines and refuses others.
func fake(t *testing.T, name string, known map[string]string, notFound string) {
	t.Helper()
	dir := t.TempDir()
	var script strings.Builder
	script.WriteString("#!/bin/sh\ncase \"$*\" in\n")
	for args, answer := range known {
		fmt.Fprintf(&script, "'%s') cat <<'END'\n%s\nEND\n;;\n", args, answer)
	}
	fmt.Fprintf(&script, "*none*) cat >&2 <<'END'\n%s\nEND\nexit 1 ;;\n*) echo \"the fake %s does not know: $*\" >&2; exit 64 ;;\nesac\n", notFound, name)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script.String()), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// withReal runs a test with a program that stands in for another, and with the real
// one where it is installed.
func withReal(t *testing.T, name string, standIn func(t *testing.T), test func(t *testing.T)) {
	t.Run("stand-in", func(t *testing.T) {
		standIn(t)
		test(t)
	})
	if _, err := exec.LookPath(name); err == nil {
		t.Run("real", test)
	}
}

func TestOp(t *testing.T) {
	program := example(t, "op")
	fake(t, "op", map[string]string{
		"item get app --vault prod --format json": `{"id":"x","title":"app","version":3,"updated_at":"2026-11-01T10:00:00Z","fields":[
			{"id":"username","type":"STRING","label":"username","value":"app"},
			{"id":"password","type":"CONCEALED","label":"password","value":"p1"},
			{"id":"notesPlain","type":"STRING","label":"notesPlain"}]}`,
	}, `[ERROR] 2026/11/01 10:00:00 "none" isn't an item in the "prod" vault.`)
	reads(t, program, "prod/app", "3", map[string]string{"username": "app", "password": "p1"}, "prod/none")
	s := open(t, execstore.Config{Command: []string{program}, Dir: t.TempDir()})
	if _, err := s.Get(t.Context(), "other/app", ""); err == nil || !strings.Contains(err.Error(), "cannot reach its store: the fake op does not know") || !strings.Contains(err.Error(), "op signin") {
		t.Errorf("op fails: %v", err)
	}
}

// apiServer answers the GET requests that it knows, by their URL.
func apiServer(t *testing.T, answers map[string]string, notFound string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		text, ok := answers[r.URL.Path]
		if r.Method != http.MethodGet || !ok {
			w.WriteHeader(http.StatusNotFound)
			text = notFound
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestKubectl also has the real kubectl ask a server that knows one Secret.
func TestKubectl(t *testing.T) {
	program := example(t, "kubectl")
	const path = "/api/v1/namespaces/prod/secrets/app"
	const secret = `{"kind":"Secret","apiVersion":"v1","type":"Opaque",
		"metadata":{"name":"app","namespace":"prod","resourceVersion":"41","creationTimestamp":"2026-11-01T10:00:00Z"},
		"data":{"password":"cDE=","binary":"//4="}}`
	withReal(t, "kubectl", func(t *testing.T) {
		fake(t, "kubectl", map[string]string{"get --raw " + path: secret}, `Error from server (NotFound): secrets "none" not found`)
	}, func(t *testing.T) {
		url := apiServer(t, map[string]string{path: secret},
			`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"secrets \"none\" not found","reason":"NotFound","code":404}`)
		config := filepath.Join(t.TempDir(), "config")
		write(t, config, `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
			"clusters":[{"name":"c","cluster":{"server":"`+url+`"}}],"users":[{"name":"u","user":{}}]}`)
		t.Setenv("KUBECONFIG", config)
		reads(t, program, "prod/app", "41", map[string]string{"password": "p1", "binary": "\xff\xfe"}, "prod/none")
	})
}

// TestGcloud also has the real gcloud ask a server that knows one secret.
func TestGcloud(t *testing.T) {
	program := example(t, "gcloud")
	const at = "/v1/projects/prod/secrets/app/versions"
	const list = `[{"name":"projects/1/secrets/app/versions/2","createTime":"2026-11-02T10:00:00Z","state":"ENABLED"},
		{"name":"projects/1/secrets/app/versions/1","createTime":"2026-11-01T10:00:00Z","state":"ENABLED"}]`
	access := `{"name":"projects/1/secrets/app/versions/2","payload":{"data":"` + base64.StdEncoding.EncodeToString([]byte(`{"password":"p2"}`)) + `"}}`
	withReal(t, "gcloud", func(t *testing.T) {
		fake(t, "gcloud", map[string]string{
			"secrets versions list app --filter=state=ENABLED --project=prod --format=json --quiet": list,
			"secrets versions access 2 --secret=app --project=prod --format=json --quiet":           access,
		}, "ERROR: (gcloud.secrets.versions.list) NOT_FOUND: Secret [projects/1/secrets/none] not found.")
	}, func(t *testing.T) {
		url := apiServer(t, map[string]string{at: `{"versions":` + list + `,"totalSize":2}`, at + "/2:access": access},
			`{"error":{"code":404,"message":"Secret [none] not found.","status":"NOT_FOUND"}}`)
		dir := t.TempDir()
		write(t, filepath.Join(dir, "token"), "token")
		for name, value := range map[string]string{
			"CLOUDSDK_CONFIG": dir, "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": url + "/", "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": filepath.Join(dir, "token"),
			"CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1", "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
		} {
			t.Setenv(name, value)
		}
		reads(t, program, "prod/app", "2", map[string]string{"password": "p2"}, "prod/none")
	})
}
