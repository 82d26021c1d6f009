package transport

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// placeOf returns where a Read is asked, and how long its answer may take beyond
// what any answer takes. What concerns a server as a whole is asked in the
// database postgres, so that one session serves it all.
func placeOf(r facts.Read) (Endpoint, time.Duration) {
	at, wait := Endpoint{}, time.Duration(0)
	switch r := r.(type) {
	case facts.Postgres:
		at = Endpoint{SocketDir: r.SocketDir, Port: r.Port}
	case facts.Cluster:
		at = Endpoint{SocketDir: r.SocketDir, Port: r.Port}
	case facts.Available:
		at = Endpoint{SocketDir: r.SocketDir, Port: r.Port}
	case facts.Contents:
		at, wait = Endpoint{SocketDir: r.SocketDir, Port: r.Port, Database: r.Database}, queryTimeout
	case facts.Deparse:
		at, wait = Endpoint{SocketDir: r.SocketDir, Port: r.Port, Database: r.Database}, lockTimeout
	case facts.Query:
		at, wait = Endpoint{SocketDir: r.SocketDir, Port: r.Port, Database: r.Database}, queryTimeout
	case facts.Rehearse:
		at, wait = Endpoint{SocketDir: r.SocketDir, Port: r.Port, Database: r.Database}, rehearsalTime(r)
	}
	return at.withDefaults(), wait
}

// sessionCache keeps the sessions of a Read for the next one.
type sessionCache struct {
	mu   sync.Mutex
	free map[Endpoint]*session
}

// A session is a PostgreSQL session that reads.
type session struct {
	conn    *pgconn.PgConn
	stream  *stream
	parked  *parked
	notices []*pgconn.Notice // since the answer before
}

// session returns an open session, or a new one.
func (h *host) session(ctx context.Context, at Endpoint) (*session, error) {
	h.pg.mu.Lock()
	s := h.pg.free[at]
	delete(h.pg.free, at)
	h.pg.mu.Unlock()
	if s != nil && h.c.sessions.unpark(s.parked) {
		return s, nil
	}
	config, dialled, err := h.pgConfig(at)
	if err != nil {
		return nil, err
	}
	s = &session{}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { s.notices = append(s.notices, n) }
	if s.conn, err = pgconn.ConnectConfig(ctx, &config.Config); err != nil {
		return nil, dialled.because(ctx, err)
	}
	s.stream, _ = dialled.get()
	s.parked = &parked{close: s.close}
	return s, nil
}

// close ends the session without waiting for its end.
func (s *session) close() {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lingering)
		defer cancel()
		_ = s.conn.Close(ctx)
	}()
}

// keepSession puts a session that works back for the next Read.
func (h *host) keepSession(at Endpoint, s *session) {
	h.pg.mu.Lock()
	if h.pg.free == nil {
		h.pg.free = map[Endpoint]*session{}
	}
	_, taken := h.pg.free[at]
	if !taken {
		h.pg.free[at] = s
	}
	h.pg.mu.Unlock()
	if taken {
		s.close()
		return
	}
	h.c.sessions.park(s.parked)
}

// close says goodbye to the servers, as far as the network lets it.
func (c *sessionCache) close(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.free {
		_ = s.conn.Close(ctx)
	}
	c.free = nil
}

// askServer answers all questions about one database over one session. The
// error returned concerns the whole host. A server that has not answered within
// limit has only itself to blame.
func (h *host) askServer(outer context.Context, at Endpoint, asked []facts.Read, limit time.Duration, answer func(facts.Read, facts.Answer)) error {
	ctx, cancel := context.WithTimeout(outer, limit)
	defer cancel()
	late := func(err error) error {
		if err != nil && ctx.Err() != nil && outer.Err() == nil && h.c.err() == nil {
			return &Error{Kind: KindPostgres, Op: "ask PostgreSQL on " + at.socket(), Err: fmt.Errorf("no answer within %s", limit)}
		}
		return err
	}
	s, err := h.session(ctx, at)
	if err = late(err); err != nil {
		if concernsHost(err) {
			return err
		}
		for _, r := range asked {
			answer(r, facts.Answer{Value: unreached(r, err)})
		}
		return nil
	}
	s.stream.p.in.allow(maxAnswer)
	answered := map[facts.Read]bool{}
	err = s.ask(ctx, asked, func(r facts.Read, a facts.Answer) {
		answered[r] = true
		answer(r, a)
	})
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	for _, r := range asked {
		if !answered[r] {
			answer(r, facts.Answer{Err: h.c.because(late(err))})
		}
	}
	if err == nil && !s.conn.IsClosed() {
		h.keepSession(at, s)
	} else {
		s.close()
	}
	return outer.Err()
}

