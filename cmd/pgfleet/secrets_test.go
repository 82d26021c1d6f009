package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// TestNoValueIsPrinted: of all commands that read or write secrets, get alone prints
// values, also where something fails.
func TestNoValueIsPrinted(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var recipients []string
	for _, name := range []string{"me", "other"} {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		file(name, id.String(), 0o600)
		recipients = append(recipients, id.Recipient().String())
	}
	list := func(r ...string) { file("recipients.txt", strings.Join(r, "\n"), 0o600) }
	list(recipients[0])
	fleet := file("fleet.toml", `[fleet]
name = "prod"
[postgres]
version = 15
[secrets.age]
identities = ["me"]
recipients = ["recipients.txt"]
[hosts.pg01]
`, 0o600)

	var printed bytes.Buffer
	command := func(editor, stdin string, args ...string) {
		t.Helper()
		in, out := file("in", stdin, 0o600), file("out", "", 0o600)
		files := make([]*os.File, 3)
		for i, path := range []string{in, out, out} {
			var err error
			if files[i], err = os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0); err != nil {
				t.Fatal(err)
			}
			defer files[i].Close()
		}
		lookup := func(name string) (string, bool) {
			if name == "EDITOR" && editor != "" {
				return file("editor", "#!/bin/sh\n"+editor, 0o700), true
			}
			return "", false
		}
		code := run(append([]string{"-f", fleet, "secrets"}, args...), terminal{In: files[0], Out: files[1], Err: files[2], LookupEnv: lookup}, make(chan os.Signal))
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		printed.WriteString(strings.Join(args, " ") + "\n" + string(text))
		if code != 0 && !bytes.Contains(text, []byte("pgfleet: ")) {
			t.Errorf("%v: exit code %d without an error", args, code)
		}
	}
	const typed, edited, refused = "canary-typed-4711", "canary-edited-4712", "canary-refused-4713"
	command("", typed, "set", "age:a#typed")
	command("", "", "set", "age:a#generated", "--generate")
	command("", typed, "set", "age:a#typed")
	command("", "", "set", "age:b#generated", "--generate")
	command("echo 'edited = \""+edited+"\"' >> $1", "", "edit", "age:a")
	command("echo '"+refused+"' >> $1", "", "edit", "age:a")
	command("echo 'edited = \""+refused+"\"' >> $1", "", "edit", "age:a")
	command("echo 'new."+"x = \""+refused+"\"' > $1", "", "edit", "age:a")
	command("", refused, "set", "age:a#one", refused)
	command("", refused, "set", "age:a/#one")
	command("", refused, "set", "age:a")
	command("", "", "list")
	command("", "", "list", "--json")
	command("", "", "promote", "age:a@previous")
	list(recipients...)
	command("", "", "rekey")
	command("", "", "rekey", "--yes")
	list(recipients[1])
	command("", "", "rekey", "--yes")
	command("", refused, "set", "age:a#typed")
	command("", "", "list", "--json", "-v")

	resolver, err := secrets.NewResolver(secrets.Config{Dir: dir, Age: secrets.AgeConfig{Identities: []string{"me"}}})
	if err != nil {
		t.Fatal(err)
	}
	values := []string{refused}
	for _, name := range []string{"age:a#typed", "age:a#generated", "age:a#edited@previous", "age:b#generated"} {
		ref, err := secrets.ParseRef(name)
		if err != nil {
			t.Fatal(err)
		}
		value, _, err := resolver.Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, string(value.Expose()))
	}
	for _, v := range values {
		for _, form := range []string{v, base64.StdEncoding.EncodeToString([]byte(v)), hex.EncodeToString([]byte(v))} {
			if strings.Contains(printed.String(), form) && form != refused {
				t.Errorf("a value is printed:\n%s", strings.ReplaceAll(printed.String(), form, "!!! HERE !!!"))
			}
		}
	}
	// The one place is the command line of the test itself, where it was given as an
	// argument.
	if n := strings.Count(printed.String(), refused); n != 1 {
		t.Errorf("the refused value is printed %d times:\n%s", n-1, printed.String())
	}
	command("", "", "get", "age:a#typed")
	if !strings.Contains(printed.String(), typed) {
		t.Error("get does not print the value: the search above finds nothing")
	}
}

func TestReadValue(t *testing.T) {
	tests := map[string]string{
		"a": "a", "a\n": "a", "a\r\n": "a", " a \n": " a ", "\n": "", "": "",
		"a\n\n": "a\n\n", "a\nb\n": "a\nb\n", "a\nb": "a\nb", "a\r": "a\r",
	}
	for in, want := range tests {
		got, err := readValue(strings.NewReader(in))
		if err != nil || string(got.Expose()) != want {
			t.Errorf("%q: %q, %v; want %q", in, got.Expose(), err, want)
		}
	}
	if _, err := readValue(io.LimitReader(zeros{}, maxValue+1)); err == nil {
		t.Error("a value without end is taken")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
