package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

func (a *app) secretsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secrets",
		Short: "Read and write the secrets that fleet.toml names",
		Long: `A secret is named as fleet.toml names it: STORE:PATH#KEY, or STORE:PATH#KEY@VERSION
for another version than the current one. Nobody is dialled: a server gets a value
that was written here with the next apply.`,
		Example: `  pgfleet secrets list
  pgfleet secrets get age:prod/appuser#password
  pgfleet secrets set age:prod/appuser#password --generate
  pgfleet secrets edit age:prod/appuser
  pgfleet secrets rekey`,
		Args: a.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.secretsGetCommand(), a.secretsSetCommand(), a.secretsEditCommand(),
		a.secretsListCommand(), a.secretsPromoteCommand(), a.secretsRekeyCommand())
	return cmd
}

func (a *app) secretsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get STORE:PATH[#KEY][@VERSION]...",
		Short: "Print the value of a secret, or of several",
		Long: `Get prints the value to standard output, every byte as it is; on a terminal a
newline follows. Without #KEY the secret must have one key only. VERSION is a
version's ID, or current, pending or previous.

Of several, each value is a line. Those of one secret are of one version: a user's
name and password fit each other, also while they are being rotated.`,
		Example: `  pgfleet secrets get age:prod/appuser#password
  pgfleet secrets get age:prod/appuser#username age:prod/appuser#password`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return nil
			}
			return oneSecret(cmd, args)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return a.completeSecret(cmd, nil, typed)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.secretsGet(cmd.Context(), args) },
	}
}

func (a *app) secretsGet(ctx context.Context, names []string) error {
	var refs []secrets.Ref
	for _, name := range names {
		ref, err := secrets.ParseRef(name)
		if err != nil {
			return &inputError{err}
		}
		refs = append(refs, ref)
	}
	resolver, err := a.secretStores(ctx)
	if err != nil {
		return err
	}
	entries := map[secrets.Ref]secrets.Entry{} // without keys: each is read once
	var lines []byte
	for _, ref := range refs {
		store, err := resolver.Store(ref.Store)
		if err != nil {
			return &inputError{fmt.Errorf("secret %v: %w", ref, err)}
		}
		whole := secrets.Ref{Store: ref.Store, Path: ref.Path, Version: ref.Version}
		entry, ok := entries[whole]
		if !ok {
			// Past the Resolver, which has all keys masked in what is printed: a user's name
			// among them would be masked in the name of the secret.
			if entry, err = store.Get(ctx, ref.Path, ref.Version); err != nil {
				return &inputError{err}
			}
			entries[whole] = entry
		}
		value, err := entry.Value(ref.Key)
		if err != nil {
			return &inputError{&secrets.Error{Store: ref.Store, Path: ref.Path, Err: err}}
		}
		if len(refs) == 1 {
			return a.ui.Value(value)
		}
		if bytes.ContainsRune(value.Expose(), '\n') {
			return &inputError{fmt.Errorf("secret %v: its value has several lines; get it alone", ref)}
		}
		lines = append(append(lines, value.Expose()...), '\n')
	}
	return a.ui.Value(secrets.New(lines))
}

// secretStores returns the stores of the fleet.
func (a *app) secretStores(ctx context.Context) (*secrets.Resolver, error) {
	fleet, err := a.load()
	if err != nil {
		return nil, err
	}
	resolver, err := a.newResolver(ctx, fleet, nil)
	if err != nil {
		return nil, &inputError{err}
	}
	return resolver, nil
}

// ageStore returns the store of encrypted files.
func (a *app) ageStore(ctx context.Context) (*secrets.AgeStore, error) {
	resolver, err := a.secretStores(ctx)
	if err != nil {
		return nil, err
	}
	store, err := resolver.Store("age")
	if err != nil {
		return nil, err
	}
	age, ok := store.(*secrets.AgeStore)
	if !ok {
		return nil, errors.New("the store age is not one of encrypted files")
	}
	return age, nil
}

// A target is a secret that is to be written to.
type target struct {
	store secrets.WritableStore
	ref   secrets.Ref
	now   secrets.Entry // the current version; nothing if there is none
}

// name is the secret without its key.
func (t target) name() string { return secrets.Ref{Store: t.ref.Store, Path: t.ref.Path}.String() }

// ifCurrent is what [secrets.Change.IfCurrent] has to be, so that what somebody
// else writes in the meantime is not lost.
func (t target) ifCurrent() string {
	if t.now.Keys == nil {
		return secrets.NoVersion
	}
	return t.now.ID
}

// openTarget finds the secret, and refuses one that a rotation may be at work on.
func (a *app) openTarget(ctx context.Context, ref secrets.Ref, replace bool) (target, error) {
	t := target{ref: ref}
	resolver, err := a.secretStores(ctx)
	if err != nil {
		return t, err
	}
	if t.store, err = resolver.WritableStore(ref.Store); err != nil {
		return t, &inputError{fmt.Errorf("secret %v: %w", ref, err)}
	}
	if t.now, err = t.store.Get(ctx, ref.Path, ""); err != nil && !errors.Is(err, secrets.ErrNotFound) {
		return t, &inputError{err}
	}
	versions, err := t.store.Versions(ctx, ref.Path)
	if err != nil && !errors.Is(err, secrets.ErrNotFound) {
		return t, &inputError{err}
	}
	pending := slices.IndexFunc(versions, func(v secrets.Version) bool { return v.Stage == secrets.Pending })
	if pending >= 0 && !replace {
		return t, t.pendingError(versions[pending].ID)
	}
	return t, nil
}

