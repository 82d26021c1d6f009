package catalog

import (
	"maps"
	"slices"
	"strings"
)

// Clone returns a copy that changes on its own. It is cheap: what a Contents and
// the values of the maps hold is shared, and never modified in place but
// replaced by a changed copy.
func (c *Cluster) Clone() *Cluster {
	n := *c
	n.Roles = maps.Clone(c.Roles)
	n.Members = slices.Clone(c.Members)
	n.Databases = maps.Clone(c.Databases)
	n.Settings = slices.Clone(c.Settings)
	n.Depends = slices.Clone(c.Depends)
	n.Contents = maps.Clone(c.Contents)
	return &n
}

// edit puts a copy of a database's contents in their place, whose maps may be
// changed; nil where they are not known.
func (c *Cluster) edit(db string) *Contents {
	held := c.Contents[db]
	if held == nil {
		return nil
	}
	n := *held
	n.Schemas = maps.Clone(held.Schemas)
	n.Relations = maps.Clone(held.Relations)
	n.Functions = maps.Clone(held.Functions)
	n.Extensions = maps.Clone(held.Extensions)
	n.Defaults = slices.Clone(held.Defaults)
	c.Contents[db] = &n
	return &n
}

// Role returns a role, or nil.
func (c *Cluster) Role(name string) *Role { return c.Roles[name] }

// MemberOf reports whether a role is a direct or indirect member of another, or
// that role itself. Being superuser does not count, and neither does owning the
// database, which makes a member of pg_database_owner.
func (c *Cluster) MemberOf(role, of string) bool {
	seen := map[string]bool{role: true}
	for todo := []string{role}; len(todo) > 0; todo = todo[1:] {
		if todo[0] == of {
			return true
		}
		for _, m := range c.Members {
			if m.Member == todo[0] && !seen[m.Role] {
				seen[m.Role] = true
				todo = append(todo, m.Role)
			}
		}
	}
	return false
}

// privilegesOf returns the roles whose privileges a role has in a database, itself
// first: those that it inherits, and pg_database_owner for the database's owner.
func (c *Cluster) privilegesOf(role, db string) []string {
	of := []string{role}
	for at := 0; at < len(of); at++ {
		r := c.Roles[of[at]]
		if d := c.Databases[db]; d != nil && d.Owner == of[at] && (c.Version.Major() >= 16 || r == nil || r.Inherit) {
			of = appendNew(of, "pg_database_owner")
		}
		for _, m := range c.Members {
			if m.Member != of[at] {
				continue
			}
			if c.Version.Major() < 16 && r != nil && !r.Inherit || c.Version.Major() >= 16 && !m.Inherit {
				continue
			}
			of = appendNew(of, m.Role)
		}
	}
	return of
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// hasIn returns whether a role has the privileges of another in a database, as
// has_privs_of_role of the server says it.
func (c *Cluster) hasIn(db string) func(role, of string) bool {
	return func(role, of string) bool {
		if r := c.Roles[role]; r != nil && r.Superuser {
			return true
		}
		return slices.Contains(c.privilegesOf(role, db), of)
	}
}

// Owner returns an object's owner, of a column that of its table, or false where
// there is no such object.
func (c *Cluster) Owner(db string, o Object) (string, bool) {
	owner, _, ok := c.access(db, o)
	return owner, ok
}

// Effective returns an object's privileges: its ACL, or what NULL stands for. It
// returns false where there is no such object.
func (c *Cluster) Effective(db string, o Object) (ACL, bool) {
	owner, acl, ok := c.access(db, o)
	if ok && acl == nil {
		acl = DefaultACLFor(o.Kind, owner, c.Version.Major())
	}
	return acl, ok
}

// access returns an object's owner and its ACL as it is stored.
func (c *Cluster) access(db string, o Object) (owner string, acl ACL, ok bool) {
	if o.Kind == DatabaseKind {
		if d := c.Databases[o.Name]; d != nil {
			return d.Owner, d.ACL, true
		}
		return "", nil, false
	}
	held := c.Contents[db]
	if held == nil {
		return "", nil, false
	}
	switch o.Kind {
	case SchemaKind:
		if s := held.Schemas[o.Name]; s != nil {
			return s.Owner, s.ACL, true
		}
	case Routine:
		if f := held.Functions[o.signature()]; f != nil {
			return f.Owner, f.ACL, true
		}
	case Table, Sequence:
		if r := held.Relations[o.relation()]; r != nil {
			return r.Owner, r.ACL, true
		}
	case Column:
		if r := held.Relations[o.relation()]; r != nil && (len(r.Columns) == 0 || slices.Contains(r.Columns, o.Column)) {
			return r.Owner, r.ColumnACL[o.Column], true
		}
	}
	return "", nil, false
}

// setAccess gives an object another owner and ACL. Held is from edit, and not
// needed for a database.
func (c *Cluster) setAccess(held *Contents, o Object, owner string, acl ACL) {
	switch o.Kind {
	case DatabaseKind:
		d := *c.Databases[o.Name]
		d.Owner, d.ACL = owner, acl
		c.Databases[o.Name] = &d
	case SchemaKind:
		s := *held.Schemas[o.Name]
		s.Owner, s.ACL = owner, acl
		held.Schemas[o.Name] = &s
	case Routine:
		f := *held.Functions[o.signature()]
		f.Owner, f.ACL = owner, acl
		held.Functions[o.signature()] = &f
	case Table, Sequence:
		r := *held.Relations[o.relation()]
		r.Owner, r.ACL = owner, acl
		held.Relations[o.relation()] = &r
	case Column:
		r := *held.Relations[o.relation()]
		r.ColumnACL = maps.Clone(r.ColumnACL)
		if r.ColumnACL == nil {
			r.ColumnACL = map[string]ACL{}
		}
		if r.ColumnACL[o.Column] = acl; len(acl) == 0 {
			delete(r.ColumnACL, o.Column) // the server stores NULL for a column's empty ACL
		}
		held.Relations[o.relation()] = &r
	}
}

// Objects returns what there is of a kind in a schema, sorted. Views,
// materialized views, foreign and partitioned tables are of kind Table.
func (c *Cluster) Objects(db string, kind Kind, schema string) []Object {
	held := c.Contents[db]
	if held == nil {
		return nil
	}
	var objects []Object
	switch kind {
	case Table, Sequence:
		for name, r := range held.Relations {
			if name.Schema == schema && r.object().Kind == kind {
				objects = append(objects, r.object())
			}
		}
	case Routine:
		for s, f := range held.Functions {
			if s.Schema == schema {
				objects = append(objects, f.object())
			}
		}
	}
	slices.SortFunc(objects, func(a, b Object) int {
		if by := strings.Compare(a.Name, b.Name); by != 0 {
			return by
		}
		return strings.Compare(a.Args, b.Args)
	})
	return objects
}

func (r *Relation) object() Object {
	kind := Table
	if r.Kind == 'S' {
		kind = Sequence
	}
	return Object{Kind: kind, Schema: r.Schema, Name: r.Name.Name}
}

func (f *Function) object() Object {
	return Object{Kind: Routine, Schema: f.Schema, Name: f.Name, Args: f.Args}
}
