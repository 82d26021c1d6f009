//go:build lab

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// declared are the guide's steps 2, 4, 5 and 6.
const declared = `
[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "local appdb all scram-sha-256", "host all,replication postgres all reject"]

[[task]]
name = "Audit log"
kind = "audit_logging"
file = "30-audit.conf"
[task.settings]
log_destination = "stderr"
password_encryption = "scram-sha-256"

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "Superuser"
kind = "role"
role = "postgres"
password = "none"
remote = false

[[task]]
name = "Owner"
kind = "role"
role = "appowner"
member_of = []

[[task]]
name = "Application"
kind = "role"
role = "appuser"
login = true
password = "env:APP_PASSWORD"
connection_limit = 20
member_of = []
settings = { statement_timeout = "30s" }

[[task]]
name = "Reader"
kind = "role"
role = "readuser"
login = true
password = "env:READ_PASSWORD"
member_of = []

[[task]]
name = "Database"
kind = "database"
database = "appdb"
owner = "appowner"

[[task]]
name = "Schema"
kind = "schema"
database = "appdb"
schema = "public"
owner = "appowner"

[[task]]
name = "Extension"
kind = "extension"
for_each = ["postgres", "appdb"]
database = "{{ .Each }}"
extension = "pgaudit"

[[task]]
name = "Nothing for PUBLIC"
kind = "grant"
database = "appdb"
schemas = "public"
to = "PUBLIC"
exact = true

[[task]]
name = "Connect"
kind = "grant"
databases = "appdb"
to = ["appuser", "readuser"]
privileges = "CONNECT"

[[task]]
name = "Usage"
kind = "grant"
database = "appdb"
schemas = "public"
to = ["appuser", "readuser"]
privileges = "USAGE"

[[task]]
name = "Future tables, written"
kind = "default_privileges"
database = "appdb"
for_role = "appowner"
in_schemas = "public"
objects = "tables"
to = "appuser"
privileges = ["SELECT", "INSERT", "UPDATE", "DELETE"]

[[task]]
name = "Future tables, read"
kind = "default_privileges"
database = "appdb"
for_role = "appowner"
in_schemas = "public"
objects = "tables"
to = "readuser"
privileges = "SELECT"

[[task]]
name = "Future functions"
kind = "default_privileges"
database = "appdb"
for_role = "appowner"
objects = "functions"
to = "PUBLIC"
privileges = "EXECUTE"
state = "absent"

[[task]]
name = "Orders"
kind = "psql"
database = "appdb"
as = "appowner"
sql = "CREATE TABLE public.orders (id int PRIMARY KEY, tenant int NOT NULL)"
creates = ["table public.orders"]

[[task]]
name = "Tables"
kind = "grant"
database = "appdb"
all_tables_in = "public"
to = ["appuser"]
privileges = ["SELECT", "INSERT", "UPDATE", "DELETE"]
exact = true

[[task]]
name = "Tables, read"
kind = "grant"
database = "appdb"
all_tables_in = "public"
to = ["readuser"]
privileges = "SELECT"
exact = true

[[task]]
name = "Tables, not for PUBLIC"
kind = "grant"
database = "appdb"
all_tables_in = "public"
to = "PUBLIC"
exact = true

[[task]]
name = "Owners"
kind = "owner"
database = "appdb"
owner = "appowner"
all_tables_in = "public"

[[task]]
name = "Tenants"
kind = "policy"
database = "appdb"
table = "public.orders"
policy = "tenant"
using = "tenant = NULLIF(current_setting('app.tenant', true), '')::int"
exact = true
`

// newDeclared is a bench for one host with nothing of the tasks on it.
func newDeclared(t *testing.T, hosts ...string) *bench {
	t.Helper()
	fresh(t, hosts...)
	for _, h := range hosts {
		if h != "standby" {
			sql(t, h, "DROP DATABASE IF EXISTS appdb")
			for _, role := range []string{"appuser", "readuser", "appowner"} {
				sql(t, h, "DROP ROLE IF EXISTS "+role)
			}
			sql(t, h, "DROP EXTENSION IF EXISTS pgaudit")
		}
	}
	b := newBench(t, declared, hosts...)
	b.env = append(b.env, "APP_PASSWORD=pw-App7Kd2_unsaid", "READ_PASSWORD=pw-Read3Lm9_unsaid")
	return b
}

