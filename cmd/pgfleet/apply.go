package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgfleet/pgfleet/internal/journal"
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
	allow  []string // --allow-lockout

	rotating *rotating            // what rotate was asked for; nil for an apply
	certs    *certsRun            // what a command of certs was asked for; nil for others
	earlier  *earlier             // that this one goes on with; nil for a new one
	all      []inventory.Instance // that tasks are planned for
	tags     []string
	held     *heldPlan
	journal  *journal.Recorder // nil as long as there is none
	began    time.Time
	lock     rollout.Locking
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

An instance where somebody would lose access is refused before its first change,
unless --allow-lockout names everyone who would: a declared client, USER@ADDRESS or
USER, standby:NAME, pgfleet for its own connection, or all.

Hosts are worked on in the waves that [rollout] of fleet.toml says, the members of a
replication cluster one after the other. While they are, nobody else can change
them: see --lock-wait. Every run keeps a journal: see pgfleet runs.

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
			x.lock.Why = commandLine(cmd, args)
			return x.apply(cmd.Context())
		},
	}
	x.flags(cmd, "--yes or a PLANFILE")
	return cmd
}

func (x *applying) flags(cmd *cobra.Command, needs string) {
	cmd.Flags().BoolVarP(&x.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&x.asJSON, "json", false, "print the results as JSON; needs "+needs)
	cmd.Flags().StringArrayVar(&x.allow, "allow-lockout", nil, "go on though `WHO` would lose access; may be given more than once")
	if err := cmd.RegisterFlagCompletionFunc("allow-lockout", x.app.completeLockouts); err != nil {
		panic(err) // the flag's name is misspelt above
	}
	cmd.Flags().DurationVar(&x.deadMan, "dead-man", 0, "how long a host waits, when it hears nothing in the middle of a step, before it\nputs the old files back by itself (default: dead_man of fleet.toml, or 5m0s)")
	x.lockFlags(cmd.Flags())
}

func (x *applying) lockFlags(f *pflag.FlagSet) {
	f.DurationVar(&x.lock.Wait, "lock-wait", 0, "how `long` to wait for others who are applying to the same hosts")
	f.DurationVar(&x.lock.TTL, "lease-ttl", 0, "how `long` a lease holds that is not renewed; for tests")
	_ = f.MarkHidden("lease-ttl")
}

// apply reads as the list of what apply does.
func (x *applying) apply(ctx context.Context) error {
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
	s.run.AllowLockout = x.allow
	known, err := x.survey(ctx, s, saved, digester)
	if err != nil {
		return err
	}
	if x.rotating != nil && x.rotating.due && !slices.ContainsFunc(known, func(k rollout.Known) bool { return k.Err != nil || somethingRuns(k) }) {
		return x.noneDue(s.fleet)
	}
	if err := x.lockouts(s, known); err != nil {
		return err
	}
	// A store that is down stops the run here, before the first change.
	if !x.certs.changes() {
		if err := s.resolve(ctx, rollout.Secrets(known), "nothing was changed"); err != nil {
			return err
		}
	}
	if err := x.confirm(ctx, known); err != nil {
		return err
	}
	if err := x.beginJournal(s, known, digester); err != nil {
		return err
	}
	results, early, err := x.afterCA(ctx, s, known)
	lost := x.endJournal(results, early)
	if err == nil {
		err = x.report(s.fleet, known, results, early)
	}
	x.nameRun(err != nil)
	if x.rotating == nil {
		for _, why := range s.dueCerts(ctx) {
			x.app.ui.Note(clean(why))
		}
	}
	if lost != nil {
		x.app.ui.Error(lost)
		return errHostFailed
	}
	return err
}

// shortestDeadMan leaves time for a host to be told to wait on.
const shortestDeadMan = 5 * time.Second

// check finds what cannot work before anybody is dialled.
func (x *applying) check() error {
	orPlan := ", or give a plan that was saved with plan --out"
	if x.earlier != nil {
		orPlan = ""
	}
	switch {
	case x.lock.Wait < 0 || x.lock.TTL < 0:
		return &inputError{errors.New("--lock-wait: want no less than 0")}
	case x.deadMan != 0 && x.deadMan < shortestDeadMan:
		return &inputError{fmt.Errorf("--dead-man: want at least %v", shortestDeadMan)}
	case x.file != "" && len(x.app.tags) > 0:
		return &inputError{errors.New("a saved plan has its own --tags; give them to plan --out")}
	case x.yes || x.file != "":
		return nil
	case x.asJSON:
		return &inputError{errors.New("--json asks nothing: add --yes" + orPlan)}
	case !x.app.ui.Interactive():
		return &inputError{errors.New("this is not a terminal, so nobody can be asked: add --yes" + orPlan)}
	}
	return nil
}

