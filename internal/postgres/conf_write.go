package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// A ConfValue is a parameter and the value to write for it.
type ConfValue struct {
	Name  string
	Value string
}

// RenderConf returns the text of a file of settings: the header as comment lines, an empty line, then name = 'value' in the
// order given. Every value is quoted, numbers and booleans too, so that no unit or path can be misread.
func RenderConf(header string, values []ConfValue) string {
	var b strings.Builder
	b.WriteString(commentLines(header))
	for _, v := range values {
		fmt.Fprintf(&b, "%s = %s\n", v.Name, QuoteConf(v.Value))
	}
	return b.String()
}

// SortedConf returns the settings of a map ordered by name.
func SortedConf(values map[string]string) []ConfValue {
	sorted := make([]ConfValue, 0, len(values))
	for name, value := range values {
		sorted = append(sorted, ConfValue{Name: name, Value: value})
	}
	slices.SortFunc(sorted, func(a, b ConfValue) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

// CheckConfName returns an error when a name cannot be written on the left of a line of postgresql.conf.
func CheckConfName(name string) error {
	lex := confLexer{line: name}
	t := lex.next()
	if (t.kind == confID || t.kind == confQualifiedID) && t.text == name {
		return nil
	}
	return fmt.Errorf("%q is no parameter name: letters, digits and underscores, with one dot for an extension's", name)
}

// commentLines returns text as # lines followed by an empty one, or nothing for an empty text. A backslash at the end of a line
// is dropped: in pg_hba.conf the comment would take the next line in.
func commentLines(text string) string {
	if text == "" {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		b.WriteString(strings.TrimRight("# "+strings.ReplaceAll(line, "\x00", " "), "\r\n\\ ") + "\n")
	}
	b.WriteString("\n")
	return b.String()
}
