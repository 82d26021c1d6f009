package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// A LockoutError is why an instance is refused: somebody would lose access, and
// the operator has not said that it is meant so.
type LockoutError struct{ Lockouts []tasks.Lockout }

// Error names everyone, and the flags that would allow it.
func (e *LockoutError) Error() string {
	var lines []string
	for _, l := range e.Lockouts {
		at := l.Task
		if l.Pos.Line > 0 {
			at += " (" + l.Pos.String() + ")"
		}
		if at != "" {
			at += ": "
		}
		lines = append(lines, at+"would lose access: "+l.String())
	}
	return strings.Join(lines, "\n") + "\nnothing was changed; if that is meant, add " + allowFlags(e.Lockouts)
}

// AllowFlag is the flag of apply that allows a lock-out.
func AllowFlag(l tasks.Lockout) string { return "--allow-lockout " + transport.Word(l.Who) }

// allowFlags are the flags of apply that allow lock-outs.
func allowFlags(list []tasks.Lockout) string {
	var flags []string
	for _, l := range list {
		if f := AllowFlag(l); !slices.Contains(flags, f) {
			flags = append(flags, f)
		}
	}
	return strings.Join(flags, " ")
}

// RefuseLockouts gives every instance on which somebody would lose access, whom
// AllowLockout does not name, a [LockoutError]. Apply refuses those before their
// first change; the others go on. Known is changed in place.
func (r *Run) RefuseLockouts(known []Known) {
	for i := range known {
		k := &known[i]
		if k.Err != nil || k.Plan == nil {
			continue
		}
		if left := r.notAllowed(k.Plan.Lockouts); len(left) > 0 {
			k.Err = &LockoutError{left}
		}
	}
}

// locksOut refuses, just before a step that replaces pg_hba.conf, that somebody
// loses access who is not allowed to: hours may have passed since it was planned,
// and others are connected now.
func (x *executor) locksOut(ctx context.Context, hbaFile string) error {
	if hbaFile == "" || !slices.ContainsFunc(x.step.Changes, func(c tasks.Change) bool {
		switch a := c.Action.(type) {
		case tasks.WriteFile:
			return a.Path == hbaFile
		case tasks.RemoveFile:
			return a.Path == hbaFile
		}
		return false
	}) {
		return nil
	}
	x.phase("checking who is connected now")
	plan, err := x.run.resurvey(ctx, x.conn, x.instance, x.step.Tasks)
	if err != nil {
		return fmt.Errorf("planned again just before it: %w", err)
	}
	if left := x.run.notAllowed(plan.Lockouts); len(left) > 0 {
		return fmt.Errorf("since it was planned this has changed: %w", &LockoutError{left})
	}
	return nil
}

// notAllowed returns those lock-outs that AllowLockout does not name.
func (r *Run) notAllowed(list []tasks.Lockout) []tasks.Lockout {
	var left []tasks.Lockout
	for _, l := range list {
		if !slices.ContainsFunc(r.AllowLockout, l.Named) {
			left = append(left, l)
		}
	}
	return left
}

// CheckAllowLockout returns an error if somebody would lose access and none of
// AllowLockout's names means anybody: they are misspelt then. That nobody would
// lose access is no mistake, so that a run can be repeated as it is.
func (r *Run) CheckAllowLockout(known []Known) error {
	var all []tasks.Lockout
	for _, k := range known {
		if k.Plan != nil {
			all = append(all, k.Plan.Lockouts...)
		}
	}
	if len(r.AllowLockout) == 0 || len(all) == 0 || slices.ContainsFunc(all, func(l tasks.Lockout) bool { return slices.ContainsFunc(r.AllowLockout, l.Named) }) {
		return nil
	}
	var who []string
	for _, l := range all {
		if !slices.Contains(who, l.Who) {
			who = append(who, l.Who)
		}
	}
	return fmt.Errorf("--allow-lockout: nobody who would lose access is called %s; these are: %s", strings.Join(r.AllowLockout, " or "), strings.Join(who, ", "))
}

// shutOut reports whether a server answered, and refused to let pgfleet in: by
// its rules, or for want of a credential (class 28 in the manual's appendix on
// error codes). One that did let it in will not do so again by itself.
func shutOut(s facts.Server) bool {
	return !s.Reached && strings.Contains(s.Problem, "(SQLSTATE 28")
}
