package tasks

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// Role is a role with its attributes, password, memberships and settings.
// Attributes that are not given are those of CREATE ROLE, so that a role which
// somebody made a superuser is found; of the role that initdb made only what is
// given counts.
type Role struct {
	Common
	Role        inventory.Positioned[string] `toml:"role" required:"true" doc:"The role's name."`
	Login       bool                         `toml:"login" doc:"LOGIN; false by default."`
	Superuser   bool                         `toml:"superuser" doc:"SUPERUSER; false by default."`
	CreateDB    bool                         `toml:"createdb" doc:"CREATEDB; false by default."`
	CreateRole  bool                         `toml:"createrole" doc:"CREATEROLE; false by default."`
	Replication bool                         `toml:"replication" doc:"REPLICATION; false by default."`
	BypassRLS   bool                         `toml:"bypassrls" doc:"BYPASSRLS; false by default."`
	Inherit     *bool                        `toml:"inherit" doc:"INHERIT; true by default."`
	ConnLimit   *int                         `toml:"connection_limit" min:"-1" doc:"CONNECTION LIMIT; -1, the default, is none."`
	ValidUntil  validUntil                   `toml:"valid_until" doc:"When the password ends: a date and time, or \"infinity\". Left out, it does not."`
	Password    inventory.Positioned[string] `toml:"password" doc:"Where the password is: a secret such as \"age:app#password\"; or \"none\": the role has no password. Left out, it is left as it is."`
	Remote      *bool                        `toml:"remote" doc:"false: pg_hba.conf must let the role in over no TCP connection at all."`
	MemberOf    *[]membership                `toml:"member_of" doc:"The roles that it is a member of, and of no others. Left out, memberships are left as they are."`
	Settings    *parameters                  `toml:"settings" doc:"ALTER ROLE … SET; what is set by hand beside them is reset."`
	InDatabase  *databaseSettings            `toml:"database_settings" doc:"ALTER ROLE … IN DATABASE … SET: a table of settings for each database."`
	Comment     *string                      `toml:"comment" doc:"COMMENT ON ROLE. Left out, it is left as it is."`
	State       string                       `toml:"state" enum:"present,absent" doc:"absent drops the role."`
	ReassignTo  inventory.Positioned[string] `toml:"reassign_to" doc:"With state = \"absent\": who gets what the role owns, in every database."`
	DropOwned   bool                         `toml:"drop_owned" doc:"With state = \"absent\": drop what the role owns, tables and their rows too, in every database."`

	ref secrets.Ref
}

// validUntil is a time in the form of catalog.Role.
type validUntil string

// UnmarshalNode takes a date and time, or a string with one.
func (v *validUntil) UnmarshalNode(n *inventory.Node) inventory.Errors {
	var errs inventory.Errors
	switch n.Kind {
	case inventory.KindDatetime:
		*v = validUntil(n.Time.UTC().Format(time.RFC3339))
		return errs
	case inventory.KindString:
		if n.Str == "infinity" || n.Str == "" {
			*v = validUntil(n.Str)
			return errs
		}
		for _, form := range []string{time.RFC3339, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", "2006-01-02"} {
			if t, err := time.Parse(form, n.Str); err == nil {
				*v = validUntil(t.UTC().Format(time.RFC3339))
				return errs
			}
		}
	}
	errs.Add(n.Pos, `want "infinity" or a date and time such as 2027-01-31T00:00:00Z`)
	return errs
}

// JSONSchema describes a date and time or a word.
func (validUntil) JSONSchema() map[string]any {
	return map[string]any{"anyOf": []any{map[string]any{"type": "string", "format": "date-time"}, map[string]any{"type": "string"}}}
}

// A membership is one role that a role is a member of, by its name alone or as a
// table with the options of 16 and later.
type membership struct {
	role                string
	admin, inherit, set *bool
	pos                 inventory.Position
}

// UnmarshalNode takes a name or a table.
func (m *membership) UnmarshalNode(n *inventory.Node) inventory.Errors {
	m.pos = n.Pos
	if n.Kind == inventory.KindString {
		m.role = n.Str
		return nil
	}
	var table struct {
		Role    string `toml:"role" required:"true"`
		Admin   *bool  `toml:"admin"`
		Inherit *bool  `toml:"inherit"`
		Set     *bool  `toml:"set"`
	}
	errs := inventory.Decode(n, &table)
	m.role, m.admin, m.inherit, m.set = table.Role, table.Admin, table.Inherit, table.Set
	return errs
}

