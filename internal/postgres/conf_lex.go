package postgres

import "strings"

// confKind is what a token of postgresql.conf is.
type confKind int

const (
	confEOL confKind = iota
	confID
	confQualifiedID
	confString
	confWord
	confNumber
	confEquals
	confBad
)

type confToken struct {
	kind confKind
	text string
	at   int // offset in the line
}

// A confLexer takes one line apart.
type confLexer struct {
	line string
	at   int
}

// next returns the next token, confEOL at the end and from then on. The longest match wins, and of equally long ones the
// first form: that makes a.b a qualified name, which is no value, while a.b.c is an unquoted word, which is no name.
func (l *confLexer) next() confToken {
	for l.at < len(l.line) && strings.IndexByte(" \t\r", l.line[l.at]) >= 0 {
		l.at++
	}
	rest := l.line[l.at:]
	if rest == "" || rest[0] == '#' {
		return confToken{kind: confEOL, at: l.at}
	}
	kind, length := confBad, 1
	if rest[0] == '=' {
		kind = confEquals
	}
	for _, form := range []struct {
		kind   confKind
		length int
	}{
		{confID, confIDLen(rest)},
		{confQualifiedID, confQualifiedLen(rest)},
		{confString, confStringLen(rest)},
		{confWord, confWordLen(rest)},
		{confNumber, max(confIntegerLen(rest), confRealLen(rest))},
	} {
		if form.length > length || form.length == length && kind == confBad {
			kind, length = form.kind, form.length
		}
	}
	token := confToken{kind: kind, text: rest[:length], at: l.at}
	l.at += length
	return token
}

func isDigit(c byte) bool      { return c >= '0' && c <= '9' }
func isAlpha(c byte) bool      { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isHex(c byte) bool        { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }
func isConfLetter(c byte) bool { return isAlpha(c) || c == '_' || c >= 0x80 }

// span returns how many bytes at the start of s are of a class.
func span(s string, class func(byte) bool) int {
	n := 0
	for n < len(s) && class(s[n]) {
		n++
	}
	return n
}

func confIDLen(s string) int {
	if s == "" || !isConfLetter(s[0]) {
		return 0
	}
	return span(s, func(c byte) bool { return isConfLetter(c) || isDigit(c) })
}

func confQualifiedLen(s string) int {
	first := confIDLen(s)
	if first == 0 || first == len(s) || s[first] != '.' {
		return 0
	}
	second := confIDLen(s[first+1:])
	if second == 0 {
		return 0
	}
	return first + 1 + second
}

func confWordLen(s string) int {
	if s == "" || !isConfLetter(s[0]) {
		return 0
	}
	return span(s, func(c byte) bool { return isConfLetter(c) || isDigit(c) || strings.IndexByte("-._:/", c) >= 0 })
}

// confStringLen takes the longest quoted string, in which a doubled quote is one quote. Where the doubled one is the last on
// the line, the string ends at its first half, as in the server's lexer.
func confStringLen(s string) int {
	if s[0] != '\'' {
		return 0
	}
	end := 0
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '\'':
			end = i + 1
			if i+1 == len(s) || s[i+1] != '\'' {
				return end
			}
			i++
		}
	}
	return end
}

func signLen(s string) int {
	if s != "" && (s[0] == '-' || s[0] == '+') {
		return 1
	}
	return 0
}

func confIntegerLen(s string) int {
	sign := signLen(s)
	digits := span(s[sign:], isDigit)
	if digits == 0 {
		return 0
	}
	end := sign + digits
	end += span(s[end:], isAlpha)
	if strings.HasPrefix(s[sign:], "0x") {
		if hex := span(s[sign+2:], isHex); hex > 0 {
			after := sign + 2 + hex
			end = max(end, after+span(s[after:], isAlpha))
		}
	}
	return end
}

func confRealLen(s string) int {
	sign := signLen(s)
	end := sign + span(s[sign:], isDigit)
	if end >= len(s) || s[end] != '.' {
		return 0
	}
	end++
	end += span(s[end:], isDigit)
	if end < len(s) && (s[end] == 'e' || s[end] == 'E') {
		esign := signLen(s[end+1:])
		if n := span(s[end+1+esign:], isDigit); n > 0 {
			end += 1 + esign + n
		}
	}
	return end
}
