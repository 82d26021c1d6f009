package transporttest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/transport"
)

// expressions returns conditions of policies: what people write, and what the
// server writes back in other words.
func expressions() []string {
	return []string{
		"true", "a = 1", "(a = 1)", "a = 1 AND b = 'x'", "a = 1 OR b = 'x' AND NOT flag", "NOT (a = 1)", "a = -1", "a <> 1", "a != 1", "a = 1.5", "a = b::int", "a::text = b",
		"tenant = current_setting('app.tenant')", "tenant = current_setting('app.tenant', true)", "a = current_setting('app.a')::int",
		"a = NULLIF(current_setting('app.a', true), '')::int", "a = (SELECT current_setting('app.a'))::int", "owner = current_user", "owner = CURRENT_USER::text", "session_user = owner",
		"name = 'x'", "name = 'x'::varchar", "name = 'x'::varchar(3)", "code = 'x'", "code = 'abc'::char(3)", "b LIKE 'a%'", "b NOT ILIKE '%x'", "b ~ '^a'", "b SIMILAR TO 'a|b'",
		"a IN (1, 2, 3)", "a IN (1)", "a NOT IN (1, 2)", "a = ANY ('{1,2}')", "a = ANY (ARRAY[1, 2])", "a = ALL (string_to_array('1,2', ',')::int[])", "a BETWEEN 1 AND 2", "a NOT BETWEEN SYMMETRIC 2 AND 1",
		"a IS NULL", "a IS NOT NULL", "b ISNULL", "flag", "NOT flag", "flag IS TRUE", "flag IS NOT FALSE", "a IS DISTINCT FROM 1", "(a, b) = (1, 'x')", "(a, n) < (1, 2)", "ROW(a, b) IS NOT NULL",
		"false AND a = 1", "a = 1 AND (b = 'x' AND flag)", "(a = 1 AND b = 'x') AND flag", "a = 1 AND true", "coalesce(a, 0) = 1", "greatest(a, 1) = a", "nullif(a, 1) IS NULL",
		"CASE WHEN a = 1 THEN flag ELSE false END", "CASE a WHEN 1 THEN true WHEN 2 THEN flag END", "at > now() - interval '1 day'", "at > now() - '1 day'::interval", "at >= '2020-01-01'", "at::date = CURRENT_DATE",
		"at < CURRENT_TIMESTAMP(3)", "extract(year FROM at) = 2020", "date_trunc('day', at) = at", "at AT TIME ZONE 'UTC' > '2020-01-01'", "n = 1.50", "n > 0.1::numeric(10,2)", "n::float8 = 1e10", "big = 9999999999",
		"a & 1 = 1", "a + 1 = n", "a % 2 = 0", "b || 'x' = 'xx'", "length(b) > 3", "lower(b) = 'x'", "upper(name) = 'X'", "b COLLATE \"C\" = 'x'", "substring(b from 1 for 2) = 'ab'", "substring(b, 1) = 'ab'", "position('a' in b) > 0", "trim(b) = ''", "overlay(b placing 'x' from 1) = 'x'",
		"b = E'a\\'b\\n'", "b = 'it''s'", "b = $$dollar$$", "b = U&'\\00e4'", "b = 'é'", "-- a comment\n a = 1", "a = 1 -- at the end", "/* before */ a /* in /* nested */ */ = 1",
		"\"Odd \"\"Column\"\"\" = 1", "\"select\" = 1", "orders.a = 1", "public.orders.a = 1", "orders.\"Odd \"\"Column\"\"\" IS NOT NULL",
		"tenant = public.tenant_of(a)", "tenant = tenant_of(a)", "tenant = tenant_of(a => a)", "plain()", "public.plain()", "fixed()", "\"Fn \"\"odd\"\"\"(b)", "whole(orders)", "whole(orders.*)", "concat('a', b, 1) = 'x'", "variadic_of(1, 2) = a", "variadic_of(VARIADIC ARRAY[1, 2]) = a",
		"EXISTS (SELECT 1 FROM members WHERE members.tenant = orders.tenant AND usr = current_user)", "EXISTS (SELECT * FROM members m WHERE m.tenant = orders.tenant)", "EXISTS (SELECT FROM members)",
		"tenant IN (SELECT tenant FROM members WHERE usr = current_user)", "tenant IN (SELECT m.tenant FROM members AS m)", "tenant NOT IN (SELECT tenant FROM public.members)", "tenant = ANY (SELECT tenant FROM members)", "tenant = (SELECT max(tenant) FROM members)",
		"(SELECT count(*) FROM members) > 1", "EXISTS (SELECT FROM members m JOIN other o USING (tenant) WHERE o.tenant = orders.tenant)", "EXISTS (SELECT FROM members m LEFT JOIN other o ON o.tenant = m.tenant, other x WHERE x.a = orders.a)",
		"EXISTS (SELECT FROM members NATURAL JOIN other)", "EXISTS (SELECT FROM orders o2 WHERE o2.a = orders.a)", "EXISTS (SELECT FROM orders WHERE orders.a = 1)", "EXISTS (SELECT FROM (SELECT tenant AS t FROM members ORDER BY 1 LIMIT 1) s WHERE s.t = tenant)",
		"EXISTS (WITH w AS (SELECT tenant FROM members) SELECT FROM w WHERE w.tenant = orders.tenant)", "EXISTS (SELECT tenant FROM members UNION ALL SELECT tenant FROM other)", "EXISTS (SELECT usr, count(*) FROM members GROUP BY usr HAVING count(*) > 1)", "EXISTS (SELECT DISTINCT ON (usr) usr FROM members ORDER BY usr, tenant)",
		"EXISTS (SELECT row_number() OVER (PARTITION BY usr ORDER BY tenant) FROM members)", "a IN (VALUES (1), (2))", "EXISTS (SELECT FROM generate_series(1, a) g WHERE g = 2)", "EXISTS (SELECT FROM unnest(tags) WITH ORDINALITY u(t, i) WHERE t = 'x')", "EXISTS (SELECT FROM jsonb_to_recordset(j) AS r(x int, y text) WHERE r.x = a)",
		"EXISTS (SELECT FROM members m, LATERAL (SELECT m.tenant) l(t) WHERE l.t = orders.tenant)", "EXISTS (SELECT FROM members TABLESAMPLE bernoulli (10))", "EXISTS (TABLE members)", "EXISTS (SELECT FROM members FOR SHARE)",
		"tags @> ARRAY['x']", "tags @> '{x}'", "'x' = ANY (tags)", "tags[1] = 'x'", "tags[1:2] = '{a,b}'", "j->>'tenant' = tenant", "(j->'a'->>'b')::int = a", "j @> '{\"a\": 1}'", "j ? 'x'", "(c).x = 1", "c = ROW(1, 'x')::comp", "d = 'x'", "d::text = 'x'", "mood = 'sad'", "mood > 'ok'::mood",
		"net >>= '10.0.0.1'", "id = '00000000-0000-0000-0000-000000000000'", "bits = B'101'", "bytes = '\\x00ff'", "pg_has_role(current_user, 'pg_monitor', 'member')", "pg_has_role(owner::name, 'member')", "row_security_active('orders')", "tableoid = 'members'::regclass", "xmin IS NOT NULL", "at > 'infinity'", "r @> 5", "a::bigint::text::int = 1", "a = '5'", "a = '5'::int", "NULL", "NULL::bool", "'t'", "(((a))) = ((1))", "a*(n+1) > big/2", "a = +1", "~a = 1", "@ a = 1",
	}
}

