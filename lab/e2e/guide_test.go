//go:build lab

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

const (
	appPassword  = "pw-App7Kd2_unsaid"
	readPassword = "pw-Read3Lm9_unsaid"
)

// newGuide is a bench with what init writes for hosts that are as at their first
// boot. The tasks give the passwords, which come from the environment, so that tests
// can log in; cmd/pgfleet's tests rotate what init writes.
func newGuide(t *testing.T, hosts ...string) *bench {
	t.Helper()
	fresh(t, hosts...)
	b := &bench{fleet.NewBench(t)}
	l := fleet.Lab
	args := []string{"init", "guide", "--user", l.User, "--identity", l.Key, "--known-hosts", l.KnownHosts, "--app-network", l.Applications.String()}
	for _, name := range hosts {
		h := l.Host(name)
		args = append(args, "--host", fmt.Sprintf("%s=%s,version=%d", name, h.Address, h.Postgres))
		t.Cleanup(func() { look(t, name, "rm -f /etc/rsyslog.d/10-postgresql.conf; systemctl restart rsyslog") })
	}
	b.Want(0, args...)
	b.Dir = filepath.Join(b.Dir, "guide")
	const app, read = "member_of = [\"{{ .Vars.app_user }}\"]\n", "role = \"{{ .Vars.read_user }}\"\nlogin = true\n"
	b.edit("fleet.toml", app, app+"password = \"env:APP_PASSWORD\"\n")
	b.edit("fleet.toml", read, read+"password = \"env:READ_PASSWORD\"\n")
	b.Env = append(b.Env, "APP_PASSWORD="+appPassword, "READ_PASSWORD="+readPassword)
	return b
}

// logFile is where a host's server writes its stderr.
func logFile(host string) string {
	return fmt.Sprintf("/var/log/postgresql/postgresql-%d-main.log", fleet.Lab.Host(host).Postgres)
}

// A logged statement is one that a server has logged: who ran it, where, and its text.
type logged struct{ database, application, sql string }

