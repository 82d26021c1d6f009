package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// next makes a statement up, about what the model holds or does not hold.
func (d *drive) next() (string, Statement) {
	if len(d.queue) > 0 {
		q := d.queue[0]
		d.queue = d.queue[1:]
		return q.db, q.s
	}
	db := d.pick(sortedKeys(d.model.Contents))
	ways := []struct {
		weight int
		make   func(db string) Statement
	}{
		{6, d.role}, {2, d.dropRole}, {6, d.membership}, {4, d.parameter}, {2, d.comment},
		{2, d.database}, {3, d.schema}, {2, d.extension},
		{24, d.grant}, {18, d.revoke}, {8, d.foreignGrant}, {10, d.defaults}, {8, d.owner}, {4, d.owned}, {10, d.policy}, {10, d.make},
	}
	total := 0
	for _, w := range ways {
		total += w.weight
	}
	n := d.random.IntN(total)
	for _, w := range ways {
		if n -= w.weight; n < 0 {
			return db, w.make(db)
		}
	}
	return db, nil
}

func (d *drive) pick(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[d.random.IntN(len(list))]
}

func (d *drive) one(in int) bool { return d.random.IntN(in) == 0 }

func (d *drive) names() []string {
	return []string{"app", "reader", "owner", "Odd Role", `quote"r`, "user", "größe", "a_name_of_just_sixty_three_bytes_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "-"}
}

// anybody is a role that there is.
func (d *drive) anybody() string { return d.pick(sortedKeys(d.model.Roles)) }

func (d *drive) anybodyOrPublic() string {
	if d.one(5) {
		return ""
	}
	return d.anybody()
}

func (d *drive) role(string) Statement {
	name := d.pick(d.names())
	want := Role{Name: name, Superuser: d.one(8), Inherit: !d.one(3), CreateRole: d.one(3), CreateDB: d.one(3), Login: d.one(2), Replication: d.one(4),
		BypassRLS: d.one(4), ConnLimit: d.random.IntN(4) - 1, ValidUntil: d.pick([]string{"", "infinity", "2030-02-03T04:05:06Z"})}
	held := d.model.Roles[name]
	switch {
	case held == nil:
		return CreateRole{want}
	case d.one(4):
		return SetPassword{Role: name, None: d.one(2)}
	}
	return AlterRole{*held, want}
}

func (d *drive) dropRole(db string) Statement {
	name := d.anybody()
	if name == d.model.Bootstrap || len(d.model.Roles) < 5 {
		return nil
	}
	if d.one(2) { // as the manual has it: in every database, then the role itself
		for _, db := range sortedKeys(d.model.Contents) {
			d.queue = append(d.queue, queued{db, ReassignOwned{name, d.model.Bootstrap}}, queued{db, DropOwned{name}})
		}
	}
	d.queue = append(d.queue, queued{db, DropRole{name}})
	return nil
}

// A queued statement is the next one, before others are made up.
type queued struct {
	db string
	s  Statement
}

func (d *drive) membership(string) Statement {
	if len(d.model.Members) > 0 && d.one(2) {
		m := d.model.Members[d.random.IntN(len(d.model.Members))]
		s := RevokeRole{Role: m.Role, Member: m.Member}
		if d.model.Version.Major() >= 16 {
			s.Grantor, s.Option = d.pick([]string{"", m.Grantor}), d.pick([]string{"", "ADMIN", "INHERIT", "SET"})
		} else {
			s.Option = d.pick([]string{"", "ADMIN"})
		}
		return s
	}
	maybe := func() *bool {
		if d.one(2) {
			return nil
		}
		return new(d.one(2))
	}
	role, member := d.pick(append(sortedKeys(d.model.Roles), "pg_monitor")), d.anybody()
	if d.one(4) { // by somebody else, who may have been given the right to
		grantor := d.anybody()
		return reread{raw{sql: []string{"SET LOCAL ROLE " + grantee(grantor), "GRANT " + grantee(role) + " TO " + grantee(member), "RESET ROLE"}}, d}
	}
	return GrantRole{Role: role, Member: member, Admin: maybe(), Inherit: maybe(), Set: maybe(), Major: d.model.Version.Major()}
}

// reread is raw SQL after which the model is read anew.
type reread struct {
	raw
	d *drive
}

func (s reread) Apply(c *Cluster, _ string) { *c = *s.d.read(sortedKeys(c.Contents)...) }

func (d *drive) parameter(string) Statement {
	s := SetParameter{Setting: Setting{Role: d.pick(append(sortedKeys(d.model.Roles), "", "")), Database: d.pick(append(sortedKeys(d.model.Databases), "", "", ""))}}
	choices := []Setting{
		{Name: "work_mem", Value: "8MB"}, {Name: "statement_timeout", Value: "0"}, {Name: "search_path", Value: `"$user", public`}, {Name: "search_path", Value: "app"},
		{Name: "search_path", Value: `app, "Odd Schema", "select"`}, {Name: "search_path", Value: ""}, {Name: "search_path", Value: `""`}, {Name: "DateStyle", Value: "ISO, DMY"},
		{Name: "log_statement", Value: "all"}, {Name: "myapp.tenant", Value: `it's \ one`}, {Name: "TimeZone", Value: "Europe/Berlin"}, {Name: "temp_tablespaces", Value: ""},
		{Name: "enable_seqscan", Value: "off"}, {Name: "application_name", Value: "a=b"}, {Name: "application_name", Value: ""}, {Name: "session_preload_libraries", Value: "auto_explain"},
	}
	pick := choices[d.random.IntN(len(choices))]
	s.Name, s.Value, s.Reset = pick.Name, pick.Value, d.one(4)
	if s.Database == "template0" {
		return nil
	}
	return s
}

func (d *drive) comment(db string) Statement {
	s := SetComment{On: d.pick([]string{"ROLE", "DATABASE", "SCHEMA"}), Text: d.pick([]string{"", "plain", `it's "this" \ that`})}
	switch s.On {
	case "ROLE":
		s.Name = d.anybody()
	case "DATABASE":
		s.Name = d.pick(sortedKeys(d.model.Databases))
	default:
		s.Name = d.pick(sortedKeys(d.model.Contents[db].Schemas))
	}
	return s
}

func (d *drive) database(db string) Statement {
	name := d.pick([]string{"appdb", "Odd DB", "orders-db"})
	if d.model.Databases[name] != nil {
		if name == db || d.one(2) {
			return AlterDatabase{Name: name, ConnLimit: d.random.IntN(5) - 1}
		}
		d.closeAll()
		return dropDatabase{raw{sql: []string{"DROP DATABASE " + postgres.QuoteIdent(name)}}, name}
	}
	s := CreateDatabase{Database: Database{Name: name, Owner: d.pick([]string{"", d.anybody()}), ConnLimit: d.pickInt(0, 0, -1, 5), Template: d.one(5)},
		From: d.pick([]string{"", "template0", "template1", db}), Major: d.model.Version.Major(), Closed: d.one(4)}
	if s.From == "template0" {
		s.Database.Encoding, s.Database.Collate, s.Database.Ctype = "UTF8", "C", d.pick([]string{"C", "C.UTF-8"})
		if s.Major >= 15 && d.one(2) {
			s.Database.Provider, s.Database.Locale = "icu", "en-US"
		}
		if s.Major >= 17 && d.one(2) {
			s.Database.Provider, s.Database.Locale = "builtin", "C.UTF-8"
		}
	}
	return s
}

func (d *drive) pickInt(n ...int) int { return n[d.random.IntN(len(n))] }

type dropDatabase struct {
	raw
	name string
}

func (s dropDatabase) Alone() bool { return true }

func (s dropDatabase) Apply(c *Cluster, _ string) {
	delete(c.Databases, s.name)
	delete(c.Contents, s.name)
	c.Settings = slices.DeleteFunc(slices.Clone(c.Settings), func(x Setting) bool { return x.Database == s.name })
}

func (d *drive) schema(db string) Statement {
	name := d.pick([]string{"app", "Odd Schema", "sales"})
	if d.model.Contents[db].Schemas[name] != nil {
		return DropSchema{name}
	}
	return CreateSchema{name, d.pick([]string{"", d.anybody()})}
}

func (d *drive) extension(db string) Statement {
	held := d.model.Contents[db]
	name := d.pick([]string{"pgcrypto", "pg_trgm", "pg_stat_statements", "citext"})
	if len(held.Available[name]) == 0 {
		return nil
	}
	schema := d.pick(append(sortedKeys(held.Schemas), ""))
	switch e := held.Extensions[name]; {
	case e == nil:
		return CreateExtension{Name: name, Schema: schema}
	case schema == "":
		return UpdateExtension{Name: name}
	case d.one(2):
		return MoveExtension{name, schema}
	}
	return DropExtension{name}
}

// some returns objects of one kind to grant on: as many as there are, or few.
func (d *drive) some(db string) []Object {
	held := d.model.Contents[db]
	kind := Kind(d.pick([]string{string(DatabaseKind), string(SchemaKind), string(Table), string(Table), string(Sequence), string(Routine), string(Column), string(Column)}))
	var all []Object
	switch kind {
	case DatabaseKind:
		for _, name := range sortedKeys(d.model.Databases) {
			all = append(all, Object{Kind: kind, Name: name})
		}
	case SchemaKind:
		for _, name := range sortedKeys(held.Schemas) {
			all = append(all, Object{Kind: kind, Name: name})
		}
	case Column:
		all = d.model.Objects(db, Table, d.pick(sortedKeys(held.Schemas)))
		all = slices.DeleteFunc(all, func(o Object) bool { return len(held.Relations[o.relation()].Columns) == 0 })
		if len(all) == 0 {
			return nil
		}
		table := all[d.random.IntN(len(all))]
		all = nil
		for _, c := range held.Relations[table.relation()].Columns {
			all = append(all, Object{Kind: Column, Schema: table.Schema, Name: table.Name, Column: c})
		}
	default:
		all = d.model.Objects(db, kind, d.pick(sortedKeys(held.Schemas)))
	}
	d.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), 1+d.random.IntN(3))]
}

