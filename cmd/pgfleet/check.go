package main

import (
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
		RunE: func(*cobra.Command, []string) error { return a.check() },
	}
}

func (a *app) check() error {
	fleet, err := a.load()
	if err != nil {
		return err
	}
	_, mistakes := tasks.Expand(fleet, fleet.Instances(), tasks.Options{Local: local(fleet, a.term.LookupEnv)})
	_, more := tasks.NewRotations(fleet, fleet.Instances(), nil, tasks.Asked{}, local(fleet, a.term.LookupEnv))
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