// as runs SQL as a role that logs in with its password, and returns what psql
// says.
func as(t *testing.T, host, role, password, query string) string {
	t.Helper()
	out, err := fleet.lab.Host(host).Exec(t.Context(), fmt.Sprintf("cd /; PGPASSWORD=%s psql -XAtq -v ON_ERROR_STOP=1 -h /var/run/postgresql -U %s -d appdb -c %s 2>&1", password, role, shellQuote(query)))
	if err != nil && !strings.Contains(out, "ERROR") && !strings.Contains(out, "FATAL") {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(out)
}

// stated are the statements of a plan.
var stated = regexp.MustCompile(`(?m)^     [-+~] ([A-Z]+ .*)$`)

func TestLabDeclared(t *testing.T) {
	for _, v := range versions() {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			host := fmt.Sprintf("pg%d", v)
			b := newDeclared(t, host)
			sql(t, host, "ALTER SYSTEM SET log_statement = 'mod'")
			log := fmt.Sprintf("/var/log/postgresql/postgresql-%d-main.log", v)
			look(t, host, ": >"+log)
			plan := b.want(2, "plan", "--detailed-exitcode", "-v", "--out", "saved")
			if strings.Contains(plan.stdout, "unknown:") {
				t.Errorf("something is unknown:\n%s", plan.stdout)
			}
			b.want(0, "apply", "--yes", "saved")
			b.want(0, "plan", "--detailed-exitcode")

			// What was run is what was planned, and nothing else.
			var planned, ran []string
			for _, m := range stated.FindAllStringSubmatch(plan.stdout, -1) {
				if !strings.Contains(m[1], "PASSWORD") {
					planned = append(planned, m[1])
				}
			}
			logged := regexp.MustCompile(`(?m) pgfleet \[local\] LOG:  (?:statement|execute [^:]*): (.*)$`)
			for _, m := range logged.FindAllStringSubmatch(look(t, host, "cat "+log), -1) {
				if !strings.HasPrefix(m[1], "CREATE TABLE public.orders") {
					ran = append(ran, m[1])
				}
			}
			slices.Sort(planned)
			slices.Sort(ran)
			if len(planned) < 15 || !slices.Equal(planned, ran) {
				t.Errorf("planned %d:\n%s\n\nrun %d:\n%s", len(planned), strings.Join(planned, "\n"), len(ran), strings.Join(ran, "\n"))
			}

			wantGuide(t, host)
			t.Logf("PROOF: %d statements were planned on an empty PostgreSQL %d, and the server's log has the same %d", len(planned), v, len(ran))
		})
	}
}

// wantGuide looks at what the guide wants, without pgfleet.
func wantGuide(t *testing.T, host string) {
	t.Helper()
	inApp := func(command string) string {
		return look(t, host, "cd /; runuser -u postgres -- psql -XAt -d appdb -c "+shellQuote(command))
	}
	for command, wants := range map[string][]string{
		`\dp public.orders`: {"appowner=arwdDx", "appuser=arwd/appowner", "readuser=r/appowner", "tenant"},
		`\ddp`:              {"appuser=arwd/appowner", "readuser=r/appowner", "appowner=X/appowner"},
		`\du appuser`:       {"20 connections"},
		`\du appowner`:      {"Cannot login"},
		`\l appdb`:          {"appowner=CTc/appowner", "appuser=c/appowner", "readuser=c/appowner"},
	} {
		out := inApp(command)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q:\n%s", command, want, out)
			}
		}
		if strings.Contains(out, "\n=") {
			t.Errorf("%s: PUBLIC has something:\n%s", command, out)
		}
	}
	if got := sql(t, host, "SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'postgres'"); got != "t" {
		t.Error("the superuser has a password")
	}
	app := func(query string) string { return as(t, host, "appuser", "pw-App7Kd2_unsaid", query) }
	reader := func(query string) string { return as(t, host, "readuser", "pw-Read3Lm9_unsaid", query) }
	for _, c := range []struct {
		says func(string) string
		sql  string
		want string
	}{
		{app, "DELETE FROM orders; SET app.tenant = '1'; DELETE FROM orders; INSERT INTO orders VALUES (1, 1), (2, 1); SELECT count(*) FROM orders", "2"},
		{app, "SET app.tenant = '2'; DELETE FROM orders; INSERT INTO orders VALUES (3, 2); SELECT count(*) FROM orders", "1"},
		{app, "SET app.tenant = '2'; INSERT INTO orders VALUES (4, 1)", "violates row-level security policy"},
		{app, "SELECT count(*) FROM orders", "0"},
		{app, "CREATE TABLE mine (a int)", "permission denied for schema public"},
		{app, "CREATE TEMP TABLE mine (a int)", "permission denied"},
		{app, "TRUNCATE orders", "permission denied"},
		{app, "SELECT rolpassword FROM pg_authid", "permission denied"},
		{app, "SET ROLE appowner", "permission denied"},
		{app, "SHOW statement_timeout", "30s"},
		{reader, "SET app.tenant = '1'; SELECT count(*) FROM orders", "2"},
		{reader, "INSERT INTO orders VALUES (5, 1)", "permission denied"},
	} {
		if got := c.says(c.sql); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q in it", c.sql, got, c.want)
		}
	}
	if got := inApp("SET ROLE appowner; SELECT count(*) FROM orders"); !strings.Contains(got, "0") {
		t.Errorf("the owner sees rows under FORCE: %s", got)
	}
}

