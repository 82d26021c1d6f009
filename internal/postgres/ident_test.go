package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseIdentErrors(t *testing.T) {
	_, err := ParseIdent("m a\n# fine\nm a b c\nm a,b c\nm /( b\nm /^x$ \\1\ninclude more.conf", 150000)
	want := []string{
		`line 1, column 4: missing entry at end of line (a line is: MAP SYSTEM-USER DATABASE-USER)`,
		`line 3, column 7: more than three fields (a name with blanks goes in double quotes)`,
		`line 4, column 5: multiple values specified for ident field (one line for each)`,
		`line 5, column 3: invalid regular expression "(": parentheses () not balanced`,
		`line 6, column 8: regular expression "^x$" has no subexpressions as requested by backreference in "\\1" (put what \1 stands for in brackets ())`,
		`line 7, column 18: missing entry at end of line (a line is: MAP SYSTEM-USER DATABASE-USER)`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestMatchIdent(t *testing.T) {
	lines, err := ParseIdent("m /^(.*)@example\\.com$ \\1\nm root postgres\nn /^(?=x) all\nm ops all\n", 160000)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := IdentRules(lines)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		usermap, system, user string
		major                 int
		want, uncertain       bool
	}{
		{"m", "ann@example.com", "ann", 15, true, false},
		{"m", "ann@example.com", "bob", 15, false, false},
		{"m", "all@example.com", "bob", 16, false, false},
		{"m", "root", "postgres", 15, true, false},
		{"m", "ops", "postgres", 16, true, false},
		{"m", "ops", "postgres", 15, false, false},
		{"m", "ops", "all", 15, true, false},
		{"n", "x", "y", 16, false, true},
		{"o", "root", "postgres", 16, false, false},
	} {
		ok, why := MatchIdent(rules, test.usermap, test.system, test.user, MajorVersion(test.major), nil)
		if ok != test.want || (why != "") != test.uncertain {
			t.Errorf("%+v: %v, %s", test, ok, why)
		}
	}
}

func FuzzParseIdent(f *testing.F) {
	for _, line := range identCorpus {
		f.Add(line, 15)
		f.Add(line, 16)
	}
	f.Fuzz(func(t *testing.T, text string, major int) {
		version := MajorVersion(13 + (major%6+6)%6)
		lines, _ := ParseIdent(text, version)
		var rules []IdentRule
		for _, l := range lines {
			if l.Rule != nil {
				rules = append(rules, *l.Rule)
			}
		}
		again, err := ParseIdent(RenderIdent(text, rules), version)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, RenderIdent("", rules))
		}
		back, err := IdentRules(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(rules, back, sameHBA); diff != "" {
			t.Fatal(diff)
		}
		MatchIdent(rules, "m", "a", "b", version, nil)
	})
}
