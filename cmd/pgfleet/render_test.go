package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// testFleet returns a fleet with so many hosts: pg01, pg02, ...
func testFleet(t *testing.T, hosts int) *inventory.Fleet {
	t.Helper()
	text := "[fleet]\nname = \"test\"\n[postgres]\nversion = 15\n"
	for i := range hosts {
		text += fmt.Sprintf("[hosts.pg%02d]\n", i+1)
	}
	fleet, err := inventory.Load("fleet.toml", inventory.Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(text)}}})
	if err != nil {
		t.Fatal(err)
	}
	return fleet
}

func write(path, before, after string) tasks.Change {
	c := tasks.Change{
		Key: "file:" + path, Before: tasks.Digest("sha256:" + before), After: tasks.Digest("sha256:" + after),
		Intent: "change " + path, Action: tasks.WriteFile{Path: path}, Diff: &tasks.Diff{Path: path, Old: before, New: after},
	}
	if before == "" {
		c.Before, c.Intent = tasks.Absent, "create "+path
	}
	return c
}

func step(task string, changes ...tasks.Change) tasks.Step {
	return tasks.Step{Tasks: []*tasks.Bound{{Name: task}}, Changes: changes}
}

func restart(why string) tasks.Change {
	return tasks.Change{Key: "restart:postgresql@15-main", Intent: "restart: " + why, Action: tasks.Restart{}}
}

func question() tasks.Step {
	return step("It answers", tasks.Change{Key: "verify:It answers", Intent: "ask select 1", Action: tasks.Ask{}})
}

func always() tasks.Step {
	return step("Marker", tasks.Change{Key: "command:Marker", Intent: "run date (always)", Action: tasks.RunCommand{Always: true}})
}

// testPlans returns plans with everything that can be shown.
func testPlans(t *testing.T) []rollout.Known {
	fleet := testFleet(t, 10)
	in := fleet.Instances()
	plan := func(i int, steps ...tasks.Step) rollout.Known {
		return rollout.Known{Instance: in[i], Plan: &tasks.Plan{Instance: in[i], Role: "primary", Steps: steps}}
	}
	logging := write("/etc/postgresql/15/main/conf.d/20-logging.conf", "", "log_lock_waits = on\n")
	hba := write("/etc/postgresql/15/main/pg_hba.conf",
		"# the manual\n#\n#\n#\nlocal all all trust\nlocal all all peer\n", "local all postgres peer\n")
	listen := func(address string) tasks.Change {
		return write("/etc/postgresql/15/main/conf.d/10-network.conf", "", "listen_addresses = '"+address+"'\n")
	}
	known := []rollout.Known{
		plan(0, step("Settings", listen("10.0.0.1"), logging, restart("listen_addresses")), question()),
		plan(1, step("Settings", listen("10.0.0.2"), logging, restart("listen_addresses")), question()),
		plan(2, step("Who may connect", hba), always()),
		plan(3, question()),
		plan(4, always()),
		plan(5),
		plan(6, step("Who may connect", hba), step("Gone", tasks.Change{
			Key: "file:/etc/old", Before: "sha256:x", After: tasks.Absent, Intent: "remove /etc/old", Action: tasks.RemoveFile{Path: "/etc/old"},
			Diff: &tasks.Diff{Path: "/etc/old", Old: "a\tb\n\x1b[2Jc", New: ""},
		})),
		{Instance: in[7], Err: errors.New("connect to pg08:22: refused; is it up?"), Unreachable: true},
		{Instance: in[9], Err: &transport.Error{Kind: transport.KindBecome, Op: "become postgres", Err: errors.New("sudo asks ops for a password")}, Unreachable: true},
		{Instance: in[8], Err: errors.New("Bad: fleet.toml:3:4: no such thing\nWorse: fleet.toml:5:6: neither")},
	}
	known[0].Plan.Warnings = []tasks.Note{{Task: "Settings", Text: "is overridden"}, {Task: "Settings", Text: "is late"}}
	known[1].Plan.Warnings = []tasks.Note{{Task: "Settings", Text: "is overridden"}}
	known[5].Plan.Unknown = []tasks.Note{{Task: "Views", Text: "the database does not exist yet"}}
	known[5].Plan.Orphans = []string{"/etc/left"}
	known[5].Plan.Skipped = []string{"Standbys only"}
	return known
}

// golden compares a text with a file of testdata; UPDATE=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestRenderPlans(t *testing.T) {
	known := testPlans(t)
	plain := newStyle(false)
	golden(t, "plan.txt", renderPlans(known, plain, false)+"\n"+renderPlanSummary(known, plain))
	golden(t, "plan-verbose.txt", renderPlans(known, plain, true))
	golden(t, "plan-color.txt", strings.ReplaceAll(renderPlans(known[:2], newStyle(true), false), "\x1b", "ESC"))
}

func TestPlanJSON(t *testing.T) {
	text, err := encode(planJSON(testFleet(t, 1), testPlans(t)))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", string(text))
}

// What is the same for two hundred hosts is shown once.
func TestManyEqualPlans(t *testing.T) {
	fleet := testFleet(t, 200)
	var known []rollout.Known
	for _, in := range fleet.Instances() {
		known = append(known, rollout.Known{Instance: in, Plan: &tasks.Plan{Steps: []tasks.Step{
			step("Log", write("/etc/a", "old\n", "new\n")),
		}}})
	}
	text := renderPlans(known, newStyle(false), false)
	if n := strings.Count(text, "+new"); n != 1 {
		t.Errorf("the diff is shown %d times", n)
	}
	if n := strings.Count(text, "\n"); n > 10 {
		t.Errorf("%d lines", n)
	}
}

