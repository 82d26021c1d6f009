package postgres

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxIdentifier is NAMEDATALEN - 1: the server cuts longer names off, silently but for a NOTICE.
const maxIdentifier = 63

// CheckIdent returns an error if a name cannot be that of an object exactly as written: empty, longer than 63 bytes (the
// server would cut it off and name something else), with a zero byte or not UTF-8.
func CheckIdent(name string) error {
	switch {
	case name == "":
		return errors.New("a name must not be empty")
	case len(name) > maxIdentifier:
		return fmt.Errorf("the name %q has %d bytes; PostgreSQL keeps only the first %d: shorten it", name, len(name), maxIdentifier)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("the name %q holds a zero byte", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8", name)
	}
	return nil
}

// QuoteIdent returns name as an identifier in SQL. It quotes like the server's quote_ident: only where needed, so that
// plain names stay readable, and whenever the name is a keyword of any version from 13 to 18 that is not unreserved.
func QuoteIdent(name string) string {
	if plainIdent(name) && !strings.Contains(quotedKeywords, " "+name+" ") {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// plainIdent reports whether name is made of what the lexer takes unquoted and folds to itself.
func plainIdent(name string) bool {
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c == '_':
		case c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return name != ""
}

// QuoteLiteral returns s as a string literal in SQL. A backslash makes it an E string, so that it means the same
// whatever standard_conforming_strings is. A zero byte cannot be in a literal; the server refuses such a statement.
func QuoteLiteral(s string) string {
	quoted := strings.ReplaceAll(s, `'`, `''`)
	if strings.Contains(quoted, `\`) {
		return `E'` + strings.ReplaceAll(quoted, `\`, `\\`) + `'`
	}
	return `'` + quoted + `'`
}

// QuoteConf returns s as a quoted value in postgresql.conf, where a backslash is an escape and a line cannot be continued.
func QuoteConf(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for _, c := range []byte(s) {
		switch c {
		case '\'':
			b.WriteString(`''`)
		case '\\':
			b.WriteString(`\\`)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// hbaKeywords are the words with a meaning of their own in pg_hba.conf and pg_ident.conf, unless quoted.
const hbaKeywords = " all replication sameuser samerole samegroup samehost samenet include include_if_exists include_dir "

// QuoteHBA returns the name of a database, role or map as a token of pg_hba.conf or pg_ident.conf that means exactly this
// name: keywords and names with a first @ or + are quoted, as is what would split the token. A name that starts with a slash
// is taken as a regular expression by 16 and later even when quoted, and a line break cannot be written at all.
func QuoteHBA(name string) string {
	if name != "" && !strings.ContainsAny(name, " \t\r\n\v\f,\"#\\") && !strings.ContainsRune("@+/", rune(name[0])) &&
		!strings.Contains(hbaKeywords, " "+name+" ") {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
