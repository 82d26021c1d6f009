package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// rehearsalTime is how long a rehearsal may take: its script, and reading the
// catalogs after it.
func rehearsalTime(r facts.Rehearse) time.Duration {
	return time.Duration(r.Timeout)*time.Millisecond + queryTimeout
}

// rehearse runs a script in a transaction that is rolled back, and reads the
// catalogs inside it. Statements go one by one over the extended protocol, but
// all of them at once: none of them can end the transaction, because those that
// could are found by their first words, and each is sent as one statement
// whatever we took it for.
func (s *session) rehearse(ctx context.Context, r facts.Rehearse, answer func(facts.Read, facts.Answer)) error {
	script, err := postgres.SplitScript(r.SQL)
	if err != nil {
		answer(r, facts.Answer{Value: facts.Rehearsed{Problem: err.Error()}})
		return nil
	}
	for _, st := range script {
		if what := st.Outside(); what != "" {
			answer(r, facts.Answer{Value: facts.Rehearsed{Outside: fmt.Sprintf("line %d: %s", st.Line, what)}})
			return nil
		}
	}
	limit := rehearsalTime(r)
	inside, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = s.run(inside, []*question{askRehearsal(r, script, s.major())}, answer)
	if err != nil && inside.Err() != nil && ctx.Err() == nil {
		answer(r, facts.Answer{Value: facts.Rehearsed{Problem: fmt.Sprintf("it took longer than %s", limit)}})
		return errors.New("the rehearsal before this one took too long")
	}
	if err != nil {
		return err
	}
	// Prepared statements and advisory locks outlive a ROLLBACK.
	return s.conn.Exec(ctx, "DISCARD ALL").Close()
}

// askRehearsal is a rehearsal as a question.
func askRehearsal(r facts.Rehearse, script []postgres.ScriptStatement, major int) *question {
	before := []statement{
		{sql: "SELECT pg_catalog.pg_is_in_recovery()", columns: 1, read: func(row) error { return nil }},
		setLockTimeout(),
		{sql: fmt.Sprintf("SET LOCAL statement_timeout = %d", r.Timeout)},
		{sql: "SET LOCAL synchronous_commit = local"},
	}
	// The script may have become somebody else, and set what it liked.
	after := append([]statement{
		{sql: "SET CONSTRAINTS ALL IMMEDIATE"}, // what is deferred fails now
		{sql: "RESET SESSION AUTHORIZATION"}, {sql: "RESET ROLE"},
		{sql: "SET LOCAL client_encoding = 'UTF8'"},
		{sql: "SET LOCAL extra_float_digits = 1"},
	}, reading()...)
	shared, held := newClusterReader(), newContentsReader()
	after = append(append(after, shared.statements(major)...), held.statements()...)
	list := before
	for _, st := range script {
		list = append(list, statement{sql: st.Text})
	}
	return &question{
		read: r, begin: "BEGIN", end: rollback, list: append(list, after...),
		answer: func(got reply) (any, error) {
			at := len(got.rows) - len(before) // of the statement that failed, in the script
			switch {
			case len(got.rows) > 0 && len(got.rows[0]) == 1 && got.rows[0][0].bool(0):
				return facts.Rehearsed{Problem: "the server is a standby, where nothing can be rehearsed"}, nil
			case got.failed == nil && got.status != 'T':
				return nil, errors.New("the script has ended the transaction that it was rehearsed in; look at what it has changed")
			case got.failed == nil:
				shared.c.Contents[Endpoint{Database: r.Database}.withDefaults().Database] = held.c
				return facts.Rehearsed{Cluster: shared.c}, nil
			case at < 0:
				return facts.Rehearsed{Problem: psqlError(got.failed, nil)}, nil
			case at >= len(script):
				return facts.Rehearsed{Problem: "at the end of the script: " + psqlError(got.failed, nil)}, nil
			case got.failed.Code == activeTransaction:
				return facts.Rehearsed{Outside: fmt.Sprintf("line %d: %s", script[at].Line, script[at].Name())}, nil
			}
			return facts.Rehearsed{Problem: psqlError(got.failed, &script[at])}, nil
		},
	}
}

// psqlError writes a server's error as psql does, with the lines of the script
// that the statement is of.
func psqlError(pg *pgconn.PgError, st *postgres.ScriptStatement) string {
	var b strings.Builder
	line := 0
	echo := ""
	if st != nil {
		line = st.Line
		if pg.Position > 0 {
			line, echo = errorLine(st.Text, st.Line, int(pg.Position))
		}
		fmt.Fprintf(&b, "line %d: ", line)
	}
	if pg.InternalPosition > 0 {
		_, echo = errorLine(pg.InternalQuery, 1, int(pg.InternalPosition))
	}
	severity := pg.Severity
	fmt.Fprintf(&b, "%s:  %s%s", severity, pg.Message, echo)
	for _, more := range []struct{ name, text string }{{"DETAIL", pg.Detail}, {"HINT", pg.Hint}, {"QUERY", pg.InternalQuery}, {"CONTEXT", pg.Where}} {
		if more.text != "" {
			fmt.Fprintf(&b, "\n%s:  %s", more.name, more.text)
		}
	}
	return b.String()
}

// maxEcho is how many characters of a line are shown.
const maxEcho = 60

// errorLine returns the number of the line that holds a character of a
// statement, counted from 1, and the line with a caret under the character, as
// psql shows it.
func errorLine(text string, first, position int) (line int, echo string) {
	line = first
	rest := []rune(text)
	at := min(position-1, len(rest))
	start := 0
	for i, c := range rest[:at] {
		if c == '\n' {
			line, start = line+1, i+1
		}
	}
	end := start
	for end < len(rest) && rest[end] != '\n' && rest[end] != '\r' {
		end++
	}
	shown := rest[start:end]
	column := at - start
	before, after := "", ""
	if len(shown) > maxEcho {
		from := max(0, min(column-maxEcho/2, len(shown)-maxEcho))
		to := from + maxEcho
		if from > 0 {
			before = "..."
		}
		if to < len(shown) {
			after = "..."
		}
		shown, column = shown[from:to], column-from
	}
	prefix := fmt.Sprintf("LINE %d: %s", line, before)
	return line, fmt.Sprintf("\n%s%s%s\n%s^", prefix, strings.ReplaceAll(string(shown), "\t", " "), after, strings.Repeat(" ", len(prefix)+column))
}