// pendingError says what to do about a pending version.
func (t target) pendingError(id string) error {
	return &inputError{&secrets.Error{
		Store: t.ref.Store, Path: t.ref.Path, Err: fmt.Errorf("%w (%s)", secrets.ErrPending, id),
		Hint: fmt.Sprintf("a rotation may be giving it to servers: let that end. If there is none, \"pgfleet secrets promote %s@%s\" takes it, and \"pgfleet secrets set --replace-pending\" drops it", t.name(), id),
	}}
}

// write makes a new version current and returns its ID.
func (a *app) write(ctx context.Context, t target, c secrets.Change) (string, error) {
	c.IfCurrent = t.ifCurrent()
	id, err := t.store.Put(ctx, t.ref.Path, c)
	if err != nil {
		// A server may send back what it refuses.
		a.ui.redactor.Add(slices.Collect(maps.Values(c.Set))...)
	}
	if errors.Is(err, secrets.ErrPending) {
		return "", t.pendingError(string(secrets.Pending))
	}
	if errors.Is(err, secrets.ErrConflict) {
		return "", fmt.Errorf("%w; nothing was written: look at it, and do it again", err)
	}
	if err != nil {
		return "", secretError(err)
	}
	if err := t.store.Promote(ctx, t.ref.Path, id); err != nil {
		return "", fmt.Errorf("version %s is written and pending; \"pgfleet secrets promote %s@%s\" makes it the current one: %w", id, t.name(), id, err)
	}
	return id, nil
}

// became says which version is current.
func (t target) became(id string) string {
	if t.now.ID == "" {
		return fmt.Sprintf("version %s is current", id)
	}
	return fmt.Sprintf("version %s is current, %s the previous one", id, t.now.ID)
}

// secretError makes what the user has to mend an inputError.
func secretError(err error) error {
	for _, theirs := range []error{secrets.ErrNotFound, secrets.ErrPending, secrets.ErrReadOnly} {
		if errors.Is(err, theirs) {
			return &inputError{err}
		}
	}
	return err
}

func (a *app) secretsPromoteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "promote STORE:PATH@VERSION",
		Short: "Make another version of a secret the current one",
		Long: `Promote makes a version the current one and what was current the previous one: to
take back a value that was written by mistake (@previous), or to take a pending
one whose writer has died (@pending). All keys of the secret change with it. It
changes the store alone: what a server has got meanwhile does not go back with it.`,
		Example: `  pgfleet secrets promote age:prod/appuser@previous
  pgfleet secrets promote age:prod/appuser@3`,
		Args:              oneSecret,
		ValidArgsFunction: a.completeSecret,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.secretsPromote(cmd.Context(), args[0]) },
	}
}

func (a *app) secretsPromote(ctx context.Context, name string) error {
	ref, err := secrets.ParseRef(name)
	if err == nil && ref.Key != "" {
		err = fmt.Errorf("secret %v: a version holds all keys of the secret: leave #KEY out", ref)
	}
	if err == nil && ref.Version == "" {
		err = fmt.Errorf("secret %v: which version? Add @VERSION; pgfleet secrets list %v shows them", ref, ref)
	}
	if err != nil {
		return &inputError{err}
	}
	t, err := a.openTarget(ctx, ref, true)
	if err != nil {
		return err
	}
	versions, err := t.store.Versions(ctx, ref.Path)
	if err != nil {
		return secretError(err)
	}
	i := slices.IndexFunc(versions, func(v secrets.Version) bool {
		return v.ID == ref.Version || v.Stage != secrets.Retired && string(v.Stage) == ref.Version
	})
	if i < 0 {
		return &inputError{&secrets.Error{Store: ref.Store, Path: ref.Path, Err: fmt.Errorf("version %s %w", ref.Version, secrets.ErrNotFound)}}
	}
	id := versions[i].ID
	if id == t.now.ID {
		a.ui.Print(fmt.Sprintf("%s: version %s is the current one already", t.name(), id))
		return nil
	}
	if err := t.store.Promote(ctx, ref.Path, id); err != nil {
		return secretError(err)
	}
	a.ui.Print(t.name() + ": " + t.became(id))
	return nil
}

// oneSecret wants a secret's name as the only argument. It quotes no other: that
// may be a value.
func oneSecret(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return errors.New("which secret? It is named STORE:PATH#KEY; pgfleet secrets list shows those of the age store")
	case 1:
		return nil
	}
	return errors.New("one secret at a time, and never its value, which others can see in a command line")
}

// completeSecret completes the first argument. Nothing is decrypted for it.
func (a *app) completeSecret(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	if len(args) > 0 {
		return nil, directive
	}
	var names []string
	for _, path := range a.agePaths(cmd.Context()) {
		names = append(names, secrets.Ref{Store: "age", Path: path}.String())
	}
	return matching(names, typed), directive
}

// completeAgePath completes arguments that are paths of the age store.
func (a *app) completeAgePath(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	left := slices.DeleteFunc(a.agePaths(cmd.Context()), func(path string) bool { return slices.Contains(args, path) })
	return matching(left, typed), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) agePaths(ctx context.Context) []string {
	resolver, err := a.newResolver(ctx, a.known(), nil)
	if err != nil {
		return nil
	}
	store, err := resolver.Store("age")
	if err != nil {
		return nil
	}
	l, ok := store.(lister)
	if !ok {
		return nil
	}
	paths, _ := l.List(ctx) // less is offered
	return paths
}

// A lister is a store that knows which secrets it has.
type lister interface {
	List(ctx context.Context) ([]string, error)
}
