package rollout

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/transport"
)

// watchOutage keeps a session open to see when the server ends it, and then opens
// session after session to see when it lets somebody in again: systemctl returns
// seconds after the server is back, and no outage is too short to be seen. The
// function that it returns ends the watch, and adds to the result the times from the
// end of a session, or one that failed, to the next one that did not, or to the end
// of the watch. Where the host is not reached nothing is known of its server: that
// counts only if the server was down before and is not seen to have come back.
func (x *executor) watchOutage(ctx context.Context) (end func()) {
	if x.restarted == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // putting back is watched too
	var group sync.WaitGroup
	var o outage
	group.Go(func() {
		for ctx.Err() == nil {
			x.watchSession(ctx, &o)
			select {
			case <-time.After(pollEvery):
			case <-ctx.Done():
			}
		}
	})
	return func() {
		cancel()
		group.Wait()
		x.restarted(o.length())
	}
}

// watchSession opens a session, if the server lets it in, and stays until it ends.
func (x *executor) watchSession(ctx context.Context, o *outage) {
	conn := x.run.connected(x.instance.Host) // putting back may have to connect again
	if conn == nil {
		return
	}
	began := time.Now()
	session, err := conn.Postgres(ctx, transport.Endpoint{Port: x.instance.Port})
	if ctx.Err() != nil || err != nil && conn.Err() != nil {
		return
	}
	o.saw(began, time.Now(), err == nil)
	if err != nil {
		return
	}
	defer closeSession(ctx, session)
	_, err = session.WaitForNotification(ctx) // there is none: it waits for the end
	if ctx.Err() == nil && conn.Err() == nil && shutDown(err) {
		now := time.Now()
		o.saw(now, now, false)
	}
}

// shutDown reports whether a session has ended because its server stops: by its
// word (manual, appendix A), or without one. Others, such as idle_session_timeout,
// end sessions of a server that goes on.
func shutDown(err error) bool {
	pg := (*pgconn.PgError)(nil)
	return !errors.As(err, &pg) || pg.Code == "57P01" || pg.Code == "57P02"
}

// An outage adds up for how long a server was down.
type outage struct {
	total time.Duration
	since time.Time // the beginning of one that has not ended
	last  time.Time // when it was seen to be down last
}

// saw takes note of an attempt, or of the end of a session.
func (o *outage) saw(began, ended time.Time, up bool) {
	switch {
	case !up:
		if o.since.IsZero() {
			o.since = began
		}
		o.last = ended
	case !o.since.IsZero():
		o.total += ended.Sub(o.since)
		o.since = time.Time{}
	}
}

// length is that of all outages; one that has not ended counts for as long as the
// server was seen to be down.
func (o *outage) length() time.Duration {
	if o.since.IsZero() {
		return o.total
	}
	return o.total + o.last.Sub(o.since)
}
