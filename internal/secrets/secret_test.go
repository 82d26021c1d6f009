package secrets

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgtype"
	gotoml "github.com/pelletier/go-toml/v2"
)

const canary = "hunter2-canary"

// holder has secrets wherever a struct can have them.
type holder[T any] struct {
	Value   T
	Pointer *T
	List    []T
	Map     map[string]T
	Any     any
	hidden  T
	deeper  struct{ hidden *T }
}

func newHolder[T any](v T) holder[T] {
	h := holder[T]{Value: v, Pointer: &v, List: []T{v}, Map: map[string]T{"k": v}, Any: v, hidden: v}
	h.deeper.hidden = &v
	return h
}

// printings prints a value in every way that could leak it.
func printings(v any) map[string]string {
	out := make(map[string]string)
	for _, flags := range []string{"", "+", "#", "-", " ", "0", "12", ".3"} {
		for verb := '!'; verb <= '~'; verb++ {
			format := "%" + flags + string(verb)
			out[format] = fmt.Sprintf(format, v)
		}
	}
	out["Sprint"] = fmt.Sprint(v)
	out["error"] = fmt.Errorf("wrapped: %w", fmt.Errorf("inner: %v", v)).Error()
	out["join"] = errors.Join(errors.New("x"), fmt.Errorf("%+v", v)).Error()
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	out["slog"] = b.String()
	encoders := map[string]func(any) ([]byte, error){
		"JSON": json.Marshal,
		"XML":  xml.Marshal,
		"TOML": func(v any) ([]byte, error) {
			var b bytes.Buffer
			err := toml.NewEncoder(&b).Encode(v)
			return b.Bytes(), err
		},
		"go-toml": gotoml.Marshal,
		"gob": func(v any) ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(v)
			return b.Bytes(), err
		},
	}
	for name, encode := range encoders {
		text, err := encode(v)
		out[name] = string(text) + fmt.Sprint(err)
	}
	out["cmp"] = cmp.Diff(v, nil, cmp.Exporter(func(reflect.Type) bool { return true }))
	return out
}

