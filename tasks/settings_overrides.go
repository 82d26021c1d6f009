package tasks

import (
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// resets takes back what ALTER ROLE ALL sets for every session, in place of the
// task's own value.
func (t *Settings) resets(s *State) []Change {
	var resets []placed
	for _, o := range t.overruled(s) {
		if o.Role == "" && o.Database == "" {
			resets = append(resets, placed{maintenanceDatabase, catalog.SetParameter{Setting: o, Reset: true}})
		}
	}
	return t.changes(s, resets)
}

// Finish warns of what a single role or database has of its own, once all other
// tasks have set and reset what is theirs: that may be meant.
func (t *Settings) Finish(_ inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	for _, o := range t.overruled(s) {
		if o.Role != "" || o.Database != "" {
			out.Warnings = append(out.Warnings, t.overrideWarning(s, o))
		}
	}
	return out, nil
}

// overruled returns the settings of roles and databases that win over one of the
// task's in some sessions.
func (t *Settings) overruled(s *State) []catalog.Setting {
	if t.State == "absent" || s.Server() == nil {
		return nil
	}
	var list []catalog.Setting
	for _, o := range s.overrides() {
		value, ok := t.value(s, o.Name)
		if !ok || sameValue(s.Catalog(), o.Name, o.Value, value) || isPreload(o.Name) && !t.exact(o.Name) && holdsAll(o.Name, o.Value, value) {
			continue
		}
		list = append(list, o)
	}
	return list
}

// value returns what the task sets a parameter to.
func (t *Settings) value(s *State, name string) (string, bool) {
	for _, p := range t.Settings {
		if postgres.CanonicalName(p.name, s.version()) == postgres.CanonicalName(name, s.version()) {
			return p.value, true
		}
	}
	return "", false
}

// overrideWarning says in whose sessions a value is not the task's.
func (t *Settings) overrideWarning(s *State, o catalog.Setting) string {
	value, _ := t.value(s, o.Name)
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
