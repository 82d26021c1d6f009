package catalog

import (
	"maps"
	"slices"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// AlterOwner gives an object to another role.
type AlterOwner struct {
	Object Object
	Owner  string
}

// SQL is ALTER … OWNER TO. ALTER TABLE does for views as well, ALTER ROUTINE for
// functions, procedures and aggregates.
func (s AlterOwner) SQL() string {
	kind := string(s.Object.Kind)
	if s.Object.Kind == Routine {
		kind = "ROUTINE"
	}
	return "ALTER " + kind + " " + s.Object.name() + " OWNER TO " + postgres.QuoteIdent(s.Owner)
}

// Subject is the object.
func (s AlterOwner) Subject() string { return subjectOf([]Object{s.Object}) }

// Alone is false.
func (s AlterOwner) Alone() bool { return false }

// Apply changes the owner, and puts the new one in the place of the old one in
// the ACL. The sequences of a table's serial and identity columns go with it.
func (s AlterOwner) Apply(c *Cluster, in string) { c.setOwner(c.edit(in), in, s.Object, s.Owner) }

func (c *Cluster) setOwner(held *Contents, in string, o Object, to string) {
	was, acl, ok := c.access(in, o)
	if !ok || was == to {
		return
	}
	c.setAccess(held, o, to, acl.owned(was, to))
	if o.Kind != Table {
		return
	}
	r := *held.Relations[o.relation()]
	r.ColumnACL = maps.Clone(r.ColumnACL)
	for column, acl := range r.ColumnACL {
		r.ColumnACL[column] = acl.owned(was, to)
	}
	held.Relations[o.relation()] = &r
	for _, sequence := range held.Relations {
		if sequence.PartOf == r.Name && sequence.Kind == 'S' {
			c.setOwner(held, in, sequence.object(), to)
		}
	}
}

// ReassignOwned gives all that a role owns in the database that the statement
// runs in, and the databases that it owns, to another.
type ReassignOwned struct{ Role, To string }

// SQL is REASSIGN OWNED.
func (s ReassignOwned) SQL() string {
	return "REASSIGN OWNED BY " + postgres.QuoteIdent(s.Role) + " TO " + postgres.QuoteIdent(s.To)
}

// Subject is the role that owns.
func (s ReassignOwned) Subject() string { return subjectRole(s.Role) }

// Alone is false.
func (s ReassignOwned) Alone() bool { return false }

// Apply changes the owners. The role's privileges on what is others' stay.
func (s ReassignOwned) Apply(c *Cluster, in string) {
	for _, name := range sortedKeys(c.Databases) {
		if c.Databases[name].Owner == s.Role {
			c.setOwner(nil, in, Object{Kind: DatabaseKind, Name: name}, s.To)
		}
	}
	var depends []Dependency
	for _, d := range c.Depends {
		if d.Role == s.Role && d.Owner && (d.Database == in || d.Database == "") {
			d.Role = s.To
			depends = addDependency(depends, d)
			continue
		}
		depends = addDependency(depends, d)
	}
	c.Depends = depends
	held := c.edit(in)
	if held == nil {
		return
	}
	for o := range held.objects() {
		if owner, _ := c.Owner(in, o); owner == s.Role {
			c.setOwner(held, in, o, s.To)
		}
	}
	for name, e := range held.Extensions {
		if e.Owner == s.Role {
			n := *e
			n.Owner = s.To
			held.Extensions[name] = &n
		}
	}
}

// addDependency adds one to those of the same role, database and kind.
func addDependency(list []Dependency, d Dependency) []Dependency {
	for i, x := range list {
		if x.Role == d.Role && x.Database == d.Database && x.Owner == d.Owner {
			list[i].Objects += d.Objects
			return list
		}
	}
	return append(list, d)
}

// objects returns all schemas, relations and functions.
func (h *Contents) objects() map[Object]bool {
	all := map[Object]bool{}
	for name := range h.Schemas {
		all[Object{Kind: SchemaKind, Name: name}] = true
	}
	for _, r := range h.Relations {
		all[r.object()] = true
	}
	for _, f := range h.Functions {
		all[f.object()] = true
	}
	return all
}

// DropOwned drops all that a role owns in the database that the statement runs
// in, and the privileges and default privileges that name it.
type DropOwned struct{ Role string }

// SQL is DROP OWNED.
func (s DropOwned) SQL() string { return "DROP OWNED BY " + postgres.QuoteIdent(s.Role) }

// Subject is the role that owns.
func (s DropOwned) Subject() string { return subjectRole(s.Role) }

// Alone is false.
func (s DropOwned) Alone() bool { return false }

// Apply removes what the role owns and its privileges, on databases too, and from
// 16 on the memberships that it gave. The databases that it owns stay, and so do
// privileges that somebody else than an object's owner gave it: the server does
// not find them either.
func (s DropOwned) Apply(c *Cluster, in string) {
	if c.Version.Major() >= 16 {
		c.Members = slices.DeleteFunc(slices.Clone(c.Members), func(m Membership) bool { return m.Grantor == s.Role })
	}
	for _, name := range sortedKeys(c.Databases) {
		c.disown(nil, in, Object{Kind: DatabaseKind, Name: name}, s.Role)
	}
	c.Depends = slices.DeleteFunc(slices.Clone(c.Depends), func(d Dependency) bool {
		return d.Role == s.Role && (d.Database == in || d.Database == "" && !d.Owner)
	})
	held := c.edit(in)
	if held == nil {
		return
	}
	held.dropOwned(s.Role)
	for o := range held.objects() {
		c.disown(held, in, o, s.Role)
	}
	for _, d := range held.Defaults {
		if d.ACL.names(s.Role) {
			d.ACL = d.ACL.without(revocation{s.Role, d.Role, AllPrivileges(d.Kind, c.Version.Major()), false, d.Role, c.hasIn(in)})
			c.setDefault(held, d)
		}
	}
	held.dropFromPolicies(s.Role)
}

// disown revokes from a role what the owner of an object gave it, where the
// object's ACL or that of a column names it.
func (c *Cluster) disown(held *Contents, in string, o Object, role string) {
	owner, acl, _ := c.access(in, o)
	named := acl.names(role)
	if o.Kind == Table {
		for _, acl := range held.Relations[o.relation()].ColumnACL {
			named = named || acl.names(role)
		}
	}
	if named && owner != role {
		c.revoke(held, in, o, Revoke{From: role, Privileges: AllPrivileges(o.Kind, c.Version.Major())})
	}
}

func (h *Contents) dropOwned(role string) {
	for name, s := range h.Schemas {
		if s.Owner == role {
			h.dropSchema(name)
		}
	}
	for name, e := range h.Extensions {
		if e.Owner == role {
			h.dropExtension(name)
		}
	}
	maps.DeleteFunc(h.Relations, func(_ Name, r *Relation) bool { return r.Owner == role })
	maps.DeleteFunc(h.Functions, func(_ Signature, f *Function) bool { return f.Owner == role })
	h.Defaults = slices.DeleteFunc(slices.Clone(h.Defaults), func(d DefaultACL) bool { return d.Role == role })
}

func (h *Contents) dropSchema(name string) {
	delete(h.Schemas, name)
	h.Defaults = slices.DeleteFunc(slices.Clone(h.Defaults), func(d DefaultACL) bool { return d.Schema == name })
}

func (h *Contents) dropExtension(name string) {
	delete(h.Extensions, name)
	maps.DeleteFunc(h.Relations, func(_ Name, r *Relation) bool { return r.Extension == name })
	maps.DeleteFunc(h.Functions, func(_ Signature, f *Function) bool { return f.Extension == name })
}

// dropFromPolicies takes a role out of the policies that name it. One that is for
// nobody else is dropped.
func (h *Contents) dropFromPolicies(role string) {
	for table, r := range h.Relations {
		for name, p := range r.Policies {
			if !slices.Contains(p.Roles, role) {
				continue
			}
			n := *p
			n.Roles = slices.DeleteFunc(slices.Clone(p.Roles), func(x string) bool { return x == role })
			if len(n.Roles) == 0 {
				h.setPolicy(table, name, nil)
			} else {
				h.setPolicy(table, name, &n)
			}
		}
	}
}
