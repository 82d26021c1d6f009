package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

func (a *app) planCommand() *cobra.Command {
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what apply would change, per host; changes nothing",
		Long: `Plan asks every host what its tasks have to know, and shows what is due, with
diffs. It only reads. What is the same for several hosts is shown once.

  +  is created   ~  is changed   -  is removed   !  the server restarts, or something is lost
  >  runs at every apply, and is not counted
  ?  is checked, and changes nothing, or is decided while applying
  <  comes by replication from the primary`,
		Example: `  pgfleet plan -l eu --tags hba
  pgfleet plan --out friday.plan && pgfleet apply friday.plan
  pgfleet plan --detailed-exitcode    exits 0 when nothing is due, 2 when changes are, 1 after an error`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.plan(cmd.Context(), out, asJSON)
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "save the plan to a `file`, for apply")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the plan as JSON")
	cmd.Flags().BoolVar(&a.detailed, "detailed-exitcode", false, "exit with 2 when changes are due, and with 1 after any error")
	return cmd
}

func (a *app) plan(ctx context.Context, out string, asJSON bool) error {
	var digester *secrets.Digester
	if out != "" {
		var err error
		if digester, err = newDigester(); err != nil {
			return err
		}
	}
	s, err := a.open(ctx, digester)
	if err != nil {
		return err
	}
	defer s.Close()
	known, bound, err := s.plan(ctx, s.instances, s.instances, a.tags)
	if err != nil {
		return err
	}
	s.lookBeside(ctx, known)
	if asJSON {
		if err := a.ui.JSON(planJSON(s.fleet, known, s.beside...)); err != nil {
			return err
		}
	} else {
		a.showPlan(s, known)
		s.showLeases(known)
	}
	if out != "" {
		if err := s.save(ctx, out, known, bound, digester); err != nil {
			return err
		}
		a.ui.Note("the plan is saved; carry it out with: pgfleet apply " + transport.Word(out))
	}
	for _, why := range append(s.dueRotations(ctx), s.dueCerts(ctx)...) {
		a.ui.Note(clean(why))
	}
	return a.planned(known)
}

var errInterrupted = errors.New("interrupted; nothing was changed")

// showPlan prints what is due and a summary.
func (a *app) showPlan(s *session, known []rollout.Known) {
	text := renderPlans(known, a.ui.style, a.verbose)
	if text != "" {
		text += "\n"
	}
	a.ui.Print(text + renderWaves(s.fleet, s.withBeside(known), a.ui.style) + renderPlanSummary(known, a.ui.style))
}

// planned says how planning ended.
func (a *app) planned(known []rollout.Known) error {
	due := false
	for _, k := range known {
		if k.Err != nil {
			return errHostFailed
		}
		due = due || len(k.Plan.Changes()) > 0 || undecided(k.Plan)
	}
	if due && a.detailed {
		return errChangesDue
	}
	return nil
}

// save writes a plan file.
func (s *session) save(ctx context.Context, path string, known []rollout.Known, bound map[inventory.InstanceID][]*tasks.Bound, d *secrets.Digester) error {
	plan, err := rollout.Save(known, d, s.app.mask)
	if err != nil {
		return err
	}
	plan.Pgfleet, plan.Fleet, plan.Tags = version(), s.fleet.Name, s.app.tags
	seen := map[secrets.Ref]bool{}
	for _, in := range s.instances {
		for _, b := range bound[in.ID()] {
			for _, ref := range b.Secrets {
				if seen[ref] {
					continue
				}
				seen[ref] = true
				_, version, err := s.secrets.Resolve(ctx, ref)
				if err != nil {
					return &inputError{err}
				}
				plan.Secrets = append(plan.Secrets, ref.At(version))
			}
		}
	}
	if err := plan.Write(path); err != nil {
		return &inputError{fmt.Errorf("the plan could not be saved: %w", err)}
	}
	return nil
}

// mask hides what must not be in a file.
func (a *app) mask(text string) string {
	return a.ui.redactor.String(secrets.MaskPlaceholders(text))
}
