package tasks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// resetAuto takes the lines out of postgresql.auto.conf by which ALTER SYSTEM
// overrides what the task declares, as ALTER SYSTEM RESET would. It writes the
// file as one more of the step, so that it is checked, loaded and put back with
// the others.
func (t *Settings) resetAuto(in inventory.Instance, s *State) ([]Change, error) {
	found, err := s.File(s.autoConf())
	if err != nil || !found.Exists {
		return nil, nil // what cannot be read is read by nobody else either
	}
	entries, err := postgres.ParseConf(string(found.Content))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", found.Path, err)
	}
	rows := postgres.NewCatalog(s.version(), s.settings())
	var gone []int // lines
	var what []string
	for _, e := range entries {
		at := slices.IndexFunc(t.Settings, func(p parameter) bool {
			return postgres.CanonicalName(p.name, s.version()) == postgres.CanonicalName(e.Name, s.version())
		})
		if at < 0 {
			continue
		}
		wanted := t.Settings[at].value
		if isPreload(e.Name) || sameValue(rows, e.Name, e.Value, wanted) {
			continue // libraries that somebody needs are not taken away: see wanted
		}
		gone = append(gone, e.Line)
		what = append(what, fmt.Sprintf("ALTER SYSTEM RESET %s (it was %s)", e.Name, shown(e.Value)))
	}
	if len(gone) == 0 {
		return nil, nil
	}
	var kept strings.Builder
	n := 0
	for line := range strings.Lines(string(found.Content)) {
		if n++; !slices.Contains(gone, n) {
			kept.WriteString(line)
		}
	}
	changes := writeFile(s, found, WriteFile{
		Path: found.Path, Content: kept.String(), Owner: found.Owner, Group: found.Group, Mode: found.Mode,
	}, ConfigurationPart(in))
	for i := range changes {
		changes[i].Intent = strings.Join(what, ", ") + " in " + found.Path
	}
	return changes, nil
}
