package tasks

import (
	"errors"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// memberships makes the role a member of exactly the roles that are declared.
// From 16 on a membership may have been granted more than once, by different
// roles; what counts is what they come to together.
func (t *Role) memberships(x *script) error {
	if t.MemberOf == nil {
		return nil
	}
	member := t.Role.Value
	var problems []error
	wanted := map[string]membership{}
	for _, m := range *t.MemberOf {
		wanted[m.role] = m
		if err := needRole(x.catalogs, m.role, m.pos); err != nil {
			problems = append(problems, err)
			continue
		}
		if x.catalogs.MemberOf(m.role, member) {
			problems = append(problems, problemAt(m.pos, "member_of: %s is already a member of %s, and a circle is not allowed", m.role, member))
			continue
		}
		t.join(x, m)
	}
	for _, m := range x.catalogs.Clone().Members {
		if _, ok := wanted[m.Role]; ok || m.Member != member {
			continue
		}
		x.do(maintenanceDatabase, catalog.RevokeRole{Role: m.Role, Member: member, Grantor: otherGrantor(x.catalogs, m)})
	}
	return errors.Join(problems...)
}

// join grants what is missing of one membership and takes back what is too much.
func (t *Role) join(x *script, wanted membership) {
	major := x.catalogs.Version.Major()
	grant := catalog.GrantRole{Role: wanted.role, Member: t.Role.Value, Major: major}
	found, has := t.membership(x.catalogs, wanted.role)
	admin := wanted.admin != nil && *wanted.admin
	if !has || admin && !found.Admin {
		if admin {
			grant.Admin = &admin
		}
	}
	inherit, set := x.catalogs.Roles[t.Role.Value].Inherit, true
	if wanted.inherit != nil {
		inherit = *wanted.inherit
	}
	if wanted.set != nil {
		set = *wanted.set
	}
	due := !has || grant.Admin != nil
	if major >= 16 {
		if !has && wanted.inherit != nil || has && inherit && !found.Inherit {
			grant.Inherit, due = &inherit, true
		}
		if !has && wanted.set != nil || has && set && !found.Set {
			grant.Set, due = &set, true
		}
	}
	if due {
		x.do(maintenanceDatabase, grant)
	}
	for _, m := range x.catalogs.Clone().Members {
		if m.Role != wanted.role || m.Member != t.Role.Value {
			continue
		}
		for _, option := range surplus(m, admin, inherit, set, major) {
			x.do(maintenanceDatabase, catalog.RevokeRole{Role: m.Role, Member: m.Member, Grantor: otherGrantor(x.catalogs, m), Option: option})
		}
	}
}

// surplus names the options of a membership that are not declared.
func surplus(m catalog.Membership, admin, inherit, set bool, major int) []string {
	var list []string
	if m.Admin && !admin {
		list = append(list, "ADMIN")
	}
	if major >= 16 && m.Inherit && !inherit {
		list = append(list, "INHERIT")
	}
	if major >= 16 && m.Set && !set {
		list = append(list, "SET")
	}
	return list
}

// membership returns what all grants of one membership come to.
func (t *Role) membership(c *catalog.Cluster, role string) (catalog.Membership, bool) {
	sum, has := catalog.Membership{Role: role, Member: t.Role.Value}, false
	for _, m := range c.Members {
		if m.Role == role && m.Member == t.Role.Value {
			has = true
			sum.Admin, sum.Inherit, sum.Set = sum.Admin || m.Admin, sum.Inherit || m.Inherit, sum.Set || m.Set
		}
	}
	return sum, has
}

// otherGrantor names who granted a membership where REVOKE has to: from 16 on it
// takes back only what the current role granted.
func otherGrantor(c *catalog.Cluster, m catalog.Membership) string {
	if c.Version.Major() < 16 || m.Grantor == c.Bootstrap {
		return ""
	}
	return m.Grantor
}
