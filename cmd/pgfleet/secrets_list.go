package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

func (a *app) secretsListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [STORE:[PATH]]",
		Short: "Show secrets, their keys and versions, and who can open them",
		Long: `List shows the secrets of the age store, or the one at PATH of any store. No value
is shown.

Who can open a secret is as many recipients as RECIPIENTS says. Where these are
not those in fleet.toml, it says how many rekey will add (+) and remove (-); with
--json, which. A secret that something else than pgfleet has encrypted shows a ?.`,
		Example: `  pgfleet secrets list
  pgfleet secrets list age:prod/appuser`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSecret,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "age:"
			if len(args) == 1 {
				what = args[0]
			}
			return a.secretsList(cmd.Context(), what, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

type secretDocument struct {
	Secret   string            `json:"secret"`
	Keys     []string          `json:"keys"` // of the current version, or of the newest if there is none
	Versions []versionDocument `json:"versions"`
	Access   *accessDocument   `json:"access,omitempty"`
	Error    string            `json:"error,omitempty"`
	err      error
}

type versionDocument struct {
	ID      string     `json:"id"`
	Stage   string     `json:"stage"`
	Created *time.Time `json:"created,omitempty"`
}

type accessDocument struct {
	Recipients []string `json:"recipients"`
	Added      []string `json:"added"`
	Removed    []string `json:"removed"`
	Known      bool     `json:"known"` // pgfleet has encrypted it
	Current    bool     `json:"current"`
}

func (a *app) secretsList(ctx context.Context, what string, asJSON bool) error {
	resolver, err := a.secretStores(ctx)
	if err != nil {
		return err
	}
	store, paths, err := listed(ctx, resolver, what)
	if err != nil {
		return err
	}
	list := []secretDocument{}
	for _, path := range paths {
		list = append(list, describe(ctx, store, path))
	}
	if asJSON {
		err = a.ui.JSON(struct {
			Format  int              `json:"format"`
			Secrets []secretDocument `json:"secrets"`
		}{jsonFormat, list})
	} else {
		a.printSecrets(what, list)
	}
	var failed []error
	for _, d := range list {
		// That some secrets are not for everybody is no failure.
		if d.err != nil && !errors.Is(d.err, age.ErrIncorrectIdentity) {
			failed = append(failed, d.err)
		}
	}
	return errors.Join(append(failed, err)...)
}

// listed returns the store and the paths that are meant by STORE:, or by the name
// of one secret.
func listed(ctx context.Context, resolver *secrets.Resolver, what string) (secrets.Store, []string, error) {
	name, isStore := strings.CutSuffix(what, ":")
	var paths []string
	if !isStore {
		ref, err := secrets.ParseRef(what)
		if err == nil && (ref.Key != "" || ref.Version != "") {
			err = fmt.Errorf("secret %v: all its keys and versions are listed: leave #KEY and @VERSION out", ref)
		}
		if err != nil {
			return nil, nil, &inputError{err}
		}
		name, paths = ref.Store, []string{ref.Path}
	}
	store, err := resolver.Store(name)
	if err != nil {
		return nil, nil, &inputError{err}
	}
	if !isStore {
		// One that is not there is the input's fault.
		if _, err := store.Versions(ctx, paths[0]); errors.Is(err, secrets.ErrNotFound) {
			return nil, nil, &inputError{err}
		}
		return store, paths, nil
	}
	l, ok := store.(lister)
	if !ok {
		return nil, nil, &inputError{fmt.Errorf("the store %s does not say which secrets it has: name one, as %s:PATH", name, name)}
	}
	paths, err = l.List(ctx)
	return store, paths, err
}

// describe reads what there is to be said of a secret.
func describe(ctx context.Context, store secrets.Store, path string) secretDocument {
	d := secretDocument{Secret: secrets.Ref{Store: store.Name(), Path: path}.String(), Keys: []string{}, Versions: []versionDocument{}}
	fail := func(err error) secretDocument {
		d.err, d.Error = err, err.Error()
		return d
	}
	versions, err := store.Versions(ctx, path)
	if err != nil {
		return fail(err)
	}
	slices.Reverse(versions) // the newest first
	for _, v := range versions {
		d.Versions = append(d.Versions, versionDocument{ID: v.ID, Stage: stageWord(v.Stage), Created: created(v)})
	}
	entry, err := store.Get(ctx, path, "")
	if errors.Is(err, secrets.ErrNotFound) && len(versions) > 0 {
		entry, err = store.Get(ctx, path, versions[0].ID)
	}
	if err != nil {
		return fail(err)
	}
	for _, key := range slices.Sorted(maps.Keys(entry.Keys)) {
		if key != "" {
			d.Keys = append(d.Keys, key)
		}
	}
	if s, ok := store.(*secrets.AgeStore); ok {
		access, err := s.Access(ctx, path)
		if err != nil {
			return fail(err)
		}
		d.Access = &accessDocument{
			Recipients: orEmpty(access.Recipients), Added: orEmpty(access.Added), Removed: orEmpty(access.Removed),
			Known: !access.Foreign, Current: !access.Stale(),
		}
	}
	return d
}

func orEmpty(list []string) []string { return append([]string{}, list...) }

func created(v secrets.Version) *time.Time {
	if v.Created.IsZero() {
		return nil
	}
	return &v.Created
}

func stageWord(s secrets.Stage) string {
	if s == secrets.Retired {
		return "retired"
	}
	return string(s)
}

func (a *app) printSecrets(what string, list []secretDocument) {
	if len(list) == 0 {
		a.ui.Note("there are no secrets in " + clean(what))
		return
	}
	rows := [][]string{{"SECRET", "KEYS", "RECIPIENTS", "VERSION", "STAGE", "WRITTEN"}}
	for _, d := range list {
		row := []string{clean(d.Secret), clean(strings.Join(d.Keys, ", ")), d.recipients(), "", "", ""}
		if d.err != nil {
			row[1] = "cannot be read"
			if errors.Is(d.err, age.ErrIncorrectIdentity) {
				row[1] = "not for your identities"
			}
		}
		for _, v := range d.Versions {
			row[3], row[4] = clean(v.ID), v.Stage
			if v.Created != nil {
				row[5] = localTime(*v.Created)
			}
			rows = append(rows, row)
			row = []string{"", "", "", "", "", ""}
		}
		if len(d.Versions) == 0 {
			rows = append(rows, row)
		}
	}
	a.ui.Print(columns(rows))
}

// recipients is how many can open the secret, and what rekey would do about it.
func (d secretDocument) recipients() string {
	switch {
	case d.Access == nil:
		return ""
	case !d.Access.Known:
		return "?"
	}
	text := strconv.Itoa(len(d.Access.Recipients))
	if n := len(d.Access.Added); n > 0 {
		text += fmt.Sprintf(" +%d", n)
	}
	if n := len(d.Access.Removed); n > 0 {
		text += fmt.Sprintf(" -%d", n)
	}
	return text
}
