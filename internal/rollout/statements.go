package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/tasks"
)

// statements carries out a step of SQL. Its statements are one transaction, so
// that there is nothing to put back: an error undoes all of them.
func (x *executor) statements(ctx context.Context) error {
	task := x.step.Tasks[0]
	x.phase("finding again")
	if err := x.foundAgain(ctx, task); err != nil {
		return err
	}
	if err := x.transact(ctx, x.step.Changes); err != nil {
		return err
	}
	if x.goesOn(task) {
		return nil
	}
	return x.nothingDue(ctx, task)
}

// goesOn reports whether a later step has statements of the same task.
func (x *executor) goesOn(task *tasks.Bound) bool {
	return slices.ContainsFunc(x.later, func(s tasks.Step) bool {
		_, ok := s.Changes[0].Action.(tasks.Execute)
		return ok && s.Tasks[0] == task
	})
}

// foundAgain plans the step's task again, which must come to the statements that
// are about to run.
func (x *executor) foundAgain(ctx context.Context, task *tasks.Bound) error {
	out, err := x.replanOne(ctx, task)
	if err != nil {
		return err
	}
	if why := undecided(out); why != "" {
		return fmt.Errorf("nothing was written, because what is due cannot be found again: %s", why)
	}
	first := x.step.Changes[0]
	var now []tasks.Change
	for _, part := range partsOf(out.Changes) {
		if part[0].Part == first.Part && (first.Part != "" || part[0].Key == first.Key) {
			now = part
			break
		}
	}
	gone, more := without(sqlOf(x.step.Changes), sqlOf(now)), without(sqlOf(now), sqlOf(x.step.Changes))
	if len(gone)+len(more) == 0 {
		return nil
	}
	var differs []string
	for _, s := range gone {
		differs = append(differs, "no longer due: "+s)
	}
	for _, s := range more {
		differs = append(differs, "now also due: "+s)
	}
	return fmt.Errorf("%s: the catalogs were %w", strings.Join(differs, "; "), errDrifted)
}

// nothingDue plans a task again after its last statement.
func (x *executor) nothingDue(ctx context.Context, task *tasks.Bound) error {
	x.phase("verifying")
	out, err := x.replanOne(ctx, task)
	if err != nil {
		return fmt.Errorf("after the change: %w", err)
	}
	if why := undecided(out); why != "" {
		return fmt.Errorf("after the change: %s", why)
	}
	if left := sqlOf(out.Changes); len(left) > 0 {
		return fmt.Errorf("all statements ran, and the server still does not hold what is wanted; due again: %s", strings.Join(left, "; "))
	}
	return nil
}

// replanned plans the step's task, now that it is known what came before, and
// carries out what is due.
func (x *executor) replanned(ctx context.Context) error {
	task := x.step.Tasks[0]
	x.phase("planning")
	out, err := x.replanOne(ctx, task)
	if err != nil {
		return err
	}
	if why := undecided(out); why != "" {
		return fmt.Errorf("it still cannot be planned: %s", why)
	}
	if err := x.planned(out.Changes); err != nil {
		return err
	}
	x.begun = true // from here on it is on record what is done
	ran := false
	for _, part := range partsOf(out.Changes) {
		if _, ok := part[0].Action.(tasks.Execute); ok {
			ran = true
			err = x.transact(ctx, part)
		} else {
			err = x.single(ctx, part[0])
		}
		if err != nil {
			return err
		}
		for _, c := range part {
			if tasks.Writes(c.Action) {
				x.made++
			}
		}
	}
	if !ran {
		return nil
	}
	return x.nothingDue(ctx, task)
}

// replan plans tasks anew, each from what the host says now. Only what they ask
// for themselves is asked: the files of the configuration, which a survey reads,
// decide nothing about what the catalogs hold.
func (x *executor) replan(ctx context.Context, list []*tasks.Bound) (map[*tasks.Bound]tasks.Outcome, error) {
	k := &Known{Instance: x.instance}
	ask := func() error {
		return x.run.ask(ctx, x.conn, []*Known{k}, func(k *Known) []facts.Read {
			return append([]facts.Read{facts.OS{}, tasks.ServerRead(k.Instance)}, readsOf(k, list)...)
		})
	}
	err := x.again(ctx, ask(), ask)
	if err != nil {
		return nil, err
	}
	outcomes := map[*tasks.Bound]tasks.Outcome{}
	for _, b := range list {
		if outcomes[b], err = b.Statements(k.State); err != nil {
			return nil, err
		}
	}
	return outcomes, nil
}

func (x *executor) replanOne(ctx context.Context, task *tasks.Bound) (tasks.Outcome, error) {
	outcomes, err := x.replan(ctx, []*tasks.Bound{task})
	return outcomes[task], err
}

// undecided says why an outcome leaves open what is due.
func undecided(out tasks.Outcome) string {
	if slices.ContainsFunc(out.Changes, func(c tasks.Change) bool { _, ok := c.Action.(tasks.Replan); return ok }) {
		return strings.Join(out.Unknown, "; ")
	}
	return ""
}

// partsOf puts the adjacent changes of one part together, as planning does.
func partsOf(changes []tasks.Change) [][]tasks.Change {
	var parts [][]tasks.Change
	for _, c := range changes {
		if last := len(parts) - 1; last >= 0 && c.Part != "" && parts[last][0].Part == c.Part {
			parts[last] = append(parts[last], c)
			continue
		}
		parts = append(parts, []tasks.Change{c})
	}
	return parts
}

// sqlOf returns the statements of changes with their databases, for the reader and
// for comparison.
func sqlOf(changes []tasks.Change) []string {
	var list []string
	for _, c := range changes {
		if a, ok := c.Action.(tasks.Execute); ok {
			list = append(list, a.Statement.SQL()+" (database "+a.Database+")")
		}
	}
	return list
}

// without returns the elements of list that are not in other, each as often as
// it is there more.
func without(list, other []string) []string {
	other = slices.Clone(other)
	var rest []string
	for _, s := range list {
		if i := slices.Index(other, s); i >= 0 {
			other = slices.Delete(other, i, i+1)
			continue
		}
		rest = append(rest, s)
	}
	return rest
}
