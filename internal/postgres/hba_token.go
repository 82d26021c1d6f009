package postgres

import (
	"fmt"
	"strings"
)

// An authToken is one token of pg_hba.conf or pg_ident.conf with its place.
type authToken struct {
	text   string
	quoted bool // its first character was a double quote
	line   int
	column int
}

func (t authToken) is(keyword string) bool { return !t.quoted && t.text == keyword }

// An authLine is a logical line: fields of one token or, with commas, several.
type authLine struct {
	number  int // of its first physical line
	last    int // of its last physical line
	end     int // column behind its last character
	fields  [][]authToken
	comment string
	err     *ParseError // the tokenizer's own
}

// tokenizeAuth takes the text of pg_hba.conf or pg_ident.conf apart: blanks separate fields, commas the tokens of a field,
// double quotes keep both, # starts a comment anywhere outside of quotes. From 14 on a backslash at the end continues a line.
func tokenizeAuth(text string, version Version) []authLine {
	var lines []authLine
	physical := strings.Split(text, "\n")
	if physical[len(physical)-1] == "" {
		physical = physical[:len(physical)-1]
	}
	for i := 0; i < len(physical); {
		logical := authText{first: i + 1}
		for ; i < len(physical); i++ {
			piece := strings.TrimRight(physical[i], "\r")
			logical.starts = append(logical.starts, len(logical.text))
			continued := version.Major() >= 14 && strings.HasSuffix(piece, `\`)
			if continued {
				piece = piece[:len(piece)-1]
			}
			logical.text += piece
			if !continued {
				i++
				break
			}
		}
		lines = append(lines, logical.tokens())
	}
	return lines
}

// An authText is a logical line and where its physical lines start in it.
type authText struct {
	text   string
	first  int
	starts []int
}

// position returns the physical line and column of an offset.
func (a authText) position(offset int) (line, column int) {
	n := 0
	for n+1 < len(a.starts) && a.starts[n+1] <= offset {
		n++
	}
	return a.first + n, offset - a.starts[n] + 1
}

func (a authText) tokens() authLine {
	line := authLine{number: a.first}
	line.last, line.end = a.position(len(a.text))
	if i := strings.IndexByte(a.text, 0); i >= 0 {
		at, column := a.position(i)
		line.err = &ParseError{Line: at, Column: column, Msg: "the file holds a zero byte"}
		return line
	}
	scan := authScanner{text: a.text}
	for {
		var field []authToken
		for comma := true; comma; {
			text, quoted, at, ok := "", false, 0, false
			text, quoted, at, comma, ok = scan.next()
			if !ok {
				break
			}
			l, c := a.position(at)
			field = append(field, authToken{text: text, quoted: quoted, line: l, column: c})
		}
		if len(field) > 0 {
			line.fields = append(line.fields, field)
		}
		if scan.done() {
			break
		}
	}
	line.comment = scan.comment
	return line
}

type authScanner struct {
	text    string
	at      int
	comment string
}

func (s *authScanner) done() bool { return s.at >= len(s.text) }

func isAuthBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// next returns the next token, where it starts, and whether a comma ended it. It returns false when no token is left before
// the end of the line, or of what a comment leaves of it.
func (s *authScanner) next() (text string, quoted bool, start int, comma, ok bool) {
	for !s.done() && (isAuthBlank(s.text[s.at]) || s.text[s.at] == ',') {
		s.at++
	}
	start = s.at
	var b strings.Builder
	inQuote, wasQuote, sawQuote := false, false, false
	for ; !s.done(); s.at++ {
		c := s.text[s.at]
		if !inQuote && isAuthBlank(c) {
			break
		}
		if !inQuote && c == '#' {
			s.comment = strings.TrimSpace(s.text[s.at+1:])
			s.at = len(s.text)
			break
		}
		if !inQuote && c == ',' {
			comma = true
			s.at++
			break
		}
		if c != '"' || wasQuote {
			b.WriteByte(c)
		}
		wasQuote = inQuote && c == '"' && !wasQuote
		if c == '"' {
			inQuote = !inQuote
			sawQuote = true
			if b.Len() == 0 {
				quoted = true
			}
		}
	}
	return b.String(), quoted, start, comma, sawQuote || b.Len() > 0
}

// single returns the only token of a field, or an error where a list is not allowed.
func single(field []authToken, what, hint string) (authToken, *ParseError) {
	if len(field) > 1 {
		return authToken{}, &ParseError{Line: field[1].line, Column: field[1].column,
			Msg: fmt.Sprintf("multiple values specified for %s", what), Hint: hint}
	}
	return field[0], nil
}

// fail returns an error at a token.
func (t authToken) fail(hint, format string, args ...any) *ParseError {
	return &ParseError{Line: t.line, Column: t.column, Msg: fmt.Sprintf(format, args...), Hint: hint}
}

// short returns an error for a line that ends too early.
func (l authLine) short(hint, what string) *ParseError {
	return &ParseError{Line: l.last, Column: l.end, Msg: what, Hint: hint}
}
