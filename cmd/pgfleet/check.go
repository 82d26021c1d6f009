package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/tasks"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Find mistakes in fleet.toml; nobody is dialled",
		Long: `Check reads fleet.toml and what it includes, renders every task for every instance
it is for, and reports all mistakes at once, each with file, line and column.
Files that tasks name are read; secrets are not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.check(cmd.Context()) },
	}
}

func (a *app) check(ctx context.Context) error {
	fleet, err := a.load()
	if err != nil {
		return err
	}
	resolver, err := a.newResolver(ctx, fleet, nil)
	if err != nil {
		return &inputError{err}
	}
	options := tasks.Options{Local: local(fleet, a.term.LookupEnv), CheckSecret: resolver.Check}
	_, mistakes := tasks.Expand(fleet, fleet.Instances(), options)
	_, more := tasks.NewRotations(fleet, fleet.Instances(), nil, tasks.Asked{}, options)
	if mistakes = append(mistakes, more...).Sorted(); len(mistakes) > 0 {
		return &inputError{mistakes}
	}
	if _, err := a.selector(fleet); err != nil {
		return err
	}
	instances := ""
	if n := len(fleet.Instances()); n != len(fleet.Hosts) {
		instances = ", " + count(n, "instance", "instances")
	}
	a.ui.Print(fmt.Sprintf("%s: ok, %s%s, %s", fleet.Path, count(len(fleet.Hosts), "host", "hosts"), instances, count(len(fleet.Tasks), "task", "tasks")))
	return nil
}
