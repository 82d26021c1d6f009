package adopt

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// String returns s as a basic string of TOML.
func String(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r >= 0x7f && r < 0xa0:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Key returns s as a key of TOML, bare where it can be.
func Key(s string) string {
	if bareKey.MatchString(s) {
		return s
	}
	return String(s)
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// literal returns s as a string of a task, which is rendered as a template:
// braces that were found are no template's.
func literal(s string) string {
	return String(strings.ReplaceAll(s, "{{", `{{"{{"}}`))
}

// list returns a list of strings, one on each line.
func list(items []string) string {
	if len(items) == 0 {
		return "[]"
	}
	var b strings.Builder
	b.WriteString("[\n")
	for _, item := range items {
		b.WriteString("    " + literal(item) + ",\n")
	}
	b.WriteString("]")
	return b.String()
}

// writable reports whether a text can stand in a TOML file.
func writable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// A text is a part of fleet.toml that is being written.
type text struct{ b strings.Builder }

// remark writes lines of comment. What was found on a host goes through oneLine
// before it gets here.
func (t *text) remark(format string, args ...any) {
	for _, line := range strings.Split(fmt.Sprintf(format, args...), "\n") {
		t.b.WriteString(strings.TrimRight("# "+line, " ") + "\n")
	}
}

func (t *text) blank() { t.b.WriteByte('\n') }

// A pair is a key of a task with its value, in TOML.
type pair struct{ key, value string }

// task writes a task, or the same as a comment.
func (t *text) task(commented bool, name, kind, limit string, pairs ...pair) {
	var b strings.Builder
	fmt.Fprintf(&b, "[[task]]\nname = %s\nkind = %s\nlimit = %s\n", literal(name), String(kind), String(limit))
	for _, p := range pairs {
		fmt.Fprintf(&b, "%s = %s\n", p.key, p.value)
	}
	t.block(commented, b.String())
}

func (t *text) block(commented bool, block string) {
	if !commented {
		t.b.WriteString(block)
		return
	}
	for line := range strings.Lines(block) {
		t.b.WriteString("# " + line)
	}
}

// oneLine returns s quoted and short enough for a comment.
func oneLine(s string) string {
	const most = 120
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return String(strings.ToValidUTF8(s, "?"))
}
