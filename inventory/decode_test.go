package inventory

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

type shared struct {
	State string `toml:"state" enum:"present,absent"`
}

type target struct {
	shared
	Name     string               `toml:"name" required:"true" doc:"Its name."`
	Count    int                  `toml:"count" min:"1" max:"9"`
	Small    int8                 `toml:"small"`
	Ratio    float64              `toml:"ratio"`
	On       *bool                `toml:"on"`
	Wait     time.Duration        `toml:"wait"`
	Since    time.Time            `toml:"since"`
	List     []string             `toml:"list" enum:"a,b"`
	Words    Strings              `toml:"words"`
	Settings map[string]any       `toml:"settings"`
	Ports    map[string]int       `toml:"ports"`
	Rules    []Positioned[string] `toml:"rules"`
	Inner    []struct {
		X int `toml:"x" required:"true"`
	} `toml:"inner"`
	Raw    *Node `toml:"raw"`
	Hidden string
}

func TestDecode(t *testing.T) {
	n, errs := Parse("f", []byte(`
state = "absent"
name = "x"
count = 9
small = -1
ratio = 2
on = false
wait = "1m30s"
since = 2020-01-02T03:04:05Z
list = ["a", "b"]
words = "one"
settings = { a = 1, b = [true, "x", 1.5] }
ports = { a = 1 }
rules = ["r"]
inner = [{ x = 1 }, { x = 2 }]
raw = "{{ x }}"
`))
	if errs != nil {
		t.Fatal(errs)
	}
	var got target
	if errs := Decode(n, &got); errs != nil {
		t.Fatal(errs)
	}
	off := false
	want := target{
		shared: shared{"absent"}, Name: "x", Count: 9, Small: -1, Ratio: 2, On: &off, Wait: 90 * time.Second,
		Since: time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC), List: []string{"a", "b"}, Words: Strings{"one"},
		Settings: map[string]any{"a": int64(1), "b": []any{true, "x", 1.5}}, Ports: map[string]int{"a": 1},
		Inner: []struct {
			X int `toml:"x" required:"true"`
		}{{1}, {2}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(target{}), cmpopts.IgnoreFields(target{}, "Raw", "Rules")); diff != "" {
		t.Error(diff)
	}
	if got.Raw.Str != "{{ x }}" || got.Rules[0].Value != "r" || got.Rules[0].Pos() != (Position{"f", 14, 10}) {
		t.Errorf("raw %q, rule %q at %s", got.Raw.Str, got.Rules[0].Value, got.Rules[0].Pos())
	}
}

func TestDecodeMistakes(t *testing.T) {
	n, errs := Parse("f", []byte(`nam = "x"
state = "abesnt"
count = 10
small = 300
ratio = "1"
on = 0
wait = 30
since = "today"
list = ["a", "c", 1]
words = [1, "x", []]
settings = []
ports = { a = "x" }
inner = [{}, 1]
Hidden = "x"
rules = "r"
`))
	if errs != nil {
		t.Fatal(errs)
	}
	want := `f:1:1: missing key "name"
f:1:1: unknown key "nam" (did you mean "name"?)
f:2:9: state: "abesnt" is none of present, absent (did you mean "absent"?)
f:3:9: count: 10 is too large; the most is 9
f:4:9: small: 300 is too large a number
f:5:9: ratio: want a number, found a string
f:6:6: on: want true or false, found a whole number
f:7:8: wait: want a duration such as "30s", found a whole number
f:8:9: since: want a date or time, found a string
f:9:14: list: "c" is none of a, b
f:9:19: list: want a string, found a whole number
f:10:10: words: want a string, found a whole number
f:10:18: words: want a string, found a list
f:11:12: settings: want a table, found a list
f:12:15: a: want a whole number, found a string
f:13:10: inner: missing key "x"
f:13:14: inner: want a table, found a whole number
f:14:1: unknown key "Hidden" (known: state, name, count, small, ratio, on, wait, since, list, words, settings, ports, rules, inner, raw)
f:15:9: rules: want a list, found a string`
	var got target
	err := Decode(n, &got).Err()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"settings", "hba", "ident", "package", "pg01", "pg02"}
	for name, want := range map[string]string{
		"setings": "settings", "SETTINGS": "settings", "stetings": "settings", "hbaa": "hba", "pkg": "", "pg1": "pg01", "xyzzy": "", "idnet": "ident", "": "",
	} {
		if got, _ := Nearest(name, known); got != want {
			t.Errorf("Nearest(%q) is %q, want %q", name, got, want)
		}
	}
}
