package postgres

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// A fileSetting is a row of pg_file_settings.
type fileSetting struct {
	File, Name, Value string
	Line              int
}

// confCorpus are trees of files that stand behind an include at the end of postgresql.conf. Parameters of a made-up extension take any value, so what a value
// reads as is seen.
var confCorpus = map[string]map[string]string{
	"forms": {"t/main.conf": strings.Join([]string{
		"x.a = 1", "x.b 2", "x.c=3", "x.d = 'it''s'", `x.e = 'a\tb\\c\'d\101\x\18'`, "x.f = word # comment", "x.g = 'a # b'# c", "  X.A   =   4  ",
		"x.h = a-b._c:/d", "x.i = 64MB", "x.j = -1", "x.k = +1.5e3", "x.l = .5", "x.m = 5.", "x.n = 0xFFkB", "x.o = ''", "x.p = 'ä'", "x.q = äö", "", "   ", "#", "x.r='\ttab\t'",
		"x.s = on\r", "\tx.t\t=\tyes", "x.u = ''''", "x.v = '\\''", "x.w = a.b.c", "work_mem = 4MB", "WORK_MEM = '5MB'",
	}, "\n")},
	"no end of line": {"t/main.conf": "x.a = 1\nx.b = 'last'"},
	"includes": {
		"t/main.conf":    "x.a = main\ninclude 'sub/one.conf'\nx.b = main\ninclude_if_exists = 'none.conf'\ninclude_dir 'dir'\nx.last = main\n",
		"t/sub/one.conf": "x.a = one\nx.b = one\ninclude 'two.conf'\n",
		"t/sub/two.conf": "x.c = two\nx.a = two\n",
		"t/dir/10.conf":  "x.d = ten\n", "t/dir/9.conf": "x.d = nine\n", "t/dir/A.conf": "x.d = capital\n", "t/dir/a.conf": "x.d = small\n",
		"t/dir/.hidden.conf": "x.d = hidden\n", "t/dir/b.conf.bak": "x.d = backup\n", "t/dir/.conf": "x.d = dot\n", "t/dir/_.conf": "x.e = low\n",
	},
	"missing include": {"t/main.conf": "x.a = 1\ninclude 'none.conf'\nx.b = 2\n"},
	"missing dir":     {"t/main.conf": "x.a = 1\ninclude_dir 'none'\nx.b = 2\n"},
	"empty dir":       {"t/main.conf": "x.a = 1\ninclude_dir 'dir'\n", "t/dir/readme": "no\n"},
	"recursion":       {"t/main.conf": "x.a = 1\ninclude 'main.conf'\n"},
	"long recursion":  {"t/main.conf": "x.a = 1\ninclude 'b.conf'\n", "t/b.conf": "x.b = 1\ninclude 'main.conf'\n"},
}

// confBadLines are single lines; each is given to the server on its own.
var confBadLines = []string{
	"x.a", "x.a =", "= 1", "x.a = 1 2", "x.a = 'open", "x.a = 'a''", "x.a = 'a'b'", "x.a = 'a' 'b'", "x.a = 1.5GB", "x.a = 1e3", "x.a = a b", "x.a = postgresql.log",
	"x.a == 1", "x.a = \"1\"", "x.a.b = 1", "x-a = 1", "1a = 1", "x. a = 1", "'x.a' = 1", "x.a = $libdir", "x.a = *", "x.a = a,b", "x.a = /tmp", "x.a = %m", "x.a = 1#", "x.a = '\\", "x.a = @",
	"x.a = 0x", "x.a = 0xg", "x.a = 1.2.3.4", "x.a = 1.", "x.a = .", "x.a = -", "x.a = --1", "x.a = -a", "x.a = ~", "x.a : 1", "[x]", "x.a = {", "; x", "// x", "x$a = 1", "x.a$ = 1", "_x = '1'",
	"x.a = '1'x", "x.a='1'2", "x.a=1x.y", "x.a 1 = 2", "include", "include = ", "include ''", "include_dir ''", "x.a = 'a\\", "x.a = 1e-5", "x.a = 1.e5x", "x.a = a=b", "x.a=b=", "= =",
	"x.a = 10min", "x.a = 10 min", "x.a = 127.0.0.1", "x.a = localhost", "x.a = C:/x", "x.a = C:\\x", "x.a = http://h/p", "x.a = '\\0'", "x.a = 'a\\0b'", "x.a = '\\400'", "x.a = '\\8'", "\vx.a = 1", "x.a\f= 1",
}

