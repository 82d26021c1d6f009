package postgres

import (
	"os"
	"path/filepath"
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
	got, n := SetPassfile(before, []string{"shop_a", "shop_b"}, "shop_b", `n:e\w`)
	if diff := cmp.Diff(wanted, got); diff != "" || n != 3 {
		t.Errorf("%d lines\n%s", n, diff)
	}
	if again, n := SetPassfile(got, []string{"shop_a", "shop_b"}, "shop_b", `n:e\w`); again != got || n != 3 {
		t.Errorf("the second time it is\n%s", again)
	}
	if got, n := SetPassfile("x:1:d:odd\\:name:old", []string{"odd:name"}, "odd:name", "new"); n != 1 || got != "x:1:d:odd\\:name:new" {
		t.Errorf("%d, %s", n, got)
	}
	if got, n := SetPassfile("", []string{"a"}, "a", "b"); n != 0 || got != "" {
		t.Errorf("%d, %q", n, got)
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
