package catalog

import (
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// String returns the name as it is written in SQL.
func (n Name) String() string {
	return postgres.QuoteIdent(n.Schema) + "." + postgres.QuoteIdent(n.Name)
}

// String returns the signature as it is written in SQL.
func (s Signature) String() string {
	return Name{s.Schema, s.Name}.String() + "(" + s.Args + ")"
}

// String returns the kind and the name: "TABLE public.orders", "SCHEMA app",
// "FUNCTION public.f(integer, text)", or "TABLE public.orders (id)" of a column.
func (o Object) String() string {
	switch o.Kind {
	case Column:
		return string(Table) + " " + o.name() + " (" + postgres.QuoteIdent(o.Column) + ")"
	default:
		return string(o.Kind) + " " + o.name()
	}
}

// name returns the object's name as it is written in SQL; of a column, that of
// its table.
func (o Object) name() string {
	switch o.Kind {
	case Routine:
		return o.signature().String()
	case DatabaseKind, SchemaKind:
		return postgres.QuoteIdent(o.Name)
	default:
		return o.relation().String()
	}
}

func (o Object) relation() Name       { return Name{o.Schema, o.Name} }
func (o Object) signature() Signature { return Signature{o.Schema, o.Name, o.Args} }

// onObjects returns the middle of a GRANT or REVOKE: the privileges and what
// they are on. Objects are of one kind, columns of one table.
func onObjects(p Privileges, on []Object) string {
	kind := on[0].Kind
	words := p.Words(kind)
	keyword := string(kind)
	var names, columns []string
	for _, o := range on {
		if name := o.name(); !slices.Contains(names, name) {
			names = append(names, name)
		}
		if kind == Column {
			columns = append(columns, o.Column)
		}
	}
	switch kind {
	case Column:
		keyword = string(Table)
		for i := range words {
			words[i] += " (" + identList(columns) + ")"
		}
	case Routine:
		keyword = "ROUTINE" // functions, procedures and aggregates
	}
	return strings.Join(words, ", ") + " ON " + keyword + " " + strings.Join(names, ", ")
}

// subjectOf names the objects of one statement.
func subjectOf(on []Object) string {
	var names []string
	for _, o := range on {
		if name := o.name(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	kind := on[0].Kind
	if kind == Column {
		kind = Table
	}
	return strings.ToLower(string(kind)) + " " + strings.Join(names, ", ")
}

// grantee returns a role as it is written in GRANT; "" is PUBLIC.
func grantee(role string) string {
	if role == "" {
		return "PUBLIC"
	}
	return postgres.QuoteIdent(role)
}

func identList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = postgres.QuoteIdent(n)
	}
	return strings.Join(quoted, ", ")
}

func subjectRole(name string) string { return "role " + postgres.QuoteIdent(name) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func wordList(p Privileges, kind Kind) string { return strings.Join(p.Words(kind), ", ") }
