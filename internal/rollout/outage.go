package rollout

import (
	"context"
	"sync"
	"time"

	"github.com/pgfleet/pgfleet/transport"
)

// watchOutage opens session after session to see for how long the server lets
// nobody in: systemctl returns seconds after the server is back. The function
// that it returns ends the watch and returns the time between the first session
// that failed and the first one after it that did not; 0 if none failed.
func (x *executor) watchOutage(ctx context.Context) func() time.Duration {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	var down time.Duration
	conn, at := x.conn, transport.Endpoint{Port: x.instance.Port}
	group.Go(func() {
		var since time.Time
		for ctx.Err() == nil {
			began := time.Now()
			session, err := conn.Postgres(ctx, at)
			switch {
			case err == nil:
				closeSession(ctx, session)
				if !since.IsZero() {
					down = time.Since(since)
					return
				}
			case ctx.Err() == nil && since.IsZero():
				since = began
			}
			select {
			case <-time.After(pollEvery):
			case <-ctx.Done():
			}
		}
	})
	return func() time.Duration {
		cancel()
		group.Wait()
		return down
	}
}
