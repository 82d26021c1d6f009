package vaultstore_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/vaultserver"
	"github.com/pgfleet/pgfleet/internal/secrets/vaultstore"
)

func set(key, value string) secrets.Change {
	return secrets.Change{Set: map[string]secrets.Secret{key: secrets.NewString(value)}}
}

func wantKeys(t *testing.T, got map[string]secrets.Secret, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("there are %d keys, want %d", len(got), len(want))
	}
	for name, v := range want {
		if !got[name].Equal(secrets.NewString(v)) {
			t.Errorf("key %s has another value", name)
		}
	}
}

// TestWrittenByOthers has somebody write to the path by other means.
func TestWrittenByOthers(t *testing.T) {
	onServers(t, func(t *testing.T, s server) {
		mount := s.mount(t, "2")
		store := s.open(t, mount)
		ctx := t.Context()
		s.write(t, mount, "app", map[string]any{"password": "p0", "port": 5432, "deep": map[string]any{"x": []any{1.5, "y"}}})
		s.write(t, mount, "app", map[string]any{"password": "p1", "port": 5432, "deep": map[string]any{"x": []any{1.5, "y"}}})
		entry, err := store.Get(ctx, "app", "")
		if err != nil {
			t.Fatal(err)
		}
		if entry.ID != "kv-2" {
			t.Errorf("the version is called %s", entry.ID)
		}
		wantKeys(t, entry.Keys, map[string]string{"password": "p1", "port": "5432", "deep": `{"x":[1.5,"y"]}`})
		if entry, err = store.Get(ctx, "app", "kv-1"); err != nil {
			t.Fatal(err)
		}
		if v, err := entry.Value("password"); err != nil || string(v.Expose()) != "p0" {
			t.Errorf("an older version is not read: %v", err)
		}

		// A rotation keeps the other keys as they are, and what was there before.
		second, err := store.Put(ctx, "app", set("password", "p2"))
		if err != nil {
			t.Fatal(err)
		}
		// Meanwhile somebody changes another key: both changes are there in the end.
		s.write(t, mount, "app", map[string]any{"password": "p1", "port": 6432, "user": "app"})
		if err := store.Promote(ctx, "app", second); err != nil {
			t.Fatal(err)
		}
		_, answer := s.call(t, "GET", mount+"/data/app", s.real.token, nil)
		data, err := json.Marshal(answer["data"].(map[string]any)["data"])
		if err != nil || string(data) != `{"password":"p2","port":6432,"user":"app"}` {
			t.Errorf("readers get %s", data)
		}
		if entry, err := store.Get(ctx, "app", "previous"); err != nil || entry.ID != "kv-3" {
			t.Errorf("the previous version is %q, %v", entry.ID, err)
		}

		// Somebody changes the very key: that is a conflict, and nothing is undone.
		third, err := store.Put(ctx, "app", set("password", "p3"))
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, mount, "app", map[string]any{"password": "theirs", "user": "app"})
		if err := store.Promote(ctx, "app", third); !errors.Is(err, secrets.ErrConflict) || strings.Contains(err.Error(), "theirs") {
			t.Errorf("promoting over somebody's password: %v", err)
		}
		wantKeys(t, s.read(t, mount, "app"), map[string]string{"password": "theirs", "user": "app"})
		again := set("password", "p3")
		again.Replace = true
		if third, err = store.Put(ctx, "app", again); err != nil {
			t.Fatal(err)
		}
		if err := store.Promote(ctx, "app", third); err != nil {
			t.Fatal(err)
		}
		wantKeys(t, s.read(t, mount, "app"), map[string]string{"password": "p3", "user": "app"})

		// Back to what they had.
		if err := store.Promote(ctx, "app", "kv-1"); err != nil {
			t.Fatal(err)
		}
		if got := s.read(t, mount, "app")["password"]; !got.Equal(secrets.NewString("p0")) {
			t.Error("a version that was written by others is not promoted")
		}
	})
}

