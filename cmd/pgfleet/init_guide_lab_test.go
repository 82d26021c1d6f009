//go:build lab

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/lab"
)

// What init writes is applied as it is, and then nothing is due: the guide, from
// empty to done.
func TestLabInitApply(t *testing.T) {
	versions := []int{13, 15, 17, 18}
	l, flags := initLab(t, append(versions, 15)...)
	servers, application := l.Hosts()[:len(versions)], l.Hosts()[len(versions)]
	asApplication(t, l, application, servers)
	dir := filepath.Join(t.TempDir(), "fleet")
	args := append([]string{dir, "--app-network", l.Applications.String(), "--app-host", "app1=" + application.Address.String()}, flags...)
	for i, h := range servers {
		args = append(args, "--host", fmt.Sprintf("%s=%s,version=%d", h.Name, h.Address, versions[i]))
	}
	if _, err := runInit(t, args...); err != nil {
		t.Fatal(err)
	}
	if code, out := pgfleet(t, dir, "check"); code != 0 {
		t.Fatalf("check: exit %d:\n%s", code, out)
	}
	wantPlan(t, dir, 2)
	wantApply(t, dir)
	wantPlan(t, dir, 0)
	for _, user := range []string{"appuser_a", "appuser_b"} { // they take turns
		wantRotate(t, dir, "--all")
		wantPlan(t, dir, 0)
		for _, h := range servers {
			t.Run(h.Name+"/"+user, func(t *testing.T) {
				wantGuide(t, h, user)
				wantLogins(t, l, h, dir, user)
			})
		}
	}

	// What somebody changes by hand is found, each of it, and undone.
	for _, h := range servers {
		var script strings.Builder
		for sql := range drifts() {
			fmt.Fprintf(&script, "%s;\n", sql)
		}
		if _, err := h.Exec(t.Context(), "cd /; runuser -u postgres -- psql -Xqv ON_ERROR_STOP=1 appdb <<'END'\n"+script.String()+"END"); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		code, out := pgfleet(t, dir, "plan", "--detailed-exitcode", "-l", h.Name)
		if code != 2 {
			t.Errorf("%s: plan: exit %d", h.Name, code)
		}
		for sql, want := range drifts() {
			if !strings.Contains(out, want) {
				t.Errorf("%s: the plan after %q lacks %q:\n%s", h.Name, sql, want, out)
			}
		}
	}
	wantApply(t, dir)
	wantPlan(t, dir, 0)
	// A password that was changed by hand is the rotation's to find.
	for _, h := range servers {
		code, out := pgfleet(t, dir, "rotate", "--status", "-l", h.Name)
		for _, role := range []string{"readuser", "appuser_b"} {
			if !strings.Contains(out, "the password of "+role+" is not what age:"+h.Name+"/") {
				t.Errorf("%s: rotate --status says nothing of %s, whose password was changed by hand:\n%s", h.Name, role, out)
			}
		}
		if code != 1 {
			t.Errorf("%s: rotate --status: exit %d, want 1", h.Name, code)
		}
	}
	if code, out := pgfleet(t, dir, "rotate", "--all", "--yes"); code != 1 || !strings.Contains(out, "--force") {
		t.Errorf("rotate overwrites a password that was changed by hand: exit %d:\n%s", code, out)
	}
	wantRotate(t, dir, "--all", "--force")
	uncommentLogin(t, dir) // now that there are passwords
	wantApply(t, dir)
	wantPlan(t, dir, 0)
	for _, h := range servers {
		wantGuide(t, h, "appuser_a")
		wantLogins(t, l, h, dir, "appuser_a")
	}

	proofs := guideProofs(t)
	trustCA(t, application, dir)
	for _, h := range servers {
		t.Run(fmt.Sprintf("steps/postgres-%d", h.Postgres), func(t *testing.T) { wantSteps(t, h, application, dir, proofs) })
	}
	wantPlan(t, dir, 0)
}

