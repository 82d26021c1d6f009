package tasks

import (
	"errors"
	"slices"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// DefaultPrivileges says what new objects of a role give to others. It is always
// FOR ROLE: without that, only what the superuser makes would be meant.
type DefaultPrivileges struct {
	Common
	Database    inventory.Positioned[string] `toml:"database" required:"true" doc:"The database that it holds in."`
	ForRole     positionedNames              `toml:"for_role" required:"true" doc:"The roles whose new objects are meant: those that make tables."`
	InSchemas   positionedNames              `toml:"in_schemas" doc:"Only what is made in these schemas. Left out: everywhere, and only so can PostgreSQL's own defaults be taken back."`
	Objects     string                       `toml:"objects" required:"true" enum:"tables,sequences,functions,types,schemas" doc:"What sort of objects."`
	To          positionedNames              `toml:"to" required:"true" doc:"The roles that get the privileges; \"PUBLIC\" is every role."`
	Privileges  inventory.Strings            `toml:"privileges" doc:"SELECT, INSERT, EXECUTE, …; or \"ALL\"."`
	GrantOption bool                         `toml:"grant_option" doc:"WITH GRANT OPTION."`
	Exact       bool                         `toml:"exact" doc:"Revoke from these roles what no default_privileges task declares."`
	State       string                       `toml:"state" enum:"present,absent" doc:"absent revokes the privileges."`
}

func (t *DefaultPrivileges) kind() catalog.Kind {
	return map[string]catalog.Kind{
		"tables": catalog.Table, "sequences": catalog.Sequence, "functions": catalog.Routine, "types": catalog.Type, "schemas": catalog.SchemaKind,
	}[t.Objects]
}

// Check finds privileges that the objects do not have.
func (t *DefaultPrivileges) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	checkName("database", t.Database, &errs)
	for _, list := range []struct {
		key   string
		names positionedNames
	}{{"for_role", t.ForRole}, {"in_schemas", t.InSchemas}, {"to", t.To}} {
		for _, p := range list.names {
			checkNameAt(list.key, p.name, p.pos, &errs)
		}
	}
	if len(t.InSchemas) > 0 && t.Objects == "schemas" {
		errs.Add(t.at("in_schemas"), "in_schemas: a schema lies in no schema")
	}
	if _, err := catalog.ParsePrivileges(t.Privileges, t.kind(), in.Version); err != nil && t.kind() != "" {
		errs.Add(t.at("privileges"), "privileges: %v", err)
	}
	if len(t.Privileges) == 0 && !t.Exact {
		errs.Add(t.node.Pos, "missing key \"privileges\"")
	}
	if t.State == "absent" && (t.Exact || t.GrantOption) {
		errs.Add(t.node.Pos, "exact and grant_option do not go with state = \"absent\"")
	}
	for _, p := range t.To {
		if grantee(p.name) == "" && t.GrantOption {
			errs.Add(p.pos, "grant_option: PostgreSQL gives PUBLIC no grant options")
		}
		if grantee(p.name) == "" && len(t.InSchemas) > 0 && t.State == "absent" {
			errs.Add(p.pos, "what PostgreSQL gives PUBLIC by default cannot be taken back in single schemas: leave in_schemas out")
		}
	}
	return errs
}

// Reads asks for the catalogs.
func (t *DefaultPrivileges) Reads(in inventory.Instance, _ *State) []facts.Read {
	return catalogReads(in, t.Database.Value)
}

// Plan compares the default privileges.
func (t *DefaultPrivileges) Plan(in inventory.Instance, s *State) (Outcome, error) {
	database := t.Database.Value
	return t.planSQL(s, []string{database}, func(x *script, _ *Outcome) error {
		_, err := needDatabase(x.catalogs, s, database, t.Database.Pos())
		if err != nil {
			return err
		}
		var problems []error
		for _, p := range slices.Concat(t.ForRole, t.To) {
			problems = append(problems, needRole(x.catalogs, grantee(p.name), p.pos))
		}
		for _, p := range t.InSchemas {
			if _, err := x.catalogs.Find(database, catalog.SchemaKind, p.name); err != nil {
				problems = append(problems, problemAt(p.pos, "%v", err))
			}
		}
		if err := errors.Join(problems...); err != nil {
			return err
		}
		for _, of := range t.ForRole {
			for _, schema := range t.schemas() {
				for _, to := range t.To {
					t.compare(in, s, x, of.name, schema, grantee(to.name))
				}
			}
		}
		return nil
	})
}

// schemas returns where it holds; "" is everywhere.
func (t *DefaultPrivileges) schemas() []string {
	if len(t.InSchemas) == 0 {
		return []string{""}
	}
	var list []string
	for _, p := range t.InSchemas {
		list = append(list, p.name)
	}
	return list
}

func (t *DefaultPrivileges) compare(in inventory.Instance, s *State, x *script, of, schema, to string) {
	database := t.Database.Value
	// Check has seen that the privileges can be read.
	wanted, _ := catalog.ParsePrivileges(t.Privileges, t.kind(), in.Version)
	change := catalog.AlterDefaultPrivileges{Role: of, Schema: schema, Kind: t.kind(), To: to}
	have, mayGrant := x.catalogs.EffectiveDefault(database, of, schema, t.kind()).Of(to)
	surplus := catalog.Privileges(0)
	switch {
	case t.State == "absent":
		surplus = have & wanted
	case t.Exact && to != of:
		surplus = have &^ t.declared(in, s, of, schema, to)
	}
	if surplus != 0 {
		revoke := change
		revoke.Privileges, revoke.Revoke = surplus, true
		x.do(database, revoke)
	}
	if t.GrantOption {
		have &= mayGrant
	}
	if missing := wanted &^ have; missing != 0 && t.State != "absent" {
		change.Privileges, change.Grantable = missing, t.GrantOption
		x.do(database, change)
	}
}

// declared returns what all tasks of the list declare for the same default.
func (t *DefaultPrivileges) declared(in inventory.Instance, s *State, of, schema, to string) catalog.Privileges {
	var all catalog.Privileges
	for _, b := range t.siblings(s) {
		other, ok := b.Task.(*DefaultPrivileges)
		if !ok || other.State == "absent" || other.Database.Value != t.Database.Value || other.Objects != t.Objects || !slices.Contains(other.schemas(), schema) {
			continue
		}
		has := func(names positionedNames, name string) bool {
			return slices.ContainsFunc(names, func(p positionedName) bool { return grantee(p.name) == name })
		}
		if has(other.ForRole, of) && has(other.To, to) {
			p, _ := catalog.ParsePrivileges(other.Privileges, t.kind(), in.Version)
			all |= p
		}
	}
	return all
}
