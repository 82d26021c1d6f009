//go:build lab

package property

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// A foresight turns a model into what a server like it would say.
type foresight struct {
	h *host
	c *catalog.Cluster
	*told
	roles []string // those that are not predefined
}

// foresee returns what the server will say once it holds what the model holds.
func (h *host) foresee(c *catalog.Cluster, databases ...string) *told {
	x := &foresight{h: h, c: c, told: newTold()}
	for name := range c.Roles {
		if !strings.HasPrefix(name, "pg_") {
			x.roles = append(x.roles, name)
		}
	}
	slices.Sort(x.roles)
	x.shared()
	for _, db := range databases {
		x.contents(db, c.Contents[db])
	}
	return x.finish()
}

func (x *foresight) shared() {
	for _, name := range x.roles {
		r := x.c.Roles[name]
		until := strings.Replace(r.ValidUntil, "T", " ", 1)
		if !strings.HasPrefix(until, "inf") && until != "" {
			until = until[:len("2006-01-02 15:04:05")]
		}
		if until == "" {
			until = "infinity"
		}
		x.add(words(r.Superuser, r.Inherit, r.CreateRole, r.CreateDB, r.Login, r.Replication, r.BypassRLS)+fmt.Sprintf(" %d %s %s", r.ConnLimit, until, words(r.HasPassword)), "role %s", name)
		x.add(r.Comment, "comment on role %s", name)
		for _, other := range x.roles {
			if other != name && name != x.c.Bootstrap && other != x.c.Bootstrap {
				x.add(x.may(name, other), "what %s may of role %s", name, other)
			}
		}
	}
	for _, m := range x.c.Members {
		if strings.HasPrefix(m.Member, "pg_") {
			continue
		}
		by := m.Grantor
		if x.h.major < 16 {
			by = ""
		}
		x.add(words(m.Admin, m.Inherit, m.Set), "membership of %s in %s by %s", m.Member, m.Role, by)
	}
	for name, d := range x.c.Databases {
		if strings.HasPrefix(name, "template") {
			continue
		}
		x.add(fmt.Sprint(d.ConnLimit), "connection limit of database %s", name)
		x.add(d.Comment, "comment on database %s", name)
		x.access(catalog.Object{Kind: catalog.DatabaseKind, Name: name}, name)
	}
	for _, s := range x.c.Settings {
		x.add(s.Value, "setting %s of role %q in database %q", s.Name, s.Role, s.Database)
	}
}

// words writes booleans as concat_ws does.
func words(list ...bool) string {
	var text []string
	for _, b := range list {
		text = append(text, map[bool]string{true: "t", false: "f"}[b])
	}
	return strings.Join(text, " ")
}

// reach returns the roles that a role gets to over memberships, itself too.
func (x *foresight) reach(role string, over func(catalog.Membership) bool) []string {
	list := []string{role}
	for i := 0; i < len(list); i++ {
		for _, m := range x.c.Members {
			if m.Member == list[i] && over(m) && !slices.Contains(list, m.Role) {
				list = append(list, m.Role)
			}
		}
	}
	return list
}

func (x *foresight) inherits(m catalog.Membership) bool {
	if x.h.major < 16 {
		return x.c.Roles[m.Member].Inherit
	}
	return m.Inherit
}

// may says what pg_has_role would.
func (x *foresight) may(role, of string) string {
	super := x.c.Roles[role].Superuser
	var list []string
	for _, k := range []struct {
		word string
		over func(catalog.Membership) bool
	}{
		{"MEMBER", func(catalog.Membership) bool { return true }},
		{"USAGE", x.inherits},
		{"SET", func(m catalog.Membership) bool { return m.Set }},
	} {
		if (k.word != "SET" || x.h.major >= 16) && (super || slices.Contains(x.reach(role, k.over), of)) {
			list = append(list, k.word)
		}
	}
	return strings.Join(list, " ")
}

