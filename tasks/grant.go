package tasks

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Grant gives privileges on objects to roles, or takes them away. With exact,
// what no grant task of the list declares for these roles on these objects is
// revoked as well.
type Grant struct {
	Common
	objectKeys
	Database    inventory.Positioned[string] `toml:"database" doc:"The database that the objects are in."`
	To          positionedNames              `toml:"to" required:"true" doc:"The roles; \"PUBLIC\" is every role."`
	Privileges  inventory.Strings            `toml:"privileges" doc:"SELECT, INSERT, USAGE, …; or \"ALL\"."`
	Columns     columnsOf                    `toml:"columns" doc:"Columns, by their tables: { \"public.orders\" = [\"id\", \"total\"] }."`
	GrantOption bool                         `toml:"grant_option" doc:"WITH GRANT OPTION."`
	Exact       bool                         `toml:"exact" doc:"Revoke from these roles, on these objects, what no grant task declares."`
	State       string                       `toml:"state" enum:"present,absent" doc:"absent revokes the privileges."`
}

// columnsOf is a table of lists of columns.
type columnsOf []tableColumns

type tableColumns struct {
	table   positionedName
	columns positionedNames
}

// UnmarshalNode takes a table of lists.
func (c *columnsOf) UnmarshalNode(n *inventory.Node) inventory.Errors {
	var errs inventory.Errors
	if n.Kind != inventory.KindTable {
		errs.Add(n.Pos, "want a table of tables, each with a list of its columns")
		return errs
	}
	for _, k := range n.Keys {
		x := tableColumns{table: positionedName{k.Name, k.Pos}}
		errs = append(errs, x.columns.UnmarshalNode(k.Value)...)
		*c = append(*c, x)
	}
	return errs
}

// JSONSchema describes the table.
func (columnsOf) JSONSchema() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": inventory.Strings{}.JSONSchema()}
}

// Check finds privileges that the objects do not have.
func (t *Grant) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	if len(t.Columns) == 0 {
		t.checkDatabase(t.node.Pos, t.Database, &errs)
	} else if t.Database.Value == "" {
		errs.Add(t.node.Pos, "missing key \"database\": in which one the tables are")
	}
	for _, p := range t.To {
		checkNameAt("to", p.name, p.pos, &errs)
		if t.GrantOption && grantee(p.name) == "" {
			errs.Add(p.pos, "grant_option: PostgreSQL gives PUBLIC no grant options")
		}
	}
	for _, kind := range t.kindsOf() {
		if _, err := catalog.ParsePrivileges(t.Privileges, kind, in.Version); err != nil {
			errs.Add(t.at("privileges"), "privileges: %v", err)
		}
	}
	if len(t.Privileges) == 0 && !t.Exact {
		errs.Add(t.node.Pos, "missing key \"privileges\"")
	}
	if t.State == "absent" && (t.Exact || t.GrantOption) {
		errs.Add(t.node.Pos, "exact and grant_option do not go with state = \"absent\"")
	}
	return errs
}

func (t *Grant) kindsOf() []catalog.Kind {
	kinds := t.kinds()
	if len(t.Columns) > 0 {
		kinds = append(kinds, catalog.Column)
	}
	return kinds
}

// Reads asks for the catalogs.
func (t *Grant) Reads(in inventory.Instance, _ *State) []facts.Read {
	return catalogReads(in, t.Database.Value)
}

// Plan compares the privileges.
func (t *Grant) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var needs []string
	if t.Database.Value != "" {
		needs = []string{t.Database.Value}
	}
	return t.planSQL(s, needs, func(x *script, _ *Outcome) error {
		objects, err := t.all(s, x.catalogs)
		problems := []error{err}
		for _, p := range t.To {
			problems = append(problems, needRole(x.catalogs, grantee(p.name), p.pos))
		}
		if err := errors.Join(problems...); err != nil {
			return err
		}
		for _, p := range t.To {
			role := grantee(p.name)
			if t.State == "absent" {
				problems = append(problems, revokeEach(x, t.place(), objects, role, t.privileges(in)))
				continue
			}
			if t.Exact { // first: REVOKE on a table takes its columns' privileges along
				problems = append(problems, t.exactly(in, s, x, objects, role))
			}
			grant(x, t.place(), objects, role, t.privileges(in), t.GrantOption)
		}
		return errors.Join(problems...)
	})
}

// place is the database that the statements run in.
func (t *Grant) place() string { return orElse(t.Database.Value, maintenanceDatabase) }

// privileges returns what is declared for an object, which depends on its kind.
// Check has seen that it can be read.
func (t *Grant) privileges(in inventory.Instance) func(catalog.Object) catalog.Privileges {
	return func(o catalog.Object) catalog.Privileges {
		p, err := catalog.ParsePrivileges(t.Privileges, o.Kind, in.Version)
		if err != nil {
			return 0
		}
		return p
	}
}

