//go:build lab

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// initLab boots a host with each version and returns the flags that log in there.
func initLab(t *testing.T, versions ...int) (*lab.Lab, []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var hosts []lab.Host
	for i, v := range versions {
		hosts = append(hosts, lab.Host{Name: fmt.Sprintf("pg%02d", i+1), Postgres: v})
	}
	l, err := lab.Up(ctx, lab.Options{Hosts: hosts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Down() })
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	return l, []string{"--user", l.User, "--identity", l.Key, "--known-hosts", l.KnownHosts}
}

// pgfleet runs a command line in a fleet's folder and returns its exit code and
// what it printed.
func pgfleet(t *testing.T, dir string, args ...string) (int, string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	code := run(append([]string{"-f", filepath.Join(dir, "fleet.toml")}, args...), terminal{Out: out, Err: out, LookupEnv: os.LookupEnv}, make(chan os.Signal))
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, string(text)
}

// wantPlan fails unless a plan ends with the exit code: 0 for nothing to do, 2
// for changes.
func wantPlan(t *testing.T, dir string, want int) {
	t.Helper()
	if code, out := pgfleet(t, dir, "plan", "--detailed-exitcode"); code != want {
		t.Errorf("plan: exit %d, want %d:\n%s", code, want, out)
	}
}

func wantApply(t *testing.T, dir string) {
	t.Helper()
	if code, out := pgfleet(t, dir, "apply", "--yes"); code != 0 {
		t.Fatalf("apply: exit %d:\n%s", code, out)
	}
}

// A server that somebody has worked on by hand for years.
const workedOn = `set -e
conf=$(ls -d /etc/postgresql/*/main)
version=$(basename "$(dirname "$conf")")
as() { runuser -u postgres -- "$@"; }
as tee "$conf/conf.d/10-logging.conf" >/dev/null <<'END'
# by hand, 2019
log_connections = on
log_line_prefix = '%m {{ %p %u@%d '   # odd
work_mem = 4MB
END
as tee "$conf/conf.d/20-memory.conf" >/dev/null <<'END'
work_mem = 8MB
shared_preload_libraries = 'pgaudit, auto_explain'
pgaudit.log = 'ddl'
END
as tee -a "$conf/pg_hba.conf" >/dev/null <<'END'
# the old application
hostssl  app,"App Two"  +writers,report  10.1.2.0  255.255.255.0   md5  # since 2019
host     all            all              samenet                   reject
local    all            dba              peer map=admins
END
echo 'admins /^(ops|deploy)$ dba' | as tee -a "$conf/pg_ident.conf" >/dev/null
systemctl restart "postgresql@$version-main"
as psql -Xqc "ALTER SYSTEM SET maintenance_work_mem = '96MB'"
as psql -Xqv ON_ERROR_STOP=1 <<'END'
ALTER ROLE postgres SET statement_timeout = 0;
CREATE ROLE "App Owner" CONNECTION LIMIT 5;
CREATE ROLE app LOGIN PASSWORD 'a1' IN ROLE "App Owner" VALID UNTIL '2031-05-06 07:08:09+02';
CREATE ROLE "select" LOGIN NOINHERIT BYPASSRLS IN ROLE pg_monitor;
CREATE ROLE "ops ""the"" {{ 63 bytes long, which is as long as a name can be" CREATEDB ADMIN app;
COMMENT ON ROLE app IS 'the old application''s';
GRANT pg_read_all_stats TO app WITH ADMIN OPTION;
ALTER ROLE app SET search_path = "$user", public, "App Two";
ALTER ROLE app SET pgaudit.log = 'all';
CREATE DATABASE "App Two" OWNER "App Owner" TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C';
ALTER DATABASE "App Two" SET work_mem = '12MB';
ALTER DATABASE "App Two" CONNECTION LIMIT 50;
ALTER ROLE app IN DATABASE "App Two" SET "app.Tenant" = '{{ 7';
GRANT CONNECT ON DATABASE "App Two" TO "select" WITH GRANT OPTION;
REVOKE TEMPORARY ON DATABASE "App Two" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
\c template1
GRANT CREATE ON SCHEMA public TO app;
\c "App Two"
CREATE EXTENSION pgaudit;
CREATE SCHEMA "S" AUTHORIZATION "App Owner";
CREATE SCHEMA "two words";
CREATE TABLE "S"."Orders" (id serial PRIMARY KEY, "tenant.id" integer, b bigint GENERATED ALWAYS AS IDENTITY);
CREATE TABLE "S"."table" (a int);
CREATE VIEW "S".v AS SELECT 1 AS one;
CREATE SEQUENCE public.numbers;
CREATE FUNCTION public.f(a integer, "B" text DEFAULT 'x', VARIADIC c numeric(5,2)[] DEFAULT '{}') RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
CREATE PROCEDURE "S"."P"() LANGUAGE sql AS 'SELECT 1';
ALTER TABLE "S"."Orders" OWNER TO "App Owner";
ALTER FUNCTION public.f() OWNER TO app;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA "S" TO app;
GRANT SELECT ON ALL TABLES IN SCHEMA "S" TO "select", PUBLIC;
GRANT UPDATE (b, "tenant.id"), REFERENCES ("tenant.id") ON "S"."Orders" TO "select";
GRANT TRUNCATE ON "S"."table" TO app WITH GRANT OPTION;
REVOKE DELETE ON "S"."table" FROM postgres;
GRANT USAGE ON SEQUENCE "S"."Orders_id_seq", numbers TO app;
REVOKE EXECUTE ON FUNCTION public.f() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.f() TO "select";
ALTER DEFAULT PRIVILEGES FOR ROLE "App Owner" GRANT SELECT ON TABLES TO "select";
ALTER DEFAULT PRIVILEGES FOR ROLE "App Owner" IN SCHEMA "S" GRANT INSERT ON TABLES TO app, "select";
ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO app;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO app WITH GRANT OPTION;
ALTER TABLE "S"."Orders" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY "of {{ tenant" ON "S"."Orders" TO app, "select" USING ("tenant.id" = NULLIF(current_setting('app.Tenant', true), '')::int) WITH CHECK (b > 0 OR b IS NULL);
CREATE POLICY more ON "S"."Orders" AS RESTRICTIVE FOR INSERT WITH CHECK (true);
ALTER TABLE "S"."table" ENABLE ROW LEVEL SECURITY;
CREATE POLICY unused ON "S"."table" FOR DELETE USING ((SELECT count(*) FROM "S"."Orders") = 0);
ALTER TABLE "S"."table" DISABLE ROW LEVEL SECURITY;
END
sleep 1.1
systemctl reload "postgresql@$version-main"
`

