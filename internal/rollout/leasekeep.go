package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/inventory"
)

// keep renews a lease until it is told to end, or the lease is somebody else's.
// A renewal that fails is tried again soon, by a new connection if the old one has
// ended: so a host that waits for its turn is within reach again when it comes.
func (r *Run) keep(ctx context.Context, quit <-chan struct{}, l *lease) {
	every := r.Locking.ttl() / 4
	next := every
	dial, cancel := context.WithCancel(ctx) // nobody waits for a network that is away
	defer cancel()
	go func() {
		select {
		case <-quit:
			cancel()
		case <-dial.Done():
		}
	}()
	for {
		select {
		case <-time.After(next):
		case <-l.wake:
		case <-quit:
			return
		}
		next = every
		if _, err := r.conn(dial, l.host); err != nil {
			next = every / 4
			continue
		}
		lost, err := r.send(ctx, "renew", l)
		if lost {
			return
		}
		if err != nil {
			next = every / 4
		}
	}
}

// send renews a lease or gives it back, with the lines that the host's log does
// not have yet.
func (r *Run) send(ctx context.Context, verb string, l *lease) (lost bool, err error) {
	l.mu.Lock()
	notes := slices.Clone(l.notes)
	l.mu.Unlock()
	out, err := r.onLease(ctx, l.host, verb, l.fence.Line, "", notes)
	if err == nil && out.ExitCode != 0 {
		err = errors.New(message(out))
	}
	if err == nil {
		l.mu.Lock()
		l.notes = l.notes[len(notes):]
		l.mu.Unlock()
	}
	return out.ExitCode == 5, err
}

// logOnHost has the host's log tell of a step that was done or has failed there.
func (r *Run) logOnHost(e Event) {
	what := ""
	switch e.Kind {
	case StepDone:
		what = "done"
	case StepFailed:
		what = "failed"
	default:
		return
	}
	r.mu.Lock()
	l := r.leases[e.Host]
	r.mu.Unlock()
	if l == nil || l.err != nil {
		return
	}
	of := ""
	if string(e.Instance) != e.Host {
		of = string(e.Instance) + ": "
	}
	l.mu.Lock()
	l.notes = append(l.notes, note(fmt.Sprintf("%sstep %d/%d %s: %s", of, e.Step, e.Steps, what, e.Text)))
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// giveBack gives all leases of the run back, also when the run is being stopped.
// Where that fails the lease runs out.
func (r *Run) giveBack(ctx context.Context) {
	r.mu.Lock()
	all := r.leases
	r.leases = nil
	r.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(r.forks())
	given := map[*lease]bool{}
	for _, l := range all {
		if l.err != nil || given[l] {
			continue
		}
		given[l] = true
		group.Go(func() error {
			r.release(ctx, l)
			return nil
		})
	}
	_ = group.Wait()
}

// giveBackOne gives the lease of one host back, which may be that of other names
// of it, and takes note of why nothing is changed there.
func (r *Run) giveBackOne(ctx context.Context, h *inventory.Host, why error) {
	r.mu.Lock()
	l := r.leases[h.Name]
	if l == nil || l.err != nil {
		r.mu.Unlock()
		return
	}
	for name, other := range r.leases {
		if other == l {
			r.leases[name] = &lease{host: l.host, err: fmt.Errorf("%w: %w", errLeftAlone, why)}
		}
	}
	r.mu.Unlock()
	r.release(ctx, l)
}

func (r *Run) release(ctx context.Context, l *lease) {
	ctx = context.WithoutCancel(ctx)
	l.stop()
	dial, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if _, err := r.conn(dial, l.host); err != nil {
		return
	}
	if lost, err := r.send(ctx, "release", l); gone(err) && !lost {
		_, _ = r.send(ctx, "release", l) // by a new connection
	}
}
