package rollout

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

func digester(t *testing.T, seed string) *secrets.Digester {
	t.Helper()
	d, err := secrets.NewDigester(secrets.NewString(strings.Repeat(seed, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func same(s string) string { return s }

// savedKnown returns what a survey of two hosts found: changes on pg01, and
// pg02 that did not answer.
func savedKnown(t *testing.T) []Known {
	t.Helper()
	text := "[fleet]\nname = \"test\"\n[postgres]\nversion = 15\n[hosts.pg01]\n[hosts.pg02]\n"
	fleet, err := inventory.Load("fleet.toml", inventory.Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(text)}}})
	if err != nil {
		t.Fatal(err)
	}
	in := fleet.Instances()
	return []Known{
		{Instance: in[0], Plan: &tasks.Plan{Instance: in[0], Steps: []tasks.Step{
			{Tasks: []*tasks.Bound{{Name: "Log"}}, Changes: []tasks.Change{
				{Key: "file:/etc/a", Before: "sha256:before", Intent: "change /etc/a", After: "sha256:after", Action: tasks.WriteFile{Path: "/etc/a", Content: "a"}},
				{Key: "file:/etc/b", Before: tasks.Absent, Intent: "create /etc/b", Action: tasks.WriteFile{Path: "/etc/b", Content: "hunter22"}},
			}},
			{Tasks: []*tasks.Bound{{Name: "Do"}}, Changes: []tasks.Change{
				{Key: "command:Do", Intent: "run first", Action: tasks.RunCommand{Script: "first\nsecond"}},
			}},
		}}},
		{Instance: in[1], Err: errors.New("connect: refused"), Unreachable: true},
	}
}

func TestSavedPlan(t *testing.T) {
	d := digester(t, "k")
	plan, err := Save(savedKnown(t), d, same)
	if err != nil {
		t.Fatal(err)
	}
	plan.Fleet, plan.Tags = "test", []string{"log"}
	path := filepath.Join(t.TempDir(), "a.plan")
	if err := plan.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSavedPlan(path, d)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plan, got); diff != "" {
		t.Errorf("read back (-written +read):\n%s", diff)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"sha256", "hunter22", "second"} {
		if strings.Contains(string(text), hidden) {
			t.Errorf("%q is in the file:\n%s", hidden, text)
		}
	}
	for _, shown := range []string{"change /etc/a", "run first", `"absent"`} {
		if !strings.Contains(string(text), shown) {
			t.Errorf("%q is not in the file:\n%s", shown, text)
		}
	}
}

func TestReadSavedPlanRefuses(t *testing.T) {
	d := digester(t, "k")
	plan, err := Save(savedKnown(t), d, same)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, p any) string {
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	newer := *plan
	newer.Format = 2
	tests := []struct {
		path, want string
		key        string
	}{
		{write("good", plan), "", "k"},
		{write("good", plan), "another operator's key", "x"},
		{write("newer", newer), "format 2", "k"},
		{write("list", []int{1}), "is no saved plan", "k"},
		{filepath.Join(dir, "none"), "no such file", "k"},
	}
	for _, test := range tests {
		_, err := ReadSavedPlan(test.path, digester(t, test.key))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.path, err, test.want)
		}
	}
}

func TestHold(t *testing.T) {
	d := digester(t, "k")
	plan, err := Save(savedKnown(t), d, same)
	if err != nil {
		t.Fatal(err)
	}
	change := func(k *Known, step, i int) *tasks.Change { return &k.Plan.Steps[step].Changes[i] }
	tests := []struct {
		name string
		edit func(k *Known)
		want string // in the error of pg01; empty if it may go on
	}{
		{"nothing", func(*Known) {}, ""},
		{"the host", func(k *Known) { change(k, 0, 0).Before = "sha256:other" }, "file:/etc/a has changed on the host since"},
		{"what will be there", func(k *Known) { change(k, 0, 0).After = "sha256:other" }, "file:/etc/a would become something else"},
		{"the end of a script", func(k *Known) { change(k, 1, 0).Action = tasks.RunCommand{Script: "first\nthird"} }, "command:Do would become something else"},
		{"the intent", func(k *Known) { change(k, 1, 0).Intent = "run other" }, `now "run other", planned was "run first"`},
		{"more", func(k *Known) {
			k.Plan.Steps[1].Changes = append(k.Plan.Steps[1].Changes, tasks.Change{Key: "unit:x", Intent: "start x", Action: tasks.SetUnit{}})
		}, "now also due: start x"},
		{"less", func(k *Known) { k.Plan.Steps = k.Plan.Steps[:1] }, "no longer due: run first"},
		{"nothing left", func(k *Known) { k.Plan.Steps = nil }, "no longer due: change /etc/a; no longer due: create /etc/b"},
		{"the order", func(k *Known) { s := k.Plan.Steps; s[0], s[1] = s[1], s[0] }, "the same changes in other steps"},
		{"the steps", func(k *Known) {
			s := k.Plan.Steps[0]
			k.Plan.Steps = append(k.Plan.Steps, tasks.Step{Tasks: s.Tasks, Changes: s.Changes[1:]})
			k.Plan.Steps[0].Changes = s.Changes[:1]
		}, "the same changes in other steps"},
		{"its own error", func(k *Known) { k.Err = errors.New("gone") }, "gone"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			known := savedKnown(t)
			test.edit(&known[0])
			known[1].Err, known[1].Unreachable = nil, false
			known[1].Plan = &tasks.Plan{Instance: known[1].Instance}
			if err := plan.Hold(known, d, same); err != nil {
				t.Fatal(err)
			}
			got := ""
			if known[0].Err != nil {
				got = known[0].Err.Error()
			}
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("pg01: %q, want %q", got, test.want)
			}
			if known[1].Err == nil || !strings.Contains(known[1].Err.Error(), "there was no plan for this instance: connect: refused") {
				t.Errorf("pg02: %v", known[1].Err)
			}
		})
	}
	known := savedKnown(t)
	if err := (&SavedPlan{}).Hold(known[:1], d, same); err != nil || known[0].Err == nil {
		t.Errorf("an instance that is not in the plan: %v", err)
	}
}
