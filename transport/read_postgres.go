package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// A server is one database of one server on the host, as Reads name it.
type server struct {
	dir      string
	port     int
	database string
}

func (s server) endpoint() Endpoint {
	return Endpoint{SocketDir: s.dir, Port: s.port, Database: s.database}.withDefaults()
}

// sessionCache keeps the sessions of a Read for the next one.
type sessionCache struct {
	mu   sync.Mutex
	free map[Endpoint]*session
}

// A session is a PostgreSQL session that only reads.
type session struct {
	conn   *pgconn.PgConn
	stream *stream
	parked *parked
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
	conn, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err != nil {
		return nil, dialled.because(ctx, err)
	}
	s = &session{conn: conn}
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
func (h *host) askServer(outer context.Context, at server, asked []facts.Read, limit time.Duration, answer func(facts.Read, facts.Answer)) error {
	ctx, cancel := context.WithTimeout(outer, limit)
	defer cancel()
	late := func(err error) error {
		if err != nil && ctx.Err() != nil && outer.Err() == nil && h.c.err() == nil {
			return &Error{Kind: KindPostgres, Op: "ask PostgreSQL on " + at.endpoint().socket(), Err: fmt.Errorf("no answer within %s", limit)}
		}
		return err
	}
	s, err := h.session(ctx, at.endpoint())
	if err = late(err); err != nil {
		if concernsHost(err) {
			return err
		}
		for _, r := range asked {
			switch r.(type) {
			case facts.Postgres:
				answer(r, facts.Answer{Value: facts.Server{Problem: err.Error()}})
			case facts.Query:
				answer(r, facts.Answer{Value: facts.QueryResult{Problem: problemOf(err)}})
			}
		}
		return nil
	}
	s.stream.p.in.allow(maxAnswer)
	ok := true
	for _, r := range asked {
		switch r := r.(type) {
		case facts.Postgres:
			v, err := readServer(ctx, s.conn)
			ok = ok && err == nil
			if err != nil && ctx.Err() != nil {
				err = ctx.Err()
			}
			answer(r, facts.Answer{Value: v, Err: h.c.because(late(err))})
		case facts.Query:
			v, err := runQuery(ctx, s.conn, r.SQL)
			ok = ok && err == nil
			answer(r, facts.Answer{Value: v, Err: h.c.because(late(err))})
		}
	}
	if ok && !s.conn.IsClosed() {
		h.keepSession(at.endpoint(), s)
	} else {
		s.close()
	}
	return outer.Err()
}

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
func setTimeout() string {
	return fmt.Sprintf("SET LOCAL statement_timeout = '%ds'", int(queryTimeout.Seconds()))
}

// runQuery runs a user's query in a read-only transaction that is rolled back.
// The extended protocol takes one statement only, so that no COMMIT can be
// smuggled in.
func runQuery(ctx context.Context, conn *pgconn.PgConn, sql string) (facts.QueryResult, error) {
	p := conn.StartPipeline(ctx)
	none := func(sql string) { p.SendQueryParams(sql, nil, nil, nil, nil) }
	none("BEGIN READ ONLY")
	none(setTimeout())
	none(sql)
	err := p.Sync()
	if err == nil {
		none("ROLLBACK")
		err = p.Sync()
	}
	if err != nil {
		return facts.QueryResult{}, errors.Join(err, p.Close())
	}
	var result facts.QueryResult
	for n := 0; ; {
		next, err := p.GetResults()
		if err != nil {
			var pg *pgconn.PgError
			if !errors.As(err, &pg) {
				return result, errors.Join(err, p.Close())
			}
			result = facts.QueryResult{Problem: pg.Message}
			continue
		}
		if next == nil {
			break
		}
		r, ok := next.(*pgconn.ResultReader)
		if !ok {
			continue // the end of one Sync
		}
		rows := r.Read()
		if rows.Err != nil {
			var pg *pgconn.PgError
			if !errors.As(rows.Err, &pg) {
				return result, errors.Join(rows.Err, p.Close())
			}
			result = facts.QueryResult{Problem: pg.Message}
			continue
		}
		if n++; n == 3 && len(rows.Rows) > 0 && len(rows.Rows[0]) > 0 {
			result.True = string(rows.Rows[0][0]) == "t"
		}
	}
	return result, p.Close()
}
