package backup_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
)

// program returns a program of a server's version.
func program(t *testing.T, s *postgrestest.Server, name string) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/postgresql/%d/bin", "/usr/pgsql-%d/bin"} {
		if path, err := exec.LookPath(filepath.Join(fmt.Sprintf(pattern, s.Version/10000), name)); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(err)
	}
	return path
}

// checks runs the two scripts in a database.
func checks(t *testing.T, s *postgrestest.Server, database, check string) backup.Checks {
	t.Helper()
	cmd := exec.Command(program(t, s, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "check="+check, s.URL(database, "postgres"))
	cmd.Stdin = strings.NewReader(hosted.ChecksBegin + hosted.ChecksRest)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v: %s", err, &stderr)
	}
	all, err := backup.ParseChecks(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// contents is everything that checks have to do with.
const contents = `
CREATE SCHEMA "odd ""schema""";
CREATE TABLE "odd ""schema""".t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, f float8, at timestamptz, b bytea, i interval, j jsonb, r regclass, m money);
INSERT INTO "odd ""schema""".t (f, at, b, i, j, r, m) SELECT g / 3.0, '2026-01-01T00:00:00Z'::timestamptz + g * interval '1 hour', decode(md5(g::text), 'hex'), g * interval '1 day', json_build_object('g', g)::jsonb, 'pg_class', g FROM generate_series(1, 1000) g;
CREATE TABLE empty ();
CREATE TABLE nothing (a int);
CREATE TABLE parent (a int, z int);
CREATE TABLE child (b int) INHERITS (parent);
ALTER TABLE parent ADD c text;
INSERT INTO parent VALUES (1, 2, 'x');
INSERT INTO child VALUES (1, 2, 3, 'y');
CREATE TABLE parts (a int, v text) PARTITION BY RANGE (a);
CREATE TABLE parts_1 (v text, a int);
ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (10);
INSERT INTO parts VALUES (1, 'one'), (2, NULL);
CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM parts;
CREATE MATERIALIZED VIEW unseen AS SELECT 1 WITH NO DATA;
CREATE VIEW plain AS SELECT 1;
CREATE UNLOGGED TABLE quick (a int);
INSERT INTO quick VALUES (1);
CREATE SEQUENCE down INCREMENT -1;
SELECT nextval('down'), nextval('down');
CREATE SEQUENCE fresh START 17;
CREATE TABLE hidden (a int);
INSERT INTO hidden VALUES (1);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
SELECT lo_from_bytea(4711, decode(repeat('ab', 1048576 * 2), 'hex')), lo_from_bytea(4712, ''), lo_from_bytea(4713, 'x');
`

func TestChecksOfServer(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		s.Exec(t, "CREATE DATABASE appdb")
		db, err := pgx.Connect(t.Context(), s.URL("appdb", "postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close(t.Context())
		if _, err := db.Exec(t.Context(), contents); err != nil {
			t.Fatal(err)
		}
		dumped := checks(t, s, "appdb", "rows")
		for key, want := range map[string]backup.Check{
			`table "odd ""schema""".t`:           {Rows: 1000},
			"table public.empty":                 {},
			"table public.parent":                {Rows: 1},
			"table public.parts_1":               {Rows: 2},
			"table public.hidden":                {Rows: 1},
			"materialized view public.seen":      {Rows: 1},
			"sequence public.down":               {LastValue: -2, IsCalled: true, Increment: -1},
			"sequence public.fresh":              {LastValue: 17, Increment: 1},
			`sequence "odd ""schema""".t_id_seq`: {LastValue: 1000, IsCalled: true, Increment: 1},
			"large objects":                      {Rows: 3},
		} {
			got := dumped[key]
			if (got.Sum == nil) != (got.Kind == backup.CheckSequence) {
				t.Errorf("%s: %+v", key, got)
			}
			got.Kind, got.Relation, got.Sum = "", "", nil
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: %s", key, d)
			}
		}
		if len(dumped) != 13 {
			t.Errorf("there are %d checks: %v", len(dumped), dumped)
		}
		for key, c := range checks(t, s, "appdb", "counts") {
			if c.Sum != nil || c.Rows != dumped[key].Rows {
				t.Errorf("%s: %+v", key, c)
			}
		}

		// What was restored is equal, whatever its settings show otherwise.
		s.Exec(t, "CREATE DATABASE other")
		s.Exec(t, "ALTER DATABASE other SET DateStyle = 'SQL, DMY'")
		s.Exec(t, "ALTER DATABASE other SET extra_float_digits = -5")
		s.Exec(t, "ALTER DATABASE other SET search_path = 'nowhere'")
		s.Exec(t, "ALTER DATABASE other SET statement_timeout = '100ms'")
		dump := exec.Command(program(t, s, "pg_dump"), "-Fc", "-d", s.URL("appdb", "postgres"))
		restore := exec.Command(program(t, s, "pg_restore"), "--exit-on-error", "-d", s.URL("other", "postgres"))
		restore.Env = append(restore.Environ(), "PGOPTIONS=-c statement_timeout=0")
		var archive, said bytes.Buffer
		dump.Stdout, dump.Stderr = &archive, &said
		if err := dump.Run(); err != nil {
			t.Fatalf("pg_dump: %v: %s", err, &said)
		}
		restore.Stdin, restore.Stderr = &archive, &said
		if err := restore.Run(); err != nil {
			t.Fatalf("pg_restore: %v: %s", err, &said)
		}
		if d := backup.CompareChecks(dumped, checks(t, s, "other", "rows")); d != nil {
			t.Errorf("the restored database differs: %q", d)
		}

		if _, err := db.Exec(t.Context(), `UPDATE "odd ""schema""".t SET f = f + 1e-12 WHERE id = 7; SELECT lo_put(4711, 2000000, 'y'); DELETE FROM hidden; SELECT nextval('fresh')`); err != nil {
			t.Fatal(err)
		}
		want := []string{"large objects: the contents differ", `table "odd ""schema""".t: the contents differ`, "table public.hidden has 0 rows and had 1"}
		if d := cmp.Diff(want, backup.CompareChecks(dumped, checks(t, s, "appdb", "rows"))); d != "" {
			t.Error(d)
		}
	})
}
