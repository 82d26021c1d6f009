package postgres

import (
	"fmt"
	"strings"
)

// An IdentRule is one line of pg_ident.conf: on this map, the system user may be the database user.
type IdentRule struct {
	Map        HBAToken
	SystemUser HBAToken // with a first slash, quoted or not, a regular expression
	User       HBAToken // may use \1; from 16 on also all, +role and /regexp
	Line       int      // where it was read, from 1; 0 for a rule that was made
	Comment    string   // behind the rule, without its #; may be empty
}

// columns returns the three fields as they are written.
func (r IdentRule) columns() []string {
	return []string{r.Map.String(), r.SystemUser.String(), r.User.String()}
}

// String returns the rule in one line with single blanks between the columns, without its comment.
func (r IdentRule) String() string { return strings.Join(r.columns(), " ") }

// An IdentLine is a line of pg_ident.conf. Rule and Include are nil on an empty line and on one that is only a comment.
type IdentLine struct {
	Number  int
	Rule    *IdentRule
	Include *HBAInclude // from 16 on
	Comment string
}

// IdentRules returns the rules of the lines, in order, or an error if there is an include.
func IdentRules(lines []IdentLine) ([]IdentRule, error) {
	var rules []IdentRule
	for _, l := range lines {
		if l.Include != nil {
			return nil, &ParseError{Line: l.Number, Msg: fmt.Sprintf("%s %q is not read", l.Include.Directive, l.Include.Path),
				Hint: "put its rules into this file"}
		}
		if l.Rule != nil {
			rules = append(rules, *l.Rule)
		}
	}
	return rules, nil
}

// ParseIdent reads the text of pg_ident.conf as a server of that version does. It returns all lines that could be read and
// one [ParseError] for each that could not. Fields after the third, and a \1 without brackets in the expression, are mistakes that the server loads
// and this function refuses.
func ParseIdent(text string, version Version) ([]IdentLine, error) {
	var lines []IdentLine
	var errs []*ParseError
	for _, raw := range tokenizeAuth(text, version) {
		line, err := parseIdentLine(raw, version)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lines = append(lines, line)
	}
	return lines, joinParseErrors(errs)
}

func parseIdentLine(raw authLine, version Version) (IdentLine, *ParseError) {
	line := IdentLine{Number: raw.number, Comment: raw.comment}
	if raw.err != nil || len(raw.fields) == 0 {
		return line, raw.err
	}
	if version.Major() >= 16 && len(raw.fields) == 2 {
		if include, err := parseHBAInclude(raw, version); include != nil || err != nil {
			line.Include = include
			return line, err
		}
	}
	if len(raw.fields) < 3 {
		return IdentLine{}, raw.short("a line is: MAP SYSTEM-USER DATABASE-USER", "missing entry at end of line")
	}
	if len(raw.fields) > 3 {
		return IdentLine{}, raw.fields[3][0].fail("a name with blanks goes in double quotes", "more than three fields")
	}
	var words [3]authToken
	for i := range words {
		word, err := single(raw.fields[i], "ident field", "one line for each")
		if err != nil {
			return IdentLine{}, err
		}
		words[i] = word
	}
	for i, word := range words[1:] {
		form, ok := strings.CutPrefix(word.text, "/")
		if !ok || i == 1 && version.Major() < 16 {
			continue
		}
		if why := badRegexp(form); why != "" {
			return IdentLine{}, word.fail("", "invalid regular expression %q: %s", form, why)
		}
	}
	if form, ok := strings.CutPrefix(words[1].text, "/"); ok && strings.Contains(words[2].text, `\1`) {
		// The server loads such a line, and lets nobody in by this map once it gets there.
		if re, ok := compileARE(form); ok && re.NumSubexp() == 0 {
			return IdentLine{}, words[2].fail("put what \\1 stands for in brackets ()",
				"regular expression %q has no subexpressions as requested by backreference in %q", form, words[2].text)
		}
	}
	token := func(t authToken) HBAToken { return HBAToken{Text: t.text, Quoted: t.quoted} }
	line.Rule = &IdentRule{Map: token(words[0]), SystemUser: token(words[1]), User: token(words[2]),
		Line: raw.number, Comment: raw.comment}
	return line, nil
}

// RenderIdent returns the text of a pg_ident.conf: the header as comment lines, the names of the columns, and the rules with
// their columns aligned.
func RenderIdent(header string, rules []IdentRule) string {
	rows := [][]string{{"# MAPNAME", "SYSTEM-USERNAME", "PG-USERNAME"}}
	for _, r := range rules {
		row := r.columns()
		if comment := oneLine(r.Comment); comment != "" {
			row[2] += "  # " + comment
		}
		rows = append(rows, row)
	}
	return commentLines(header) + alignColumns(rows)
}

// MatchIdent reports whether the map lets a system user in as a database user, as the server decides it. memberOf is that of
// [HBAConn]; nil if not known. uncertain says why it cannot be told here; then ok is what follows if that rule does not match.
func MatchIdent(rules []IdentRule, usermap, systemUser, user string, version Version, memberOf func(role string) bool) (ok bool, uncertain string) {
	conn := HBAConn{User: user, MemberOf: memberOf, Version: version}
	for _, r := range rules {
		if r.Map.Text != usermap {
			continue
		}
		answer := matchIdentRule(r, systemUser, conn)
		switch answer.is {
		case yes:
			return true, uncertain
		case unknown:
			if uncertain == "" {
				uncertain = answer.why
			}
		}
	}
	return false, uncertain
}

func matchIdentRule(r IdentRule, systemUser string, conn HBAConn) answer3 {
	want := r.User
	form, isRegexp := strings.CutPrefix(r.SystemUser.Text, "/")
	switch {
	case !isRegexp:
		if r.SystemUser.Text != systemUser {
			return sure(false)
		}
	default:
		re, ok := compileARE(form)
		if !ok {
			return answer3{unknown, fmt.Sprintf("the regular expression %q is the server's own kind", form)}
		}
		found := re.FindStringSubmatchIndex(systemUser)
		if found == nil {
			return sure(false)
		}
		if _, second := strings.CutPrefix(want.Text, "/"); strings.Contains(want.Text, `\1`) && !(second && newIdent(conn.Version)) {
			if len(found) < 4 || found[2] < 0 {
				return sure(false) // the server logs an error and lets nobody in by this line
			}
			// What was put in is compared as a name, never as a keyword or a group.
			want = HBAToken{Text: strings.Replace(want.Text, `\1`, systemUser[found[2]:found[3]], 1), Quoted: true}
			return sure(want.Text == conn.User)
		}
	}
	if !newIdent(conn.Version) {
		return sure(want.Text == conn.User)
	}
	if _, file := want.File(); file {
		return answer3{unknown, fmt.Sprintf("the file %s is not read", want.Text)}
	}
	return matchUserToken(want, conn)
}

// newIdent reports whether the third column takes all, +role and regular expressions.
func newIdent(version Version) bool { return version == 0 || version.Major() >= 16 }
