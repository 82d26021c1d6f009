package rollout

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pgfleet/pgfleet/transport"
)

// watchOutage opens session after session to see for how long the server lets
// nobody in: systemctl returns seconds after the server is back. The function
// that it returns ends the watch, and adds to the result the times from a session
// that failed to the next one that did not, or to the end of the watch. Where the
// host is not reached nothing is known of its server: that counts only if the
// server was down before and is not seen to have come back.
func (x *executor) watchOutage(ctx context.Context) (end func()) {
	if x.restarted == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // putting back is watched too
	var group sync.WaitGroup
	var o outage
	group.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			up, err := x.letsIn(ctx)
			if ctx.Err() != nil {
				return
			}
			o.saw(began, time.Now(), up, err)
			every := pollEvery
			if o.total > 0 && o.since.IsZero() { // it is back; nothing is as close to be measured
				every = readyEvery
			}
			select {
			case <-time.After(every):
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

var errNotConnected = errors.New("there is no connection at the moment")

// letsIn reports whether the server lets pgfleet in. The error is that this is not
// known.
func (x *executor) letsIn(ctx context.Context) (bool, error) {
	conn := x.run.connected(x.instance.Host) // putting back may have to connect again
	if conn == nil {
		return false, errNotConnected
	}
	session, err := conn.Postgres(ctx, transport.Endpoint{Port: x.instance.Port})
	if err == nil {
		closeSession(ctx, session)
		return true, nil
	}
	if why := conn.Err(); why != nil {
		return false, why
	}
	return false, nil
}

// An outage adds up for how long a server was down.
type outage struct {
	total time.Duration
	since time.Time // the beginning of one that has not ended
	last  time.Time // when it was seen to be down last
}

// saw takes note of an attempt. An err says that nothing is known of the server.
func (o *outage) saw(began, ended time.Time, up bool, err error) {
	switch {
	case err != nil:
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
