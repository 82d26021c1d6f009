package transporttest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/transport"
)

func testRehearse(t *testing.T, h Host, c transport.Conn) {
	odd := oddities(t, h, c)
	defer odd.remove()
	odd.run(t, `CREATE TABLE there (a int PRIMARY KEY); INSERT INTO there VALUES (1)`)
	owner := postgres.QuoteIdent(odd.owner)
	ask := func(sql string) facts.Rehearse {
		return facts.Rehearse{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir, Database: odd.database, SQL: sql, Timeout: 5000}
	}
	// everything reads all that there is, to compare.
	everything := func() (*catalog.Cluster, *catalog.Contents) {
		t.Helper()
		k, held := facts.Cluster{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir}, facts.Contents{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir, Database: odd.database}
		answers, err := c.Read(deadline(t), []facts.Read{k, held})
		if err != nil {
			t.Fatal(err)
		}
		return answers[k].Value.(facts.ClusterInfo).Cluster, answers[held].Value.(facts.ContentsInfo).Contents
	}
	options := cmp.Options{cmp.Comparer(secrets.Secret.Equal), cmpopts.EquateEmpty()}
	cluster, contents := everything()

	script := `-- a script of SQL
		SET client_encoding = 'LATIN1'; SET search_path = closed; SET quote_all_identifiers = on;
		SET extra_float_digits = 0; SET standard_conforming_strings = on;
		CREATE TABLE public.made (id serial, b text); -- ;
		CREATE TEMP TABLE pg_class (x int);
		CREATE ROLE "made up" PASSWORD 'x';
		GRANT SELECT ON public.made TO "made up", PUBLIC;
		DO $do$ BEGIN PERFORM 1; EXECUTE 'CREATE SCHEMA done'; END; $do$;
		SAVEPOINT s; SELECT generate_series(1, 10000); ROLLBACK TO s; RELEASE s;
		PREPARE p AS SELECT 1; SELECT pg_advisory_lock(4711);
		SET ROLE ` + owner + `;
		SET SESSION AUTHORIZATION ` + owner
	for range 2 { // and nothing is left in the session
		got := read[facts.Rehearsed](t, c, ask(script))
		if got.Problem != "" || got.Outside != "" || got.Missing || got.Cluster == nil {
			t.Fatalf("%+v", got)
		}
		held := got.Cluster.Contents[odd.database]
		made := held.Relations[catalog.Name{Schema: "public", Name: "made"}]
		if made == nil || len(made.Columns) != 2 || len(made.ACL) != 3 || held.Schemas["done"] == nil || got.Cluster.Roles["made up"] == nil || !got.Cluster.Roles["made up"].HasPassword {
			t.Errorf("%+v", made)
		}
		if len(got.Cluster.Contents) != 1 || len(held.Relations) != len(contents.Relations)+2 { // made and its sequence
			t.Errorf("%d relations", len(held.Relations))
		}
		after, held := everything()
		if d := cmp.Diff(cluster, after, options); d != "" {
			t.Errorf("the rehearsal left something behind:\n%s", d)
		}
		if d := cmp.Diff(contents, held, options); d != "" {
			t.Errorf("the rehearsal left something behind:\n%s", d)
		}
	}
	// Several rehearsals of one Read do not get into each other's way.
	first, second := ask(script), ask(script+"; SELECT 1")
	answers, err := c.Read(deadline(t), []facts.Read{first, second})
	if err != nil {
		t.Fatal(err)
	}
	for r, a := range answers {
		if got, _ := a.Value.(facts.Rehearsed); got.Cluster == nil {
			t.Errorf("%+v: %+v", r, a)
		}
	}
	if got := read[facts.Rehearsed](t, c, ask("-- nothing\n;;")); got.Problem != "" || got.Cluster == nil || cmp.Diff(contents, got.Cluster.Contents[odd.database], options) != "" {
		t.Errorf("an empty script: %+v", got)
	}

	for script, want := range map[string]string{
		"SELECT 1;\nSELECT\n\tx + 1 AS \"é\", nothing\nFROM there":                                         "line 3: ERROR:  column \"x\" does not exist\nLINE 3:  x + 1 AS \"é\", nothing\n         ^",
		"/* one\n two */ SELECT 'ä', hi FROM there":                                                        "line 2: ERROR:  column \"hi\" does not exist\nLINE 2: SELECT 'ä', hi FROM there\n                    ^",
		"SELECT 1; SELECT upper(1)":                                                                        "line 1: ERROR:  function upper(integer) does not exist\nLINE 1: SELECT upper(1)\n               ^\nHINT:  No function matches the given name and argument types. You might need to add explicit type casts.",
		"INSERT INTO there VALUES\n(1)":                                                                    "line 1: ERROR:  duplicate key value violates unique constraint \"there_pkey\"\nDETAIL:  Key (a)=(1) already exists.",
		"\n\nDO 'BEGIN PERFORM 1 FROM nowhere; END'":                                                       "line 3: ERROR:  relation \"nowhere\" does not exist\nLINE 1: SELECT 1 FROM nowhere\n                      ^\nQUERY:  SELECT 1 FROM nowhere\nCONTEXT:  PL/pgSQL function inline_code_block line 1 at PERFORM",
		"CREATE TABLE r (a int REFERENCES there DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO r VALUES (5)": "at the end of the script: ERROR:  insert or update on table \"r\" violates foreign key constraint \"r_a_fkey\"\nDETAIL:  Key (a)=(5) is not present in table \"there\".",
		"SELECT 1;\n\nSELECT 'abc":                                                                         "line 3: the quote ' is not closed",
		"SELECT 1;\n\\copy x from y":                                                                       "line 2: \\copy is a command of psql, which only psql can carry out",
		"COPY there FROM STDIN;\n1\n\\.":                                                                   "line 1: COPY … FROM STDIN passes data through psql, and only psql can carry it out",
		"SELECT " + strings.Repeat("1, ", 30) + "nothing, " + strings.Repeat("2, ", 30) + "3":              "line 1: ERROR:  column \"nothing\" does not exist\nLINE 1: ...1, 1, 1, 1, 1, 1, 1, 1, 1, 1, nothing, 2, 2, 2, 2, 2, 2, 2, ...\n                                         ^",
		"SELECT 1;\nSELEC 2":                                                                               "line 2: ERROR:  syntax error at or near \"SELEC\"\nLINE 2: SELEC 2\n        ^",
		"SET statement_timeout = 100;\nSELECT pg_sleep(3)":                                                 "line 2: ERROR:  canceling statement due to statement timeout",
	} {
		if got := read[facts.Rehearsed](t, c, ask(script)); got.Problem != want || got.Cluster != nil || got.Outside != "" {
			t.Errorf("%s:\n%s\nwant\n%s\n(%+v)", script, got.Problem, want, got)
		}
	}
	for script, want := range map[string]string{
		"CREATE TABLE x ();\n\nCREATE INDEX CONCURRENTLY ON there (a)": "line 3: CREATE INDEX CONCURRENTLY", "COMMIT": "line 1: COMMIT", "DROP TABLE there; /* */ commit\n;": "line 1: COMMIT",
		"ALTER DATABASE postgres SET TABLESPACE pg_default": "line 1: ALTER DATABASE SET TABLESPACE", "VACUUM there": "line 1: VACUUM",
		"SELECT 1;\nCLUSTER /* all */ VERBOSE": "line 2: CLUSTER VERBOSE",
	} {
		if got := read[facts.Rehearsed](t, c, ask(script)); got.Outside != want || got.Problem != "" || got.Cluster != nil {
			t.Errorf("%s: %+v, want %s", script, got, want)
		}
	}

	// A lock that somebody holds is not waited for, nor is a script that sleeps.
	tx, err := odd.conn.Begin(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(deadline(t), "LOCK TABLE there IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	if got := read[facts.Rehearsed](t, c, ask("ALTER TABLE there ADD b int")); !strings.Contains(got.Problem, "line 1: ERROR:  canceling statement due to lock timeout") {
		t.Errorf("%+v", got)
	}
	if err := tx.Rollback(deadline(t)); err != nil {
		t.Fatal(err)
	}
	slow := ask("SELECT pg_sleep(60)")
	slow.Timeout = 300
	began := time.Now()
	if got := read[facts.Rehearsed](t, c, slow); !strings.Contains(got.Problem, "statement timeout") || time.Since(began) > 5*time.Second {
		t.Errorf("after %v: %+v", time.Since(began), got)
	}
	missing := ask("SELECT 1")
	missing.Database = "no such database"
	if got := read[facts.Rehearsed](t, c, missing); !got.Missing || got.Problem != "" {
		t.Errorf("%+v", got)
	}
	var n int
	if err := odd.conn.QueryRow(context.Background(), "SELECT count(*) FROM there").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d rows, %v", n, err)
	}
}
