//go:build lab

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// held is what roles may and what holds for them, as the catalogs have it, a line
// each, without what differs only in how it came about: numbers, the order of
// privileges, and an owner's own ones whether they are written down or implied.
const held = `
WITH acls(what, acl) AS (
	SELECT 'database ' || datname, coalesce(datacl, acldefault('d', datdba)) FROM pg_database
	UNION ALL SELECT 'schema ' || nspname, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname !~ '^pg_t'
	UNION ALL SELECT 'relation ' || oid::regclass, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner)) FROM pg_class WHERE relkind IN ('r', 'S', 'v') AND relnamespace = 'public'::regnamespace
	UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname, attacl FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attacl IS NOT NULL
	UNION ALL SELECT format('default %s %s %s', defaclrole::regrole, defaclnamespace, defaclobjtype), defaclacl FROM pg_default_acl
)
SELECT what || ' ' || item FROM (SELECT what, unnest(acl)::text AS item FROM acls) x
UNION ALL SELECT format('role %s, until %s, no password: %s', to_jsonb(a) - '{rolpassword,rolvaliduntil}'::text[], coalesce(rolvaliduntil, 'infinity'), rolpassword IS NULL) FROM pg_authid a
UNION ALL SELECT format('member %s %s %s', roleid::regrole, member::regrole, to_jsonb(m) - 'oid') FROM pg_auth_members m
UNION ALL SELECT format('setting %s %s %s', setdatabase, setrole, setconfig) FROM pg_db_role_setting
UNION ALL SELECT format('owner %s %s', datname, datdba::regrole) FROM pg_database
UNION ALL SELECT format('owner %s %s', nspname, nspowner::regrole) FROM pg_namespace WHERE nspname !~ '^pg_t'
UNION ALL SELECT format('table %s %s %s %s %s', oid::regclass, relkind, relowner::regrole, relrowsecurity, relforcerowsecurity) FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT format('policy %s %s %s %s %s %s %s', polrelid::regclass, polname, polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM pg_policy
UNION ALL SELECT format('extension %s %s', extname, extversion) FROM pg_extension
UNION ALL SELECT format('file %s %s', name, setting) FROM pg_file_settings
ORDER BY 1`

