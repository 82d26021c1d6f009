//go:build lab

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// position is where a mistake stands: file, line and column.
var position = regexp.MustCompile(`fleet\.toml:\d+:\d+: `)

// What a kind cannot have is a mistake in fleet.toml, and dials nobody.
func TestLabCheckNamesTheMistake(t *testing.T) {
	for name, c := range map[string]struct{ keys, want string }{
		"a table's privilege on a schema": {"kind = \"grant\"\ndatabase = \"postgres\"\nschemas = \"public\"\nto = \"PUBLIC\"\nprivileges = [\"USAGE\", \"SELECT\"]", "SELECT"},
		"a privilege that is none":        {"kind = \"grant\"\ndatabase = \"postgres\"\nall_tables_in = \"public\"\nto = \"PUBLIC\"\nprivileges = [\"READ\"]", "READ"},
		"a column cannot be deleted from": {"kind = \"grant\"\ndatabase = \"postgres\"\ncolumns = { \"public.t\" = [\"a\"] }\nto = \"PUBLIC\"\nprivileges = [\"DELETE\"]", "DELETE"},
		"a default for databases":         {"kind = \"default_privileges\"\ndatabase = \"postgres\"\nfor_role = \"postgres\"\nobjects = \"databases\"\nto = \"PUBLIC\"\nprivileges = [\"CONNECT\"]", "databases"},
		"default usage on a table":        {"kind = \"default_privileges\"\ndatabase = \"postgres\"\nfor_role = \"postgres\"\nobjects = \"tables\"\nto = \"PUBLIC\"\nprivileges = [\"USAGE\"]", "USAGE"},
		"USING of INSERT":                 {"kind = \"policy\"\ndatabase = \"postgres\"\ntable = \"public.t\"\npolicy = \"p\"\ncommand = \"INSERT\"\nusing = \"true\"", "INSERT has only with_check"},
		"a key that is none":              {"kind = \"role\"\nrole = \"app\"\nsuperusr = true", "superuser"},
		"a password in clear":             {"kind = \"role\"\nrole = \"app\"\npassword = \"hunter2\"", "password:"},
		"the current user":                {"kind = \"grant\"\ndatabase = \"postgres\"\nschemas = \"public\"\nto = \"CURRENT_USER\"\nprivileges = [\"USAGE\"]", "CURRENT_USER"},
	} {
		t.Run(name+"/postgres-15", func(t *testing.T) {
			b := newBench(t, "\n[[task]]\nname = \"A task\"\n"+c.keys+"\n", "pg15")
			s := b.Want(2, "check")
			if strings.Contains(s.All(), "hunter2") {
				t.Errorf("a password that stands in fleet.toml is repeated:\n%s", s.All())
			}
			if !strings.Contains(s.All(), c.want) || !position.MatchString(s.All()) {
				t.Errorf("want %q and where it stands:\n%s", c.want, s.All())
			}
		})
	}
}

// What cannot be is refused while planning, at its place in fleet.toml.
func TestLabRefusedBeforeAnything(t *testing.T) {
	fresh(t, "pg15")
	for name, c := range map[string]struct{ tasks, want string }{
		"a role":       {"kind = \"grant\"\nschemas = \"public\"\ndatabase = \"postgres\"\nto = \"nobody\"\nprivileges = \"USAGE\"\n", `there is no role "nobody"`},
		"a database":   {"kind = \"schema\"\nschema = \"s\"\ndatabase = \"postgers\"\n", `there is no database "postgers" (did you mean "postgres"?)`},
		"a table":      {"kind = \"policy\"\ndatabase = \"postgres\"\ntable = \"public.orders\"\n", "there is no table public.orders in database postgres"},
		"an extension": {"kind = \"extension\"\ndatabase = \"postgres\"\nextension = \"pgaudit\"\n", "can be made only once its library is loaded"},
		"a setting":    {"kind = \"role\"\nrole = \"postgres\"\nsettings = { shared_buffers = \"1GB\" }\n", "belongs to the server as a whole"},
	} {
		t.Run(name+"/postgres-15", func(t *testing.T) {
			b := newBench(t, "\n[[task]]\nname = \"A task\"\n"+c.tasks, "pg15")
			s := b.Want(1, "plan")
			if !strings.Contains(s.All(), c.want) || !strings.Contains(s.All(), "pg15: A task: fleet.toml:") {
				t.Errorf("want %q:\n%s", c.want, s.All())
			}
		})
	}
}

