package adopt

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// A granted is what one role has, or lacks, beyond PostgreSQL's own defaults.
type granted struct {
	kind       catalog.Kind
	grantee    string // "" is PUBLIC
	privileges catalog.Privileges
	option     bool // WITH GRANT OPTION
	absent     bool // it is in the defaults, and was revoked
}

// grants describes the privileges in a database that are not PostgreSQL's own
// defaults: the same ones on several objects as one task.
func (d *describer) grants(c *catalog.Cluster, database string, held *catalog.Contents) {
	on := map[granted][]catalog.Object{}
	for _, object := range objects(database, held) {
		for _, g := range differences(c, database, object) {
			if g.kind == catalog.DatabaseKind && g.grantee == "" || belongs(held, object) && (g.grantee == "" || g.absent) {
				continue // the database's task has it; an extension's script made it so
			}
			on[g] = append(on[g], object)
		}
	}
	type group struct {
		granted
		to []string
		on []catalog.Object
	}
	var groups []*group
	for _, g := range slices.SortedFunc(maps.Keys(on), compareGranted) {
		like := func(x *group) bool {
			same := x.granted
			same.grantee = g.grantee
			return same == g && slices.Equal(x.on, on[g]) && !keyword(x.grantee) && !keyword(g.grantee)
		}
		if i := slices.IndexFunc(groups, like); i >= 0 {
			groups[i].to = append(groups[i].to, g.grantee)
			continue
		}
		groups = append(groups, &group{g, []string{g.grantee}, on[g]})
	}
	for _, g := range groups {
		d.grant(c, database, g.granted, g.to, g.on)
	}
}

func compareGranted(a, b granted) int {
	order := []catalog.Kind{catalog.DatabaseKind, catalog.SchemaKind, catalog.Table, catalog.Column, catalog.Sequence, catalog.Routine}
	return cmp.Or(
		cmp.Compare(slices.Index(order, a.kind), slices.Index(order, b.kind)), cmp.Compare(a.grantee, b.grantee),
		cmp.Compare(a.privileges, b.privileges), compareBool(a.option, b.option), compareBool(a.absent, b.absent))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// objects returns all that has privileges in a database, in a fixed order.
func objects(database string, held *catalog.Contents) []catalog.Object {
	list := []catalog.Object{{Kind: catalog.DatabaseKind, Name: database}}
	for _, name := range slices.Sorted(maps.Keys(held.Schemas)) {
		list = append(list, catalog.Object{Kind: catalog.SchemaKind, Name: name})
	}
	for _, r := range relations(held) {
		list = append(list, relationObject(r))
		for _, column := range slices.Sorted(maps.Keys(r.ColumnACL)) {
			list = append(list, catalog.Object{Kind: catalog.Column, Schema: r.Schema, Name: r.Name.Name, Column: column})
		}
	}
	for _, f := range functions(held) {
		list = append(list, functionObject(f))
	}
	return list
}

func relations(held *catalog.Contents) []*catalog.Relation {
	return slices.SortedFunc(maps.Values(held.Relations), func(a, b *catalog.Relation) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name.Name, b.Name.Name))
	})
}

func functions(held *catalog.Contents) []*catalog.Function {
	return slices.SortedFunc(maps.Values(held.Functions), func(a, b *catalog.Function) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Args, b.Args))
	})
}

func relationObject(r *catalog.Relation) catalog.Object {
	kind := catalog.Table
	if r.Kind == 'S' {
		kind = catalog.Sequence
	}
	return catalog.Object{Kind: kind, Schema: r.Schema, Name: r.Name.Name}
}

func functionObject(f *catalog.Function) catalog.Object {
	return catalog.Object{Kind: catalog.Routine, Schema: f.Schema, Name: f.Name, Args: f.Args}
}

// belongs reports whether an object is an extension's.
func belongs(held *catalog.Contents, o catalog.Object) bool {
	switch o.Kind {
	case catalog.Table, catalog.Sequence, catalog.Column:
		r := held.Relations[catalog.Name{Schema: o.Schema, Name: o.Name}]
		return r != nil && r.Extension != ""
	case catalog.Routine:
		f := held.Functions[catalog.Signature{Schema: o.Schema, Name: o.Name, Args: o.Args}]
		return f != nil && f.Extension != ""
	}
	return false
}

// differences returns in what an object's privileges differ from those that a
// new one of its owner has.
func differences(c *catalog.Cluster, database string, o catalog.Object) []granted {
	acl, ok := c.Effective(database, o)
	owner, _ := c.Owner(database, o)
	if !ok {
		return nil
	}
	usual := catalog.DefaultACLFor(o.Kind, owner, c.Version.Major())
	if public := catalog.DefaultContents(c.Version, c.Bootstrap).Schemas["public"]; o.Kind == catalog.SchemaKind && o.Name == public.Name && owner == public.Owner {
		usual = public.ACL // initdb's, of every new database
	}
	return compareACL(o.Kind, acl, usual, owner)
}

