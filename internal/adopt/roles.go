package adopt

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// roles describes every role but PostgreSQL's own, those that it is a member of
// before it, so that the tasks could make them in this order too.
func (d *describer) roles(c *catalog.Cluster) {
	var passwords []string
	for _, r := range membersLast(c) {
		d.role(c, r)
		if r.Login && r.HasPassword {
			passwords = append(passwords, r.Name)
		}
	}
	if len(passwords) == 0 {
		return
	}
	quoted := make([]string, len(passwords))
	for i, name := range passwords {
		quoted[i] = oneLine(name)
	}
	d.blank()
	d.remark("Passwords are kept as they are: what the server stores cannot be turned back into them. To let\n"+
		"pgfleet hold one, put it into a secret store and write password = \"age:NAME#password\" into\n"+
		"the role's task: the first plan is empty if it is the one that the server knows.\nWith a password: %s.", strings.Join(quoted, ", "))
	if b := c.Roles[c.Bootstrap]; b != nil && b.HasPassword {
		d.warn("the superuser %s has a password, so that it can log in over the network; a role task with password = \"none\" would take it away", oneLine(b.Name))
	}
}

// membersLast returns the roles by name, each after those that it is a member of.
func membersLast(c *catalog.Cluster) []*catalog.Role {
	of := map[string][]string{}
	for _, m := range c.Members {
		of[m.Member] = append(of[m.Member], m.Role)
	}
	var sorted []*catalog.Role
	done := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		r := c.Roles[name]
		if r == nil || done[name] || strings.HasPrefix(name, "pg_") {
			return
		}
		done[name] = true
		for _, role := range slices.Sorted(slices.Values(of[name])) {
			visit(role)
		}
		sorted = append(sorted, r)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		visit(name)
	}
	return sorted
}

// role describes one role. Of the one that initdb made only what is not of
// every server's is said.
func (d *describer) role(c *catalog.Cluster, r *catalog.Role) {
	t := described{name: "Role " + r.Name, kind: "role", roles: []string{r.Name}}
	t.add("role", literal(r.Name))
	if r.Name != c.Bootstrap {
		t.attributes(r)
	}
	if !r.HasPassword && (r.Login || r.Name == c.Bootstrap) {
		t.add("password", `"none"`)
	}
	if of := memberships(c, r); len(of) > 0 || r.Name != c.Bootstrap {
		t.add("member_of", inline(of))
		for _, m := range c.Members {
			if m.Member == r.Name {
				t.roles = append(t.roles, m.Role)
			}
		}
	}
	t.comment(r.Comment)
	d.parameters(&t, "settings", catalog.Setting{Role: r.Name}, c)
	for _, database := range slices.Sorted(maps.Keys(c.Databases)) {
		d.parameters(&t, "database_settings."+Key(database), catalog.Setting{Role: r.Name, Database: database}, c)
	}
	if r.Name == c.Bootstrap && len(t.pairs) == 1 && len(t.tables) == 0 {
		return
	}
	d.write(t)
}

// attributes adds what CREATE ROLE would not give the role by itself.
func (t *described) attributes(r *catalog.Role) {
	for _, a := range []struct {
		key string
		is  bool
	}{
		{"login", r.Login}, {"superuser", r.Superuser}, {"createdb", r.CreateDB}, {"createrole", r.CreateRole},
		{"replication", r.Replication}, {"bypassrls", r.BypassRLS},
	} {
		if a.is {
			t.add(a.key, "true")
		}
	}
	if !r.Inherit {
		t.add("inherit", "false")
	}
	if r.ConnLimit != -1 {
		t.add("connection_limit", strconv.Itoa(r.ConnLimit))
	}
	if r.ValidUntil != "" {
		t.add("valid_until", literal(r.ValidUntil))
	}
}

// memberships returns the roles that a role is a member of, with the options
// that are not those of a plain GRANT. From 16 on a membership may have been
// granted by several roles, and what counts is what all of it comes to.
func memberships(c *catalog.Cluster, r *catalog.Role) []string {
	sums := map[string]catalog.Membership{}
	for _, m := range c.Members {
		if m.Member == r.Name {
			sum := sums[m.Role]
			sum.Admin, sum.Inherit, sum.Set = sum.Admin || m.Admin, sum.Inherit || m.Inherit, sum.Set || m.Set
			sums[m.Role] = sum
		}
	}
	var list []string
	for _, role := range slices.Sorted(maps.Keys(sums)) {
		sum := sums[role]
		options := ""
		if sum.Admin {
			options += ", admin = true"
		}
		if c.Version.Major() >= 16 && sum.Inherit != r.Inherit {
			options += fmt.Sprintf(", inherit = %t", sum.Inherit)
		}
		if c.Version.Major() >= 16 && !sum.Set {
			options += ", set = false"
		}
		if options == "" {
			list = append(list, literal(role))
		} else {
			list = append(list, "{ role = "+literal(role)+options+" }")
		}
	}
	return list
}

// parameters adds a table of what ALTER ROLE or ALTER DATABASE has set. What
// cannot be declared makes the whole task a comment: without its settings it
// would have them reset.
func (d *describer) parameters(t *described, table string, scope catalog.Setting, c *catalog.Cluster) {
	var b strings.Builder
	for _, s := range c.Settings {
		if s.Role != scope.Role || s.Database != scope.Database {
			continue
		}
		value := s.Value
		if why := d.undeclarable(s); why != "" {
			t.refuse("%s cannot be taken over: %s", oneLine(s.Name), why)
			value = "…"
		}
		fmt.Fprintf(&b, "%s = %s\n", Key(s.Name), literal(value))
	}
	if b.Len() > 0 {
		t.templateKey = t.templateKey || strings.Contains(table, "{{")
		t.tables = append(t.tables, "[task."+table+"]\n"+b.String())
	}
}

// undeclarable says why a task cannot have a setting of a role or a database; ""
// if it can. The reason never holds the value.
func (d *describer) undeclarable(s catalog.Setting) string {
	switch why := secretSetting(s.Name, s.Value); {
	case why != "":
		return why
	case strings.HasPrefix(strings.ToLower(s.Name), "pgaudit.") && !slices.Contains(preloaded(d.server), "pgaudit"):
		return "pgaudit is not loaded, and without it the server takes any value"
	case d.catalog.Check(s.Name, s.Value) != nil:
		return "the server would refuse it today"
	}
	return ""
}