// TestDeleted deletes what readers get.
func TestDeleted(t *testing.T) {
	onServers(t, func(t *testing.T, s server) {
		mount := s.mount(t, "2")
		store := s.open(t, mount)
		ctx := t.Context()
		id, err := store.Put(ctx, "app", set("password", "p1"))
		if err == nil {
			err = store.Promote(ctx, "app", id)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.call(t, "DELETE", mount+"/data/app", s.real.token, nil)
		_, err = store.Get(ctx, "app", "")
		if !errors.Is(err, secrets.ErrNotFound) || !strings.Contains(err.Error(), "bao kv undelete -mount="+mount+" -versions=1 app") {
			t.Errorf("a deleted version: %v", err)
		}
		c := set("password", "p2")
		c.IfCurrent = secrets.NoVersion
		second, err := store.Put(ctx, "app", c)
		if err == nil {
			err = store.Promote(ctx, "app", second)
		}
		if err != nil {
			t.Fatal(err)
		}
		wantKeys(t, s.read(t, mount, "app"), map[string]string{"password": "p2"})
		s.call(t, "POST", mount+"/destroy/app", s.real.token, map[string]any{"versions": []int{2}})
		if _, err = store.Get(ctx, "app", ""); !errors.Is(err, secrets.ErrNotFound) || !strings.Contains(err.Error(), "destroyed") {
			t.Errorf("a destroyed version: %v", err)
		}
		// The document still has it.
		if entry, err := store.Get(ctx, "app", second); err != nil || !entry.Keys["password"].Equal(secrets.NewString("p2")) {
			t.Errorf("the version is lost: %v", err)
		}
		// With its metadata gone, KV counts from 1 again.
		s.call(t, "DELETE", mount+"/metadata/app", s.real.token, nil)
		s.write(t, mount, "app", map[string]any{"password": "new"})
		if entry, err := store.Get(ctx, "app", ""); err != nil || entry.ID == id || !entry.Keys["password"].Equal(secrets.NewString("new")) {
			t.Errorf("after the secret was made anew, the current version is %q, %v", entry.ID, err)
		}
	})
}

// TestReaderWithoutRights reads with a policy that an application may have.
func TestReaderWithoutRights(t *testing.T) {
	onServers(t, func(t *testing.T, s server) {
		mount := s.mount(t, "2")
		s.write(t, mount, "prod/app", map[string]any{"password": "p1"})
		token := s.token(t, mount, vaultserver.Rule{Path: "data/prod/*", Capabilities: []string{"read"}})
		store := open(t, vaultstore.Config{Address: s.address, Mount: mount, Token: secrets.Ref{Store: "env", Path: "TOKEN"}}, map[string]string{"TOKEN": token})
		if entry, err := store.Get(t.Context(), "prod/app", ""); err != nil || entry.ID != "kv-1" {
			t.Errorf("version %q, %v", entry.ID, err)
		}
		if _, err := store.Get(t.Context(), "prod/none", ""); !errors.Is(err, secrets.ErrNotFound) {
			t.Errorf("a missing secret: %v", err)
		}
		for name, do := range map[string]func() error{
			"other path": func() error { _, err := store.Get(t.Context(), "other", ""); return err },
			"pending":    func() error { _, err := store.Get(t.Context(), "prod/app", "pending"); return err },
			"write":      func() error { _, err := store.Put(t.Context(), "prod/app", set("password", "p2")); return err },
		} {
			if err := do(); err == nil || !strings.Contains(err.Error(), "permission denied: "+mount+"/data/") || !strings.Contains(err.Error(), "its policy must have") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestAppRole(t *testing.T) {
	onServers(t, func(t *testing.T, s server) {
		mount := s.mount(t, "2")
		s.write(t, mount, "app", map[string]any{"password": "p1"})
		roleID, secretID := s.appRole(t, mount, vaultserver.Rule{Path: "data/app", Capabilities: []string{"read"}})
		env := map[string]string{"ROLE": roleID, "SECRET": secretID + "\n"}
		config := vaultstore.Config{Address: s.address, Mount: mount, RoleID: secrets.Ref{Store: "env", Path: "ROLE"}, SecretID: secrets.Ref{Store: "env", Path: "SECRET"}}
		store := open(t, config, env)
		for range 3 { // with one login: the secret_id serves once
			if _, err := store.Get(t.Context(), "app", ""); err != nil {
				t.Fatal(err)
			}
		}
		_, err := open(t, config, env).Get(t.Context(), "app", "")
		if err == nil || !strings.Contains(err.Error(), "the login at auth/approle/login was refused; look at role_id and secret_id") || strings.Contains(err.Error(), secretID) {
			t.Errorf("a used secret_id: %v", err)
		}
	})
}

// TestTokenRunsOut has the token of a login become invalid.
func TestTokenRunsOut(t *testing.T) {
	v := vaultserver.New(t)
	role := v.AppRole(vaultserver.Rule{Path: "secret/data/*", Capabilities: []string{"read", "create", "update"}})
	store := open(t, vaultstore.Config{Address: v.URL, RoleID: secrets.Ref{Store: "env", Path: "ROLE"}, SecretID: secrets.Ref{Store: "env", Path: "SECRET"}},
		map[string]string{"ROLE": role, "SECRET": v.SecretID(role, 0)})
	id, err := store.Put(t.Context(), "app", set("password", "p1"))
	if err != nil {
		t.Fatal(err)
	}
	v.Revoke()
	if err := store.Promote(t.Context(), "app", id); err != nil {
		t.Errorf("after the token ran out: %v", err)
	}
	if n := v.Logins(); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
}

func TestErrors(t *testing.T) {
	v := vaultserver.New(t)
	env := map[string]string{"VAULT_TOKEN": v.Root}
	plain := vaultstore.Config{Address: v.URL}
	with := func(change func(*vaultstore.Config)) vaultstore.Config {
		c := plain
		change(&c)
		return c
	}
	tls := httptest.NewTLSServer(v)
	t.Cleanup(tls.Close)
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<html>hunter2</html>")) // what the client does not take is the client's
	}))
	t.Cleanup(html.Close)
	tests := []struct {
		name   string
		config vaultstore.Config
		env    map[string]string
		path   string
		want   []string
	}{
		{"missing", plain, env, "prod/none", []string{"secret vault:prod/none: not found; there is nothing at secret/prod/none"}},
		{"wrong token", plain, map[string]string{"BAO_TOKEN": "hunter2"}, "a", []string{"permission denied: secret/data/a may not be read; the token must be valid"}},
		{"no mount", with(func(c *vaultstore.Config) { c.Mount = "kv" }), env, "a", []string{"there is no mount kv", "bao secrets list"}},
		{"version 1", with(func(c *vaultstore.Config) { c.Mount = "kv1" }), env, "a", []string{"the mount kv1 is not one of the KV engine, version 2", "bao kv enable-versioning kv1"}},
		{"namespace", with(func(c *vaultstore.Config) { c.Namespace = "team" }), env, "a", []string{"there is no namespace team"}},
		{"unknown CA", with(func(c *vaultstore.Config) { c.Address = tls.URL }), env, "a", []string{"unknown authority", "ca_file in [secrets.vault]"}},
		{"not the server", with(func(c *vaultstore.Config) { c.Address = html.URL }), env, "a", []string{"something else than OpenBao's or Vault's JSON"}},
		{"the document's folder", plain, env, "pgfleet-versions/a", []string{"the versions of other secrets"}},
		{"dots", plain, env, "../sys/raw", []string{"the path must be words"}},
		{"slashes", plain, env, "a//b", []string{"the path must be words"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := open(t, test.config, test.env)
			_, getErr := s.Get(t.Context(), test.path, "")
			_, putErr := s.Put(t.Context(), test.path, set("password", "hunter2"))
			if test.name == "missing" {
				putErr = getErr // there it may be written
			}
			for _, err := range []error{getErr, putErr} {
				if err == nil {
					t.Fatal("no error")
				}
				for _, want := range test.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("error %q does not say %q", err, want)
					}
				}
				if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), v.Root) {
					t.Errorf("error %q holds a secret", err)
				}
			}
		})
	}
	s := open(t, plain, env)
	v.Seal(true)
	if _, err := s.Get(t.Context(), "a", ""); err == nil || !strings.Contains(err.Error(), "is sealed or not ready; unseal it: bao operator unseal") {
		t.Errorf("sealed: %v", err)
	}
	v.Seal(false)
	v.Faults.Set(faults.From(1, faults.Hang))
	start := time.Now()
	_, err := open(t, with(func(c *vaultstore.Config) { c.Timeout = 200 * time.Millisecond }), env).Get(t.Context(), "a", "")
	if err == nil || !strings.Contains(err.Error(), "did not answer within 200ms") || time.Since(start) > 5*time.Second {
		t.Errorf("a server that hangs: %v", err)
	}

	// With the CA's certificate the TLS server is trusted.
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, with(func(c *vaultstore.Config) { c.Address, c.CAFile = tls.URL, file }), env)
	if _, err := s.Get(t.Context(), "a", ""); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("with ca_file: %v", err)
	}
	for _, address := range []string{"vault:8200", "", "ftp://x", "https://u:hunter2@x"} {
		if _, err := vaultstore.New(vaultstore.Config{Address: address}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("address %q: %v", address, err)
		}
	}
}