// JSONSchema describes both forms.
func (membership) JSONSchema() map[string]any {
	option := map[string]any{"type": "boolean"}
	return map[string]any{"anyOf": []any{map[string]any{"type": "string"}, map[string]any{
		"type": "object", "required": []string{"role"}, "additionalProperties": false,
		"properties": map[string]any{"role": map[string]any{"type": "string"}, "admin": option, "inherit": option, "set": option},
	}}}
}

// databaseSettings is a table of parameters for each database.
type databaseSettings []databaseParameters

type databaseParameters struct {
	database string
	pos      inventory.Position
	settings parameters
}

// UnmarshalNode takes a table of tables.
func (d *databaseSettings) UnmarshalNode(n *inventory.Node) inventory.Errors {
	var errs inventory.Errors
	if n.Kind != inventory.KindTable {
		errs.Add(n.Pos, "want a table of databases, each with a table of parameters")
		return errs
	}
	*d = databaseSettings{}
	for _, k := range n.Keys {
		x := databaseParameters{database: k.Name, pos: k.Pos}
		errs = append(errs, x.settings.UnmarshalNode(k.Value)...)
		*d = append(*d, x)
	}
	return errs
}

// JSONSchema describes the table.
func (databaseSettings) JSONSchema() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": parameters{}.JSONSchema()}
}

// Check finds mistakes in names and contradictions.
func (t *Role) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	checkName("role", t.Role, &errs)
	name := t.Role.Value
	if strings.EqualFold(name, "public") || name == "none" {
		errs.Add(t.Role.Pos(), "role: %q is a word of its own in SQL and cannot be a role's name", name)
	}
	if t.State == "absent" {
		for _, key := range []string{"login", "superuser", "password", "member_of", "settings", "database_settings", "comment"} {
			if t.given(key) {
				errs.Add(t.at(key), "%s: the role is to be absent", key)
			}
		}
		if t.ReassignTo.Value == name && name != "" {
			errs.Add(t.ReassignTo.Pos(), "reassign_to: it is the role that is dropped")
		}
		return errs
	}
	if t.ReassignTo.Value != "" || t.DropOwned {
		errs.Add(t.node.Pos, "reassign_to and drop_owned go with state = \"absent\"")
	}
	if v := t.Password.Value; v != "" && v != "none" {
		var err error
		if t.ref, err = passwordRef(v); err != nil {
			errs.Add(t.Password.Pos(), "password: %v; or \"none\" for no password", err)
		}
	}
	if t.MemberOf != nil {
		for _, m := range *t.MemberOf {
			checkNameAt("member_of", m.role, m.pos, &errs)
			if (m.inherit != nil || m.set != nil) && in.Version < 16 {
				errs.Add(m.pos, "member_of: the options inherit and set of a membership exist from PostgreSQL 16 on; %s is %d", in.ID(), in.Version)
			}
			if m.role == name {
				errs.Add(m.pos, "member_of: a role cannot be a member of itself")
			}
		}
	}
	return errs
}

// secrets returns where the password is: planning compares it with what the
// server holds.
func (t *Role) secrets() []secrets.Ref {
	if t.ref == (secrets.Ref{}) {
		return nil
	}
	return []secrets.Ref{t.ref}
}

// Reads asks for the catalogs; to drop a role, for those of every database in
// which something depends on it.
func (t *Role) Reads(in inventory.Instance, s *State) []facts.Read {
	reads := catalogReads(in)
	if t.Remote != nil {
		reads = append(reads, facts.File{Path: s.paths().hba})
	}
	if c, err := s.Cluster(); err == nil && t.State == "absent" {
		for _, d := range c.Depends {
			if d.Role == t.Role.Value && d.Database != "" {
				reads = append(reads, contentsRead(in, d.Database))
			}
		}
	}
	return reads
}

