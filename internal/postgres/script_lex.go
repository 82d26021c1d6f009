package postgres

import (
	"fmt"
	"strings"
)

// sqlKind is what a token of SQL is.
type sqlKind int

const (
	sqlEnd    sqlKind = iota
	sqlWord           // an identifier without quotes, or a keyword
	sqlQuoted         // a string or an identifier with quotes of some sort
	sqlNumber         // digits
	sqlSymbol         // one byte of anything else
)

// A sqlToken is one token of SQL, or as much of it as matters to find where
// statements end.
type sqlToken struct {
	kind sqlKind
	text string
	at   int // offset
}

// A sqlLexer takes SQL apart as the server does (scan.l) while
// standard_conforming_strings is on.
type sqlLexer struct {
	text string
	at   int
}

// An unclosedError says where something begins that has no end.
type unclosedError struct {
	what string
	at   int // offset
}

// Error says what is not closed.
func (e *unclosedError) Error() string { return e.what + " is not closed" }

// next returns the next token, sqlEnd at the end and from then on. White space
// and comments are passed over.
func (l *sqlLexer) next() (sqlToken, error) {
	if err := l.space(); err != nil {
		return sqlToken{}, err
	}
	start, kind := l.at, sqlSymbol
	rest := l.text[l.at:]
	if rest == "" {
		return sqlToken{kind: sqlEnd, at: start}, nil
	}
	var err error
	switch c := rest[0]; {
	case isSQLLetter(c):
		kind = sqlWord
		l.at += span(rest, isSQLWordByte)
		if word := l.text[start:l.at]; (word == "E" || word == "e") && strings.HasPrefix(l.text[l.at:], "'") {
			kind = sqlQuoted
			err = l.escaped()
		}
	case isDigit(c):
		kind = sqlNumber
		l.at += span(rest, isDigit)
	case c == '\'' || c == '"':
		kind = sqlQuoted
		err = l.quoted(c)
	case c == '$' && dollarTag(rest) != "":
		kind = sqlQuoted
		err = l.dollarQuoted(dollarTag(rest))
	default:
		l.at++
	}
	return sqlToken{kind: kind, text: l.text[start:l.at], at: start}, err
}

func isSQLSpace(c byte) bool    { return c == ' ' || c >= '\t' && c <= '\r' }
func isSQLLetter(c byte) bool   { return isAlpha(c) || c == '_' || c >= 0x80 }
func isSQLWordByte(c byte) bool { return isSQLLetter(c) || isDigit(c) || c == '$' }

// space passes over white space and comments, of which those between slashes
// nest.
func (l *sqlLexer) space() error {
	for l.at < len(l.text) {
		rest := l.text[l.at:]
		switch {
		case isSQLSpace(rest[0]):
			l.at++
		case strings.HasPrefix(rest, "--"):
			if end := strings.IndexAny(rest, "\r\n"); end >= 0 {
				l.at += end
			} else {
				l.at = len(l.text)
			}
		case strings.HasPrefix(rest, "/*"):
			start, depth := l.at, 0
			for {
				rest := l.text[l.at:]
				switch {
				case rest == "":
					return &unclosedError{"the comment /*", start}
				case strings.HasPrefix(rest, "/*"):
					depth++
					l.at += 2
				case strings.HasPrefix(rest, "*/"):
					depth--
					l.at += 2
				default:
					l.at++
				}
				if depth == 0 {
					break
				}
			}
		default:
			return nil
		}
	}
	return nil
}

// quoted passes over a string or an identifier, in which a quote is written
// twice.
func (l *sqlLexer) quoted(quote byte) error {
	start := l.at
	for l.at++; ; l.at++ {
		end := strings.IndexByte(l.text[l.at:], quote)
		if end < 0 {
			l.at = len(l.text)
			return &unclosedError{"the quote " + string(quote), start}
		}
		l.at += end + 1
		if l.at == len(l.text) || l.text[l.at] != quote {
			return nil
		}
	}
}

// escaped passes over an E string, of which only its first part has an E: after
// a line break it may go on with another quote.
func (l *sqlLexer) escaped() error {
	for {
		start := l.at
		for l.at++; ; l.at++ {
			if l.at >= len(l.text) {
				l.at = len(l.text)
				return &unclosedError{"the quote E'", start}
			}
			if c := l.text[l.at]; c == '\\' {
				l.at++
			} else if c == '\'' {
				if !strings.HasPrefix(l.text[l.at:], "''") {
					break
				}
				l.at++
			}
		}
		l.at++
		more := *l
		if err := more.space(); err != nil || !strings.HasPrefix(more.text[more.at:], "'") || !strings.ContainsAny(l.text[l.at:more.at], "\r\n") {
			return nil
		}
		l.at = more.at
	}
}

// dollarTag returns "$tag$" where s begins with it.
func dollarTag(s string) string {
	n := 1
	if n < len(s) && isSQLLetter(s[n]) {
		n += span(s[n:], func(c byte) bool { return isSQLLetter(c) || isDigit(c) })
	}
	if n < len(s) && s[n] == '$' {
		return s[:n+1]
	}
	return ""
}

// dollarQuoted passes over a string between two equal tags.
func (l *sqlLexer) dollarQuoted(tag string) error {
	end := strings.Index(l.text[l.at+len(tag):], tag)
	if end < 0 {
		start := l.at
		l.at = len(l.text)
		return &unclosedError{"the quote " + tag, start}
	}
	l.at += end + 2*len(tag)
	return nil
}

// CheckExpression returns an error unless a text is one expression as far as
// brackets, quotes and comments tell, so that it stays where it is put: between
// two parentheses, with a line break before the second.
func CheckExpression(text string) error {
	l := sqlLexer{text: text}
	var open []byte
	for first := true; ; first = false {
		token, err := l.next()
		if err != nil {
			return err
		}
		switch {
		case token.kind == sqlEnd && first:
			return fmt.Errorf("the expression is empty")
		case token.kind == sqlEnd && len(open) > 0:
			return fmt.Errorf("the expression has a %c that is not closed", open[len(open)-1])
		case token.kind == sqlEnd:
			return nil
		case token.kind != sqlSymbol:
			continue
		}
		switch c := token.text[0]; c {
		case '(', '[':
			open = append(open, c)
		case ')', ']':
			if len(open) == 0 || (open[len(open)-1] == '(') != (c == ')') {
				return fmt.Errorf("the expression has a %c that closes nothing", c)
			}
			open = open[:len(open)-1]
		case ';', '\\', 0:
			return fmt.Errorf("the expression has a %q, which no expression has", c)
		}
	}
}
