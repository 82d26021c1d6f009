package inventory

import (
	"maps"
	"slices"
	"time"
)

// A Kind is what a TOML value is.
type Kind string

// The kinds of values. A local date or time is a datetime as well.
const (
	KindString   Kind = "string"
	KindInt      Kind = "int"
	KindFloat    Kind = "float"
	KindBool     Kind = "bool"
	KindDatetime Kind = "datetime"
	KindList     Kind = "list"
	KindTable    Kind = "table"
)

// A Node is a TOML value and where it stands. Only the field that belongs to its Kind is set. Nodes are shared: nobody
// changes one after it was made.
type Node struct {
	Kind Kind
	Pos  Position // of the value; for a table made by a header or a dotted key, of that key

	Str   string
	Int   int64
	Float float64
	Bool  bool
	Time  time.Time
	Items []*Node // of a list
	Keys  []Key   // of a table, in the order of the file

	text    source // of a string: how it is written, to find a place inside it
	partial bool   // a table in which a key was not understood: what it lacks may be that one
}

// A Key is a key of a table with its value.
type Key struct {
	Name  string
	Pos   Position
	Value *Node
}

// Get returns the value of a table's key, or nil.
func (n *Node) Get(name string) *Node {
	if k := n.key(name); k != nil {
		return k.Value
	}
	return nil
}

func (n *Node) key(name string) *Key {
	if n == nil {
		return nil
	}
	for i := range n.Keys {
		if n.Keys[i].Name == name {
			return &n.Keys[i]
		}
	}
	return nil
}

// Without returns a table without the given keys.
func (n *Node) Without(names ...string) *Node {
	c := *n
	c.Keys = slices.DeleteFunc(slices.Clone(n.Keys), func(k Key) bool { return slices.Contains(names, k.Name) })
	return &c
}

// only returns a table with no keys but the given ones.
func (n *Node) only(names []string) *Node {
	c := *n
	c.Keys = slices.DeleteFunc(slices.Clone(n.Keys), func(k Key) bool { return !slices.Contains(names, k.Name) })
	return &c
}

// Value returns the plain Go value: string, int64, float64, bool, time.Time, []any or map[string]any.
func (n *Node) Value() any {
	switch n.Kind {
	case KindString:
		return n.Str
	case KindInt:
		return n.Int
	case KindFloat:
		return n.Float
	case KindBool:
		return n.Bool
	case KindDatetime:
		return n.Time
	case KindList:
		list := make([]any, len(n.Items))
		for i, item := range n.Items {
			list[i] = item.Value()
		}
		return list
	case KindTable:
		table := make(map[string]any, len(n.Keys))
		for _, k := range n.Keys {
			table[k.Name] = k.Value.Value()
		}
		return table
	}
	return nil
}

// NewNode returns a Node for a plain value as [Node.Value] returns it, or made of Go's other integers and lists of
// strings. It returns false for values that TOML does not have.
func NewNode(pos Position, value any) (*Node, bool) {
	n := &Node{Pos: pos}
	switch v := value.(type) {
	case string:
		n.Kind, n.Str = KindString, v
	case int:
		n.Kind, n.Int = KindInt, int64(v)
	case int64:
		n.Kind, n.Int = KindInt, v
	case float64:
		n.Kind, n.Float = KindFloat, v
	case bool:
		n.Kind, n.Bool = KindBool, v
	case time.Time:
		n.Kind, n.Time = KindDatetime, v
	case []string:
		n.Kind = KindList
		for _, item := range v {
			n.Items = append(n.Items, &Node{Kind: KindString, Pos: pos, Str: item})
		}
	case []any:
		n.Kind = KindList
		for _, item := range v {
			i, ok := NewNode(pos, item)
			if !ok {
				return nil, false
			}
			n.Items = append(n.Items, i)
		}
	case map[string]any:
		n.Kind = KindTable
		for _, name := range slices.Sorted(maps.Keys(v)) {
			value, ok := NewNode(pos, v[name])
			if !ok {
				return nil, false
			}
			n.Keys = append(n.Keys, Key{name, pos, value})
		}
	default:
		return nil, false
	}
	return n, true
}

// PosAt returns where the byte of a string's value at offset is written, which escapes and the newline that a
// multi-line string swallows make different from Pos plus offset. For other kinds it returns Pos.
func (n *Node) PosAt(offset int) Position {
	if n.Kind != KindString || n.text.raw == "" {
		return n.Pos
	}
	return n.text.at(offset)
}

// describe says what the value is, for errors. It never shows the value, which may be a secret in the wrong place.
func (n *Node) describe() string { return describeKind(n.Kind) }

func describeKind(k Kind) string {
	switch k {
	case KindInt:
		return "a whole number"
	case KindFloat:
		return "a number with a fraction"
	case KindBool:
		return "a boolean"
	case KindDatetime:
		return "a date or time"
	}
	return "a " + string(k)
}
