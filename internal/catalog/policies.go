package catalog

import (
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// EnableRLS is ALTER TABLE … ENABLE or DISABLE ROW LEVEL SECURITY.
type EnableRLS struct {
	Table Name
	On    bool
}

// SQL is ALTER TABLE.
func (s EnableRLS) SQL() string {
	word := " DISABLE"
	if s.On {
		word = " ENABLE"
	}
	return "ALTER TABLE " + s.Table.String() + word + " ROW LEVEL SECURITY"
}

// Subject is the table.
func (s EnableRLS) Subject() string { return subjectTable(s.Table) }

// Alone is false.
func (s EnableRLS) Alone() bool { return false }

// Apply changes the table.
func (s EnableRLS) Apply(c *Cluster, in string) {
	c.changeRelation(in, s.Table, func(r *Relation) { r.RLS = s.On })
}

// ForceRLS is ALTER TABLE … FORCE or NO FORCE ROW LEVEL SECURITY.
type ForceRLS struct {
	Table Name
	On    bool
}

// SQL is ALTER TABLE.
func (s ForceRLS) SQL() string {
	word := " NO FORCE"
	if s.On {
		word = " FORCE"
	}
	return "ALTER TABLE " + s.Table.String() + word + " ROW LEVEL SECURITY"
}

// Subject is the table.
func (s ForceRLS) Subject() string { return subjectTable(s.Table) }

// Alone is false.
func (s ForceRLS) Alone() bool { return false }

// Apply changes the table.
func (s ForceRLS) Apply(c *Cluster, in string) {
	c.changeRelation(in, s.Table, func(r *Relation) { r.Force = s.On })
}

// CreatePolicy makes a policy.
type CreatePolicy struct {
	Table  Name
	Policy Policy
}

// SQL is CREATE POLICY.
func (s CreatePolicy) SQL() string {
	return "CREATE POLICY " + postgres.QuoteIdent(s.Policy.Name) + " ON " + s.Table.String() + s.Policy.clauses()
}

// clauses returns what follows the table in CREATE POLICY, from a blank on.
func (p *Policy) clauses() string {
	sql := ""
	if !p.Permissive {
		sql += " AS RESTRICTIVE"
	}
	if p.Command != "" {
		sql += " FOR " + p.Command
	}
	sql += " TO " + granteeList(p.Roles)
	if p.Using != "" {
		sql += " USING " + expression(p.Using)
	}
	if p.WithCheck != "" {
		sql += " WITH CHECK " + expression(p.WithCheck)
	}
	return sql
}

// Subject is the table.
func (s CreatePolicy) Subject() string { return subjectTable(s.Table) }

// Alone is false.
func (s CreatePolicy) Alone() bool { return false }

// Apply adds the policy, with expressions as they were declared.
func (s CreatePolicy) Apply(c *Cluster, in string) {
	p := s.Policy
	p.Roles = policyRoles(p.Roles)
	p.Foreseen = true
	if p.Command == "" {
		p.Command = "ALL"
	}
	if held := c.edit(in); held != nil {
		held.setPolicy(s.Table, p.Name, &p)
	}
}

// AlterPolicy changes a policy's roles and expressions; nil leaves them.
type AlterPolicy struct {
	Table            Name
	Name             string
	Roles            []string
	Using, WithCheck *string
}

// SQL is ALTER POLICY.
func (s AlterPolicy) SQL() string {
	sql := "ALTER POLICY " + postgres.QuoteIdent(s.Name) + " ON " + s.Table.String()
	if s.Roles != nil {
		sql += " TO " + granteeList(s.Roles)
	}
	if s.Using != nil {
		sql += " USING " + expression(*s.Using)
	}
	if s.WithCheck != nil {
		sql += " WITH CHECK " + expression(*s.WithCheck)
	}
	return sql
}

// Subject is the table.
func (s AlterPolicy) Subject() string { return subjectTable(s.Table) }

// Alone is false.
func (s AlterPolicy) Alone() bool { return false }

// Apply changes the policy.
func (s AlterPolicy) Apply(c *Cluster, in string) {
	held := c.edit(in)
	if held == nil || held.Relations[s.Table] == nil || held.Relations[s.Table].Policies[s.Name] == nil {
		return
	}
	p := *held.Relations[s.Table].Policies[s.Name]
	if s.Roles != nil {
		p.Roles = policyRoles(s.Roles)
	}
	if s.Using != nil {
		p.Using, p.Foreseen = *s.Using, true
	}
	if s.WithCheck != nil {
		p.WithCheck, p.Foreseen = *s.WithCheck, true
	}
	held.setPolicy(s.Table, s.Name, &p)
}

// DropPolicy removes a policy.
type DropPolicy struct {
	Table Name
	Name  string
}

// SQL is DROP POLICY.
func (s DropPolicy) SQL() string {
	return "DROP POLICY " + postgres.QuoteIdent(s.Name) + " ON " + s.Table.String()
}

// Subject is the table.
func (s DropPolicy) Subject() string { return subjectTable(s.Table) }

// Alone is false.
func (s DropPolicy) Alone() bool { return false }

// Apply removes the policy.
func (s DropPolicy) Apply(c *Cluster, in string) {
	if held := c.edit(in); held != nil {
		held.setPolicy(s.Table, s.Name, nil)
	}
}

// setPolicy puts a policy of a table in its place, or removes it where p is nil.
func (h *Contents) setPolicy(table Name, name string, p *Policy) {
	held := h.Relations[table]
	if held == nil {
		return
	}
	r := *held
	r.Policies = maps.Clone(r.Policies)
	switch {
	case p == nil:
		delete(r.Policies, name)
	case r.Policies == nil:
		r.Policies = map[string]*Policy{name: p}
	default:
		r.Policies[name] = p
	}
	h.Relations[table] = &r
}

// changeRelation puts a changed copy of a relation in its place.
func (c *Cluster) changeRelation(db string, name Name, change func(*Relation)) {
	held := c.edit(db)
	if held == nil || held.Relations[name] == nil {
		return
	}
	r := *held.Relations[name]
	change(&r)
	held.Relations[name] = &r
}

func subjectTable(name Name) string { return "table " + name.String() }

// policyRoles returns the roles of a policy as the server keeps them: none is
// PUBLIC, and PUBLIC makes the others pointless.
func policyRoles(roles []string) []string {
	if len(roles) == 0 || slices.Contains(roles, "") {
		return []string{""}
	}
	sorted := slices.Sorted(slices.Values(roles))
	return slices.Compact(sorted)
}

func granteeList(roles []string) string {
	var names []string
	for _, r := range policyRoles(roles) {
		names = append(names, grantee(r))
	}
	return strings.Join(names, ", ")
}

// expression returns an expression in brackets. A comment at its end must not
// swallow the bracket.
func expression(text string) string {
	if strings.Contains(text, "--") {
		text += "\n"
	}
	return "(" + text + ")"
}
