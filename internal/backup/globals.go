package backup

import (
	"fmt"
	"slices"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// Globals are what pg_dumpall --globals-only has written: roles, their memberships and
// settings, and tablespaces.
type Globals struct {
	Roles       []string // in the order in which they are made
	Tablespaces []string
	statements  []globalStatement
}

// A GlobalStatement is one to run, in the order of the dump. Its text may hold the
// verifier of a password, so it belongs in no log and no error; What does not.
type GlobalStatement struct {
	Text    string
	What    string // such as "CREATE ROLE app"
	Outside bool   // it cannot run in a transaction block

	tablespace string // that it is about; "" for none
}

type globalStatement struct {
	GlobalStatement
	role   string // it changes this role, or gives it something; "" for none
	member bool   // it makes role a member of group
	group  string
}

// ParseGlobals reads the dump. An error names a line and nothing of what stands there.
func ParseGlobals(text string) (*Globals, error) {
	list, err := postgres.SplitDump(text)
	if err != nil {
		return nil, fmt.Errorf("the dump of roles: %w", err)
	}
	g := &Globals{}
	for _, st := range list {
		s := classify(st)
		switch {
		case st.Name() == "CREATE ROLE":
			g.Roles = append(g.Roles, s.role)
		case st.Name() == "CREATE TABLESPACE":
			g.Tablespaces = append(g.Tablespaces, s.tablespace)
		}
		g.statements = append(g.statements, s)
	}
	return g, nil
}

// classify finds out whom a statement is about, in the forms that pg_dumpall writes
// (dumpRoles, dumpRoleMembership, dumpRoleGUCPrivs, dumpTablespaces in pg_dumpall.c).
func classify(st postgres.ScriptStatement) globalStatement {
	words := st.Words()
	name := func(i int) string {
		if i >= 0 && i < len(words) {
			return words[i].Name
		}
		return ""
	}
	s := globalStatement{GlobalStatement: GlobalStatement{Text: st.Text, What: st.Name()}}
	is := func(i int, keyword string) bool { return i < len(words) && words[i].Is(keyword) }
	switch {
	case is(1, "ROLE") && (is(0, "CREATE") || is(0, "ALTER")):
		s.role = name(2)
	case is(1, "TABLESPACE") && (is(0, "CREATE") || is(0, "ALTER")):
		s.tablespace, s.Outside = name(2), is(0, "CREATE")
	case is(0, "COMMENT") || is(0, "SECURITY"):
		on := slices.IndexFunc(words, func(w postgres.SQLWord) bool { return w.Is("ON") })
		if is(on+1, "ROLE") {
			s.role = name(on + 2)
		} else if is(on+1, "TABLESPACE") {
			s.tablespace = name(on + 2)
		}
	case is(0, "GRANT") || is(0, "REVOKE"):
		// In a GRANT of a membership ON is no keyword: only names stand there.
		on := slices.IndexFunc(words, func(w postgres.SQLWord) bool { return w.Is("ON") })
		to := lastWord(words, "TO", "FROM")
		s.role = name(to + 1)
		if on < 0 || on > to {
			s.member, s.group = true, name(1)
		} else if is(on+1, "TABLESPACE") {
			s.tablespace = name(on + 2)
		}
	}
	switch {
	case s.member:
		s.What = fmt.Sprintf("%s %s TO %s", words[0].Text, s.group, s.role)
	case s.tablespace != "":
		s.What += " " + s.tablespace
	case s.role != "":
		s.What += " " + s.role
	}
	return s
}

// lastWord returns where the last of some keywords stands, -1 if none does.
func lastWord(words []postgres.SQLWord, keywords ...string) int {
	for i := len(words) - 1; i >= 0; i-- {
		if slices.ContainsFunc(keywords, words[i].Is) {
			return i
		}
	}
	return -1
}

// Missing returns what is to run on a server that has some roles and tablespaces. Those
// stay as they are: nothing that is about them is in it, and they are returned as kept. What cannot
// be given to a role that there is, is left out as well.
func (g *Globals) Missing(roles, tablespaces map[string]bool) (run []GlobalStatement, kept []string) {
	for _, r := range g.Roles {
		if roles[r] {
			kept = append(kept, "role "+r)
		}
	}
	for _, t := range g.Tablespaces {
		if tablespaces[t] {
			kept = append(kept, "tablespace "+t)
		}
	}
	for _, s := range g.statements {
		if s.role != "" && roles[s.role] || s.tablespace != "" && tablespaces[s.tablespace] {
			continue
		}
		run = append(run, s.GlobalStatement)
	}
	return run, kept
}

// WithoutTablespaces returns the same without tablespaces, which are folders of the
// server that was dumped.
func (g *Globals) WithoutTablespaces() *Globals {
	list := slices.DeleteFunc(slices.Clone(g.statements), func(s globalStatement) bool { return s.tablespace != "" })
	return &Globals{Roles: g.Roles, statements: list}
}
