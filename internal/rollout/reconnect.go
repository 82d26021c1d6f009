package rollout

import (
	"context"
	"fmt"

	"github.com/pgfleet/pgfleet/transport"
)

// again does once more what has failed with err, by a new connection, if the one
// that there was has ended. It is for what has changed nothing: a change that is
// under way is never repeated, because nobody knows how much of it was done.
func (x *executor) again(ctx context.Context, err error, do func() error) error {
	if err == nil || ctx.Err() != nil || x.conn.Err() == nil {
		return err
	}
	switch dialErr := x.reconnect(ctx); {
	case leaseLost(dialErr):
		return dialErr
	case dialErr != nil:
		return fmt.Errorf("%w; connecting again: %w", err, dialErr)
	}
	return do()
}

// reconnect replaces a connection that has ended, once. The error is also that
// the lease is not the run's any more: much may have happened meanwhile.
func (x *executor) reconnect(ctx context.Context) error {
	conn, err := x.run.Conn(ctx, x.instance.Host)
	if err != nil {
		return err
	}
	x.conn = conn
	return x.must(ctx, transport.Command{Script: ":"}) // behind the fence
}
