package catalog

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// GrantRole makes Member a member of Role, or changes the options of the
// membership. Nil leaves an option to the server. Inherit and Set are for 16 and
// later; Major decides how the statement is written.
type GrantRole struct {
	Role, Member        string
	Admin, Inherit, Set *bool
	Major               int
}

// SQL names the options that are given.
func (s GrantRole) SQL() string {
	sql := "GRANT " + postgres.QuoteIdent(s.Role) + " TO " + postgres.QuoteIdent(s.Member)
	if s.Major < 16 {
		if s.Admin != nil && *s.Admin {
			sql += " WITH ADMIN OPTION"
		}
		return sql
	}
	var options []string
	for _, o := range []struct {
		word  string
		value *bool
	}{{"ADMIN", s.Admin}, {"INHERIT", s.Inherit}, {"SET", s.Set}} {
		if o.value != nil {
			options = append(options, o.word+" "+strings.ToUpper(strconv.FormatBool(*o.value)))
		}
	}
	if len(options) > 0 {
		sql += " WITH " + strings.Join(options, ", ")
	}
	return sql
}

// Subject is the member.
func (s GrantRole) Subject() string { return subjectRole(s.Member) }

// Alone is false.
func (s GrantRole) Alone() bool { return false }

// Apply adds the membership, or changes its options. From 16 on a superuser's
// GRANT is the bootstrap superuser's, and those of others stay beside it.
func (s GrantRole) Apply(c *Cluster, _ string) {
	at := c.memberAt(s.Role, s.Member, c.Bootstrap)
	c.Members = slices.Clone(c.Members)
	if at < 0 {
		m := Membership{Role: s.Role, Member: s.Member, Grantor: c.Bootstrap, Inherit: true, Set: true}
		if r := c.Roles[s.Member]; r != nil && c.Version.Major() >= 16 {
			m.Inherit = r.Inherit
		}
		c.Members = append(c.Members, m)
		at = len(c.Members) - 1
	}
	m := &c.Members[at]
	if c.Version.Major() < 16 {
		if s.Admin != nil && *s.Admin && !m.Admin {
			m.Admin, m.Grantor = true, c.Bootstrap
		}
		return
	}
	for _, o := range []struct{ to, from *bool }{{&m.Admin, s.Admin}, {&m.Inherit, s.Inherit}, {&m.Set, s.Set}} {
		if o.from != nil {
			*o.to = *o.from
		}
	}
}

// memberAt returns where a membership is, or -1. Before 16 there is one,
// whoever gave it.
func (c *Cluster) memberAt(role, member, grantor string) int {
	return slices.IndexFunc(c.Members, func(m Membership) bool {
		return m.Role == role && m.Member == member && (c.Version.Major() < 16 || m.Grantor == grantor)
	})
}

// RevokeRole ends a membership, or takes one option ("ADMIN", "INHERIT", "SET")
// of it away. Grantor is who gave it, where that is not the bootstrap superuser
// (16 and later).
type RevokeRole struct{ Role, Member, Grantor, Option string }

// SQL is REVOKE.
func (s RevokeRole) SQL() string {
	sql := "REVOKE "
	if s.Option != "" {
		sql += s.Option + " OPTION FOR "
	}
	sql += postgres.QuoteIdent(s.Role) + " FROM " + postgres.QuoteIdent(s.Member)
	if s.Grantor != "" {
		sql += " GRANTED BY " + postgres.QuoteIdent(s.Grantor)
	}
	return sql
}

// Subject is the member.
func (s RevokeRole) Subject() string { return subjectRole(s.Member) }

// Alone is false.
func (s RevokeRole) Alone() bool { return false }

// Apply removes the membership or its option.
func (s RevokeRole) Apply(c *Cluster, _ string) {
	grantor := s.Grantor
	if grantor == "" {
		grantor = c.Bootstrap
	}
	at := c.memberAt(s.Role, s.Member, grantor)
	if at < 0 {
		return
	}
	c.Members = slices.Clone(c.Members)
	switch m := &c.Members[at]; s.Option {
	case "ADMIN":
		m.Admin = false
	case "INHERIT":
		m.Inherit = false
	case "SET":
		m.Set = false
	default:
		c.Members = slices.Delete(c.Members, at, at+1)
	}
}