func TestRenderResults(t *testing.T) {
	known := testPlans(t)[:6]
	results := []rollout.Result{
		{Instance: "pg01", Status: rollout.Changed, Steps: 3, Done: 3, Changes: 5, Took: 1500e6},
		{Instance: "pg02", Status: rollout.Unchanged},
		{Instance: "pg03", Status: rollout.Failed, Steps: 3, Done: 1, Changes: 1, Took: 65e9, Err: &tasks.TaskError{Task: "Views", Err: errors.New("ERROR:  no\nLINE 1: x\n        ^")}},
		{Instance: "pg04", Status: rollout.Unreachable, Err: errors.New("refused; is it up?")},
		{Instance: "pg05", Status: rollout.Unreachable, Err: errors.New("refused; is it up?")},
		{Instance: "pg06", Status: rollout.Stopped, Steps: 3, Done: 2, Changes: 4, Took: 2e9, Err: errors.New("stopped before step 3 of 3")},
	}
	golden(t, "results.txt", renderResults(known, results, newStyle(false)))
	text, err := encode(resultJSON(testFleet(t, 1), results, nil))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "results.json", string(text))
}

func TestFoldComments(t *testing.T) {
	in := []string{"@@", "-# a", "-#", "-", "-# d", "-x", "-# e", "+# new", "+# new", "+# new", "+# new"}
	want := []string{"@@", "-  (4 lines of comments; -v shows them)", "-x", "-# e", "+# new", "+# new", "+# new", "+# new"}
	if diff := cmp.Diff(want, foldComments(in)); diff != "" {
		t.Error(diff)
	}
}

func TestLongDiff(t *testing.T) {
	d := write("/etc/a", "", strings.Repeat("x\n", 1000))
	known := []rollout.Known{{Instance: testFleet(t, 1).Instances()[0], Plan: &tasks.Plan{Steps: []tasks.Step{step("Big", d)}}}}
	text := renderPlans(known, newStyle(false), false)
	if !strings.Contains(text, "and 801 more lines; -v shows them") {
		t.Errorf("not cut:\n%s", text[len(text)-300:])
	}
	if text := renderPlans(known, newStyle(false), true); strings.Count(text, "+x") != 1000 {
		t.Error("-v does not show all")
	}
}

// Placeholders, and control characters that a host put into a file, are made
// harmless.
func TestClean(t *testing.T) {
	ref := secrets.Ref{Store: "env", Path: "X"}
	for text, want := range map[string]string{
		"a\x1b[2J\tb\n\u009b" + secrets.Placeholder(ref, secrets.Raw): `a\x1b[2J` + "\tb\n" + `\u009b` + secrets.Mask,
		"\x9b2J":                     `\x9b2J`, // CSI where a terminal is not set to UTF-8
		"\xc2":                       `\xc2`,
		"ab\u202ecd\u2069":           `ab\u202ecd\u2069`, // directions
		"a\u200bb\ufeff\U000e0041":   `a\u200bb\ufeff\U000e0041`,
		"a\u2028b\x7f":               `a\u2028b\x7f`,
		"größer, 日本, \ufffd, \u00a0": "größer, 日本, \ufffd, \u00a0",
	} {
		if got := clean(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	tests := []struct {
		action tasks.Action
		want   string
	}{
		{tasks.RunCommand{}, "run"}, {tasks.RunCommand{Always: true}, "always"}, {tasks.RunCommand{Maybe: true}, "maybe"},
		{tasks.RunScript{}, "run"}, {tasks.RunScript{Always: true}, "always"}, {tasks.RunScript{Maybe: true}, "maybe"},
		{tasks.Ask{}, "check"}, {tasks.Reload{}, "change"}, {tasks.Restart{}, "restart"},
	}
	for _, test := range tests {
		if got := kindOf(tasks.Change{Action: test.action}); got != test.want {
			t.Errorf("%T %v: %s, want %s", test.action, test.action, got, test.want)
		}
	}
}

// A restart of a server that nobody else stands for is downtime, in the text and in
// the JSON; that of a standby is not.
func TestDowntime(t *testing.T) {
	fleet := testFleet(t, 2)
	var known []rollout.Known
	for i, in := range fleet.Instances() {
		srv := facts.Server{Reached: true, Version: 150000, SystemIdentifier: fmt.Sprint(i), InRecovery: i == 1}
		known = append(known, rollout.Known{
			Instance: in, Plan: &tasks.Plan{Instance: in, Steps: []tasks.Step{step("Settings", restart("max_connections"))}},
			State: tasks.NewState(in, map[facts.Read]facts.Answer{tasks.ServerRead(in): {Value: srv}}, nil),
		})
		known[i].Plan.After = known[i].State
	}
	if got := renderDowntime(known); got != "downtime: restart of pg01; how long is not known\n" {
		t.Errorf("%q", got)
	}
	doc := planJSON(fleet, known)
	if !doc.Instances[0].Downtime || doc.Instances[1].Downtime {
		t.Errorf("%+v", doc.Instances)
	}
}
