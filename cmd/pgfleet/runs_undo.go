package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/journal"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

func (a *app) runsUndoCommand() *cobra.Command {
	x := applying{app: a}
	cmd := &cobra.Command{
		Use:   "undo RUN",
		Short: "Put the files back that a run has changed: plan, show, ask, and apply",
		Long: `Undo makes the files that a run has changed what they were before it: settings,
pg_hba.conf and other files, from copies that the hosts keep of the last ten runs.
It is planned and shown first, and carried out as every apply is: tried, loaded,
verified, or put back. A file that somebody has changed since is refused.

What the run did in SQL, packages, units, certificates and commands is not undone;
it is listed, with the statement that does the opposite where there is an exact one.

fleet.toml is not changed: the next apply would do again what it says.`,
		Args:              oneRun,
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error {
			x.lock.Why = commandLine(cmd, args)
			r, err := a.findRun(args[0])
			if err != nil {
				return notResumed(err)
			}
			if r.Rotation != nil {
				return &inputError{fmt.Errorf("the run %s rotated passwords; pgfleet rotate %s --rollback goes back to the previous ones", r.ID, cmp.Or(strings.Join(r.Rotation.Roles, " "), "--all"))}
			}
			ids := r.Those(func(h journal.Instance) bool { return len(h.Steps) > 0 })
			return x.goOn(cmd.Context(), a.fleetFile(cmd), &earlier{command: "undo", of: r, instances: ids})
		},
	}
	x.flags(cmd, "--yes")
	return cmd
}

// revert plans to put back what the earlier run has changed on instances.
func (e *earlier) revert(ctx context.Context, s *session, wanted []inventory.Instance) ([]rollout.Known, error) {
	bound := map[inventory.InstanceID][]*tasks.Bound{}
	for _, in := range wanted {
		reverts, err := tasks.NewReverts(s.fleet, in, e.of.ID)
		if err != nil {
			return nil, &inputError{err}
		}
		bound[in.ID()] = reverts
	}
	known := s.survey(ctx, wanted, bound)
	if ctx.Err() != nil {
		return nil, errInterrupted
	}
	for _, k := range known {
		if k.Plan != nil {
			k.Plan.Orphans = nil // no task was asked what it declares
		}
	}
	return known, nil
}

// showUndo shows what is to be put back, and what is not.
func (x *applying) showUndo(s *session, known []rollout.Known, wanted []inventory.Instance) {
	if x.asJSON {
		return
	}
	x.app.showPlan(s, known)
	x.app.ui.Print(clean(remains(x.earlier.of, wanted)))
	s.showLeases(known)
}

// remains lists what a run did that is not undone, for the reader.
func remains(r *journal.Run, wanted []inventory.Instance) string {
	var b strings.Builder
	for _, h := range r.Hosts {
		if !slices.ContainsFunc(wanted, func(in inventory.Instance) bool { return in.ID() == h.Instance }) {
			continue
		}
		var lines []string
		for _, step := range h.Steps {
			if step.Status == "not begun" {
				continue
			}
			for _, c := range step.Changes {
				if line := notUndone(c); line != "" {
					lines = append(lines, "  "+line)
				}
			}
		}
		if len(lines) > 0 {
			fmt.Fprintf(&b, "%s: not undone by this:\n%s\n", h.Instance, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}

// notUndone describes a change that is no file's; "" for one that is, or that
// changed nothing.
func notUndone(c rollout.SavedChange) string {
	kind, _, _ := strings.Cut(c.Key, ":")
	switch kind {
	case "file", "reload", "restart", "start", "verify", "daemon-reload", "later":
		return ""
	case "sql":
		if strings.HasPrefix(c.Intent, "comes by replication") {
			return ""
		}
		if o := opposite(c.Intent); o != "" {
			return c.Intent + "   (the opposite: " + o + ")"
		}
	}
	return c.Intent
}

// opposite returns the statement that takes another one back exactly; "" where
// what was there before is not known.
func opposite(sql string) string {
	for _, pair := range [][4]string{
		{"GRANT ", " TO ", "REVOKE ", " FROM "},
		{"REVOKE ", " FROM ", "GRANT ", " TO "},
	} {
		rest, ok := strings.CutPrefix(sql, pair[0])
		at := strings.LastIndex(rest, pair[1])
		if !ok || at < 0 || strings.Contains(rest, " OPTION") || strings.Contains(rest, "GRANTED BY") || strings.Contains(rest, "CASCADE") {
			continue
		}
		return pair[2] + rest[:at] + pair[3] + rest[at+len(pair[1]):]
	}
	for _, pair := range [][2]string{
		{"ENABLE ROW LEVEL SECURITY", "DISABLE ROW LEVEL SECURITY"},
		{"NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"},
	} {
		for i, suffix := range pair {
			if head, ok := strings.CutSuffix(sql, " "+suffix); ok && strings.HasPrefix(sql, "ALTER TABLE ") {
				return head + " " + pair[1-i]
			}
		}
	}
	for _, what := range []string{"ROLE", "SCHEMA", "EXTENSION"} {
		rest, ok := strings.CutPrefix(sql, "CREATE "+what+" ")
		if name, _, _ := strings.Cut(rest, " "); ok && !strings.HasPrefix(name, `"`) {
			return "DROP " + what + " " + name
		}
	}
	return ""
}