// all returns the objects of the task, columns too.
func (t *Grant) all(s *State, c *catalog.Cluster) ([]catalog.Object, error) {
	if t.Database.Value != "" {
		if _, err := needDatabase(c, s, t.Database.Value, t.Database.Pos()); err != nil {
			return nil, err
		}
	}
	list, err := t.objects(c, t.Database.Value)
	problems := []error{err}
	for _, x := range t.Columns {
		table, err := c.Find(t.Database.Value, catalog.Table, x.table.name)
		if err != nil {
			problems = append(problems, problemAt(x.table.pos, "%v", err))
			continue
		}
		known := c.Contents[t.Database.Value].Relations[catalog.Name{Schema: table.Schema, Name: table.Name}].Columns
		for _, col := range x.columns {
			if len(known) > 0 && !slices.Contains(known, col.name) {
				problems = append(problems, problemAt(col.pos, "%s has no column %q%s", x.table.name, col.name, inventory.DidYouMean(col.name, known)))
				continue
			}
			list = append(list, catalog.Object{Kind: catalog.Column, Schema: table.Schema, Name: table.Name, Column: col.name})
		}
	}
	return list, errors.Join(problems...)
}

// exactly revokes from a role, on the task's objects, what no grant task of the
// list gives it. The owner's own privileges are not touched.
func (t *Grant) exactly(in inventory.Instance, s *State, x *script, objects []catalog.Object, role string) error {
	declared := map[catalog.Object]catalog.Privileges{}
	grantable := map[catalog.Object]catalog.Privileges{}
	for _, b := range t.siblings(s) {
		other, ok := b.Task.(*Grant)
		if !ok || other.State == "absent" || other.Database.Value != t.Database.Value && len(other.Databases) == 0 {
			continue
		}
		if !slices.ContainsFunc(other.To, func(p positionedName) bool { return grantee(p.name) == role }) {
			continue
		}
		theirs, _ := other.all(s, x.catalogs) // what it cannot find is its own plan's error
		for _, o := range theirs {
			declared[o] |= other.privileges(in)(o)
			if other.GrantOption {
				grantable[o] |= other.privileges(in)(o)
			}
		}
	}
	for _, b := range t.siblings(s) {
		if d, ok := b.Task.(*Database); ok && role == "" {
			declared[catalog.Object{Kind: catalog.DatabaseKind, Name: d.Database.Value}] |= d.public
		}
	}
	owned := func(o catalog.Object) bool {
		owner, _ := x.catalogs.Owner(t.place(), o)
		return owner == role
	}
	objects = slices.DeleteFunc(withColumns(x.catalogs, t.place(), objects), owned)
	before := x.catalogs.Clone()
	err := revokeEach(x, t.place(), objects, role, func(o catalog.Object) catalog.Privileges { return ^declared[o] })
	// REVOKE on a table has taken what is declared of its columns along.
	for _, o := range objects {
		if acl, _ := before.Effective(t.place(), o); o.Kind == catalog.Column {
			have, mayGrant := acl.Of(role)
			grant(x, t.place(), []catalog.Object{o}, role, func(o catalog.Object) catalog.Privileges { return have & declared[o] }, false)
			grant(x, t.place(), []catalog.Object{o}, role, func(o catalog.Object) catalog.Privileges { return mayGrant & grantable[o] }, true)
		}
	}
	problems := []error{err}
	var due batches
	for _, o := range objects {
		acl, _ := x.catalogs.Effective(t.place(), o)
		owner, _ := x.catalogs.Owner(t.place(), o)
		for _, item := range acl {
			surplus := item.Grantable &^ grantable[o]
			own := item.Grantor == role // which hangs on the option
			if own {
				surplus = item.Privileges &^ grantable[o]
			}
			if item.Grantee != role || surplus == 0 {
				continue
			}
			if why := irrevocable(x.catalogs, withColumnItems(x.catalogs, t.place(), o, acl), item, surplus, owner); why != "" {
				problems = append(problems, fmt.Errorf("the grant option of %s for %s on %s cannot be revoked: %s", role, surplus, o, why))
				continue
			}
			grantor := item.Grantor
			if grantor == owner {
				grantor = ""
			}
			due.add(o, surplus, grantor, !own)
		}
	}
	due.ownFirst(role)
	for _, b := range due {
		x.do(t.place(), catalog.Revoke{On: b.objects, From: role, Privileges: b.privileges, OptionOnly: b.optionOnly, Grantor: b.grantor})
	}
	return errors.Join(problems...)
}

// withColumns returns the objects, and the columns of tables among them that
// have privileges of their own.
func withColumns(c *catalog.Cluster, database string, objects []catalog.Object) []catalog.Object {
	list := slices.Clone(objects)
	for _, o := range objects {
		if o.Kind != catalog.Table {
			continue
		}
		table := c.Contents[database].Relations[catalog.Name{Schema: o.Schema, Name: o.Name}]
		for _, column := range slices.Sorted(maps.Keys(table.ColumnACL)) {
			if own := (catalog.Object{Kind: catalog.Column, Schema: o.Schema, Name: o.Name, Column: column}); !slices.Contains(list, own) {
				list = append(list, own)
			}
		}
	}
	return list
}
