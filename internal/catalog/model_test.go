package catalog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// sample is a small server with one database.
func sample() *Cluster {
	role := func(name string) *Role { return &Role{Name: name, Inherit: true, ConnLimit: -1} }
	c := &Cluster{Version: 150018, Bootstrap: "postgres", Contents: map[string]*Contents{"appdb": DefaultContents(150018, "postgres")},
		Roles:     map[string]*Role{"postgres": {Name: "postgres", Superuser: true, Inherit: true, ConnLimit: -1}, "appowner": role("appowner"), "appuser": role("appuser"), "reader": role("reader")},
		Databases: map[string]*Database{"appdb": {Name: "appdb", Owner: "appowner", Encoding: "UTF8", Collate: "C", Ctype: "C", Provider: "libc", AllowConn: true, ConnLimit: -1, Tablespace: "pg_default"}}}
	held := c.Contents["appdb"]
	held.Schemas["Odd Schema"] = &Schema{Name: "Odd Schema", Owner: "appowner"}
	for _, r := range []Relation{
		{Name: Name{"public", "orders"}, Kind: 'r', Owner: "appowner", Columns: []string{"id", "total"}},
		{Name: Name{"public", "orders_id_seq"}, Kind: 'S', Owner: "appowner", PartOf: Name{"public", "orders"}},
		{Name: Name{"public", "orders_v"}, Kind: 'v', Owner: "appowner", Columns: []string{"id"}},
		{Name: Name{"Odd Schema", `T."1`}, Kind: 'm', Owner: "postgres", Columns: []string{"id"}},
	} {
		held.Relations[r.Name] = &r
	}
	for _, s := range []Signature{{"public", "f", ""}, {"public", "f", "integer, text"}, {"public", "f", "public.mood"},
		{"public", "f", "character varying[], timestamp with time zone"}, {"Odd Schema", "g(", "numeric"}} {
		held.Functions[s] = &Function{Signature: s, Kind: 'f', Owner: "appowner"}
	}
	return c
}

var orders = Object{Kind: Table, Schema: "public", Name: "orders"}

func TestACL(t *testing.T) {
	a := ACL{}.With("r", "o", Select, false).With("r", "o", Insert, true).With("", "o", Select, false).With("r", "x", Update, true)
	if p, g := a.Of("r"); p != Select|Insert|Update || g != Insert|Update {
		t.Error(p, g)
	}
	if p, g := a.From("r", "o"); p != Select|Insert || g != Insert {
		t.Error(p, g)
	}
	if got := a.Grantees(); !slices.Equal(got, []string{"", "r"}) {
		t.Errorf("%q", got)
	}
	b := slices.Clone(a)
	slices.Reverse(b)
	if !a.Equal(b) || a.Equal(b[1:]) || (ACL{}).Equal(nil) || !ACL(nil).Equal(nil) || !(ACL{}).Equal(ACL{}) {
		t.Error("equality")
	}
	if n := a.owned("o", "r"); !n.Equal(ACL{{"r", "r", Select | Insert, Insert}, {"", "r", Select, 0}, {"r", "x", Update, Update}}) {
		t.Errorf("%v", n)
	}
	if ACL(nil).owned("o", "r") != nil {
		t.Error("NULL does not stay NULL")
	}
	for kind, want := range map[Kind]ACL{
		DatabaseKind: {{"", "o", Temporary | Connect, 0}, {"o", "o", Create | Temporary | Connect, 0}},
		SchemaKind:   {{"o", "o", Usage | Create, 0}}, Routine: {{"", "o", Execute, 0}, {"o", "o", Execute, 0}}, Type: {{"", "o", Usage, 0}, {"o", "o", Usage, 0}},
		Sequence: {{"o", "o", Usage | Select | Update, 0}}, Column: {},
		Table: {{"o", "o", Select | Insert | Update | Delete | Truncate | References | Trigger | Maintain, 0}},
	} {
		if got := DefaultACLFor(kind, "o", 17); !got.Equal(want) {
			t.Errorf("%s: %v", kind, got)
		}
	}
}

