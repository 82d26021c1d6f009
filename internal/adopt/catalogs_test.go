package adopt

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// newCluster is what a new server of version 15 holds.
func newCluster() *catalog.Cluster {
	c := &catalog.Cluster{
		Version: 150020, Bootstrap: "postgres",
		Roles: map[string]*catalog.Role{
			"postgres": {
				Name: "postgres", Superuser: true, Inherit: true, CreateRole: true, CreateDB: true, Login: true, Replication: true, BypassRLS: true, ConnLimit: -1,
			},
			"pg_database_owner": {Name: "pg_database_owner", Inherit: true, ConnLimit: -1},
			"pg_monitor":        {Name: "pg_monitor", Inherit: true, ConnLimit: -1},
		},
		Databases: map[string]*catalog.Database{},
		Contents:  map[string]*catalog.Contents{},
	}
	for _, d := range []catalog.Database{
		{Name: "postgres", AllowConn: true, Comment: "default administrative connection database"},
		{Name: "template1", AllowConn: true, Template: true},
		{Name: "template0", Template: true},
	} {
		d.Owner, d.Encoding, d.Collate, d.Ctype, d.Provider, d.ConnLimit, d.Tablespace = "postgres", "UTF8", "C.UTF-8", "C.UTF-8", "libc", -1, "pg_default"
		if d.Template {
			d.ACL = catalog.ACL{{Grantor: "postgres", Privileges: catalog.Connect}, {
				Grantee: "postgres", Grantor: "postgres", Privileges: catalog.Create | catalog.Temporary | catalog.Connect,
			}}
		}
		c.Databases[d.Name] = &d
		if d.AllowConn {
			c.Contents[d.Name] = catalog.DefaultContents(c.Version, c.Bootstrap)
		}
	}
	return c
}

// do runs statements in a database of the model.
func do(c *catalog.Cluster, database string, statements ...catalog.Statement) {
	for _, s := range statements {
		s.Apply(c, database)
	}
}

func role(name string, login bool) catalog.Statement {
	return catalog.CreateRole{Role: catalog.Role{Name: name, Inherit: true, ConnLimit: -1, Login: login}}
}

func table(schema, name string) catalog.Object {
	return catalog.Object{Kind: catalog.Table, Schema: schema, Name: name}
}

