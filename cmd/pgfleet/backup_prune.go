package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/backup"
)

func (a *app) backupPruneCommand() *cobra.Command {
	var dryRun, yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "prune [NAME]",
		Short: "Remove the sets that are older than those to be kept",
		Long: `Prune shows which sets go and why the others stay, asks, and removes them. Of each instance the newest good
sets stay, as many as keep says in fleet.toml. While the newest run failed, nothing goes. Only files
that a manifest lists are removed.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backupPrune(cmd.Context(), first(args), dryRun, yes, asJSON)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show it, and remove nothing")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what goes and stays as JSON; needs --dry-run or --yes")
	return cmd
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// completeBackup completes the names of backups.
func (a *app) completeBackup(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []cobra.Completion
	if fleet, err := a.load(); err == nil && len(args) == 0 {
		for _, b := range fleet.Backups {
			names = append(names, b.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

type pruneDocument struct {
	Format int             `json:"format"`
	Sets   []prunedSet     `json:"sets"`
	Errors []holdingFailed `json:"errors,omitempty"`
}

type prunedSet struct {
	Backup   string `json:"backup"`
	Instance string `json:"instance"`
	ID       string `json:"id"`
	Bytes    int64  `json:"bytes"`
	Goes     bool   `json:"goes"`
	Removed  bool   `json:"removed"`
	Reason   string `json:"reason"`
}

type holdingFailed struct {
	Backup   string `json:"backup"`
	Instance string `json:"instance"`
	Error    string `json:"error"`
}

func (a *app) backupPrune(ctx context.Context, name string, dryRun, yes, asJSON bool) error {
	if asJSON && !dryRun && !yes {
		return &inputError{errors.New("--json: nobody is asked; add --dry-run or --yes")}
	}
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	backups, err := backupsNamed(s.fleet, name)
	if err != nil {
		return err
	}
	holdings := a.holdings(ctx, s, backups)
	now := time.Now()
	doc := pruneDocument{Format: jsonFormat, Sets: []prunedSet{}}
	type removal struct {
		h   *holding
		set *backup.Set
		row int
	}
	var due []removal
	var failed []failure
	for i := range holdings {
		h := &holdings[i]
		if h.err != nil {
			failed = append(failed, failure{h.instance, h.err})
			doc.Errors = append(doc.Errors, holdingFailed{h.backup.Name, string(h.instance), h.err.Error()})
			continue
		}
		for _, v := range backup.Retain(h.sets, h.backup.Keep, now, func(set *backup.Set) bool { return h.unit != nil && h.unit.running() && set == &h.sets[len(h.sets)-1] }) {
			if v.Delete {
				due = append(due, removal{h, v.Set, len(doc.Sets)})
			}
			doc.Sets = append(doc.Sets, prunedSet{h.backup.Name, string(h.instance), v.Set.ID, v.Set.Bytes(), v.Delete, false, v.Reason})
		}
	}
	if !asJSON {
		a.ui.Print(pruneTable(doc.Sets, a.ui.style))
	}
	if len(due) > 0 && !dryRun {
		if err := a.confirm(ctx, yes, fmt.Sprintf("Remove %s?", count(len(due), "set", "sets")), "nothing was removed"); err != nil {
			return err
		}
		for _, r := range due {
			if ctx.Err() != nil {
				failed = append(failed, failure{r.h.instance, errors.New("interrupted; the rest stays")})
				break
			}
			if err := r.h.target.Remove(ctx, r.set.Removable()...); err != nil {
				failed = append(failed, failure{r.h.instance, err})
				continue
			}
			doc.Sets[r.row].Removed = true
		}
	}
	if asJSON {
		if err := a.ui.JSON(doc); err != nil {
			return err
		}
	} else {
		a.ui.Print(pruneSummary(doc.Sets, dryRun))
	}
	return a.failures(failed)
}

func pruneTable(sets []prunedSet, st style) string {
	rows := [][]string{{st.bold("BACKUP"), st.bold("INSTANCE"), st.bold("SET"), st.bold("SIZE"), st.bold(""), st.bold("WHY")}}
	for _, x := range sets {
		word := "stays"
		if x.Goes {
			word = st.yellow("goes")
		}
		rows = append(rows, []string{clean(x.Backup), clean(x.Instance), x.ID, bytesText(x.Bytes), word, clean(x.Reason)})
	}
	return columns(rows)
}

func pruneSummary(sets []prunedSet, dryRun bool) string {
	var goes, removed int
	var bytes int64
	for _, x := range sets {
		if x.Goes {
			goes++
			bytes += x.Bytes
		}
		if x.Removed {
			removed++
		}
	}
	switch {
	case goes == 0:
		return fmt.Sprintf("%s; nothing is to be removed", count(len(sets), "set", "sets"))
	case dryRun:
		return fmt.Sprintf("%d of %s would be removed, %s", goes, count(len(sets), "set", "sets"), bytesText(bytes))
	}
	return fmt.Sprintf("%d of %s removed", removed, count(len(sets), "set was", "sets were"))
}

// confirm asks before something is done that cannot be undone.
func (a *app) confirm(ctx context.Context, yes bool, question, otherwise string) error {
	if yes {
		return nil
	}
	if !a.ui.Interactive() {
		return &inputError{errors.New(otherwise + ": there is nobody to ask; add --yes")}
	}
	answer, err := a.ui.Ask(ctx, "\n"+question+" Only 'yes' is taken for a yes: ")
	if err != nil {
		return err
	}
	if answer != "yes" {
		return errors.New(otherwise)
	}
	return nil
}
