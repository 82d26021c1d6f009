//go:build lab

package property

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing/fstest"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A trial is one list of tasks on its way: what failed is reported with it.
type trial struct {
	w    *world
	list *list
	in   inventory.Instance
	all  map[inventory.InstanceID][]*tasks.Bound
	ran  []string
}

// try carries out one list of random tasks, and then once more after random
// things were done by hand.
func (w *world) try() {
	w.number++
	w.look()
	for _, db := range w.databases() {
		if w.number > 1 {
			w.live(db, 4)
			w.create(db)
		}
	}
	w.look()
	x := &trial{w: w, list: w.tasks()}
	w.tried["cases"]++
	if err := x.load(); err != nil {
		x.fail("the tasks cannot be loaded: %v", err)
		return
	}
	if !x.carryOut() || w.one(2) {
		return
	}
	before := len(w.life)
	for _, db := range w.databases() {
		w.live(db, 6)
		w.create(db)
	}
	x.ran = append(x.ran, "by hand:")
	x.ran = append(x.ran, w.life[before:]...)
	w.tried["drifts"]++
	x.carryOut()
}

func (x *trial) load() error {
	fleet, err := inventory.Load("fleet.toml", inventory.Options{Kinds: tasks.Kinds(), FS: fstest.MapFS{"fleet.toml": {Data: []byte(x.list.text.String())}}})
	if err != nil {
		return err
	}
	x.in = fleet.Instances()[0]
	var errs inventory.Errors
	if x.all, errs = tasks.Expand(fleet, fleet.Instances(), tasks.Options{}); len(errs) > 0 {
		return errs
	}
	x.w.run.Fleet = fleet
	var refs []secrets.Ref
	for _, b := range x.all[x.in.ID()] {
		refs = append(refs, b.Secrets...)
	}
	return x.w.run.Resolve(x.w.t.Context(), refs)
}

// plan surveys the host as pgfleet does.
func (x *trial) plan() (*tasks.Plan, error) {
	known := x.w.run.Survey(x.w.t.Context(), []inventory.Instance{x.in}, x.all)[0]
	if known.Unreachable {
		x.w.t.Fatal(known.Err)
	}
	x.w.tried["plans"]++
	return known.Plan, known.Err
}

// carryOut plans, does what is planned, and judges. It reports whether the tasks
// are carried out.
func (x *trial) carryOut() bool {
	w := x.w
	plan, err := x.plan()
	if err != nil {
		w.refused[reason(err)]++
		return false
	}
	if len(plan.Unknown) > 0 {
		x.fail("unknown: %v", plan.Unknown)
		return false
	}
	for _, c := range plan.Changes() {
		if !x.execute(c) {
			return false
		}
	}
	foreseen, err := plan.After.Cluster()
	if err != nil {
		x.fail("%v", err)
		return false
	}
	databases := sorted(foreseen.Contents)
	server := w.ask(databases...)
	ok := true
	if lines := differences(w.foresee(foreseen, databases...), server); len(lines) > 0 {
		x.fail("the server is not as foreseen:\n%s", strings.Join(lines, "\n"))
		ok = false
	}
	for _, goal := range x.list.goals {
		if problem := goal(server); problem != "" {
			x.fail("not as declared: %s", problem)
			ok = false
		}
	}
	again, err := x.plan()
	if err != nil {
		x.fail("the second plan: %v", err)
		return false
	}
	if len(again.Changes()) > 0 || len(again.Unknown) > 0 {
		var lines []string
		for _, c := range again.Changes() {
			lines = append(lines, c.Intent)
		}
		x.fail("the second plan is not empty: %s %v", strings.Join(lines, "\n"), again.Unknown)
		return false
	}
	return ok
}

// execute runs one statement as the superuser.
func (x *trial) execute(c tasks.Change) bool {
	w := x.w
	run, ok := c.Action.(tasks.Execute)
	if !ok {
		x.fail("an action of type %T", c.Action)
		return false
	}
	sql := run.Statement.SQL()
	x.ran = append(x.ran, run.Database+"=# "+sql)
	w.ran[strings.TrimPrefix(fmt.Sprintf("%T", run.Statement), "catalog.")]++
	var statements []string
	switch st := run.Statement.(type) {
	case catalog.SetPassword:
		if st.None {
			break
		}
		value, _, _ := w.Resolve(context.Background(), st.Secret)
		verifier, err := postgres.SCRAMVerifier(string(value.Expose()), []byte("sixteen bytes...."), postgres.SCRAMIterations)
		if err != nil {
			w.t.Fatal(err)
		}
		sql = "ALTER ROLE " + ident(st.Role) + " PASSWORD " + literal(verifier)
	case catalog.Revoke:
		if st.RunAs() != "" {
			statements = []string{"SET ROLE " + ident(st.RunAs()), sql, "RESET ROLE"}
		}
	}
	if run.Statement.Alone() {
		w.leave()
	}
	if statements == nil {
		statements = []string{sql}
	}
	for _, s := range statements {
		if err := w.exec(run.Database, s); err != nil {
			x.fail("the server refuses %s: %v", s, err)
			return false
		}
	}
	return true
}

// fail reports what is wrong with all that is needed to see it again.
func (x *trial) fail(format string, args ...any) {
	w := x.w
	w.failures++
	last := w.life[max(0, len(w.life)-40):]
	w.t.Errorf("PostgreSQL %d, PGFLEET_PROPERTY_SEED=%d, case %d: %s\n\n%s\n\nwhat was run:\n%s\n\nwhat was done by hand at last:\n%s",
		w.major, w.seed, w.number, fmt.Sprintf(format, args...), x.list.text.String(), strings.Join(x.ran, "\n"), strings.Join(last, "\n"))
}

// reason is an error without the names in it, so that it can be counted.
func reason(err error) string {
	var one *tasks.TaskError
	text := err.Error()
	if errors.As(err, &one) {
		text = one.Err.Error()
	}
	first, _, _ := strings.Cut(text, "\n")
	return regexp.MustCompile(`"[^"]*"|fleet.toml:[0-9:]+ ?`).ReplaceAllString(first, "…")
}