// Plan compares the role with what is wanted.
func (t *Role) Plan(in inventory.Instance, s *State) (Outcome, error) {
	return t.planSQL(s, nil, func(x *script, out *Outcome) error {
		found := x.catalogs.Roles[t.Role.Value]
		if t.State == "absent" {
			return t.drop(x, found)
		}
		wanted := t.wanted(x.catalogs, found)
		switch {
		case found == nil && strings.HasPrefix(wanted.Name, "pg_"):
			return inventory.Error{Pos: t.Role.Pos(), Msg: fmt.Sprintf("there is no role %q, and names that begin with pg_ are PostgreSQL's own", wanted.Name)}
		case found == nil:
			x.do(maintenanceDatabase, catalog.CreateRole{Role: wanted})
		case attributes(*found) != attributes(wanted):
			x.do(maintenanceDatabase, catalog.AlterRole{Was: *found, Want: wanted})
		}
		var problems []error
		problems = append(problems, t.password(s, x, found), t.memberships(x), t.settings(s, x))
		if t.Comment != nil {
			if old := x.catalogs.Roles[wanted.Name].Comment; old != *t.Comment {
				x.do(maintenanceDatabase, catalog.SetComment{On: "ROLE", Name: wanted.Name, Text: *t.Comment})
			}
		}
		if t.Remote != nil && !*t.Remote {
			problems = append(problems, t.keptOut(s, x.catalogs))
		}
		return errors.Join(problems...)
	})
}

// wanted is the role as declared.
func (t *Role) wanted(c *catalog.Cluster, found *catalog.Role) catalog.Role {
	r := catalog.Role{Name: t.Role.Value, Inherit: true, ConnLimit: -1}
	if found != nil && r.Name == c.Bootstrap {
		r = *found
	}
	if t.given("login") {
		r.Login = t.Login
	}
	if t.given("superuser") {
		r.Superuser = t.Superuser
	}
	if t.given("createdb") {
		r.CreateDB = t.CreateDB
	}
	if t.given("createrole") {
		r.CreateRole = t.CreateRole
	}
	if t.given("replication") {
		r.Replication = t.Replication
	}
	if t.given("bypassrls") {
		r.BypassRLS = t.BypassRLS
	}
	if t.Inherit != nil {
		r.Inherit = *t.Inherit
	}
	if t.ConnLimit != nil {
		r.ConnLimit = *t.ConnLimit
	}
	if t.given("valid_until") {
		r.ValidUntil = string(t.ValidUntil)
	}
	return r
}

// roleAttributes are what CREATE ROLE and ALTER ROLE say of a role, but for its
// password.
type roleAttributes struct {
	superuser, inherit, createRole, createDB, login, replication, bypassRLS bool

	connLimit  int
	validUntil string
}

func attributes(r catalog.Role) roleAttributes {
	until := r.ValidUntil
	if until == "" {
		until = "infinity" // which means the same: see catalog.AlterRole
	}
	return roleAttributes{r.Superuser, r.Inherit, r.CreateRole, r.CreateDB, r.Login, r.Replication, r.BypassRLS, r.ConnLimit, until}
}

// password compares the stored verifier with the password: equal means that
// there is nothing to do.
func (t *Role) password(s *State, x *script, found *catalog.Role) error {
	role := t.Role.Value
	switch {
	case t.Password.Value == "":
		return nil
	case t.Password.Value == "none":
		if found != nil && found.HasPassword {
			x.do(maintenanceDatabase, catalog.SetPassword{Role: role, None: true})
		}
		return nil
	}
	value, ok := s.Secret(t.ref)
	if !ok {
		return inventory.Error{Pos: t.Password.Pos(), Msg: fmt.Sprintf("the value of secret %v was not read", t.ref)}
	}
	if err := postgres.CheckPassword(string(value.Expose())); err != nil {
		return inventory.Error{Pos: t.Password.Pos(), Msg: fmt.Sprintf("secret %v: %v", t.ref, err)}
	}
	if found != nil && found.HasPassword && postgres.Matches(string(found.Password.Expose()), string(value.Expose())) {
		return nil
	}
	x.do(maintenanceDatabase, catalog.SetPassword{Role: role, Secret: t.ref})
	return nil
}

