package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/journal"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

func (a *app) runsResumeCommand() *cobra.Command {
	x := applying{app: a}
	cmd := &cobra.Command{
		Use:   "resume RUN",
		Short: "Go on with a run: plan anew, show, ask, and apply to what it did not finish",
		Long: `Resume finds in the run's journal which fleet, tags and saved plan it was about,
and which instances it did not finish: where it died, failed, or never began. Those
are planned anew, from what the hosts say now, so that nothing that stands is done
again; the rest is shown, asked for and applied, as a run of its own.

What fleet.toml says now is what counts. If it has changed since, that is said. A
run of a saved plan goes on with that plan: an instance where anything else is due
now is refused. --limit leaves out more instances; -f names the fleet.toml if it is
no longer where it was.`,
		Args:              oneRun,
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error {
			x.lock.Why = commandLine(cmd, args)
			r, err := a.findRun(args[0])
			if err != nil {
				return notResumed(err)
			}
			return x.goOn(cmd.Context(), a.fleetFile(cmd), &earlier{
				command: "resume", of: r, instances: r.Those(func(h journal.Instance) bool { return !h.Well() }),
			})
		},
	}
	x.flags(cmd, "--yes")
	return cmd
}

func (a *app) runsRetryCommand() *cobra.Command {
	x := applying{app: a}
	var failed bool
	cmd := &cobra.Command{
		Use:   "retry --failed [RUN]",
		Short: "Apply again to the instances where a run, by default the last one, failed",
		Long: `Retry is resume for the instances where the run failed, was refused or stopped, or
which it could not reach. Without RUN it is the last one; with -f the last one of
that fleet.toml. Instances that a run left unfinished because it died are not among
them: see resume.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return oneRun(cmd, args)
		},
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error {
			x.lock.Why = commandLine(cmd, args)
			if !failed {
				return &inputError{errors.New("which instances? --failed means those where the run failed")}
			}
			r, err := a.lastRun(a.fleetFile(cmd), args)
			if err != nil {
				return notResumed(err)
			}
			return x.goOn(cmd.Context(), a.fleetFile(cmd), &earlier{command: "retry", of: r, instances: r.Those(journal.Instance.Failed)})
		},
	}
	cmd.Flags().BoolVar(&failed, "failed", false, "the instances that failed, were refused, stopped or not reached")
	x.flags(cmd, "--yes")
	return cmd
}

// lastRun returns the run that is named, or the last one.
func (a *app) lastRun(file string, args []string) (*journal.Run, error) {
	if len(args) == 1 {
		return a.findRun(args[0])
	}
	list, err := a.loadRuns(file)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, &inputError{errors.New("there is no run yet")}
	}
	return list[0], nil
}

// notResumed says what to do in the place of going on with a damaged run.
func notResumed(err error) error {
	if _, ok := errors.AsType[*journal.ChainError](err); ok {
		return fmt.Errorf("%w; what the run did cannot be told from it. pgfleet plan asks the hosts, and pgfleet apply goes on from what they say", err)
	}
	return err
}

// An earlier run is one that an apply goes on with.
type earlier struct {
	command   string // "resume" or "retry"
	of        *journal.Run
	instances []inventory.InstanceID // that are meant
}

// goOn applies to what an earlier run has left.
func (x *applying) goOn(ctx context.Context, file string, e *earlier) error {
	a, r := x.app, e.of
	switch {
	case len(a.tags) > 0:
		return &inputError{errors.New("a run has its own --tags")}
	case r.Outcome == journal.Running:
		return &inputError{fmt.Errorf("the run %s is running: process %d of %s", r.ID, r.PID, r.Who)}
	case r.Outcome == journal.Damaged:
		return fmt.Errorf("the journal of the run %s is damaged; pgfleet plan asks the hosts, and pgfleet apply goes on from what they say", r.ID)
	case len(e.instances) == 0:
		return x.nothingLeft(e)
	}
	x.earlier, x.rotating = e, resumed(r)
	if len(r.Kinds) > 0 {
		x.certs = &certsRun{command: r.Command, kinds: r.Kinds}
	}
	if a.fleet = file; file == "" {
		a.fleet = r.File
	}
	return x.apply(ctx)
}

// nothingLeft says that there is nothing to go on with.
func (x *applying) nothingLeft(e *earlier) error {
	if x.asJSON {
		return x.app.ui.JSON(resultDocument{
			Format: jsonFormat, Pgfleet: version(), Fleet: e.of.Fleet, Instances: []instanceResult{}, Totals: map[string]int{},
		})
	}
	text := fmt.Sprintf("the run %s finished everywhere; nothing is left to do", e.of.ID)
	if e.command == "undo" {
		x.app.ui.Print(fmt.Sprintf("the run %s changed nothing; nothing is to be undone", e.of.ID))
		return nil
	}
	if left := e.of.Those(func(h journal.Instance) bool { return !h.Well() }); len(left) > 0 {
		text = fmt.Sprintf("the run %s failed nowhere; it did not finish %s: pgfleet runs resume %s", e.of.ID, idList(left), e.of.ID)
	}
	x.app.ui.Print(text)
	return nil
}

// chosen returns the instances that the earlier run planned for, and those of them
// that are meant now. What no longer fits is said.
func (e *earlier) chosen(s *session, d *secrets.Digester) (all, wanted []inventory.Instance, err error) {
	if e.of.Fleet != s.fleet.Name {
		return nil, nil, &inputError{fmt.Errorf("the run %s is of the fleet %q, and %s describes %q", e.of.ID, e.of.Fleet, s.fleet.Path, s.fleet.Name)}
	}
	if err := checkTags(s.fleet, e.of.Tags); err != nil {
		return nil, nil, &inputError{err}
	}
	ui := s.app.ui
	var gone []inventory.InstanceID
	for _, id := range slices.Concat(e.of.Instances, e.of.Beside) {
		in, ok := s.fleet.Instance(id)
		if !ok {
			gone = append(gone, id)
			continue
		}
		all = append(all, in)
		if slices.Contains(e.instances, id) && slices.ContainsFunc(s.instances, func(i inventory.Instance) bool { return i.ID() == id }) {
			wanted = append(wanted, in)
		}
	}
	if len(wanted) == 0 {
		did := map[bool]string{false: "did not finish", true: "changed"}[e.command == "undo"]
		return nil, nil, &inputError{fmt.Errorf("the run %s %s %s, and none of that is meant by --limit %q or in %s", e.of.ID, did, idList(e.instances), s.app.limit, s.fleet.Path)}
	}
	verb := map[string]string{"resume": "resuming", "retry": "retrying", "undo": "undoing"}[e.command]
	ui.Note(fmt.Sprintf("%s run %s of the fleet %s, begun %s by %s: %s", verb, e.of.ID, clean(e.of.Fleet), localTime(e.of.Began), clean(e.of.Who), idList(e.instances)))
	if len(gone) > 0 {
		ui.Note(fmt.Sprintf("left out, because %s does not have them any more: %s", s.fleet.Path, idList(gone)))
	}
	digest, err := fleetDigest(s.fleet, d)
	if err != nil {
		return nil, nil, err
	}
	if digest != e.of.FileDigest && e.command != "undo" {
		ui.Note(fmt.Sprintf("%s is not as it was when that run began; what it says now is what is planned", s.fleet.Path))
	}
	return all, wanted, nil
}

// hold refuses what is not in the plan that the earlier run held to, if it did.
func (e *earlier) hold(known []rollout.Known, d *secrets.Digester, mask func(string) string) (*heldPlan, error) {
	plan := e.of.Reviewed()
	if plan == nil {
		return nil, nil
	}
	if plan.Key != keyOf(d) {
		return nil, &inputError{fmt.Errorf("the run %s was made with another operator's key for digests, so its plan cannot be held to; make a plan anew", e.of.ID)}
	}
	return &heldPlan{plan}, plan.HoldRest(known, d, mask)
}

func keyOf(d *secrets.Digester) string {
	p, _ := rollout.Save(nil, d, func(s string) string { return s }) // of nothing, which cannot fail
	return p.Key
}

func idList(ids []inventory.InstanceID) string {
	var names []string
	for _, id := range ids {
		names = append(names, string(id))
	}
	return strings.Join(names, ", ")
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return a == b
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
