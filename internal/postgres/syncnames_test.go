package postgres

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSynchronousStandbyNames(t *testing.T) {
	for value, want := range map[string]SynchronousStandbyNames{
		"":                            {},
		"a":                           {Number: 1, Names: []string{"a"}},
		"a, b":                        {Number: 1, Names: []string{"a", "b"}},
		"*":                           {Number: 1, Names: []string{"*"}},
		"2 (a, b, c)":                 {Number: 2, Names: []string{"a", "b", "c"}},
		"FIRST 1 (a)":                 {Number: 1, Names: []string{"a"}},
		`any 2 ("15/main", "x""y",*)`: {Number: 2, Any: true, Names: []string{"15/main", `x"y`, "*"}},
		"  first  2(s1,s2) ":          {Number: 2, Names: []string{"s1", "s2"}},
		"first":                       {Number: 1, Names: []string{"first"}},
	} {
		got, err := ParseSynchronousStandbyNames(value)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v %s", value, err, d)
		}
	}
	for _, value := range []string{"a,", ",a", "2 ()", `"a`, "a b", "ANY 2 (a b)"} {
		if got, err := ParseSynchronousStandbyNames(value); err == nil {
			t.Errorf("%q is taken for %v", value, got)
		}
	}
	s, _ := ParseSynchronousStandbyNames(`1 (Node1)`)
	if !s.Match("node1") || s.Match("node2") {
		t.Error("names are matched wrongly")
	}
}
