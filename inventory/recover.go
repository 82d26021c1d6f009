package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxSyntaxErrors bounds the work on a file that is not TOML at all.
const maxSyntaxErrors = 50

// values returns what BurntSushi/toml reads, or nil when it cannot read on. BurntSushi/toml stops at the first mistake;
// where that is the matter of one key or table, it is overwritten and the text read again.
func (d *document) values() map[string]any {
	for {
		var values map[string]any
		_, err := toml.Decode(string(d.text), &values)
		if err == nil {
			if values == nil {
				values = map[string]any{}
			}
			return values
		}
		var perr toml.ParseError
		if !errors.As(err, &perr) {
			d.errs.Add(d.pos(0), "%s", err)
			return nil
		}
		if !d.overwrite(perr) || len(d.errs) >= maxSyntaxErrors {
			return nil
		}
	}
}

// overwrite reports the mistake and blanks it out. It returns false if that is not possible.
func (d *document) overwrite(perr toml.ParseError) bool {
	start := min(max(perr.Position.Start, 0), len(d.text))
	pos := d.pos(start)
	exprs := d.expressions()
	for i, e := range exprs { // the syntax is right: a repeated key or an impossible value
		if start < e.start || start >= e.end {
			continue
		}
		msg := message(perr)
		for _, first := range exprs[:i] {
			if first.id == e.id {
				msg = fmt.Sprintf("%q is here for the second time; the first is at %s", e.name, d.pos(first.start))
				break
			}
		}
		d.errs.Add(pos, "%s", msg)
		d.markPartial(exprs, start)
		return d.blank(e.lineStart, d.sectionEnd(exprs, i))
	}
	d.errs.Add(pos, "%s", message(perr))
	// A line with the same mistake when it stands alone is itself to blame, rather than an unfinished list or string
	// further up.
	line := d.line(start)
	from, to := d.lines[line], len(d.text)
	if line+1 < len(d.lines) {
		to = d.lines[line+1]
	}
	text := string(d.text[from:to])
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		return false
	}
	var alone toml.ParseError
	if _, err := toml.Decode(text, &map[string]any{}); !errors.As(err, &alone) || alone.Message != perr.Message || alone.Position.Start != start-from {
		return false
	}
	d.markPartial(exprs, start)
	return d.blank(from, to)
}

// markPartial notes that the table around offset lacks a key now.
func (d *document) markPartial(exprs []expression, offset int) {
	header := 0
	for _, e := range exprs {
		if e.header && e.start < offset {
			header = e.start
		}
	}
	d.partial[header] = true
}

// sectionEnd returns the end of an expression, and of a header's keys with it.
func (d *document) sectionEnd(exprs []expression, i int) int {
	if !exprs[i].header {
		return exprs[i].end
	}
	for _, e := range exprs[i+1:] {
		if e.header {
			return e.lineStart
		}
	}
	// What follows is not known when the syntax is wrong further down; a line with a bracket looks like a header.
	end := exprs[len(exprs)-1].end
	if next := bytes.Index(d.text[end:], []byte("\n[")); next >= 0 {
		return end + next
	}
	return len(d.text)
}

// blank overwrites a part of the text with spaces. It returns false if there was nothing but those.
func (d *document) blank(from, to int) bool {
	changed := false
	for i := from; i < to; i++ {
		switch d.text[i] {
		case '\n', '\r', ' ':
		default:
			d.text[i], changed = ' ', true
		}
	}
	return changed
}

// message returns the parser's message in the form of ours.
func message(perr toml.ParseError) string {
	msg := strings.TrimSuffix(perr.Message, ".")
	if msg == "" {
		return "wrong TOML syntax"
	}
	if strings.HasPrefix(msg, "expected value but found") && !strings.Contains(msg, `\n`) {
		msg += "; strings need quotes"
	}
	return strings.ToLower(msg[:1]) + msg[1:]
}

// An expression is a header or a key with its value.
type expression struct {
	id         string // the same for what means the same key of the same table
	name       string // dotted, as far as it is written here
	lineStart  int
	start, end int // from the first key to the end of the value or of the last key
	header     bool
}

// expressions returns the expressions of the text up to the first whose syntax is wrong.
func (d *document) expressions() []expression {
	var exprs []expression
	var p unstable.Parser
	p.Reset(d.text)
	counts := map[string]int{} // of the tables in each list of tables
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		x := expression{start: -1, header: e.Kind != unstable.KeyValue}
		id := table
		if x.header {
			id = ""
		}
		var names []string
		for keys := e.Key(); keys.Next(); {
			key := keys.Node()
			if x.start < 0 {
				x.start = int(key.Raw.Offset)
			}
			x.end = int(key.Raw.Offset + key.Raw.Length)
			names = append(names, string(key.Data))
			id += fmt.Sprintf("%q.", key.Data)
			if e.Kind == unstable.ArrayTable && keys.IsLast() {
				counts[id]++
			}
			if n := counts[id]; n > 0 {
				id += fmt.Sprintf("%d.", n)
			}
		}
		x.id, x.name = id, strings.Join(names, ".")
		if x.header {
			table = id
		} else {
			x.end = int(e.Raw.Offset + e.Raw.Length)
		}
		x.lineStart = x.start
		if x.header {
			x.lineStart = d.lines[d.line(x.start)]
			x.end += bytes.IndexByte(append(d.text[x.end:len(d.text):len(d.text)], '\n'), '\n')
		}
		exprs = append(exprs, x)
	}
	return exprs
}
