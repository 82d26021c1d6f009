package secrets

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

var (
	appRef = Ref{Store: "age", Path: "prod/app", Key: "password"}
	envRef = Ref{Store: "env", Path: "TOKEN"}
)

func lookupOf(values map[Ref]string) func(Ref) (Secret, bool) {
	return func(r Ref) (Secret, bool) {
		v, ok := values[r]
		return NewString(v), ok
	}
}

func TestExpand(t *testing.T) {
	nasty := "a'b\\c\"d$(e) :/%"
	lookup := lookupOf(map[Ref]string{appRef: nasty, envRef: "plain"})
	quote := func(q Quoting, text string) string {
		t.Helper()
		quoted, err := Quote(text, q)
		if err != nil {
			t.Fatal(err)
		}
		return quoted
	}
	raw := Placeholder(appRef, Raw)
	tests := []struct{ name, text, want string }{
		{"no placeholder", "x = 1\n", "x = 1\n"},
		{"raw", "x " + raw + " y", "x " + nasty + " y"},
		{"conf", "x = " + Placeholder(appRef, Conf), `x = 'a''b\\c"d$(e) :/%'`},
		{"hba", Placeholder(appRef, HBA), `"a'b\c""d$(e) :/%"`},
		{"literal", Placeholder(appRef, Literal), `'a''b\c"d$(e) :/%'`},
		{"conninfo", Placeholder(appRef, Conninfo), `'a\'b\\c"d$(e) :/%'`},
		{"passfile", "*:*:*:app:" + Placeholder(appRef, Passfile), `*:*:*:app:a'b\\c"d$(e) \:/%`},
		{"shell", Placeholder(appRef, Shell), `'a'\''b\c"d$(e) :/%'`},
		{"url", "postgres://app:" + Placeholder(appRef, URL) + "@h", "postgres://app:a%27b%5Cc%22d%24%28e%29%20%3A%2F%25@h"},
		{"beside text", quote(Conf, "it's "+raw), `'it''s a''b\\c"d$(e) :/%'`},
		{"nested", "primary_conninfo = " + quote(Conf, "user=r password="+Placeholder(appRef, Conninfo)), `primary_conninfo = 'user=r password=''a\\''b\\\\c"d$(e) :/%'''`},
		{"two", Placeholder(envRef, Raw) + raw, "plain" + nasty},
	}
	for _, test := range tests {
		got, err := Expand(test.text, lookup)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		} else if string(got.Expose()) != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got.Expose(), test.want)
		}
	}
}

// TestShellQuoting asks a real shell.
func TestShellQuoting(t *testing.T) {
	value := "it's $HOME `id` \\ \" \n !x*?"
	text, err := Expand("printf %s "+Placeholder(appRef, Shell), lookupOf(map[Ref]string{appRef: value}))
	if err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("sh", "-c", string(text.Expose())).Output()
	if err != nil || string(got) != value {
		t.Errorf("sh reads %q as %q, %v", value, got, err)
	}
}

func TestExpandErrors(t *testing.T) {
	lookup := lookupOf(map[Ref]string{appRef: canary + "\nx\x00"})
	raw := Placeholder(appRef, Raw)
	tests := map[string]string{
		"unknown value":     Placeholder(envRef, Raw),
		"newline in hba":    Placeholder(appRef, HBA),
		"NUL in conf":       Placeholder(appRef, Conf),
		"upper case":        strings.ToUpper(raw),
		"lower case":        strings.ToLower(raw),
		"cut short":         raw[:len(raw)-3],
		"cut in front":      raw[1:],
		"Go quoting":        fmt.Sprintf("%q", raw),
		"ASCII only":        strings.Trim(raw, "\uFDD0\uFDD1"),
		"marker alone":      "a\uFDD1b",
		"other quoting":     strings.Replace(raw, "__r-", "__s-", 1),
		"one in another":    "\uFDD0" + raw,
		"not a placeholder": "\uFDD0x\uFDD1",
	}
	for name, text := range tests {
		if _, err := Expand(text, lookup); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error holds the value", name)
		}
		if name != "newline in hba" && name != "NUL in conf" && !HasPlaceholder(text) {
			t.Errorf("%s: HasPlaceholder does not see it", name)
		}
	}
	if strings.ToLower(raw) == raw || HasPlaceholder("password = x") {
		t.Error("the test's own placeholder proves nothing")
	}
	if _, err := Quote("a\nb", HBA); err == nil {
		t.Error("a newline is quoted for pg_hba.conf")
	}
}

func TestPlaceholders(t *testing.T) {
	text := "a " + Placeholder(appRef, Conf) + " b " + Placeholder(envRef, Raw) + Placeholder(appRef, Raw)
	refs, err := Find(text)
	if err != nil || len(refs) != 2 || refs[0] != appRef || refs[1] != envRef {
		t.Errorf("Find: %v, %v", refs, err)
	}
	if got, want := MaskPlaceholders(text), "a '"+Mask+"' b "+Mask+Mask; got != want {
		t.Errorf("masked: %s, want %s", got, want)
	}
	if first, again := Placeholder(appRef, Conf), Placeholder(appRef, Conf); first != again {
		t.Error("placeholders differ from call to call")
	}
	pinned, err := Pin(text, func(r Ref) (string, bool) { return "7", r == appRef })
	if err != nil {
		t.Fatal(err)
	}
	refs, err = Find(pinned)
	if err != nil || len(refs) != 2 || refs[0] != appRef.At("7") || refs[1] != envRef {
		t.Errorf("pinned: %v, %v", refs, err)
	}
	if MaskPlaceholders(pinned) != MaskPlaceholders(text) {
		t.Error("pinning changed the text beside the placeholders")
	}
	// A saved plan is JSON.
	var back string
	saved, err := json.Marshal(pinned)
	if err == nil {
		err = json.Unmarshal(saved, &back)
	}
	if err != nil || back != pinned {
		t.Errorf("through JSON: %q, %v", back, err)
	}
}

func FuzzText(f *testing.F) {
	f.Add("x"+Placeholder(appRef, Conf)+"y", "it's")
	f.Add("\uFDD0pgfleet__secret__r-AAAA\uFDD1", "v")
	f.Add(Placeholder(envRef, Shell)[:9], "v")
	f.Add("plain", "")
	f.Fuzz(func(t *testing.T, text, value string) {
		lookup := func(Ref) (Secret, bool) { return NewString(value), true }
		refs, err := Find(text)
		expanded, expandErr := Expand(text, lookup)
		if err != nil && expandErr == nil {
			t.Fatalf("%q: Find: %v, but Expand: no error", text, err)
		}
		if strings.ContainsRune(MaskPlaceholders(text), tokenStart) {
			t.Fatalf("%q: the mask leaves a marker", text)
		}
		if err != nil || len(refs) > 0 {
			return
		}
		if string(expanded.Expose()) != text {
			t.Fatalf("%q has no placeholder and is changed", text)
		}
		// A value within shell quotes is one word, whatever it holds.
		quoted, err := Quote(text+Placeholder(appRef, Raw), Shell)
		if err != nil {
			return
		}
		s, err := Expand(quoted, lookup)
		if err != nil {
			return
		}
		want, err := Quote(text+value, Shell)
		if err == nil && string(s.Expose()) != want {
			t.Fatalf("expanding the quoted %q differs from quoting the expanded %q", s.Expose(), want)
		}
	})
}
