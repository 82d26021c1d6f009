package tasks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// resetAuto takes the lines out of postgresql.auto.conf by which ALTER SYSTEM
// overrides what the task declares, as ALTER SYSTEM RESET would. The file is one
// more of the step, so that it is checked, loaded and put back with the others.
// A step replaces a file once: where a line of the task goes, those of the other
// tasks go with it.
func (t *Settings) resetAuto(s *State) ([]Change, error) {
	found, err := s.File(s.autoConf())
	if err != nil || !found.Exists {
		return nil, err
	}
	entries, err := postgres.ParseConf(string(found.Content))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", found.Path, err)
	}
	rows := s.Catalog()
	own := false
	var gone []int // lines
	var what []string
	for _, e := range entries {
		if t.overridden(s, rows, e) {
			own = true
		} else if !slices.ContainsFunc(t.siblings(s), func(b *Bound) bool {
			other := settingsOf(b.Task)
			return other != nil && other.overridden(s, rows, e)
		}) {
			continue
		}
		gone = append(gone, e.Line)
		what = append(what, fmt.Sprintf("ALTER SYSTEM RESET %s (it was %s)", e.Name, shown(e.Value)))
	}
	if !own {
		return nil, nil
	}
	var kept strings.Builder
	n := 0
	for line := range strings.Lines(string(found.Content)) {
		if n++; !slices.Contains(gone, n) {
			kept.WriteString(line)
		}
	}
	if err := noPlaceholder(found.Path, kept.String()); err != nil {
		return nil, err
	}
	changes := writeFile(s, found, WriteFile{
		Path: found.Path, Content: kept.String(), Owner: found.Owner, Group: found.Group, Mode: found.Mode,
	}, ConfigurationPart(s.instance))
	for i := range changes {
		changes[i].Intent = strings.Join(what, ", ") + " in " + found.Path
	}
	return changes, nil
}

// noPlaceholder refuses text of the host's own that would be written back with
// the value of a secret in it.
func noPlaceholder(path, text string) error {
	if secrets.HasPlaceholder(text) {
		return fmt.Errorf("%s holds text that looks like a secret's placeholder; change the lines of the host's own by hand", path)
	}
	return nil
}

// overridden reports whether a line of postgresql.auto.conf sets a parameter of
// the task to something else, and is to go.
func (t *Settings) overridden(s *State, rows *postgres.Catalog, e postgres.ConfEntry) bool {
	if t.State == "absent" {
		return false
	}
	at := slices.IndexFunc(t.Settings, func(p parameter) bool {
		return postgres.CanonicalName(p.name, s.version()) == postgres.CanonicalName(e.Name, s.version())
	})
	switch {
	case at < 0:
		return false
	case isPreload(e.Name) && !t.exact(e.Name):
		return !holdsAll(e.Name, e.Value, t.libraries(s, e.Name)) && t.undoes(s, e.Name, e.Value)
	}
	wanted := t.Settings[at].value
	if row, ok := rows.Lookup(e.Name); ok {
		// Both ways: a value that stands for one of the server's own choice is
		// equal to any that runs, and not to any that is written.
		return !row.Equal(wanted, e.Value) || !row.Equal(e.Value, wanted)
	}
	return !sameValue(rows, e.Name, e.Value, wanted)
}

// undoes reports whether a value that ALTER SYSTEM gave a parameter of the task
// is taken back. A list of libraries is not where one would be lost that only
// this value loads: whoever needs it has to say so.
func (t *Settings) undoes(s *State, name, value string) bool {
	if !isPreload(name) || t.exact(name) {
		return true
	}
	list, err := postgres.ParseList(name, value)
	if err != nil {
		return true // the server loads nothing by it
	}
	// ALTER SYSTEM SET … = '' writes a list of one that has no name.
	list = slices.DeleteFunc(list, func(library string) bool { return library == "" })
	return holdsAll(name, t.libraries(s, name), postgres.JoinList(name, list))
}

// libraries returns the preload list that the files come to without
// postgresql.auto.conf, once all tasks have been carried out.
func (t *Settings) libraries(s *State, name string) string {
	n := *s
	n.files = with(s.files, s.autoConf(), facts.FileInfo{Path: s.autoConf()})
	var all []*Settings
	for _, b := range t.siblings(s) {
		if other := settingsOf(b.Task); other != nil {
			all = append(all, other)
			n.files = with(n.files, other.fragment(s), facts.FileInfo{Path: other.fragment(s)})
		}
	}
	list := n.configuration().value(name)
	for _, other := range all {
		for _, p := range other.Settings {
			if !strings.EqualFold(p.name, name) || other.State == "absent" {
				continue
			}
			if merged, err := postgres.MergeList(name, list, p.value); err == nil { // a malformed one is an error of its own task
				list = merged
			}
		}
	}
	return list
}
