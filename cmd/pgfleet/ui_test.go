package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// testUI returns a ui that writes to files, and what reads them.
func testUI(t *testing.T) (*ui, func() (out, err string)) {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	u := newUI(terminal{Out: open("out"), Err: open("err"), LookupEnv: func(string) (string, bool) { return "", false }})
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return u, func() (string, string) { return read("out"), read("err") }
}

func TestNoSecretIsPrinted(t *testing.T) {
	u, read := testUI(t)
	value := `s3cr"et<&>word`
	u.redactor.Add(secrets.NewString(value))
	u.Print("got " + value)
	u.Note("password=hunter22 and " + value)
	u.Error(&inputError{&json.UnsupportedValueError{Str: value}})
	if err := u.JSON(map[string]any{"a": "x " + value, "b": "password=hunter22", "c": "<&>", "n": 1}); err != nil {
		t.Fatal(err)
	}
	out, errs := read()
	for _, text := range []string{out, errs} {
		for _, secret := range []string{value, "s3cr", "hunter22"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in the output:\n%s", secret, text)
			}
		}
		if !strings.Contains(text, secrets.Mask) {
			t.Errorf("nothing was masked:\n%s", text)
		}
	}
	_, object, _ := strings.Cut(out, "\n")
	var got map[string]any
	if err := json.Unmarshal([]byte(object), &got); err != nil {
		t.Fatalf("%v:\n%s", err, object)
	}
	if got["c"] != "<&>" || got["n"] != 1.0 || got["a"] != "x "+secrets.Mask {
		t.Errorf("got %v", got)
	}
	if !strings.Contains(object, `"<&>"`) {
		t.Errorf("HTML escapes:\n%s", object)
	}
}

// What a host says comes back whole from JSON, and a terminal that is shown the
// JSON obeys none of it.
func TestJSONObeysNothing(t *testing.T) {
	u, read := testUI(t)
	said := "a\x1b[2J\u009b2J\u202e\u200b\u2028\x7f\U000e0041 ü"
	if err := u.JSON([]any{said, json.RawMessage("\"\x9b2J\""), map[string]string{said: "password=x\u009b"}}); err != nil {
		t.Fatal(err)
	}
	out, _ := read()
	if strings.ContainsFunc(out, isControl) || !utf8.ValidString(out) {
		t.Errorf("raw control characters: %q", out)
	}
	var got []any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := []any{said, "\ufffd2J", map[string]any{said: "password=" + secrets.Mask}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFactsObeyNothing(t *testing.T) {
	u, _ := testUI(t)
	bad := "\u009b2J"
	text := (&app{ui: u}).renderFacts(factsDocument{
		Instance: "pg01", Role: "primary",
		Server: &facts.Server{DataDirectory: bad, Settings: []postgres.Setting{{Name: "x." + bad, Setting: bad, Source: "user" + bad}}},
	})
	if strings.ContainsFunc(text, isControl) || !strings.Contains(text, `x.\u009b2J`) {
		t.Errorf("%q", text)
	}
	if strings.HasSuffix(text, "\n\n") {
		t.Errorf("ends in an empty line: %q", text)
	}
}

// Two hundred hosts never take more lines than the terminal has.
func TestProgressFits(t *testing.T) {
	u, _ := testUI(t)
	p := newProgress(u, "applying", make([]string, 200))
	for _, in := range testFleet(t, 200).Instances() {
		p.Observe(rollout.Event{Kind: rollout.StepStarted, Host: in.Host.Name, Instance: in.ID(), Step: 1, Steps: 3, Text: "Log"})
	}
	p.Observe(rollout.Event{Kind: rollout.StepPhase, Host: "pg01", Instance: "pg01", Text: "reloading"})
	p.Observe(rollout.Event{Kind: rollout.StepPhase, Host: "pg01", Instance: "pg01", Text: "verifying"})
	p.Observe(rollout.Event{Kind: rollout.InstanceDone, Host: "pg02", Instance: "pg02"})
	p.Observe(rollout.Event{Kind: rollout.InstanceDone, Host: "pg03", Instance: "pg03", Err: os.ErrInvalid})
	lines := p.lines(24)
	if len(lines) > 23 {
		t.Errorf("%d lines", len(lines))
	}
	if !strings.HasPrefix(lines[0], "pg01   step 1/3 Log: verifying  ") {
		t.Errorf("first line: %q", lines[0])
	}
	if got := lines[len(lines)-2]; got != "and 177 more" {
		t.Errorf("last but one: %q", got)
	}
	if got := lines[len(lines)-1]; !strings.HasPrefix(got, "applying: 2 of 200 done, 1 failed, ") {
		t.Errorf("last: %q", got)
	}
}

// A pipe gets a line for each thing that happens to a step.
func TestProgressPlain(t *testing.T) {
	u, _ := testUI(t)
	p := newProgress(u, "applying", []string{"pg01"})
	var got []string
	p.plain = func(s string) { got = append(got, s) }
	p.Start()
	e := rollout.Event{Host: "pg01", Instance: "pg01", Step: 2, Steps: 5, Text: "Who may connect"}
	for _, kind := range []rollout.EventKind{rollout.StepStarted, rollout.StepDone, rollout.StepStarted, rollout.StepPhase, rollout.StepFailed, rollout.InstanceDone} {
		e.Kind, e.Text, e.Err = kind, "Who may connect", nil
		switch kind {
		case rollout.StepPhase:
			e.Text = "reloading"
		case rollout.StepFailed:
			e.Err = os.ErrPermission
		}
		p.Observe(e)
	}
	p.Stop()
	want := []string{
		"pg01: step 2/5 Who may connect",
		"pg01: step 2/5 done",
		"pg01: step 2/5 Who may connect",
		"pg01: step 2/5 Who may connect: reloading",
		"pg01: step 2/5 Who may connect: failed: permission denied",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{1540 * time.Millisecond: "1.5s", 72 * time.Second: "1m12s"} {
		if got := seconds(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestWithUnit(t *testing.T) {
	tests := []struct{ value, unit, want string }{
		{"16384", "8kB", "128MB"}, {"100", "", "100"}, {"80", "MB", "80MB"}, {"-1", "ms", "-1"}, {"500", "ms", "500ms"},
		{"60000", "ms", "1min"}, {"300", "s", "5min"}, {"1024", "MB", "1GB"}, {"0", "kB", "0"}, {"on", "", "on"}, {"1", "16MB", "16MB"},
	}
	for _, test := range tests {
		if got := withUnit(postgres.Setting{Setting: test.value, Unit: test.unit}); got != test.want {
			t.Errorf("%s of %s: %q, want %q", test.value, test.unit, got, test.want)
		}
	}
}

func TestSnake(t *testing.T) {
	for name, want := range map[string]string{
		"HBAFile": "hba_file", "MainPID": "main_pid", "NeedDaemonReload": "need_daemon_reload", "ID": "id", "os": "os", "TLS": "tls", "InRecovery": "in_recovery",
	} {
		if got := snake(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