// What a default privilege brings, and that an owner's revoke of everything
// brings nothing: the server's aclmerge makes NULL of it.
func TestDefaultPrivileges(t *testing.T) {
	c := sample()
	for _, s := range []Statement{
		AlterDefaultPrivileges{Role: "appowner", Kind: Table, To: "reader", Privileges: Select},
		AlterDefaultPrivileges{Role: "appowner", Schema: "public", Kind: Table, To: "appuser", Privileges: Select | Insert, Grantable: true},
		AlterDefaultPrivileges{Role: "reader", Kind: Table, To: "reader", Privileges: AllPrivileges(Table, 15), Revoke: true},
	} {
		s.Apply(c, "appdb")
	}
	for _, x := range []struct {
		owner, schema, want string
	}{
		{"appowner", "public", "reader gains SELECT|appuser gains SELECT, INSERT WITH GRANT OPTION"},
		{"appowner", "Odd Schema", "reader gains SELECT"},
		{"appuser", "public", ""},
		{"reader", "public", ""},
	} {
		n := c.Clone()
		n.AddRelation("appdb", Relation{Name: Name{x.schema, "new"}, Kind: 'r', Owner: x.owner})
		lines := Diff(c, n)
		want := []string{fmt.Sprintf("table %s is made, owner %s", Name{x.schema, "new"}, x.owner)}
		for w := range strings.SplitSeq(x.want, "|") {
			if w != "" {
				want = append(want, fmt.Sprintf("table %s: %s", Name{x.schema, "new"}, w))
			}
		}
		slices.Sort(want)
		if !slices.Equal(lines, want) {
			t.Errorf("%q\nwant %q", lines, want)
		}
	}
	// An entry that says what holds without it is none.
	AlterDefaultPrivileges{Role: "appowner", Kind: Table, To: "reader", Privileges: Select, Revoke: true}.Apply(c, "appdb")
	if c.Contents["appdb"].defaultAt("appowner", "", Table) >= 0 {
		t.Error("the entry stays")
	}
	if acl := c.EffectiveDefault("appdb", "appowner", "Odd Schema", Table); acl == nil || len(acl) != 0 {
		t.Errorf("%#v", acl)
	}
}

