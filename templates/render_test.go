package templates

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

const fleetText = `
[fleet]
name = "prod"
[postgres]
version = 15
[vars]
region = "eu"
networks = ["10.0.0.0/24", "10.1.0.0/24"]
ports = [5432, 6432]
nested = { depth = { x = 1 }, name = "n" }
count = 3
ratio = 0.5
big = 100000000.0
yes = true
since = 2020-01-02T03:04:05Z
empty = []
[hosts.pg01]
address = "10.77.0.11"
replication = "orders"
[hosts.pg02]
address = "10.77.0.12"
replication = "orders"
vars.region = "us"
[groups.db]
hosts = ["pg*"]
`

func loadFleet(t testing.TB) *inventory.Fleet {
	t.Helper()
	f, err := inventory.Load("fleet.toml", inventory.Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(fleetText)}}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func testData(t testing.TB) Data {
	f := loadFleet(t)
	return NewData(f, f.Instances()[0])
}

func TestRender(t *testing.T) {
	data := testData(t)
	ref, err := secrets.ParseRef("age:prod/app#password")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ text, want string }{
		{"no template", "no template"},
		{"{{ .Fleet.Name }} {{ .Host.Name }} {{ .Host.Address }} {{ .Host.Replication }} {{ join \",\" .Host.Groups }}", "prod pg01 10.77.0.11 orders db"},
		{"{{ .Instance.ID }} {{ .Instance.Version }} {{ .Instance.Cluster }} {{ .Instance.Port }} {{ .Instance.Unit }}", "pg01 15 main 5432 postgresql@15-main"},
		{"{{ .Instance.ConfDir }} {{ .Instance.DataDir }}", "/etc/postgresql/15/main /var/lib/postgresql/15/main"},
		{"{{ .Vars.nested.depth.x }} {{ .Vars.ratio }} {{ .Vars.big }} {{ .Vars.yes }} {{ .Vars.since }}", "1 0.5 100000000 true 2020-01-02T03:04:05Z"},
		{"{{ range .Hosts }}{{ .Name }}={{ .Address }} {{ .Vars.region }};{{ end }}", "pg01=10.77.0.11 eu;pg02=10.77.0.12 us;"},
		{"{{ range .Hosts }}{{ if eq .Replication $.Host.Replication }}{{ if ne .Name $.Host.Name }}{{ .Address }}{{ end }}{{ end }}{{ end }}", "10.77.0.12"},
		{"{{ conf \"it's\" }} {{ ident \"Order\" }} {{ literal \"it's\" }} {{ shell \"it's\" }} {{ hba \"all\" }}", `'it''s' "Order" 'it''s' 'it'\''s' "all"`},
		{"{{ conf .Vars.count }} {{ conninfo \"it's\" }} {{ passfile \"a:b\" }}", `'3' 'it\'s' a\:b`},
		{"{{ join \", \" .Vars.networks }} {{ .Vars.ports | join \" \" }}", "10.0.0.0/24, 10.1.0.0/24 5432 6432"},
		{"{{ range split \",\" \"a,b\" }}<{{ . }}>{{ end }}", "<a><b>"},
		{"{{ lower \"Ab\" }}{{ upper \"Ab\" }}{{ trim \" x \" }}{{ replace \"a\" \"b\" \"aa\" }}", "abABxbb"},
		{"{{ indent 2 \"a\\n\\nb\" }}", "  a\n\n  b"},
		{"{{ quote \"a\\\"<b>\" }} {{ toJSON .Vars.nested }}", `"a\"<b>" {"depth":{"x":1},"name":"n"}`},
		{"{{ default \"x\" \"\" }} {{ default \"x\" .Vars.region }} {{ get .Vars \"nope\" 7 }} {{ get .Vars \"count\" 7 }}", "x eu 7 3"},
		{"{{ has .Vars.ports 5432 }} {{ in \"x\" .Host.Groups }} {{ has .Vars \"region\" }}", "true false true"},
		{"{{ first .Vars.ports }} {{ last .Vars.ports }} {{ sort (split \",\" \"b,a,b\") | uniq | join \"\" }}", "5432 6432 ab"},
		{"{{ range seq 1 .Vars.count }}{{ . }}{{ end }} {{ add .Instance.Port .Vars.count 1 }} {{ add (len .Vars.ports) 1 }} {{ atoi \"7\" | add 1 }}", "123 5436 3 8"},
		{"{{ cidrHost \"10.0.0.0/24\" 5 }} {{ cidrHost \"fd00::/64\" .Vars.count }} {{ cidrContains \"10.0.0.0/8\" .Host.Address }} {{ cidrContains \"10.0.0.0/24\" \"10.0.0.0/16\" }}", "10.0.0.5 fd00::3 true false"},
		{`{{ secret "age:prod/app#password" }}`, secrets.Placeholder(ref, secrets.Raw)},
		{`x={{ secret "age:prod/app#password" | conf }}`, "x=" + secrets.Placeholder(ref, secrets.Conf)},
		{`{{ define "a" }}{{ .Host.Name }}{{ end }}{{ template "a" . }}`, "pg01"},
		{"{{ $x := 5 }}{{ $x = 6 }}{{ $x }}{{/* a comment */}}", "6"},
	}
	for _, tt := range tests {
		got, err := Render(tt.text, inventory.Position{File: "f", Line: 1, Column: 1}, data)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.text, diff)
		}
	}
}

