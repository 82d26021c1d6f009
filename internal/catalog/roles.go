package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// CreateRole makes a role, without a password and without a comment.
type CreateRole struct{ Role Role }

// SQL names the attributes that are not the default.
func (s CreateRole) SQL() string {
	plain := Role{Inherit: true, ConnLimit: -1}
	return "CREATE ROLE " + postgres.QuoteIdent(s.Role.Name) + attributes(plain, s.Role)
}

// Subject is the role.
func (s CreateRole) Subject() string { return subjectRole(s.Role.Name) }

// Alone is false.
func (s CreateRole) Alone() bool { return false }

// Apply adds the role.
func (s CreateRole) Apply(c *Cluster, _ string) {
	r := s.Role
	r.HasPassword, r.Password, r.Comment = false, secrets.Secret{}, ""
	c.Roles[r.Name] = &r
}

// AlterRole changes the attributes in which Want differs from Was: not the
// password, not the comment.
type AlterRole struct{ Was, Want Role }

// SQL names the attributes that change.
func (s AlterRole) SQL() string {
	return "ALTER ROLE " + postgres.QuoteIdent(s.Was.Name) + attributes(s.Was, s.Want)
}

// Subject is the role.
func (s AlterRole) Subject() string { return subjectRole(s.Was.Name) }

// Alone is false.
func (s AlterRole) Alone() bool { return false }

// Apply changes those attributes of the role.
func (s AlterRole) Apply(c *Cluster, _ string) {
	held := c.Roles[s.Was.Name]
	if held == nil {
		return
	}
	r := *held
	for _, f := range flags(&r) {
		was, want := f.of(s.Was), f.of(s.Want)
		if was != want {
			*f.field = want
		}
	}
	if s.Was.ConnLimit != s.Want.ConnLimit {
		r.ConnLimit = s.Want.ConnLimit
	}
	if until(s.Was) != until(s.Want) {
		r.ValidUntil = until(s.Want)
	}
	c.Roles[r.Name] = &r
}

// A flag is an attribute that a role has or has not.
type flag struct {
	word  string
	field *bool
	of    func(Role) bool
}

// flags returns them in the order of the manual of CREATE ROLE.
func flags(r *Role) []flag {
	return []flag{
		{"SUPERUSER", &r.Superuser, func(r Role) bool { return r.Superuser }},
		{"CREATEDB", &r.CreateDB, func(r Role) bool { return r.CreateDB }},
		{"CREATEROLE", &r.CreateRole, func(r Role) bool { return r.CreateRole }},
		{"INHERIT", &r.Inherit, func(r Role) bool { return r.Inherit }},
		{"LOGIN", &r.Login, func(r Role) bool { return r.Login }},
		{"REPLICATION", &r.Replication, func(r Role) bool { return r.Replication }},
		{"BYPASSRLS", &r.BypassRLS, func(r Role) bool { return r.BypassRLS }},
	}
}

// attributes returns the options in which two roles differ, each after a blank.
func attributes(was, want Role) string {
	var b strings.Builder
	for _, f := range flags(&Role{}) {
		switch {
		case f.of(was) == f.of(want):
		case f.of(want):
			b.WriteString(" " + f.word)
		default:
			b.WriteString(" NO" + f.word)
		}
	}
	if was.ConnLimit != want.ConnLimit {
		fmt.Fprintf(&b, " CONNECTION LIMIT %d", want.ConnLimit)
	}
	if until(was) != until(want) {
		b.WriteString(" VALID UNTIL " + postgres.QuoteLiteral(until(want)))
	}
	return b.String()
}

// until returns when a password ends. None is written as infinity, which means
// the same: the server has no way back to a NULL.
func until(r Role) string {
	if r.ValidUntil == "" {
		return "infinity"
	}
	return r.ValidUntil
}

// DropRole removes a role.
type DropRole struct{ Name string }

// SQL is DROP ROLE.
func (s DropRole) SQL() string { return "DROP ROLE " + postgres.QuoteIdent(s.Name) }

// Subject is the role.
func (s DropRole) Subject() string { return subjectRole(s.Name) }

// Alone is false.
func (s DropRole) Alone() bool { return false }

// Apply removes the role with its memberships and settings.
func (s DropRole) Apply(c *Cluster, _ string) {
	delete(c.Roles, s.Name)
	c.Members = slices.DeleteFunc(slices.Clone(c.Members), func(m Membership) bool { return m.Role == s.Name || m.Member == s.Name })
	c.Settings = slices.DeleteFunc(slices.Clone(c.Settings), func(x Setting) bool { return x.Role == s.Name })
	c.Depends = slices.DeleteFunc(slices.Clone(c.Depends), func(d Dependency) bool { return d.Role == s.Name })
}

// SetPassword gives a role the password of a secret, as a SCRAM verifier that
// is computed while the statement is sent, or none.
type SetPassword struct {
	Role   string
	Secret secrets.Ref `json:",omitzero"` // the zero Ref has no text
	None   bool
}

// SQL masks the password.
func (s SetPassword) SQL() string {
	password := "'••••'"
	if s.None {
		password = "NULL"
	}
	return "ALTER ROLE " + postgres.QuoteIdent(s.Role) + " PASSWORD " + password
}

// Subject is the role.
func (s SetPassword) Subject() string { return subjectRole(s.Role) }

// Alone is false.
func (s SetPassword) Alone() bool { return false }

// Apply notes that there is a password, or none. What it is stays unknown.
func (s SetPassword) Apply(c *Cluster, _ string) {
	if held := c.Roles[s.Role]; held != nil {
		r := *held
		r.HasPassword, r.Password = !s.None, secrets.Secret{}
		c.Roles[s.Role] = &r
	}
}
