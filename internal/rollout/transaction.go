package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// Limits of our own statements. Somebody else's lock must not make ours hold up
// everybody behind it. What stands alone, such as CREATE DATABASE, copies files.
const (
	lockTimeout      = 5 * time.Second
	statementTimeout = time.Minute
	aloneTimeout     = 15 * time.Minute
	closeTimeout     = 5 * time.Second
)

// transact runs statements of one database as one transaction, and a statement
// that cannot be in one on its own.
func (x *executor) transact(ctx context.Context, changes []tasks.Change) error {
	first := changes[0].Action.(tasks.Execute)
	var list []catalog.Statement
	for _, c := range changes {
		list = append(list, c.Action.(tasks.Execute).Statement)
	}
	x.phase(fmt.Sprintf("running %s in database %s", statementCount(len(list)), first.Database))
	if first.Statement.Alone() {
		// Our own sessions in a template would keep CREATE DATABASE waiting.
		x.conn.Refresh()
	}
	x.begun = true
	conn, err := x.conn.Postgres(ctx, transport.Endpoint{SocketDir: first.SocketDir, Port: first.Port, Database: first.Database})
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	t := &transaction{conn: conn, reveal: x.run.reveal, fence: x.run.fence(x.instance.Host), lost: func() error { return x.lost(ctx) }}
	if first.Statement.Alone() {
		return t.alone(ctx, first.Statement)
	}
	return t.run(ctx, list)
}

func statementCount(n int) string {
	if n == 1 {
		return "1 statement"
	}
	return fmt.Sprintf("%d statements", n)
}

