package transport

import (
	"errors"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// askDeparse asks what an expression over a table's columns means to the server:
// for its parse tree, which debug_print_parse sends to the client. Two texts
// with the same tree are the same condition.
//
// The statement is parsed and neither planned nor run. To plan it, as EXPLAIN
// does, is to call the IMMUTABLE functions in it, as the superuser that we are:
// whoever may write such a function, or alter a policy of a table of their own,
// could have a plan of ours run it. A tree also has OIDs where a text has names,
// so that search_path matters only to how names are found: as the session has
// it, in which CREATE POLICY will be run.
//
// Nothing of this comes into the server's log.
func askDeparse(r facts.Deparse) *question {
	q := question{read: r, begin: beginReading, end: endReading}
	if err := postgres.CheckExpression(r.Expr); err != nil {
		q.answer = func(reply) (any, error) { return facts.Deparsed{Problem: err.Error()}, nil }
		return &q
	}
	table := postgres.QuoteIdent(r.Schema) + "." + postgres.QuoteIdent(r.Table)
	var result facts.Deparsed
	q.list = []statement{
		setTimeout(),
		setLockTimeout(),
		{sql: `SELECT pg_catalog.set_config('log_min_messages', 'panic', true), pg_catalog.set_config('debug_pretty_print', 'off', true),
			pg_catalog.set_config('debug_print_parse', 'on', true), pg_catalog.set_config('client_min_messages', 'log', true)`},
		// ONLY, because partitions would be locked as well. WHERE takes what USING
		// takes. A comment at the expression's end does not reach the parenthesis.
		{sql: "SELECT FROM ONLY " + table + " WHERE (" + r.Expr + "\n)", parsed: func(p parsing) error {
			if p.params > 0 {
				result.Problem = "there is no parameter $1" // as CREATE POLICY says
				return nil
			}
			for _, n := range p.notices {
				if n.Message == "parse tree:" {
					result.Text = canonicalTree(n.Detail)
				}
			}
			if result.Text == "" {
				return errors.New("the server has sent no parse tree")
			}
			return nil
		}},
	}
	q.answer = func(r reply) (any, error) {
		if r.failed != nil {
			problem := lockProblem(r.failed, table+" or another table of the expression")
			if r.failed.Hint != "" {
				problem += " (" + strings.TrimSuffix(r.failed.Hint, ".") + ")"
			}
			return facts.Deparsed{Problem: problem}, nil
		}
		return result, nil
	}
	return &q
}

// canonicalTree takes out of a tree, as the server's outfuncs.c writes it, what
// does not count when the server compares two (equalfuncs.c): where in the text
// something stood, and whether a cast was written. The names of tables and
// columns within a query are taken out too, because the tree refers to them by
// number, and a deparse may name them differently; and NATURAL, for which a
// deparse says USING.
func canonicalTree(text string) string {
	words := treeWords(text)
	var kept []string
	for i := 0; i < len(words); i++ {
		if !strings.HasPrefix(words[i], ":") || !cosmetic(words[i]) {
			kept = append(kept, words[i])
			continue
		}
		// Its value is one word, or what stands in brackets.
		depth := 0
		for i+1 < len(words) {
			next := words[i+1]
			if depth == 0 && (strings.HasPrefix(next, ":") || next == "}" || next == ")") {
				break
			}
			i++
			switch next {
			case "{", "(", "[":
				depth++
			case "}", ")", "]":
				depth--
			}
			if depth == 0 {
				break
			}
		}
	}
	return strings.Join(kept, " ")
}

// cosmetic reports whether a field of a tree is of no matter.
func cosmetic(field string) bool {
	switch field {
	case ":stmt_len", ":alias", ":eref", ":resname", ":isNatural", ":rexpr_list_start", ":rexpr_list_end", ":list_start", ":list_end",
		":funcformat", ":relabelformat", ":coerceformat", ":convertformat", ":coercionformat", ":castformat", ":row_format":
		return true
	}
	return strings.HasSuffix(field, "location")
}

// treeWords takes a tree apart. A backslash makes the character after it part of
// a word.
func treeWords(text string) []string {
	var words []string
	start := -1
	end := func(i int) {
		if start >= 0 {
			words = append(words, text[start:i])
			start = -1
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == ' ' || c == '\n':
			end(i)
		case strings.IndexByte("{}()[]", c) >= 0:
			end(i)
			words = append(words, string(c))
		default:
			if start < 0 {
				start = i
			}
			if c == '\\' {
				i++
			}
		}
	}
	end(len(text))
	return slices.Clip(words)
}
