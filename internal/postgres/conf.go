package postgres

import (
	"fmt"
	"strings"
)

// A ConfEntry is one line of postgresql.conf that sets a parameter or includes other files.
type ConfEntry struct {
	Name  string // as written; names are compared without regard to case
	Value string // without quotes and escapes
	Line  int    // from 1
}

// Include returns "include", "include_if_exists" or "include_dir" for a line that is such a directive, else "".
func (e ConfEntry) Include() string {
	switch name := strings.ToLower(e.Name); name {
	case "include", "include_if_exists", "include_dir":
		return name
	}
	return ""
}

// maxConfErrors is where the server gives a file up.
const maxConfErrors = 100

// ParseConf reads the text of postgresql.conf, a file that it includes, or postgresql.auto.conf, as the server's own lexer
// does (the manual's "Parameter Interaction via the Configuration File"). It returns the entries that could be read and one
// [ParseError] for each line that could not.
func ParseConf(text string) ([]ConfEntry, error) {
	var entries []ConfEntry
	var errs []*ParseError
	line := 0
	for rest, more := text, true; more; {
		var one string
		one, rest, more = strings.Cut(rest, "\n")
		line++
		if i := strings.IndexByte(one, 0); i >= 0 {
			errs = append(errs, &ParseError{Line: line, Column: i + 1, Msg: "the file holds a zero byte"})
			continue
		}
		entry, err := parseConfLine(one, line)
		switch {
		case err != nil:
			errs = append(errs, err)
		case entry.Name != "":
			entries = append(entries, entry)
		}
		if len(errs) >= maxConfErrors {
			errs = append(errs, &ParseError{Line: line, Msg: "too many syntax errors found, abandoning file"})
			break
		}
	}
	return entries, joinParseErrors(errs)
}

// parseConfLine returns an entry without a name for a line that says nothing.
func parseConfLine(line string, number int) (ConfEntry, *ParseError) {
	lex := confLexer{line: line}
	name := lex.next()
	if name.kind == confEOL {
		return ConfEntry{}, nil
	}
	bad := func(t confToken, hint string) (ConfEntry, *ParseError) {
		msg := fmt.Sprintf("syntax error near token %q", t.text)
		if t.kind == confEOL {
			msg = "syntax error near end of line"
		}
		return ConfEntry{}, &ParseError{Line: number, Column: t.at + 1, Msg: msg, Hint: hint}
	}
	if name.kind != confID && name.kind != confQualifiedID {
		return bad(name, "a line is: name = 'value'")
	}
	value := lex.next()
	if value.kind == confEquals {
		value = lex.next()
	}
	entry := ConfEntry{Name: name.text, Line: number}
	switch value.kind {
	case confString:
		entry.Value = unescapeConf(value.text)
	case confID, confWord, confNumber:
		entry.Value = value.text
	case confEOL:
		return bad(value, "the value is missing; an empty one is written ''")
	default:
		if value.text == "'" {
			return bad(value, "the quoted value has no end on this line")
		}
		return bad(value, "put the value in single quotes")
	}
	if end := lex.next(); end.kind != confEOL {
		return bad(end, "put the whole value in single quotes")
	}
	return entry, nil
}

// unescapeConf returns the value of a quoted string: doubled quotes and backslash escapes, octal ones included.
func unescapeConf(quoted string) string {
	s := quoted[1 : len(quoted)-1]
	if !strings.ContainsAny(s, `\'`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\'': // the first of two
			i++
			b.WriteByte('\'')
		case s[i] != '\\':
			b.WriteByte(s[i])
		default:
			i++
			n := octalDigits(s[i:])
			if n > 0 {
				code := 0
				for _, c := range []byte(s[i : i+n]) {
					code = code*8 + int(c-'0')
				}
				if byte(code) != 0 { // the server's string would end here
					b.WriteByte(byte(code))
				} else {
					return b.String()
				}
				i += n - 1
				continue
			}
			b.WriteByte(confEscape(s[i]))
		}
	}
	return b.String()
}

func octalDigits(s string) int {
	n := 0
	for n < len(s) && n < 3 && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	return n
}

func confEscape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}
