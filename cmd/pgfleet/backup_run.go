package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) backupRunCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "run [NAME]",
		Short: "Make backups now",
		Long: `Run makes the backups of that name, all without one, and shows how far they are.

Where the host makes the backup itself (to.path) run starts the unit that its timer starts, and follows it. Ctrl-C ends the following, and
not the backup. Every other backup comes over this connection to where it is kept: Ctrl-C ends it, and then there is no good set of it.`,
		Example: `  pgfleet backup run
  pgfleet backup run nightly -l eu --yes`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backupRun(cmd.Context(), first(args), yes)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) backupRun(ctx context.Context, name string, yes bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	backups, err := backupsNamed(s.fleet, name)
	if err != nil {
		return err
	}
	var runs []hostedRun
	var pulled []pulledRun
	for _, b := range backups {
		if !b.Hosted() {
			more, err := a.pulledRuns(s, b)
			if err != nil {
				return err
			}
			pulled = append(pulled, more...)
			continue
		}
		for _, in := range s.instances {
			if b.Means(in) {
				runs = append(runs, hostedRun{backup: b, instance: in})
			}
		}
	}
	if len(runs)+len(pulled) == 0 {
		return &inputError{errors.New("no instance is meant that the backup is of")}
	}
	if err := a.confirm(ctx, yes, fmt.Sprintf("Make %s?", count(len(runs)+len(pulled), "backup", "backups")), "nothing was begun"); err != nil {
		return err
	}
	if len(runs) > 0 {
		a.followHosted(ctx, s, runs)
	}
	if len(pulled) > 0 {
		a.pull(ctx, s, pulled)
	}
	return a.runOutcome(runs, pulled)
}

// runOutcome prints what came of runs.
func (a *app) runOutcome(runs []hostedRun, pulled []pulledRun) error {
	var failed []failure
	for i := range runs {
		if err := runs[i].Err; err != nil {
			failed = append(failed, failure{runs[i].instance.ID(), err})
			continue
		}
		a.ui.Print(hostedText(&runs[i]))
	}
	for i := range pulled {
		if err := pulled[i].err; err != nil {
			failed = append(failed, failure{pulled[i].instance.ID(), err})
			continue
		}
		a.ui.Print(pulledText(&pulled[i]))
	}
	return a.failures(failed)
}