func (d *drive) privileges(kind Kind) Privileges {
	all := AllPrivileges(kind, d.model.Version.Major())
	if d.one(4) {
		return all
	}
	some, fewer := Privileges(d.random.Uint32())&all, Privileges(d.random.Uint32())
	return cmp.Or(some&fewer, some, all)
}

func (d *drive) grant(db string) Statement {
	on := d.some(db)
	if len(on) == 0 {
		return nil
	}
	s := Grant{On: on, To: d.anybodyOrPublic(), Privileges: d.privileges(on[0].Kind)}
	s.Grantable = s.To != "" && d.one(3)
	return s
}

func (d *drive) revoke(db string) Statement {
	on := d.some(db)
	if len(on) == 0 {
		return nil
	}
	s := Revoke{On: on, From: d.anybodyOrPublic(), Privileges: d.privileges(on[0].Kind), OptionOnly: d.one(4)}
	acl, _ := d.model.Effective(db, on[0])
	if len(acl) > 0 && !d.one(4) {
		item := acl[d.random.IntN(len(acl))]
		owner, _ := d.model.Owner(db, on[0])
		s.From = item.Grantee
		if item.Grantor != owner {
			s.Grantor, s.On = item.Grantor, on[:1]
		}
	}
	return s
}

// foreignGrant is a GRANT by somebody who has the option.
func (d *drive) foreignGrant(db string) Statement {
	for range 20 {
		on := d.some(db)
		if len(on) == 0 {
			continue
		}
		acl, _ := d.model.Effective(db, on[0])
		for _, i := range acl {
			if i.Grantable == 0 || d.one(3) {
				continue
			}
			to := d.anybodyOrPublic()
			sql := "GRANT " + onObjects(i.Grantable, on[:1]) + " TO " + grantee(to)
			if to != "" && d.one(2) {
				sql += " WITH GRANT OPTION"
			}
			return reread{raw{sql: []string{"SET LOCAL ROLE " + grantee(i.Grantee), sql, "RESET ROLE"}}, d}
		}
	}
	return nil
}

