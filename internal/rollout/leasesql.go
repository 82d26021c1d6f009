package rollout

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A session that writes holds an advisory lock from before it looks at its lease
// until it is done, so that whoever takes the lease can see it in pg_locks and
// wait for it. An advisory lock belongs to one database, so nobody could wait for
// all of them by taking it: but pg_locks shows those of all databases. The first
// number is "pgfl".
const leaseLock = "1885824620, 1"

// How long whoever takes a lease waits for transactions that were begun with
// another: longer than our own may stand idle.
const (
	idleTimeout  = 30 * time.Second
	awaitTimeout = 45 * time.Second
)

// lostMark is in the error that leaseCheck makes. Plain SQL has no other way to
// raise one, and plpgsql may not be there.
const lostMark = "pgfleet-lease-lost"

// leaseCheck is a query that fails if the lease is not the run's any more.
func leaseCheck(f *transport.Fence) string {
	return fmt.Sprintf(`SELECT CASE WHEN pg_catalog.pg_read_binary_file(%s, 0, %d, true) OPERATOR(pg_catalog.=) '\x%x'::pg_catalog.bytea THEN 0
	ELSE pg_catalog.concat('%s ', pg_catalog.pg_backend_pid())::pg_catalog.int4 END`, postgres.QuoteLiteral(path.Join(f.Dir, "lease")), len(f.Line)+1, f.Line+"\n", lostMark)
}

// lostLease returns the error that a failed leaseCheck stands for, and nil for
// any other.
func lostLease(err error) error {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && strings.Contains(pg.Message, lostMark) {
		return &transport.Error{Kind: transport.KindFenced, Op: "check the lease", Err: errors.New("it is not this run's any more")}
	}
	return nil
}

// hold makes sure that the lease is the run's for as long as the session lasts.
func (x *executor) hold(ctx context.Context, conn *pgx.Conn) error {
	return holdLease(ctx, conn, x.run.fence(x.instance.Host))
}

func holdLease(ctx context.Context, conn *pgx.Conn, f *transport.Fence) error {
	if f == nil {
		return nil
	}
	for _, sql := range []string{"SELECT pg_catalog.pg_advisory_lock_shared(" + leaseLock + ")", leaseCheck(f)} {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			if lost := lostLease(err); lost != nil {
				return lost
			}
			return fmt.Errorf("whether the lease is still this run's is not known: %w", because(ctx, err))
		}
	}
	return nil
}

// An openError says that a transaction of an earlier run has not ended: somebody
// is still at the host.
type openError struct{ said string }

func (e *openError) Error() string { return e.said }

// awaitSessions waits, on all servers that are to be changed, until transactions
// are over that were begun with an earlier lease. Nobody begins another: they
// look at the lease, which is ours. The host is the first on which that takes
// too long. Where it cannot be learned, that is the host's own error, when its
// turn comes: its lease is given back.
func (r *Run) awaitSessions(ctx context.Context, stop <-chan struct{}, known []Known, wait time.Duration) (*inventory.Host, error) {
	var mu sync.Mutex
	var host *inventory.Host
	var first error
	failed := map[*inventory.Host]error{}
	var group errgroup.Group
	group.SetLimit(r.forks())
	for _, k := range known {
		if len(changing([]Known{k})) == 0 || k.State == nil || k.State.Server() == nil {
			continue
		}
		group.Go(func() error {
			err := r.awaitSession(ctx, stop, k.Instance, transport.Endpoint{Port: k.Instance.Port}, wait)
			if err != nil && r.connected(k.Instance.Host) == nil { // it changes nothing, so it may be asked by a new connection
				err = r.awaitSession(ctx, stop, k.Instance, transport.Endpoint{Port: k.Instance.Port}, wait)
			}
			_, open := errors.AsType[*openError](err)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case open && first == nil:
				host, first = k.Instance.Host, err
			case err != nil && failed[k.Instance.Host] == nil:
				failed[k.Instance.Host] = err
			}
			return nil
		})
	}
	_ = group.Wait()
	if first == nil && !stopped(ctx, stop) {
		for h, err := range failed {
			r.giveBackOne(ctx, h, err)
		}
	}
	return host, first
}

// awaitSession is awaitSessions for one server. It also returns when the run is
// told to stop.
func (r *Run) awaitSession(ctx context.Context, stop <-chan struct{}, in inventory.Instance, at transport.Endpoint, wait time.Duration) error {
	conn, err := r.conn(ctx, in.Host)
	if err != nil {
		return nil //nolint:nilerr // its steps will say so
	}
	session, err := conn.Postgres(ctx, at)
	if err != nil {
		return nil //nolint:nilerr // a server that is down has no transactions
	}
	defer closeSession(ctx, session)
	deadline := time.Now().Add(max(wait, awaitTimeout))
	told := false
	for {
		var pid int
		var who string
		err := session.QueryRow(ctx, `SELECT a.pid, pg_catalog.concat('database ', a.datname, ', since ', pg_catalog.date_trunc('second', coalesce(a.xact_start, a.backend_start)))
			FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
			WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND ROW(l.classid::pg_catalog.int8, l.objid::pg_catalog.int8, l.objsubid) OPERATOR(pg_catalog.=) ROW(`+leaseLock+`, 2)
			AND a.usesysid OPERATOR(pg_catalog.=) ANY (SELECT oid FROM pg_catalog.pg_roles WHERE rolsuper) -- anybody may take the lock
			LIMIT 1`, pgx.QueryExecModeSimpleProtocol).Scan(&pid, &who)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("whether a transaction of an earlier run is open is not known: %w", because(ctx, err))
		}
		if !time.Now().Before(deadline) {
			return &openError{fmt.Sprintf("a transaction of an earlier run is still open (pid %d, %s): wait with --lock-wait 10m, or end it with SELECT pg_terminate_backend(%d)", pid, who, pid)}
		}
		if !told {
			told = true
			r.observe(Event{Kind: Waiting, Host: in.Host.Name, Instance: in.ID(), Text: fmt.Sprintf("waiting for a transaction of an earlier run (pid %d, %s)", pid, who)})
		}
		select {
		case <-time.After(replayEvery):
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
