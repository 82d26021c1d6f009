package tasks

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// A batch collects objects for which the same statement is due, so that one
// statement serves them all.
type batch struct {
	privileges catalog.Privileges
	grantor    string
	optionOnly bool
	objects    []catalog.Object
}

// batches groups objects in the order in which they come.
type batches []batch

func (b *batches) add(o catalog.Object, privileges catalog.Privileges, grantor string, optionOnly bool) {
	if privileges == 0 {
		return
	}
	at := slices.IndexFunc(*b, func(x batch) bool {
		return x.privileges == privileges && x.grantor == grantor && x.optionOnly == optionOnly && alike(x.objects[0], o)
	})
	if at < 0 {
		*b = append(*b, batch{privileges, grantor, optionOnly, []catalog.Object{o}})
		return
	}
	(*b)[at].objects = append((*b)[at].objects, o)
}

// alike reports whether one statement can name both objects: of the same kind,
// and columns of the same table.
func alike(a, b catalog.Object) bool {
	return a.Kind == b.Kind && (a.Kind != catalog.Column || a.Schema == b.Schema && a.Name == b.Name)
}

// ownFirst puts what a role with the grant option gave itself before the rest:
// the server takes the option only once there is no such.
func (b batches) ownFirst(role string) {
	rank := func(x batch) int {
		if x.grantor == role {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(b, func(x, y batch) int { return rank(x) - rank(y) })
}

// grant gives a role privileges on objects, where it lacks them.
func grant(x *script, database string, objects []catalog.Object, to string, privileges func(catalog.Object) catalog.Privileges, grantable bool) {
	var due batches
	for _, o := range objects {
		acl, _ := x.catalogs.Effective(database, o)
		have, mayGrant := acl.Of(to)
		if grantable {
			have &= mayGrant
		}
		due.add(o, privileges(o)&^have, "", false)
	}
	for _, b := range due {
		x.do(database, catalog.Grant{On: b.objects, To: to, Privileges: b.privileges, Grantable: grantable})
	}
}

// revoke takes privileges on objects away from a role, whoever granted them.
func revoke(x *script, database string, objects []catalog.Object, from string, privileges catalog.Privileges) error {
	return revokeEach(x, database, objects, from, func(catalog.Object) catalog.Privileges { return privileges })
}

func revokeEach(x *script, database string, objects []catalog.Object, from string, privileges func(catalog.Object) catalog.Privileges) error {
	var due batches
	var problems []string
	for _, o := range objects {
		acl, _ := x.catalogs.Effective(database, o)
		owner, _ := x.catalogs.Owner(database, o)
		for _, item := range acl {
			surplus := item.Privileges & privileges(o)
			if item.Grantee != from || surplus == 0 {
				continue
			}
			if why := irrevocable(x.catalogs, withColumnItems(x.catalogs, database, o, acl), item, surplus, owner); why != "" {
				problems = append(problems, fmt.Sprintf("%s of %s on %s cannot be revoked: %s", surplus, granteeName(from), o, why))
				continue
			}
			grantor := item.Grantor
			if grantor == owner {
				grantor = ""
			}
			due.add(o, surplus, grantor, false)
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%s", strings.Join(problems, "\n"))
	}
	due.ownFirst(from)
	for _, b := range due {
		x.do(database, catalog.Revoke{On: b.objects, From: from, Privileges: b.privileges, Grantor: b.grantor})
	}
	return nil
}

// withColumnItems returns what was granted on an object and, where it is a table,
// on its columns: who may pass on a table's privilege may do so for a column. The
// server would take the table's away and leave the column's, whose grantor then
// has no grant option left, so that nobody's REVOKE reaches it any more.
func withColumnItems(c *catalog.Cluster, database string, o catalog.Object, acl catalog.ACL) catalog.ACL {
	if o.Kind != catalog.Table {
		return acl
	}
	all := slices.Clone(acl)
	columns := c.Contents[database].Relations[catalog.Name{Schema: o.Schema, Name: o.Name}].ColumnACL
	for _, name := range slices.Sorted(maps.Keys(columns)) {
		all = append(all, columns[name]...)
	}
	return all
}

// irrevocable says why the server would not take a privilege away.
func irrevocable(c *catalog.Cluster, acl catalog.ACL, item catalog.Item, surplus catalog.Privileges, owner string) string {
	if item.Grantee != "" && item.Grantable&surplus != 0 {
		for _, other := range acl {
			if other.Grantor == item.Grantee && other.Grantee != item.Grantee && item.Grantee != owner && other.Privileges&surplus != 0 {
				return fmt.Sprintf("it has passed it on to %s; revoke that first", granteeName(other.Grantee))
			}
		}
	}
	if item.Grantor != owner {
		// The server takes a superuser, and a member of the owner's role, for the
		// owner: what such a role granted before it became one is out of reach.
		if r := c.Roles[item.Grantor]; r != nil && (r.Superuser || c.MemberOf(item.Grantor, owner)) {
			return fmt.Sprintf("it was granted by %s, who acts for the owner %s by now: run REVOKE GRANT OPTION FOR … FROM %s CASCADE by hand", item.Grantor, owner, item.Grantor)
		}
	}
	return ""
}