// closeSession ends a session, also when the run is being stopped. A session
// whose statement was cut off cancels it on the server, which is waited for, so
// that no transaction stays behind.
func closeSession(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
	select {
	case <-conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}

// A transaction sends statements to a server, each as a message of its own,
// because a message with several is logged whole.
type transaction struct {
	conn    *pgx.Conn
	reveal  tasks.Reveal
	fence   *transport.Fence // nil where there is none
	lost    func() error     // why the way to the server has ended, or nil; nil where nobody knows
	pending []sent
	// stored, if not nil, is the verifier that SetPassword stores in the place of
	// one that is computed.
	stored *secrets.Secret
}

// reason returns why a session broke: pgx knows only that it did.
func (t *transaction) reason(ctx context.Context, err error) error {
	if pg := (*pgconn.PgError)(nil); err == nil || t.lost == nil || ctx.Err() != nil || errors.As(err, &pg) {
		return err
	}
	if why := t.lost(); why != nil {
		return why
	}
	return err
}

// A sent is SQL and what to call it in an error.
type sent struct {
	sql, name string
	statement catalog.Statement
}

// limits are the parameters of our transactions. A commit that waits for a
// synchronous standby which is down would wait forever, deaf to statement_timeout.
func limits(set string, statement time.Duration) []string {
	return []string{
		set + " synchronous_commit = local",
		fmt.Sprintf("%s lock_timeout = %d", set, lockTimeout.Milliseconds()),
		fmt.Sprintf("%s statement_timeout = %d", set, statement.Milliseconds()),
		fmt.Sprintf("%s idle_in_transaction_session_timeout = %d", set, idleTimeout.Milliseconds()),
	}
}

// run begins, runs the statements and commits.
func (t *transaction) run(ctx context.Context, list []catalog.Statement) error {
	if err := t.statements(ctx, list); err != nil {
		return fmt.Errorf("%w; nothing of the transaction was kept", err)
	}
	result, err := t.conn.PgConn().Exec(ctx, "COMMIT").ReadAll()
	switch pg := (*pgconn.PgError)(nil); {
	case errors.As(err, &pg) && (pg.Severity == "ERROR" || pg.Code == idleInTransaction):
		return fmt.Errorf("COMMIT: %s; nothing of the transaction was kept", serverSays(pg))
	case err != nil:
		return fmt.Errorf("COMMIT: %w; whether the server has kept the transaction is not known; the next run asks it", because(ctx, t.reason(ctx, err)))
	case len(result) == 0 || result[0].CommandTag.String() != "COMMIT":
		return errors.New("COMMIT: the server rolled the transaction back; nothing of it was kept")
	}
	return nil
}

func (t *transaction) statements(ctx context.Context, list []catalog.Statement) error {
	if holdsPassword(list) {
		// Whether a transaction's statements are logged as part of a sample is
		// decided when it begins.
		if err := t.send(ctx, "SET log_transaction_sample_rate = 0"); err != nil {
			return err
		}
	}
	t.queue("BEGIN")
	for _, sql := range limits("SET LOCAL", statementTimeout) {
		t.queue(sql)
	}
	if t.fence != nil {
		t.queue("SELECT pg_catalog.pg_advisory_xact_lock_shared(" + leaseLock + ")")
		t.queue(leaseCheck(t.fence))
	}
	for _, st := range list {
		if p, ok := st.(catalog.SetPassword); ok && !p.None {
			if err := t.flush(ctx); err != nil {
				return err
			}
			if err := t.setPassword(ctx, p); err != nil {
				return fmt.Errorf("%s: %w", st.SQL(), err)
			}
			continue
		}
		as := ""
		if r, ok := st.(interface{ RunAs() string }); ok {
			as = r.RunAs()
		}
		if as != "" {
			t.queue("SET LOCAL ROLE " + postgres.QuoteIdent(as))
		}
		t.pending = append(t.pending, sent{st.SQL(), oneLine(st.SQL()), st})
		if as != "" {
			t.queue("SET LOCAL ROLE NONE")
		}
	}
	return t.flush(ctx)
}

func holdsPassword(list []catalog.Statement) bool {
	for _, st := range list {
		if p, ok := st.(catalog.SetPassword); ok && !p.None {
			return true
		}
	}
	return false
}

// alone runs a statement that cannot be in a transaction.
func (t *transaction) alone(ctx context.Context, st catalog.Statement) error {
	for _, sql := range limits("SET", aloneTimeout) {
		if err := t.send(ctx, sql); err != nil {
			return fmt.Errorf("%w; nothing was changed", err)
		}
	}
	if err := holdLease(ctx, t.conn, t.fence); err != nil {
		return err
	}
	_, err := t.conn.PgConn().Exec(ctx, st.SQL()).ReadAll()
	if pg := (*pgconn.PgError)(nil); err != nil && !errors.As(err, &pg) {
		return fmt.Errorf("%s: %w; whether the server has done it is not known; the next run asks it", oneLine(st.SQL()), because(ctx, t.reason(ctx, err)))
	}
	return explain(ctx, sent{st.SQL(), oneLine(st.SQL()), st}, err)
}

// queue adds a statement of our own to those that flush sends.
func (t *transaction) queue(sql string) { t.pending = append(t.pending, sent{sql: sql, name: sql}) }

// flush sends what is queued, without waiting for each answer: one round trip.
// The server stops at the first error.
func (t *transaction) flush(ctx context.Context) error {
	pending := t.pending
	t.pending = nil
	batch := &pgconn.Batch{}
	for _, m := range pending {
		batch.ExecParams(m.sql, nil, nil, nil, nil)
	}
	answers := t.conn.PgConn().ExecBatch(ctx, batch)
	done := 0
	for answers.NextResult() {
		if _, err := answers.ResultReader().Close(); err != nil {
			break
		}
		done++
	}
	if err := t.reason(ctx, answers.Close()); err != nil {
		if gone(err) {
			return err // which statement it was cannot be told
		}
		return explain(ctx, pending[min(done, len(pending)-1)], err)
	}
	return nil
}

// send runs a statement of our own.
func (t *transaction) send(ctx context.Context, sql string) error {
	_, err := t.conn.PgConn().Exec(ctx, sql).ReadAll()
	return explain(ctx, sent{sql: sql, name: sql}, t.reason(ctx, err))
}

// explain says which statement failed and why.
func explain(ctx context.Context, m sent, err error) error {
	pg := (*pgconn.PgError)(nil)
	lost := lostLease(err)
	switch {
	case err == nil:
		return nil
	case lost != nil:
		return lost
	case !errors.As(err, &pg):
		return fmt.Errorf("%s: %w", m.name, because(ctx, err))
	case pg.Code == lockNotAvailable && m.statement != nil:
		return fmt.Errorf("%s: somebody holds a lock on %s for longer than %v (SQLSTATE %s); nothing was changed; run it again", m.name, m.statement.Subject(), lockTimeout, pg.Code)
	}
	return fmt.Errorf("%s: %s", m.name, serverSays(pg))
}

// lockNotAvailable is the SQLSTATE of a lock_timeout.
const lockNotAvailable = "55P03"

// idleInTransaction is that of an idle_in_transaction_session_timeout, which ends
// the session.
const idleInTransaction = "25P03"

// serverSays returns an error in the server's words.
func serverSays(pg *pgconn.PgError) string {
	text := pg.Message
	if pg.Detail != "" {
		text += "; " + strings.TrimSuffix(pg.Detail, ".")
	}
	if pg.Hint != "" {
		text += "; " + strings.TrimSuffix(pg.Hint, ".")
	}
	return text
}

// oneLine is a statement short enough for an error.
func oneLine(sql string) string {
	sql = strings.Join(strings.Fields(sql), " ")
	if r := []rune(sql); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return sql
}
