package main

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// TestEditText: what is not touched comes back as it was, whatever the keys and
// values are.
func TestEditText(t *testing.T) {
	key := rapid.StringMatching(`[a-z."\\' =\[\]äé-]{1,8}`).Filter(func(s string) bool { return strings.TrimSpace(s) == s })
	value := rapid.OneOf(rapid.String(), rapid.StringMatching("[a\"'\\\\\r\n\t\x00\x7f\\x85 #=]{1,12}")).Filter(func(s string) bool { return s != "" })
	rapid.Check(t, func(t *rapid.T) {
		now := secrets.Entry{Version: secrets.Version{ID: "1"}, Keys: map[string]secrets.Secret{}}
		for k, v := range rapid.MapOfN(key, value, 1, 4).Draw(t, "keys") {
			now.Keys[k] = secrets.NewString(v)
		}
		text := editText(target{ref: secrets.Ref{Store: "age", Path: "a"}, now: now})
		change, err := editedChange(now, text)
		if err != nil || len(change.Set) > 0 || len(change.Remove) > 0 {
			t.Fatalf("%s\n%v, %v", text, change, err)
		}
	})
}

func TestEditedChange(t *testing.T) {
	now := secrets.Entry{Keys: map[string]secrets.Secret{
		"password": secrets.NewString("canary"), "user": secrets.NewString("app"), "binary": secrets.New([]byte{0xff, 0}),
	}}
	text := string(editText(target{now: now}))
	if !strings.Contains(text, "Kept as they are, because their values are no text: binary\n") {
		t.Errorf("the key with a binary value is not named:\n%s", text)
	}
	tests := []struct {
		text        string
		set, remove []string
		err         string
	}{
		{text: text},
		{text: "password = 'canary'\nuser = \"app\"\n"},
		{text: "password = 'other'\nport = '1'", set: []string{"password", "port"}, remove: []string{"user"}},
		{text: "binary = 'text'", set: []string{"binary"}, remove: []string{"password", "user"}},
		{text: "", remove: []string{"password", "user"}}, // the binary one is left
		{text: "user = 'app'\npassword = hunter2", err: "line 2 is not TOML"},
		{text: "password = 'x'\npassword = 'hunter2'", err: "line 2 is not TOML"},
		{text: "a.b = 'hunter2'", err: `key "a": want a value in quotes, and quotes around a key with a dot`},
		{text: "'' = 'hunter2'", err: `"" cannot be the name of a key`},
		{text: "' a' = 'hunter2'", err: `" a" cannot be the name of a key`},
	}
	for _, test := range tests {
		change, err := editedChange(now, []byte(test.text))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: error %v, want %s", test.text, err, test.err)
			}
			continue
		}
		var set []string
		for k := range change.Set {
			set = append(set, k)
		}
		slices.Sort(set)
		if err != nil || !slices.Equal(set, test.set) || !slices.Equal(change.Remove, test.remove) {
			t.Errorf("%q: set %v, remove %v, %v; want %v, %v", test.text, set, change.Remove, err, test.set, test.remove)
		}
	}
}
