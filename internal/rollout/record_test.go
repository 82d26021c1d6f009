package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/tasks"
)

// A keeper records events until it refuses one.
type keeper struct {
	refuse func(Event) bool
	kept   []string
}

func (k *keeper) Record(e Event) error {
	if k.refuse(e) {
		return errors.New("no space left on device")
	}
	k.kept = append(k.kept, fmt.Sprintf("%s %d", e.Kind, e.Step))
	return nil
}

// Nothing is done that could not be recorded.
func TestRecorder(t *testing.T) {
	b := newBench(t, "")
	plan := func() *tasks.Plan {
		p := b.plan(b.bound(&list{lines: []line{table("one"), {sql: "CREATE DATABASE two", alone: true, done: "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'two')"}}}))
		if len(p.Steps) != 2 {
			t.Fatalf("%d steps", len(p.Steps))
		}
		return p
	}
	apply := func(refuse func(Event) bool) (Result, []string) {
		k := &keeper{refuse: refuse}
		b.run.Recorder = k
		return b.apply(t.Context(), plan()), k.kept
	}
	there := func() string {
		return b.sql("SELECT concat(to_regclass('one'), ' ', (SELECT datname FROM pg_database WHERE datname = 'two'))")
	}

	r, kept := apply(func(e Event) bool { return e.Kind == StepStarted })
	wantError(t, r, Stopped, "stopped before step 1 of 2, which could not be recorded: no space left on device")
	if got := there(); got != " " || r.Done != 0 || len(b.events) != 1 {
		t.Errorf("it was begun all the same: %q, %+v, %v", got, r, b.events)
	}
	if want := []string{"instance done 0"}; !slices.Equal(kept, want) {
		t.Errorf("recorded: %q", kept)
	}

	r, _ = apply(func(e Event) bool { return e.Kind == StepDone })
	wantError(t, r, Stopped, "stopped before step 2 of 2")
	if got := there(); got != "one " || r.Done != 1 || r.Changes != 1 {
		t.Errorf("%q, %+v", got, r)
	}

	b.sql("DROP TABLE one")
	r, kept = apply(func(Event) bool { return false })
	want := []string{"step started 1", "step done 1", "step started 2", "step done 2", "instance done 0"}
	if got := there(); r.Status != Changed || got != "one two" || !slices.Equal(kept, want) {
		t.Errorf("%+v, %q, recorded: %q", r, got, kept)
	}
}

// What is left of a plan may be due; nothing else may.
func TestHoldRest(t *testing.T) {
	d := digester(t, "k")
	plan, err := Save(savedKnown(t), d, same)
	if err != nil {
		t.Fatal(err)
	}
	change := func(k *Known, step, i int) *tasks.Change { return &k.Plan.Steps[step].Changes[i] }
	for _, test := range []struct {
		name string
		edit func(k *Known)
		want string
	}{
		{"all of it", func(*Known) {}, ""},
		{"the rest", func(k *Known) { k.Plan.Steps = k.Plan.Steps[1:] }, ""},
		{"nothing", func(k *Known) { k.Plan.Steps = nil }, ""},
		{"another reason", func(k *Known) { change(k, 1, 0).Intent = "run first: it is owed" }, ""},
		{"tidying up", func(k *Known) {
			k.Plan.Steps = append(k.Plan.Steps, tasks.Step{Changes: []tasks.Change{{Key: "staging:/etc", Intent: "remove x", Action: tasks.RemoveStaging{}}}})
		}, ""},
		{"the host", func(k *Known) { change(k, 0, 0).Before = "sha256:other" }, "file:/etc/a has changed on the host since"},
		{"what will be there", func(k *Known) { change(k, 0, 0).After = "sha256:other" }, "not in the plan: change /etc/a"},
		{"another action", func(k *Known) { change(k, 1, 0).Action = tasks.RunCommand{Script: "other"} }, "not in the plan: run first"},
		{"twice", func(k *Known) { k.Plan.Steps = append(k.Plan.Steps, k.Plan.Steps[1]) }, "not in the plan: run first"},
	} {
		t.Run(test.name, func(t *testing.T) {
			known := savedKnown(t)[:1]
			test.edit(&known[0])
			if err := plan.HoldRest(known, d, same); err != nil {
				t.Fatal(err)
			}
			got := ""
			if known[0].Err != nil {
				got = known[0].Err.Error()
			}
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