func testDeparse(t *testing.T, h Host, c transport.Conn) {
	odd := oddities(t, h, c)
	defer odd.remove()
	odd.run(t, `CREATE TYPE comp AS (x int, y text); CREATE DOMAIN d AS text CHECK (VALUE <> ''); CREATE TYPE mood AS ENUM ('sad', 'ok');
		CREATE TABLE orders (a int, b text, tenant text, owner text, name varchar(20), code char(3), flag bool, n numeric(10,2), big bigint, at timestamptz, "Odd ""Column""" int, "select" int,
			tags text[], j jsonb, c comp, d d, mood mood, net inet, id uuid, bits bit(3), bytes bytea, r int4range);
		CREATE TABLE members (tenant text, usr name); CREATE TABLE other (tenant text, a int);
		CREATE TABLE parted (a int, b text) PARTITION BY LIST (a); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
		CREATE FUNCTION tenant_of(a int) RETURNS text LANGUAGE sql STABLE AS 'SELECT ''x''::text'; CREATE FUNCTION plain() RETURNS bool LANGUAGE sql AS 'SELECT true';
		CREATE FUNCTION fixed() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE EXCEPTION 'it was run'; END $$;
		CREATE FUNCTION "Fn ""odd"""(text) RETURNS bool LANGUAGE sql AS 'SELECT true'; CREATE FUNCTION whole(orders) RETURNS bool LANGUAGE sql AS 'SELECT true';
		CREATE FUNCTION variadic_of(VARIADIC int[]) RETURNS int LANGUAGE sql AS 'SELECT 1'`)
	ask := facts.Deparse{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir, Database: odd.database, Schema: "public", Table: "orders"}
	contents := facts.Contents{Port: ask.Port, SocketDir: ask.SocketDir, Database: odd.database}

	wanted := expressions()
	for i, e := range wanted {
		odd.run(t, fmt.Sprintf("CREATE POLICY p%d ON orders USING (%s\n)", i, e))
	}
	policies := read[facts.ContentsInfo](t, c, contents).Contents.Relations[catalog.Name{Schema: "public", Name: "orders"}].Policies
	stored := map[string]string{}
	for i, e := range wanted {
		stored[e] = policies[fmt.Sprintf("p%d", i)].Using
	}
	var reads []facts.Read
	of := func(e string) facts.Deparse { q := ask; q.Expr = e; return q }
	for _, e := range wanted {
		reads = append(reads, of(e), of(stored[e]))
	}
	answers, err := c.Read(deadline(t), append(reads, of("nonsense("), of("nowhere = 1"), contents))
	if err != nil {
		t.Fatal(err)
	}
	deparsed := func(e string) facts.Deparsed {
		d, _ := answers[of(e)].Value.(facts.Deparsed)
		return d
	}
	for _, e := range wanted {
		if a, b := deparsed(e), deparsed(stored[e]); a.Text == "" || a != b {
			t.Errorf("%s\nis stored as %s\n%+v\n%+v", e, stored[e], a, b)
		}
	}
	meanings := map[string]bool{}
	for _, e := range wanted {
		meanings[deparsed(e).Text] = true
	}
	t.Logf("%d expressions, which mean %d things", len(wanted), len(meanings))
	if len(meanings) < 150 {
		t.Error("expressions that differ seem the same")
	}
	for _, pair := range [][2]string{{"a = 1", "1 = a"}, {"a = 1", "a = 2"}, {"false AND a = 1", "false"}, {"a = 1", "big = 1"}, {"tenant = tenant_of(a)", "tenant = tenant_of(2)"}, {"EXISTS (SELECT FROM members)", "EXISTS (SELECT FROM other)"},
		{"EXISTS (SELECT FROM members m WHERE m.tenant = orders.tenant)", "EXISTS (SELECT FROM members m WHERE m.tenant = m.tenant)"}, {"fixed()", "true"}, {"name = 'x'", "name = 'x'::varchar(3)"}, {"b = 'x'", "b = 'y'"}, {"b = 'x'", "b = 'x '"}} {
		a, b := read[facts.Deparsed](t, c, of(pair[0])), read[facts.Deparsed](t, c, of(pair[1]))
		if a.Problem != "" || b.Problem != "" || a.Text == b.Text {
			t.Errorf("%q and %q: %+v, %+v", pair[0], pair[1], a, b)
		}
	}
	if d := deparsed("nonsense("); d.Text != "" || !strings.Contains(d.Problem, "not closed") {
		t.Errorf("%+v", d)
	}
	if d := deparsed("nowhere = 1"); d.Text != "" || !strings.Contains(d.Problem, `column "nowhere" does not exist`) {
		t.Errorf("%+v", d)
	}
	if info, _ := answers[contents].Value.(facts.ContentsInfo); info.Contents == nil {
		t.Errorf("%+v", answers[contents])
	}
	for expr, problem := range map[string]string{
		"true) FROM pg_class --": "closes nothing", "true); DROP TABLE orders; --": "closes nothing", "true; SELECT 1": `';'`, "": "empty", " -- x": "empty", "'a": "not closed", "/* a": "not closed", "a = $1": "no parameter",
		"a = 1) OR (b = 'x'": "closes nothing", "sum(a) > 1": "aggregate functions are not allowed", "a": "must be type boolean", "a =": "syntax error", "true GROUP BY": "syntax error", "a = 1 \\g": "no expression has", "[1)": "closes nothing",
		"generate_series(1, 2) = 1": "set-returning", "tenant_of(1, 2)": "does not exist (",
	} {
		if d := read[facts.Deparsed](t, c, of(expr)); d.Text != "" || !strings.Contains(d.Problem, problem) {
			t.Errorf("%s: %+v, want %q", expr, d, problem)
		}
	}
	other := of("a = 1")
	for table, problem := range map[string]string{"members": "does not exist", "nowhere": "does not exist", "parted": "", "parted_1": ""} {
		other.Table = table
		if d := read[facts.Deparsed](t, c, other); (d.Text == "") != (problem != "") || !strings.Contains(d.Problem, problem) {
			t.Errorf("%s: %+v", table, d)
		}
	}
	missing := of("true")
	missing.Database = "no such database"
	if d := read[facts.Deparsed](t, c, missing); d.Text != "" || !strings.Contains(d.Problem, "no such database") {
		t.Errorf("%+v", d)
	}

	tx, err := odd.conn.Begin(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(deadline(t), "LOCK TABLE parted_1 IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	other.Table = "parted"
	if d := read[facts.Deparsed](t, c, other); d.Text == "" {
		t.Errorf("a lock on a partition: %+v", d)
	}
	if _, err := tx.Exec(deadline(t), "LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	if d := read[facts.Deparsed](t, c, of("a = 7")); d.Text == "" {
		t.Errorf("a lock that lets others read: %+v", d)
	}
	if _, err := tx.Exec(deadline(t), "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if d := read[facts.Deparsed](t, c, of("a = 8")); d.Text != "" || !strings.Contains(d.Problem, "ACCESS EXCLUSIVE") || time.Since(began) > 4*time.Second {
		t.Errorf("after %v: %+v", time.Since(began), d)
	}
}
