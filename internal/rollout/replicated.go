package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// How long a standby gets to replay what was done on its primary.
const (
	replayTimeout = time.Minute
	replayEvery   = 100 * time.Millisecond
)

// waits reports whether a step is done on another member of the cluster, and
// comes from there.
func waits(s tasks.Step) bool {
	_, ok := s.Changes[0].Action.(tasks.Replicated)
	return ok
}

// proves reports whether a step only verifies.
func proves(s tasks.Step) bool {
	return !slices.ContainsFunc(s.Changes, func(c tasks.Change) bool {
		switch c.Action.(type) {
		case tasks.Login, tasks.Port, tasks.Ask, tasks.ProveLog:
			return false
		}
		return true
	})
}

// A primary is the member of a replication cluster that is written to, and how
// the run went there. The zero value is one that is not part of the run.
type primary struct {
	known  Known
	result Result
}

// well reports whether all is done there.
func (p primary) well() bool { return p.result.Status == Changed || p.result.Status == Unchanged }

// finish carries out what begin has left: it waits for replay, plans again the
// tasks whose statements come by replication, which must find nothing, and makes
// the proofs after them.
func (w *instanceRun) finish(ctx context.Context, from primary) {
	defer w.stopClock()
	if stopped(ctx, w.stop) {
		w.result.Status, w.result.Err = Stopped, fmt.Errorf("stopped before step %d of %d; run it again to go on", w.deferred[0]+1, len(w.known.Plan.Steps))
		return
	}
	first := w.deferred[0]
	if !w.begun(first) {
		return
	}
	x := w.executor(first)
	if from.well() {
		wait := func() error { return x.replayed(ctx, from.known.Instance) }
		if err := x.again(ctx, wait(), wait); err != nil {
			w.failed(ctx, first, err)
			return
		}
	}
	x.phase("verifying")
	missing, err := x.notReplicated(ctx, w.comingTasks())
	w.conn = x.conn
	if _, unplanned := errors.AsType[inventory.Error](err); unplanned && !from.well() {
		w.missed(ctx, first, from, nil) // a task that needs what is missing cannot be planned
		return
	}
	if err != nil {
		w.failed(ctx, first, err)
		return
	}
	for n, i := range w.deferred {
		step := w.known.Plan.Steps[i]
		if !waits(step) {
			if !w.step(ctx, i) {
				return
			}
			continue
		}
		if n > 0 && !w.begun(i) {
			return
		}
		if left := missing[step.Tasks[0]]; len(left) > 0 {
			w.missed(ctx, i, from, left)
			return
		}
		w.done(i)
	}
}

// missed says why a step's statements have not arrived.
func (w *instanceRun) missed(ctx context.Context, i int, from primary, left []string) {
	if from.well() {
		w.failed(ctx, i, fmt.Errorf("it replayed all that %s had written, and still lacks: %s", from.known.Instance.ID(), strings.Join(left, "; ")))
		return
	}
	err := fmt.Errorf("what differs comes by replication from %s: apply there", w.source())
	if from.known.State != nil {
		err = fmt.Errorf("what differs comes by replication from %s, where this run did not come to its end: mend that, and run it again", from.known.Instance.ID())
	}
	w.failed(ctx, i, err)
	w.result.Status = Stopped
}

// source names where the deferred steps' statements come from.
func (w *instanceRun) source() string {
	for _, i := range w.deferred {
		if a, ok := w.known.Plan.Steps[i].Changes[0].Action.(tasks.Replicated); ok && a.From != "" {
			return a.From
		}
	}
	return "its primary"
}

// comingTasks returns the tasks whose statements come by replication.
func (w *instanceRun) comingTasks() []*tasks.Bound {
	var list []*tasks.Bound
	for _, i := range w.deferred {
		step := w.known.Plan.Steps[i]
		if waits(step) && !slices.Contains(list, step.Tasks[0]) {
			list = append(list, step.Tasks[0])
		}
	}
	return list
}

