package tasks

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Policy is row-level security of one table: that it is on, that it holds for
// the owner too, and one policy. Expressions are compared by what the server
// understands, which takes no stronger lock than a SELECT, writes nothing and
// runs nothing.
type Policy struct {
	Common
	Database   inventory.Positioned[string] `toml:"database" required:"true" doc:"The database that the table is in."`
	Table      inventory.Positioned[string] `toml:"table" required:"true" doc:"The table with its schema: \"public.orders\"."`
	Enable     *bool                        `toml:"enable" doc:"ENABLE ROW LEVEL SECURITY; true by default."`
	Force      *bool                        `toml:"force" doc:"FORCE ROW LEVEL SECURITY, so that it holds for the table's owner too; as enable by default. pg_dump then needs a role with BYPASSRLS."`
	Policy     inventory.Positioned[string] `toml:"policy" doc:"The policy's name. Left out, the task is about enable and force alone."`
	Command    string                       `toml:"command" enum:"ALL,SELECT,INSERT,UPDATE,DELETE" doc:"The command that it is for; ALL by default."`
	Roles      positionedNames              `toml:"roles" doc:"The roles that it is for; PUBLIC by default."`
	Using      inventory.Positioned[string] `toml:"using" doc:"USING: which rows can be seen."`
	WithCheck  inventory.Positioned[string] `toml:"with_check" doc:"WITH CHECK: which rows can be written. Left out, USING serves for both."`
	Permissive *bool                        `toml:"permissive" doc:"true (the default): rows of any permissive policy; false: only rows of every restrictive one."`
	Exact      bool                         `toml:"exact" doc:"Drop policies of the table that no policy task declares."`
	State      string                       `toml:"state" enum:"present,absent" doc:"absent drops the policy."`
}

// Check finds what CREATE POLICY would refuse.
func (t *Policy) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	checkName("database", t.Database, &errs)
	checkName("policy", t.Policy, &errs)
	for _, p := range t.Roles {
		checkNameAt("roles", p.name, p.pos, &errs)
	}
	switch named := t.Policy.Node != nil; {
	case !named && (t.Using.Value != "" || t.WithCheck.Value != "" || t.Command != "" || len(t.Roles) > 0 || t.Permissive != nil || t.State == "absent"):
		errs.Add(t.node.Pos, "missing key \"policy\": its name")
	case !named || t.State == "absent":
	case t.Using.Value == "" && t.WithCheck.Value == "":
		errs.Add(t.node.Pos, "a policy needs using, with_check or both")
	case t.Command == "INSERT" && t.Using.Value != "":
		errs.Add(t.Using.Pos(), "using: a policy for INSERT has only with_check")
	case (t.Command == "SELECT" || t.Command == "DELETE") && t.WithCheck.Value != "":
		errs.Add(t.WithCheck.Pos(), "with_check: a policy for %s has only using", t.Command)
	}
	return errs
}

func enabled(b *bool) bool { return b == nil || *b }

// Reads asks for the catalogs, and how the server understands the expressions: the
// declared ones, and then those that it has.
func (t *Policy) Reads(in inventory.Instance, s *State) []facts.Read {
	database := t.Database.Value
	reads := catalogReads(in, database)
	c, err := s.Cluster()
	if err != nil || c.Contents[database] == nil {
		return reads
	}
	table, err := c.Find(database, catalog.Table, t.Table.Value)
	if err != nil {
		return reads
	}
	name := catalog.Name{Schema: table.Schema, Name: table.Name}
	exprs := []string{t.Using.Value, t.WithCheck.Value}
	if found := c.Contents[database].Relations[name].Policies[t.Policy.Value]; found != nil {
		exprs = append(exprs, found.Using, found.WithCheck)
	}
	for _, e := range exprs {
		if e != "" && t.State != "absent" {
			reads = append(reads, t.deparseRead(in, name, e))
		}
	}
	return reads
}

func (t *Policy) deparseRead(in inventory.Instance, table catalog.Name, expr string) facts.Deparse {
	return facts.Deparse{Port: in.Port, SocketDir: socketDir, Database: t.Database.Value, Schema: table.Schema, Table: table.Name, Expr: expr}
}

// Plan compares row-level security and the policy.
func (t *Policy) Plan(in inventory.Instance, s *State) (Outcome, error) {
	database := t.Database.Value
	return t.planSQL(s, []string{database}, func(x *script, out *Outcome) error {
		held, err := needDatabase(x.catalogs, s, database, t.Database.Pos())
		if err != nil {
			return err
		}
		object, err := x.catalogs.Find(database, catalog.Table, t.Table.Value)
		if err != nil {
			return problemAt(t.Table.Pos(), "%v; its owner's migrations make it, or a task of kind \"psql\" with creates before this one", err)
		}
		name := catalog.Name{Schema: object.Schema, Name: object.Name}
		table := held.Relations[name]
		if table.Kind != 'r' && table.Kind != 'p' {
			return problemAt(t.Table.Pos(), "%s is no table, and only tables have row-level security; a view can be made WITH (security_invoker) from PostgreSQL 15 on", t.Table.Value)
		}
		var problems []error
		for _, p := range t.Roles {
			problems = append(problems, needRole(x.catalogs, grantee(p.name), p.pos))
		}
		if err := errors.Join(problems...); err != nil {
			return err
		}
		// The policy first: with row-level security on and no policy, nobody sees a row.
		if t.Policy.Value != "" {
			if err := t.policy(in, s, x, out, table); err != nil {
				return err
			}
		}
		if t.Exact {
			t.others(s, x, table)
		}
		if table.RLS != enabled(t.Enable) {
			x.do(database, catalog.EnableRLS{Table: name, On: enabled(t.Enable)})
		}
		force := enabled(t.Enable)
		if t.Force != nil {
			force = *t.Force
		}
		if table.Force != force {
			x.do(database, catalog.ForceRLS{Table: name, On: force})
		}
		return nil
	})
}

