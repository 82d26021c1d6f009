package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/journal"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A rotating is what a rotate command is asked for.
type rotating struct {
	roles []string // none means all
	due   bool     // only what is older than its max_age
	asked tasks.Asked
}

func (a *app) rotateCommand() *cobra.Command {
	x := applying{app: a}
	var r rotating
	var all, plan, status bool
	cmd := &cobra.Command{
		Use:   "rotate ROLE...",
		Short: "Change the passwords of roles together with the secrets that hold them",
		Long: `Rotate changes the password of each ROLE that a [[rotation]] of fleet.toml is for, one
cluster after the other: it writes a new password to the secret store, as a pending
version; gives its verifier to the server; logs in with it over TLS, on the standbys
too; makes it the current version; tells those who have to know; and, with the
strategy alternate, takes the old role's password once nobody uses it.

Where a rotation was cut off, the next one finds out from the store and the server
how far it came, and goes on from there. A password that somebody has changed by hand
is not overwritten without --force.

--plan shows what state each cluster is in and what would be done. --status lists all
rotations. --rollback publishes the previous password again.`,
		Example: `  pgfleet rotate --status
  pgfleet rotate appuser --plan
  pgfleet rotate appuser
  pgfleet rotate --due --yes
  pgfleet rotate appuser --rollback -l orders`,
		ValidArgsFunction: a.completeRotations,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.roles = args
			x.lock.Why = commandLine(cmd, args)
			switch {
			case (plan || status) && x.yes:
				return &inputError{errors.New("--plan and --status change nothing, and need no --yes")}
			case status && (plan || r.due || r.asked != tasks.Asked{}):
				return &inputError{errors.New("--status goes with names of roles, --limit and --json alone")}
			case r.due && (r.asked.Back || len(args) > 0 || all):
				return &inputError{errors.New("--due chooses the rotations itself: it goes with neither names, --all nor --rollback")}
			case all && len(args) > 0:
				return &inputError{errors.New("--all, or names, not both")}
			case len(args) == 0 && !all && !r.due && !plan && !status:
				return &inputError{errors.New("which role? name one, or say --due or --all; pgfleet rotate --status lists them")}
			case len(a.tags) > 0:
				return &inputError{errors.New("--tags chooses tasks, and a rotation is none")}
			}
			switch {
			case status:
				return a.rotationStatus(cmd.Context(), r, x.asJSON)
			case plan:
				return a.rotationPlan(cmd.Context(), r, x.asJSON)
			}
			x.rotating = &r
			return x.apply(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&plan, "plan", false, "show what would be done, and do nothing")
	f.BoolVar(&status, "status", false, "list the rotations: age, state, sessions of the role that is not in use")
	f.BoolVar(&r.asked.Back, "rollback", false, "go back to the previous password")
	f.BoolVar(&all, "all", false, "every rotation of fleet.toml")
	f.BoolVar(&r.due, "due", false, "every rotation whose password is older than its max_age")
	f.BoolVar(&r.asked.Force, "force", false, "go on where somebody has changed a password by hand or uses the role that is next, and without members\nof the cluster that cannot be asked")
	f.BoolVar(&r.asked.EndSessions, "end-sessions", false, "end sessions of the old role that do not end by themselves")
	f.BoolVarP(&x.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&x.asJSON, "json", false, "print the results as JSON; needs --yes, --plan or --status")
	x.lockFlags(f)
	return cmd
}

// completeRotations offers the roles that are rotated.
func (a *app) completeRotations(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	fleet, _ := inventory.Load(a.fleet, inventory.Options{Kinds: tasks.Kinds()})
	var names []cobra.Completion
	if fleet != nil {
		for _, r := range fleet.Rotations {
			names = append(names, r.Role)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// rotationPlan shows what rotate would do.
func (a *app) rotationPlan(ctx context.Context, r rotating, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	known, err := r.plan(ctx, s, s.instances)
	if err != nil {
		return err
	}
	if asJSON {
		err = a.ui.JSON(planJSON(s.fleet, known))
	} else {
		a.showPlan(s, known)
		s.showLeases(known)
	}
	if err != nil {
		return err
	}
	return a.planned(known)
}

// plan reads what the stores hold, asks the hosts, and plans the rotations. A store
// that is down is found before anybody is dialled.
func (r rotating) plan(ctx context.Context, s *session, wanted []inventory.Instance) ([]rollout.Known, error) {
	known, _, err := r.survey(ctx, s, wanted)
	return known, err
}

func (r rotating) survey(ctx context.Context, s *session, wanted []inventory.Instance) ([]rollout.Known, map[inventory.InstanceID][]*tasks.Bound, error) {
	if len(s.fleet.Rotations) == 0 {
		return nil, nil, &inputError{fmt.Errorf("%s has no [[rotation]], so there is nothing to rotate", s.fleet.Path)}
	}
	for _, role := range r.roles {
		if !slices.ContainsFunc(s.fleet.Rotations, func(x inventory.Rotation) bool { return x.Role == role }) {
			var names []string
			for _, x := range s.fleet.Rotations {
				names = append(names, x.Role)
			}
			return nil, nil, &inputError{fmt.Errorf("%s has no [[rotation]] of %q%s", s.fleet.Path, role, inventory.DidYouMean(role, names))}
		}
	}
	wanted = wholeClusters(s.fleet, wanted)
	if r.due {
		r.asked.DueAt = time.Now()
	}
	bound, errs := tasks.NewRotations(s.fleet, wanted, r.roles, r.asked, s.rotationOptions())
	if len(errs) > 0 {
		return nil, nil, &inputError{errs.Err()}
	}
	if err := s.holdSecrets(ctx, bound, true); err != nil {
		return nil, nil, &inputError{fmt.Errorf("secrets could not be read, so nothing was asked of any host:\n%w", err)}
	}
	wanted = slices.DeleteFunc(slices.Clone(wanted), func(in inventory.Instance) bool { return len(bound[in.ID()]) == 0 })
	if len(wanted) == 0 {
		return nil, nil, &inputError{errors.New("no rotation is for the instances that --limit means")}
	}
	s.run.StillHolds = func(ctx context.Context, in inventory.Instance) error { return s.stillHolds(ctx, bound[in.ID()]) }
	for _, list := range bound {
		for _, b := range list {
			s.run.Rotated = append(s.run.Rotated, b.Task.(*tasks.Rotation).Users()...)
		}
	}
	s.run.OneByOne, s.run.Stores, s.run.Redactor = true, s.secrets, s.app.ui.redactor
	known := s.survey(ctx, wanted, bound)
	if ctx.Err() != nil {
		return nil, nil, errInterrupted
	}
	known = lookAround(known, bound, r.asked.Force)
	for _, k := range known {
		if k.Plan != nil {
			k.Plan.Orphans = nil // no task was asked what it declares
		}
	}
	return known, bound, nil
}

// lookAround plans again with what was found of the other members of each cluster:
// a role that is not in use may have sessions there. A cluster of which a member
// cannot be asked is refused, or goes on without it by force: applications may reach
// it all the same, and nobody would have seen the new password log in there.
func lookAround(known []rollout.Known, bound map[inventory.InstanceID][]*tasks.Bound, force bool) []rollout.Known {
	var without []inventory.InstanceID
	for i := range known {
		k := &known[i]
		if k.State == nil || k.State.Role() != "primary" || k.Instance.Replication == "" {
			continue
		}
		var others []*tasks.State
		var missing []inventory.InstanceID
		for _, other := range known {
			switch {
			case other.Instance.ID() == k.Instance.ID() || other.Instance.Replication != k.Instance.Replication:
			case other.State == nil || other.State.Server() == nil:
				missing = append(missing, other.Instance.ID())
			default:
				others = append(others, other.State)
			}
		}
		for _, b := range bound[k.Instance.ID()] {
			b.Task.(*tasks.Rotation).See(others, missing)
		}
		if k.Err == nil || k.Plan == nil {
			k.Plan, k.Err = tasks.PlanInstance(k.Instance, k.State, bound[k.Instance.ID()])
		}
		switch {
		case len(missing) == 0 || k.Plan == nil || len(k.Plan.Steps) == 0:
		case force:
			without = append(without, missing...)
		default:
			k.Err = fmt.Errorf("%s of the same cluster cannot be asked, so a login there could not be proven, and nothing is begun; bring it back, take it out of fleet.toml, or go on without it with --force", missing[0])
		}
	}
	return slices.DeleteFunc(known, func(k rollout.Known) bool { return slices.Contains(without, k.Instance.ID()) })
}

func (s *session) rotationOptions() tasks.Options {
	return tasks.Options{Local: local(s.fleet, s.app.term.LookupEnv), CheckSecret: s.secrets.Check}
}

// wholeClusters adds the other members of the instances' clusters, in the order of
// the fleet: a password is changed on the primary and proven on all.
func wholeClusters(fleet *inventory.Fleet, some []inventory.Instance) []inventory.Instance {
	return slices.DeleteFunc(fleet.Instances(), func(in inventory.Instance) bool {
		return !slices.ContainsFunc(some, func(x inventory.Instance) bool {
			return x.ID() == in.ID() || in.Replication != "" && x.Replication == in.Replication
		})
	})
}

// holdSecrets reads what the stores hold of the rotations' secrets, each once.
func (s *session) holdSecrets(ctx context.Context, bound map[inventory.InstanceID][]*tasks.Bound, writable bool) error {
	read := map[secrets.Ref]tasks.Held{}
	var problems []error
	failed := map[secrets.Ref]bool{}
	for _, in := range s.fleet.Instances() {
		for _, b := range bound[in.ID()] {
			t := b.Task.(*tasks.Rotation)
			ref := t.Ref()
			h, ok := read[ref]
			if !ok && !failed[ref] {
				var err error
				if h, err = s.heldOf(ctx, ref, writable); err != nil {
					failed[ref] = true
					problems = append(problems, err)
				}
				read[ref] = h
			}
			t.Hold(h)
		}
	}
	return errors.Join(problems...)
}

// stillHolds reports whether the stores hold what the rotations were planned with: by
// the time that the lease is ours somebody else may have rotated.
func (s *session) stillHolds(ctx context.Context, bound []*tasks.Bound) error {
	for _, b := range bound {
		t := b.Task.(*tasks.Rotation)
		h, err := s.heldOf(ctx, t.Ref(), true)
		if err != nil {
			return fmt.Errorf("the secret could not be read again, so nothing was done: %w; pgfleet rotate again once it can", err)
		}
		if !t.Holds(h) {
			return fmt.Errorf("somebody else has changed the versions of %s since this was planned, so nothing was done; pgfleet rotate looks again", t.Ref())
		}
	}
	return nil
}

// heldOf reads the versions of a secret that a rotation is about.
func (s *session) heldOf(ctx context.Context, ref secrets.Ref, writable bool) (tasks.Held, error) {
	var h tasks.Held
	store, err := s.secrets.Store(ref.Store)
	if err != nil {
		return h, err
	}
	if _, err := s.secrets.WritableStore(ref.Store); err != nil && writable {
		return h, fmt.Errorf("%w: a rotation needs one that pgfleet can write to, such as age", err)
	}
	versions, err := store.Versions(ctx, ref.Path)
	if errors.Is(err, secrets.ErrNotFound) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	for _, v := range versions {
		if v.Stage == secrets.Retired {
			continue
		}
		e, err := store.Get(ctx, ref.Path, v.ID)
		if err != nil {
			return h, err
		}
		if value, ok := e.Keys[ref.Key]; ok {
			s.app.ui.redactor.Add(value)
		}
		switch v.Stage {
		case secrets.Current:
			h.Current = &e
		case secrets.Pending:
			h.Pending = &e
		case secrets.Previous:
			h.Previous = &e
		}
	}
	return h, nil
}

// dueRotations says which rotations are due, as a plan's last word. What a store does
// not tell is said too, and stops nothing.
func (s *session) dueRotations(ctx context.Context) []string {
	bound, errs := tasks.NewRotations(s.fleet, wholeClusters(s.fleet, s.instances), nil, tasks.Asked{}, s.rotationOptions())
	if len(errs) > 0 {
		return nil // they were reported
	}
	for id, list := range bound {
		bound[id] = slices.DeleteFunc(list, func(b *tasks.Bound) bool { return b.Task.(*tasks.Rotation).MaxAge == 0 })
	}
	var said []string
	if err := s.holdSecrets(ctx, bound, false); err != nil {
		said = append(said, "whether a rotation is due is not known: "+err.Error())
	}
	for _, in := range s.fleet.Instances() {
		for _, b := range bound[in.ID()] {
			if why := b.Task.(*tasks.Rotation).Due(time.Now()); why != "" && !slices.Contains(said, why) {
				said = append(said, why)
			}
		}
	}
	return said
}

// noneDue says that there is nothing to rotate.
func (x *applying) noneDue(fleet *inventory.Fleet) error {
	if x.asJSON {
		return x.app.ui.JSON(resultJSON(fleet, nil, nil))
	}
	x.app.ui.Print("no rotation is due")
	return nil
}

// resumed is what an earlier run was asked to rotate.
func resumed(r *journal.Run) *rotating {
	if r.Rotation == nil {
		return nil
	}
	return &rotating{roles: r.Rotation.Roles, due: r.Rotation.Due, asked: r.Rotation.Asked}
}

// rotationJournal is the other way round.
func (r *rotating) journal() *journal.Rotation {
	if r == nil {
		return nil
	}
	return &journal.Rotation{Roles: r.roles, Due: r.due, Asked: r.asked}
}

// command is how it is asked for again.
func (r rotating) command() string {
	words := append([]string{"pgfleet rotate"}, r.roles...)
	switch {
	case r.due:
		words = append(words, "--due")
	case len(r.roles) == 0:
		words = append(words, "--all")
	}
	if r.asked.Back {
		words = append(words, "--rollback")
	}
	return strings.Join(words, " ")
}
