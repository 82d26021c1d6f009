package vaultstore_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/vaultserver"
	"github.com/pgfleet/pgfleet/internal/secrets/vaultstore"
)

// A real is a server of OpenBao or Vault that somebody has started for this test:
// PGFLEET_TEST_VAULT is its address, PGFLEET_TEST_VAULT_TOKEN a token that may do
// everything.
type real struct{ address, token string }

func realServer(t *testing.T) real {
	t.Helper()
	r := real{os.Getenv("PGFLEET_TEST_VAULT"), os.Getenv("PGFLEET_TEST_VAULT_TOKEN")}
	if r.address == "" {
		t.Skip("PGFLEET_TEST_VAULT names no server of OpenBao or Vault")
	}
	return r
}

// call makes a request and returns its status and answer.
func (r real) call(t *testing.T, method, path, token string, body any) (int, map[string]any) {
	t.Helper()
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, r.address+"/v1/"+path, &text)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", token)
	req.Header.Set("X-Vault-Request", "true")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]any
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &decoded); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, answer)
		}
	}
	return resp.StatusCode, decoded
}

// mount makes a mount of KV for a test.
func (r real) mount(t *testing.T, version string) string {
	t.Helper()
	name := "pgfleet-" + strings.ToLower(rand.Text()[:12])
	if status, answer := r.call(t, "POST", "sys/mounts/"+name, r.token, map[string]any{"type": "kv", "options": map[string]string{"version": version}}); status != http.StatusNoContent {
		t.Fatalf("mount: status %d, %v", status, answer)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, r.address+"/v1/sys/mounts/"+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Vault-Token", r.token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	})
	// A mount that has just been made is upgraded for a moment.
	for range 100 {
		if status, _ := r.call(t, "GET", name+"/config", r.token, nil); status == http.StatusOK || version == "1" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return name
}

func open(t *testing.T, c vaultstore.Config, env map[string]string) *vaultstore.Store {
	t.Helper()
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	c.LookupEnv, c.RetryWait = lookup, time.Millisecond
	dir := t.TempDir()
	c.Read = func(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
		r, err := secrets.NewResolver(secrets.Config{Dir: dir, LookupEnv: lookup})
		if err != nil {
			return secrets.Secret{}, err
		}
		s, _, err := r.Resolve(ctx, ref)
		return s, err
	}
	s, err := vaultstore.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A server is a real one or the test server, so that what holds for the one is seen to
// hold for the other.
type server struct {
	real
	mount   func(t *testing.T, version string) string
	faults  *faults.Injector
	token   func(t *testing.T, mount string, rules ...vaultserver.Rule) string
	appRole func(t *testing.T, mount string, rules ...vaultserver.Rule) (roleID, secretID string)
}

// onServers runs a test with the test server, and with a real one if there is one.
func onServers(t *testing.T, test func(t *testing.T, s server)) {
	t.Run("test server", func(t *testing.T) {
		v := vaultserver.New(t)
		test(t, server{
			real:   real{v.URL, v.Root},
			faults: v.Faults,
			mount: func(_ *testing.T, version string) string {
				return map[string]string{"1": "kv1", "2": "secret"}[version]
			},
			token: func(_ *testing.T, mount string, rules ...vaultserver.Rule) string {
				return v.Token(inMount(mount, rules)...)
			},
			appRole: func(_ *testing.T, mount string, rules ...vaultserver.Rule) (string, string) {
				id := v.AppRole(inMount(mount, rules)...)
				return id, v.SecretID(id, 1)
			},
		})
	})
	if os.Getenv("PGFLEET_TEST_VAULT") == "" {
		return
	}
	t.Run("real server", func(t *testing.T) {
		r := realServer(t)
		test(t, server{
			real:  r,
			mount: r.mount,
			token: func(t *testing.T, mount string, rules ...vaultserver.Rule) string {
				_, answer := r.call(t, "POST", "auth/token/create", r.token, map[string]any{"policies": []string{r.policy(t, inMount(mount, rules))}})
				return answer["auth"].(map[string]any)["client_token"].(string)
			},
			appRole: func(t *testing.T, mount string, rules ...vaultserver.Rule) (string, string) {
				r.call(t, "POST", "sys/auth/approle", r.token, map[string]any{"type": "approle"})
				name := r.policy(t, inMount(mount, rules))
				r.call(t, "POST", "auth/approle/role/"+name, r.token, map[string]any{"token_policies": []string{name}, "secret_id_num_uses": 1})
				_, role := r.call(t, "GET", "auth/approle/role/"+name+"/role-id", r.token, nil)
				_, secret := r.call(t, "POST", "auth/approle/role/"+name+"/secret-id", r.token, nil)
				return role["data"].(map[string]any)["role_id"].(string), secret["data"].(map[string]any)["secret_id"].(string)
			},
		})
	})
}

func inMount(mount string, rules []vaultserver.Rule) []vaultserver.Rule {
	var all []vaultserver.Rule
	for _, r := range rules {
		all = append(all, vaultserver.Rule{Path: mount + "/" + r.Path, Capabilities: r.Capabilities})
	}
	return all
}

// policy writes a policy and returns its name.
func (r real) policy(t *testing.T, rules []vaultserver.Rule) string {
	t.Helper()
	name := "pgfleet-" + strings.ToLower(rand.Text()[:12])
	paths := map[string]any{}
	for _, rule := range rules {
		paths[rule.Path] = map[string]any{"capabilities": rule.Capabilities}
	}
	text, err := json.Marshal(map[string]any{"path": paths})
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := r.call(t, "PUT", "sys/policies/acl/"+name, r.token, map[string]any{"policy": string(text)}); status != http.StatusNoContent {
		t.Fatalf("policy: status %d, %v", status, answer)
	}
	return name
}

// read reads a secret as an application does.
func (s server) read(t *testing.T, mount, path string) map[string]secrets.Secret {
	t.Helper()
	status, answer := s.call(t, "GET", mount+"/data/"+path, s.real.token, nil)
	if status != http.StatusOK {
		t.Fatalf("reading %s: status %d", path, status)
	}
	return texts(answer["data"].(map[string]any)["data"].(map[string]any))
}

// texts returns the values that are strings.
func texts(data map[string]any) map[string]secrets.Secret {
	keys := map[string]secrets.Secret{}
	for name, v := range data {
		text, _ := v.(string)
		keys[name] = secrets.NewString(text)
	}
	return keys
}

func (s server) write(t *testing.T, mount, path string, data map[string]any) {
	t.Helper()
	if status, answer := s.call(t, "POST", mount+"/data/"+path, s.real.token, map[string]any{"data": data}); status != http.StatusOK {
		t.Fatalf("writing %s: status %d, %v", path, status, answer)
	}
}

func (s server) open(t *testing.T, mount string) *vaultstore.Store {
	return open(t, vaultstore.Config{Address: s.address, Mount: mount}, map[string]string{"BAO_TOKEN": s.real.token})
}

func TestStore(t *testing.T) {
	onServers(t, func(t *testing.T, s server) {
		storetest.Run(t, func(t *testing.T) storetest.Fixture {
			s := s
			var v *vaultserver.Server
			if s.faults != nil { // a server for each, as with the mounts
				v = vaultserver.New(t)
				s.real, s.faults = real{v.URL, v.Root}, v.Faults
			}
			mount := s.mount(t, "2")
			read := func(t *testing.T, path string) map[string]secrets.Secret { return s.read(t, mount, path) }
			if v != nil {
				read = func(_ *testing.T, path string) map[string]secrets.Secret { return texts(v.Read(path)) }
			}
			return storetest.Fixture{
				Store:  s.open(t, mount),
				Reopen: func(t *testing.T) secrets.Store { return s.open(t, mount) },
				Path:   func(name string) string { return "prod/" + name },
				Read:   read,
				Faults: s.faults,
			}
		})
	})
}

// TestAnswers compares the test server with a real one, request by request.
func TestAnswers(t *testing.T) {
	type request struct {
		method, path string
		body         string
		status       int
		errors       string // what the answer's errors begin with
		data         string // what the answer's data begins with, as JSON
	}
	long := strings.Repeat("x", 513)
	requests := []request{
		{"GET", "MOUNT/data/a", ``, 404, ``, ``},
		{"GET", "MOUNT/metadata/a", ``, 404, ``, ``},
		{"POST", "MOUNT/data/a", `{"data":{"x":"1"},"options":{"cas":1}}`, 400, "check-and-set parameter did not match the current version", ``},
		{"POST", "MOUNT/data/a", `{"data":{"x":"1"},"options":{"cas":0}}`, 200, ``, `"version":1`},
		{"POST", "MOUNT/data/a", `{"data":{"x":"1"},"options":{"cas":0}}`, 400, "check-and-set parameter did not match the current version", ``},
		{"PUT", "MOUNT/data/a", `{"data":{"x":3,"y":null,"z":[1,{"b":1.50}]}}`, 200, ``, `"version":2`},
		{"GET", "MOUNT/data/a", ``, 200, ``, `"data":{"x":3,"y":null,"z":[1,{"b":1.5}]}`},
		{"GET", "MOUNT/data/a?version=1", ``, 200, ``, `"data":{"x":"1"}`},
		{"GET", "MOUNT/data/a?version=0", ``, 200, ``, `"version":2`},
		{"GET", "MOUNT/data/a?version=3", ``, 404, ``, ``},
		{"GET", "MOUNT/data/a?version=x", ``, 400, `Field validation failed: error converting input for field "version"`, ``},
		{"POST", "MOUNT/data/a", `{"options":{}}`, 400, "no data provided", ``},
		{"POST", "MOUNT/data/a", `{"data":"x"}`, 400, `error converting input for field "data"`, ``},
		{"POST", "MOUNT/delete/a", `{"versions":[1]}`, 204, ``, ``},
		{"GET", "MOUNT/data/a?version=1", ``, 404, ``, `"data":null`},
		{"POST", "MOUNT/undelete/a", `{"versions":["1"]}`, 204, ``, ``},
		{"GET", "MOUNT/data/a?version=1", ``, 200, ``, `"data":{"x":"1"}`},
		{"POST", "MOUNT/destroy/a", `{"versions":[1]}`, 204, ``, ``},
		{"GET", "MOUNT/data/a?version=1", ``, 404, ``, `"destroyed":true`},
		{"POST", "MOUNT/destroy/nosuch", `{"versions":[1]}`, 204, ``, ``},
		{"DELETE", "MOUNT/data/a", ``, 204, ``, ``},
		{"GET", "MOUNT/data/a", ``, 404, ``, `"version":2`},
		{"POST", "MOUNT/data/a", `{"data":{"x":"4"},"options":{"cas":0}}`, 400, "check-and-set parameter did not match the current version", ``},
		{"POST", "MOUNT/metadata/a", `{"max_versions":2,"custom_metadata":{"a":"b"}}`, 204, ``, ``},
		{"POST", "MOUNT/metadata/a", `{"custom_metadata":{"a":"` + long + `"}}`, 400, "1 error occurred:\n\t* custom_metadata validation failed: length of value for key \"a\" is 513", ``},
		{"POST", "MOUNT/data/a", `{"data":{"x":"5"},"options":{"cas":2}}`, 200, ``, `"version":3`},
		{"POST", "MOUNT/data/a", `{"data":{"x":"6"},"options":{"cas":3}}`, 200, ``, `"custom_metadata":{"a":"b"}`},
		{"GET", "MOUNT/data/a?version=2", ``, 404, ``, ``},
		{"GET", "MOUNT/metadata/a", ``, 200, ``, `"oldest_version":3`},
		{"POST", "MOUNT/metadata/a", `{"cas_required":true}`, 204, ``, ``},
		{"POST", "MOUNT/data/a", `{"data":{"x":"7"}}`, 400, "check-and-set parameter required for this call", ``},
		{"DELETE", "MOUNT/metadata/a", ``, 204, ``, ``},
		{"GET", "MOUNT/data/a", ``, 404, ``, ``},
		{"POST", "MOUNT/data/", `{"data":{"x":"1"}}`, 400, "cannot write to a path ending in '/'", ``},
		{"GET", "nosuch/data/a", ``, 404, `no handler for route "nosuch/data/a". route entry not found.`, ``},
		{"POST", "nosuch/data/a", `{"data":{}}`, 404, `no handler for route "nosuch/data/a". route entry not found.`, ``},
		{"GET", "sys/internal/ui/mounts/MOUNT", ``, 200, ``, `"options":{"version":"2"}`},
		{"GET", "sys/internal/ui/mounts/KV1", ``, 200, ``, `"options":{"version":"1"}`},
		{"GET", "sys/internal/ui/mounts/nosuch", ``, 403, `preflight capability check returned 403`, ``},
		{"POST", "KV1/data/a", `{"data":{"x":"1"},"options":{"cas":5}}`, 204, ``, ``},
		{"POST", "auth/approle/login", `{"role_id":"x"}`, 400, ``, ``},
		{"POST", "auth/nosuch/login", `{"role_id":"x"}`, 403, "permission denied", ``},
	}
	onServers(t, func(t *testing.T, s server) {
		s.appRole(t, "x") // so that AppRole is there
		names := strings.NewReplacer("MOUNT", s.mount(t, "2"), "KV1", s.mount(t, "1"))
		for _, r := range requests {
			var body any
			if r.body != "" {
				body = json.RawMessage(r.body)
			}
			token := s.real.token
			if strings.HasPrefix(r.path, "auth/") {
				token = ""
			}
			status, answer := s.call(t, r.method, names.Replace(r.path), token, body)
			errs, _ := answer["errors"].([]any)
			said := ""
			if len(errs) > 0 {
				said = errs[0].(string)
			}
			data, err := json.Marshal(answer["data"])
			if err != nil {
				t.Fatal(err)
			}
			if status != r.status || !strings.HasPrefix(said, r.errors) || !strings.Contains(string(data), r.data) {
				t.Errorf("%s %s %s: status %d, errors %q, data %s; want %d, %q, %s", r.method, r.path, r.body, status, said, data, r.status, r.errors, r.data)
			}
		}
		mount := s.mount(t, "2")
		limited := s.token(t, mount, vaultserver.Rule{Path: "data/app/*", Capabilities: []string{"read"}})
		for path, want := range map[string]int{"data/app/x": 404, "data/other": 403, "data/app": 403} {
			if status, _ := s.call(t, "GET", mount+"/"+path, limited, nil); status != want {
				t.Errorf("%s with a policy: status %d, want %d", path, status, want)
			}
		}
		for token, want := range map[string]int{limited: 200, "nosuch": 403} {
			if status, _ := s.call(t, "GET", "auth/token/lookup-self", token, nil); status != want {
				t.Errorf("lookup-self: status %d, want %d", status, want)
			}
		}
		if status, _ := s.call(t, "POST", mount+"/data/app/x", limited, map[string]any{"data": map[string]any{}}); status != http.StatusForbidden {
			t.Errorf("writing with a policy for reading: status %d", status)
		}
		for _, token := range []string{"", "nosuch"} {
			if status, _ := s.call(t, "GET", mount+"/data/a", token, nil); status != http.StatusForbidden {
				t.Errorf("token %q: status %d", token, status)
			}
		}
		roleID, secretID := s.appRole(t, mount)
		for _, want := range []int{200, 400} { // it may be used once
			if status, _ := s.call(t, "POST", "auth/approle/login", "", map[string]any{"role_id": roleID, "secret_id": secretID}); status != want {
				t.Errorf("login: status %d, want %d", status, want)
			}
		}
	})
}