// newApp adds an application with its database.
func newApp(c *catalog.Cluster) {
	do(c, "postgres", role("appowner", false), role("appuser", true), role("readuser", true),
		catalog.GrantRole{Role: "pg_monitor", Member: "readuser", Major: 15},
		catalog.SetParameter{Setting: catalog.Setting{Role: "appuser", Name: "work_mem", Value: "8MB"}},
		catalog.SetParameter{Setting: catalog.Setting{Role: "appuser", Database: "postgres", Name: "search_path", Value: `"$user", public`}},
		catalog.CreateDatabase{Database: catalog.Database{Name: "appdb", Owner: "appowner"}, Major: 15},
		catalog.SetParameter{Setting: catalog.Setting{Database: "appdb", Name: "log_connections", Value: "on"}},
		catalog.Revoke{On: []catalog.Object{{Kind: catalog.DatabaseKind, Name: "appdb"}}, Privileges: catalog.Connect | catalog.Temporary},
		catalog.Grant{On: []catalog.Object{{Kind: catalog.DatabaseKind, Name: "appdb"}}, To: "appuser", Privileges: catalog.Connect},
		catalog.Grant{On: []catalog.Object{{Kind: catalog.DatabaseKind, Name: "appdb"}}, To: "readuser", Privileges: catalog.Connect})
	c.Roles["appuser"].HasPassword = true
	do(c, "appdb",
		catalog.CreateSchema{Name: "app", Owner: "appowner"},
		catalog.AlterDefaultPrivileges{Role: "appowner", Schema: "app", Kind: catalog.Table, To: "readuser", Privileges: catalog.Select},
		catalog.AlterDefaultPrivileges{Role: "appowner", Kind: catalog.Routine, Privileges: catalog.Execute, Revoke: true})
	for _, name := range []string{"orders", "items"} {
		c.AddRelation("appdb", catalog.Relation{Name: catalog.Name{Schema: "app", Name: name}, Kind: 'r', Owner: "appowner", Columns: []string{"id", "tenant"}})
	}
	do(c, "appdb",
		catalog.Grant{On: []catalog.Object{table("app", "orders"), table("app", "items")}, To: "appuser", Privileges: catalog.Select | catalog.Insert},
		catalog.Grant{On: []catalog.Object{table("app", "orders")}, To: "appuser", Privileges: catalog.Truncate, Grantable: true},
		catalog.Grant{On: []catalog.Object{{Kind: catalog.Column, Schema: "app", Name: "orders", Column: "id"}}, To: "readuser", Privileges: catalog.Update},
		catalog.Grant{On: []catalog.Object{{Kind: catalog.SchemaKind, Name: "app"}}, To: "readuser", Privileges: catalog.Usage},
		catalog.Revoke{On: []catalog.Object{{Kind: catalog.SchemaKind, Name: "public"}}, Privileges: catalog.Usage},
		catalog.EnableRLS{Table: catalog.Name{Schema: "app", Name: "orders"}, On: true},
		catalog.CreatePolicy{Table: catalog.Name{Schema: "app", Name: "orders"}, Policy: catalog.Policy{
			Name: "tenant", Permissive: true, Command: "ALL", Roles: []string{"appuser"}, Using: "(tenant = 1)",
		}},
		catalog.ForceRLS{Table: catalog.Name{Schema: "app", Name: "items"}, On: true})
}

func TestDescribeCatalogs(t *testing.T) {
	l := newLive()
	newApp(l.cluster)
	a := adopt(t, l)
	a.wantEmptyPlan(t)
	_, text, _ := strings.Cut(a.active(), "name = \"Service of pg01\"")
	text, _, _ = strings.Cut(text, "[[task]]\nname = \"Port of pg01\"")
	want, err := os.ReadFile("testdata/catalogs.toml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(a.Tasks, `# With a password: "appuser".`) {
		t.Error("passwords are not spoken of")
	}
}

// Names that SQL, TOML or templates take for something else.
func TestDescribeOddNames(t *testing.T) {
	for name, odd := range map[string]string{
		"capitals": "Sales", "blanks": "sales 2019", "quotes": `a"b'c`, "reserved": "select", "braces": "{{ .Vars.x }}", "backslash": `a\b`,
		"63 bytes": strings.Repeat("ä", 31) + "x", "dots": "a.b", "newline": "a\nb", "hash": "#a = [1]",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive()
			c := l.cluster
			do(c, "postgres", role(odd, true), role("other", true), catalog.GrantRole{Role: odd, Member: "other", Major: 15},
				catalog.CreateDatabase{Database: catalog.Database{Name: odd, Owner: odd}, Major: 15},
				catalog.SetParameter{Setting: catalog.Setting{Role: odd, Database: odd, Name: "work_mem", Value: "8MB"}},
				catalog.SetParameter{Setting: catalog.Setting{Role: odd, Name: "app." + "Odd", Value: odd}})
			do(c, odd, catalog.CreateSchema{Name: odd, Owner: odd},
				catalog.AlterDefaultPrivileges{Role: odd, Schema: odd, Kind: catalog.Sequence, To: "other", Privileges: catalog.Usage})
			c.AddRelation(odd, catalog.Relation{Name: catalog.Name{Schema: odd, Name: odd}, Kind: 'r', Owner: odd, Columns: []string{odd}})
			c.AddRelation(odd, catalog.Relation{Name: catalog.Name{Schema: odd, Name: `Seq "1"`}, Kind: 'S', Owner: odd})
			c.Contents[odd].Functions[catalog.Signature{Schema: odd, Name: odd, Args: "integer, text"}] = &catalog.Function{
				Signature: catalog.Signature{Schema: odd, Name: odd, Args: "integer, text"}, Kind: 'f', Owner: odd,
			}
			do(c, odd,
				catalog.Grant{On: []catalog.Object{table(odd, odd)}, To: "other", Privileges: catalog.Select},
				catalog.Grant{On: []catalog.Object{{Kind: catalog.Column, Schema: odd, Name: odd, Column: odd}}, To: "other", Privileges: catalog.Update},
				catalog.Grant{On: []catalog.Object{{Kind: catalog.Routine, Schema: odd, Name: odd, Args: "integer, text"}}, To: "other", Privileges: catalog.Execute},
				catalog.CreatePolicy{Table: catalog.Name{Schema: odd, Name: odd}, Policy: catalog.Policy{
					Name: odd, Permissive: false, Command: "INSERT", Roles: []string{"other"}, WithCheck: "('" + odd + "'::text <> ''::text)",
				}})
			a := adopt(t, l)
			a.wantEmptyPlan(t)
			if len(a.Warnings) > 0 && name != "braces" { // as a key it would be a template
				t.Errorf("warnings: %q", a.Warnings)
			}
		})
	}
}

