package backup

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// A Schema is what a dump needs before it can be restored, learned from what
// pg_restore --schema-only --create writes.
type Schema struct {
	Roles       []string // owners, grantees and whom policies are for; sorted
	Extensions  []string // sorted
	Tablespaces []string // sorted
	Statements  int      // how many there are
	Bare        bool     // without the database's own settings, comment and privileges

	database []postgres.ScriptStatement // that make the database and are about it
	name     string
}

// ParseSchema reads the text; name is the dumped database's.
func ParseSchema(text, name string) (*Schema, error) {
	list, err := postgres.SplitDump(text)
	if err != nil {
		return nil, fmt.Errorf("what pg_restore makes of the dump: %w", err)
	}
	s := &Schema{name: name, Statements: len(list)}
	roles, extensions, tablespaces := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, st := range list {
		words := st.Words()
		for _, r := range rolesIn(words) {
			roles[r] = true
		}
		at := func(i int) postgres.SQLWord {
			if i < len(words) {
				return words[i]
			}
			return postgres.SQLWord{}
		}
		switch {
		case st.Name() == "CREATE EXTENSION": // IF NOT EXISTS
			extensions[at(5).Name] = true
		case at(0).Is("SET") && at(1).Is("default_tablespace"):
			if w := at(3); w.Name != "" {
				tablespaces[w.Name] = true
			} else if t := strings.Trim(w.Text, "'"); t != "" {
				tablespaces[strings.ReplaceAll(t, "''", "'")] = true
			}
		}
		if aboutDatabase(words) {
			if at(0).Is("CREATE") {
				if i := tablespaceOf(words); i > 0 {
					tablespaces[at(i+2).Name] = true
				}
			}
			s.database = append(s.database, st)
		}
	}
	if len(s.database) == 0 || s.database[0].Name() != "CREATE DATABASE" {
		return nil, fmt.Errorf("the dump does not say how its database is made: it was not made with pg_dump --create, or not by pgfleet")
	}
	s.Roles, s.Extensions, s.Tablespaces = sortedKeys(roles), sortedKeys(extensions), sortedKeys(tablespaces)
	return s, nil
}

func sortedKeys(set map[string]bool) []string {
	var list []string
	for name := range set {
		if name != "" {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// aboutDatabase reports whether a statement makes the database or changes what is
// not in it: its settings, owner, comment and privileges.
func aboutDatabase(words []postgres.SQLWord) bool {
	i := slices.IndexFunc(words, func(w postgres.SQLWord) bool { return w.Is("DATABASE") })
	if i < 1 {
		return false
	}
	switch first := words[0]; {
	case i == 1:
		return first.Is("CREATE") || first.Is("ALTER")
	case first.Is("COMMENT"), first.Is("SECURITY"), first.Is("GRANT"), first.Is("REVOKE"):
		return words[i-1].Is("ON")
	case first.Is("ALTER") && words[1].Is("ROLE"):
		return words[i-1].Is("IN")
	}
	return false
}

// tablespaceOf returns where TABLESPACE stands in a CREATE DATABASE; 0 if it does not.
func tablespaceOf(words []postgres.SQLWord) int {
	for i, w := range words {
		if i > 2 && w.Is("TABLESPACE") && i+2 < len(words) && words[i+1].Text == "=" {
			return i
		}
	}
	return 0
}

// CreateDatabase returns the statements that make the database under another name,
// with its encoding, locale, owner, settings and privileges. The first one cannot run in a
// transaction block. Without tablespaces it comes to the server's default one.
func (s *Schema) CreateDatabase(name string, tablespaces bool) []string {
	var list []string
	for n, st := range s.database {
		words, text := st.Words(), st.Text
		// From the end, so that places before stay right.
		if i := tablespaceOf(words); n == 0 && i > 0 && !tablespaces {
			text = strings.TrimRight(text[:words[i].At], " ") + text[words[i+2].End:]
		}
		for i := len(words) - 2; i >= 0; i-- {
			if words[i].Is("DATABASE") && words[i+1].Name == s.name {
				text = text[:words[i+1].At] + postgres.QuoteIdent(name) + text[words[i+1].End:]
				break
			}
		}
		list = append(list, text)
	}
	return list
}

// rolesIn returns the roles that a statement of a dump needs: of OWNER TO, of GRANT
// and REVOKE, of ALTER DEFAULT PRIVILEGES and of policies.
func rolesIn(words []postgres.SQLWord) []string {
	if len(words) < 3 {
		return nil
	}
	var found []string
	list := func(i int) { // of names, from there on
		for ; i < len(words) && words[i].Name != ""; i += 2 {
			if !words[i].Is("PUBLIC") && !words[i].Is("CURRENT_USER") {
				found = append(found, words[i].Name)
			}
			if i+1 == len(words) || words[i+1].Text != "," {
				return
			}
		}
	}
	first := words[0]
	switch {
	case first.Is("GRANT"), first.Is("REVOKE"):
		list(lastWord(words, "TO", "FROM") + 1)
	case first.Is("ALTER") && words[1].Is("DEFAULT"):
		list(lastWord(words, "TO", "FROM") + 1)
		if i := slices.IndexFunc(words, func(w postgres.SQLWord) bool { return w.Is("ROLE") }); i > 0 {
			list(i + 1)
		}
	case first.Is("ALTER") && words[1].Is("ROLE"): // … IN DATABASE … SET
		list(2)
	case first.Is("ALTER"):
		if n := len(words); words[n-2].Is("TO") && words[n-3].Is("OWNER") {
			list(n - 1)
		}
	case first.Is("CREATE") && words[1].Is("POLICY"):
		for i, w := range words {
			if w.Text == "(" {
				break // USING and WITH CHECK
			}
			if w.Is("TO") {
				list(i + 1)
				break
			}
		}
	case first.Is("CREATE") && words[1].Is("USER") && words[2].Is("MAPPING"):
		if i := slices.IndexFunc(words, func(w postgres.SQLWord) bool { return w.Is("FOR") }); i > 0 {
			list(i + 1)
		}
	}
	return found
}

// entryLine is how pg_restore names what it was doing.
var entryLine = regexp.MustCompile(`(?m)^pg_restore: from TOC entry \d+; \d+ \d+ (.*)$`)

// errorLine is how it names what went wrong: "could not execute query: ERROR:  …".
var errorLine = regexp.MustCompile(`(?m)^pg_restore: (?:error|fatal): (.*)$`)

// RestoreError says in one line why pg_restore failed, from what it has printed:
// the entry and the error, without details and context, which hold rows.
func RestoreError(stderr string) string {
	m := errorLine.FindStringSubmatch(stderr)
	if m == nil {
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		if last := lines[len(lines)-1]; last != "" {
			return last
		}
		return "pg_restore failed and printed nothing"
	}
	why := strings.TrimPrefix(m[1], "could not execute query: ")
	switch {
	case strings.Contains(why, "unsupported version"):
		why += "; the dump is of a newer pg_dump than this pg_restore"
	case strings.Contains(why, "out of shared memory"), strings.Contains(stderr, "max_locks_per_transaction"):
		why += "; raise max_locks_per_transaction on that server"
	}
	if e := entryLine.FindStringSubmatch(stderr); e != nil {
		return strings.TrimSpace(e[1]) + ": " + why
	}
	return why
}
