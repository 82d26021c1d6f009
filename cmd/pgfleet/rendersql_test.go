package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
)

func execute(database string, st catalog.Statement) tasks.Change {
	return tasks.Change{
		Key: "sql:" + database + ":" + st.Subject(), Intent: st.SQL(), Part: "sql " + database,
		Action: tasks.Execute{Database: database, Statement: st},
	}
}

func replicated(c tasks.Change) tasks.Change {
	a := c.Action.(tasks.Execute)
	c.Intent, c.Action = "comes by replication from pg01: "+c.Intent, tasks.Replicated{From: "pg01", Database: a.Database, Statement: a.Statement}
	return c
}

// sqlPlans are those of a primary and its standby, a server where somebody is
// dropped, and one where it is decided while applying what is due.
func sqlPlans(t *testing.T) []rollout.Known {
	in := testFleet(t, 4).Instances()
	orders := catalog.Name{Schema: "public", Name: "orders"}
	roles := []tasks.Change{
		execute("postgres", catalog.CreateRole{Role: catalog.Role{Name: "appuser", Login: true, Inherit: true, ConnLimit: -1}}),
		execute("postgres", catalog.SetPassword{Role: "appuser", Secret: secrets.Ref{Store: "age", Path: "app"}}),
	}
	database := execute("postgres", catalog.CreateDatabase{Database: catalog.Database{Name: "appdb", Owner: "appowner"}})
	var grants []tasks.Change
	for i := range 25 {
		grants = append(grants, execute("appdb", catalog.Grant{
			On: []catalog.Object{{Kind: catalog.Table, Schema: "public", Name: fmt.Sprintf("t%02d", i)}}, To: "appuser", Privileges: catalog.Select,
		}))
	}
	policy := []tasks.Change{
		execute("appdb", catalog.EnableRLS{Table: orders, On: true}),
		execute("appdb", catalog.CreatePolicy{Table: orders, Policy: catalog.Policy{
			Name: "tenant", Permissive: true, Command: "ALL", Roles: []string{""}, Using: "tenant =\n  current_setting('app.tenant')",
		}}),
		execute("appdb", catalog.DropPolicy{Table: orders, Name: "old"}),
	}
	script := tasks.Change{
		Key: "psql:tables", Intent: "run sql/tables.sql in appdb", Action: tasks.RunScript{}, Effects: []string{"CREATE TABLE public.orders", "OWNER\tappowner"},
	}
	later := tasks.Change{Key: "later:Grants", Intent: "planned and carried out once sql/tables.sql has run in database appdb", Action: tasks.Replan{}}
	on := func(i int, steps ...tasks.Step) rollout.Known {
		return rollout.Known{Instance: in[i], Plan: &tasks.Plan{Instance: in[i], Steps: steps}}
	}
	var coming []tasks.Change
	for _, c := range roles {
		coming = append(coming, replicated(c))
	}
	return []rollout.Known{
		on(0, step("The application's role", roles...), step("Its database", database), step("Grants", grants...), step("Tenants", policy...), step("Tables", script)),
		on(1, step("The application's role", coming...), step("Its database", replicated(database)), question()),
		on(2, step("Nobody", execute("appdb", catalog.ReassignOwned{Role: "nobody", To: "appowner"}), execute("appdb", catalog.DropOwned{Role: "nobody"}),
			execute("appdb", catalog.DropOwned{Role: "other"})), step("Nobody", execute("postgres", catalog.DropRole{Name: "nobody"}))),
		on(3, step("Grants", later)),
	}
}

func TestRenderSQL(t *testing.T) {
	known := sqlPlans(t)
	plain := newStyle(false)
	golden(t, "plan-sql.txt", renderPlans(known, plain, false)+"\n"+renderPlanSummary(known, plain))
	text, err := encode(planJSON(testFleet(t, 1), known[1:]))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan-sql.json", string(text))
	if text := renderPlans(known, plain, true); !strings.Contains(text, "public.t24") || strings.Contains(text, "more statement") {
		t.Errorf("-v does not show all:\n%s", text)
	}
}

// What is lost is never folded away.
func TestDangerIsShown(t *testing.T) {
	known := sqlPlans(t)[:1]
	grants := known[0].Plan.Steps[2].Changes
	known[0].Plan.Steps[2].Changes = append(grants, execute("appdb", catalog.DropOwned{Role: "nobody"}))
	text := renderPlans(known, newStyle(false), false)
	if !strings.Contains(text, "and 5 more statements; -v shows them") || !strings.Contains(text, "! DROP OWNED BY nobody  -- drops everything that nobody owns in appdb") {
		t.Errorf("got\n%s", text)
	}
}

func TestKindOfStatement(t *testing.T) {
	tests := []struct {
		st   catalog.Statement
		want string
	}{
		{catalog.AlterDefaultPrivileges{}, "create"}, {catalog.AlterDefaultPrivileges{Revoke: true}, "remove"},
		{catalog.SetParameter{}, "change"}, {catalog.SetParameter{Reset: true}, "remove"},
		{catalog.RevokeRole{}, "remove"}, {catalog.AlterOwner{}, "change"},
	}
	for _, test := range tests {
		if got := kindOf(tasks.Change{Action: tasks.Execute{Statement: test.st}}); got != test.want {
			t.Errorf("%T: %s, want %s", test.st, got, test.want)
		}
	}
	if runs(step("x", tasks.Change{Action: tasks.Replicated{}})) || !runs(step("x", tasks.Change{Action: tasks.Replan{}})) {
		t.Error("what comes by replication needs no permission, and what is decided while applying does")
	}
}
