package tasks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// Finish looks at what wins over the files in some sessions, once all other
// tasks have set and reset what is theirs. What ALTER ROLE ALL sets for every
// session takes the place of the task's own value and is reset; what a single
// role or database has may be meant, and is warned of.
func (t *Settings) Finish(_ inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	if t.State == "absent" || s.Server() == nil {
		return out, nil
	}
	rows := s.Catalog()
	var resets []placed
	for _, o := range s.overrides() {
		at := slices.IndexFunc(t.Settings, func(p parameter) bool {
			return postgres.CanonicalName(p.name, s.version()) == postgres.CanonicalName(o.Name, s.version())
		})
		if at < 0 {
			continue
		}
		value := t.Settings[at].value
		switch {
		case sameValue(rows, o.Name, o.Value, value), isPreload(o.Name) && !t.exact(o.Name) && holdsAll(o.Name, o.Value, value):
		case o.Role == "" && o.Database == "":
			resets = append(resets, placed{maintenanceDatabase, catalog.SetParameter{Setting: o, Reset: true}})
		default:
			out.Warnings = append(out.Warnings, overrideWarning(o, value))
		}
	}
	out.Changes = t.changes(s, resets)
	return out, nil
}

// overrideWarning says in whose sessions a value is not the task's.
func overrideWarning(o catalog.Setting, value string) string {
	who := "database " + o.Database
	switch {
	case o.Role != "" && o.Database != "":
		who = "role " + o.Role + " in database " + o.Database
	case o.Role != "":
		who = "role " + o.Role
	}
	warning := fmt.Sprintf("%s is %s in sessions of %s, by ALTER ROLE or ALTER DATABASE, not %s", o.Name, shown(o.Value), who, shown(value))
	if lost := narrowed(value, o.Value); strings.EqualFold(o.Name, "pgaudit.log") && lost != "" {
		warning += "; it takes the place of the global value, so these are not audited there: " + lost
	}
	return warning
}

// overrides returns the settings of roles and databases: as the tasks so far
// leave them where the catalogs are known, and as the server has them elsewhere.
func (s *State) overrides() []catalog.Setting {
	if s.cluster != nil {
		return s.cluster.Settings
	}
	var list []catalog.Setting
	for _, o := range s.Server().Overrides {
		list = append(list, catalog.Setting{Role: o.Role, Database: o.Database, Name: o.Name, Value: o.Value})
	}
	return list
}
