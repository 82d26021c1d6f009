package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"time"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Parse reads TOML. The values are those of BurntSushi/toml, which refuses what the specification refuses; where each of
// them stands comes from go-toml's parser, because BurntSushi/toml keeps no positions. file is the name for positions.
//
// After a mistake that concerns one key or one table the rest is read nevertheless, so that its mistakes are found in the
// same run; the tree then lacks what was wrong. It is nil when nothing sensible can be said about the rest.
func Parse(file string, text []byte) (*Node, Errors) {
	d := newDocument(file, bytes.TrimPrefix(text, []byte("\ufeff")))
	values := d.values()
	if values == nil {
		return nil, d.errs
	}
	root := d.tree()
	if root == nil {
		return nil, d.errs
	}
	if !fill(root, values) {
		if len(d.errs) == 0 {
			d.errs.Add(root.Pos, "two TOML parsers disagree about this file; please report it as a bug")
		}
		return nil, d.errs
	}
	return root, d.errs
}

// A document is the text of one file while it is being read.
type document struct {
	file    string
	text    []byte       // mistakes are overwritten with spaces, so that positions stay
	lines   []int        // offset of each line's start
	partial map[int]bool // by the offset of their header, tables of which a key was overwritten
	errs    Errors
}

func newDocument(file string, text []byte) *document {
	d := &document{file: file, text: bytes.Clone(text), lines: []int{0}, partial: map[int]bool{}}
	for i, c := range text {
		if c == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	return d
}

// line returns the index into lines of the line that holds offset.
func (d *document) line(offset int) int {
	return sort.SearchInts(d.lines, offset+1) - 1
}

func (d *document) pos(offset int) Position {
	offset = min(max(offset, 0), len(d.text))
	line := d.line(offset)
	return Position{d.file, line + 1, 1 + utf8.RuneCount(d.text[d.lines[line]:offset])}
}

// tree returns the tables, lists and positions of the file; the scalars have no values yet.
func (d *document) tree() *Node {
	var p unstable.Parser
	p.Reset(d.text)
	b := builder{document: d, parser: &p, tables: map[*Node]map[string]*Key{}, closed: map[*Node]bool{}}
	root := b.newTable(0)
	table := root
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table:
			table = b.descend(root, e.Key(), false)
		case unstable.ArrayTable:
			table = b.descend(root, e.Key(), true)
		case unstable.KeyValue:
			b.keyValue(table, e)
		}
	}
	if err := p.Error(); err != nil {
		var perr *unstable.ParserError
		if errors.As(err, &perr) && len(perr.Highlight) > 0 {
			d.errs.Add(d.pos(int(p.Range(perr.Highlight).Offset)), "%s", perr.Message)
		} else {
			d.errs.Add(root.Pos, "%s", err)
		}
		return nil
	}
	return root
}

// A builder makes Nodes of go-toml's syntax tree.
type builder struct {
	*document
	parser *unstable.Parser
	tables map[*Node]map[string]*Key // the keys of each table
	closed map[*Node]bool            // inline tables and lists, which nothing may be added to
}

func (b *builder) newTable(offset int) *Node {
	return &Node{Kind: KindTable, Pos: b.pos(offset), partial: offset == 0 && b.partial[0]}
}

// descend goes from table along a header's keys, making tables where there are none; at the end of [[keys]] it appends a
// table to the list. Where a key is no table, the header is a mistake, and so that the keys below it do no harm they get
// a table of their own.
func (b *builder) descend(table *Node, keys unstable.Iterator, appends bool) *Node {
	first := -1
	for keys.Next() {
		key := keys.Node()
		offset := int(key.Raw.Offset)
		if first < 0 {
			first = offset
		}
		have := b.tables[table][string(key.Data)]
		var next *Node
		switch appending := appends && keys.IsLast(); {
		case have == nil && appending:
			next = b.newTable(offset)
			b.add(table, key, &Node{Kind: KindList, Pos: b.pos(offset), Items: []*Node{next}})
		case have == nil:
			next = b.newTable(offset)
			b.add(table, key, next)
		case b.closed[have.Value], appending && have.Value.Kind != KindList, have.Value.Kind != KindList && have.Value.Kind != KindTable:
			b.twice(key, have.Pos)
			return b.newTable(offset)
		case appending:
			next = b.newTable(offset)
			have.Value.Items = append(have.Value.Items, next)
		case have.Value.Kind == KindList:
			next = have.Value.Items[len(have.Value.Items)-1]
		default:
			next = have.Value
		}
		table = next
	}
	table.partial = table.partial || b.partial[first]
	return table
}