func (x *applying) readPlan() (*rollout.SavedPlan, *secrets.Digester, error) {
	if x.file == "" && x.earlier == nil {
		return nil, nil, nil
	}
	digester, err := newDigester()
	if err != nil {
		return nil, nil, err
	}
	if x.earlier != nil {
		return nil, digester, nil // its journal has what was planned
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
	if e := x.earlier; e != nil {
		var err error
		if all, wanted, err = e.chosen(s, digester); err != nil {
			return nil, err
		}
		tags = e.of.Tags
	}
	x.all, x.tags = all, tags
	find := func() ([]rollout.Known, error) {
		if x.certs != nil {
			if err := x.certs.prepare(ctx, s, wanted); err != nil {
				return nil, err
			}
		}
		if x.rotating != nil {
			return x.rotating.plan(ctx, s, wanted)
		}
		known, _, err := s.plan(ctx, all, wanted, tags)
		return known, err
	}
	if e := x.earlier; e != nil && e.command == "undo" {
		find = func() ([]rollout.Known, error) { return e.revert(ctx, s, wanted) }
	}
	known, err := find()
	if err == nil && x.putBack(ctx, s, known) {
		known, err = find()
	}
	if err != nil {
		return nil, err
	}
	s.lookBeside(ctx, known)
	if e := x.earlier; e != nil && e.command == "undo" {
		x.showUndo(s, known, wanted)
		return known, nil
	}
	if x.earlier != nil {
		if x.held, err = x.earlier.hold(known, digester, x.app.mask); err != nil {
			return nil, err
		}
	}
	if saved != nil {
		x.held = &heldPlan{saved}
		return known, saved.Hold(known, digester, x.app.mask)
	}
	if !x.asJSON {
		x.app.showPlan(s, known)
		s.showLeases(known)
	}
	if _, err := rollout.Waves(s.withBeside(known), s.fleet.Rollout); err != nil {
		return nil, fmt.Errorf("%w; nothing was changed", err)
	}
	return known, nil
}

// putBack ends what a run that died has left open on the hosts, as they would by
// themselves a little later, so that it is not in the way of what is planned now.
// It reports whether there was anything.
func (x *applying) putBack(ctx context.Context, s *session, known []rollout.Known) bool {
	s.run.Locking = x.lock
	said, found := s.run.PutBack(ctx, known)
	for _, k := range known {
		if text := said[k.Instance.ID()]; text != "" {
			x.app.ui.Note(string(k.Instance.ID()) + ": " + clean(text))
		}
	}
	return found
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
	if x.yes || x.file != "" || !slices.ContainsFunc(known, somethingRuns) && !x.certs.changes() {
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

// carryOut applies, with progress, and takes care of Ctrl-C. The error says why
// the rollout came to no good end as a whole.
func (x *applying) carryOut(ctx context.Context, s *session, known []rollout.Known) ([]rollout.Result, error) {
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
	s.run.Observer, s.run.Locking = p, x.lock
	if s.run.DeadMan = s.fleet.Rollout.DeadMan; x.deadMan > 0 {
		s.run.DeadMan = x.deadMan
	}
	stop := make(chan struct{})
	undo := x.app.signals.onFirst(func() {
		close(stop)
		ui.Note("finishing the running steps; Ctrl-C again stops now")
	})
	defer undo()
	p.Start()
	defer p.Stop()
	return s.run.Apply(ctx, stop, s.withBeside(known))
}

// report says where each instance stands, and why the rollout ended early.
func (x *applying) report(fleet *inventory.Fleet, known []rollout.Known, results []rollout.Result, early error) error {
	if x.asJSON {
		doc := resultJSON(fleet, results, early)
		doc.Run = x.runID()
		if err := x.app.ui.JSON(doc); err != nil {
			return err
		}
	} else {
		x.app.ui.Print("\n" + renderResults(known, results, x.app.ui.style))
	}
	if early != nil {
		back := ""
		if id := x.runID(); id != "" {
			back = "; pgfleet runs undo " + id + " takes back what it did to files"
		}
		if x.rotating != nil {
			return fmt.Errorf("the rollout has stopped: %w\nwhat was done stays, and %s goes on from there", early, x.rotating.command())
		}
		return fmt.Errorf("the rollout has stopped: %w\nwhat was done stays, and pgfleet %s goes on from there%s", early, x.certs.again(), back)
	}
	for _, r := range results {
		if r.Status != rollout.Changed && r.Status != rollout.Unchanged {
			return errHostFailed
		}
	}
	return nil
}

// commandLine is what was given, as others are told of it.
func commandLine(cmd *cobra.Command, args []string) string {
	text := cmd.CommandPath()
	cmd.Flags().Visit(func(f *pflag.Flag) { text += " --" + f.Name + "=" + transport.Word(f.Value.String()) })
	for _, arg := range args {
		text += " " + transport.Word(arg)
	}
	return text
}
