package main

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/journal"
)

func (a *app) runsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "Show what earlier runs did, and go on with one",
		Long: `Every apply that changes something keeps a journal on this machine, in
$XDG_STATE_HOME/pgfleet/runs or ~/.local/state/pgfleet/runs: who, when, what was
planned for each host, and what came of it. RUN is the run's ID, or as much of its
beginning as no other run has.`,
		Example: `  pgfleet runs list
  pgfleet runs show 20261126T035500-k3f9
  pgfleet runs resume 20261126T0355
  pgfleet runs retry --failed
  pgfleet runs undo 20261126T0355`,
		Args: a.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.runsListCommand(), a.runsShowCommand(), a.runsResumeCommand(), a.runsRetryCommand(), a.runsUndoCommand())
	return cmd
}

func (a *app) runsListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the runs, the newest first",
		Long: `List shows the runs of all fleets, the newest first. With -f only those of that
fleet.toml.

How a run ended: done, failed (a host failed, was refused or could not be asked),
stopped, or died (its process ended before the run did). One that is running says
so, and a journal that somebody has changed is damaged.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runsList(a.fleetFile(cmd), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

// fleetFile is the value of -f; "" if it was not given.
func (a *app) fleetFile(cmd *cobra.Command) string {
	if cmd.Flags().Changed("fleet") {
		return a.fleet
	}
	return ""
}

type runDocument struct {
	Run       string          `json:"run"`
	Outcome   journal.Outcome `json:"outcome"`
	Began     time.Time       `json:"began"`
	Last      time.Time       `json:"last"` // record
	Command   string          `json:"command"`
	Resumes   string          `json:"resumes,omitempty"`
	Who       string          `json:"who"`
	Fleet     string          `json:"fleet"`
	File      string          `json:"file"`
	Instances int             `json:"instances"`
	Changed   int             `json:"changed"`
	Failed    int             `json:"failed"`
}

func (a *app) runsList(file string, asJSON bool) error {
	loaded, err := a.loadRuns(file)
	if err != nil {
		return err
	}
	rows := [][]string{{"RUN", "BEGAN", "WHO", "FLEET", "HOSTS", "CHANGED", "FAILED", "OUTCOME"}}
	list := []runDocument{}
	for _, r := range loaded {
		changed, failed := r.Changed(), len(r.Those(journal.Instance.Failed))
		rows = append(rows, []string{
			r.ID, localTime(r.Began), clean(r.Who), clean(r.Fleet), strconv.Itoa(len(r.Hosts)), strconv.Itoa(changed), strconv.Itoa(failed), string(r.Outcome),
		})
		list = append(list, runDocument{
			r.ID, r.Outcome, r.Began, r.Last, r.Command, r.Resumes, r.Who, r.Fleet, r.File, len(r.Hosts), changed, failed,
		})
	}
	if asJSON {
		return a.ui.JSON(struct {
			Format int           `json:"format"`
			Runs   []runDocument `json:"runs"`
		}{jsonFormat, list})
	}
	if len(list) == 0 {
		a.ui.Note("no run has changed anything yet")
		return nil
	}
	a.ui.Print(columns(rows))
	return nil
}

// loadRuns reads all journals, the newest first. What is wrong with one is said,
// and hides no other.
func (a *app) loadRuns(file string) ([]*journal.Run, error) {
	folder, err := journal.In(a.term.LookupEnv)
	if err != nil {
		return nil, err
	}
	ids, err := folder.Runs()
	if err != nil {
		return nil, err
	}
	var list []*journal.Run
	for _, id := range ids {
		r, err := folder.Load(id)
		if err != nil {
			a.ui.Note("pgfleet: " + clean(err.Error()))
		}
		if r == nil {
			r = &journal.Run{ID: id, Outcome: journal.Damaged}
		}
		if file == "" || sameFile(file, r.File) {
			list = append(list, r)
		}
	}
	// Two that began in the same second have IDs in any order.
	slices.SortStableFunc(list, func(x, y *journal.Run) int { return y.Began.Compare(x.Began) })
	return list, nil
}

// findRun reads the journal of the run whose ID begins so. That of a damaged one
// comes with its error.
func (a *app) findRun(prefix string) (*journal.Run, error) {
	folder, err := journal.In(a.term.LookupEnv)
	if err != nil {
		return nil, err
	}
	id, err := folder.Find(prefix)
	if err != nil {
		return nil, &inputError{err}
	}
	return folder.Load(id)
}

// localTime writes a time for a person.
func localTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// completeRun completes the first argument, a run's ID.
func (a *app) completeRun(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	folder, err := journal.In(a.term.LookupEnv)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ids, _ := folder.Runs()
	return matching(ids, typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// oneRun wants the run's ID as the only argument.
func oneRun(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return errors.New("which run? pgfleet runs list shows them")
	case 1:
		return nil
	}
	return errors.New("one run at a time")
}