// notReplicated plans tasks again, and returns the statements that each of them
// still misses.
func (x *executor) notReplicated(ctx context.Context, list []*tasks.Bound) (map[*tasks.Bound][]string, error) {
	outcomes, err := x.replan(ctx, list)
	if err != nil {
		return nil, err
	}
	missing := map[*tasks.Bound][]string{}
	for b, out := range outcomes {
		if why := undecided(out); why != "" {
			return nil, &tasks.TaskError{Task: b.Name, Err: errors.New(why)}
		}
		for _, c := range out.Changes {
			switch a := c.Action.(type) {
			case tasks.Replicated:
				missing[b] = append(missing[b], a.Statement.SQL())
			case tasks.Execute:
				return nil, fmt.Errorf("%s was a standby, and is a primary now: plan again", x.instance.ID())
			}
		}
	}
	return missing, nil
}

// replayed waits until the standby has replayed all that its primary had written
// when it was asked.
func (x *executor) replayed(ctx context.Context, from inventory.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	lsn, err := x.flushed(ctx, from)
	if err != nil {
		return fmt.Errorf("how far %s has written is not known: %w", from.ID(), err)
	}
	x.phase("waiting for replay of " + lsn)
	conn, err := x.conn.Postgres(ctx, transport.Endpoint{Port: x.instance.Port})
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	var at replay
	for {
		now, err := askReplay(ctx, conn, lsn)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil && now.done:
			return nil
		case err == nil:
			at = now
		}
		if at.paused {
			return fmt.Errorf("replay is paused at %s, before %s of %s: SELECT pg_wal_replay_resume() goes on; if it was not paused by hand, the server's log says why",
				at.lsn, lsn, from.ID())
		}
		select {
		case <-time.After(replayEvery):
			continue
		case <-ctx.Done():
		}
		return at.tooLate(ctx, lsn, from.ID())
	}
}

// flushed returns how far the primary's write-ahead log is on its disk.
func (x *executor) flushed(ctx context.Context, from inventory.Instance) (string, error) {
	host, err := x.run.Conn(ctx, from.Host)
	if err != nil {
		return "", err
	}
	conn, err := host.Postgres(ctx, transport.Endpoint{Port: from.Port})
	if err != nil {
		return "", err
	}
	defer closeSession(ctx, conn)
	var lsn string
	err = conn.QueryRow(ctx, "SELECT pg_catalog.pg_current_wal_flush_lsn()::pg_catalog.text", pgx.QueryExecModeSimpleProtocol).Scan(&lsn)
	return lsn, err
}

// A replay is how far a standby is.
type replay struct {
	done   bool
	lsn    string
	paused bool
	delay  string // recovery_min_apply_delay
}

// askReplay asks how far replay is. A server that is no standby any more has
// nothing to wait for.
func askReplay(ctx context.Context, conn *pgx.Conn, lsn string) (replay, error) {
	var r replay
	err := conn.QueryRow(ctx, replayQuery(lsn), pgx.QueryExecModeSimpleProtocol).Scan(&r.done, &r.lsn, &r.paused, &r.delay)
	return r, err
}

// replayQuery asks for the fields of a replay.
func replayQuery(lsn string) string {
	return `SELECT coalesce(pg_catalog.pg_last_wal_replay_lsn() OPERATOR(pg_catalog.>=) ` + postgres.QuoteLiteral(lsn) + `::pg_catalog.pg_lsn, false)
		OR NOT pg_catalog.pg_is_in_recovery(),
		coalesce(pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text, 'the start'),
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END,
		pg_catalog.current_setting('recovery_min_apply_delay')`
}

func (r replay) tooLate(ctx context.Context, lsn string, from inventory.InstanceID) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	why := "; pg_stat_wal_receiver shows whether it still follows"
	if r.delay != "0" {
		why = fmt.Sprintf("; its recovery_min_apply_delay is %s", r.delay)
	}
	return fmt.Errorf("after %v it has replayed up to %s, and %s is at %s%s: what comes from there was not verified; running it again does so", replayTimeout, r.lsn, from, lsn, why)
}