func (d *drive) defaults(db string) Statement {
	s := AlterDefaultPrivileges{Role: d.anybody(), To: d.anybodyOrPublic(), Revoke: d.one(2),
		Kind: Kind(d.pick([]string{string(Table), string(Sequence), string(Routine), string(Type), string(SchemaKind)}))}
	if d.one(2) {
		s.Schema = d.pick(sortedKeys(d.model.Contents[db].Schemas))
	}
	s.Privileges = d.privileges(s.Kind)
	s.Grantable = (s.To != "" || s.Revoke) && d.one(4)
	return s
}

func (d *drive) owner(db string) Statement {
	on := d.some(db)
	if len(on) == 0 || on[0].Kind == Column {
		return nil
	}
	return AlterOwner{on[0], d.anybody()}
}

func (d *drive) owned(string) Statement {
	name := d.anybody()
	if name == d.model.Bootstrap {
		return nil
	}
	if d.one(2) {
		return ReassignOwned{name, d.anybody()}
	}
	return DropOwned{name}
}

func (d *drive) policy(db string) Statement {
	held := d.model.Contents[db]
	var tables []Name
	for name, r := range held.Relations {
		if r.Kind == 'r' || r.Kind == 'p' {
			tables = append(tables, name)
		}
	}
	if len(tables) == 0 {
		return nil
	}
	slices.SortFunc(tables, func(a, b Name) int { return strings.Compare(a.String(), b.String()) })
	table := held.Relations[tables[d.random.IntN(len(tables))]]
	roles := []string{d.anybodyOrPublic()}
	if d.one(2) {
		roles = append(roles, d.anybodyOrPublic())
	}
	expression := func() string {
		return d.pick([]string{"id > 0", "total IS NOT NULL -- says who", "id = NULLIF(current_setting('app.x', true), '')::int", "true"})
	}
	name := d.pick([]string{"own", "Odd Policy"})
	p := table.Policies[name]
	switch n := d.random.IntN(6); {
	case n == 0:
		return EnableRLS{table.Name, d.one(2)}
	case n == 1:
		return ForceRLS{table.Name, d.one(2)}
	case p == nil:
		p := Policy{Name: name, Permissive: d.one(2), Command: d.pick([]string{"", "ALL", "SELECT", "INSERT", "UPDATE", "DELETE"}), Roles: roles}
		if p.Command != "INSERT" {
			p.Using = expression()
		}
		if p.Command != "SELECT" && p.Command != "DELETE" {
			p.WithCheck = expression()
		}
		return CreatePolicy{table.Name, p}
	case n == 2:
		return DropPolicy{table.Name, name}
	}
	s := AlterPolicy{Table: table.Name, Name: name}
	if d.one(2) {
		s.Roles = roles
	}
	if d.one(2) && p.Command != "INSERT" {
		s.Using = new(expression())
	}
	if d.one(2) && p.Command != "SELECT" && p.Command != "DELETE" {
		s.WithCheck = new(expression())
	}
	return s
}