// TestEffects names what statements do, as a plan would.
func TestEffects(t *testing.T) {
	for _, x := range []struct {
		s    []Statement
		want string
	}{
		{[]Statement{Grant{[]Object{orders}, "reader", Select, true}, Grant{[]Object{{Kind: Column, Schema: "public", Name: "orders", Column: "id"}}, "appuser", Update, false}},
			"table public.orders (id): appuser gains UPDATE|table public.orders: reader gains SELECT WITH GRANT OPTION"},
		{[]Statement{Grant{[]Object{orders}, "reader", Select, true}, Revoke{On: []Object{orders}, From: "reader", Privileges: Select, OptionOnly: true}}, "table public.orders: reader gains SELECT"},
		{[]Statement{Grant{[]Object{{Kind: Column, Schema: "public", Name: "orders", Column: "id"}}, "appuser", Select, false}, Revoke{On: []Object{orders}, From: "appuser", Privileges: Select}}, ""},
		{[]Statement{Revoke{On: []Object{{Kind: DatabaseKind, Name: "appdb"}}, Privileges: Connect | Temporary}}, "database appdb: PUBLIC loses CONNECT, TEMPORARY"},
		{[]Statement{AlterOwner{orders, "appuser"}}, "sequence public.orders_id_seq: owner appuser, it was appowner|table public.orders: owner appuser, it was appowner"},
		{[]Statement{CreateRole{Role{Name: "x", Login: true, Inherit: true, ConnLimit: 5}}, SetPassword{Role: "x"}, GrantRole{Role: "reader", Member: "x", Admin: new(true), Major: 15}, SetParameter{Setting: Setting{Role: "x", Name: "work_mem", Value: "8MB"}}},
			"role x as a member of reader: ADMIN on|role x as a member of reader: is made|role x is made LOGIN CONNECTION LIMIT 5|role x: password set|role x: work_mem = '8MB'"},
		{[]Statement{CreateDatabase{Database: Database{Name: "new", Owner: "appuser"}}, Revoke{On: []Object{{Kind: DatabaseKind, Name: "new"}}, Privileges: Connect}},
			"database new is made, owner appuser|database new: PUBLIC loses CONNECT"},
		{[]Statement{CreatePolicy{Name{"public", "orders"}, Policy{Name: "own", Permissive: true, Command: "ALL", Using: "true"}}, EnableRLS{Name{"public", "orders"}, true}, ForceRLS{Name{"public", "orders"}, true}},
			"policy own on public.orders is made: FOR ALL TO PUBLIC USING (true)|table public.orders: force row level security on|table public.orders: row level security on"},
		{[]Statement{CreatePolicy{Name{"public", "orders"}, Policy{Name: "own", Roles: []string{"reader"}}}, DropOwned{"reader"}}, ""},
		{[]Statement{CreatePolicy{Name{"public", "orders"}, Policy{Name: "own", Roles: []string{"reader", "appuser"}}}, DropOwned{"reader"}, AlterPolicy{Table: Name{"public", "orders"}, Name: "own", Using: new("x > 0")}},
			"policy own on public.orders is made: AS RESTRICTIVE FOR ALL TO appuser USING (x > 0)"},
		{[]Statement{DropRole{"reader"}}, "role reader is dropped"},
		{[]Statement{AlterDatabase{"appdb", 5}, SetComment{"DATABASE", "appdb", "it's"}, SetComment{"SCHEMA", "public", ""}, SetComment{"ROLE", "reader", "x"}},
			"database appdb: comment 'it''s'|database appdb: connection limit 5|role reader: comment 'x'|schema public: no comment any more, it was 'standard public schema'"},
		{[]Statement{CreateSchema{"new", "reader"}, AlterOwner{Object{Kind: SchemaKind, Name: "new"}, "appuser"}, DropSchema{"Odd Schema"}}, `schema "Odd Schema" is dropped|schema new is made, owner appuser`},
		{[]Statement{SetParameter{Setting: Setting{Name: "work_mem", Value: "1MB"}}, SetParameter{Setting: Setting{Name: "WORK_MEM", Value: "2MB"}}}, "role all: work_mem = '2MB'"},
		{[]Statement{DropOwned{"appowner"}}, "function \"Odd Schema\".\"g(\"(numeric) is dropped|function public.f() is dropped|function public.f(character varying[], timestamp with time zone) is dropped|" +
			"function public.f(integer, text) is dropped|function public.f(public.mood) is dropped|schema \"Odd Schema\" is dropped|sequence public.orders_id_seq is dropped|table public.orders is dropped|view public.orders_v is dropped"},
		{[]Statement{CreateExtension{Name: "pgcrypto", Version: "1.3"}, MoveExtension{"pgcrypto", "Odd Schema"}, UpdateExtension{"pgcrypto", "1.4"}}, "extension pgcrypto is made, version 1.4, in schema \"Odd Schema\""},
		{[]Statement{AlterDefaultPrivileges{Role: "appowner", Schema: "public", Kind: Table, To: "reader", Privileges: Select}}, "default privileges of role appowner in schema public on tables: reader gains SELECT"},
	} {
		c := sample()
		n := c.Clone()
		for _, s := range x.s {
			n = n.Clone()
			s.Apply(n, "appdb")
		}
		if got := strings.Join(Diff(c, n), "|"); got != x.want {
			t.Errorf("%s: %s\nwant %s", x.s[0].SQL(), got, x.want)
		}
		if lines := Diff(c, sample()); len(lines) > 0 {
			t.Errorf("%s: the state before it changed: %q", x.s[0].SQL(), lines)
		}
	}
}

