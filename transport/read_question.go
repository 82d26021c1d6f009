package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// A question is what one Read asks of a database: statements that run in a
// transaction of their own.
type question struct {
	read  facts.Read
	begin string // the statement that begins the transaction
	end   string // and the one that ends it, also after an error
	list  []statement
	// answer returns the Read's answer when all rows were read. Where a
	// statement failed no row was, and the reply says which it was and why.
	answer func(reply) (any, error)
}

// What begins and ends the transactions. One that reads sees the catalogs as
// they were at one moment.
const (
	beginReading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	endReading   = "COMMIT" // a transaction that failed is rolled back by it
	rollback     = "ROLLBACK"
)

// A statement is one of a question. The extended protocol takes one statement
// only, so that nothing can be smuggled in behind it.
type statement struct {
	sql     string
	columns int             // of its rows
	read    func(row) error // takes a row; nil where rows do not matter
	// failed takes the server's error, which then does not count against the
	// whole answer; nil where it does.
	failed func(*pgconn.PgError)
	// parsed takes what the server said while it parsed a statement that is not
	// to be run; nil where it is to be run.
	parsed func(parsing) error
}

// A parsing is what came of a statement that was parsed and not run.
type parsing struct {
	params  int // how many $1, $2, ... there are
	notices []*pgconn.Notice
}

// A reply is what the server said to one question.
type reply struct {
	rows   [][]row         // of each statement up to the first that failed
	parsed map[int]parsing // of those that were parsed only
	failed *pgconn.PgError
	status byte // of the transaction before it was ended: 'T', 'E', or 'I' if it is gone
}

// A row is one row in text format.
type row [][]byte

func (r row) text(i int) string { return string(r[i]) }
func (r row) bool(i int) bool   { return string(r[i]) == "t" }
func (r row) int(i int) int     { n, _ := strconv.Atoi(string(r[i])); return n }

// list reads an array that the query turned into JSON; NULL elements are "".
func (r row) list(i int) ([]string, error) {
	if r[i] == nil {
		return nil, nil
	}
	var list []string
	err := json.Unmarshal(r[i], &list)
	return list, err
}

// addr is invalid for NULL, a local socket. A single address is printed without
// its prefix length.
func (r row) addr(i int) netip.Addr {
	a, _ := netip.ParseAddr(string(r[i]))
	return a
}

// run asks the questions, all of them at once, and answers each. A question
// with a statement that may fail, and did, is asked again without it. The error
// is that of the session.
func (s *session) run(ctx context.Context, asked []*question, answer func(facts.Read, facts.Answer)) error {
	for len(asked) > 0 {
		replies, err := s.exchange(ctx, asked)
		if err != nil {
			return err
		}
		var again []*question
		for i, q := range asked {
			if q.drop(replies[i]) {
				again = append(again, q)
				continue
			}
			v, err := q.conclude(replies[i])
			answer(q.read, facts.Answer{Value: v, Err: err})
		}
		asked = again
	}
	return nil
}

// drop removes the statement that failed, if it may, and reports whether it did.
func (q *question) drop(r reply) bool {
	at := len(r.rows)
	if r.failed == nil || at >= len(q.list) || q.list[at].failed == nil {
		return false
	}
	q.list[at].failed(r.failed)
	q.list = slices.Delete(q.list, at, at+1)
	return true
}

// conclude reads the rows and returns the answer.
func (q *question) conclude(r reply) (any, error) {
	if r.failed != nil {
		return q.answer(r)
	}
	for i, st := range q.list {
		if st.parsed != nil {
			if err := st.parsed(r.parsed[i]); err != nil {
				return nil, err
			}
		}
		if st.read == nil {
			continue
		}
		for _, row := range r.rows[i] {
			if len(row) != st.columns && st.columns > 0 {
				return nil, fmt.Errorf("the server's answer has %d columns where %d were asked for: is it PostgreSQL?", len(row), st.columns)
			}
			if err := st.read(row); err != nil {
				return nil, fmt.Errorf("the server's answer: %w", err)
			}
		}
	}
	return q.answer(r)
}

// exchange sends all questions before it reads the first answer, so that they
// take one round trip. An error of one statement ends its question and no
// other.
func (s *session) exchange(ctx context.Context, asked []*question) ([]reply, error) {
	p := s.conn.StartPipeline(ctx)
	for _, q := range asked {
		p.SendQueryParams(q.begin, nil, nil, nil, nil)
		for _, st := range q.list {
			if st.parsed != nil {
				p.SendPrepare("", st.sql, nil)
			} else {
				p.SendQueryParams(st.sql, nil, nil, nil, nil)
			}
		}
		p.SendPipelineSync()
		p.SendQueryParams(q.end, nil, nil, nil, nil)
		p.SendPipelineSync()
	}
	err := p.Flush()
	var replies []reply
	for i := 0; err == nil && i < len(asked); i++ {
		var r reply
		if r, err = s.reply(p, asked[i]); err == nil {
			replies = append(replies, r)
		}
	}
	if closed := p.Close(); err == nil && s.conn.IsClosed() {
		err = closed
	}
	return replies, err
}

// reply reads what the server said to one question.
func (s *session) reply(p *pgconn.Pipeline, q *question) (reply, error) {
	var r reply
	begun := false
	for {
		s.notices = nil
		next, err := p.GetResults()
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && !s.conn.IsClosed() {
			r.failed = pg
			continue // with the Sync, where the server goes on
		}
		if err != nil {
			return r, err
		}
		var rows []row
		switch got := next.(type) {
		case *pgconn.PipelineSync:
			r.status = s.conn.TxStatus()
			return r, s.ended(p)
		case *pgconn.StatementDescription:
			r.parsed[len(r.rows)] = parsing{params: len(got.ParamOIDs), notices: s.notices}
		case *pgconn.ResultReader:
			keep := begun && q.list[len(r.rows)].read != nil
			for got.NextRow() {
				if keep {
					rows = append(rows, cloned(got.Values()))
				}
			}
			_, err = got.Close()
		default:
			return r, fmt.Errorf("the server's answer ends early: is it PostgreSQL?")
		}
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && !s.conn.IsClosed() {
			r.failed = pg
			continue
		}
		if err != nil {
			return r, err
		}
		if begun {
			r.rows = append(r.rows, rows)
		} else {
			begun, r.parsed = true, map[int]parsing{}
		}
	}
}

// ended reads that the transaction was ended.
func (s *session) ended(p *pgconn.Pipeline) error {
	for {
		next, err := p.GetResults()
		if err != nil {
			return err
		}
		switch got := next.(type) {
		case *pgconn.PipelineSync:
			return nil
		case *pgconn.ResultReader:
			if _, err := got.Close(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the server's answer ends early: is it PostgreSQL?")
		}
	}
}

// cloned copies a row, whose bytes are overwritten by the next one.
func cloned(values [][]byte) row {
	r := make(row, len(values))
	for i, v := range values {
		if v != nil {
			r[i] = append([]byte{}, v...)
		}
	}
	return r
}