// make makes a relation or function as some role, with that role's default
// privileges.
func (d *drive) make(db string) Statement {
	if len(d.model.Contents[db].Relations) > 60 {
		return nil
	}
	d.serial++
	owner, schema := d.anybody(), d.pick(sortedKeys(d.model.Contents[db].Schemas))
	name := Name{schema, fmt.Sprintf("%s %d", d.pick([]string{"t", "T"}), d.serial)}
	if d.one(2) {
		name.Name = fmt.Sprintf("t%d", d.serial)
	}
	r := Relation{Name: name, Owner: owner, Columns: []string{"id", "total"}}
	var sql []string
	var also []Relation
	switch kind := d.random.IntN(8); kind {
	case 0:
		r.Kind, sql = 'v', []string{"CREATE VIEW " + name.String() + " AS SELECT 1 AS id, 2 AS total"}
	case 1:
		r.Kind, sql = 'm', []string{"CREATE MATERIALIZED VIEW " + name.String() + " AS SELECT 1 AS id, 2 AS total"}
	case 2:
		r.Kind, sql, r.Columns = 'S', []string{"CREATE SEQUENCE " + name.String()}, nil
	case 3:
		r.Kind, sql = 'p', []string{"CREATE TABLE " + name.String() + " (id int, total int) PARTITION BY LIST (id)"}
	case 4:
		f := Function{Signature: Signature{name.Schema, name.Name, "integer, text"}, Kind: 'f', Owner: owner}
		return d.as(owner, "CREATE FUNCTION "+name.String()+"(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1'", func(c *Cluster, db string) { addFunction(c, db, f) })
	case 5:
		f := Function{Signature: Signature{name.Schema, name.Name, "integer"}, Kind: 'p', Owner: owner}
		return d.as(owner, "CREATE PROCEDURE "+name.String()+"(int) LANGUAGE sql AS 'SELECT 1'", func(c *Cluster, db string) { addFunction(c, db, f) })
	case 6:
		f := Function{Signature: Signature{name.Schema, name.Name, "integer"}, Kind: 'a', Owner: owner}
		return d.as(owner, "CREATE AGGREGATE "+name.String()+"(int) (sfunc = int4pl, stype = int)", func(c *Cluster, db string) { addFunction(c, db, f) })
	default:
		r.Kind = 'r'
		how := d.pick([]string{"int", "serial", "int GENERATED ALWAYS AS IDENTITY"})
		sql = []string{"CREATE TABLE " + name.String() + " (id " + how + ", total int)"}
		if how != "int" {
			also = append(also, Relation{Name: Name{schema, name.Name + "_id_seq"}, Kind: 'S', Owner: owner, PartOf: name})
		}
	}
	return d.as(owner, sql[0], func(c *Cluster, db string) {
		for _, r := range append(also, r) {
			c.AddRelation(db, r)
		}
	})
}

// as runs a statement as a role that is superuser for as long.
func (d *drive) as(role, sql string, apply func(*Cluster, string)) Statement {
	s := raw{sql: []string{"SET LOCAL ROLE " + grantee(role), sql, "RESET ROLE"}, apply: apply}
	if !d.model.Roles[role].Superuser {
		s.sql = slices.Concat([]string{"ALTER ROLE " + grantee(role) + " SUPERUSER"}, s.sql, []string{"ALTER ROLE " + grantee(role) + " NOSUPERUSER"})
	}
	return s
}

// addFunction adds a function as the server would make it.
func addFunction(c *Cluster, db string, f Function) {
	f.ACL = c.newACL(db, f.Owner, f.Schema, Routine)
	held := c.edit(db)
	held.Functions = maps.Clone(held.Functions)
	held.Functions[f.Signature] = &f
}
