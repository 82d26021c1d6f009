package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

func same(s string) string { return s }

func digester(t *testing.T) *secrets.Digester {
	t.Helper()
	d, err := secrets.NewDigester(secrets.NewString(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// example writes the journal of a run on three hosts: pg01 was changed, pg02
// failed in its second step, and pg03 was in the middle of its first.
func example(t *testing.T, f Folder, mask func(string) string) *Recorder {
	t.Helper()
	w, err := f.Create(mask, Started{
		Pgfleet: "v1", Command: "apply", Who: "ops@laptop", PID: 4711, Fleet: "prod", File: "/home/ops/fleet.toml",
		Instances: []inventory.InstanceID{"pg01", "pg02", "pg03"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	r := &Recorder{Writer: w, Digester: digester(t)}
	for _, id := range []inventory.InstanceID{"pg01", "pg02", "pg03"} {
		step := rollout.SavedStep{Tasks: []string{"Log"}, Changes: []rollout.SavedChange{{Key: "file:/etc/a", Intent: "change /etc/a", Before: "hmac:1", After: "hmac:2"}}}
		if err := w.Append(InstancePlanned, rollout.SavedInstance{Instance: id, Steps: []rollout.SavedStep{step, step}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []rollout.Event{
		{Kind: rollout.StepStarted, Instance: "pg01", Step: 1, Steps: 2, Text: "Log"},
		{Kind: rollout.StepStarted, Instance: "pg02", Step: 1, Steps: 2, Text: "Log"},
		{Kind: rollout.StepDone, Instance: "pg01", Step: 1, Steps: 2, Text: "Log"},
		{Kind: rollout.StepDone, Instance: "pg02", Step: 1, Steps: 2, Text: "Log"},
		{Kind: rollout.StepStarted, Instance: "pg01", Step: 2, Steps: 2, Text: "Log"},
		{Kind: rollout.StepStarted, Instance: "pg02", Step: 2, Steps: 2, Text: "Log"},
		{Kind: rollout.StepPlanned, Instance: "pg01", Step: 2, Steps: 2, Changes: []tasks.Change{{Key: "sql:x", Intent: "CREATE TABLE x", Action: tasks.RunCommand{Script: "x"}}}},
		{Kind: rollout.StepDone, Instance: "pg01", Step: 2, Steps: 2, Text: "Log"},
		{Kind: rollout.StepFailed, Instance: "pg02", Step: 2, Steps: 2, Text: "Log", Err: errors.New("no space left")},
		{Kind: rollout.InstanceDone, Instance: "pg01", Result: &rollout.Result{Instance: "pg01", Status: rollout.Changed, Steps: 2, Done: 2, Changes: 2, Down: 400 * time.Millisecond}},
		{Kind: rollout.InstanceDone, Instance: "pg02", Err: errors.New("no space left"), Result: &rollout.Result{Instance: "pg02", Status: rollout.Failed, Steps: 2, Done: 1, Changes: 1}},
		{Kind: rollout.Waiting, Instance: "pg03", Text: "waiting for pg01"},
		{Kind: rollout.StepStarted, Instance: "pg03", Step: 1, Steps: 2, Text: "Log"},
	} {
		if err := r.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestRun(t *testing.T) {
	f := Folder(filepath.Join(t.TempDir(), "pgfleet", "runs"))
	if runs, err := f.Runs(); err != nil || len(runs) != 0 {
		t.Fatalf("before the first: %v, %v", runs, err)
	}
	rec := example(t, f, same)
	id := rec.Writer.Run()
	for path, want := range map[string]fs.FileMode{string(f): 0o700, f.path(id): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if entries, _ := os.ReadDir(string(f)); len(entries) != 1 {
		t.Errorf("the folder holds %v", entries)
	}
	load := func(want Outcome) *Run {
		t.Helper()
		r, err := f.Load(id)
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome != want {
			t.Fatalf("%s, want %s", r.Outcome, want)
		}
		return r
	}
	load(Running)
	rec.Writer.Close()
	r := load(Died)
	for i, want := range []rollout.Status{rollout.Changed, rollout.Failed, Unfinished} {
		if r.Hosts[i].Status != want {
			t.Errorf("%s: %s, want %s", r.Hosts[i].Instance, r.Hosts[i].Status, want)
		}
	}
	if r.Hosts[0].Down != 0.4 || r.Hosts[1].Down != 0 {
		t.Errorf("down for %v and %v", r.Hosts[0].Down, r.Hosts[1].Down)
	}
	if s := r.Hosts[1].Steps[1]; s.Status != "failed" || s.Error != "no space left" || s.Began == nil {
		t.Errorf("%+v", s)
	}
	if s := r.Hosts[0].Steps[1]; len(s.Changes) != 1 || s.Changes[0].Key != "sql:x" || !strings.HasPrefix(s.Changes[0].Action, "hmac:") {
		t.Errorf("%+v", s)
	}
	if s := r.Hosts[2].Steps[0]; s.Status != "begun" || s.Changes[0].Before != "hmac:1" {
		t.Errorf("%+v", s)
	}
	if r.Changed() != 2 || len(r.Others) != 1 || r.Others[0].Kind != "waiting" || r.Who != "ops@laptop" {
		t.Errorf("%+v", r)
	}
	if got := r.Others[0].Text(); got != "waiting: pg03: waiting for pg01" {
		t.Errorf("%q", got)
	}
	if got := (Record{Kind: "x", Data: []byte(`{"a":1}`)}).Text(); got != `x {"a":1}` {
		t.Errorf("%q", got)
	}
	if err := rec.Writer.Append("late", nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after its end: %v", err)
	}
}

func TestFinish(t *testing.T) {
	for want, results := range map[Outcome][]rollout.Result{
		Done:    {{Status: rollout.Changed, Changes: 2}, {Status: rollout.Unchanged}},
		Stopped: {{Status: rollout.Changed}, {Status: rollout.Stopped}},
		Failed:  {{Status: rollout.Unreachable}, {Status: rollout.Stopped}},
	} {
		f := Folder(t.TempDir())
		rec := example(t, f, same)
		if err := rec.Finish(results, nil, time.Second); err != nil {
			t.Fatal(err)
		}
		rec.Writer.Close()
		if r, err := f.Load(rec.Writer.Run()); err != nil || r.Outcome != want || r.Finished.Totals[results[0].Status] != 1 {
			t.Errorf("%+v, %v; want %s", r, err, want)
		}
	}
}

// Whatever is done to the lines of a journal, it is found, and where.
func TestTampering(t *testing.T) {
	f := Folder(t.TempDir())
	rec := example(t, f, same)
	rec.Writer.Close()
	id := rec.Writer.Run()
	text, err := os.ReadFile(f.path(id))
	if err != nil {
		t.Fatal(err)
	}
	whole := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	whole[len(whole)-1] += "\n"
	if j, err := parse(id, "x", strings.Join(whole, "")); err != nil || len(j.Records) != len(whole) {
		t.Fatalf("as it was written: %d records, %v", len(j.Records), err)
	}
	if len(whole) < 10 {
		t.Fatalf("only %d lines", len(whole))
	}
	broken := func(what string, line int, lines []string) {
		t.Helper()
		j, err := parse(id, "x", strings.Join(lines, ""))
		var chain *ChainError
		if !errors.As(err, &chain) {
			t.Errorf("%s: %v", what, err)
			return
		}
		if chain.Line != line || len(j.Records) != line-1 {
			t.Errorf("%s: found at line %d with %d records before it, want line %d: %v", what, chain.Line, len(j.Records), line, err)
		}
	}
	edit := func(i int, lines ...string) []string {
		return append(append(append([]string{}, whole[:i]...), lines...), whole[i+1:]...)
	}
	for i, line := range whole {
		n := i + 1
		broken(fmt.Sprintf("line %d with another time", n), n, edit(i, strings.Replace(line, `"time":"20`, `"time":"19`, 1)))
		broken(fmt.Sprintf("line %d with a space", n), n, edit(i, strings.Replace(line, `,"kind"`, `, "kind"`, 1)))
		broken(fmt.Sprintf("line %d with another hash", n), n, edit(i, strings.Replace(line, line[len(line)-6:], `000"}`+"\n", 1)))
		broken(fmt.Sprintf("line %d twice", n), n+1, edit(i, line, line))
		broken(fmt.Sprintf("line %d cut in two", n), n, edit(i, line[:10]+"\n"+line[10:]))
		broken(fmt.Sprintf("line %d empty", n), n, edit(i, "\n"))
		if i+1 < len(whole) {
			broken(fmt.Sprintf("without line %d", n), n, edit(i))
			swapped := edit(i)
			swapped[i], swapped[len(swapped)-1] = swapped[len(swapped)-1], swapped[i]
			broken(fmt.Sprintf("without line %d, and others moved", n), n, swapped)
		}
		// A line whose hash was made anew betrays itself in the next one.
		r, _, _, err := open([]byte(strings.TrimSuffix(line, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		r.Kind = "other"
		previous := ""
		if i > 0 {
			_, _, previous, _ = open([]byte(strings.TrimSuffix(whole[i-1], "\n")))
		}
		forged, _, err := seal(previous, r)
		if err != nil {
			t.Fatal(err)
		}
		if i+1 < len(whole) {
			broken(fmt.Sprintf("line %d forged", n), n+1, edit(i, string(forged)))
		}
	}
	broken("an empty file", 1, nil)
	if _, err := parse("20260101T000000-aaaa", "x", string(text)); err == nil || !strings.Contains(err.Error(), "it is of the run "+id) {
		t.Errorf("under another run's name: %v", err)
	}

	// What is left of a file whose line 5 is not as it was is shown, and said.
	if err := os.WriteFile(f.path(id), []byte(strings.Join(edit(4), "")), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := f.Load(id)
	if r == nil || r.Outcome != Damaged || r.Records != 4 || err == nil || !strings.Contains(err.Error(), f.path(id)+":5: ") {
		t.Errorf("%+v, %v", r, err)
	}
}

// A last line that was not written whole is left out, wherever it was cut.
func TestTorn(t *testing.T) {
	f := Folder(t.TempDir())
	rec := example(t, f, same)
	rec.Writer.Close()
	id := rec.Writer.Run()
	text, err := os.ReadFile(f.path(id))
	if err != nil {
		t.Fatal(err)
	}
	last := strings.LastIndexByte(strings.TrimSuffix(string(text), "\n"), '\n') + 1
	lines := strings.Count(string(text), "\n")
	for cut := last + 1; cut < len(text); cut++ {
		j, err := parse(id, "x", string(text[:cut]))
		if err != nil || !j.Torn || len(j.Records) != lines-1 {
			t.Fatalf("cut at %d: %v, %+v", cut-last, err, j)
		}
	}
	if err := os.WriteFile(f.path(id), append(text[:last:last], make([]byte, 100)...), 0o600); err != nil { // as after a loss of power
		t.Fatal(err)
	}
	if r, err := f.Load(id); err != nil || !r.Torn || r.Outcome != Died || r.Records != lines-1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestConcurrent(t *testing.T) {
	f := Folder(t.TempDir())
	w, err := f.Create(same, Started{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for n := range 20 {
				if err := w.Append("test", fmt.Sprintf("%d of %d", n, i)); err != nil {
					t.Error(err)
				}
				if _, err := f.Read(w.Run()); err != nil { // while others write
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	j, err := f.Read(w.Run())
	if err != nil || len(j.Records) != 321 || j.Torn {
		t.Errorf("%d records, %v", len(j.Records), err)
	}
}

// A secret that a host sent back in an error is not in the file, in whatever form
// the Redactor knows. The control writes it with a mask that hides nothing.
func TestMasked(t *testing.T) {
	const secret = "squeamish \"ossifrage\" <42>"
	redactor := secrets.NewRedactor()
	redactor.Add(secrets.NewString(secret))
	found := func(mask func(string) string) bool {
		f := Folder(t.TempDir())
		rec := example(t, f, mask)
		events := []rollout.Event{
			{Kind: rollout.StepFailed, Instance: "pg03", Step: 1, Steps: 2, Text: "Log " + secret, Err: fmt.Errorf("ALTER ROLE x PASSWORD %s \xff", secret)},
			{Kind: rollout.StepPlanned, Instance: "pg03", Step: 2, Steps: 2, Changes: []tasks.Change{{Key: "a " + secret, Intent: "set " + secret, Action: tasks.RunCommand{Script: secret}}}},
			{Kind: rollout.Waiting, Instance: "pg03", Text: secret},
			{Kind: rollout.InstanceDone, Instance: "pg03", Err: errors.New(secret), Result: &rollout.Result{Instance: "pg03", Status: rollout.Failed}},
		}
		for _, e := range events {
			if err := rec.Record(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := rec.Writer.Append("more", map[string]any{"deep": []string{secret}, secret: 1}); err != nil {
			t.Fatal(err)
		}
		rec.Writer.Close()
		if _, err := f.Load(rec.Writer.Run()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(f.path(rec.Writer.Run()))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"squeamish", "ossifrage"} {
			if strings.Contains(string(text), part) {
				return true
			}
		}
		return false
	}
	if !found(same) {
		t.Error("control: the secret is not found where nothing is masked, so this proves nothing")
	}
	if found(redactor.String) {
		t.Error("the secret is in the journal")
	}
}

// A journal that cannot be written any more says so, every time.
func TestCannotBeWritten(t *testing.T) {
	f := Folder(t.TempDir())
	w, err := f.Create(same, Started{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.file.Close()
	for range 2 {
		if err := w.Append("test", nil); err == nil || !strings.Contains(err.Error(), w.path) {
			t.Errorf("%v", err)
		}
	}
	if w.Err() == nil {
		t.Error("nothing is said at the end")
	}
	if _, err := Folder("/dev/null/runs").Create(same, Started{}); err == nil || !strings.Contains(err.Error(), "/dev/null/runs") {
		t.Errorf("%v", err)
	}
}

func TestFind(t *testing.T) {
	f := Folder(t.TempDir())
	for _, name := range []string{"20260101T000000-aaaa.jsonl", "20260101T000000-aabb.jsonl", "20260102T000000-aaaa.jsonl", "notes.jsonl", ".new-1"} {
		if err := os.WriteFile(filepath.Join(string(f), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string]string{
		"20260102": "20260102T000000-aaaa", "20260101T000000-aab": "20260101T000000-aabb", "20260101T000000-aaaa": "20260101T000000-aaaa",
	} {
		if got, err := f.Find(prefix); err != nil || got != want {
			t.Errorf("%s: %q, %v", prefix, got, err)
		}
	}
	for prefix, want := range map[string]string{
		"2027": "there is no run", "20260101": "several runs begin with", "notes": "there is no run", "../x": "there is no run",
	} {
		if got, err := f.Find(prefix); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v", prefix, got, err)
		}
	}
}

func TestIn(t *testing.T) {
	for _, test := range []struct {
		env  map[string]string
		want Folder
	}{
		{map[string]string{"HOME": "/home/ops"}, "/home/ops/.local/state/pgfleet/runs"},
		{map[string]string{"HOME": "/home/ops", "XDG_STATE_HOME": "/state"}, "/state/pgfleet/runs"},
		{map[string]string{"HOME": "/home/ops", "XDG_STATE_HOME": "state"}, "/home/ops/.local/state/pgfleet/runs"},
		{nil, ""},
	} {
		got, err := In(func(name string) (string, bool) { v, ok := test.env[name]; return v, ok })
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%v: %q, %v", test.env, got, err)
		}
	}
}

// Only whole journals of finished runs go, the oldest first.
func TestPrune(t *testing.T) {
	f := Folder(t.TempDir())
	var ids []string
	write := func(how string) {
		rec := example(t, f, same)
		if how != "died" && how != "running" {
			if err := rec.Finish(nil, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		if how != "running" {
			rec.Writer.Close()
		}
		// A run a day, whatever the clock says.
		id := rec.Writer.Run()
		old := fmt.Sprintf("202601%02dT000000-aaaa", len(ids)+1)
		text, _ := os.ReadFile(f.path(id))
		var lines strings.Builder
		previous := ""
		for line := range strings.Lines(string(text)) {
			r, _, _, err := open([]byte(strings.TrimSuffix(line, "\n")))
			if err != nil {
				t.Fatal(err)
			}
			if r.Run != "" {
				r.Run = old
			}
			sealed, hash, _ := seal(previous, r)
			previous = hash
			lines.Write(sealed)
		}
		if how == "damaged" {
			lines.WriteString("x\n")
		}
		if err := os.Rename(f.path(id), f.path(old)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.path(old), []byte(lines.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, how)
	}
	for _, how := range []string{"done", "died", "running", "damaged", "done", "done", "done"} {
		write(how)
	}
	if err := f.Prune(2); err != nil {
		t.Fatal(err)
	}
	got, err := f.Runs()
	if err != nil {
		t.Fatal(err)
	}
	want := "20260107 20260106 20260104 20260103 20260102"
	var days []string
	for _, id := range got {
		days = append(days, id[:8])
	}
	if strings.Join(days, " ") != want {
		t.Errorf("left: %v, want %s", days, want)
	}
}
