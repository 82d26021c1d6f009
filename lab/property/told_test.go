//go:build lab

package property

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// An object is something that has privileges.
type object struct {
	kind     string // as catalog.Kind has it
	database string
	schema   string
	name     string
	more     string // the arguments of a function, the name of a column
}

// name returns the name as SQL and tasks take it; of a column, its table's.
func (o object) qualified() string {
	switch o.kind {
	case "DATABASE", "SCHEMA":
		return ident(o.name)
	case "FUNCTION":
		return ident(o.schema) + "." + ident(o.name) + "(" + o.more + ")"
	}
	return ident(o.schema) + "." + ident(o.name)
}

// keyword is what GRANT and ALTER … OWNER call the object.
func (o object) keyword() string {
	return map[string]string{"FUNCTION": "ROUTINE", "COLUMN": "TABLE"}[o.kind] + map[string]string{"DATABASE": "DATABASE", "SCHEMA": "SCHEMA", "TABLE": "TABLE", "SEQUENCE": "SEQUENCE"}[o.kind]
}

// base is the object itself, of a column its table.
func (o object) base() object {
	if o.kind == "COLUMN" {
		o.kind, o.more = "TABLE", ""
	}
	return o
}

func (o object) String() string {
	text := o.kind + " " + o.qualified()
	if o.kind == "COLUMN" {
		text += " " + ident(o.more)
	}
	if o.kind != "DATABASE" {
		text += " of " + ident(o.database)
	}
	return text
}

// A given is one privilege of an ACL.
type given struct {
	grantee, grantor, privilege string
	option                      bool
}

func (g given) String() string {
	option := ""
	if g.option {
		option = "*"
	}
	return fmt.Sprintf("%s: %s%s by %s", grantee(g.grantee), g.privilege, option, grantee(g.grantor))
}

// A told is all that is compared, each fact under a name of its own: what the
// server says, or what the model foresees that it will.
type told struct {
	facts  map[string]string
	acls   map[object][]given
	owners map[object]string
}

func newTold() *told {
	return &told{facts: map[string]string{}, acls: map[object][]given{}, owners: map[object]string{}}
}

func (x *told) add(value, what string, args ...any) { x.facts[fmt.Sprintf(what, args...)] = value }

// finish makes facts of the ACLs and owners.
func (x *told) finish() *told {
	for o, acl := range x.acls {
		x.facts["privileges on "+o.String()] = joined(acl)
	}
	for o, owner := range x.owners {
		x.facts["owner of "+o.String()] = owner
	}
	return x
}

func joined(acl []given) string {
	var list []string
	for _, g := range acl {
		list = append(list, g.String())
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

// holds returns what a grantee is given directly, and which of it WITH GRANT
// OPTION.
func (x *told) holds(o object, grantee string) (privileges, options []string) {
	for _, g := range x.acls[o] {
		if g.grantee != grantee {
			continue
		}
		privileges = append(privileges, g.privilege)
		if g.option {
			options = append(options, g.privilege)
		}
	}
	return set(privileges), set(options)
}

// differences returns what the model foresaw otherwise, a line for each.
func differences(foreseen, server *told) []string {
	var list []string
	for _, what := range set(slices.Concat(slices.Collect(maps.Keys(foreseen.facts)), slices.Collect(maps.Keys(server.facts)))) {
		f, isForeseen := foreseen.facts[what]
		s, isThere := server.facts[what]
		switch {
		case !isForeseen:
			list = append(list, fmt.Sprintf("%s: not foreseen, the server says %q", what, s))
		case !isThere:
			list = append(list, fmt.Sprintf("%s: foreseen %q, the server has no such thing", what, f))
		case f != s:
			list = append(list, fmt.Sprintf("%s:\n    foreseen %q\n    server   %q", what, f, s))
		}
	}
	return list
}

// set returns a list sorted and without repetitions.
func set(list []string) []string {
	list = slices.Sorted(slices.Values(list))
	return slices.Compact(list)
}

// without returns the elements of a list that are not in another.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(x string) bool { return slices.Contains(other, x) })
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
