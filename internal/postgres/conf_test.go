package postgres

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfErrors(t *testing.T) {
	entries, err := ParseConf("a = 1\nb = 'open\n  c = 1.5GB\nx.y = a.b\nd = 2 3\ne =\n= 5\nf = 6")
	want := []string{
		`line 2, column 5: syntax error near token "'" (the quoted value has no end on this line)`,
		`line 3, column 10: syntax error near token "GB" (put the whole value in single quotes)`,
		`line 4, column 7: syntax error near token "a.b" (put the value in single quotes)`,
		`line 5, column 7: syntax error near token "3" (put the whole value in single quotes)`,
		`line 6, column 4: syntax error near end of line (the value is missing; an empty one is written '')`,
		`line 7, column 1: syntax error near token "=" (a line is: name = 'value')`,
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), err.Error()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]ConfEntry{{"a", "1", 1}, {"f", "6", 8}}, entries); diff != "" {
		t.Error(diff)
	}
	if n := len(ParseErrors(err)); n != len(want) {
		t.Errorf("%d errors", n)
	}
}

func TestParseConfGivesUp(t *testing.T) {
	_, err := ParseConf(strings.Repeat("bad\n", 1000))
	if n := len(ParseErrors(err)); n != maxConfErrors+1 {
		t.Errorf("%d errors", n)
	}
}

// A tree of files in memory, for Effective.
type files map[string]string

func (f files) read(path string) (string, bool) { text, ok := f[path]; return text, ok }

func (f files) glob(dir string) []string {
	var names []string
	for path := range f {
		if rest, ok := strings.CutPrefix(path, dir+"/"); ok && !strings.Contains(rest, "/") {
			names = append(names, path)
		}
	}
	return names
}

func TestEffective(t *testing.T) {
	tree := files{
		"/etc/pg/postgresql.conf": "work_mem = 1MB\nport = 5432\ninclude_dir = 'conf.d'\nssl = on\n",
		"/etc/pg/conf.d/10.conf":  "Work_Mem = 2MB\nssl = off\n",
		"/etc/pg/conf.d/20.conf":  "work_mem = 3MB\n",
		"/data/auto.conf":         "port = '5433'\n",
	}
	got, errs := Effective("/etc/pg/postgresql.conf", tree.read, tree.glob, "/data/auto.conf")
	want := []EffectiveSetting{
		{Name: "port", Value: "5433", File: "/data/auto.conf", Line: 1, Shadows: []ConfPosition{{"/etc/pg/postgresql.conf", 2, "5432"}}},
		{Name: "ssl", Value: "on", File: "/etc/pg/postgresql.conf", Line: 4, Shadows: []ConfPosition{{"/etc/pg/conf.d/10.conf", 2, "off"}}},
		{Name: "work_mem", Value: "3MB", File: "/etc/pg/conf.d/20.conf", Line: 1, Shadows: []ConfPosition{
			{"/etc/pg/postgresql.conf", 1, "1MB"}, {"/etc/pg/conf.d/10.conf", 1, "2MB"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" || len(errs) > 0 {
		t.Error(diff, errs)
	}
}

func TestEffectiveErrors(t *testing.T) {
	tree := files{"/a.conf": "include 'b.conf'\nx =\ninclude_dir 'none'\n", "/b.conf": "include 'a.conf'\n"}
	_, errs := Effective("/a.conf", tree.read, tree.glob, "/none")
	var got []string
	for _, err := range errs {
		got = append(got, err.Error())
	}
	for _, want := range []string{
		`/a.conf: line 2, column 4: syntax error near end of line (the value is missing; an empty one is written '')`,
		`/a.conf: line 1: could not open configuration file "b.conf": maximum nesting depth exceeded`,
		`/a.conf: line 3: could not open configuration directory "/none"`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
}

func TestRenderConf(t *testing.T) {
	got := RenderConf("Written by a test.\n\nDo not edit.\n", SortedConf(map[string]string{"work_mem": "64MB", "log_line_prefix": `%m it's \ `, "ssl": "on"}))
	want := "# Written by a test.\n#\n# Do not edit.\n\nlog_line_prefix = '%m it''s \\\\ '\nssl = 'on'\nwork_mem = '64MB'\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseConf(f *testing.F) {
	for _, tree := range confCorpus {
		for _, text := range tree {
			f.Add(text)
		}
	}
	for _, line := range confBadLines {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := ParseConf(text)
		for _, e := range ParseErrors(err) {
			if e.Line < 1 || e.Line > strings.Count(text, "\n")+1 {
				t.Errorf("line %d", e.Line)
			}
		}
		var values []ConfValue
		for _, e := range entries {
			values = append(values, ConfValue{e.Name, e.Value})
		}
		again, err := ParseConf(RenderConf(text, values))
		if err != nil || len(again) != len(entries) {
			t.Fatalf("%d entries of %d, %v", len(again), len(entries), err)
		}
		for i := range again {
			if again[i].Name != entries[i].Name || again[i].Value != entries[i].Value {
				t.Errorf("%+v became %+v", entries[i], again[i])
			}
		}
	})
}
