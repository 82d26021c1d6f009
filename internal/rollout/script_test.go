package rollout

import (
	"context"
	"os/user"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/tasks"
)

func (b *bench) script(a tasks.RunScript) Result {
	b.t.Helper()
	a.Server, a.Name, a.Database, a.Timeout = b.server(), "x.sql", "postgres", 10*time.Second
	return b.apply(context.Background(), &tasks.Plan{Instance: b.in, Steps: []tasks.Step{{
		Tasks: []*tasks.Bound{{Name: "script"}}, Changes: []tasks.Change{{Key: "psql:script", Action: a}},
	}}})
}

// A script runs as the role that it is to run as, also after RESET ROLE, and its
// lines keep their numbers.
func TestScriptAs(t *testing.T) {
	b := newBench(t, "")
	me, err := user.Current() // the SSH server's sudo changes nobody's rights
	if err != nil {
		t.Fatal(err)
	}
	if me.Username != "postgres" {
		b.sql("CREATE ROLE " + postgres.QuoteIdent(me.Username) + " SUPERUSER LOGIN")
	}
	role := `App "Owner" \ 1`
	b.sql(`CREATE ROLE "App ""Owner"" \ 1"; GRANT CREATE ON SCHEMA public TO "App ""Owner"" \ 1"`)
	if r := b.script(tasks.RunScript{SQL: "\ufeffRESET ROLE;\nCREATE TABLE one (a int);\n", As: role, Single: true}); r.Err != nil {
		t.Fatal(r.Err)
	}
	if got := b.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'one'"); got != role {
		t.Errorf("the owner is %s", got)
	}
	r := b.script(tasks.RunScript{SQL: "SELECT 1;\nCREATE ROLE two;\n", As: role, Single: true})
	wantError(t, r, Failed, "x.sql:2: ERROR:  permission denied to create role", "nothing of it was kept")
	wantError(t, b.script(tasks.RunScript{SQL: "SELECT 1", As: "nobody"}), Failed, `role "nobody" does not exist`)
}