// Everything that somebody changes by hand is found and undone.
func TestLabDrift(t *testing.T) {
	all := versions()
	if os.Getenv("PGFLEET_SOAK") == "" {
		all = []int{13, 17}
	}
	for _, v := range all {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			host := fmt.Sprintf("pg%d", v)
			b := newDeclared(t, host)
			b.want(0, "apply", "--yes")
			inApp := func(query string) {
				look(t, host, "cd /; runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d appdb -c "+shellQuote(query))
			}
			tried := 0
			for _, c := range []struct{ what, drift, found string }{
				{"a superuser", "ALTER ROLE readuser SUPERUSER", "ALTER ROLE readuser NOSUPERUSER"},
				{"a grant to PUBLIC", "GRANT SELECT ON orders TO PUBLIC", "REVOKE SELECT ON TABLE public.orders FROM PUBLIC"},
				{"a grant too much", "GRANT UPDATE (id) ON orders TO readuser", "REVOKE UPDATE (id) ON TABLE public.orders FROM readuser"},
				{"RLS off", "ALTER TABLE orders DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY"},
				{"FORCE off", "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"},
				{"a policy's expression", "ALTER POLICY tenant ON orders USING (true)", "ALTER POLICY tenant ON public.orders USING"},
				{"a policy more", "CREATE POLICY open ON orders USING (true)", "DROP POLICY open ON public.orders"},
				{"a default privilege", "ALTER DEFAULT PRIVILEGES FOR ROLE appowner IN SCHEMA public REVOKE INSERT ON TABLES FROM appuser", "GRANT INSERT ON TABLES TO appuser"},
				{"a role's setting", "ALTER ROLE appuser SET pgaudit.log = 'none'", "ALTER ROLE appuser RESET pgaudit.log"},
				{"a database's setting", "ALTER DATABASE appdb SET work_mem = '1GB'", "ALTER DATABASE appdb RESET work_mem"},
				{"ALTER SYSTEM", "ALTER SYSTEM SET pgaudit.log = 'none'", "ALTER SYSTEM RESET pgaudit.log"},
				{"a membership", "GRANT appowner TO readuser", "REVOKE appowner FROM readuser"},
				{"an owner", "ALTER TABLE orders OWNER TO postgres", "OWNER TO appowner"},
				{"a password", "ALTER ROLE appuser PASSWORD 'other'", "ALTER ROLE appuser PASSWORD ••••"},
				{"the superuser's password", "ALTER ROLE postgres PASSWORD 'other'", "ALTER ROLE postgres PASSWORD NULL"},
			} {
				inApp(c.drift)
				plan := b.want(2, "plan", "--detailed-exitcode", "-v")
				if !strings.Contains(plan.stdout, c.found) {
					t.Errorf("%s: the plan does not say %q:\n%s", c.what, c.found, plan.stdout)
				}
				b.want(0, "apply", "--yes")
				b.want(0, "plan", "--detailed-exitcode")
				tried++
			}
			wantGuide(t, host)
			if got := sql(t, host, "SHOW pgaudit.log"); got != "ddl, write, role" {
				t.Errorf("pgaudit.log is %s", got)
			}
			t.Logf("PROOF: %d changes by hand on PostgreSQL %d were found and undone", tried, v)
		})
	}
}