// A table that somebody has locked for themselves: the plan still works, apply
// gives up after lock_timeout, keeps nothing of the transaction and says why. Of a
// table with policies the server tells nobody the expressions meanwhile: then the
// plan says that, and waits no longer for it.
func TestLabTableLockedForItself(t *testing.T) {
	for _, v := range []int{13, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			run := func(query string) string {
				return look(t, host, "cd /; runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -c "+labtest.Quote(query))
			}
			lock := func() {
				look(t, host, "cd /; nohup setsid runuser -u postgres -- psql -Xqc 'BEGIN; LOCK plain IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(50)' >/dev/null 2>&1 & sleep 1")
			}
			unlock := func() {
				sql(t, host, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(50)%' AND pid <> pg_backend_pid()")
			}
			run("DROP TABLE IF EXISTS plain")
			run("CREATE TABLE plain (a int)")
			t.Cleanup(func() { run("DROP TABLE plain") })
			const tasks = "\n[[task]]\nname = \"Rows\"\nkind = \"policy\"\ndatabase = \"postgres\"\ntable = \"public.plain\"\n"
			b := newBench(t, tasks, host)
			lock()
			s := b.Want(2, "plan", "--detailed-exitcode")
			if s.Took > 4*time.Second || !strings.Contains(s.Stdout, "ALTER TABLE public.plain ENABLE ROW LEVEL SECURITY") {
				t.Errorf("plan of a locked table took %v:\n%s", s.Took, s.All())
			}
			s = b.Want(1, "apply", "--yes")
			if !strings.Contains(s.All(), "somebody holds a lock on") || !strings.Contains(s.All(), "public.plain for longer than 5s") || s.Took > 20*time.Second {
				t.Errorf("apply took %v:\n%s", s.Took, s.All())
			}
			unlock()
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")

			run("CREATE POLICY p ON plain USING (true)")
			b.fleet(tasks+"policy = \"p\"\nusing = \"a = 1\"\n", host)
			lock()
			s = b.Want(1, "plan")
			if s.Took > 10*time.Second || !strings.Contains(s.All(), "somebody holds an ACCESS EXCLUSIVE lock on a table of it that has policies") {
				t.Errorf("plan of a locked table with a policy took %v:\n%s", s.Took, s.All())
			}
			unlock()
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
		})
	}
}

// What a role owns in two databases is dropped only where that is said, stands in
// the plan as the danger that it is, and is gone afterwards; what is others' is
// not.
func TestLabRoleGoesWithWhatItOwns(t *testing.T) {
	for _, v := range []int{13, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			look(t, host, `cd /; runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 <<'END'
CREATE ROLE "Lea ""ver";
CREATE ROLE stays;
CREATE DATABASE one;
CREATE DATABASE "Two words";
GRANT CONNECT ON DATABASE one TO "Lea ""ver" WITH GRANT OPTION;
\c one
CREATE TABLE t (a int); ALTER TABLE t OWNER TO "Lea ""ver";
CREATE TABLE kept (a int); ALTER TABLE kept OWNER TO stays;
GRANT SELECT ON kept TO "Lea ""ver";
ALTER DEFAULT PRIVILEGES FOR ROLE "Lea ""ver" GRANT SELECT ON TABLES TO PUBLIC;
\c "Two words"
CREATE SCHEMA s AUTHORIZATION "Lea ""ver";
CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION s.f() OWNER TO "Lea ""ver";
END`)
			gone := "\n[[task]]\nname = \"Leaver\"\nkind = \"role\"\nrole = 'Lea \"ver'\nstate = \"absent\"\n"
			b := newBench(t, gone, host)
			s := b.Want(1, "plan")
			for _, want := range []string{"fleet.toml:", "owns objects", "in database one", "in database Two words", "reassign_to", "drop_owned = true"} {
				if !strings.Contains(s.All(), want) {
					t.Errorf("not said: %q\n%s", want, s.All())
				}
			}
			b.fleet(gone+"drop_owned = true\n", host)
			plan := b.Want(2, "plan", "--detailed-exitcode")
			if n := strings.Count(plan.Stdout, `DROP OWNED BY "Lea ""ver"`); n < 2 {
				t.Errorf("DROP OWNED stands %d times in the plan:\n%s", n, plan.Stdout)
			}
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
			got := look(t, host, `cd /; for d in one "Two words"; do runuser -u postgres -- psql -XAtq -d "$d" -c "SELECT count(*) FROM pg_class WHERE relname IN ('t', 'kept')" -c "SELECT count(*) FROM pg_namespace WHERE nspname = 's'" -c "SELECT count(*) FROM pg_default_acl"; done; runuser -u postgres -- psql -XAtqc "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname !~ '^pg_'"`)
			if want := "1\n0\n0\n0\n0\n0\npostgres stays\n"; got != want {
				t.Errorf("left: %q, want %q", got, want)
			}
		})
	}
}