// add adds a key to a table that must not have it yet.
func (b *builder) add(table *Node, key *unstable.Node, value *Node) {
	name := string(key.Data)
	if have := b.tables[table][name]; have != nil {
		b.twice(key, have.Pos)
		return
	}
	if b.tables[table] == nil {
		b.tables[table] = map[string]*Key{}
	}
	k := Key{name, b.pos(int(key.Raw.Offset)), value}
	b.tables[table][name] = &k
	table.Keys = append(table.Keys, k)
}

func (b *builder) twice(key *unstable.Node, first Position) {
	b.errs.Add(b.pos(int(key.Raw.Offset)), "%q is here for the second time; the first is at %s", key.Data, first)
}

// keyValue adds a key, dotted perhaps, and its value to table. It returns the offset after the value.
func (b *builder) keyValue(table *Node, e *unstable.Node) int {
	keys := e.Key()
	for keys.Next() {
		key := keys.Node()
		if keys.IsLast() {
			value, end := b.value(e.Value(), b.skip(int(key.Raw.Offset+key.Raw.Length), " \t="))
			b.add(table, key, value)
			return end
		}
		have := b.tables[table][string(key.Data)]
		switch {
		case have == nil:
			next := b.newTable(int(key.Raw.Offset))
			b.add(table, key, next)
			table = next
		case have.Value.Kind != KindTable || b.closed[have.Value]:
			b.twice(key, have.Pos)
			table = b.newTable(int(key.Raw.Offset))
		default:
			table = have.Value
		}
	}
	panic("unreachable: a key without a last part")
}

// value makes the Node of a value that begins at offset start, which go-toml does not say for lists. It returns the
// offset after the value.
func (b *builder) value(v *unstable.Node, start int) (*Node, int) {
	n := &Node{Pos: b.pos(start)}
	switch v.Kind {
	case unstable.Array:
		n.Kind = KindList
		b.closed[n] = true
		end := b.skip(start+1, " \t\r\n,")
		for items := v.Children(); items.Next(); {
			var item *Node
			item, end = b.value(items.Node(), end)
			n.Items = append(n.Items, item)
			end = b.skip(end, " \t\r\n,")
		}
		return n, end + 1
	case unstable.InlineTable:
		n.Kind = KindTable
		end := b.skip(start+1, " \t\r\n,")
		for items := v.Children(); items.Next(); {
			if items.Node().Kind == unstable.KeyValue {
				end = b.skip(b.keyValue(n, items.Node()), " \t\r\n,")
			}
		}
		b.closed[n] = true
		return n, end + 1
	case unstable.String:
		n.Kind = KindString
		n.text = source{string(b.parser.Raw(v.Raw)), n.Pos}
	case unstable.Integer:
		n.Kind = KindInt
	case unstable.Float:
		n.Kind = KindFloat
	case unstable.Bool:
		n.Kind = KindBool
	default:
		n.Kind = KindDatetime
	}
	return n, int(v.Raw.Offset + v.Raw.Length)
}

// skip returns the first offset from start on that holds neither one of chars nor a comment.
func (b *builder) skip(start int, chars string) int {
	for i := start; i < len(b.text); i++ {
		if b.text[i] == '#' && bytes.ContainsRune([]byte(chars), '\n') {
			for i < len(b.text) && b.text[i] != '\n' {
				i++
			}
			continue
		}
		if bytes.IndexByte([]byte(chars), b.text[i]) < 0 {
			return i
		}
	}
	return len(b.text)
}

// fill puts the values that BurntSushi/toml read into the tree. It reports whether the two fit.
func fill(n *Node, value any) bool {
	ok := false
	switch n.Kind {
	case KindString:
		n.Str, ok = value.(string)
	case KindInt:
		n.Int, ok = value.(int64)
	case KindFloat:
		n.Float, ok = value.(float64)
	case KindBool:
		n.Bool, ok = value.(bool)
	case KindDatetime:
		n.Time, ok = value.(time.Time)
	case KindTable:
		var table map[string]any
		table, ok = value.(map[string]any)
		ok = ok && len(table) == len(n.Keys)
		for i := 0; ok && i < len(n.Keys); i++ {
			ok = fill(n.Keys[i].Value, table[n.Keys[i].Name])
		}
	case KindList:
		switch list := value.(type) {
		case []any:
			ok = len(list) == len(n.Items)
			for i := 0; ok && i < len(list); i++ {
				ok = fill(n.Items[i], list[i])
			}
		case []map[string]any:
			ok = len(list) == len(n.Items)
			for i := 0; ok && i < len(list); i++ {
				ok = fill(n.Items[i], list[i])
			}
		}
	default:
		panic(fmt.Sprintf("a node of kind %q", n.Kind))
	}
	return ok
}
