package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgpassfile"
)

func TestSetPassfile(t *testing.T) {
	before := `# hosts of the shop
#localhost:5432:shop:shop_a:commented
localhost:5432:shop:shop_a:old
10.0.0.1:5432:*:shop_b:o:l:d
10.0.0.1:5432:replication:replicator:kept
*:*:*:*:any
a\:b:5432:shop:shop_a:old
x:5432:shop:odd\:name:old
nonsense
`
	wanted := `# hosts of the shop
#localhost:5432:shop:shop_a:commented
localhost:5432:shop:shop_b:n\:e\\w
10.0.0.1:5432:*:shop_b:n\:e\\w
10.0.0.1:5432:replication:replicator:kept
*:*:*:*:any
a\:b:5432:shop:shop_b:n\:e\\w
x:5432:shop:odd\:name:old
nonsense
`
	servers := []PassfileServer{{"localhost", "5432"}, {"10.0.0.1", "5432"}, {"a:b", "5432"}}
	got, n, err := SetPassfile(before, servers, []string{"shop_a", "shop_b"}, "shop_b", `n:e\w`)
	if diff := cmp.Diff(wanted, got); diff != "" || n != 3 || err != nil {
		t.Errorf("%d lines, %v\n%s", n, err, diff)
	}
	if again, n, err := SetPassfile(got, servers, []string{"shop_a", "shop_b"}, "shop_b", `n:e\w`); again != got || n != 3 || err != nil {
		t.Errorf("the second time it is, with %v\n%s", err, again)
	}
	if got, n, err := SetPassfile("x:1:d:odd\\:name:old", []PassfileServer{{"x", "1"}}, []string{"odd:name"}, "odd:name", "new"); n != 1 || got != "x:1:d:odd\\:name:new" || err != nil {
		t.Errorf("%d, %v, %s", n, err, got)
	}
	if got, n, err := SetPassfile("", servers, []string{"a"}, "a", "b"); n != 0 || got != "" || err != nil {
		t.Errorf("%d, %v, %q", n, err, got)
	}
	// As a client reads it.
	path := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := pgpassfile.ReadPassfile(path)
	if err != nil {
		t.Fatal(err)
	}
	if p := file.FindPassword("localhost", "5432", "shop", "shop_b"); p != `n:e\w` {
		t.Errorf("a client reads %q", p)
	}
}

// Lines for other servers stay, and one for any host is changed only where no other
// server is named.
func TestSetPassfileOfOneServer(t *testing.T) {
	tests := map[string]struct{ before, wanted, problem string }{
		"another host":      {"db1:5432:*:app:old\ndb2:5432:*:app:kept\n", "db1:5432:*:app:new\ndb2:5432:*:app:kept\n", ""},
		"another port":      {"db1:5433:*:app:kept\ndb1:5432:*:app:old", "db1:5433:*:app:kept\ndb1:5432:*:app:new", ""},
		"only others":       {"db2:5432:*:app:kept\n", "db2:5432:*:app:kept\n", ""},
		"any":               {"*:*:*:app:old\ndb2:5432:*:other:kept\n", "*:*:*:app:new\ndb2:5432:*:other:kept\n", ""},
		"any, and one":      {"db1:5432:*:app:old\n*:*:*:app:old\n", "db1:5432:*:app:new\n*:*:*:app:new\n", ""},
		"any, and another":  {"#\ndb2:5432:*:app:kept\n*:*:*:app:old\n", "", "line 3 is for *:*, and it cannot be told whether for another server too, because line 2 is for db2:5432; write in its place a line for each server, such as db1:5432:*:app:password"},
		"any port":          {"db1:*:*:app:old\ndb2:5432:*:app:kept\n", "db1:*:*:app:new\ndb2:5432:*:app:kept\n", ""},
		"any port, another": {"db1:*:*:app:old\ndb1:5433:*:app:kept\n", "", "line 1 is for db1:*"},
		"any on its port":   {"*:5433:*:app:kept\ndb1:5432:*:app:old\n", "*:5433:*:app:kept\ndb1:5432:*:app:new\n", ""},
	}
	for name, c := range tests {
		got, _, err := SetPassfile(c.before, []PassfileServer{{"db1", "5432"}}, []string{"app"}, "app", "new")
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) || got != c.before {
				t.Errorf("%s: %v\n%s", name, err, got)
			}
			continue
		}
		if err != nil || got != c.wanted {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(c.wanted, got))
		}
	}
}

func TestSetUserlist(t *testing.T) {
	tests := map[string]struct{ before, user, wanted string }{
		"empty":        {"", "shop_b", "\"shop_b\" \"new\"\n"},
		"replaced":     {"\"admin\" \"x\"\n\"shop_b\" \"old\"\n; a comment\n", "shop_b", "\"admin\" \"x\"\n\"shop_b\" \"new\"\n; a comment\n"},
		"added":        {"\"admin\" \"x\"", "shop_b", "\"admin\" \"x\"\n\"shop_b\" \"new\"\n"},
		"quotes":       {"\"a\"\"b\" \"x\"\n", `a"b`, "\"a\"\"b\" \"new\"\n"},
		"longer names": {"\"a\"\"b\" \"x\"\n\"ab\" \"x\"\n", "a", "\"a\"\"b\" \"x\"\n\"ab\" \"x\"\n\"a\" \"new\"\n"},
		"twice":        {"\"a\" \"x\"\n \"a\"\t\"y\"\r\n", "a", "\"a\" \"new\"\n\"a\" \"new\"\r\n"},
	}
	for name, c := range tests {
		got, err := SetUserlist(c.before, c.user, "new")
		if err != nil || got != c.wanted {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(c.wanted, got))
		}
	}
	if _, err := SetUserlist("", "a\nb", "x"); err == nil {
		t.Error("a name with a line break is taken")
	}
}
