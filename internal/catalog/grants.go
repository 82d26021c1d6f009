package catalog

import (
	"math/bits"
	"slices"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// Grant gives privileges on objects of one kind to one role, or PUBLIC ("").
// Columns are of one table.
type Grant struct {
	On         []Object
	To         string
	Privileges Privileges
	Grantable  bool // WITH GRANT OPTION
}

// SQL is GRANT.
func (s Grant) SQL() string {
	sql := "GRANT " + onObjects(s.Privileges, s.On) + " TO " + grantee(s.To)
	if s.Grantable {
		sql += " WITH GRANT OPTION"
	}
	return sql
}

// Subject is the objects.
func (s Grant) Subject() string { return subjectOf(s.On) }

// Alone is false.
func (s Grant) Alone() bool { return false }

// Apply adds the privileges, which are then the owner's gift: a superuser's GRANT
// is that of the owner.
func (s Grant) Apply(c *Cluster, in string) {
	held := c.edit(in)
	for _, o := range s.On {
		acl, ok := c.Effective(in, o)
		if !ok {
			continue
		}
		owner, _ := c.Owner(in, o)
		c.setAccess(held, o, owner, acl.With(s.To, owner, s.Privileges, s.Grantable))
	}
}

// Revoke takes privileges away. Grantor is who gave them where that is not the
// owner: the statement is then run as that role.
type Revoke struct {
	On         []Object
	From       string
	Privileges Privileges
	OptionOnly bool // GRANT OPTION FOR
	Grantor    string
}

// SQL is REVOKE. The role that it is run as stands in a comment at its end.
func (s Revoke) SQL() string {
	sql := "REVOKE "
	if s.OptionOnly {
		sql += "GRANT OPTION FOR "
	}
	sql += onObjects(s.Privileges, s.On) + " FROM " + grantee(s.From)
	if s.Grantor != "" {
		sql += " -- granted by " + postgres.QuoteIdent(s.Grantor)
	}
	return sql
}

// RunAs is the role that the statement has to be run as (SET LOCAL ROLE), or "".
// PostgreSQL takes back only what the current role, or the owner for a superuser,
// has given.
func (s Revoke) RunAs() string { return s.Grantor }

// Subject is the objects.
func (s Revoke) Subject() string { return subjectOf(s.On) }

// Alone is false.
func (s Revoke) Alone() bool { return false }

// Apply takes the privileges away, on a table those on its columns too.
func (s Revoke) Apply(c *Cluster, in string) {
	held := c.edit(in)
	for _, o := range s.On {
		c.revoke(held, in, o, s)
	}
}

func (c *Cluster) revoke(held *Contents, in string, o Object, s Revoke) {
	acl, ok := c.Effective(in, o)
	if !ok {
		return
	}
	owner, _ := c.Owner(in, o)
	has := c.hasIn(in)
	by, options := c.bestGrantor(acl, s.Grantor, owner, s.Privileges, in)
	c.setAccess(held, o, owner, acl.without(revocation{s.From, by, s.Privileges & options, s.OptionOnly, owner, has}))
	if o.Kind != Table {
		return
	}
	onColumns := s.Privileges & AllPrivileges(Column, c.Version.Major())
	for column, its := range held.Relations[o.relation()].ColumnACL {
		by, options := c.bestGrantor(slices.Concat(acl, its), s.Grantor, owner, onColumns, in)
		o := Object{Kind: Column, Schema: o.Schema, Name: o.Name, Column: column}
		c.setAccess(held, o, owner, its.without(revocation{s.From, by, onColumns & options, s.OptionOnly, owner, has}))
	}
}

// bestGrantor returns who is the grantor of a GRANT or REVOKE that a role runs,
// "" being a superuser, and for which of the privileges it has the option. It is
// select_best_grantor of the server.
func (c *Cluster) bestGrantor(acl ACL, role, owner string, p Privileges, in string) (string, Privileges) {
	if r := c.Roles[role]; role == "" || role == owner || r != nil && r.Superuser {
		return owner, p
	}
	best, options := role, Privileges(0)
	for _, other := range c.privilegesOf(role, in) {
		held := p
		if other != owner {
			_, grantable := acl.Of(other)
			held &= grantable
		}
		if held == p {
			return other, p
		}
		if bits.OnesCount32(uint32(held)) > bits.OnesCount32(uint32(options)) {
			best, options = other, held
		}
	}
	return best, options
}

// AlterDefaultPrivileges changes what a role's new objects are given. It is
// always FOR ROLE.
type AlterDefaultPrivileges struct {
	Role, Schema string // Schema "" is all of them
	Kind         Kind
	To           string
	Privileges   Privileges
	Grantable    bool // of a revoke: GRANT OPTION FOR
	Revoke       bool
}

// SQL is ALTER DEFAULT PRIVILEGES.
func (s AlterDefaultPrivileges) SQL() string {
	sql := "ALTER DEFAULT PRIVILEGES FOR ROLE " + postgres.QuoteIdent(s.Role)
	if s.Schema != "" {
		sql += " IN SCHEMA " + postgres.QuoteIdent(s.Schema)
	}
	on := wordList(s.Privileges, s.Kind) + " ON " + string(s.Kind) + "S"
	switch {
	case s.Revoke && s.Grantable:
		return sql + " REVOKE GRANT OPTION FOR " + on + " FROM " + grantee(s.To)
	case s.Revoke:
		return sql + " REVOKE " + on + " FROM " + grantee(s.To)
	case s.Grantable:
		return sql + " GRANT " + on + " TO " + grantee(s.To) + " WITH GRANT OPTION"
	}
	return sql + " GRANT " + on + " TO " + grantee(s.To)
}

// Subject is the default privileges of the role.
func (s AlterDefaultPrivileges) Subject() string {
	subject := "default privileges of " + subjectRole(s.Role)
	if s.Schema != "" {
		subject += " in schema " + postgres.QuoteIdent(s.Schema)
	}
	return subject
}

// Alone is false.
func (s AlterDefaultPrivileges) Alone() bool { return false }

// Apply changes the entry, or removes it where it then says what holds without.
func (s AlterDefaultPrivileges) Apply(c *Cluster, in string) {
	held := c.edit(in)
	if held == nil {
		return
	}
	acl := c.EffectiveDefault(in, s.Role, s.Schema, s.Kind)
	if s.Revoke {
		acl = acl.without(revocation{s.To, s.Role, s.Privileges, s.Grantable, s.Role, c.hasIn(in)})
	} else {
		acl = acl.With(s.To, s.Role, s.Privileges, s.Grantable)
	}
	c.setDefault(held, DefaultACL{Role: s.Role, Schema: s.Schema, Kind: s.Kind, ACL: acl})
}
