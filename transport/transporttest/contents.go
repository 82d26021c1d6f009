package transporttest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/transport"
)

func testContents(t *testing.T, h Host, c transport.Conn) {
	odd := oddities(t, h, c)
	defer odd.remove()
	long := strings.Repeat("é", 31) + "y"
	odd.run(t, `CREATE SCHEMA "S ""x"" y" AUTHORIZATION {0}; GRANT USAGE ON SCHEMA "S ""x"" y" TO {1} WITH GRANT OPTION; COMMENT ON SCHEMA "S ""x"" y" IS 'it''s';
		SET ROLE {1}; GRANT USAGE ON SCHEMA "S ""x"" y" TO {2}, PUBLIC; RESET ROLE;
		CREATE SCHEMA closed; GRANT CREATE ON SCHEMA closed TO {3}; REVOKE ALL ON SCHEMA closed FROM postgres, {3};
		REVOKE ALL ON SCHEMA public FROM PUBLIC`)
	odd.run(t, `CREATE TABLE "S ""x"" y"."select" (id serial, "Col ""1""" int GENERATED ALWAYS AS IDENTITY, gone int, "`+long+`" text);
		ALTER TABLE "S ""x"" y"."select" DROP COLUMN gone; ALTER TABLE "S ""x"" y"."select" OWNER TO {0};
		ALTER TABLE "S ""x"" y"."select" ENABLE ROW LEVEL SECURITY; ALTER TABLE "S ""x"" y"."select" FORCE ROW LEVEL SECURITY;
		GRANT SELECT, INSERT ON "S ""x"" y"."select" TO {1} WITH GRANT OPTION; GRANT UPDATE ("Col ""1""", id) ON "S ""x"" y"."select" TO {1}, {4};
		SET ROLE {1}; GRANT SELECT ON "S ""x"" y"."select" TO {4}, PUBLIC; RESET ROLE;
		CREATE TABLE parted (a int, b text) PARTITION BY LIST (a); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
		CREATE VIEW seen AS SELECT * FROM parted; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one; CREATE SEQUENCE "Counter"; GRANT USAGE ON "Counter" TO {2};
		CREATE SEQUENCE owned OWNED BY parted.a; CREATE TEMP TABLE passing (a int); CREATE TABLE none (); ALTER TABLE none OWNER TO {2}; REVOKE ALL ON none FROM {2};
		CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (x int) SERVER s`)
	odd.run(t, `CREATE TYPE "S ""x"" y"."My Type" AS (a int); CREATE DOMAIN public.d AS text;
		CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION f(a int, OUT b int, "C" "S ""x"" y"."My Type", VARIADIC r text[]) LANGUAGE sql AS 'SELECT 1';
		CREATE FUNCTION "S ""x"" y"."F ""g"""(d, varchar(3), timestamptz, numeric(3,1)) RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION "S ""x"" y"."F ""g""" OWNER TO {0};
		REVOKE ALL ON FUNCTION "S ""x"" y"."F ""g""" FROM PUBLIC; GRANT EXECUTE ON FUNCTION "S ""x"" y"."F ""g""" TO {3};
		CREATE PROCEDURE p(INOUT a int, b text) LANGUAGE sql AS 'SELECT 1'; CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int)`)
	odd.run(t, `ALTER DEFAULT PRIVILEGES FOR ROLE {0} GRANT SELECT ON TABLES TO {1} WITH GRANT OPTION; ALTER DEFAULT PRIVILEGES FOR ROLE {0} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
		ALTER DEFAULT PRIVILEGES FOR ROLE {0} IN SCHEMA "S ""x"" y" GRANT USAGE ON SEQUENCES TO PUBLIC; ALTER DEFAULT PRIVILEGES FOR ROLE {2} GRANT USAGE ON SCHEMAS TO {0}`)
	odd.run(t, `CREATE POLICY "p ""1""" ON "S ""x"" y"."select" AS RESTRICTIVE FOR UPDATE TO {4}, {1} USING (id = 1 AND EXISTS (SELECT FROM parted WHERE a = id)) WITH CHECK (f() = id);
		CREATE POLICY everyone ON "S ""x"" y"."select" FOR SELECT USING (true); CREATE POLICY "all" ON parted USING (b = current_setting('x')); CREATE POLICY i ON parted FOR INSERT WITH CHECK (false); CREATE POLICY d ON parted FOR DELETE USING (false)`)
	var extension bool
	if err := odd.conn.QueryRow(deadline(t), "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'hstore')").Scan(&extension); err != nil {
		t.Fatal(err)
	}
	if extension {
		odd.run(t, `CREATE EXTENSION hstore SCHEMA "S ""x"" y"`)
	}

	ask := facts.Contents{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir, Database: odd.database}
	info := read[facts.ContentsInfo](t, c, ask)
	if info.Problem != "" || info.Contents == nil || info.Missing {
		t.Fatalf("%+v", info)
	}
	held := info.Contents
	must(t, odd.conn, "SET search_path = ''") // as what is compared was printed
	in := odd.conn

	type schema struct{ Name, Owner string }
	var schemas []schema
	for _, s := range held.Schemas {
		schemas = append(schemas, schema{s.Name, s.Owner})
		sameACL(t, in, "schema "+s.Name, "SELECT nspacl FROM pg_namespace WHERE nspname = "+postgres.QuoteLiteral(s.Name), s.ACL)
	}
	want := rows[schema](t, in, `SELECT nspname, pg_get_userbyid(nspowner) FROM pg_namespace WHERE left(nspname, 3) <> 'pg_' AND nspname <> 'information_schema'`)
	if d := cmp.Diff(want, schemas, cmpopts.SortSlices(func(a, b schema) bool { return a.Name < b.Name })); d != "" {
		t.Errorf("schemas (-server +read):\n%s", d)
	}
	if s := held.Schemas[`S "x" y`]; s == nil || s.Comment != "it's" || len(s.ACL) != 4 {
		t.Errorf("%+v", s)
	}
	if s := held.Schemas["closed"]; s == nil || s.ACL == nil || len(s.ACL) != 0 {
		t.Errorf("an ACL without items: %+v", s)
	}

	type relation struct {
		Schema, Name, Owner string
		RLS                 bool
	}
	kinds := map[string]string{
		"rp": `SELECT schemaname, tablename, tableowner, rowsecurity FROM pg_tables`, "v": `SELECT schemaname, viewname, viewowner, false FROM pg_views`,
		"m": `SELECT schemaname, matviewname, matviewowner, false FROM pg_matviews`, "S": `SELECT schemaname, sequencename, sequenceowner, false FROM pg_sequences`,
		"f": `SELECT foreign_table_schema::text, foreign_table_name::text, 'postgres', false FROM information_schema.foreign_tables`,
	}
	for kind, query := range kinds {
		var got []relation
		for _, r := range held.Relations {
			if strings.ContainsRune(kind, rune(r.Kind)) {
				got = append(got, relation{r.Schema, r.Name.Name, r.Owner, r.RLS})
			}
		}
		want := slices.DeleteFunc(rows[relation](t, in, query), func(r relation) bool { return strings.HasPrefix(r.Schema, "pg_") || r.Schema == "information_schema" })
		if d := cmp.Diff(want, got, cmpopts.SortSlices(func(a, b relation) bool { return a.Schema+"."+a.Name < b.Schema+"."+b.Name })); d != "" {
			t.Errorf("relations of kind %s (-server +read):\n%s", kind, d)
		}
	}
	for name, r := range held.Relations {
		oid := postgres.QuoteLiteral(postgres.QuoteIdent(name.Schema)+"."+postgres.QuoteIdent(name.Name)) + "::regclass"
		sameACL(t, in, name.Name, "SELECT relacl FROM pg_class WHERE oid = "+oid, r.ACL)
		for column, acl := range r.ColumnACL {
			sameACL(t, in, name.Name+"."+column, "SELECT attacl FROM pg_attribute WHERE attname = "+postgres.QuoteLiteral(column)+" AND attrelid = "+oid, acl)
		}
		type column struct{ Name string }
		var columns []string
		for _, c := range rows[column](t, in, `SELECT column_name::text FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2 ORDER BY ordinal_position`, name.Schema, name.Name) {
			columns = append(columns, c.Name)
		}
		if r.Kind != 'm' && r.Kind != 'S' && !slices.Equal(columns, r.Columns) {
			t.Errorf("%v: columns %q, want %q", name, r.Columns, columns)
		}
	}
	main := held.Relations[catalog.Name{Schema: `S "x" y`, Name: "select"}]
	if main == nil || !main.RLS || !main.Force || len(main.ACL) != 4 || len(main.ColumnACL) != 2 || !slices.Equal(main.Columns, []string{"id", `Col "1"`, long}) {
		t.Fatalf("%+v", main)
	}
	for name, of := range map[catalog.Name]catalog.Name{
		{Schema: `S "x" y`, Name: "select_id_seq"}: main.Name, {Schema: `S "x" y`, Name: `select_Col "1"_seq`}: main.Name,
		{Schema: "public", Name: "owned"}: {Schema: "public", Name: "parted"}, {Schema: "public", Name: "Counter"}: {},
	} {
		if r := held.Relations[name]; r == nil || r.PartOf != of {
			t.Errorf("%v: %+v", name, r)
		}
	}

	type policy struct {
		Schema, Table, Name, Permissive, Command string
		Roles                                    []string
		Using, Check                             string
	}
	var policies []policy
	for name, r := range held.Relations {
		for _, p := range r.Policies {
			kind := map[bool]string{true: "PERMISSIVE", false: "RESTRICTIVE"}[p.Permissive]
			roles := slices.Clone(p.Roles)
			for i := range roles {
				if roles[i] == "" {
					roles[i] = "public"
				}
			}
			policies = append(policies, policy{name.Schema, name.Name, p.Name, kind, p.Command, roles, p.Using, p.WithCheck})
		}
	}
	wantPolicies := rows[policy](t, in, `SELECT schemaname, tablename, policyname, permissive, cmd, ARRAY(SELECT r::text FROM unnest(roles) r ORDER BY r::text COLLATE "C"), coalesce(qual, ''), coalesce(with_check, '') FROM pg_policies`)
	if d := cmp.Diff(wantPolicies, policies, cmpopts.SortSlices(func(a, b policy) bool { return a.Table+a.Name < b.Table+b.Name })); d != "" || len(policies) != 5 {
		t.Errorf("policies (-server +read):\n%s", d)
	}
	if p := held.Relations[catalog.Name{Schema: "public", Name: "parted"}].Policies["all"]; p == nil || !slices.Equal(p.Roles, []string{""}) {
		t.Errorf("%+v", p)
	}

	type function struct {
		Text, Owner, Kind string
	}
	var functions []function
	for s, f := range held.Functions {
		functions = append(functions, function{postgres.QuoteIdent(s.Schema) + "." + postgres.QuoteIdent(s.Name) + "(" + strings.ReplaceAll(s.Args, ", ", ",") + ")", f.Owner, string(f.Kind)})
		if f.Extension == "" {
			sameACL(t, in, s.Name, "SELECT proacl FROM pg_proc WHERE oid = "+postgres.QuoteLiteral(functions[len(functions)-1].Text)+"::regprocedure", f.ACL)
		}
	}
	wantFunctions := rows[function](t, in, `SELECT oid::regprocedure::text, pg_get_userbyid(proowner), prokind::text FROM pg_proc p
		WHERE EXISTS (SELECT FROM information_schema.schemata s WHERE s.schema_name = pronamespace::regnamespace::text OR quote_ident(s.schema_name) = pronamespace::regnamespace::text)
		AND pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)`)
	if d := cmp.Diff(wantFunctions, functions, cmpopts.SortSlices(func(a, b function) bool { return a.Text < b.Text })); d != "" {
		t.Errorf("functions (-server +read):\n%s", d)
	}
	for _, s := range []catalog.Signature{{Schema: "public", Name: "f"}, {Schema: "public", Name: "f", Args: `integer, "S ""x"" y"."My Type", text[]`}, {Schema: "public", Name: "p", Args: "integer, text"},
		{Schema: `S "x" y`, Name: `F "g"`, Args: "public.d, character varying, timestamp with time zone, numeric"}} {
		if held.Functions[s] == nil {
			t.Errorf("%+v is missing", s)
		}
	}

	public := func(acl catalog.ACL, p catalog.Privileges) bool { got, _ := acl.Of(""); return got&p != 0 }
	if len(held.Defaults) != 4 {
		t.Errorf("%+v", held.Defaults)
	}
	for _, d := range held.Defaults {
		switch {
		case d.Kind == catalog.Table && d.Schema == "" && d.Role == odd.owner:
			if p, o := d.ACL.Of("a=b/c"); p != catalog.Select || o != catalog.Select {
				t.Errorf("%+v", d)
			}
		case d.Kind == catalog.Routine && d.Schema == "" && d.Role == odd.owner && !public(d.ACL, catalog.Execute):
		case d.Kind == catalog.Sequence && d.Schema == `S "x" y` && d.Role == odd.owner && public(d.ACL, catalog.Usage):
		case d.Kind == catalog.SchemaKind && d.Schema == "" && d.Role == "select":
		default:
			t.Errorf("%+v", d)
		}
	}

	available := read[facts.AvailableInfo](t, c, facts.Available{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir})
	if available.Problem != "" {
		t.Fatalf("%+v", available)
	}
	if e := held.Extensions["plpgsql"]; e == nil || e.Schema != "pg_catalog" || e.Owner != "postgres" || e.Version != available.Versions["plpgsql"][0] {
		t.Errorf("%+v of %q", e, available.Versions["plpgsql"])
	}
	type version struct{ Name, Default string }
	for _, v := range rows[version](t, in, `SELECT name, default_version FROM pg_available_extensions`) {
		if got := available.Versions[v.Name]; len(got) == 0 || got[0] != v.Default || !slices.IsSorted(got[1:]) {
			t.Errorf("%s: %q, default %s", v.Name, got, v.Default)
		}
	}
	if extension {
		if e := held.Extensions["hstore"]; e == nil || e.Schema != `S "x" y` || !e.Relocatable {
			t.Errorf("%+v", e)
		}
		members := 0
		for _, f := range held.Functions {
			if f.Extension == "hstore" {
				members++
			}
		}
		if members < 40 {
			t.Errorf("%d functions of hstore", members)
		}
	}

	ask.Database = "no such database"
	if info := read[facts.ContentsInfo](t, c, ask); !info.Missing || info.Contents != nil {
		t.Errorf("%+v", info)
	}
	ask.Database = "template0"
	if info := read[facts.ContentsInfo](t, c, ask); info.Missing || !strings.Contains(info.Problem, "not currently accepting connections") {
		t.Errorf("%+v", info)
	}
	// Nobody's lock on a table of theirs holds us up but for its policies.
	tx, err := in.Begin(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(deadline(t), `LOCK TABLE public.none, public.parted_1`); err != nil {
		t.Fatal(err)
	}
	ask.Database = odd.database
	if info := read[facts.ContentsInfo](t, c, ask); info.Contents == nil {
		t.Errorf("%+v", info)
	}
	if _, err := tx.Exec(deadline(t), `LOCK TABLE public.parted`); err != nil {
		t.Fatal(err)
	}
	// pg_get_expr() waits for the table from the minor releases of 2024 on.
	if info := read[facts.ContentsInfo](t, c, ask); info.Contents == nil && !strings.Contains(info.Problem, "ACCESS EXCLUSIVE") {
		t.Errorf("%+v", info)
	}
}
