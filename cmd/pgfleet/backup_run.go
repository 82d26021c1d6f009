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
		Long: `Run starts the unit that makes the backup on each host, as its timer does, and follows it. Ctrl-C ends the following, and
not the backup.`,
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
	for _, b := range backups {
		if !b.Hosted() {
			return &inputError{fmt.Errorf("%s: backup %s is not made by the hosts themselves", b.Pos, b.Name)}
		}
		for _, in := range s.instances {
			if b.Means(in) {
				runs = append(runs, hostedRun{backup: b, instance: in})
			}
		}
	}
	if len(runs) == 0 {
		return &inputError{errors.New("no instance is meant that the backup is of")}
	}
	if err := a.confirm(ctx, yes, fmt.Sprintf("Make %s?", count(len(runs), "backup", "backups")), "nothing was begun"); err != nil {
		return err
	}
	a.followHosted(ctx, s, runs)
	return a.hostedOutcome(runs)
}

// hostedOutcome prints what came of runs.
func (a *app) hostedOutcome(runs []hostedRun) error {
	var failed []failure
	for i := range runs {
		if err := runs[i].Err; err != nil {
			failed = append(failed, failure{runs[i].instance.ID(), err})
			continue
		}
		a.ui.Print(hostedText(&runs[i]))
	}
	return a.failures(failed)
}