var (
	logEntry = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d [^\n]*(?:\n\t[^\n]*)*`)
	logSQL   = regexp.MustCompile(`(?s)^\S+ \S+ \S+ \[\d+\] \w+@(\S+) (\S+) \[local\] LOG:  (?:statement|execute [^:]*): (.*)$`)
	ofOrders = regexp.MustCompile(`^CREATE (TABLE public.orders |INDEX orders_tenant_id )`) // sql/orders.sql
	onlyAsks = regexp.MustCompile(`(?i)^(SELECT|SHOW|SET|RESET|BEGIN|COMMIT|ROLLBACK|START|SAVEPOINT|RELEASE|WITH|DISCARD|DEALLOCATE|DECLARE|FETCH|CLOSE|EXPLAIN)\b`)
)

// changesOf returns the statements in a server's log that are not such as only
// look.
func changesOf(t *testing.T, host string) []logged {
	t.Helper()
	var list []logged
	for _, entry := range logEntry.FindAllString(look(t, host, "cat "+logFile(host)), -1) {
		m := logSQL.FindStringSubmatch(entry)
		if m == nil {
			continue
		}
		if sql := strings.ReplaceAll(m[3], "\n\t", "\n"); sql != "" && !onlyAsks.MatchString(sql) { // pg_ctlcluster asks nothing
			list = append(list, logged{m[1], m[2], sql})
		}
	}
	return list
}

// A planned statement is one of plan --json.
type planned struct {
	Database, SQL string
	Action        string
}

// plannedBy returns the statements of a plan, of one host or of all.
func plannedBy(t *testing.T, stdout string) []planned {
	t.Helper()
	var doc struct {
		Instances []struct {
			Unknown []json.RawMessage
			Steps   []struct{ Changes []planned }
		}
	}
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatalf("plan --json: %v\n%s", err, stdout)
	}
	var list []planned
	for _, in := range doc.Instances {
		if len(in.Unknown) > 0 {
			t.Errorf("the plan leaves something open: %s", in.Unknown)
		}
		for _, s := range in.Steps {
			for _, c := range s.Changes {
				if c.SQL != "" {
					list = append(list, c)
				}
			}
		}
	}
	return list
}

// The whole guide, as init writes it, from empty to done. What the server logs
// of our sessions is what the plan has listed, in its order, and nothing else.
func TestLabGuide(t *testing.T) {
	for _, v := range versions() {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			b := newGuide(t, host)
			sql(t, host, "ALTER ROLE postgres PASSWORD 'by hand'")
			sql(t, host, "ALTER SYSTEM SET log_statement = 'all'")
			sql(t, host, "SELECT pg_reload_conf()")
			look(t, host, ": >"+logFile(host))
			plan := b.Want(2, "plan", "--detailed-exitcode", "--json", "--out", "saved")
			b.Want(0, "apply", "--yes", "saved")
			b.Want(0, "plan", "--detailed-exitcode")
			b.Want(0, "apply", "--yes")

			var want, got []string
			for _, p := range plannedBy(t, plan.Stdout) {
				if !strings.Contains(p.SQL, "••••") {
					want = append(want, p.Database+": "+p.SQL)
				}
			}
			script := 0
			for _, s := range changesOf(t, host) {
				switch {
				case s.application != "pgfleet":
					t.Errorf("%s has run in %s: %s", s.application, s.database, s.sql)
				case s.database == "appdb" && ofOrders.MatchString(s.sql):
					script++
				default:
					got = append(got, s.database+": "+s.sql)
				}
			}
			if len(want) < 25 || script != 2 || !slices.Equal(want, got) {
				t.Errorf("planned %d:\n%s\n\nrun %d, and %d by the script:\n%s", len(want), strings.Join(want, "\n"), len(got), script, strings.Join(got, "\n"))
			}
			wantListed(t, host)
			wantWall(t, b, host)
			wantListed(t, host) // what they tried has changed nothing
			if t.Failed() {
				return
			}
			t.Logf("PROOF: %d statements were planned for an empty PostgreSQL %d, and the log with log_statement = all has these, in this order, and no other that changes anything", len(want), v)
		})
	}
}

// wantListed compares what psql's commands list with what the guide wants, to the
// letter.
func wantListed(t *testing.T, host string) {
	t.Helper()
	v := fleet.Lab.Host(host).Postgres
	owner := "appowner=arwdDxt/appowner"
	if v >= 17 {
		owner = "appowner=arwdDxtm/appowner"
	}
	member := func(of string) string {
		if v >= 16 {
			return "" // \du does not list memberships any more
		}
		return "|{" + of + "}"
	}
	for command, want := range map[string]string{
		`\dp public.*`: "public|orders|table|" + owner + "\nappuser=arwd/appowner\nreaduser=r/appowner||" +
			"tenant:\n  (u): (tenant_id = (NULLIF(current_setting('app.tenant'::text, true), ''::text))::integer)\n" +
			"public|orders_id_seq|sequence|appowner=rwU/appowner\nappuser=rU/appowner||",
		`\ddp`: "appowner|public|function|appuser=X/appowner\n" +
			"appowner|public|sequence|appuser=rU/appowner\n" +
			"appowner|public|table|appuser=arwd/appowner\nreaduser=r/appowner\n" +
			"appowner||function|appowner=X/appowner",
		`\du app*`: "appowner|Cannot login" + member("") + "\nappuser|Cannot login" + member("") +
			"\nappuser_a|" + member("appuser") + "\nappuser_b|" + member("appuser"),
		`\du readuser`: "readuser|" + member(""),
		`\du dba`:      "dba|" + member("pg_monitor,pg_signal_backend,appowner"),
		`\drds`:        "appuser_a||role=appuser\nappuser_b||role=appuser\npgfleet_backup||default_transaction_read_only=on\nlo_compat_privileges=on",
	} {
		got := strings.TrimSpace(look(t, host, "cd /; runuser -u postgres -- psql -XAt -d appdb -c "+labtest.Quote(command)+" 2>/dev/null"))
		if got != want {
			t.Errorf("%s says\n%s\nand should say\n%s", command, got, want)
		}
	}
}

// wantWall logs in over TLS from the applications' network, and tries what the
// guide lets in and what it does not.
func wantWall(t *testing.T, b *bench, host string) {
	t.Helper()
	login := func(role, password, mode string) (*pgx.Conn, error) {
		config, err := pgx.ParseConfig(fmt.Sprintf("host=%s user=%s dbname=appdb sslmode=%s sslrootcert=%s", fleet.Lab.Host(host).Address, role, mode, filepath.Join(b.Dir, "ca.pem")))
		if err != nil {
			return nil, err
		}
		config.Password = password
		config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		config.DialFunc = fleet.Lab.FromApplication().DialContext
		return pgx.ConnectConfig(t.Context(), config)
	}
	for _, c := range []struct{ role, password, mode, want string }{
		{"appuser_a", appPassword, "disable", "pg_hba.conf rejects connection"},
		{"appuser_a", "other", "verify-full", "password authentication failed"},
		{"postgres", "by hand", "verify-full", "pg_hba.conf rejects connection"},
		{"dba", "", "verify-full", "pg_hba.conf rejects connection"},
		{"appowner", "", "verify-full", "pg_hba.conf rejects connection"},
		{"appuser", appPassword, "verify-full", "pg_hba.conf rejects connection"},
	} {
		conn, err := login(c.role, c.password, c.mode)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, sslmode %s: %v, want %q", c.role, c.mode, err, c.want)
		}
	}
	for _, c := range []struct{ role, password string }{{"appuser_a", appPassword}, {"appuser_b", appPassword}, {"readuser", readPassword}} {
		conn, err := login(c.role, c.password, "verify-full")
		if err != nil {
			t.Errorf("%s: %v", c.role, err)
			continue
		}
		for _, x := range wall(c.role) {
			rows, err := conn.Query(t.Context(), x.sql)
			if err == nil {
				var counted []int
				counted, err = pgx.CollectRows(rows, pgx.RowTo[int])
				if x.want == "" && err == nil && !slices.Equal(counted, x.counts) {
					t.Errorf("%s: %s: %d, want %d", c.role, x.sql, counted, x.counts)
				}
			}
			if (err != nil) != (x.want != "") || err != nil && !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s: %s: %v, want %q", c.role, x.sql, err, x.want)
			}
		}
		_ = conn.Close(t.Context())
	}
	if got := look(t, host, "cd /; runuser -u postgres -- psql -XAtq -d appdb -c 'SELECT count(*) FROM orders' -c 'SET ROLE appowner' -c 'SELECT count(*) FROM orders'"); got != "2\n0\n" {
		t.Errorf("the superuser and the owner see %q rows, want 2 and 0", got)
	}
}

// A tried is a statement, and the error that it must get, or the numbers.
type tried struct {
	sql, want string
	counts    []int
}

// wall are statements of a role in one session, one after the other.
func wall(role string) []tried {
	both := []tried{
		{sql: "CREATE TABLE mine (a int)", want: "permission denied for schema public"},
		{sql: "CREATE SCHEMA mine", want: "permission denied for database appdb"},
		{sql: "CREATE TEMPORARY TABLE mine (a int)", want: "permission denied to create temporary tables"},
		{sql: "CREATE EXTENSION pgaudit", want: "already exists"},
		{sql: "CREATE EXTENSION dblink", want: "ermission denied"},
		{sql: "DROP TABLE orders", want: "must be owner of table orders"},
		{sql: "TRUNCATE orders", want: "permission denied for table orders"},
		{sql: "ALTER TABLE orders DISABLE ROW LEVEL SECURITY", want: "must be owner of table orders"},
		{sql: "DROP POLICY tenant ON orders", want: "must be owner of relation orders"},
		{sql: "GRANT SELECT ON orders TO PUBLIC"}, // a warning says that nothing was granted
		{sql: "SELECT 1 FROM pg_authid", want: "permission denied for table pg_authid"},
		{sql: "SET ROLE appowner", want: "permission denied to set role"},
		{sql: "SET SESSION AUTHORIZATION postgres", want: "permission denied to set session authorization"},
		{sql: "ALTER ROLE " + role + " SUPERUSER", want: " to alter "}, // "must be superuser to alter", up to 15
		{sql: "SET row_security = off; SELECT 1 FROM orders", want: "query would be affected by row-level security policy"},
		{sql: "RESET row_security"},
		{sql: "COPY (SELECT 1) TO PROGRAM 'true'", want: "COPY"},
		{sql: "SELECT set_config('pgaudit.log', 'none', false)", want: "permission denied to set parameter"},
	}
	itself := tried{sql: "SELECT 1 WHERE session_user = '" + role + "' AND current_user = 'appuser'", counts: []int{1}}
	switch role {
	case "appuser_b": // is appuser just as the other is
		return []tried{itself}
	case "appuser_a":
		return append(both, []tried{
			itself,
			{sql: "SELECT count(*)::int FROM orders", counts: []int{0}},
			{sql: "INSERT INTO orders (tenant_id, item) VALUES (1, 'of nobody')", want: "violates row-level security policy"},
			{sql: "SET app.tenant = '1'"},
			{sql: "INSERT INTO orders (item) VALUES ('tea') RETURNING tenant_id", counts: []int{1}},
			{sql: "INSERT INTO orders (tenant_id, item) VALUES (2, 'of another') ", want: "violates row-level security policy"},
			{sql: "UPDATE orders SET tenant_id = 2", want: "violates row-level security policy"},
			{sql: "SET app.tenant = '2'"},
			{sql: "SELECT count(*)::int FROM orders", counts: []int{0}},
			{sql: "UPDATE orders SET item = 'milk' RETURNING 1"},
			{sql: "DELETE FROM orders RETURNING 1"},
			{sql: "INSERT INTO orders (item) VALUES ('salt') RETURNING tenant_id", counts: []int{2}},
			{sql: "RESET app.tenant"},
			{sql: "SELECT count(*)::int FROM orders", counts: []int{0}},
		}...)
	}
	return append(both, []tried{
		{sql: "SELECT count(*)::int FROM orders", counts: []int{0}},
		{sql: "SET app.tenant = '2'"},
		{sql: "SELECT count(*)::int FROM orders", counts: []int{1}},
		{sql: "INSERT INTO orders (item) VALUES ('salt')", want: "permission denied for table orders"},
		{sql: "UPDATE orders SET item = 'milk'", want: "permission denied for table orders"},
		{sql: "DELETE FROM orders", want: "permission denied for table orders"},
		{sql: "SELECT item FROM orders FOR UPDATE", want: "permission denied for table orders"},
		{sql: "SELECT nextval('orders_id_seq')", want: "permission denied for sequence orders_id_seq"},
	}...)
}