func TestRenderMistakes(t *testing.T) {
	data := testData(t)
	tests := []struct{ text, want string }{
		{"a\n b {{ .Vars.regoin }}", `f:11:13: there is no variable "regoin" (did you mean "region"?)`},
		{"ä {{ if .Vars.yes }}{{ .Vars.nested.dept.x }}{{ end }}", `f:10:44: there is no "dept" in .Vars.nested (did you mean "depth"?)`},
		{"{{ range .Hosts }}{{ $.Vars.regoin }}{{ end }}", `f:10:36: there is no variable "regoin" (did you mean "region"?)`},
		{"{{ range .Hosts }}{{ .Adress }}{{ end }}", `f:10:30: there is no "Adress" (did you mean "Address"?)`},
		{"{{ .Host.Adress }}", `f:10:17: there is no "Adress" (did you mean "Address"?)`},
		{"{{ .Hots }}", `f:10:12: there is no "Hots" (did you mean "Host"?)`},
		{"{{ .Each }}", `f:10:11: there is no value`},
		{"{{ .Each.name }}", `f:10:16: there is no .Each without for_each`},
		{"{{ .Vars.networks }}", `f:10:11: this is a list; write its elements one after the other, as in {{ join ", " .Vars.list }}`},
		{"{{ .Vars.nested }}", `f:10:11: this is a table; name one of its keys`},
		{"{{ .Host }}", `f:10:11: this is a table; name one of its keys`},
		{"\n {{ uper \"x\" }}", `f:11:5: there is no function "uper" (did you mean "upper"?)`},
		{"a\n b {{ .Vars.", `f:11:4: unexpected "." in operand`},
		{"{{ end }}", `f:10:8: unexpected {{end}}`},
		{"{{ env \"HOME\" }}", `f:10:11: there is no function "env"`},
		{"{{ cidrHost \"10.0.0.0/30\" 4 }}", `f:10:11: 10.0.0.0/30 has no address number 4`},
		{"{{ secret \"nowhere\" }}", ""},
		{"{{ secret \"age:x\" | upper }}", "f:10:8: a placeholder of a secret has been changed: apply functions that change letters or cut text to the parts beside it"},
		{"{{ secret \"age:x\" | quote }}", "f:10:28: a secret cannot be written as JSON"},
		{"{{ secret \"age:x\" | ident }}", "f:10:28: a secret cannot be an identifier"},
		{"{{ template \"x\" }}", ""},
		{"{{ define \"r\" }}{{ template \"r\" }}{{ end }}{{ template \"r\" }}", ""},
		{"{{ range seq 1 100000 }}{{ end }}", "f:10:17: more than 10000 numbers from 1 to 100000"},
		{"{{ sort (split \",\" \"a\") | first | add 1 }}", "f:10:42: want a whole number, found a string"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			_, err := Render(tt.text, inventory.Position{File: "f", Line: 10, Column: 8}, data)
			var ierr inventory.Error
			if !errors.As(err, &ierr) {
				t.Fatalf("%v, want an inventory.Error", err)
			}
			if tt.want == "" {
				t.Log(err)
				return
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func mustParse(t testing.TB, text string) *inventory.Node {
	t.Helper()
	n, errs := inventory.Parse("f", []byte(text))
	if errs != nil {
		t.Fatal(errs)
	}
	return n
}

func TestRenderNode(t *testing.T) {
	n := mustParse(t, `plain = "x"
number = 1
list = "{{ .Vars.ports }}"
port = "{{ add .Instance.Port 1 }}"
flag = "{{ eq .Host.Name \"pg01\" }}"
table = "{{ .Vars.nested }}"
groups = "{{ .Host.Groups }}"
since = "{{ .Vars.since }}"
text = "{{ .Vars.count }} "
both = "{{ .Vars.count }}{{ .Vars.count }}"
inside = [{ a = "{{ .Vars.region }}" }, "{{ if true }}y{{ end }}"]
`)
	out, errs := RenderNode(n, testData(t))
	if errs != nil {
		t.Fatal(errs)
	}
	want := map[string]any{
		"plain": "x", "number": int64(1), "list": []any{int64(5432), int64(6432)}, "port": int64(5433), "flag": true,
		"table":  map[string]any{"depth": map[string]any{"x": int64(1)}, "name": "n"},
		"groups": []any{"db"}, "since": time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC), "text": "3 ", "both": "33",
		"inside": []any{map[string]any{"a": "eu"}, "y"},
	}
	if diff := cmp.Diff(want, out.Value()); diff != "" {
		t.Error(diff)
	}
	if got, want := out.Get("inside").Items[0].Get("a").Pos, (inventory.Position{File: "f", Line: 11, Column: 17}); got != want {
		t.Errorf("a rendered value is at %s, want %s", got, want)
	}
	if out.Get("plain") != n.Get("plain") {
		t.Error("a value that is no template is copied")
	}
}

func TestRenderNodeMistakes(t *testing.T) {
	n := mustParse(t, `a = "{{ .Vars.regoin }}"
b = """
one
  two {{ .Vars.cuont }}
"""
c = ["x\ty {{ .Hosst.Name }}", { d = "{{ nope }}" }]
"{{ x }}" = 1
e = "{{ .Host }}"
f = "{{ .Vars.empty | first }}"
g = """\
     {{ .Vars.zzzzzz }}"""
h = "{{ .Each }}"
`)
	_, errs := RenderNode(n, testData(t))
	want := `f:1:15: there is no variable "regoin" (did you mean "region"?)
f:4:16: there is no variable "cuont" (did you mean "count"?)
f:6:16: there is no "Hosst" (did you mean "Host"?)
f:6:42: there is no function "nope"
f:7:1: a key cannot be a template
f:8:5: the template yields a table, which a value cannot be
f:9:23: the list is empty
f:11:15: there is no variable "zzzzzz"
f:12:5: the template yields nothing, which a value cannot be`
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(errs.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestEvalWhen(t *testing.T) {
	data := testData(t)
	tests := []struct {
		when string
		want bool
		err  string
	}{
		{`eq .Vars.region "eu"`, true, ""},
		{`ge .Instance.Version 16`, false, ""},
		{`and (has .Host.Groups "db") .Vars.yes`, true, ""},
		{`not .Vars.yes`, false, ""},
		{`.Vars.region | eq "eu"`, true, ""},
		{`{{ .Vars.yes }}`, false, `f:1:9: when: write the expression without braces, such as ge .Instance.Version 15`},
		{`.Vars.region`, false, `f:1:9: when: the expression yields a string; it must be true or false, such as eq .Vars.region "eu"`},
		{`eq .Vars.regoin "eu"`, false, `f:1:18: when: there is no variable "regoin" (did you mean "region"?)`},
		{` `, false, `f:1:9: when: an expression is missing, such as ge .Instance.Version 15`},
		{`eqq 1 1`, false, `f:1:9: when: there is no function "eqq" (did you mean "eq"?)`},
		{`eq (secret "age:x") "y"`, false, `f:1:13: when: a secret is not known while planning`},
		{`eq 1`, false, `f:1:9: when: missing argument for comparison`},
		{`eq "a`, false, `f:1:9: when: unterminated quoted string`},
		{`true) (false`, false, `f:1:9: when: can't give argument to non-function true`},
	}
	for _, tt := range tests {
		t.Run(tt.when, func(t *testing.T) {
			n := mustParse(t, "when = '"+tt.when+"'").Get("when")
			got, err := EvalWhen(inventory.Positioned[string]{Value: n.Str, Node: n}, data)
			if got != tt.want {
				t.Errorf("%t, want %t", got, tt.want)
			}
			msg := ""
			if err != nil {
				msg = err.Error()
			}
			if diff := cmp.Diff(tt.err, msg); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEach(t *testing.T) {
	data := testData(t)
	tests := []struct {
		forEach string
		labels  string
		err     string
	}{
		{`["acme", "{{ .Vars.region }}", 3]`, "acme eu 3", ""},
		{`"networks"`, "10.0.0.0/24 10.1.0.0/24", ""},
		{`"{{ .Vars.ports }}"`, "5432 6432", ""},
		{`[{ name = "a" }, { x = 1 }, []]`, "a #2 #3", ""},
		{`[]`, "", ""},
		{`["a", "a"]`, "", `f:1:18: for_each: "a" is here for the second time`},
		{`"netwroks"`, "", `f:1:12: for_each: there is no variable "netwroks" (did you mean "networks"?)`},
		{`"region"`, "", `f:1:12: for_each: want a list, found a string`},
		{`["{{ .Vars.x }}"]`, "", `f:1:23: there is no variable "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.forEach, func(t *testing.T) {
			all, errs := Each(mustParse(t, "for_each = "+tt.forEach).Get("for_each"), data)
			msg := ""
			if errs != nil {
				msg = errs.Error()
			} else {
				var labels []string
				for _, d := range all {
					labels = append(labels, d.EachLabel())
				}
				if got := strings.Join(labels, " "); got != tt.labels {
					t.Errorf("%s, want %s", got, tt.labels)
				}
			}
			if diff := cmp.Diff(tt.err, msg); diff != "" {
				t.Error(diff)
			}
		})
	}
	if all, errs := Each(nil, data); len(all) != 1 || errs != nil || all[0].EachLabel() != "" {
		t.Errorf("without for_each: %v, %v", all, errs)
	}
}

func FuzzRender(f *testing.F) {
	for _, text := range []string{
		"{{ .Vars.region }}", "{{ range .Hosts }}{{ .Name }}{{ end }}", "{{ join \",\" .Vars.networks | conf }}\n{{ .x.y }}",
		"{{ with $x := .Vars }}{{ $x.nope }}{{ else }}{{ end }}", "{{ secret \"age:x\" | literal }}", "{{ (1) }}", "{{ define \"a\" }}{{ . }}{{ end }}{{ template \"a\" .Vars }}",
		"{{ cidrHost \"::/0\" -1 }}{{ seq -5 5 | toJSON }}", "é{{\n.Each.x}}",
	} {
		f.Add(text)
	}
	data := testData(f)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "0123456789") && (strings.Contains(text, "range") || strings.Contains(text, "printf")) {
			t.Skip("may count or pad for ever, as whoever writes that wants")
		}
		lines := strings.Split(text, "\n")
		check := func(err error) {
			var e inventory.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is no inventory.Error", err)
			}
			if e.Pos.Line < 1 || e.Pos.Line > len(lines) || e.Pos.Column < 1 || e.Pos.Column > len(lines[e.Pos.Line-1])+1 {
				t.Errorf("%q: %v is outside of the text", text, e)
			}
		}
		out, err := Render(text, inventory.Position{File: "f", Line: 1, Column: 1}, data)
		if err != nil {
			check(err)
		} else if _, err := secrets.Find(out); err != nil && strings.Contains(text, "{{") {
			t.Errorf("%q yields a placeholder that is none: %v", text, err)
		}
		n, ok := inventory.NewNode(inventory.Position{File: "f", Line: 1, Column: 1}, text)
		if !ok {
			t.Fatal("no node")
		}
		_, _ = RenderNode(n, data)
		if _, err := EvalWhen(inventory.Positioned[string]{Value: text, Node: n}, data); err != nil {
			check(err)
		}
	})
}
