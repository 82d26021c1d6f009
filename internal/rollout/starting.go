package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// recoveryTimeout is how long a server gets that says it is shutting down, with
// the checkpoint that this ends with, or starting up: Debian's unit gives it an
// hour to stop, and no limit to start.
const recoveryTimeout = time.Hour

// askEvery is how often a server is asked that does not start at once.
const askEvery = time.Second

// patience returns a context for a restart, which ends when the server has said
// nothing for as long as limit of shutting down or starting up, and did not come
// back either. The function frees what it holds.
func (x *executor) patience(ctx context.Context, limit time.Duration) (context.Context, func()) {
	ctx, tooLong := context.WithTimeoutCause(ctx, recoveryTimeout, fmt.Errorf("the server was still not up after %v", recoveryTimeout))
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		said := ""
		why := x.untilSilent(ctx, limit, func(text string) {
			if text != said {
				said = text
				x.phase("waiting for the server: " + text)
			}
		})
		cancel(why)
	})
	return ctx, func() {
		cancel(nil)
		group.Wait()
		tooLong()
	}
}

// untilSilent asks the server until it has not said for as long as limit that it
// is shutting down or starting up, and returns that as an error; nil once ctx has
// ended. What it says is told.
func (x *executor) untilSilent(ctx context.Context, limit time.Duration, tell func(string)) error {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return nil
		}
		if text := x.notYet(ctx); text != "" {
			tell(text)
			deadline = time.Now().Add(limit)
		}
	}
	return fmt.Errorf("it was not back %v after it was last heard of", limit)
}

// notYet returns what the server says that lets nobody in, because it is starting
// up or shutting down (57P03, cannot_connect_now); "" if it says neither.
func (x *executor) notYet(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	conn := x.run.connected(x.instance.Host)
	if conn == nil {
		return ""
	}
	session, err := conn.Postgres(ctx, transport.Endpoint{Port: x.instance.Port})
	if err == nil {
		closeSession(ctx, session)
		return ""
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "57P03" {
		return pg.Message
	}
	return ""
}

// longestStep is how long an armed step may take with all that has a limit of its
// own: the user sets those of the gate and of the proofs.
func (x *executor) longestStep() time.Duration {
	d := stepMargin + x.run.gateTimeout()
	if restarts(x.step) {
		d += recoveryTimeout
	}
	for _, s := range x.proofs {
		for _, c := range s.Changes {
			switch a := c.Action.(type) {
			case tasks.Login:
				d += a.Timeout
			case tasks.Port:
				d += a.Timeout
			case tasks.Ask:
				d += a.Timeout
			case tasks.ProveLog:
				d += a.Timeout
			}
		}
	}
	return d
}
