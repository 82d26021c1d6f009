package tasks

import (
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
)

// What becomes of a database that lets only superusers in, and what is said of it.
func TestDatabaseWithLimit0(t *testing.T) {
	const everything = catalog.Connect | catalog.Temporary
	owner := catalog.Item{Grantee: "postgres", Grantor: "postgres", Privileges: everything | catalog.Create}
	public := catalog.Item{Grantor: "postgres", Privileges: everything}
	app := catalog.Item{Grantee: "app", Grantor: "postgres", Privileges: catalog.Connect}
	for _, c := range []struct {
		what     string
		acl      catalog.ACL
		limit    int
		declared string
		opens    bool
		warns    string
	}{
		{"cut off", nil, 0, "", true, "taken for one whose making was cut off"},
		{"cut off, and granted by hand", catalog.ACL{public, owner, app}, 0, "", true, "taken for one whose making was cut off"},
		{"made, and closed by hand", catalog.ACL{owner, app}, 0, "", false, "it is left so"},
		{"closed, and declared so", nil, 0, "connection_limit = 0", false, ""},
		{"closed, and declared open", catalog.ACL{owner}, 0, "connection_limit = -1", true, ""},
		{"left open to PUBLIC, and closed", nil, 0, `public = ["CONNECT", "TEMPORARY"]`, false, "it is left so"},
		{"open", nil, -1, "", false, ""},
	} {
		w := newWorld()
		w[facts.Cluster{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.ClusterInfo{Cluster: &catalog.Cluster{
			Version: 150018, Bootstrap: "postgres",
			Roles:     map[string]*catalog.Role{"postgres": {Name: "postgres"}, "app": {Name: "app"}},
			Databases: map[string]*catalog.Database{"shop": {Name: "shop", Owner: "postgres", AllowConn: true, ConnLimit: c.limit, ACL: c.acl}},
		}}}
		p, err := plan(t, w, "[[task]]\nname = \"Database\"\nkind = \"database\"\ndatabase = \"shop\"\n"+c.declared+"\n")
		if err != nil {
			t.Fatal(err)
		}
		opens := false
		for _, change := range p.Changes() {
			opens = opens || strings.Contains(change.Intent, "CONNECTION LIMIT -1")
		}
		var warnings []string
		for _, n := range p.Warnings {
			warnings = append(warnings, n.Text)
		}
		said := strings.Join(warnings, "\n")
		if opens != c.opens || (said == "") != (c.warns == "") || !strings.Contains(said, c.warns) {
			t.Errorf("%s: opens %v, %q: %+v", c.what, opens, said, p.Changes())
		}
	}
}