// ask answers questions: first those that only read, all at once, and then the
// rehearsals, whose locks they would wait for.
func (s *session) ask(ctx context.Context, asked []facts.Read, answer func(facts.Read, facts.Answer)) error {
	var reading []*question
	var rehearsals []facts.Rehearse
	for _, r := range asked {
		if rehearsal, ok := r.(facts.Rehearse); ok {
			rehearsals = append(rehearsals, rehearsal)
		} else {
			reading = append(reading, newQuestion(r, s.major()))
		}
	}
	if err := s.run(ctx, reading, answer); err != nil {
		return err
	}
	for _, r := range rehearsals {
		if err := s.rehearse(ctx, r, answer); err != nil {
			return err
		}
	}
	return nil
}

// major returns the server's major version, which decides what can be asked. It
// is known from the start of the session.
func (s *session) major() int {
	major, _ := strconv.Atoi(leadingDigits(s.conn.ParameterStatus("server_version")))
	return major
}

// leadingDigits returns "15" of "15.18 (Debian 15.18-0+deb12u1)".
func leadingDigits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

// newQuestion returns what a Read asks of a server of a major version.
func newQuestion(r facts.Read, major int) *question {
	switch r := r.(type) {
	case facts.Postgres:
		return askAboutServer(r, major)
	case facts.Cluster:
		return askCluster(r, major)
	case facts.Available:
		return askAvailable(r)
	case facts.Contents:
		return askContents(r)
	case facts.Deparse:
		return askDeparse(r)
	case facts.Query:
		return askQuery(r)
	}
	return &question{read: r, begin: beginReading, end: endReading, answer: func(reply) (any, error) {
		return nil, fmt.Errorf("%T is not a question for a server", r)
	}}
}

// unreached returns the answer to a Read where no session could be opened.
func unreached(r facts.Read, err error) any {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == invalidCatalogName {
		switch r.(type) {
		case facts.Contents:
			return facts.ContentsInfo{Missing: true}
		case facts.Rehearse:
			return facts.Rehearsed{Missing: true}
		}
	}
	switch r.(type) {
	case facts.Postgres:
		return facts.Server{Problem: err.Error()}
	case facts.Query:
		return facts.QueryResult{Problem: problemOf(err)}
	case facts.Cluster:
		return facts.ClusterInfo{Problem: err.Error()}
	case facts.Available:
		return facts.AvailableInfo{Problem: problemOf(err)}
	case facts.Contents:
		return facts.ContentsInfo{Problem: problemOf(err)}
	case facts.Deparse:
		return facts.Deparsed{Problem: problemOf(err)}
	case facts.Rehearse:
		return facts.Rehearsed{Problem: problemOf(err)}
	}
	return nil
}

// SQLSTATEs, from PostgreSQL's errcodes.txt.
const (
	invalidCatalogName = "3D000" // there is no such database
	activeTransaction  = "25001" // the statement cannot run in a transaction
	lockNotAvailable   = "55P03" // lock_timeout
)

// problemOf returns a server's own message, or the error's.
func problemOf(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Message
	}
	return err.Error()
}

// queryTimeout bounds each statement of a Read on the server.
const queryTimeout = 30 * time.Second

// setTimeout is the statement that sets it.
func setTimeout() statement {
	return statement{sql: fmt.Sprintf("SET LOCAL statement_timeout = '%ds'", int(queryTimeout.Seconds()))}
}

// askQuery asks a user's own query, in a read-only transaction that is rolled
// back.
func askQuery(r facts.Query) *question {
	result := facts.QueryResult{}
	first := true
	return &question{
		read: r, begin: "BEGIN READ ONLY", end: rollback,
		list: []statement{setTimeout(), {sql: r.SQL, read: func(r row) error {
			if first && len(r) > 0 {
				result.True = r.bool(0)
			}
			first = false
			return nil
		}}},
		answer: func(r reply) (any, error) {
			if r.failed != nil {
				return facts.QueryResult{Problem: r.failed.Message}, nil
			}
			return result, nil
		},
	}
}