// asApplication gives a host a second address, in the applications' network, from
// which it connects to the servers.
func asApplication(t *testing.T, l *lab.Lab, h *lab.Running, servers []*lab.Running) {
	t.Helper()
	address := l.Application.Next()
	script := fmt.Sprintf("ip address add %s/32 dev host0", address)
	for _, s := range servers {
		script += fmt.Sprintf("; ip route add %s/32 dev host0 src %s", s.Address, address)
	}
	if out, err := h.Exec(t.Context(), "set -e; "+script); err != nil {
		t.Fatalf("%s: %s %v", h.Name, out, err)
	}
}

// wantRotate rotates, without the minute that the old password would go on for.
func wantRotate(t *testing.T, dir string, args ...string) {
	t.Helper()
	file := filepath.Join(dir, fleetFile)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), `retire_after = "1m"`, `retire_after = "1s"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := pgfleet(t, dir, append([]string{"rotate", "--yes"}, args...)...); code != 0 {
		t.Fatalf("rotate: exit %d:\n%s", code, out)
	}
}

// drifts are changes by hand, and what undoes them; a password's is undone by a
// rotation.
func drifts() map[string]string {
	return map[string]string{
		"ALTER ROLE readuser SUPERUSER":                          "ALTER ROLE readuser NOSUPERUSER",
		"ALTER ROLE readuser PASSWORD 'by hand'":                 "",
		"ALTER ROLE appuser_b PASSWORD 'by hand'":                "",
		"ALTER ROLE appuser LOGIN":                               "ALTER ROLE appuser NOLOGIN",
		"ALTER ROLE appuser_b SET role = 'none'":                 "ALTER ROLE appuser_b SET role TO 'appuser'",
		"REVOKE appuser FROM appuser_b":                          "GRANT appuser TO appuser_b",
		"GRANT appowner TO appuser_a":                            "REVOKE appowner FROM appuser_a",
		"ALTER ROLE postgres PASSWORD 'by hand'":                 "ALTER ROLE postgres PASSWORD NULL",
		"GRANT pg_execute_server_program TO appuser":             "REVOKE pg_execute_server_program FROM appuser",
		"GRANT CONNECT ON DATABASE appdb TO PUBLIC":              "REVOKE CONNECT ON DATABASE appdb FROM PUBLIC",
		"GRANT ALL ON orders TO PUBLIC":                          "ON TABLE public.orders FROM PUBLIC",
		"GRANT UPDATE (item) ON orders TO readuser":              "REVOKE UPDATE (item) ON TABLE public.orders FROM readuser",
		"GRANT TRUNCATE ON orders TO appuser":                    "REVOKE TRUNCATE ON TABLE public.orders FROM appuser",
		"REVOKE SELECT ON orders FROM readuser":                  "GRANT SELECT ON TABLE public.orders TO readuser",
		"GRANT CREATE ON SCHEMA public TO appuser":               "REVOKE CREATE ON SCHEMA public FROM appuser",
		"ALTER TABLE orders DISABLE ROW LEVEL SECURITY":          "ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY",
		"ALTER TABLE orders NO FORCE ROW LEVEL SECURITY":         "ALTER TABLE public.orders FORCE ROW LEVEL SECURITY",
		"ALTER POLICY tenant ON orders USING (true)":             "ALTER POLICY tenant ON public.orders USING (tenant_id",
		"CREATE POLICY more ON orders FOR SELECT USING (id > 0)": "DROP POLICY more ON public.orders",
		"ALTER ROLE appuser SET work_mem = '1GB'":                "ALTER ROLE appuser RESET work_mem",
		"ALTER DATABASE appdb SET work_mem = '2GB'":              "ALTER DATABASE appdb RESET work_mem",
		"ALTER SYSTEM SET pgaudit.log = 'none'":                  "ALTER SYSTEM RESET pgaudit.log",
		"ALTER DEFAULT PRIVILEGES FOR ROLE appowner IN SCHEMA public REVOKE SELECT ON TABLES FROM readuser": "IN SCHEMA public GRANT SELECT ON TABLES TO readuser",
		"ALTER DEFAULT PRIVILEGES FOR ROLE appowner GRANT EXECUTE ON FUNCTIONS TO PUBLIC":                   "REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
	}
}

// wantGuide asks a server, without pgfleet, whether it is as the guide wants it,
// with one of the application's two roles in use.
func wantGuide(t *testing.T, h *lab.Running, user string) {
	t.Helper()
	ask := func(database, query string) string {
		return fmt.Sprintf("cd /; runuser -u postgres -- psql -XAtd %s -c %q", database, query)
	}
	can := func(role, what string) string {
		return ask("appdb", fmt.Sprintf("SELECT string_agg(p, ', ') FROM unnest(ARRAY[%s]) p WHERE has_table_privilege('%s', 'orders', p)", what, role))
	}
	superusers, dumps := "postgres", ",pgfleet_backup=c/appowner"
	if h.Postgres < 14 {
		superusers, dumps = "pgfleet_backup, postgres", "" // there is no pg_read_all_data
	}
	const all = "'SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'"
	for script, want := range map[string]string{
		ask("postgres", "SHOW shared_preload_libraries"):                                                                     "pgaudit",
		ask("postgres", "SHOW pgaudit.log"):                                                                                  "ddl, write, role",
		ask("postgres", "SHOW listen_addresses"):                                                                             "localhost, " + h.Address.String(),
		ask("postgres", "SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_authid WHERE rolsuper"):                   superusers,
		ask("postgres", "SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_authid WHERE rolpassword LIKE 'SCRAM-%'"): user + ", readuser",
		ask("postgres", "SELECT count(*) FROM pg_authid WHERE rolpassword NOT LIKE 'SCRAM-%'"):                               "0",
		ask("postgres", "SELECT string_agg(setrole::regrole || ' ' || setconfig::text, ', ' ORDER BY setrole::regrole::text) FROM pg_db_role_setting WHERE setrole::regrole::text LIKE 'app%'"): "appuser_a {role=appuser}, appuser_b {role=appuser}",
		ask("postgres", "SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles WHERE rolcanlogin"):                                                                                    "appuser_a, appuser_b, dba, pgfleet_backup, postgres, readuser",
		ask("postgres", "SELECT string_agg(member::regrole || ' of ' || roleid::regrole, ', ' ORDER BY member::regrole::text) FROM pg_auth_members WHERE member::regrole::text LIKE 'app%'"):    "appuser_a of appuser, appuser_b of appuser",
		ask("postgres", "SELECT datacl FROM pg_database WHERE datname = 'appdb'"):                                                                                                               "{appowner=CTc/appowner,appuser=c/appowner,readuser=c/appowner" + dumps + "}",
		ask("appdb", "SELECT string_agg(extname, ', ' ORDER BY extname) FROM pg_extension"):                                                                                                     "pgaudit, plpgsql",
		ask("appdb", "SELECT nspacl FROM pg_namespace WHERE nspname = 'public'"):                                                                                                                "{appowner=UC/appowner,appuser=U/appowner,readuser=U/appowner}",
		ask("appdb", "SELECT relowner::regrole, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = 'orders'"):                                                                    "appowner|t|t",
		ask("appdb", "SELECT string_agg(polname, ', ') FROM pg_policy"):                                                                                                                         "tenant",
		can("appuser", all):  "SELECT, INSERT, UPDATE, DELETE",
		can("readuser", all): "SELECT",
		"grep -q 'AUDIT: SESSION.*CREATE EXTENSION' /var/log/postgresql/audit.log && echo logged": "logged",
	} {
		out, err := h.Exec(t.Context(), script)
		if err != nil || strings.TrimSpace(out) != want {
			t.Errorf("%s: %s: %q %v, want %q", h.Name, script, out, err, want)
		}
	}
}

// wantLogins logs in as the roles of the guide, with what the secrets say, appuser
// as the one of its two roles that is in use: each may do what it should, and
// nothing else.
func wantLogins(t *testing.T, l *lab.Lab, h *lab.Running, dir, user string) {
	t.Helper()
	fleet := loadInit(t, dir)
	term := terminal{LookupEnv: os.LookupEnv}
	resolver, err := (&app{term: term, ui: newUI(term)}).newResolver(t.Context(), fleet, nil)
	if err != nil {
		t.Fatal(err)
	}
	run := func(role, database, tenant, sql string) (string, error) {
		secret := secrets.Ref{Store: "age", Path: h.Name + "/" + role, Key: "password"}
		password, _, err := resolver.Resolve(t.Context(), secret)
		if err != nil {
			return "", err
		}
		if role == "appuser" {
			secret.Key = "username"
			name, _, err := resolver.Resolve(t.Context(), secret)
			if err != nil {
				return "", err
			}
			role = string(name.Expose())
		}
		config, err := pgx.ParseConfig(fmt.Sprintf("host=%s user=%s dbname=%s sslmode=verify-full sslrootcert=%s", h.Address, role, database, filepath.Join(dir, caFile)))
		if err != nil {
			return "", err
		}
		config.Password = string(password.Expose())
		config.DialFunc = l.FromApplication().DialContext
		if tenant != "" {
			config.RuntimeParams["app.tenant"] = tenant
		}
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			return "", err
		}
		defer conn.Close(t.Context())
		var answer []string
		rows, err := conn.Query(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return "", err
		}
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				return "", err
			}
			answer = append(answer, fmt.Sprint(values...))
		}
		return strings.Join(answer, " "), rows.Err()
	}
	if _, err := run("appuser", "appdb", "7", "DELETE FROM orders"); err != nil {
		t.Fatalf("%s: appuser: %v", h.Name, err)
	}
	for _, x := range []struct{ role, database, tenant, sql, want, fails string }{
		{role: "appuser", sql: "SELECT session_user || ', ' || current_user", want: user + ", appuser"},
		{role: "appuser", sql: "ALTER ROLE " + user + " SET role = 'appowner'", fails: "permission denied"},
		{role: "appuser", tenant: "7", sql: "INSERT INTO orders (item) VALUES ('tea') RETURNING tenant_id", want: "7"},
		{role: "appuser", tenant: "7", sql: "SELECT item FROM orders", want: "tea"},
		{role: "appuser", tenant: "8", sql: "SELECT item FROM orders"},
		{role: "appuser", sql: "SELECT item FROM orders"},
		{role: "appuser", tenant: "8", sql: "UPDATE orders SET item = 'milk' RETURNING id"},
		{role: "appuser", tenant: "8", sql: "INSERT INTO orders (tenant_id, item) VALUES (7, 'salt')", fails: "violates row-level security policy"},
		{role: "appuser", sql: "CREATE TABLE mine ()", fails: "permission denied for schema public"},
		{role: "appuser", sql: "CREATE TEMPORARY TABLE mine ()", fails: "permission denied to create temporary tables"},
		{role: "appuser", sql: "CREATE SCHEMA mine", fails: "permission denied for database appdb"},
		{role: "appuser", sql: "TRUNCATE orders", fails: "permission denied for table orders"},
		{role: "appuser", sql: "ALTER TABLE orders DISABLE ROW LEVEL SECURITY", fails: "must be owner"},
		{role: "appuser", sql: "SET ROLE appowner", fails: "permission denied"},
		{role: "appuser", sql: "SELECT pg_read_file('/etc/passwd')", fails: "permission denied"},
		{role: "appuser", database: "postgres", sql: "SELECT 1", fails: "pg_hba.conf rejects connection"},
		{role: "readuser", tenant: "7", sql: "SELECT item FROM orders", want: "tea"},
		{role: "readuser", tenant: "8", sql: "SELECT item FROM orders"},
		{role: "readuser", tenant: "7", sql: "INSERT INTO orders (item) VALUES ('salt')", fails: "permission denied for table orders"},
		{role: "readuser", tenant: "7", sql: "UPDATE orders SET item = 'milk'", fails: "permission denied for table orders"},
		{role: "readuser", tenant: "7", sql: "DELETE FROM orders", fails: "permission denied for table orders"},
		{role: "readuser", sql: "SELECT nextval('orders_id_seq')", fails: "permission denied for sequence orders_id_seq"},
	} {
		if x.database == "" {
			x.database = "appdb"
		}
		got, err := run(x.role, x.database, x.tenant, x.sql)
		switch {
		case x.fails == "" && err != nil, x.fails != "" && (err == nil || !strings.Contains(err.Error(), x.fails)):
			t.Errorf("%s: %s, tenant %q: %s: %v, want %q", h.Name, x.role, x.tenant, x.sql, err, x.fails)
		case got != x.want:
			t.Errorf("%s: %s, tenant %q: %s: %q, want %q", h.Name, x.role, x.tenant, x.sql, got, x.want)
		}
	}
}
