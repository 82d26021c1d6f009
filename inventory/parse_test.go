package inventory

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dump lists a tree: path, kind, line:column of key and value.
func dump(n *Node, path string, out *[]string) {
	for i, item := range n.Items {
		at := fmt.Sprintf("%s[%d]", path, i)
		*out = append(*out, fmt.Sprintf("%s %s %d:%d", at, item.Kind, item.Pos.Line, item.Pos.Column))
		dump(item, at, out)
	}
	for _, k := range n.Keys {
		at := strings.TrimPrefix(path+"."+k.Name, ".")
		*out = append(*out, fmt.Sprintf("%s %d:%d %s %d:%d", at, k.Pos.Line, k.Pos.Column, k.Value.Kind, k.Value.Pos.Line, k.Value.Pos.Column))
		dump(k.Value, at, out)
	}
}

func TestPositions(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"scalars", "a = 'x'\nb=1\n  c\t=\t1.5\nd = true\ne = 1979-05-27T07:32:00Z\nf = 07:32:00\ng = inf\n", []string{
			"a 1:1 string 1:5", "b 2:1 int 2:3", "c 3:3 float 3:7", "d 4:1 bool 4:5", "e 5:1 datetime 5:5", "f 6:1 datetime 6:5", "g 7:1 float 7:5",
		}},
		{"byte order mark and CRLF", "\ufeffa = 1\r\nb = 2\r\n", []string{"a 1:1 int 1:5", "b 2:1 int 2:5"}},
		{"characters, not bytes", "\"ä=#\" . 'ö' = { \"ü\" = 1 }\n", []string{
			"ä=# 1:1 table 1:1", "ä=#.ö 1:9 table 1:15", "ä=#.ö.ü 1:17 int 1:23",
		}},
		{"dotted keys and headers", "[a.b]\nc.d = 1\n[a]\ne = 2\n[ a . f ]\n", []string{
			"a 1:2 table 1:2", "a.b 1:4 table 1:4", "a.b.c 2:1 table 2:1", "a.b.c.d 2:3 int 2:7", "a.e 4:1 int 4:5", "a.f 5:7 table 5:7",
		}},
		{"list over lines", "a = [ # one, ] comment\n  1, [ 2,\n 'x,]#',# [\n ], {b = [3]},\n\n  4 ,\n]\nc = []\n", []string{
			"a 1:1 list 1:5", "a[0] int 2:3", "a[1] list 2:6", "a[1][0] int 2:8", "a[1][1] string 3:2",
			"a[2] table 4:5", "a[2].b 4:6 list 4:10", "a[2].b[0] int 4:11", "a[3] int 6:3", "c 8:1 list 8:5",
		}},
		{"tables in lists", "[[a]]\nx = 1\n[a.b]\ny = 2\n[[a]]\n[[a.c]]\nz = 3\n", []string{
			"a 1:3 list 1:3", "a[0] table 1:3", "a[0].x 2:1 int 2:5", "a[0].b 3:4 table 3:4", "a[0].b.y 4:1 int 4:5",
			"a[1] table 5:3", "a[1].c 6:5 list 6:5", "a[1].c[0] table 6:5", "a[1].c[0].z 7:1 int 7:5",
		}},
		{"inline table over lines", "a = {\n  b = 1, # one\n  c = { d = 2 },\n}\ne = 3\n", []string{
			"a 1:1 table 1:5", "a.b 2:3 int 2:7", "a.c 3:3 table 3:7", "a.c.d 3:9 int 3:13", "e 5:1 int 5:5",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, errs := Parse("f", []byte(tt.text))
			if errs != nil {
				t.Fatal(errs)
			}
			var got []string
			dump(n, "", &got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPosAt finds the character X of a value where it is written.
func TestPosAt(t *testing.T) {
	tests := []struct {
		name, text string
		line, col  int
	}{
		{"basic", `a = "xyX"`, 1, 8},
		{"literal", `a = 'x\nX'`, 1, 9},
		{"escapes", `a = "\t\u00e9\"X"`, 1, 16},
		{"wide escape", `a = "\U0001F600\x41X"`, 1, 20},
		{"characters", `a = "äöX"`, 1, 8},
		{"lines", "a = \"\"\"\none\n twoX\"\"\"", 3, 5},
		{"first line", "a = \"\"\"oneX\n\"\"\"", 1, 11},
		{"literal lines", "a = '''\r\none\r\n'X'''", 3, 2},
		{"line that goes on", "a = \"\"\"one \\\n\n   X\"\"\"", 3, 4},
		{"in a list", "a = [\n  'X',\n]", 2, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, errs := Parse("f", []byte(tt.text))
			if errs != nil {
				t.Fatal(errs)
			}
			v := n.Get("a")
			if v.Kind == KindList {
				v = v.Items[0]
			}
			offset := strings.Index(v.Str, "X")
			if offset < 0 {
				t.Fatalf("there is no X in %q", v.Str)
			}
			if got, want := v.PosAt(offset), (Position{"f", tt.line, tt.col}); got != want {
				t.Errorf("X of %q is at %s, want %s", v.Str, got, want)
			}
		})
	}
}