func TestRealConf(t *testing.T) {
	t.Parallel()
	eachServer(t, func(t *testing.T, s *realServer) {
		main, err := os.ReadFile(filepath.Join(s.Dir, "postgresql.conf"))
		if err != nil {
			t.Fatal(err)
		}
		s.Write(t, "postgresql.conf", string(main)+"include 't/main.conf'\n")
		for name, tree := range confCorpus {
			t.Run(name, func(t *testing.T) {
				if err := os.RemoveAll(filepath.Join(s.Dir, "t")); err != nil {
					t.Fatal(err)
				}
				for file, text := range tree {
					s.Write(t, file, text)
				}
				compareConf(t, s)
			})
		}
		_ = os.RemoveAll(filepath.Join(s.Dir, "t"))
		t.Run("auto", func(t *testing.T) {
			s.Write(t, "t/main.conf", "work_mem = 5MB\n")
			s.Exec(t, "ALTER SYSTEM SET work_mem = '6MB'")
			s.Exec(t, `ALTER SYSTEM SET search_path = '$user', "a, b", public`)
			s.Exec(t, `ALTER SYSTEM SET log_line_prefix = E'it''s \\ %m'`)
			compareConf(t, s)
			s.Exec(t, "ALTER SYSTEM RESET ALL")
		})
		t.Run("rendered", func(t *testing.T) {
			values := []ConfValue{{"x.a", "it's"}, {"x.b", `back\slash`}, {"x.c", "two\nlines"}, {"x.d", ""}, {"work_mem", "4MB"}, {"x.e", "# no comment"}, {"x.f", "1.5"}}
			s.Write(t, "t/main.conf", RenderConf("A header\n\nof three lines", values))
			compareConf(t, s)
			rows, _ := s.fileSettings(t)
			var got []ConfValue
			for _, row := range rows {
				if strings.HasSuffix(row.File, "t/main.conf") {
					got = append(got, ConfValue{row.Name, row.Value})
				}
			}
			if diff := cmp.Diff(values, got); diff != "" {
				t.Error(diff)
			}
		})
		for _, line := range confBadLines {
			t.Run(line, func(t *testing.T) {
				s.Write(t, "t/main.conf", "x.first = 1\n"+line+"\nx.last = 1\n")
				compareConf(t, s)
			})
		}
	})
}

// compareConf asks the server what the files say, and compares.
func compareConf(t *testing.T, s *realServer) {
	t.Helper()
	rows, mistakes := s.fileSettings(t)
	want := make(map[string]fileSetting)
	for _, row := range rows {
		want[strings.ToLower(row.Name)] = row
	}
	settings, errs := Effective(filepath.Join(s.Dir, "postgresql.conf"), readFile, listDir, filepath.Join(s.Dir, "postgresql.auto.conf"))
	if (len(errs) > 0) != (len(mistakes) > 0) {
		t.Errorf("errors %v, the server: %v", errs, mistakes)
	}
	if len(mistakes) > 0 {
		return // which entries the view still lists differs between versions
	}
	got := make(map[string]fileSetting)
	total := 0
	for _, e := range settings {
		got[strings.ToLower(e.Name)] = fileSetting{Name: e.Name, Value: e.Value, File: e.File, Line: e.Line}
		total += 1 + len(e.Shadows)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the server (-) and Effective (+) differ:\n%s", diff)
	}
	if total != len(rows) {
		t.Errorf("%d settings with what they shadow; the server has %d rows", total, len(rows))
	}
}

// fileSettings returns what the files set, and the mistakes in them (not in the values).
func (s *realServer) fileSettings(t *testing.T) (settings []fileSetting, mistakes []string) {
	t.Helper()
	rows, err := s.Admin.Query(t.Context(), `SELECT coalesce(sourcefile, '') AS file, coalesce(name, '') AS name, coalesce(setting, '') AS value,
		coalesce(sourceline, 0) AS line FROM pg_file_settings ORDER BY seqno`)
	if err != nil {
		t.Fatal(err)
	}
	settings, err = pgx.CollectRows(rows, pgx.RowToStructByName[fileSetting])
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(settings, func(f fileSetting) bool {
		if f.Name == "" {
			mistakes = append(mistakes, f.File)
		}
		return f.Name == ""
	}), mistakes
}

func readFile(path string) (string, bool) {
	text, err := os.ReadFile(path)
	return string(text), err == nil
}

func listDir(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