// compareACL returns in what an ACL differs from another.
func compareACL(kind catalog.Kind, acl, builtin catalog.ACL, owner string) []granted {
	var list []granted
	for _, grantee := range slices.Concat(acl, builtin).Grantees() {
		have, option := acl.Of(grantee)
		usual, _ := builtin.Of(grantee)
		if grantee == owner {
			option = 0 // it has the option in any case
		}
		for _, g := range []granted{
			{kind, grantee, have &^ usual &^ option, false, false},
			{kind, grantee, option, true, false},
			{kind, grantee, usual &^ have, false, true},
		} {
			if g.privileges != 0 {
				list = append(list, g)
			}
		}
	}
	return list
}

// grant writes one task.
func (d *describer) grant(c *catalog.Cluster, database string, g granted, to []string, on []catalog.Object) {
	t := described{kind: "grant"}
	verb, direction := "GRANT", "to"
	if g.absent {
		verb, direction = "REVOKE", "from"
	}
	privileges := g.privileges.Words(g.kind)
	t.name = fmt.Sprintf("%s %s on %s %s %s in %s", verb, strings.Join(privileges, ", "), strings.ToLower(string(g.kind)), direction, strings.Join(grantees(to), ", "), database)
	t.add("database", literal(database))
	t.to(to)
	t.add("privileges", names(privileges))
	t.on(c, database, on)
	if g.option {
		t.name += " with grant option"
		t.add("grant_option", "true")
	}
	if g.absent {
		t.add("state", `"absent"`)
	}
	d.write(t)
}

// to adds who is granted something.
func (t *described) to(list []string) {
	t.add("to", names(grantees(list)))
	for _, name := range list {
		if name != "" {
			t.roles = append(t.roles, name)
		}
	}
}

func grantees(list []string) []string {
	var names []string
	for _, name := range list {
		if name == "" {
			name = "PUBLIC"
		}
		names = append(names, name)
	}
	return names
}

// on adds the objects, all of one kind: where they are all that a schema has, by
// the schema's name.
func (t *described) on(c *catalog.Cluster, database string, objects []catalog.Object) {
	switch objects[0].Kind {
	case catalog.DatabaseKind, catalog.SchemaKind:
		var list []string
		for _, o := range objects {
			list = append(list, o.Name)
		}
		t.add(map[catalog.Kind]string{catalog.DatabaseKind: "databases", catalog.SchemaKind: "schemas"}[objects[0].Kind], names(list))
		return
	case catalog.Column:
		t.columns(objects)
		return
	}
	what := map[catalog.Kind]string{catalog.Table: "tables", catalog.Sequence: "sequences", catalog.Routine: "functions"}[objects[0].Kind]
	whole := wholeSchemas(c, database, objects)
	if len(whole) > 0 {
		t.add("all_"+what+"_in", names(whole))
	}
	var list []string
	for _, o := range objects {
		if !slices.Contains(whole, o.Schema) {
			list = append(list, qualified(o))
		}
	}
	if len(list) > 0 {
		t.add(what, names(list))
	}
}

// columns adds a table of columns by their tables.
func (t *described) columns(objects []catalog.Object) {
	var tables []string
	of := map[string][]string{}
	for _, o := range objects {
		table := qualified(o)
		if of[table] == nil {
			tables = append(tables, table)
		}
		of[table] = append(of[table], o.Column)
	}
	var b strings.Builder
	for _, table := range tables {
		t.templateKey = t.templateKey || strings.Contains(table, "{{")
		fmt.Fprintf(&b, "%s = %s\n", Key(table), names(of[table]))
	}
	t.tables = append(t.tables, "[task.columns]\n"+b.String())
}

// wholeSchemas returns the schemas of which the objects, all of one kind, are all
// that there is, and more than one.
func wholeSchemas(c *catalog.Cluster, database string, objects []catalog.Object) []string {
	of := map[string]int{}
	for _, o := range objects {
		of[o.Schema]++
	}
	var whole []string
	for _, schema := range slices.Sorted(maps.Keys(of)) {
		if n := of[schema]; n > 1 && n == len(c.Objects(database, objects[0].Kind, schema)) {
			whole = append(whole, schema)
		}
	}
	return whole
}

// qualified returns an object's name as SQL has it.
func qualified(o catalog.Object) string {
	if o.Kind == catalog.Routine {
		return catalog.Signature{Schema: o.Schema, Name: o.Name, Args: o.Args}.String()
	}
	return catalog.Name{Schema: o.Schema, Name: o.Name}.String()
}