// drop removes the role and what depends on it, which has to be said.
func (t *Role) drop(x *script, found *catalog.Role) error {
	if found == nil {
		return nil
	}
	name := found.Name
	if name == x.catalogs.Bootstrap {
		return inventory.Error{Pos: t.Role.Pos(), Msg: fmt.Sprintf("%s is the role that initdb made, and cannot be dropped", name)}
	}
	var owns []string
	var in []string
	shared := false
	for _, d := range x.catalogs.Depends {
		if d.Role != name {
			continue
		}
		place := "what the databases share"
		if d.Database == "" {
			shared = true
		} else {
			place = "database " + d.Database
			if !slices.Contains(in, d.Database) {
				in = append(in, d.Database)
			}
		}
		if d.Owner {
			owns = append(owns, fmt.Sprintf("%d in %s", d.Objects, place))
		}
	}
	if len(owns) > 0 && t.ReassignTo.Value == "" && !t.DropOwned {
		return inventory.Error{Pos: t.Role.Pos(), Msg: fmt.Sprintf("%s owns objects (%s): say who gets them with reassign_to = \"ROLE\", or drop them, rows and all, with drop_owned = true",
			name, strings.Join(owns, ", "))}
	}
	if err := needRole(x.catalogs, t.ReassignTo.Value, t.ReassignTo.Pos()); err != nil {
		return err
	}
	if shared && len(in) == 0 {
		in = append(in, maintenanceDatabase)
	}
	slices.Sort(in)
	for _, db := range in {
		if err := t.revokePassedOn(x, db); err != nil {
			return err
		}
		if t.ReassignTo.Value != "" && len(owns) > 0 {
			x.do(db, catalog.ReassignOwned{Role: name, To: t.ReassignTo.Value})
		}
		x.do(db, catalog.DropOwned{Role: name})
		if err := revoke(x, db, everything(x.catalogs, db), name, ^catalog.Privileges(0)); err != nil {
			return problemAt(t.Role.Pos(), "%v", err)
		}
	}
	x.do(maintenanceDatabase, catalog.DropRole{Name: name})
	return nil
}

// everything returns the databases and all objects of one of them. DROP OWNED
// leaves the privileges that somebody else than an object's owner has granted, and
// DROP ROLE then fails.
func everything(c *catalog.Cluster, database string) []catalog.Object {
	var list []catalog.Object
	for _, name := range slices.Sorted(maps.Keys(c.Databases)) {
		list = append(list, catalog.Object{Kind: catalog.DatabaseKind, Name: name})
	}
	held := c.Contents[database]
	if held == nil {
		return list
	}
	for _, schema := range slices.Sorted(maps.Keys(held.Schemas)) {
		list = append(list, catalog.Object{Kind: catalog.SchemaKind, Name: schema})
		for _, kind := range []catalog.Kind{catalog.Table, catalog.Sequence, catalog.Routine} {
			list = append(list, c.Objects(database, kind, schema)...)
		}
	}
	return withColumns(c, database, list)
}

// revokePassedOn takes away what passedOn finds, in the name of who granted it.
func (t *Role) revokePassedOn(x *script, database string) error {
	name := t.Role.Value
	var problems []error
	for _, o := range passedOn(x.catalogs, database, name) {
		acl, _ := x.catalogs.Effective(database, o)
		owner, _ := x.catalogs.Owner(database, o)
		for _, item := range acl {
			if item.Grantee != name || item.Grantor == owner {
				continue
			}
			if why := irrevocable(x.catalogs, withColumnItems(x.catalogs, database, o, acl), item, item.Privileges, owner); why != "" {
				problems = append(problems, problemAt(t.Role.Pos(), "%s of %s on %s cannot be revoked: %s", item.Privileges, name, o, why))
				continue
			}
			x.do(database, catalog.Revoke{On: []catalog.Object{o}, From: name, Privileges: item.Privileges, Grantor: item.Grantor})
		}
	}
	return errors.Join(problems...)
}

// passedOn returns the objects of a database on which a role has privileges that
// somebody other than the owner granted: DROP OWNED leaves those, and then DROP
// ROLE fails.
func passedOn(c *catalog.Cluster, database, role string) []catalog.Object {
	var all, list []catalog.Object
	for name := range c.Databases {
		all = append(all, catalog.Object{Kind: catalog.DatabaseKind, Name: name})
	}
	if held := c.Contents[database]; held != nil {
		for schema := range held.Schemas {
			all = append(all, catalog.Object{Kind: catalog.SchemaKind, Name: schema})
			for _, kind := range []catalog.Kind{catalog.Table, catalog.Sequence, catalog.Routine} {
				all = append(all, withColumns(c, database, c.Objects(database, kind, schema))...)
			}
		}
	}
	for _, o := range all {
		acl, _ := c.Effective(database, o)
		owner, _ := c.Owner(database, o)
		if slices.ContainsFunc(acl, func(i catalog.Item) bool { return i.Grantee == role && i.Grantor != owner }) {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b catalog.Object) int { return strings.Compare(a.String(), b.String()) })
	return list
}
