package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

func (a *app) secretsRekeyCommand() *cobra.Command {
	var yes, force bool
	cmd := &cobra.Command{
		Use:   "rekey [PATH...]",
		Short: "Encrypt the age store's secrets anew, for the recipients in fleet.toml",
		Long: `Rekey shows which recipients come and go, asks, and encrypts those secrets anew
that other recipients can open than fleet.toml has; all of the store, or those
named. Each file is replaced whole. When rekey is interrupted, run it again: it
goes on with what is left.

Whoever could open a secret knows it, and has old files in version control.
Rekey names the secrets that should be changed because somebody is gone.`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeAgePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.secretsRekey(cmd.Context(), args, yes, force)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "encrypt also what has the right recipients")
	return cmd
}

// A staleSecret is one to be encrypted anew.
type staleSecret struct {
	path   string
	access secrets.Access
}

func (s staleSecret) name() string { return secrets.Ref{Store: "age", Path: s.path}.String() }

func (a *app) secretsRekey(ctx context.Context, names []string, yes, force bool) error {
	store, err := a.ageStore(ctx)
	if err != nil {
		return err
	}
	if err := store.CheckRecipients(); err != nil {
		return &inputError{fmt.Errorf("nothing was written: %w", err)}
	}
	paths, err := rekeyPaths(ctx, store, names)
	if err != nil {
		return err
	}
	var due []staleSecret
	var failed []error
	for _, path := range paths {
		access, err := store.Access(ctx, path)
		switch {
		case errors.Is(err, secrets.ErrNotFound):
			return &inputError{err}
		case err != nil:
			failed = append(failed, err)
		case force || access.Stale():
			due = append(due, staleSecret{path, access})
		}
	}
	if len(due) == 0 {
		if len(failed) == 0 {
			a.ui.Print(fmt.Sprintf("%s: the recipients are those in fleet.toml; nothing to do", count(len(paths), "secret", "secrets")))
		}
		return errors.Join(failed...)
	}
	a.ui.Print(rekeyPlan(due, len(paths)))
	for _, err := range failed {
		a.ui.Note("pgfleet: " + clean(err.Error()))
	}
	if err := a.confirmRekey(ctx, yes); err != nil {
		return err
	}
	done, err := rekey(ctx, store, due)
	if len(done) > 0 {
		a.ui.Print(count(len(done), "secret was", "secrets were") + " encrypted anew\n" + toBeChanged(done))
	}
	if err != nil {
		return fmt.Errorf("%w\n%d of %d are left: run rekey again", err, len(due)-len(done), len(due))
	}
	if len(failed) > 0 {
		return fmt.Errorf("%s as before, because %s", count(len(failed), "secret is", "secrets are"), count(len(failed), "file could not be opened", "files could not be opened"))
	}
	return nil
}

// rekeyPaths returns the paths of the secrets that are named, all if none is.
func rekeyPaths(ctx context.Context, store *secrets.AgeStore, names []string) ([]string, error) {
	if len(names) == 0 {
		paths, err := store.List(ctx)
		if err == nil && len(paths) == 0 {
			err = &inputError{errors.New("there are no secrets in the age store")}
		}
		return paths, err
	}
	var paths []string
	for _, name := range names {
		ref, err := secrets.ParseRef("age:" + strings.TrimPrefix(name, "age:"))
		if err == nil && (ref.Key != "" || ref.Version != "") {
			err = fmt.Errorf("secret %v: a file is encrypted as a whole: leave #KEY and @VERSION out", ref)
		}
		if err != nil {
			return nil, &inputError{err}
		}
		paths = append(paths, ref.Path)
	}
	return paths, nil
}

// rekeyPlan says what becomes of whom.
func rekeyPlan(due []staleSecret, of int) string {
	var rows [][]string
	for _, s := range due {
		name := clean(s.name())
		say := func(text string) {
			rows = append(rows, []string{name, clean(text)})
			name = ""
		}
		for _, r := range s.access.Added {
			say("+ " + secrets.ShortRecipient(r))
		}
		for _, r := range s.access.Removed {
			say("- " + secrets.ShortRecipient(r))
		}
		if s.access.Foreign {
			say("? something else than pgfleet has encrypted it; who can open it is not known")
		}
		if !s.access.Stale() {
			say("  the same recipients")
		}
	}
	return columns(rows) + fmt.Sprintf("%d of %s to be encrypted anew", len(due), count(of, "secret", "secrets"))
}

func (a *app) confirmRekey(ctx context.Context, yes bool) error {
	if yes {
		return nil
	}
	if !a.ui.Interactive() {
		return &inputError{errors.New("nothing was written: there is nobody to ask; add --yes")}
	}
	answer, err := a.ui.Ask(ctx, "\nEncrypt them anew? Only 'yes' is taken for a yes: ")
	if err != nil {
		return err
	}
	if answer != "yes" {
		return errors.New("nothing was written")
	}
	return nil
}

// rekey goes on after an error of one secret, and ends when it is interrupted.
func rekey(ctx context.Context, store *secrets.AgeStore, due []staleSecret) (done []staleSecret, err error) {
	var failed []error
	for _, s := range due {
		if ctx.Err() != nil {
			failed = append(failed, errors.New("interrupted"))
			break
		}
		if err := store.Rekey(ctx, s.path); err != nil {
			failed = append(failed, err)
			continue
		}
		done = append(done, s)
	}
	return done, errors.Join(failed...)
}

// toBeChanged names the secrets that are known to somebody who should not know them
// any more; nothing if nobody is gone.
func toBeChanged(done []staleSecret) string {
	var b strings.Builder
	for _, s := range done {
		var who []string
		for _, r := range s.access.Removed {
			who = append(who, clean(secrets.ShortRecipient(r)))
		}
		if s.access.Foreign {
			who = append(who, "whoever it was encrypted for before")
		}
		if len(who) > 0 {
			fmt.Fprintf(&b, "  %s  known to %s\n", clean(s.name()), strings.Join(who, ", "))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "\nWhoever could open a secret knows it, and can still open the old files, which version control keeps.\n" +
		"To keep these from who is gone, change them on the servers and here:\n" + b.String()
}
