package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// An applying is one apply: what was asked for on the command line.
type applying struct {
	app    *app
	file   string // of a saved plan; "" to plan now
	yes    bool
	asJSON bool
	// deadMan is how long a host waits for this run in the middle of a step.
	deadMan time.Duration
}

func (a *app) applyCommand() *cobra.Command {
	x := applying{app: a}
	cmd := &cobra.Command{
		Use:   "apply [PLANFILE]",
		Short: "Plan, show, ask, and make it so",
		Long: `Apply plans, shows the plan, asks, and carries it out. Every step is checked with
the server's own means and verified, or put back.

With a PLANFILE from plan --out it asks nothing, and does exactly what that holds:
an instance where anything else would be done now is refused before its first
change, and the others go on.

Ctrl-C once: no new step starts, and those that run are finished or put back.
Twice: everything stops at once.`,
		Example: `  pgfleet apply
  pgfleet apply --yes -l eu
  pgfleet plan --out friday.plan && pgfleet apply friday.plan`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				x.file = args[0]
			}
			return x.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVarP(&x.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&x.asJSON, "json", false, "print the results as JSON; needs --yes or a PLANFILE")
	cmd.Flags().DurationVar(&x.deadMan, "dead-man", 0, "how long a host waits, when it hears nothing in the middle of a step, before it\nputs the old files back by itself (default 5m0s)")
	return cmd
}

// run reads as the list of what apply does.
func (x *applying) run(ctx context.Context) error {
	if err := x.check(); err != nil {
		return err
	}
	saved, digester, err := x.readPlan()
	if err != nil {
		return err
	}
	s, err := x.app.open(ctx, digester)
	if err != nil {
		return err
	}
	defer s.Close()
	known, err := x.survey(ctx, s, saved, digester)
	if err != nil {
		return err
	}
	// A store that is down stops the run here, before the first change.
	if err := s.resolve(ctx, rollout.Secrets(known), "nothing was changed"); err != nil {
		return err
	}
	if err := x.confirm(ctx, known); err != nil {
		return err
	}
	results := x.carryOut(ctx, s, known)
	return x.report(s.fleet, known, results)
}

// shortestDeadMan leaves time for a host to be told to wait on.
const shortestDeadMan = 5 * time.Second

// check finds what cannot work before anybody is dialled.
func (x *applying) check() error {
	switch {
	case x.deadMan != 0 && x.deadMan < shortestDeadMan:
		return &inputError{fmt.Errorf("--dead-man: want at least %v", shortestDeadMan)}
	case x.file != "" && len(x.app.tags) > 0:
		return &inputError{errors.New("a saved plan has its own --tags; give them to plan --out")}
	case x.yes || x.file != "":
		return nil
	case x.asJSON:
		return &inputError{errors.New("--json asks nothing: add --yes, or give a plan that was saved with plan --out")}
	case !x.app.ui.Interactive():
		return &inputError{errors.New("this is not a terminal, so nobody can be asked: add --yes, or give a plan that was saved with plan --out")}
	}
	return nil
}

func (x *applying) readPlan() (*rollout.SavedPlan, *secrets.Digester, error) {
	if x.file == "" {
		return nil, nil, nil
	}
	digester, err := newDigester()
	if err != nil {
		return nil, nil, err
	}
	saved, err := rollout.ReadSavedPlan(x.file, digester)
	if err != nil {
		return nil, nil, &inputError{err}
	}
	return saved, digester, nil
}

// survey finds out what is due, and shows it unless it was reviewed already.
func (x *applying) survey(ctx context.Context, s *session, saved *rollout.SavedPlan, digester *secrets.Digester) ([]rollout.Known, error) {
	all, wanted, tags := s.instances, s.instances, x.app.tags
	if saved != nil {
		var err error
		if all, wanted, err = reviewed(s, saved); err != nil {
			return nil, err
		}
		tags = saved.Tags
		if err := checkTags(s.fleet, tags); err != nil {
			return nil, &inputError{err}
		}
	}
	known, _, err := s.plan(ctx, all, wanted, tags)
	if err != nil {
		return nil, err
	}
	if saved != nil {
		return known, saved.Hold(known, digester, x.app.mask)
	}
	if !x.asJSON {
		x.app.showPlan(known)
	}
	return known, nil
}

// reviewed returns the instances of a saved plan, and those of them that
// --limit means. All of them are needed for planning: which instance a task of
// `on = "one"` is for depends on them.
func reviewed(s *session, saved *rollout.SavedPlan) (all, wanted []inventory.Instance, err error) {
	if saved.Fleet != s.fleet.Name {
		return nil, nil, &inputError{fmt.Errorf("the plan is for the fleet %q, and %s describes %q", saved.Fleet, s.fleet.Path, s.fleet.Name)}
	}
	for _, p := range saved.Instances {
		in, ok := s.fleet.Instance(p.Instance)
		if !ok {
			return nil, nil, &inputError{fmt.Errorf("the plan holds %s, which is not in %s any more", p.Instance, s.fleet.Path)}
		}
		all = append(all, in)
		if slices.ContainsFunc(s.instances, func(i inventory.Instance) bool { return i.ID() == in.ID() }) {
			wanted = append(wanted, in)
		}
	}
	if len(wanted) == 0 {
		return nil, nil, &inputError{fmt.Errorf("--limit %q: no instance of the plan is meant", s.app.limit)}
	}
	return all, wanted, nil
}

// confirm asks, if there is anything that would run. Checks alone need no
// permission.
func (x *applying) confirm(ctx context.Context, known []rollout.Known) error {
	if x.yes || x.file != "" || !slices.ContainsFunc(known, somethingRuns) {
		return nil
	}
	answer, err := x.app.ui.Ask(ctx, "\nApply these changes? Only 'yes' is taken for a yes: ")
	if err != nil {
		return err
	}
	if answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

func somethingRuns(k rollout.Known) bool {
	return k.Err == nil && slices.ContainsFunc(k.Plan.Steps, runs)
}

// carryOut applies, with progress, and takes care of Ctrl-C.
func (x *applying) carryOut(ctx context.Context, s *session, known []rollout.Known) []rollout.Result {
	ui := x.app.ui
	var ids []string
	for _, k := range known {
		ids = append(ids, string(k.Instance.ID()))
	}
	p := newProgress(ui, "applying", ids)
	switch {
	case x.asJSON:
		p.plain = ui.Note
	case !ui.outTTY || !ui.Live():
		p.plain = ui.Print
	}
	s.run.Observer = p
	s.run.DeadMan = x.deadMan
	stop := make(chan struct{})
	undo := x.app.signals.onFirst(func() {
		close(stop)
		ui.Note("finishing the running steps; Ctrl-C again stops now")
	})
	defer undo()
	p.Start()
	defer p.Stop()
	return s.run.Apply(ctx, stop, known)
}

// report says where each instance stands.
func (x *applying) report(fleet *inventory.Fleet, known []rollout.Known, results []rollout.Result) error {
	if x.asJSON {
		if err := x.app.ui.JSON(resultJSON(fleet, results)); err != nil {
			return err
		}
	} else {
		x.app.ui.Print("\n" + renderResults(known, results, x.app.ui.style))
	}
	for _, r := range results {
		if r.Status != rollout.Changed && r.Status != rollout.Unchanged {
			return errHostFailed
		}
	}
	return nil
}

// shellWord quotes a file's name where the shell would need it.
func shellWord(s string) string {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' || r == '/') {
			return transport.Quote(s)
		}
	}
	return s
}
