package backup

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// The files are what pg_dumpall 15 and pg_restore 15 have written of a database with
// odd names.
func testdata(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestGlobals(t *testing.T) {
	g, err := ParseGlobals(testdata(t, "odd.globals.sql") + `
CREATE TABLESPACE "fa""st" OWNER app LOCATION '/srv/x';
ALTER TABLESPACE "fa""st" SET (random_page_cost=1.0);
GRANT ALL ON TABLESPACE "fa""st" TO app;
GRANT SET ON PARAMETER log_min_duration_statement TO grp;
COMMENT ON ROLE app IS 'on TO ROLE grp';
GRANT "to on" TO postgres WITH ADMIN OPTION, INHERIT TRUE GRANTED BY app;
`)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"Odd Owner", "app", "grp", "postgres", `quote"r`}; !slices.Equal(g.Roles, want) {
		t.Errorf("roles %q", g.Roles)
	}
	if want := []string{`fa"st`}; !slices.Equal(g.Tablespaces, want) {
		t.Errorf("tablespaces %q", g.Tablespaces)
	}
	what := func(list []GlobalStatement) []string {
		var all []string
		for _, s := range list {
			if !strings.HasPrefix(s.What, "SET") {
				all = append(all, s.What)
			}
		}
		return all
	}
	run, kept := g.Missing(map[string]bool{"postgres": true, "grp": true}, nil)
	if want := []string{"role grp", "role postgres"}; !slices.Equal(kept, want) {
		t.Errorf("kept %q", kept)
	}
	want := []string{
		"CREATE ROLE Odd Owner", "ALTER ROLE Odd Owner", "CREATE ROLE app", "ALTER ROLE app", `CREATE ROLE quote"r`, `ALTER ROLE quote"r`, "ALTER ROLE app", "GRANT grp TO app",
		`CREATE TABLESPACE fa"st`, `ALTER TABLESPACE fa"st`, `GRANT ALL fa"st`, "COMMENT ON app",
	}
	if got := what(run); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if run, kept = g.Missing(map[string]bool{"postgres": true}, map[string]bool{`fa"st`: true}); !slices.Contains(kept, `tablespace fa"st`) || slices.Contains(what(run), `GRANT ALL fa"st`) {
		t.Errorf("kept %q, run %q", kept, what(run))
	}
	run, _ = g.WithoutTablespaces().Missing(nil, nil)
	for _, s := range run {
		if s.Outside || strings.Contains(s.Text, "TABLESPACE") {
			t.Errorf("%s", s.Text)
		}
		if strings.Contains(s.What, "SCRAM") {
			t.Errorf("a verifier is in %q", s.What)
		}
	}
}

