package awsstore_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/awsstore"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/awsserver"
)

func start(t *testing.T) (*awsserver.Server, *awsstore.Store) {
	t.Helper()
	server := awsserver.New(t)
	for name, v := range server.Env() {
		t.Setenv(name, v)
	}
	return server, open(server)
}

func open(server *awsserver.Server) *awsstore.Store {
	return awsstore.New(awsstore.Config{Region: awsserver.Region, Endpoint: server.URL, RetryWait: time.Millisecond})
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		server, s := start(t)
		return storetest.Fixture{
			Store:  s,
			Reopen: func(*testing.T) secrets.Store { return open(server) },
			Path:   func(name string) string { return "prod/" + name },
			Read: func(t *testing.T, path string) map[string]secrets.Secret {
				text, ok := server.Read(path)
				var values map[string]string
				if !ok || json.Unmarshal([]byte(text), &values) != nil {
					t.Fatalf("an application cannot read %s", path)
				}
				keys := map[string]secrets.Secret{}
				for name, v := range values {
					keys[name] = secrets.NewString(v)
				}
				return keys
			},
			Faults: server.Faults,
		}
	})
}

// TestLabelsDoNotPileUp rotates more often than a secret may have labels.
func TestLabelsDoNotPileUp(t *testing.T) {
	_, s := start(t)
	for i := range 25 {
		change := secrets.Change{Set: map[string]secrets.Secret{"password": secrets.GeneratePassword()}}
		if _, err := s.Put(t.Context(), "app", change); err != nil {
			t.Fatalf("rotation %d: %v", i, err)
		}
		change.Replace = true // as after a rotation that was given up
		id, err := s.Put(t.Context(), "app", change)
		if err == nil {
			err = s.Promote(t.Context(), "app", id)
		}
		if err != nil {
			t.Fatalf("rotation %d: %v", i, err)
		}
	}
}

func TestWrittenByOthers(t *testing.T) {
	server, s := start(t)
	server.Write("app", `{"password":"p1","port":5432,"deep":{"x":[1]}}`)
	entry, err := s.Get(t.Context(), "app", "")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"password": "p1", "port": "5432", "deep": `{"x":[1]}`} {
		if got, err := entry.Value(key); err != nil || string(got.Expose()) != want {
			t.Errorf("key %s is not read: %v", key, err)
		}
	}
	change := secrets.Change{Set: map[string]secrets.Secret{"password": secrets.NewString("p2")}}
	id, err := s.Put(t.Context(), "app", change)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody writes while the new version is pending: that is not undone.
	server.Write("app", `{"password":"p3"}`)
	if err := s.Promote(t.Context(), "app", id); !errors.Is(err, secrets.ErrConflict) {
		t.Errorf("promoting over somebody's value: %v", err)
	}
	change.Replace = true
	if id, err = s.Put(t.Context(), "app", change); err != nil {
		t.Fatal(err)
	}
	if err := s.Promote(t.Context(), "app", id); err != nil {
		t.Fatal(err)
	}
	if text, _ := server.Read("app"); text != `{"password":"p2"}` {
		t.Error("the value that was promoted is not read")
	}
}

func TestSingleValue(t *testing.T) {
	server, s := start(t)
	server.Write("app", "hunter2")
	set := func(key, value string) secrets.Change {
		return secrets.Change{Set: map[string]secrets.Secret{key: secrets.NewString(value)}}
	}
	if _, err := s.Put(t.Context(), "app", set("password", "x")); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a key in a single value: %v", err)
	}
	for _, path := range []string{"app", "new"} {
		id, err := s.Put(t.Context(), path, set("", "hunter3"))
		if err == nil {
			err = s.Promote(t.Context(), path, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := server.Read(path); text != "hunter3" {
			t.Errorf("%s: the single value was not written", path)
		}
	}
	server.Write("keys", `{"a":"b"}`)
	if _, err := s.Put(t.Context(), "keys", set("", "x")); err == nil {
		t.Error("a single value was written over keys")
	}
}

func TestErrors(t *testing.T) {
	server, s := start(t)
	server.Write("app", `{"a":"b"}`)
	dead := awsstore.New(awsstore.Config{Region: awsserver.Region, Endpoint: "http://127.0.0.1:1", RetryWait: time.Millisecond})
	tests := []struct {
		name   string
		before func()
		store  *awsstore.Store
		want   []string
	}{
		{"denied", func() { server.Deny("GetSecretValue") }, s, []string{"secret aws:app: access denied to GetSecretValue", "secretsmanager:GetSecretValue"}},
		{"dead", func() {}, dead, []string{"cannot be reached", "connection refused", "region or endpoint"}},
		{"no region", func() {}, awsstore.New(awsstore.Config{Endpoint: server.URL}), []string{"no region", "[secrets.aws]"}},
		{"another key", func() { t.Setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER") }, open(server), []string{"credentials were refused", "log in"}},
		{"another secret key", func() {
			t.Setenv("AWS_ACCESS_KEY_ID", awsserver.KeyID)
			t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
		}, open(server), []string{"credentials were refused (InvalidSignatureException)"}},
		{"no credentials", func() { t.Setenv("AWS_ACCESS_KEY_ID", ""); t.Setenv("AWS_SECRET_ACCESS_KEY", "") }, open(server), []string{"no credentials", "profile"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.before()
			_, err := test.store.Get(t.Context(), "app", "")
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}
