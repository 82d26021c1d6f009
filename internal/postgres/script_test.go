package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitScript(t *testing.T) {
	for script, want := range map[string][]string{ // "line: text"
		"":                          nil,
		" ;\n; -- nothing\n/* ; */": nil,
		"SELECT 1":                  {"1: SELECT 1"},
		"\n-- one\nSELECT 1 ; SELECT\n2 -- two ;\n;\nSELECT 3":             {"3: SELECT 1", "3: SELECT\n2 -- two ;", "6: SELECT 3"},
		"SELECT ';', \";\", E'\\';', $$;$$, $a$ $b$;$$ $a$;SELECT 2":       {"1: SELECT ';', \";\", E'\\';', $$;$$, $a$ $b$;$$ $a$", "1: SELECT 2"},
		"SELECT 'a''; b' 'c\\';SELECT 2":                                   {"1: SELECT 'a''; b' 'c\\'", "1: SELECT 2"},
		"SELECT E'a'\n  -- more\n'\\';b';SELECT 2":                         {"1: SELECT E'a'\n  -- more\n'\\';b'", "3: SELECT 2"},
		"SELECT E'a' '\\';SELECT 2":                                        {"1: SELECT E'a' '\\'", "1: SELECT 2"},
		"SELECT fee'a\\';SELECT U&'\\0041;' ;SELECT 1E'\\''":               {"1: SELECT fee'a\\'", "1: SELECT U&'\\0041;'", "1: SELECT 1E'\\''"},
		"/* /* ; */ ; */SELECT 1;SELECT a$b$c;SELECT $1":                   {"1: SELECT 1", "1: SELECT a$b$c", "1: SELECT $1"},
		"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);SELECT 3": {"1: CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", "1: SELECT 3"},
		"SELECT 1)\n;SELECT 2":                                             {"1: SELECT 1)", "2: SELECT 2"},
		"CREATE OR REPLACE FUNCTION f() RETURNS int\nBEGIN ATOMIC\n SELECT CASE WHEN a THEN 1 ELSE 2 END; SELECT 2;\nEND;\nSELECT 3": {"1: CREATE OR REPLACE FUNCTION f() RETURNS int\nBEGIN ATOMIC\n SELECT CASE WHEN a THEN 1 ELSE 2 END; SELECT 2;\nEND", "5: SELECT 3"},
		"create procedure p() begin atomic; end; SELECT 1":                                                                           {"1: create procedure p() begin atomic; end", "1: SELECT 1"},
		"CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS 'x';SELECT 1":                                                      {"1: CREATE FUNCTION f(begin int) RETURNS int LANGUAGE sql AS 'x'", "1: SELECT 1"},
		"CREATE TABLE x (begin int);BEGIN;SELECT 1;END":                                                                              {"1: CREATE TABLE x (begin int)", "1: BEGIN", "1: SELECT 1", "1: END"},
		"DO $é$ ; $é$;\r\nSELECT\r\n2;":                                                                                              {"1: DO $é$ ; $é$", "2: SELECT\r\n2"},
		"COPY t TO '/tmp/x'; COPY (SELECT 1) TO PROGRAM 'cat'":                                                                       {"1: COPY t TO '/tmp/x'", "1: COPY (SELECT 1) TO PROGRAM 'cat'"},
		"SELECT 1 -- \\gset\n, '\\x', \"\\\"":                                                                                        {"1: SELECT 1 -- \\gset\n, '\\x', \"\\\""},
	} {
		list, err := SplitScript(script)
		if err != nil {
			t.Errorf("%q: %v", script, err)
		}
		var got []string
		for _, st := range list {
			got = append(got, fmt.Sprintf("%d: %s", st.Line, st.Text))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", script, d)
		}
	}
	for script, want := range map[string]string{
		"SELECT 1;\nSELECT 'a\n\n;":       "line 2: the quote ' is not closed",
		"\n\"a":                           `line 2: the quote " is not closed`,
		"SELECT E'a\\'":                   "line 1: the quote E' is not closed",
		"SELECT\n$x$ $$":                  "line 2: the quote $x$ is not closed",
		"SELECT 1; /* /* */":              "line 1: the comment /* is not closed",
		"SELECT 1\n\\gset x\n":            `line 2: \gset is a command of psql, which only psql can carry out`,
		"\\":                              `line 1: \ is a command of psql, which only psql can carry out`,
		"\ncopy a (b, c) from stdin csv;": "line 2: COPY … FROM STDIN passes data through psql, and only psql can carry it out",
		"SELECT 1;COPY\na\nTO STDOUT":     "line 1: COPY … TO STDOUT passes data through psql, and only psql can carry it out",
	} {
		if _, err := SplitScript(script); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", script, err, want)
		}
	}
}

