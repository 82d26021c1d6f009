package rollout

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// fenced returns the connection behind the fence of the host's lease, if the run
// has one.
func (r *Run) fenced(h *inventory.Host, conn transport.Conn) (transport.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch l := r.leases[h.Name]; {
	case l == nil:
		return conn, nil
	case l.err != nil:
		return nil, l.err
	default:
		return conn.Fenced(l.fence), nil
	}
}

// fence returns the host's, and nil if the run has no lease there.
func (r *Run) fence(h *inventory.Host) *transport.Fence {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.leases[h.Name]; l != nil && l.err == nil {
		return &l.fence
	}
	return nil
}

// leaseRead asks for a host's lease.
func (r *Run) leaseRead() facts.File { return facts.File{Path: path.Join(r.Locking.dir(), "lease")} }

// HeldBy returns the lease that somebody had when the host was surveyed, and that
// had not run out.
func (r *Run) HeldBy(k Known) (Lease, bool) {
	if k.State == nil {
		return Lease{}, false
	}
	f, err := k.State.File(r.leaseRead().Path)
	if err != nil || !f.Exists {
		return Lease{}, false
	}
	l := ParseLease(string(f.Content))
	return l, !l.ranOut(k.State.Clock())
}

// leaseLost reports whether the host has refused a write because the lease is
// not this run's any more.
func leaseLost(err error) bool {
	e, ok := errors.AsType[*transport.Error](err)
	return ok && e.Kind == transport.KindFenced
}

// errNotPutBack is what a step says that has lost its lease in the middle.
var errNotPutBack = errors.New("what the step had written stays as it is, for whoever has the lease")

// explained says who has the lease now, if an error is about that.
func (x *executor) explained(ctx context.Context, err error) error {
	if !leaseLost(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
	defer cancel()
	q := x.run.leaseRead()
	why := "this run's lease was taken away, as pgfleet log shows"
	if answers, askErr := x.conn.Read(ctx, []facts.Read{q}); askErr == nil {
		if f, _ := fileAnswer(answers, q); f.Exists {
			now := ParseLease(string(f.Content))
			why = fmt.Sprintf("this run's lease was taken by %s at %s", now.Holder, clock(now.Since))
		}
	}
	why += ", so nothing more is written here"
	if errors.Is(err, errNotPutBack) {
		why += "; " + errNotPutBack.Error()
	}
	return errors.New(why)
}

var (
	errNoLease   = errors.New("its lease could not be taken, so nothing was changed")
	errLeftAlone = errors.New("its lease was given back, and nothing was changed")
)

// noConn is where an instance stands whose host cannot be worked on.
func noConn(err error) Status {
	if _, ok := errors.AsType[*transport.Error](err); (errors.Is(err, errNoLease) || errors.Is(err, errLeftAlone)) && !ok {
		return Failed
	}
	return Unreachable
}