// access tells an object's owner, its ACL and who may do what with it.
func (x *foresight) access(o catalog.Object, db string) {
	acl, _ := x.c.Effective(db, o)
	key := object{kind: string(o.Kind), database: db, schema: o.Schema, name: o.Name, more: o.Args + o.Column}
	all := privileges(key.kind, x.h.major)
	owner, _ := x.c.Owner(db, o)
	if o.Kind != catalog.Column {
		x.owners[key] = owner
		x.acls[key] = nil
	}
	for _, i := range acl {
		options := i.Grantable.Words(o.Kind)
		for _, p := range i.Privileges.Words(o.Kind) {
			x.acls[key] = append(x.acls[key], given{i.Grantee, i.Grantor, p, slices.Contains(options, p)})
		}
	}
	acls := x.acls[key]
	if o.Kind == catalog.Column { // its table's privileges hold for it as well
		table, _ := x.c.Effective(db, catalog.Object{Kind: catalog.Table, Schema: o.Schema, Name: o.Name})
		for _, i := range table {
			for _, p := range i.Privileges.Words(o.Kind) {
				acls = append(acls, given{i.Grantee, i.Grantor, p, slices.Contains(i.Grantable.Words(o.Kind), p)})
			}
		}
	}
	for _, role := range x.roles {
		has := map[string]bool{}
		as := x.reach(role, x.inherits)
		if d := x.c.Databases[db]; d != nil && x.h.major >= 14 && slices.Contains(as, d.Owner) && (x.h.major >= 16 || x.c.Roles[d.Owner].Inherit) && (o.Kind != catalog.DatabaseKind || db == "postgres") {
			as = append(as, "pg_database_owner")
		}
		for _, g := range acls {
			if g.grantee == "" || slices.Contains(as, g.grantee) {
				has[g.privilege] = true
				if g.option && g.grantee != "" {
					has[g.privilege+" WITH GRANT OPTION"] = true
				}
			}
		}
		var list []string
		for _, p := range withOptions(all) {
			if has[p] || x.c.Roles[role].Superuser || strings.HasSuffix(p, " OPTION") && slices.Contains(as, owner) {
				list = append(list, p)
			}
		}
		x.add(strings.Join(list, ", "), "what %s may on %s", role, key)
	}
}

func (x *foresight) contents(db string, held *catalog.Contents) {
	for name, s := range held.Schemas {
		x.access(catalog.Object{Kind: catalog.SchemaKind, Name: name}, db)
		x.add(s.Comment, "comment on schema %q of database %s", name, db)
	}
	for name, r := range held.Relations {
		o := catalog.Object{Kind: catalog.Table, Schema: name.Schema, Name: name.Name}
		if r.Kind == 'S' {
			o.Kind = catalog.Sequence
		}
		x.access(o, db)
		for column := range r.ColumnACL {
			x.access(catalog.Object{Kind: catalog.Column, Schema: name.Schema, Name: name.Name, Column: column}, db)
		}
		key := object{kind: "TABLE", database: db, schema: name.Schema, name: name.Name}
		if r.Kind == 'r' || r.Kind == 'p' {
			x.add(words(r.RLS, r.Force), "row-level security of %s", key)
		}
		for _, p := range r.Policies {
			x.policy(key, p)
		}
	}
	for s := range held.Functions {
		x.access(catalog.Object{Kind: catalog.Routine, Schema: s.Schema, Name: s.Name, Args: s.Args}, db)
	}
	for _, d := range held.Defaults {
		var acl []given
		for _, i := range d.ACL {
			options := i.Grantable.Words(d.Kind)
			for _, p := range i.Privileges.Words(d.Kind) {
				acl = append(acl, given{i.Grantee, i.Grantor, p, slices.Contains(options, p)})
			}
		}
		x.add(joined(acl), "default privileges of %s in schema %q on %s of database %s", d.Role, d.Schema, d.Kind, db)
	}
}

func (x *foresight) policy(table object, p *catalog.Policy) {
	permissive := map[bool]string{true: "PERMISSIVE", false: "RESTRICTIVE"}[p.Permissive]
	var roles []string
	for _, r := range p.Roles {
		if r == "" {
			r = "public"
		}
		roles = append(roles, r)
	}
	x.add(permissive+" "+p.Command+" to "+strings.Join(set(roles), ", "), "policy %q of %s", p.Name, table)
	x.add(x.expression(p.Using), "policy %q of %s: USING", p.Name, table)
	x.add(x.expression(p.WithCheck), "policy %q of %s: WITH CHECK", p.Name, table)
}

// expression is what the server makes of one that was declared.
func (x *foresight) expression(text string) string {
	if deparsed, ok := x.h.deparsed[text]; ok {
		return deparsed
	}
	return text
}
