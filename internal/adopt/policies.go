package adopt

import (
	"maps"
	"slices"
	"strconv"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// policies describes row-level security: a task for each policy, and one for
// each table that has it switched on without any.
func (d *describer) policies(database string, held *catalog.Contents) {
	for _, r := range relations(held) {
		if len(r.Policies) == 0 && (r.RLS || r.Force) {
			d.write(security(database, r))
		}
		for _, name := range slices.Sorted(maps.Keys(r.Policies)) {
			d.policy(database, r, r.Policies[name])
		}
	}
}

// security begins a task about a table's rows.
func security(database string, r *catalog.Relation) described {
	table := qualified(relationObject(r))
	t := described{name: "Row-level security of " + table + " in " + database, kind: "policy"}
	t.add("database", literal(database))
	t.add("table", literal(table))
	if !r.RLS {
		t.add("enable", "false")
	}
	if r.Force != r.RLS {
		t.add("force", strconv.FormatBool(r.Force))
	}
	return t
}

func (d *describer) policy(database string, r *catalog.Relation, p *catalog.Policy) {
	t := security(database, r)
	t.name = "Policy " + p.Name + " of " + qualified(relationObject(r)) + " in " + database
	t.add("policy", literal(p.Name))
	if p.Command != "ALL" {
		t.add("command", literal(p.Command))
	}
	if !slices.Equal(p.Roles, []string{""}) {
		t.add("roles", names(grantees(p.Roles)))
		t.roles = slices.DeleteFunc(slices.Clone(p.Roles), func(name string) bool { return name == "" })
	}
	if !p.Permissive {
		t.add("permissive", "false")
	}
	if p.Using != "" {
		t.add("using", literal(p.Using))
	}
	if p.WithCheck != "" {
		t.add("with_check", literal(p.WithCheck))
	}
	d.write(t)
}