func TestLabInitFrom(t *testing.T) {
	l, flags := initLab(t, 13, 15, 17, 18)
	for _, h := range l.Hosts() {
		if out, err := h.Exec(t.Context(), workedOn); err != nil {
			t.Fatalf("%s %v", out, err)
		}
		const digest = `find /etc /var/lib/postgresql/*/main/postgresql.auto.conf -type f -exec stat -c '%n %U %G %a %Y' {} + -exec sha256sum {} + | sort`
		before, err := h.Exec(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "fleet")
		out, err := runInit(t, append([]string{dir, "--from", h.Address.String()}, flags...)...)
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		t.Log(out)
		if !strings.Contains(out, "The first plan is empty.") || !strings.Contains(out, "ALTER SYSTEM") {
			t.Errorf("%s: %s", h.Name, out)
		}
		wantPlan(t, dir, 0)
		if after, err := h.Exec(t.Context(), digest); err != nil || after != before {
			t.Errorf("%s: the host was changed: %v", h.Name, err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "fleet.toml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`"hostssl app,\"App Two\" +writers,report 10.1.2.0/24 md5",`, `"admins /^(ops|deploy)$ dba",`,
			`# ALTER SYSTEM has set`, `maintenance_work_mem = "96MB"`, `statement_timeout = "0"`, `role = "App Owner"`, `policy = "of {{\"{{\"}} tenant"`,
			"20-memory.conf", "-pgaudit\",", "[hosts." + h.Name + "]",
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: fleet.toml lacks %q", h.Name, want)
			}
		}
		if t.Failed() {
			t.Logf("%s", text)
		}

		// A change made by hand is found and undone, and then nothing is due.
		if out, err := h.Exec(t.Context(), `echo 'host all all 0.0.0.0/0 trust' >>$(ls /etc/postgresql/*/main/pg_hba.conf); sed -i 's/8MB/16MB/' /etc/postgresql/*/main/conf.d/20-memory.conf
			cd /; runuser -u postgres -- psql -Xqd "App Two" -c 'ALTER ROLE app SUPERUSER' -c 'REVOKE SELECT ON "S".v FROM app' -c 'ALTER TABLE "S"."Orders" DISABLE ROW LEVEL SECURITY'`); err != nil {
			t.Fatalf("%s %v", out, err)
		}
		wantPlan(t, dir, 2)
		wantApply(t, dir)
		wantPlan(t, dir, 0)
	}
}
