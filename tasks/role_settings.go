package tasks

import (
	"errors"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// settings makes the role's own settings what is declared, in all databases and
// in single ones. What is not declared is reset: it is what somebody set by hand.
func (t *Role) settings(s *State, x *script) error {
	var problems []error
	role := t.Role.Value
	byDatabase := map[string]parameters{"": nil}
	if t.Settings != nil {
		byDatabase[""] = *t.Settings
	}
	if t.InDatabase != nil {
		for _, d := range *t.InDatabase {
			if x.catalogs.Databases[d.database] == nil {
				_, err := needDatabase(x.catalogs, s, d.database, d.pos)
				problems = append(problems, err)
				continue
			}
			byDatabase[d.database] = d.settings
		}
	}
	for _, found := range x.catalogs.Settings {
		if _, ok := byDatabase[found.Database]; found.Role == role && !ok {
			byDatabase[found.Database] = nil
		}
	}
	var databases []string
	for db := range byDatabase {
		databases = append(databases, db)
	}
	slices.Sort(databases)
	for _, db := range databases {
		problems = append(problems, setParameters(s, x, catalog.Setting{Role: role, Database: db}, byDatabase[db]))
	}
	return errors.Join(problems...)
}

// setParameters makes the settings of one role, of one database, or of a role
// in a database, what is declared. Scope has no name and no value.
func setParameters(s *State, x *script, scope catalog.Setting, wanted parameters) error {
	var problems []error
	rows := s.Catalog()
	for _, p := range wanted {
		if err := settable(s, rows, p); err != nil {
			problems = append(problems, err)
			continue
		}
		at := slices.IndexFunc(x.catalogs.Settings, func(f catalog.Setting) bool { return inScope(f, scope) && strings.EqualFold(f.Name, p.name) })
		if at >= 0 && (x.catalogs.Settings[at].Value == catalog.StoredValue(p.name, p.value) || sameValue(rows, p.name, x.catalogs.Settings[at].Value, p.value)) {
			continue
		}
		set := scope
		set.Name, set.Value = p.name, p.value
		x.do(maintenanceDatabase, catalog.SetParameter{Setting: set})
	}
	for _, found := range slices.Clone(x.catalogs.Settings) {
		if !inScope(found, scope) || slices.ContainsFunc(wanted, func(p parameter) bool { return strings.EqualFold(p.name, found.Name) }) {
			continue
		}
		x.do(maintenanceDatabase, catalog.SetParameter{Setting: found, Reset: true})
	}
	return errors.Join(problems...)
}

func inScope(found, scope catalog.Setting) bool {
	return found.Role == scope.Role && found.Database == scope.Database
}

// sameValue compares two values as the server would read them.
func sameValue(rows *postgres.Catalog, name, a, b string) bool {
	if a == b {
		return true
	}
	if postgres.IsList(name) {
		return postgres.EqualLists(name, a, b)
	}
	row, ok := rows.Lookup(name)
	if !ok {
		return false
	}
	x, errX := row.Normalize(a)
	y, errY := row.Normalize(b)
	return errX == nil && errY == nil && x == y
}

// settable refuses a parameter that a role or a database cannot have: one that
// does not exist or has another form, one that only the server as a whole has,
// and pgaudit's while its library is not loaded, because then the server stores
// any value and auditing fails at every login afterwards.
func settable(s *State, rows *postgres.Catalog, p parameter) error {
	if strings.EqualFold(p.name, "role") {
		// What SET ROLE sets; pg_settings does not list it (GUC_NO_SHOW_ALL).
		if err := postgres.CheckIdent(p.value); err != nil {
			return problemAt(p.node.Pos, "role: %v", err)
		}
		return nil
	}
	if err := rows.Check(p.name, p.value); err != nil {
		pos := p.node.Pos
		var unknown *postgres.UnknownSettingError
		if errors.As(err, &unknown) {
			pos = p.pos
		}
		return inventory.Error{Pos: pos, Msg: err.Error()}
	}
	row, ok := rows.Lookup(p.name)
	if ok && (row.Context == "postmaster" || row.Context == "sighup") {
		return problemAt(p.pos, "%s belongs to the server as a whole and not to a role or a database: put it into a task of kind \"settings\"", row.Name)
	}
	if strings.HasPrefix(strings.ToLower(p.name), "pgaudit.") && !s.preloaded("pgaudit") {
		return problemAt(p.pos, "%s: pgaudit is not loaded, and the server would take any value: put this task after the one that restarts the server with shared_preload_libraries = 'pgaudit'", p.name)
	}
	return nil
}

// preloaded reports whether the server has loaded a library at its start, or
// will have.
func (s *State) preloaded(library string) bool {
	value, ok := s.Running("shared_preload_libraries")
	if !ok {
		return false
	}
	list, err := postgres.ParseList("shared_preload_libraries", value)
	return err == nil && slices.ContainsFunc(list, func(l string) bool {
		return strings.TrimSuffix(strings.TrimPrefix(l, "$libdir/"), ".so") == library
	})
}
