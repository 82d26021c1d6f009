package postgres

import "strings"

// SplitDump returns the statements of what pg_dumpall --globals-only or pg_restore
// without data write. The commands of psql that stand between them (\restrict,
// \unrestrict and \connect, each on a line of its own) are left out.
func SplitDump(text string) ([]ScriptStatement, error) {
	var list []ScriptStatement
	x := splitter{lexer: sqlLexer{text: text}, dump: true, line: 1}
	for {
		st, err := x.statement()
		if st == nil || err != nil {
			return list, err
		}
		list = append(list, *st)
	}
}

// line passes over the rest of the line.
func (l *sqlLexer) line() {
	if end := strings.IndexByte(l.text[l.at:], '\n'); end >= 0 {
		l.at += end + 1
	} else {
		l.at = len(l.text)
	}
}

// A SQLWord is one token of a statement, as far as it matters to find names in it.
type SQLWord struct {
	Text    string // as written
	At, End int    // where it stands in the statement, in bytes
	// Name is what the token names if it is taken for an identifier: folded, or
	// without its quotes. "" for strings, numbers and symbols.
	Name   string
	Quoted bool // it has quotes, and so is no keyword
}

// Is reports whether the token is a keyword, which is given in capitals.
func (w SQLWord) Is(keyword string) bool {
	return w.Name != "" && !w.Quoted && strings.EqualFold(w.Text, keyword)
}

// Words returns the tokens of the statement.
func (st ScriptStatement) Words() []SQLWord {
	var list []SQLWord
	l := sqlLexer{text: st.Text}
	for {
		t, err := l.next()
		if err != nil || t.kind == sqlEnd { // an error was SplitScript's already
			return list
		}
		w := SQLWord{Text: t.text, At: t.at, End: t.at + len(t.text)}
		switch {
		case t.kind == sqlWord:
			w.Name = foldASCII(t.text)
		case t.kind == sqlQuoted && t.text[0] == '"':
			w.Name, w.Quoted = strings.ReplaceAll(t.text[1:len(t.text)-1], `""`, `"`), true
		}
		list = append(list, w)
	}
}

// foldASCII makes capitals small letters, as the server does with an identifier
// that has no quotes. Other letters than those of ASCII pg_dump always quotes.
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
