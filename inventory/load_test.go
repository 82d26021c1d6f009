package inventory

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

var kinds = []string{"settings", "hba", "file", "psql"}

// files makes a file system of names and texts.
func files(texts map[string]string) fstest.MapFS {
	fs := fstest.MapFS{}
	for name, text := range texts {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fs
}

// mustLoad loads a fleet.toml that has no mistakes.
func mustLoad(t *testing.T, text string) *Fleet {
	t.Helper()
	f, err := Load("fleet.toml", Options{FS: files(map[string]string{"fleet.toml": text})})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTwentyMistakes(t *testing.T) {
	fleet, err := Load("testdata/twenty.toml", Options{Kinds: kinds})
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatalf("Load: %v, want Errors", err)
	}
	got := err.Error() + "\n"
	if *update {
		if err := os.WriteFile("testdata/twenty.golden", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/twenty.golden")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Error(diff)
	}
	if len(errs) != 20 {
		t.Errorf("%d mistakes, want 20", len(errs))
	}
	// What can be checked further: the task with a misspelt kind, but not the one whose limit is wrong.
	if len(fleet.Tasks) != 2 || fleet.Tasks[0].Kind != "settings" {
		t.Errorf("tasks left to check: %+v", fleet.Tasks)
	}
	if g := fleet.Groups[0]; g.Name != "eu" || len(g.Hosts) != 2 || g.Hosts[1].Name != "pg02" {
		t.Errorf("group %s has the hosts %v", g.Name, g.Hosts)
	}
}

// TestMistakes checks mistakes one by one: where each is, and what is said.
func TestMistakes(t *testing.T) {
	const head = "[fleet]\nname = \"f\"\n[postgres]\nversion = 15\n" // 4 lines
	tests := []struct {
		name, text string
		want       []string
	}{
		{"no fleet", "[postgres]\nversion = 15\n", []string{`1:1: missing key "fleet"`}},
		{"fleet without a name", "[fleet]\n", []string{`1:2: fleet: missing key "name"`}},
		{"format of tomorrow", "version = 2\n" + head, []string{`1:11: version 2 of the format is not known to this pgfleet, which reads version 1`}},
		{"not TOML", "hello\n", []string{`1:6: expected '.' or '=', but got '\n' instead`}},
		{"unclosed list", head + "x = [1,\ny = 2\n[hosts.a]\nz = 1\n", []string{`6:1: expected value but found "y" instead; strings need quotes`}},
		{"two lines without quotes", head + "[ssh]\nuser = ops\nidentity = key\n", []string{
			`6:8: expected value but found "ops" instead; strings need quotes`,
			`7:12: expected value but found "key" instead; strings need quotes`,
		}},
		{"key repeated in an inline table", head + "[vars]\nx = { a = 1, a = 2 }\n", []string{`6:14: key 'vars.x.a' has already been defined`}},
		{"key repeated", head + "[vars]\nx = 1\nx = 2\n[hosts.h]\nnope = 1\n", []string{
			`7:1: "x" is here for the second time; the first is at fleet.toml:6:1`,
			`9:1: unknown key "nope" (known: address, port, user, identity, jump, become, postgres, replication, vars, instances)`,
		}},
		{"value over a table", head + "[vars]\nx.y = 1\nx = 2\n", []string{`7:1: "x" is here for the second time; the first is at fleet.toml:6:1`}},
		{"header over a value", head + "[vars]\nx = 1\n[vars.x]\ny = 1\n", []string{`7:2: "vars.x" is here for the second time; the first is at fleet.toml:6:1`}},
		{"too large a number", head + "[vars]\nx = 99999999999999999999\n", []string{`6:5: 99999999999999999999 is out of range for int64`}},
		{"no version", "[fleet]\nname = \"f\"\n[hosts.a]\n[hosts.b]\n", []string{
			`3:8: which version of PostgreSQL? Set version in [postgres], or in the table postgres of host "a"`,
		}},
		{"host names", head + "[hosts.\"-a\"]\n[hosts.\"a b\"]\n[hosts.all]\n[hosts.x]\n[hosts.X]\n", []string{
			`5:8: "-a" is no valid name for a host: letters, digits, dots, dashes and underscores, the first one a letter or digit`,
			`6:8: "a b" is no valid name for a host: letters, digits, dots, dashes and underscores, the first one a letter or digit`,
			`7:8: a host cannot be called "all", which stands for every instance`,
			`9:8: host "X" differs from host "x" (fleet.toml:8:8) in upper and lower case only`,
		}},
		{"group like a host", head + "[hosts.x]\n[groups.x]\nhosts = [\"x\"]\n", []string{
			`6:9: group "x" is called like a host (fleet.toml:5:8); selectors could not tell them apart`,
		}},
		{"addresses", head + `[hosts]
a = { address = "10.0.0.1:22" }
b = { address = "ops@10.0.0.1" }
c = { address = "[::1]" }
d = { address = "10.0.0.0/24" }
e = { address = "-oProxyCommand=x" }
f = { address = "" }
g = { address = "a..b" }
h = { address = "0.0.0.0" }
i = { address = "2001:DB8::1" }
j = { address = "2001:db8:0::1" }
`, []string{
			`6:17: address: "10.0.0.1:22": write the port as port`,
			`7:17: address: "ops@10.0.0.1": write the login as user`,
			`8:17: address: "[::1]": write it without brackets`,
			`9:17: address: "10.0.0.0/24" is a network; a host has one address`,
			`10:17: address: "-oProxyCommand=x" is neither an IP address nor a host name`,
			`11:17: address: "" is neither an IP address nor a host name`,
			`12:17: address: "a..b" is neither an IP address nor a host name`,
			`13:17: address: 0.0.0.0 is no address of a host`,
			`15:17: 2001:db8:0::1 port 22 is the address of host "i" too (fleet.toml:14:1)`,
		}},
		{"login and jump", head + "[ssh]\nuser = \"-l\"\njump = [\"-J\", 1, \"a,b\"]\n", []string{
			`6:8: user: "-l" is no valid login name`,
			`7:9: jump: "-J" is no jump host; write [user@]host[:port]`,
			`7:15: jump: want a string, found a whole number`,
			`7:18: jump: write several jump hosts as a list`,
		}},
		{"instances", head + "[hosts.a]\nreplication = \"r\"\n[hosts.a.instances.x]\ncluster = \"main\"\n[hosts.a.instances.main]\nport = 5433\n", []string{
			`6:15: host "a" has more than one instance; say replication for each of them`,
			`9:20: cluster 15/main is instance "x" too (fleet.toml:7:20)`,
		}},
		{"globs", head + "[hosts.a]\n[groups.g]\nhosts = [\"[a\", \"z*\"]\n", []string{`7:10: "[a" is no valid glob`, `7:16: "z*" matches no host`}},
		{"task", head + "[[task]]\nname = \" \"\nkind = \"hbaa\"\ntags = [\"a b\"]\nfor_each = 3\nlimit = \"\"\"\nall,\n  role=master\"\"\"\n", []string{
			`6:8: a task needs a name`,
			`7:8: unknown kind "hbaa" (did you mean "hba"?)`,
			`8:9: "a b" is no valid name for a tag: letters, digits, dots, dashes and underscores, the first one a letter or digit`,
			`9:12: for_each: want a list or the name of a variable, found a whole number`,
			`12:8: limit: there is no role "master"; a server is primary or standby`,
		}},
		{"task is no list", "task = 1\n" + head, []string{`1:8: task: want a list, found a whole number`}},
		{"task is no table", "task = [1]\n" + head, []string{`1:9: task: want a table, found a whole number`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load("fleet.toml", Options{FS: files(map[string]string{"fleet.toml": tt.text}), Kinds: kinds})
			if err == nil {
				t.Fatal("no mistake found")
			}
			got := strings.Split(strings.ReplaceAll("\n"+err.Error(), "\nfleet.toml:", "\n"), "\n")[1:]
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestInclude(t *testing.T) {
	f, err := Load("fleet.toml", Options{FS: files(map[string]string{
		"fleet.toml": `include = ["hosts.toml", "tasks/*.toml"]
[fleet]
name = "f"
[postgres]
version = 15
[[task]]
name = "last"
kind = "hba"
`,
		"hosts.toml":       "vars.x = 1\n[hosts.a]\n",
		"tasks/b.toml":     "[[task]]\nname = \"b\"\nkind = \"hba\"\n",
		"tasks/a.toml":     "include = [\"sub/c.toml\"]\n[[task]]\nname = \"a\"\nkind = \"hba\"\n",
		"tasks/sub/c.toml": "[[task]]\nname = \"c\"\nkind = \"hba\"\n",
	})})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, task := range f.Tasks {
		names = append(names, task.Name+" "+task.Pos.String())
	}
	want := []string{"c tasks/sub/c.toml:1:3", "a tasks/a.toml:2:3", "b tasks/b.toml:1:3", "last fleet.toml:6:3"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if f.Host("a") == nil || f.Host("a").Vars["x"].Int != 1 {
		t.Error("the host or the variable of hosts.toml is missing")
	}

	_, err = Load("fleet.toml", Options{FS: files(map[string]string{
		"fleet.toml": `include = ["a.toml", "a*.toml", "none*", "", "fleet.toml", "hosts.toml"]
[fleet]
name = "f"
[vars]
x = 1
[groups.g]
hosts = ["h"]
`,
		"a.toml": "include = [\"b.toml\"]\n[ssh]\nuser = \"x\"\n[vars]\nx = 2\n[hosts.h]\npostgres.version = 15\n",
		"b.toml": "include = [\"a.toml\"]\n[hosts.h]\npostgres.version = 15\n[groups.g]\n",
	})})
	want = []string{
		"a.toml:2:2: ssh belongs into fleet.toml, not into an included file",
		`a.toml:6:8: host "h" is here for the second time; the first is at b.toml:2:8`,
		"b.toml:1:12: include: a.toml includes itself: a.toml > b.toml > a.toml",
		"fleet.toml:1:22: include: a.toml is included for the second time; the first is at fleet.toml:1:12",
		`fleet.toml:1:33: include: no file matches "none*"`,
		"fleet.toml:1:42: include: a path is missing",
		"fleet.toml:1:46: include: fleet.toml includes itself: fleet.toml > fleet.toml",
		`fleet.toml:1:60: include: no file matches "hosts.toml"`,
		`fleet.toml:5:1: variable "x" is here for the second time; the first is at a.toml:5:1`,
		`fleet.toml:6:9: group "g" is here for the second time; the first is at b.toml:4:9`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestLoadWithoutFile(t *testing.T) {
	_, err := Load("nowhere.toml", Options{FS: files(nil)})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load: %v, want one that is os.ErrNotExist", err)
	}
}

func TestVariables(t *testing.T) {
	f := mustLoad(t, `
[fleet]
name = "f"
[postgres]
version = 15
[vars]
a = "fleet"
b = "fleet"
c = "fleet"
d = "fleet"
e = "fleet"
g = "fleet"
table = { x = 1, y = 2 }
[hosts.h]
vars.e = "host"
vars.g = "host"
vars.table = { x = 3 }
[hosts.h.instances.one]
[hosts.h.instances.two]
port = 5433
vars.g = "instance"
[hosts.other]
[groups.inner]
hosts = ["h"]
vars = { b = "inner", d = "inner", e = "inner" }
[groups.outer]
hosts = ["inner"]
vars = { b = "outer", c = "outer" }
[groups.later]
hosts = ["h", "other"]
vars.c = "later"
vars.d = "later"
`)
	two, ok := f.Instance("h/two")
	if !ok {
		t.Fatal("there is no instance h/two")
	}
	got := map[string]any{}
	for name, n := range two.Vars {
		got[name] = n.Value()
	}
	want := map[string]any{
		"a": "fleet", "b": "inner", "c": "later", "d": "inner", "e": "host", "g": "instance",
		"table": map[string]any{"x": int64(3)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"outer", "later", "inner"}, f.Host("h").Groups); diff != "" {
		t.Error(diff)
	}
	if v := f.Host("other").Vars["c"]; v.Str != "later" || v.Pos != (Position{"fleet.toml", 31, 10}) {
		t.Errorf("other's variable c is %q at %s", v.Str, v.Pos)
	}
}

func TestInstances(t *testing.T) {
	f := mustLoad(t, `
[fleet]
name = "f"
[ssh]
user = "ops"
jump = "bastion"
[postgres]
version = 15
port = 5433
[hosts.pg01]
address = "10.0.0.1"
port = 2222
replication = "orders"
[hosts.pg02]
user = "root"
jump = []
postgres = { version = 17, cluster = "eu" }
[hosts.pg02.instances.old]
cluster = "main"
version = 13
replication = "orders"
[hosts.pg02.instances.eu]
port = 5432
`)
	type row struct {
		ID                     InstanceID
		Version, Port          int
		Unit, Conf, Data, Repl string
	}
	var got []row
	for _, i := range f.Instances() {
		got = append(got, row{i.ID(), i.Version, i.Port, i.Unit(), i.ConfDir(), i.DataDir(), i.Replication})
	}
	want := []row{
		{"pg01", 15, 5433, "postgresql@15-main", "/etc/postgresql/15/main", "/var/lib/postgresql/15/main", "orders"},
		{"pg02/old", 13, 5433, "postgresql@13-main", "/etc/postgresql/13/main", "/var/lib/postgresql/13/main", "orders"},
		{"pg02/eu", 17, 5432, "postgresql@17-eu", "/etc/postgresql/17/eu", "/var/lib/postgresql/17/eu", ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := len(f.Replication("orders")); n != 2 {
		t.Errorf("orders has %d members, want 2", n)
	}
	one, two := f.Host("pg01"), f.Host("pg02")
	if one.User != "ops" || one.Port != 2222 || len(one.Jump) != 1 || one.Jump[0] != "bastion" {
		t.Errorf("pg01: user %q, port %d, jump %q", one.User, one.Port, one.Jump)
	}
	if two.User != "root" || two.Address != "pg02" || two.Jump == nil || len(two.Jump) != 0 {
		t.Errorf("pg02: user %q, address %q, jump %q", two.User, two.Address, two.Jump)
	}
}

func FuzzLoad(f *testing.F) {
	twenty, err := os.ReadFile("testdata/twenty.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(twenty))
	f.Add("[fleet]\nname = \"f\"\n[hosts]\na = {}\n[[task]]\nname = 'x'\nlimit = 'a:!b'\n")
	f.Add("x.y = 1\nx = 2\n[x]\n[[x]]\n[x.y]\na = [[1, # c\n2], {b = [{}]}]\n")
	f.Add("a = \"\"\"\n\\u00e9 \\\n   b\"\"\"\r\nb = '''\r\n''''\nd = 2020-01-02\n")
	f.Fuzz(func(t *testing.T, text string) {
		fleet, err := Load("fleet.toml", Options{FS: files(map[string]string{"fleet.toml": text}), Kinds: kinds})
		if fleet == nil && err == nil {
			t.Fatalf("Load: %v, %v", fleet, err)
		}
		lines := strings.Split(text, "\n")
		var errs Errors
		if errors.As(err, &errs) {
			for _, e := range errs {
				if e.Pos.Line < 1 || e.Pos.Line > len(lines) || e.Pos.Column < 1 || e.Pos.Column > len(lines[e.Pos.Line-1])+1 {
					t.Errorf("%s is outside of the text", e)
				}
			}
		}
	})
}
