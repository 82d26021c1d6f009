package tasks

import (
	"errors"
	"slices"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/inventory"
)

// objectKeys are the keys by which tasks name objects of a database. Kinds embed
// it.
type objectKeys struct {
	Databases    positionedNames `toml:"databases" doc:"Databases."`
	Schemas      positionedNames `toml:"schemas" doc:"Schemas of the database."`
	Tables       positionedNames `toml:"tables" doc:"Tables and views, with their schemas: \"public.orders\"."`
	Sequences    positionedNames `toml:"sequences" doc:"Sequences, with their schemas."`
	Functions    positionedNames `toml:"functions" doc:"Functions and procedures, with their schemas and arguments: \"public.f(integer)\"."`
	AllTables    positionedNames `toml:"all_tables_in" doc:"Schemas: all tables and views that are in them."`
	AllSequences positionedNames `toml:"all_sequences_in" doc:"Schemas: all sequences that are in them."`
	AllFunctions positionedNames `toml:"all_functions_in" doc:"Schemas: all functions and procedures that are in them."`
}

// positionedNames is a list of names, or one, each with its place.
type positionedNames []positionedName

type positionedName struct {
	name string
	pos  inventory.Position
}

// UnmarshalNode takes a string or a list of strings.
func (p *positionedNames) UnmarshalNode(n *inventory.Node) inventory.Errors {
	items := n.Items
	if n.Kind != inventory.KindList {
		items = []*inventory.Node{n}
	}
	var errs inventory.Errors
	*p = positionedNames{}
	for _, item := range items {
		if item.Kind != inventory.KindString {
			errs.Add(item.Pos, "want a name or a list of names")
			continue
		}
		*p = append(*p, positionedName{item.Str, item.Pos})
	}
	return errs
}

// JSONSchema describes a string or a list of strings.
func (positionedNames) JSONSchema() map[string]any { return inventory.Strings{}.JSONSchema() }

// inDatabase reports whether something is named that lies in a database.
func (k *objectKeys) inDatabase() bool {
	return len(k.Schemas)+len(k.Tables)+len(k.Sequences)+len(k.Functions)+len(k.AllTables)+len(k.AllSequences)+len(k.AllFunctions) > 0
}

// named reports whether anything is named at all.
func (k *objectKeys) named() bool { return k.inDatabase() || len(k.Databases) > 0 }

// kinds returns the kinds of objects that are named.
func (k *objectKeys) kinds() []catalog.Kind {
	var list []catalog.Kind
	for _, x := range []struct {
		kind catalog.Kind
		n    int
	}{
		{catalog.DatabaseKind, len(k.Databases)}, {catalog.SchemaKind, len(k.Schemas)}, {catalog.Table, len(k.Tables) + len(k.AllTables)},
		{catalog.Sequence, len(k.Sequences) + len(k.AllSequences)}, {catalog.Routine, len(k.Functions) + len(k.AllFunctions)},
	} {
		if x.n > 0 {
			list = append(list, x.kind)
		}
	}
	return list
}

// objects returns the objects that are named, in the order of the keys, each
// once.
func (k *objectKeys) objects(c *catalog.Cluster, database string) ([]catalog.Object, error) {
	var list []catalog.Object
	var problems []error
	add := func(o catalog.Object) {
		if !slices.Contains(list, o) {
			list = append(list, o)
		}
	}
	for _, p := range k.Databases {
		if c.Databases[p.name] == nil {
			problems = append(problems, problemAt(p.pos, "%v", &noDatabaseError{name: p.name}))
			continue
		}
		add(catalog.Object{Kind: catalog.DatabaseKind, Name: p.name})
	}
	for _, x := range []struct {
		names positionedNames
		kind  catalog.Kind
	}{{k.Schemas, catalog.SchemaKind}, {k.Tables, catalog.Table}, {k.Sequences, catalog.Sequence}, {k.Functions, catalog.Routine}} {
		for _, p := range x.names {
			o, err := c.Find(database, x.kind, p.name)
			if err != nil {
				problems = append(problems, problemAt(p.pos, "%v", err))
				continue
			}
			add(o)
		}
	}
	for _, x := range []struct {
		names positionedNames
		kind  catalog.Kind
	}{{k.AllTables, catalog.Table}, {k.AllSequences, catalog.Sequence}, {k.AllFunctions, catalog.Routine}} {
		for _, p := range x.names {
			if _, err := c.Find(database, catalog.SchemaKind, p.name); err != nil {
				problems = append(problems, problemAt(p.pos, "%v", err))
				continue
			}
			for _, o := range c.Objects(database, x.kind, p.name) {
				add(o)
			}
		}
	}
	return list, errors.Join(problems...)
}

// checkDatabase wants the key database where something in one is named.
func (k *objectKeys) checkDatabase(at inventory.Position, database inventory.Positioned[string], errs *inventory.Errors) {
	switch {
	case k.inDatabase() && database.Value == "":
		errs.Add(at, "missing key \"database\": in which one the objects are")
	case !k.named():
		errs.Add(at, "no objects are named: databases, schemas, tables, sequences, functions, all_tables_in, all_sequences_in or all_functions_in")
	}
	for _, p := range k.Databases {
		checkNameAt("databases", p.name, p.pos, errs)
	}
}
