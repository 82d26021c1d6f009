package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A querying is one invocation of sql.
type querying struct {
	app      *app
	query    string
	file     string
	database string
	write    bool
	asJSON   bool
	asCSV    bool
}

func (a *app) sqlCommand() *cobra.Command {
	q := querying{app: a}
	cmd := &cobra.Command{
		Use:   "sql [flags] QUERY",
		Short: "Run a query on every instance, and show one table",
		Long: `Sql runs a query as the superuser over the server's own socket, on primaries and
standbys alike, in a read-only transaction unless --write is given. The answers
are one table with a column for the instance.`,
		Example: `  pgfleet sql "select count(*) from pg_stat_activity"
  pgfleet sql -l role=primary -d appdb --csv "select relname, n_dead_tup from pg_stat_user_tables"
  pgfleet sql --file checks.sql --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.query = args[0]
			}
			return q.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&q.database, "database", "d", "postgres", "the `database`")
	f.StringVar(&q.file, "file", "", "read the query from a `file`; - is standard input")
	f.BoolVar(&q.write, "write", false, "let the query change something")
	f.BoolVar(&q.asJSON, "json", false, "print the answers as JSON")
	f.BoolVar(&q.asCSV, "csv", false, "print the answers as CSV")
	cmd.MarkFlagsMutuallyExclusive("json", "csv")
	return cmd
}

// A reply is what one instance answered.
type reply struct {
	instance inventory.InstanceID
	results  []rowset
	err      error
}

// A rowset is what one statement returned, in PostgreSQL's text form. Nil is
// NULL.
type rowset struct {
	columns []string
	types   []uint32
	rows    [][]*string
	tag     string // of a statement that returns no rows
}

func (q *querying) run(ctx context.Context) error {
	if err := q.read(); err != nil {
		return &inputError{err}
	}
	s, err := q.app.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	replies := q.askAll(ctx, s)
	switch {
	case q.asJSON:
		err = q.app.ui.JSON(repliesJSON(replies))
	case q.asCSV:
		err = q.showCSV(replies)
	default:
		q.app.ui.Print(renderReplies(replies))
	}
	if err != nil {
		return err
	}
	var failed []failure
	for _, r := range replies {
		if r.err != nil {
			failed = append(failed, failure{r.instance, r.err})
		}
	}
	return q.app.failures(failed)
}

// read finds the query.
func (q *querying) read() error {
	switch {
	case q.file == "" && q.query == "":
		return errors.New("a query is missing; give it as an argument, or with --file")
	case q.file != "" && q.query != "":
		return errors.New("give either a query or --file")
	case q.file == "":
		return nil
	}
	var text []byte
	var err error
	if q.file == "-" {
		text, err = io.ReadAll(q.app.term.In)
	} else {
		text, err = os.ReadFile(q.file)
	}
	q.query = string(text)
	return err
}

func (q *querying) askAll(ctx context.Context, s *session) []reply {
	replies := make([]reply, len(s.instances))
	var ids []string
	for _, in := range s.instances {
		ids = append(ids, string(in.ID()))
	}
	p := newProgress(s.app.ui, "asking", ids)
	p.Start()
	defer p.Stop()
	var group errgroup.Group
	group.SetLimit(s.app.forks)
	for i, in := range s.instances {
		group.Go(func() error {
			p.Observe(rollout.Event{Kind: rollout.Surveying, Host: in.Host.Name, Instance: in.ID()})
			r := reply{instance: in.ID(), err: s.undecided[in.ID()]}
			if r.err == nil {
				r.results, r.err = q.ask(ctx, s, in)
			}
			replies[i] = r
			p.Observe(rollout.Event{Kind: rollout.Surveyed, Host: in.Host.Name, Instance: in.ID(), Err: r.err})
			return nil
		})
	}
	_ = group.Wait()
	return replies
}

// ask runs the query on one instance.
func (q *querying) ask(ctx context.Context, s *session, in inventory.Instance) ([]rowset, error) {
	host, err := s.run.Conn(ctx, in.Host)
	if err != nil {
		return nil, err
	}
	conn, err := host.Postgres(ctx, transport.Endpoint{Port: in.Port, Database: q.database})
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if q.write {
		return q.exec(ctx, conn)
	}
	// The default holds for what comes after a COMMIT in the query, too. It is
	// a guard against mistakes: a superuser can switch it off.
	if _, err := conn.Exec(ctx, "set default_transaction_read_only = on; begin read only", pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, sqlError(err, "")
	}
	sets, err := q.exec(ctx, conn)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "rollback", pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, sqlError(err, "")
	}
	return sets, nil
}

// exec runs all statements of the query.
func (q *querying) exec(ctx context.Context, conn *pgx.Conn) ([]rowset, error) {
	results, err := conn.PgConn().Exec(ctx, q.query).ReadAll()
	if err != nil {
		return nil, sqlError(err, q.query)
	}
	var sets []rowset
	for _, r := range results {
		if r.Err != nil {
			return nil, sqlError(r.Err, q.query)
		}
		set := rowset{tag: r.CommandTag.String()}
		for _, f := range r.FieldDescriptions {
			set.columns = append(set.columns, f.Name)
			set.types = append(set.types, f.DataTypeOID)
		}
		for _, values := range r.Rows {
			row := make([]*string, len(values))
			for i, v := range values {
				if v != nil {
					text := string(v)
					row[i] = &text
				}
			}
			set.rows = append(set.rows, row)
		}
		sets = append(sets, set)
	}
	return sets, nil
}

// sqlError returns the server's error as psql shows it: with the line, a caret,
// DETAIL and HINT.
func sqlError(err error, query string) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s:  %s", pg.Severity, pg.Message)
	if pg.Position > 0 && query != "" {
		b.WriteString(caret(query, int(pg.Position)))
	}
	if pg.Detail != "" {
		b.WriteString("\nDETAIL:  " + pg.Detail)
	}
	hint := pg.Hint
	if pg.Code == "25006" { // read_only_sql_transaction
		hint = "Add --write to let the query change something."
	}
	if hint != "" {
		b.WriteString("\nHINT:  " + hint)
	}
	return errors.New(b.String())
}

// caret returns the line of the query that holds a position, in characters from
// 1, with a caret below it.
func caret(query string, position int) string {
	runes := []rune(query)
	position = min(position-1, len(runes))
	start := position
	for start > 0 && runes[start-1] != '\n' {
		start--
	}
	end := position
	for end < len(runes) && runes[end] != '\n' {
		end++
	}
	number := 1 + strings.Count(string(runes[:start]), "\n")
	prefix := fmt.Sprintf("LINE %d: ", number)
	before := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, prefix+string(runes[start:position]))
	return "\n" + prefix + string(runes[start:end]) + "\n" + before + "^"
}