// A role that owns things in two databases goes only when it is said what
// becomes of them, and the plan shows it for each.
func TestLabRoleIsReassigned(t *testing.T) {
	host := "pg17"
	fresh(t, host)
	sql(t, host, "CREATE ROLE leaver")
	sql(t, host, "CREATE DATABASE other OWNER leaver")
	look(t, host, "cd /; runuser -u postgres -- psql -Xq -d other -c 'CREATE TABLE t (a int); ALTER TABLE t OWNER TO leaver'; runuser -u postgres -- psql -Xq -c 'CREATE TABLE u (a int); ALTER TABLE u OWNER TO leaver'")
	gone := "\n[[task]]\nname = \"Leaver\"\nkind = \"role\"\nrole = \"leaver\"\nstate = \"absent\"\n"
	b := newBench(t, gone, host)
	if s := b.Want(1, "plan"); !strings.Contains(s.All(), "leaver owns objects") || !strings.Contains(s.All(), "reassign_to") {
		t.Errorf("not refused:\n%s", s.All())
	}
	b.fleet(gone+"reassign_to = \"postgres\"\n", host)
	plan := b.Want(2, "plan", "--detailed-exitcode")
	if n := strings.Count(plan.Stdout, "REASSIGN OWNED BY leaver TO postgres"); n != 2 {
		t.Errorf("REASSIGN OWNED stands %d times in the plan:\n%s", n, plan.Stdout)
	}
	b.Want(0, "apply", "--yes")
	b.Want(0, "plan", "--detailed-exitcode")
	if got := sql(t, host, "SELECT count(*) FROM pg_roles WHERE rolname = 'leaver'"); got != "0" {
		t.Error("the role is still there")
	}
	if got := look(t, host, "cd /; runuser -u postgres -- psql -XAtq -d other -c 'SELECT relowner::regrole FROM pg_class WHERE relname = $$t$$'"); got != "postgres\n" {
		t.Errorf("the table is %s's", got)
	}
}

// scripts are the ways in which a script says when it is due and what it does.
const scripts = `
[[task]]
name = "Owner"
kind = "role"
role = "appowner"

[[task]]
name = "Reader"
kind = "role"
role = "readuser"

[[task]]
name = "Database"
kind = "database"
database = "appdb"
owner = "appowner"

[[task]]
name = "Schema"
kind = "schema"
database = "appdb"
schema = "app"
owner = "appowner"

[[task]]
name = "Defaults"
kind = "default_privileges"
database = "appdb"
for_role = "appowner"
in_schemas = "app"
objects = "tables"
to = "readuser"
privileges = "SELECT"

[[task]]
name = "Tables"
kind = "psql"
database = "appdb"
script = "tables.sql"
as = "appowner"
creates = ["table app.orders", "view app.totals", "sequence app.numbers"]
rehearse = true

[[task]]
name = "Reading"
kind = "grant"
database = "appdb"
to = "readuser"
privileges = "SELECT"
all_tables_in = "app"
exact = true
`

