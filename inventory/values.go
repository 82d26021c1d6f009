package inventory

import "reflect"

// Strings is a list of strings that may also be written as one string.
type Strings []string

// UnmarshalNode takes a string or a list of strings.
func (s *Strings) UnmarshalNode(n *Node) Errors {
	var errs Errors
	switch n.Kind {
	case KindString:
		*s = Strings{n.Str}
	case KindList:
		*s = Strings{}
		for _, item := range n.Items {
			if item.Kind != KindString {
				errs.Add(item.Pos, "want a string, found %s", item.describe())
				continue
			}
			*s = append(*s, item.Str)
		}
	default:
		errs.Add(n.Pos, "want a string or a list of strings, found %s", n.describe())
	}
	return errs
}

// JSONSchema describes a string or a list of strings.
func (Strings) JSONSchema() map[string]any {
	str := map[string]any{"type": "string"}
	return map[string]any{"anyOf": []any{str, map[string]any{"type": "array", "items": str}}}
}

// Positioned is a value together with where it stands, for what is only checked after decoding: a rule, a name.
type Positioned[T any] struct {
	Value T
	Node  *Node // as decoded; its PosAt finds a place inside a string
}

// inside lets the decoder store the node and then decode the value by the field's tags.
func (p *Positioned[T]) inside(n *Node) reflect.Value {
	p.Node = n
	return reflect.ValueOf(&p.Value).Elem()
}

// Pos returns where the value stands; the zero Position when it was not given.
func (p Positioned[T]) Pos() Position {
	if p.Node == nil {
		return Position{}
	}
	return p.Node.Pos
}

// Entries is a table whose keys are names that the user chose, in the order of the file, which a Go map would lose.
type Entries[T any] []Entry[T]

// An Entry is one key of a table with its value.
type Entry[T any] struct {
	Name  string
	Pos   Position // of the name
	Value T
}

// UnmarshalNode takes a table.
func (es *Entries[T]) UnmarshalNode(n *Node) Errors {
	var errs Errors
	if n.Kind != KindTable {
		errs.Add(n.Pos, "want a table, found %s", n.describe())
		return errs
	}
	*es = Entries[T]{}
	for _, k := range n.Keys {
		e := Entry[T]{Name: k.Name, Pos: k.Pos}
		errs = append(errs, Decode(k.Value, &e.Value)...)
		*es = append(*es, e)
	}
	return errs
}

// schema describes a table of values.
func (Entries[T]) schema(of func(reflect.Type) map[string]any) map[string]any {
	return map[string]any{"type": "object", "additionalProperties": of(reflect.TypeFor[T]())}
}
