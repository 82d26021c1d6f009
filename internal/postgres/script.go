package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A ScriptStatement is one statement of a script of SQL.
type ScriptStatement struct {
	Text  string // without the semicolon, and without what comes before its first word
	Line  int    // of its first word, from 1
	words []string
}

// maxWords is how many words of a statement decide what it is.
const maxWords = 16

// SplitScript returns the statements of a script as psql finds them. What psql
// itself would have to do is an error that names the line: its commands, which
// begin with a backslash, and COPY from or to what runs the script.
func SplitScript(text string) ([]ScriptStatement, error) {
	var list []ScriptStatement
	x := splitter{lexer: sqlLexer{text: text}, line: 1}
	for {
		st, err := x.statement()
		if st == nil || err != nil {
			return list, err
		}
		list = append(list, *st)
	}
}

// A splitter finds where statements end.
type splitter struct {
	lexer   sqlLexer
	dump    bool // psql's commands are passed over, see SplitDump
	line    int  // of counted
	counted int  // up to where lines were counted
}

// lineAt returns the line of an offset that is not before the one asked for
// last.
func (x *splitter) lineAt(at int) int {
	x.line += strings.Count(x.lexer.text[x.counted:at], "\n")
	x.counted = at
	return x.line
}

// statement returns the next statement that is not empty, or nil at the end.
func (x *splitter) statement() (*ScriptStatement, error) {
	var st *ScriptStatement
	start, parens, blocks := 0, 0, 0
	last := ""
	for {
		t, err := x.lexer.next()
		if e := (*unclosedError)(nil); errors.As(err, &e) {
			return nil, fmt.Errorf("line %d: %w", x.lineAt(e.at), err)
		}
		switch {
		case x.dump && st == nil && t.text == `\`:
			x.lexer.line()
			continue
		case t.kind == sqlEnd || t.text == ";" && parens == 0 && blocks == 0:
			if st == nil && t.kind != sqlEnd {
				continue
			}
			if st == nil {
				return nil, nil
			}
			st.Text = strings.TrimRight(x.lexer.text[start:t.at], " \t\r\n\v\f")
			return st, st.copies()
		case st == nil:
			st = &ScriptStatement{Line: x.lineAt(t.at)}
			start = t.at
		}
		word := ""
		switch {
		case t.kind == sqlWord:
			word = strings.ToUpper(t.text)
			if (parens == 0 || st.is("REINDEX")) && len(st.words) < maxWords {
				st.words = append(st.words, word)
			}
			if parens == 0 && st.makesRoutine() {
				blocks = atomic(blocks, last, word)
			}
		case t.text == "(":
			parens++
		case t.text == ")" && parens > 0:
			parens--
		case t.text == `\`:
			command := t.text + x.lexer.text[x.lexer.at:x.lexer.at+span(x.lexer.text[x.lexer.at:], func(c byte) bool { return !isSQLSpace(c) })]
			return nil, fmt.Errorf("line %d: %s is a command of psql, which only psql can carry out", x.lineAt(t.at), command)
		}
		last = word
	}
}

// atomic returns how deep one is in the body of a function that is written in
// SQL's own way (from 14 on): BEGIN ATOMIC … END, in which CASE has an END too.
func atomic(depth int, last, word string) int {
	switch {
	case word == "ATOMIC" && last == "BEGIN", word == "CASE" && depth > 0:
		return depth + 1
	case word == "END" && depth > 0:
		return depth - 1
	}
	return depth
}

// is reports whether the statement begins with these words.
func (st *ScriptStatement) is(words ...string) bool {
	return len(st.words) >= len(words) && slices.Equal(st.words[:len(words)], words)
}

// has reports whether one of the words that count is this one.
func (st *ScriptStatement) has(word string) bool { return slices.Contains(st.words, word) }

// hasPair reports whether two words that count follow each other.
func (st *ScriptStatement) hasPair(a, b string) bool {
	for i := 1; i < len(st.words); i++ {
		if st.words[i-1] == a && st.words[i] == b {
			return true
		}
	}
	return false
}

func (st *ScriptStatement) makesRoutine() bool {
	words := st.words
	if st.is("CREATE", "OR", "REPLACE") {
		words = words[2:]
	}
	return st.is("CREATE") && len(words) > 1 && (words[1] == "FUNCTION" || words[1] == "PROCEDURE")
}

// copies returns an error for a COPY whose data psql reads or writes.
func (st *ScriptStatement) copies() error {
	if !st.is("COPY") {
		return nil
	}
	for _, to := range [][2]string{{"FROM", "STDIN"}, {"FROM", "STDOUT"}, {"TO", "STDOUT"}, {"TO", "STDIN"}} {
		if st.hasPair(to[0], to[1]) {
			return fmt.Errorf("line %d: COPY … %s %s passes data through psql, and only psql can carry it out", st.Line, to[0], to[1])
		}
	}
	return nil
}

// Outside returns the name of a statement that cannot run in a transaction
// block, or that would end it, such as "CREATE INDEX CONCURRENTLY"; "" for any
// other. The server knows a few more, and refuses them by itself.
func (st *ScriptStatement) Outside() string {
	concurrently := st.has("CONCURRENTLY")
	switch {
	case st.is("ROLLBACK"):
		if st.has("TO") && !st.has("PREPARED") {
			return "" // ROLLBACK TO SAVEPOINT
		}
		return st.first(1)
	case st.is("BEGIN"), st.is("COMMIT"), st.is("END"), st.is("ABORT"), st.is("VACUUM"):
		return st.first(1)
	case st.is("START", "TRANSACTION"), st.is("PREPARE", "TRANSACTION"), st.is("ALTER", "SYSTEM"), st.is("DISCARD", "ALL"),
		st.is("CREATE", "DATABASE"), st.is("DROP", "DATABASE"), st.is("CREATE", "TABLESPACE"), st.is("DROP", "TABLESPACE"),
		st.is("CREATE", "SUBSCRIPTION"), st.is("DROP", "SUBSCRIPTION"):
		return st.first(2)
	case st.is("CREATE", "INDEX"), st.is("CREATE", "UNIQUE", "INDEX"), st.is("DROP", "INDEX"):
		if concurrently {
			return st.first(slices.Index(st.words, "CONCURRENTLY") + 1)
		}
	case st.is("REINDEX"):
		if concurrently {
			return "REINDEX CONCURRENTLY"
		}
		for _, word := range st.words[1:] {
			switch word {
			case "SCHEMA", "DATABASE", "SYSTEM":
				return "REINDEX " + word
			case "INDEX", "TABLE":
				return ""
			}
		}
	case strings.EqualFold(st.Text, "CLUSTER"), strings.EqualFold(st.Text, "CLUSTER VERBOSE"):
		return "CLUSTER"
	case st.is("ALTER", "DATABASE") && st.hasPair("SET", "TABLESPACE"):
		return "ALTER DATABASE SET TABLESPACE"
	case st.is("ALTER", "TABLE") && st.has("DETACH") && concurrently:
		return "ALTER TABLE … DETACH PARTITION CONCURRENTLY"
	}
	return ""
}

// first returns the first words.
func (st *ScriptStatement) first(n int) string { return strings.Join(st.words[:n], " ") }

// Name returns the words that the statement begins with, as far as they say
// what it does: "ALTER SUBSCRIPTION".
func (st *ScriptStatement) Name() string { return st.first(min(2, len(st.words))) }