func TestLabScripts(t *testing.T) {
	for _, v := range []int{13, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			b := newBench(t, scripts, host)
			b.Write("tables.sql", "CREATE TABLE app.orders (id int, total int);\nCREATE VIEW app.totals AS SELECT sum(total) FROM app.orders;\nCREATE SEQUENCE app.numbers;\n")

			// Foreseen in a database that is not there: default privileges give
			// readuser what the last task wants, so that it has nothing to do.
			plan := b.Want(2, "plan", "--detailed-exitcode")
			if !strings.Contains(plan.Stdout, "app.orders is missing") || strings.Contains(plan.Stdout, "GRANT SELECT ON TABLE app.") {
				t.Errorf("the plan on an empty server:\n%s", plan.Stdout)
			}
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
			inApp := func(query string) string {
				return strings.TrimSpace(look(t, host, "cd /; runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d appdb -c "+labtest.Quote(query)))
			}
			for query, want := range map[string]string{
				"SELECT string_agg(relname || ' ' || relowner::regrole, ', ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'app'::regnamespace": "numbers appowner, orders appowner, totals appowner",
				"SELECT has_table_privilege('readuser', 'app.orders', 'SELECT') AND has_table_privilege('readuser', 'app.totals', 'SELECT')":           "t",
			} {
				if got := inApp(query); got != want {
					t.Errorf("%s: %q, want %q", query, got, want)
				}
			}

			// A script that is due again is rehearsed on what is there, and its
			// error is the plan's: with its line, and nothing of it is kept.
			inApp("DROP SEQUENCE app.numbers")
			s := b.Want(1, "plan")
			for _, want := range []string{"tables.sql: rehearsed", "line 1: ", `relation "orders" already exists`, "rolled back"} {
				if !strings.Contains(s.All(), want) {
					t.Errorf("not said: %q\n%s", want, s.All())
				}
			}
			b.Write("tables.sql", "CREATE SEQUENCE app.numbers;\nALTER TABLE app.orders ADD at date;\nREVOKE SELECT ON app.orders FROM readuser;\n")
			plan = b.Want(2, "plan", "--detailed-exitcode", "-v")
			for _, want := range []string{"app.numbers is missing", "app.numbers", "rehearsed on the server", "GRANT SELECT ON TABLE app.orders TO readuser"} {
				if !strings.Contains(plan.Stdout, want) {
					t.Errorf("not said: %q\n%s", want, plan.Stdout)
				}
			}
			if got := inApp("SELECT count(*) FROM pg_attribute WHERE attrelid = 'app.orders'::regclass AND attname = 'at'"); got != "0" {
				t.Error("a rehearsal has left something")
			}
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")

			// What no transaction takes back is not rehearsed.
			inApp("DROP SEQUENCE app.numbers")
			b.Write("tables.sql", "CREATE SEQUENCE app.numbers;\nVACUUM;\n")
			if s := b.Want(1, "plan"); !strings.Contains(s.All(), "line 2: VACUUM") {
				t.Errorf("VACUUM is not named:\n%s", s.All())
			}
			// What a rehearsal does not make is a mistake in creates; what the role
			// may not do is the script's.
			b.Write("tables.sql", "SELECT 1;\n")
			if s := b.Want(1, "plan"); !strings.Contains(s.All(), "the script does not make app.numbers") {
				t.Errorf("creates is not doubted:\n%s", s.All())
			}
			b.Write("tables.sql", "CREATE SEQUENCE app.numbers;\nSELECT rolname FROM pg_authid;\n")
			if s := b.Want(1, "plan"); !strings.Contains(s.All(), "permission denied for table pg_authid") || !strings.Contains(s.All(), "line 2: ERROR") {
				t.Errorf("it does not run as appowner:\n%s", s.All())
			}
			if got := inApp("SELECT to_regclass('app.numbers') IS NULL"); got != "t" {
				t.Error("a rehearsal has left a sequence")
			}
			b.Write("tables.sql", "CREATE SEQUENCE app.numbers;\n")
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
			if got := inApp("SELECT relowner::regrole FROM pg_class WHERE relname = 'numbers'"); got != "appowner" {
				t.Errorf("app.numbers is %s's", got)
			}
		})
	}
}
