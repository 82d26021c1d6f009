package adopt

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// A future is what one role has, or lacks, of the objects that another will make.
type future struct {
	role   string // who makes them
	schema string // "" is anywhere
	granted
}

// defaults describes what ALTER DEFAULT PRIVILEGES has set in a database. What
// is said of a schema is added to the defaults; what is said of all stands in
// their place.
func (d *describer) defaults(c *catalog.Cluster, database string, held *catalog.Contents) {
	var all []future
	for _, x := range held.Defaults {
		var builtin catalog.ACL
		if x.Schema == "" {
			builtin = catalog.DefaultACLFor(x.Kind, x.Role, c.Version.Major())
		}
		for _, g := range compareACL(x.Kind, x.ACL, builtin, x.Role) {
			all = append(all, future{x.Role, x.Schema, g})
		}
	}
	slices.SortFunc(all, func(a, b future) int {
		return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.kind, b.kind), cmp.Compare(a.schema, b.schema), compareGranted(a.granted, b.granted))
	})
	for len(all) > 0 {
		f := all[0]
		// The same for other roles is one task.
		like := func(x future) bool { x.grantee = f.grantee; return x == f }
		var to []string
		for _, x := range all {
			if like(x) {
				to = append(to, x.grantee)
			}
		}
		all = slices.DeleteFunc(all, like)
		d.future(database, f, to)
	}
}

// future writes one task.
func (d *describer) future(database string, f future, to []string) {
	t := described{kind: "default_privileges", roles: []string{f.role}}
	verb, direction := "GRANT", "to"
	if f.absent {
		verb, direction = "REVOKE", "from"
	}
	what := strings.ToLower(string(f.kind)) + "s"
	privileges := f.privileges.Words(f.kind)
	t.name = fmt.Sprintf("%s %s on %s to be made by %s %s %s in %s", verb, strings.Join(privileges, ", "), what, f.role, direction, strings.Join(grantees(to), ", "), database)
	t.add("database", literal(database))
	t.add("for_role", literal(f.role))
	if f.schema != "" {
		t.name += ", schema " + f.schema
		t.add("in_schemas", names([]string{f.schema}))
	}
	t.add("objects", literal(what))
	t.to(to)
	t.add("privileges", names(privileges))
	if f.option {
		t.name += " with grant option"
		t.add("grant_option", "true")
	}
	if f.absent {
		t.add("state", `"absent"`)
	}
	d.write(t)
}