// leaks looks for a value, and for it in hexadecimal, decimal and base64 forms.
func leaks(text, value string) bool {
	for _, form := range forms(value) {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestSecretNeverPrints(t *testing.T) {
	s := NewString(canary)
	values := map[string]any{
		"secret": s, "pointer": &s, "holder": newHolder(s), "pointer to holder": func() any { h := newHolder(s); return &h }(),
		"entry": Entry{Keys: map[string]Secret{"k": s}}, "change": Change{Set: map[string]Secret{"k": s}},
	}
	d, err := NewDigester(NewString(strings.Repeat(canary, 3)[:32]))
	if err != nil {
		t.Fatal(err)
	}
	r := NewRedactor()
	r.Add(s)
	values["digester"], values["redactor"] = d, r
	for name, v := range values {
		for way, text := range printings(v) {
			if leaks(text, canary) {
				t.Errorf("%s: printed with %s it shows its value", name, way)
			}
		}
	}
	for _, way := range []string{"%v", "%s", "%q", "%x", "%d", "%#v", "Sprint"} {
		if got := printings(s)[way]; got != Mask {
			t.Errorf("%s prints %q, want %q", way, got, Mask)
		}
	}
	if got := printings(s)["JSON"]; got != `"`+Mask+`"<nil>` {
		t.Errorf("JSON is %s", got)
	}
	// The control: the same search finds the same value in a type that leaks it.
	found := 0
	for _, text := range printings(newHolder(canary)) {
		if leaks(text, canary) {
			found++
		}
	}
	bytesFound := 0
	for _, text := range printings(newHolder([]byte(canary))) {
		if leaks(text, canary) {
			bytesFound++
		}
	}
	if found < 20 || bytesFound < 20 {
		t.Errorf("the search found only %d and %d leaks where all is leaked", found, bytesFound)
	}
}

func TestSecretIsNoQueryArgument(t *testing.T) {
	for _, format := range []int16{pgtype.TextFormatCode, pgtype.BinaryFormatCode} {
		b, err := pgtype.NewMap().Encode(pgtype.TextOID, format, NewString(canary), nil)
		if err == nil {
			t.Errorf("pgx sends a secret as %q", b)
		}
	}
}

func TestSecret(t *testing.T) {
	b := []byte(canary)
	s := New(b)
	b[0] = 'X'
	if got := s.Expose(); string(got) != canary {
		t.Errorf("New does not copy: %q", got)
	}
	s.Expose()[0] = 'X'
	if got := s.Expose(); string(got) != canary {
		t.Errorf("Expose does not copy: %q", got)
	}
	var zero Secret
	if !zero.IsEmpty() || !New(nil).IsEmpty() || s.IsEmpty() || zero.String() != Mask || len(zero.Expose()) != 0 {
		t.Error("the zero value is not an empty secret")
	}
	if !s.Equal(NewString(canary)) || s.Equal(zero) || s.Equal(NewString(canary+"x")) || !zero.Equal(New(nil)) {
		t.Error("Equal is wrong")
	}
}

func TestRef(t *testing.T) {
	valid := map[string]Ref{
		"env:NAME":                 {Store: "env", Path: "NAME"},
		"age:prod/app#password@12": {Store: "age", Path: "prod/app", Key: "password", Version: "12"},
		"age:prod/app@pending":     {Store: "age", Path: "prod/app", Version: "pending"},
		"file:~/a b.json#k":        {Store: "file", Path: "~/a b.json", Key: "k"},
		"exec:op://vault/x":        {Store: "exec", Path: "op://vault/x"},
		"aws:a%40b%23c%25d#e%40f":  {Store: "aws", Path: "a@b#c%d", Key: "e@f"},
	}
	for s, want := range valid {
		got, err := ParseRef(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		} else if got != want {
			t.Errorf("%s = %#v, want %#v", s, got, want)
		} else if got.String() != s {
			t.Errorf("%s prints as %s", s, got)
		}
		var back Ref
		text, err := json.Marshal(got)
		if err == nil {
			err = json.Unmarshal(text, &back)
		}
		if err != nil || back != want {
			t.Errorf("%s: JSON %s gives %v, %v", s, text, back, err)
		}
	}
	for _, s := range []string{"", "NAME", ":x", "env:", "Env:x", "env:x#", "env:x@", "env:x#a#b", "env:x@1@2", "env:x%", "env:x%41",
		"env: x", "env:x ", "env:a\nb", "env:x@a b", "env:\xff", "9p:x", "age:a@1#k", "env:\uFDD0"} {
		if ref, err := ParseRef(s); err == nil {
			t.Errorf("%q is taken for %#v", s, ref)
		} else if !strings.Contains(err.Error(), "STORE:PATH#KEY@VERSION") {
			t.Errorf("%q: the error does not show the form: %v", s, err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"env:NAME", "age:prod/app#password@12", "file:~/a%40b#k", "a:b@c", ":#@%", "x:%25%23%40"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseRef(s)
		if err != nil {
			return
		}
		if again, err := ParseRef(ref.String()); err != nil || again != ref {
			t.Fatalf("%q: %#v prints as %q, which is %#v, %v", s, ref, ref, again, err)
		}
		refs, err := Find("x" + Placeholder(ref, Shell) + "y")
		if err != nil || len(refs) != 1 || refs[0] != ref {
			t.Fatalf("%q: its placeholder is found as %v, %v", s, refs, err)
		}
	})
}

func TestPassword(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		p := GeneratePassword()
		if err := CheckPassword(p); err != nil {
			t.Error(err)
		}
		text := string(p.Expose())
		if len(text) != 43 || strings.ContainsAny(text, "+/=") || seen[text] {
			t.Errorf("a password of %d characters, seen before: %v", len(text), seen[text])
		}
		seen[text] = true
	}
	for _, bad := range []string{"", "Ⅸ-nine", "a\nb", "a\x00", "tab\t", "\x7f"} {
		if err := CheckPassword(NewString(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		} else if len(bad) > 0 && strings.Contains(err.Error(), bad) {
			t.Errorf("%q is in the error", bad)
		}
	}
}
