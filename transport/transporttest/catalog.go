package transporttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/transport"
)

// An oddity is a database and roles whose names nothing but good quoting gets
// right.
type oddity struct {
	conn     *pgx.Conn // in the database
	database string
	owner    string // of the database and of most that is in it
	roles    []string
	remove   func()
}

// oddities makes them, for a test to remove. At no time are there two sessions,
// because a host may allow two and the test needs one more.
func oddities(t *testing.T, h Host, c transport.Conn) oddity {
	t.Helper()
	odd := oddity{
		database: `Odd "DB" it's`, owner: `Own "er"`,
		roles: []string{`Own "er"`, `a=b/c`, `select`, strings.Repeat("ü", 31) + "x", `,{}\ " '`, "plain_role"},
	}
	in := func(database string) *pgx.Conn {
		t.Helper()
		at := *h.Postgres
		at.Database = database
		conn, err := c.Postgres(deadline(t), at)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	clean := func(conn *pgx.Conn) {
		t.Helper()
		must(t, conn, "DROP DATABASE IF EXISTS "+postgres.QuoteIdent(odd.database)+" WITH (FORCE)")
		for _, r := range odd.roles {
			must(t, conn, "DROP ROLE IF EXISTS "+postgres.QuoteIdent(r))
		}
	}
	admin := in("")
	clean(admin)
	for _, r := range odd.roles {
		must(t, admin, "CREATE ROLE "+postgres.QuoteIdent(r))
	}
	must(t, admin, "CREATE DATABASE "+postgres.QuoteIdent(odd.database)+" OWNER "+postgres.QuoteIdent(odd.owner)+" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
	admin.Close(context.Background())
	odd.conn = in(odd.database)
	odd.remove = func() {
		odd.conn.Close(context.Background())
		admin := in("")
		defer admin.Close(context.Background())
		clean(admin)
	}
	return odd
}

// must runs SQL.
func must(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(deadline(t), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// run runs SQL in which {0} is the first role, {db} the database.
func (o oddity) run(t *testing.T, sql string) {
	t.Helper()
	for i, r := range o.roles {
		sql = strings.ReplaceAll(sql, fmt.Sprintf("{%d}", i), postgres.QuoteIdent(r))
	}
	must(t, o.conn, strings.ReplaceAll(sql, "{db}", postgres.QuoteIdent(o.database)))
}

// rows asks with SQL that the code under test does not use.
func rows[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) []T {
	t.Helper()
	found, err := conn.Query(deadline(t), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	list, err := pgx.CollectRows(found, pgx.RowToStructByPos[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

// sameACL compares an ACL with the column that a query returns, by the server's
// own aclcontains().
func sameACL(t *testing.T, conn *pgx.Conn, what, query string, acl catalog.ACL) {
	t.Helper()
	var length *int
	if err := conn.QueryRow(deadline(t), "SELECT cardinality(acl) FROM ("+query+") x(acl)").Scan(&length); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if (length == nil) != (acl == nil) || length != nil && *length != len(acl) {
		t.Errorf("%s: %v where the server has %v items", what, acl, length)
		return
	}
	words := []string{"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "CREATE", "CONNECT", "TEMPORARY", "EXECUTE", "USAGE"}
	for _, item := range acl {
		for _, word := range words {
			p, _ := catalog.PrivilegeNamed(word)
			for _, option := range []bool{false, true} {
				var there bool
				err := conn.QueryRow(deadline(t), "SELECT acl @> makeaclitem(coalesce((SELECT oid FROM pg_authid WHERE rolname = $1), 0), (SELECT oid FROM pg_authid WHERE rolname = $2), $3, $4) FROM ("+query+") x(acl)",
					item.Grantee, item.Grantor, word, option).Scan(&there)
				if err != nil {
					t.Fatal(err)
				}
				if want := item.Privileges&p != 0 && (!option || item.Grantable&p != 0); want != there {
					t.Errorf("%s: %+v: %s, grant option %t: the server says %t", what, item, word, option, there)
				}
			}
		}
	}
}

func testCluster(t *testing.T, h Host, c transport.Conn) {
	odd := oddities(t, h, c)
	defer odd.remove()
	var major int
	if err := odd.conn.QueryRow(deadline(t), "SELECT current_setting('server_version_num')::int / 10000").Scan(&major); err != nil {
		t.Fatal(err)
	}
	odd.run(t, `ALTER ROLE {1} LOGIN CREATEDB CREATEROLE NOINHERIT REPLICATION BYPASSRLS CONNECTION LIMIT 3 VALID UNTIL '2031-02-03 04:05:06.5+02' PASSWORD 'x'`)
	odd.run(t, `ALTER ROLE {2} VALID UNTIL 'infinity'; COMMENT ON ROLE {2} IS 'a "comment" it''s'`)
	odd.run(t, `ALTER ROLE {2} SET work_mem = '8MB'; ALTER ROLE {2} IN DATABASE {db} SET search_path = 'a', "B=c"; ALTER DATABASE {db} SET app.x = 'y=z'`)
	odd.run(t, `GRANT {0} TO {1} WITH ADMIN OPTION; GRANT {1} TO {3}; GRANT pg_monitor TO {4}`)
	odd.run(t, `REVOKE ALL ON DATABASE {db} FROM PUBLIC; GRANT CONNECT ON DATABASE {db} TO {1} WITH GRANT OPTION; SET ROLE {1}; GRANT CONNECT ON DATABASE {db} TO {3}; RESET ROLE; COMMENT ON DATABASE {db} IS 'theirs'`)
	odd.run(t, `ALTER DATABASE {db} CONNECTION LIMIT 7`)
	// Providers of locales; a server may be built without ICU.
	providers := map[string][2]string{}
	for name, p := range map[string]struct {
		from             int
		provider, option string
		locale           string
	}{"odd_icu": {15, "icu", "ICU_LOCALE", "en-US"}, "odd_builtin": {17, "builtin", "BUILTIN_LOCALE", "C.UTF-8"}} {
		must(t, odd.conn, "DROP DATABASE IF EXISTS "+name)
		if major < p.from {
			continue
		}
		_, err := odd.conn.Exec(deadline(t), "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER "+p.provider+" "+p.option+" '"+p.locale+"'")
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		defer must(t, odd.conn, "DROP DATABASE "+name)
		providers[name] = [2]string{p.provider, p.locale}
	}
	odd.run(t, `CREATE TABLE t (a int); CREATE TABLE u (a int); ALTER TABLE t OWNER TO {4}; ALTER TABLE u OWNER TO {4}; GRANT SELECT ON t TO {5}; CREATE POLICY p ON u TO {5}`)

	found := read[facts.ClusterInfo](t, c, facts.Cluster{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir})
	if found.Problem != "" || found.Cluster == nil {
		t.Fatal(found.Problem)
	}
	k := found.Cluster
	if k.Version.Major() != major || k.Bootstrap != "postgres" || k.Contents == nil || len(k.Contents) != 0 {
		t.Errorf("version %v, bootstrap %q", k.Version, k.Bootstrap)
	}
	type role struct {
		Name                                                                                 string
		Superuser, Inherit, CreateRole, CreateDB, Login, Replication, BypassRLS, HasPassword bool
		ConnLimit                                                                            int
		Password, ValidUntil                                                                 string
	}
	var roles []role
	for _, r := range k.Roles {
		roles = append(roles, role{r.Name, r.Superuser, r.Inherit, r.CreateRole, r.CreateDB, r.Login, r.Replication, r.BypassRLS, r.HasPassword, r.ConnLimit,
			string(r.Password.Expose()), r.ValidUntil})
	}
	// pg_shadow has only those that may log in, and nothing of the others' passwords.
	want := rows[role](t, odd.conn, `SELECT r.rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, r.rolbypassrls, s.passwd IS NOT NULL, rolconnlimit,
		coalesce(s.passwd, ''), CASE WHEN r.rolvaliduntil = 'infinity' THEN 'infinity' WHEN r.rolvaliduntil IS NULL THEN ''
		ELSE rtrim(rtrim(to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.') || 'Z' END
		FROM pg_roles r LEFT JOIN pg_shadow s ON s.usename = r.rolname`)
	if d := cmp.Diff(want, roles, cmpopts.SortSlices(func(a, b role) bool { return a.Name < b.Name })); d != "" {
		t.Errorf("roles (-server +read):\n%s", d)
	}
	if r := k.Roles["a=b/c"]; r == nil || r.ValidUntil != "2031-02-03T02:05:06.5Z" || !strings.HasPrefix(string(r.Password.Expose()), "SCRAM-SHA-256$") && !strings.HasPrefix(string(r.Password.Expose()), "md5") {
		t.Errorf("%+v", r)
	}
	if k.Roles["pg_monitor"] == nil || k.Roles["select"].Comment != `a "comment" it's` || k.Databases[odd.database].Comment != "theirs" {
		t.Error("predefined roles, comments")
	}
	wantMembers := []catalog.Membership{
		{Role: odd.roles[0], Member: odd.roles[1], Grantor: "postgres", Admin: true, Inherit: major < 16, Set: true}, // NOINHERIT, which 16 takes down
		{Role: odd.roles[1], Member: odd.roles[3], Grantor: "postgres", Inherit: true, Set: true},
		{Role: "pg_monitor", Member: odd.roles[4], Grantor: "postgres", Inherit: true, Set: true},
	}
	for _, m := range wantMembers {
		if !slices.Contains(k.Members, m) {
			t.Errorf("%+v is not in %+v", m, k.Members)
		}
	}
	for _, s := range []catalog.Setting{
		{Role: "select", Name: "work_mem", Value: "8MB"}, {Role: "select", Database: odd.database, Name: "search_path", Value: `a, "B=c"`}, {Database: odd.database, Name: "app.x", Value: "y=z"},
	} {
		if !slices.Contains(k.Settings, s) {
			t.Errorf("%+v is not in %+v", s, k.Settings)
		}
	}
	wantDepends := []catalog.Dependency{
		{Role: odd.owner, Owner: true, Objects: 1},                    // the database
		{Role: "a=b/c", Objects: 1}, {Role: odd.roles[3], Objects: 1}, // its ACL
		{Role: odd.roles[4], Database: odd.database, Owner: true, Objects: 2},  // tables
		{Role: "plain_role", Database: odd.database, Owner: false, Objects: 2}, // an ACL, a policy
	}
	for _, d := range wantDepends {
		if !slices.Contains(k.Depends, d) {
			t.Errorf("%+v is not in %+v", d, k.Depends)
		}
	}
	for _, d := range k.Depends {
		if slices.Contains(odd.roles, d.Role) && !slices.Contains(wantDepends, d) {
			t.Errorf("%+v", d)
		}
	}
	type database struct {
		Name, Owner, Encoding, Collate, Ctype, Tablespace string
		Template, AllowConn                               bool
		ConnLimit                                         int
	}
	var databases []database
	for name, d := range k.Databases {
		databases = append(databases, database{d.Name, d.Owner, d.Encoding, d.Collate, d.Ctype, d.Tablespace, d.Template, d.AllowConn, d.ConnLimit})
		sameACL(t, odd.conn, "database "+name, "SELECT datacl FROM pg_database WHERE datname = "+postgres.QuoteLiteral(name), d.ACL)
		want := [2]string{"libc", ""}
		if p, ok := providers[name]; ok {
			want = p
		}
		if got := [2]string{d.Provider, d.Locale}; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	wantDatabases := rows[database](t, odd.conn, `SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate::text, datctype::text,
		(SELECT spcname FROM pg_tablespace t WHERE t.oid = dattablespace), datistemplate, datallowconn, datconnlimit FROM pg_database`)
	if d := cmp.Diff(wantDatabases, databases, cmpopts.SortSlices(func(a, b database) bool { return a.Name < b.Name })); d != "" {
		t.Errorf("databases (-server +read):\n%s", d)
	}
	if s := read[facts.ClusterInfo](t, c, facts.Cluster{Port: 1}); s.Cluster != nil || !strings.Contains(s.Problem, ".s.PGSQL.1") {
		t.Errorf("%+v", s)
	}
}