func TestSchema(t *testing.T) {
	const name = `odd " db é.x`
	text := testdata(t, "odd.schema.sql")
	s, err := ParseSchema(text, name)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"Odd Owner", "app", "grp", "postgres", `quote"r`}; !slices.Equal(s.Roles, want) {
		t.Errorf("roles %q", s.Roles)
	}
	if !slices.Equal(s.Extensions, []string{"pgcrypto"}) || s.Tablespaces != nil {
		t.Errorf("extensions %q, tablespaces %q", s.Extensions, s.Tablespaces)
	}
	got := s.CreateDatabase("new one", true)
	want := []string{
		`CREATE DATABASE "new one" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C.UTF-8'`,
		`ALTER DATABASE "new one" OWNER TO "Odd Owner"`,
		`COMMENT ON DATABASE "new one" IS 'to DATABASE "odd "" db é.x"; x'`,
		`ALTER DATABASE "new one" SET search_path TO 'a.b', 'public'`,
		`ALTER ROLE app IN DATABASE "new one" SET work_mem TO '16MB'`,
		`GRANT CONNECT ON DATABASE "new one" TO "quote""r"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// Tablespaces.
	text = strings.Replace(text, "LOCALE = 'C.UTF-8';", "LOCALE = 'C.UTF-8' TABLESPACE = \"Fa st\";\nSET default_tablespace = slow;\nSET default_tablespace = '';", 1)
	if s, err = ParseSchema(text, name); err != nil || !slices.Equal(s.Tablespaces, []string{"Fa st", "slow"}) {
		t.Errorf("%q, %v", s.Tablespaces, err)
	}
	if got := s.CreateDatabase("x", true)[0]; !strings.HasSuffix(got, `TABLESPACE = "Fa st"`) {
		t.Error(got)
	}
	if got := s.CreateDatabase("x", false)[0]; !strings.HasSuffix(got, `LOCALE = 'C.UTF-8'`) {
		t.Error(got)
	}
	if _, err := ParseSchema("CREATE TABLE x ();", "x"); err == nil {
		t.Error("no database: no error")
	}
}

func TestRestoreError(t *testing.T) {
	for _, test := range []struct{ stderr, want string }{
		{"pg_restore: error: could not read from input file: end of file\n", "could not read from input file: end of file"},
		{`pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 3306; 0 16395 TABLE DATA public t app
pg_restore: error: COPY failed for table "t": ERROR:  invalid input syntax for type integer: "x"
CONTEXT:  COPY t, line 1, column a: "x	the whole row"
`, `TABLE DATA public t app: COPY failed for table "t": ERROR:  invalid input syntax for type integer: "x"`},
		{`pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 2; 3079 16386 EXTENSION pgcrypto ` + `
pg_restore: error: could not execute query: ERROR:  could not open extension control file
Command was: CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA public;
`, "EXTENSION pgcrypto: ERROR:  could not open extension control file"},
		{"pg_restore: error: unsupported version (1.16) in file header", "unsupported version (1.16) in file header; the dump is of a newer pg_dump than this pg_restore"},
		{"sh: something else\n", "sh: something else"},
		{"", "pg_restore failed and printed nothing"},
	} {
		if got := RestoreError(test.stderr); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// What a host has not got is not held against a set.
func TestRestoreFailure(t *testing.T) {
	const at = "pg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 3306; 0 16395 TABLE DATA public t app\n"
	for _, test := range []struct {
		exit   int
		stderr string
		place  bool
	}{
		{1, at + "pg_restore: error: COPY failed for table \"t\": ERROR:  could not extend file \"base/1/2\": No space left on device\nHINT:  Check free disk space.\n", true},
		{1, at + "pg_restore: error: could not execute query: ERROR:  out of memory\nDETAIL:  Failed on request of size 8.\n", true},
		{1, at + "pg_restore: error: could not execute query: server closed the connection unexpectedly\n", true},
		{1, "pg_restore: error: connection to server on socket \"/run/x\" failed: No such file or directory\n", true},
		{1, "pg_restore: error: could not execute query: ERROR:  could not open extension control file \"/usr/share/x.control\": No such file\n", true},
		{1, "pg_restore: error: could not execute query: ERROR:  extension \"x\" is not available\n", true},
		{137, "", true}, {127, "sh: 1: exec: /usr/lib/postgresql/15/bin/pg_restore: not found\n", true},
		{1, "pg_restore: error: could not read from input file: end of file\n", false},
		{1, at + "pg_restore: error: COPY failed for table \"t\": ERROR:  invalid input syntax for type integer: \"x\"\nCONTEXT:  COPY t, line 1, column a: \"No space left on device\"\n", false},
		{1, at + "pg_restore: error: could not execute query: ERROR:  new row for relation \"t\" violates check constraint \"c\"\n", false},
	} {
		err := restoreFailure(test.exit, test.stderr)
		if _, place := errors.AsType[*PlaceError](err); place != test.place {
			t.Errorf("%d, %q: %T", test.exit, test.stderr, err)
		}
	}
	for code, place := range map[string]bool{"53100": true, "53200": true, "57P01": true, "58030": true, "42710": false, "22023": false} {
		if _, got := errors.AsType[*PlaceError](statementFailure("x", &pgconn.PgError{Code: code})); got != place {
			t.Errorf("%s: %v", code, got)
		}
	}
	if _, ok := errors.AsType[*PlaceError](statementFailure("x", io.ErrUnexpectedEOF)); !ok {
		t.Error("a connection that is lost is held against the set")
	}
}

func TestBinaries(t *testing.T) {
	have := Binaries{13, 15, 17}
	for want, got := range map[int]int{13: 13, 14: 15, 16: 17, 17: 17} {
		if n, err := have.For(want); n != got || err != nil {
			t.Errorf("%d: %d, %v", want, n, err)
		}
	}
	if _, err := have.For(18); err == nil || !strings.Contains(err.Error(), "by pg_dump 18, and pg_restore there is of version 13 and 15 and 17: install postgresql-client-18") {
		t.Error(err)
	}
	if _, err := (Binaries{}).For(15); err == nil {
		t.Error("none there: no error")
	}
}