func TestOutside(t *testing.T) {
	for script, want := range map[string]string{
		"BEGIN": "BEGIN", "begin work": "BEGIN", "START TRANSACTION READ ONLY": "START TRANSACTION", "COMMIT AND CHAIN": "COMMIT", "END": "END", "ABORT": "ABORT",
		"ROLLBACK": "ROLLBACK", "ROLLBACK TO s": "", "ROLLBACK WORK TO SAVEPOINT s": "", "ROLLBACK PREPARED 'to'": "ROLLBACK", "COMMIT PREPARED 'x'": "COMMIT", "SAVEPOINT s": "", "RELEASE s": "",
		"PREPARE TRANSACTION 'x'": "PREPARE TRANSACTION", "PREPARE p AS SELECT 1": "", "CREATE DATABASE x": "CREATE DATABASE", "DROP DATABASE x": "DROP DATABASE", "ALTER DATABASE x SET a = b": "",
		"ALTER DATABASE \"X\" SET TABLESPACE y": "ALTER DATABASE SET TABLESPACE", "ALTER DATABASE tablespace OWNER TO x": "", "CREATE TABLESPACE x LOCATION 'y'": "CREATE TABLESPACE", "DROP TABLESPACE x": "DROP TABLESPACE",
		"ALTER SYSTEM SET a = 1": "ALTER SYSTEM", "VACUUM (FULL)": "VACUUM", "ANALYZE": "", "CREATE INDEX CONCURRENTLY i ON t (a)": "CREATE INDEX CONCURRENTLY", "CREATE UNIQUE INDEX concurrently ON t (a)": "CREATE UNIQUE INDEX CONCURRENTLY",
		"CREATE INDEX \"concurrently\" ON t (a)": "", "DROP INDEX CONCURRENTLY i": "DROP INDEX CONCURRENTLY", "REINDEX INDEX CONCURRENTLY i": "REINDEX CONCURRENTLY", "REINDEX (VERBOSE, CONCURRENTLY) TABLE t": "REINDEX CONCURRENTLY",
		"REINDEX TABLE database": "", "REINDEX (VERBOSE) DATABASE d": "REINDEX DATABASE", "REINDEX SYSTEM d": "REINDEX SYSTEM", "REINDEX SCHEMA s": "REINDEX SCHEMA", "CLUSTER": "CLUSTER", "cluster verbose": "CLUSTER", "CLUSTER \"t\"": "",
		"CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (create_slot = false)": "CREATE SUBSCRIPTION", "DROP SUBSCRIPTION s": "DROP SUBSCRIPTION", "LISTEN x": "", "DISCARD ALL": "DISCARD ALL", "DISCARD TEMP": "",
		"ALTER TYPE t ADD VALUE 'x'": "", "ALTER TABLE t DETACH PARTITION p CONCURRENTLY": "ALTER TABLE … DETACH PARTITION CONCURRENTLY", "ALTER TABLE t DETACH PARTITION p": "",
		"/* a */ -- b\nCoMmIt": "COMMIT", "(SELECT 1)": "", "\"commit\"": "", "CREATE TABLE commit ()": "",
	} {
		list, err := SplitScript(script)
		if err != nil || len(list) != 1 || list[0].Outside() != want {
			t.Errorf("%s: %v, %+v: %q, want %q", script, err, list, list[0].Outside(), want)
		}
	}
}

func TestCheckExpression(t *testing.T) {
	for _, good := range []string{"true", "a = 1 -- x", "(a[1] = ANY (ARRAY[1, 2]))", "')' = ';'", "\"(\" = $$;)$$", "/* ( */ a", "E'\\')' = a", "a OPERATOR(pg_catalog.=) b"} {
		if err := CheckExpression(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", " /* x */ ", "a) --", "(a", "a]", "(a]", "a; b", "'a", "\"a", "$$a", "/* a", "a \\ b", "a \x00", "a) OR (b", "E'a\\'", "a = 'x') /* '"} {
		if err := CheckExpression(bad); err == nil {
			t.Errorf("%q is taken for an expression", bad)
		}
	}
}

// Whatever the script, no byte of it is lost but white space, comments and
// semicolons, and a statement taken by itself is one statement.
func FuzzSplitScript(f *testing.F) {
	for _, seed := range []string{"SELECT 1; SELECT 2", "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; END; x", "$a$;$a$ /* ; */ -- ;\nE'\\';' \"a;\"", "COPY x FROM STDIN;", "(;);\\x", "E'a'\n'\\''", "a$b$ $1 1e'x' U&\"a;\""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, script string) {
		list, err := SplitScript(script)
		if err != nil {
			return
		}
		rest, line := script, 1
		for _, st := range list {
			// A comment before it may hold the same text.
			at := 0
			for {
				next := strings.Index(rest[at:], st.Text)
				if next < 0 || st.Text == "" {
					t.Fatalf("%q is not in %q", st.Text, rest)
				}
				at += next
				if between, err := SplitScript(rest[:at]); err == nil && len(between) == 0 && line+strings.Count(rest[:at], "\n") == st.Line {
					break
				}
				at++
			}
			line = st.Line + strings.Count(st.Text, "\n")
			rest = rest[at+len(st.Text):]
			again, err := SplitScript(st.Text)
			if err != nil || len(again) != 1 || again[0].Text != st.Text || again[0].Outside() != st.Outside() {
				t.Fatalf("%q again: %+v, %v", st.Text, again, err)
			}
			_ = st.Name()
		}
	})
}

// What is taken for an expression is one statement where it is put, and ends
// there.
func FuzzCheckExpression(f *testing.F) {
	for _, seed := range []string{"a = 1", "a) --", "'a' || E'\\'", "/* /* */", "$$ ) $$", "a -- b", "(a[1])", "E'a'\n'\\'"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		if CheckExpression(expr) != nil {
			return
		}
		list, err := SplitScript("SELECT (" + expr + "\n) FROM t; SELECT 2")
		if err != nil || len(list) != 2 || list[1].Text != "SELECT 2" {
			t.Fatalf("%q: %+v, %v", expr, list, err)
		}
	})
}
