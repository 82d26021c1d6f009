//go:build lab

package e2e

import (
	"strings"
	"testing"
)

// A standby is never written to: what tasks declare comes from its primary, is
// waited for, and is verified there.
func TestLabByReplication(t *testing.T) {
	b := newDeclared(t, "primary", "standby")
	plan := b.want(2, "plan", "--detailed-exitcode")
	for _, want := range []string{"comes by replication from primary: CREATE ROLE appowner", "comes by replication from primary: CREATE POLICY tenant"} {
		if !strings.Contains(plan.stdout, want) {
			t.Errorf("the plan does not say %q:\n%s", want, plan.stdout)
		}
	}
	b.want(0, "apply", "--yes")
	b.want(0, "plan", "--detailed-exitcode")
	wantGuide(t, "primary")
	if got := sql(t, "standby", "SELECT count(*) FROM pg_roles WHERE rolname IN ('appowner', 'appuser', 'readuser')"); got != "3" {
		t.Errorf("the standby has %s of the roles", got)
	}

	sql(t, "primary", "ALTER ROLE readuser SUPERUSER")
	for range 100 {
		if sql(t, "standby", "SELECT rolsuper FROM pg_roles WHERE rolname = 'readuser'") == "t" {
			break
		}
	}
	alone := b.want(1, "apply", "--yes", "--limit", "standby")
	if !strings.Contains(alone.all(), "comes by replication from primary: apply there") {
		t.Errorf("apply of the standby alone:\n%s", alone.all())
	}
	b.want(0, "apply", "--yes")
	b.want(0, "plan", "--detailed-exitcode")

	// While it does not replay, nothing is claimed of it.
	sql(t, "standby", "SELECT pg_wal_replay_pause()")
	defer sql(t, "standby", "SELECT pg_wal_replay_resume()")
	sql(t, "primary", "ALTER ROLE readuser CREATEDB")
	paused := b.run("apply", "--yes")
	if got := sql(t, "primary", "SELECT rolcreatedb FROM pg_roles WHERE rolname = 'readuser'"); got != "f" {
		t.Errorf("the primary was not put right:\n%s", paused.all())
	}
}

// What cannot be is refused while planning, at its place in fleet.toml.
func TestLabRefusedBeforeAnything(t *testing.T) {
	fresh(t, "pg15")
	sql(t, "pg15", "DROP EXTENSION IF EXISTS pgaudit")
	for name, c := range map[string]struct{ tasks, want string }{
		"a role":       {"kind = \"grant\"\nschemas = \"public\"\ndatabase = \"postgres\"\nto = \"nobody\"\nprivileges = \"USAGE\"\n", `there is no role "nobody"`},
		"a database":   {"kind = \"schema\"\nschema = \"s\"\ndatabase = \"postgers\"\n", `there is no database "postgers" (did you mean "postgres"?)`},
		"a table":      {"kind = \"policy\"\ndatabase = \"postgres\"\ntable = \"public.orders\"\n", "there is no table public.orders in database postgres"},
		"an extension": {"kind = \"extension\"\ndatabase = \"postgres\"\nextension = \"pgaudit\"\n", "can be made only once its library is loaded"},
		"a setting":    {"kind = \"role\"\nrole = \"postgres\"\nsettings = { shared_buffers = \"1GB\" }\n", "belongs to the server as a whole"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "\n[[task]]\nname = \"A task\"\n"+c.tasks, "pg15")
			s := b.want(1, "plan")
			if !strings.Contains(s.all(), c.want) || !strings.Contains(s.all(), "pg15: A task: fleet.toml:") {
				t.Errorf("want %q:\n%s", c.want, s.all())
			}
		})
	}
}

// A table that somebody has locked keeps nobody waiting behind pgfleet.
func TestLabLockedTable(t *testing.T) {
	host := "pg15"
	b := newDeclared(t, host)
	b.want(0, "apply", "--yes")
	look(t, host, "cd /; runuser -u postgres -- psql -Xqd appdb -c 'ALTER TABLE orders DISABLE ROW LEVEL SECURITY'; "+
		"nohup setsid runuser -u postgres -- psql -Xqd appdb -c 'BEGIN; LOCK orders IN SHARE MODE; SELECT pg_sleep(20)' >/dev/null 2>&1 & sleep 1")
	s := b.want(1, "apply", "--yes")
	if !strings.Contains(s.all(), "lock") || !strings.Contains(s.all(), "ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY") {
		t.Errorf("not said that it is locked:\n%s", s.all())
	}
	sql(t, host, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)%' AND pid <> pg_backend_pid()")
	b.want(0, "apply", "--yes")
	b.want(0, "plan", "--detailed-exitcode")
}

// A role that owns things in two databases goes only when it is said what
// becomes of them, and the plan shows it for each.
func TestLabRoleGoes(t *testing.T) {
	host := "pg17"
	b := newDeclared(t, host)
	for _, s := range []string{"DROP DATABASE IF EXISTS other", "DROP ROLE IF EXISTS leaver", "CREATE ROLE leaver", "CREATE DATABASE other OWNER leaver"} {
		sql(t, host, s)
	}
	look(t, host, "cd /; runuser -u postgres -- psql -Xq -d other -c 'CREATE TABLE t (a int); ALTER TABLE t OWNER TO leaver'; runuser -u postgres -- psql -Xq -c 'CREATE TABLE u (a int); ALTER TABLE u OWNER TO leaver'")
	gone := "\n[[task]]\nname = \"Leaver\"\nkind = \"role\"\nrole = \"leaver\"\nstate = \"absent\"\n"
	b.fleet(gone, host)
	if s := b.want(1, "plan"); !strings.Contains(s.all(), "leaver owns objects") || !strings.Contains(s.all(), "reassign_to") {
		t.Errorf("not refused:\n%s", s.all())
	}
	b.fleet(gone+"reassign_to = \"postgres\"\n", host)
	plan := b.want(2, "plan", "--detailed-exitcode")
	if n := strings.Count(plan.stdout, "REASSIGN OWNED BY leaver TO postgres"); n != 2 {
		t.Errorf("REASSIGN OWNED stands %d times in the plan:\n%s", n, plan.stdout)
	}
	b.want(0, "apply", "--yes")
	b.want(0, "plan", "--detailed-exitcode")
	if got := sql(t, host, "SELECT count(*) FROM pg_roles WHERE rolname = 'leaver'"); got != "0" {
		t.Error("the role is still there")
	}
	look(t, host, "cd /; runuser -u postgres -- psql -Xq -d other -c 'SELECT FROM t' -c '\\c postgres' -c 'DROP TABLE u' -c 'DROP DATABASE other' >/dev/null")
}