// What a task cannot say stays a comment, and nothing is changed for it.
func TestDescribeCatalogsRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(c *catalog.Cluster)
		why    string
	}{
		"a role called Public": {func(c *catalog.Cluster) { do(c, "postgres", role("Public", false)) }, "a word of SQL's own"},
		"a member of it": {func(c *catalog.Cluster) {
			do(c, "postgres", role("Public", false), role("other", true), catalog.GrantRole{Role: "Public", Member: "other", Major: 15})
		}, "a word of SQL's own"},
		"what it was granted": {func(c *catalog.Cluster) {
			do(c, "postgres", role("Public", false), role("other", true))
			for _, to := range []string{"Public", "other"} {
				do(c, "postgres", catalog.Grant{On: []catalog.Object{{Kind: catalog.SchemaKind, Name: "public"}}, To: to, Privileges: catalog.Create})
			}
		}, "GRANT CREATE on schema to Public"},
		"pgaudit's setting without pgaudit": {func(c *catalog.Cluster) {
			do(c, "postgres", role("other", true), catalog.SetParameter{Setting: catalog.Setting{Role: "other", Name: "pgaudit.log", Value: "wrte"}})
		}, "pgaudit is not loaded"},
		"a setting of another version": {func(c *catalog.Cluster) {
			do(c, "postgres", catalog.SetParameter{Setting: catalog.Setting{Database: "postgres", Name: "work_mem", Value: "much"}})
		}, "the server would refuse it today"},
		"a secret in a setting": {func(c *catalog.Cluster) {
			do(c, "postgres", role("other", true), catalog.SetParameter{Setting: catalog.Setting{Role: "other", Name: "app.token", Value: "hunter2"}})
		}, "by its name it is a secret"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive()
			tt.change(l.cluster)
			a := adopt(t, l)
			a.wantEmptyPlan(t)
			if warnings := strings.Join(a.Warnings, "\n"); !strings.Contains(warnings, tt.why) || !strings.Contains(a.Tasks, "# Not taken over, and left as it is: ") {
				t.Errorf("warnings: %s\n%s", warnings, a.Tasks)
			}
			if strings.Contains(a.Tasks, "hunter2") {
				t.Error("the secret was copied")
			}
		})
	}
}

// A catalog that cannot be read is said, and the rest is described.
func TestDescribeWithoutCatalogs(t *testing.T) {
	l := newLive()
	l.cluster = nil
	a := adopt(t, l)
	a.wantEmptyPlan(t)
	if got := strings.Join(a.Warnings, "\n"); !strings.Contains(got, "statement timeout") {
		t.Errorf("warnings: %s", got)
	}
}