// handMade are changes that somebody makes with psql, and what the plan says to
// each. One list is made at once; what would hide another is in the second.
func handMade() [2][][2]string {
	return [2][][2]string{{
		{"ALTER ROLE readuser SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS NOINHERIT CONNECTION LIMIT 3 VALID UNTIL '2031-01-01'", "ALTER ROLE readuser NOSUPERUSER"},
		{"ALTER ROLE appowner LOGIN", "ALTER ROLE appowner NOLOGIN"},
		{"ALTER ROLE dba NOLOGIN", "ALTER ROLE dba LOGIN"},
		{"ALTER ROLE appuser LOGIN", "ALTER ROLE appuser NOLOGIN"},
		{"ALTER ROLE appuser_a PASSWORD 'other'", "ALTER ROLE appuser_a PASSWORD ••••"},
		{"ALTER ROLE appuser_b RESET role", "ALTER ROLE appuser_b SET role TO 'appuser'"},
		{"REVOKE appuser FROM appuser_b", "GRANT appuser TO appuser_b"},
		{"ALTER ROLE readuser PASSWORD NULL", "ALTER ROLE readuser PASSWORD ••••"},
		{"ALTER ROLE postgres PASSWORD 'other'", "ALTER ROLE postgres PASSWORD NULL"},
		{"GRANT appowner TO readuser WITH ADMIN OPTION", "REVOKE appowner FROM readuser"},
		{"GRANT pg_read_server_files TO appuser", "REVOKE pg_read_server_files FROM appuser"},
		{"REVOKE pg_monitor FROM dba", "GRANT pg_monitor TO dba"},
		{"ALTER ROLE appuser SET app.tenant = '7'", "ALTER ROLE appuser RESET app.tenant"},
		{"ALTER ROLE appuser IN DATABASE appdb SET row_security = off", "ALTER ROLE appuser IN DATABASE appdb RESET row_security"},
		{"ALTER ROLE ALL SET pgaudit.log = 'none'", "ALTER ROLE ALL RESET pgaudit.log"},
		{"ALTER DATABASE appdb SET work_mem = '1GB'", "ALTER DATABASE appdb RESET work_mem"},
		{"ALTER DATABASE appdb SET app.tenant = '7'", "ALTER DATABASE appdb RESET app.tenant"},
		{"ALTER SYSTEM SET pgaudit.log = 'read'", "ALTER SYSTEM RESET pgaudit.log"},
		{"ALTER SYSTEM SET log_line_prefix = ''", "ALTER SYSTEM RESET log_line_prefix"},
		{"GRANT ALL ON DATABASE appdb TO PUBLIC", "ON DATABASE appdb FROM PUBLIC"},
		{"GRANT CREATE, TEMPORARY ON DATABASE appdb TO readuser WITH GRANT OPTION", "ON DATABASE appdb FROM readuser"},
		{"REVOKE CONNECT ON DATABASE appdb FROM appuser", "GRANT CONNECT ON DATABASE appdb TO appuser"},
		{"GRANT CREATE ON SCHEMA public TO appuser, PUBLIC", "ON SCHEMA public FROM PUBLIC"},
		{"REVOKE USAGE ON SCHEMA public FROM readuser", "GRANT USAGE ON SCHEMA public TO readuser"},
		{"GRANT ALL ON orders TO PUBLIC", "ON TABLE public.orders FROM PUBLIC"},
		{"GRANT SELECT ON orders TO appuser WITH GRANT OPTION", "REVOKE GRANT OPTION FOR SELECT ON TABLE public.orders FROM appuser"},
		{"REVOKE INSERT ON orders FROM appuser", "GRANT INSERT ON TABLE public.orders TO appuser"},
		{"GRANT UPDATE (item), REFERENCES (id) ON orders TO readuser", "UPDATE (item)"},
		{"REVOKE USAGE ON SEQUENCE orders_id_seq FROM appuser", "GRANT USAGE ON SEQUENCE public.orders_id_seq TO appuser"},
		{"ALTER TABLE orders DISABLE ROW LEVEL SECURITY", "ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY"},
		{"ALTER TABLE orders NO FORCE ROW LEVEL SECURITY", "ALTER TABLE public.orders FORCE ROW LEVEL SECURITY"},
		{"ALTER POLICY tenant ON orders TO appuser USING (true)", "ALTER POLICY tenant ON public.orders TO PUBLIC USING (tenant_id = "},
		{"CREATE POLICY more ON orders FOR SELECT TO readuser USING (true)", "DROP POLICY more ON public.orders"},
		{"ALTER DEFAULT PRIVILEGES FOR ROLE appowner IN SCHEMA public REVOKE SELECT ON TABLES FROM readuser", "IN SCHEMA public GRANT SELECT ON TABLES TO readuser"},
		{"ALTER DEFAULT PRIVILEGES FOR ROLE appowner IN SCHEMA public GRANT TRUNCATE ON TABLES TO appuser", "IN SCHEMA public REVOKE TRUNCATE ON TABLES FROM appuser"},
		{"ALTER DEFAULT PRIVILEGES FOR ROLE appowner GRANT EXECUTE ON FUNCTIONS TO PUBLIC", "REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"},
		{"DROP EXTENSION pgaudit", "CREATE EXTENSION pgaudit"},
	}, {
		{"ALTER DATABASE appdb OWNER TO postgres", "ALTER DATABASE appdb OWNER TO appowner"},
		{"ALTER SCHEMA public OWNER TO postgres", "ALTER SCHEMA public OWNER TO appowner"},
		{"ALTER TABLE orders OWNER TO readuser", "ALTER TABLE public.orders OWNER TO appowner"},
		{"DROP POLICY tenant ON orders", "DROP POLICY tenant ON public.orders"}, // the next one's is another
		{"CREATE POLICY tenant ON orders AS RESTRICTIVE FOR SELECT USING (true)", "CREATE POLICY tenant ON public.orders"},
	}}
}

// Whatever somebody changes by hand of what init declares is found, each of it,
// and afterwards the catalogs say what they said before.
func TestLabDriftToTheLetter(t *testing.T) {
	all := versions()
	if os.Getenv("PGFLEET_SOAK") == "" {
		all = []int{13, 17}
	}
	for _, v := range all {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			b := newGuide(t, host)
			b.Want(0, "apply", "--yes")
			inApp := func(query string) string {
				return look(t, host, "cd /; runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d appdb -c "+labtest.Quote(query))
			}
			before, tried := inApp(held), 0
			for _, list := range handMade() {
				for _, drift := range list {
					inApp(drift[0])
					tried++
				}
				plan := b.Want(2, "plan", "--detailed-exitcode", "-v")
				for _, drift := range list {
					if !strings.Contains(plan.Stdout, drift[1]) {
						t.Errorf("after %q the plan does not say %q:\n%s", drift[0], drift[1], plan.Stdout)
					}
				}
				b.Want(0, "apply", "--yes")
				b.Want(0, "plan", "--detailed-exitcode")
			}
			differs(t, before, inApp(held))
			if t.Failed() {
				return
			}
			t.Logf("PROOF: %d changes by hand on PostgreSQL %d, each found; the catalogs are as before, %d lines", tried, v, strings.Count(before, "\n"))
		})
	}
}

// differs fails the test with the lines that only one of two texts has.
func differs(t *testing.T, before, after string) {
	t.Helper()
	for _, x := range []struct{ what, in, notIn string }{{"was", before, after}, {"is", after, before}} {
		for line := range strings.Lines(x.in) {
			if !strings.Contains("\n"+x.notIn, "\n"+line) {
				t.Errorf("%s: %s", x.what, line)
			}
		}
	}
}