// declared is the policy as the task has it.
func (t *Policy) declared() catalog.Policy {
	p := catalog.Policy{
		Name: t.Policy.Value, Permissive: enabled(t.Permissive), Command: orElse(t.Command, "ALL"),
		Using: t.Using.Value, WithCheck: t.WithCheck.Value,
	}
	for _, r := range t.Roles {
		p.Roles = append(p.Roles, grantee(r.name))
	}
	if len(p.Roles) == 0 || slices.Contains(p.Roles, "") {
		p.Roles = []string{""} // the server drops what stands beside PUBLIC
	}
	slices.Sort(p.Roles)
	p.Roles = slices.Compact(p.Roles)
	return p
}

func (t *Policy) policy(in inventory.Instance, s *State, x *script, out *Outcome, table *catalog.Relation) error {
	database, found := t.Database.Value, table.Policies[t.Policy.Value]
	if t.State == "absent" {
		if found != nil {
			x.do(database, catalog.DropPolicy{Table: table.Name, Name: found.Name})
		}
		return nil
	}
	wanted := t.declared()
	if err := t.valid(in, s, table.Name); err != nil {
		return err
	}
	if found == nil {
		x.do(database, catalog.CreatePolicy{Table: table.Name, Policy: wanted})
		return nil
	}
	if found.Permissive != wanted.Permissive || found.Command != wanted.Command ||
		(found.Using == "") != (wanted.Using == "") || (found.WithCheck == "") != (wanted.WithCheck == "") {
		// ALTER POLICY changes none of these.
		x.do(database, catalog.DropPolicy{Table: table.Name, Name: found.Name})
		x.do(database, catalog.CreatePolicy{Table: table.Name, Policy: wanted})
		return nil
	}
	alter := catalog.AlterPolicy{Table: table.Name, Name: found.Name}
	if !slices.Equal(found.Roles, wanted.Roles) {
		alter.Roles = wanted.Roles
	}
	for _, e := range []struct {
		found, wanted string
		set           **string
	}{{found.Using, wanted.Using, &alter.Using}, {found.WithCheck, wanted.WithCheck, &alter.WithCheck}} {
		same, why := t.same(in, s, *found, table.Name, e.found, e.wanted)
		if why != "" {
			out.Unknown = append(out.Unknown, fmt.Sprintf("whether policy %s is as declared: %s", found.Name, why))
		} else if !same {
			*e.set = &e.wanted
		}
	}
	if alter.Roles != nil || alter.Using != nil || alter.WithCheck != nil {
		x.do(database, alter)
	}
	return nil
}

// valid refuses an expression that the server cannot read. A table that is only
// foreseen could not be asked about.
func (t *Policy) valid(in inventory.Instance, s *State, table catalog.Name) error {
	for _, e := range []inventory.Positioned[string]{t.Using, t.WithCheck} {
		if e.Value == "" {
			continue
		}
		answer, err := ask[facts.Deparsed](s, t.deparseRead(in, table, e.Value))
		if err == nil && answer.Problem != "" {
			return problemAt(e.Pos(), "the server cannot use this expression: %s", strings.TrimSpace(answer.Problem))
		}
	}
	return nil
}

// same compares two expressions by the server's parse trees; why says what kept
// it from telling.
func (t *Policy) same(in inventory.Instance, s *State, found catalog.Policy, table catalog.Name, a, b string) (same bool, why string) {
	if a == b {
		return true, ""
	}
	if found.Foreseen {
		return false, ""
	}
	x, errX := ask[facts.Deparsed](s, t.deparseRead(in, table, a))
	y, errY := ask[facts.Deparsed](s, t.deparseRead(in, table, b))
	if err := errors.Join(errX, errY); err != nil {
		return false, err.Error()
	}
	if why := orElse(x.Problem, y.Problem); why != "" {
		return false, why
	}
	return x.Text == y.Text, ""
}

// others drops the table's policies that no task declares: a permissive one that
// somebody added lets rows through, whatever the declared ones say.
func (t *Policy) others(s *State, x *script, table *catalog.Relation) {
	database := t.Database.Value
	declared := func(name string) bool {
		return slices.ContainsFunc(t.siblings(s), func(b *Bound) bool {
			other, ok := b.Task.(*Policy)
			if !ok || other.State == "absent" || other.Database.Value != database || other.Policy.Value != name {
				return false
			}
			o, err := x.catalogs.Find(database, catalog.Table, other.Table.Value)
			return err == nil && o.Schema == table.Schema && o.Name == table.Name.Name
		})
	}
	for _, name := range slices.Sorted(maps.Keys(x.catalogs.Contents[database].Relations[table.Name].Policies)) {
		if !declared(name) {
			x.do(database, catalog.DropPolicy{Table: table.Name, Name: name})
		}
	}
}