// From 16 on a membership is of its grantor, and its options are its own.
func TestMemberships(t *testing.T) {
	c := sample()
	c.Version = 160000
	c.Roles["appuser"].Inherit = false
	c.Members = []Membership{{Role: "reader", Member: "appuser", Grantor: "appowner", Inherit: true, Set: true}}
	GrantRole{Role: "reader", Member: "appuser", Set: new(false), Major: 16}.Apply(c, "")
	want := []Membership{{"reader", "appuser", "appowner", false, true, true}, {"reader", "appuser", "postgres", false, false, false}}
	if !slices.Equal(c.Members, want) {
		t.Errorf("%+v", c.Members)
	}
	RevokeRole{Role: "reader", Member: "appuser"}.Apply(c, "")
	RevokeRole{Role: "reader", Member: "appuser", Grantor: "appowner", Option: "INHERIT"}.Apply(c, "")
	if want := []Membership{{"reader", "appuser", "appowner", false, false, true}}; !slices.Equal(c.Members, want) {
		t.Errorf("%+v", c.Members)
	}
	if !c.MemberOf("appuser", "reader") || c.MemberOf("reader", "appuser") || !c.MemberOf("x", "x") {
		t.Error("MemberOf")
	}
}

// What a role owns elsewhere is known by pg_shdepend alone.
func TestDependencies(t *testing.T) {
	c := sample()
	c.Depends = []Dependency{{"appowner", "appdb", true, 9}, {"appowner", "", true, 1}, {"appowner", "other", true, 2}, {"reader", "appdb", true, 1}, {"appowner", "appdb", false, 3}}
	ReassignOwned{"appowner", "reader"}.Apply(c, "appdb")
	want := []Dependency{{"reader", "appdb", true, 10}, {"reader", "", true, 1}, {"appowner", "other", true, 2}, {"appowner", "appdb", false, 3}}
	if !slices.Equal(c.Depends, want) || c.Databases["appdb"].Owner != "reader" {
		t.Errorf("%v", c.Depends)
	}
	DropOwned{"appowner"}.Apply(c, "appdb")
	if want := want[:3]; !slices.Equal(c.Depends, want) {
		t.Errorf("%v", c.Depends)
	}
}

// A rehearsal's effect is told even where the model has no statement for it.
func TestDiff(t *testing.T) {
	a, b := sample(), sample()
	held := b.Contents["appdb"]
	held.Relations[Name{"public", "orders"}].Columns = []string{"id", "note"}
	held.Relations[Name{"public", "orders_v"}].Kind = 'r'
	held.Relations[Name{"public", "of_extension"}] = &Relation{Name: Name{"public", "of_extension"}, Kind: 'r', Owner: "postgres", Extension: "x"}
	delete(held.Functions, Signature{"public", "f", ""})
	b.Databases["appdb"].Collate, b.Databases["other"] = "de_DE.UTF-8", &Database{Name: "other", Owner: "reader"}
	want := []string{"database appdb: lc_collate de_DE.UTF-8", "database other is made, owner reader", "function public.f() is dropped",
		"table public.orders: column note is added", "table public.orders: column total is dropped", "table public.orders_v is made, owner appowner", "view public.orders_v is dropped"}
	if got := Diff(a, b); !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

func TestDefaultContents(t *testing.T) {
	for version, want := range map[postgres.Version]ACL{
		130000: {{"postgres", "postgres", Usage | Create, 0}, {"", "postgres", Usage | Create, 0}},
		150000: {{"pg_database_owner", "pg_database_owner", Usage | Create, 0}, {"", "pg_database_owner", Usage, 0}},
	} {
		if s := DefaultContents(version, "postgres").Schemas["public"]; !s.ACL.Equal(want) || s.Owner != want[0].Grantee {
			t.Errorf("%s: %v", version, s)
		}
	}
}

// Clone and a statement stay cheap where there is much.
func TestManyRelations(t *testing.T) {
	c := sample()
	held := c.Contents["appdb"]
	for i := range 10000 {
		n := Name{"public", fmt.Sprint("t", i)}
		held.Relations[n] = &Relation{Name: n, Kind: 'r', Owner: "appowner"}
	}
	all := c.Objects("appdb", Table, "public")
	began := time.Now()
	n := c.Clone()
	cloned := time.Since(began)
	Grant{On: all, To: "reader", Privileges: Select}.Apply(n, "appdb")
	if took := time.Since(began); len(all) < 10000 || cloned > 20*time.Millisecond || took > time.Second {
		t.Errorf("%d tables: cloned in %s, granted on in %s", len(all), cloned, took)
	}
}
