// Package rollout carries plans out on many hosts.
//
// A Run goes three ways with every host, each host on its own:
//
//	Survey   dial it, ask everything that its tasks have to know, in two rounds
//	Plan     pure: package tasks turns the answers into steps
//	Apply    each step: find again what planning found, stage, check with the
//	         server's own means, put in place, activate, verify, or put all back
//
// This package is the only one that holds a transport.Conn together with a
// plan, and so the only one that can change a host. It knows no kinds of tasks,
// only the closed set of actions.
package rollout

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// A Connector dials hosts. It may be called concurrently.
type Connector interface {
	Dial(ctx context.Context, h *inventory.Host) (transport.Conn, error)
}

// A Resolver reads secrets from their stores. It may be called concurrently.
type Resolver interface {
	Resolve(ctx context.Context, ref secrets.Ref) (secrets.Secret, string, error)
}

// A Run is one invocation: a fleet, its connections and its secrets. Close it.
type Run struct {
	Fleet     *inventory.Fleet
	Connector Connector
	Resolver  Resolver
	Stores    Stores // for rotations
	// Redactor, if not nil, is told of values that are made while the run goes on.
	Redactor *secrets.Redactor
	Observer Observer
	// Recorder, if not nil, keeps what is done. What it does not take is not done.
	Recorder Recorder
	// Forks is how many hosts are worked on at the same time; 0 means 32.
	Forks int
	// StillHolds, if not nil, is asked before the first step of an instance, whose
	// lease is held by then, whether what it was planned with, other than the hosts'
	// state, still is so. An error refuses the instance.
	StillHolds func(ctx context.Context, in inventory.Instance) error
	// Rotated are roles whose passwords the run changes: that they go over to other
	// sessions, and are refused with the old one, is no sign that something is wrong.
	Rotated []string
	// OneByOne lets no two clusters be worked on at the same time.
	OneByOne bool
	// AllowLockout names those who may lose access, see [tasks.Lockout.Named].
	AllowLockout []string
	// ID names the run on the hosts; "" means a random one.
	ID      string
	Locking Locking
	// DeadMan is how long a host waits for a word of this run, in the middle of a
	// step, before it puts the old files and the server's old state back by
	// itself; 0 means 5 minutes. It is counted in whole seconds.
	DeadMan time.Duration

	mu     sync.Mutex
	conns  map[string]*dialled
	leases map[string]*lease // of the hosts that are being changed
	vault  map[secrets.Ref]secrets.Secret
}

// A dialled is the way to a host.
type dialled struct {
	mu   sync.Mutex
	conn transport.Conn
	err  error // why it could not be reached in the first place
	now  *dialling
}

// A dialling is an attempt that is under way, which all who want the connection
// wait for.
type dialling struct {
	ended chan struct{}
	err   error // set before ended is closed
}

const defaultForks = 32

func (r *Run) forks() int {
	if r.Forks > 0 {
		return r.Forks
	}
	return defaultForks
}

// Conn returns the host's connection, dialling it at the first call, and once
// more at every call after it has ended. A host that could not be reached in the
// first place is not dialled again. While the run has the host's lease, the
// connection is one that changes nothing without it.
func (r *Run) Conn(ctx context.Context, h *inventory.Host) (transport.Conn, error) {
	conn, err := r.conn(ctx, h)
	if err != nil {
		return nil, err
	}
	return r.fenced(h, conn)
}

// conn returns the connection without a fence.
func (r *Run) conn(ctx context.Context, h *inventory.Host) (transport.Conn, error) {
	r.mu.Lock()
	if r.conns == nil {
		r.conns = map[string]*dialled{}
	}
	d := r.conns[h.Name]
	if d == nil {
		d = new(dialled)
		r.conns[h.Name] = d
	}
	r.mu.Unlock()
	for {
		d.mu.Lock()
		if d.err != nil || d.conn != nil && d.conn.Err() == nil {
			defer d.mu.Unlock()
			return d.conn, d.err
		}
		n := d.now
		if n == nil {
			n = &dialling{ended: make(chan struct{})}
			d.now = n
			d.mu.Unlock()
			return r.dial(ctx, h, d, n)
		}
		d.mu.Unlock()
		select {
		case <-n.ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if n.err != nil && !errors.Is(n.err, context.Canceled) { // which was another's end
			return nil, n.err
		}
	}
}

// dial connects to a host, in the place of a connection that has ended if there
// was one.
func (r *Run) dial(ctx context.Context, h *inventory.Host, d *dialled, n *dialling) (transport.Conn, error) {
	conn, err := r.Connector.Dial(ctx, h)
	d.mu.Lock()
	old := d.conn
	switch {
	case err == nil:
		d.conn = conn
	case old == nil:
		d.err = err
	}
	n.err, d.now = err, nil
	d.mu.Unlock()
	close(n.ended)
	if err != nil {
		return nil, err
	}
	if old != nil {
		_ = old.Close()
	}
	return conn, nil
}

// connected returns the host's connection without a fence, and nil where there is
// none at the moment; nobody dials.
func (r *Run) connected(h *inventory.Host) transport.Conn {
	r.mu.Lock()
	d := r.conns[h.Name]
	r.mu.Unlock()
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil || d.conn.Err() != nil {
		return nil
	}
	return d.conn
}

// Close ends all connections.
func (r *Run) Close() {
	r.mu.Lock()
	conns := r.conns
	r.conns = nil
	r.mu.Unlock()
	for _, d := range conns {
		d.mu.Lock()
		if d.conn != nil {
			_ = d.conn.Close()
		}
		d.mu.Unlock()
	}
}

// Resolve reads secrets, so that a store that is down stops the run before
// anything is planned or changed. Every reference that fails is in the error.
func (r *Run) Resolve(ctx context.Context, refs []secrets.Ref) error {
	var problems []error
	for _, ref := range refs {
		if _, ok := r.reveal(ref); ok {
			continue
		}
		value, _, err := r.Resolver.Resolve(ctx, ref)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		r.mu.Lock()
		if r.vault == nil {
			r.vault = map[secrets.Ref]secrets.Secret{}
		}
		r.vault[ref] = value
		r.mu.Unlock()
	}
	return errors.Join(problems...)
}

func (r *Run) reveal(ref secrets.Ref) (secrets.Secret, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.vault[ref]
	return s, ok
}

// Known is what a survey found out about one instance, and what is due there.
type Known struct {
	Instance inventory.Instance
	State    *tasks.State
	Plan     *tasks.Plan
	// Err is why the host could not be asked, or why its tasks could not be
	// planned.
	Err error
	// Unreachable tells the first from the second.
	Unreachable bool
	Took        time.Duration
	// Beside marks an instance that is not part of the run, see [Run.Beside].
	Beside bool
}

// Survey dials the instances' hosts, asks what their tasks have to know and
// plans. The result has one entry for each instance, in their order; an error
// of one host is its own and never another's.
func (r *Run) Survey(ctx context.Context, instances []inventory.Instance, bound map[inventory.InstanceID][]*tasks.Bound) []Known {
	known := make([]Known, len(instances))
	for i, in := range instances {
		known[i].Instance = in
	}
	r.eachHost(known, func(mine []*Known) { r.surveyHost(ctx, mine, bound) })
	return known
}

// eachHost calls do for each host, with all of its instances, on several at once.
func (r *Run) eachHost(known []Known, do func([]*Known)) {
	byHost := map[string][]*Known{}
	for i := range known {
		name := known[i].Instance.Host.Name
		byHost[name] = append(byHost[name], &known[i])
	}
	var group errgroup.Group
	group.SetLimit(r.forks())
	for _, host := range hostsOf(known) {
		group.Go(func() error {
			do(byHost[host])
			return nil
		})
	}
	_ = group.Wait()
}

// surveyHost asks one host about all of its instances together.
func (r *Run) surveyHost(ctx context.Context, mine []*Known, bound map[inventory.InstanceID][]*tasks.Bound) {
	start := time.Now()
	host := mine[0].Instance.Host
	r.observe(Event{Kind: Connecting, Host: host.Name})
	conn, err := r.Conn(ctx, host)
	if err == nil {
		r.observe(Event{Kind: Surveying, Host: host.Name})
		err = r.ask(ctx, conn, mine, func(k *Known) []facts.Read {
			return append(append(tasks.Questions(k.Instance, k.State), r.leaseRead()), readsOf(k, bound[k.Instance.ID()])...)
		})
	}
	// In the order in which they will be carried out: see lines.
	slices.SortStableFunc(mine, func(a, b *Known) int { return rank(*a) - rank(*b) })
	var after *tasks.State
	for _, k := range mine {
		k.Took = time.Since(start)
		if err != nil {
			k.Err, k.Unreachable = err, true
			continue
		}
		k.State = k.State.After(after)
		k.Plan, k.Err = tasks.PlanInstance(k.Instance, k.State, bound[k.Instance.ID()])
		if k.Plan != nil {
			after = k.Plan.After
		}
	}
	r.observe(Event{Kind: Surveyed, Host: host.Name, Err: err})
}

// readsOf returns what the selected tasks have to know.
func readsOf(k *Known, bound []*tasks.Bound) []facts.Read {
	var reads []facts.Read
	for _, b := range bound {
		if b.Selected {
			reads = append(reads, b.Task.Reads(k.Instance, k.State)...)
		}
	}
	return reads
}

// ask fetches the answers of both rounds. Questions says what is to be known of
// an instance, given what is known already.
func (r *Run) ask(ctx context.Context, conn transport.Conn, mine []*Known, questions func(*Known) []facts.Read) error {
	answers := map[facts.Read]facts.Answer{}
	for range 2 {
		var reads []facts.Read
		wanted := map[facts.Read]bool{}
		for _, k := range mine {
			k.State = tasks.NewState(k.Instance, answers, r.reveal)
			for _, read := range questions(k) {
				if _, answered := answers[read]; !answered && !wanted[read] {
					wanted[read] = true
					reads = append(reads, read)
				}
			}
		}
		if len(reads) == 0 {
			break
		}
		here, there := r.splitLocal(reads)
		round, err := conn.Read(ctx, there)
		if err != nil {
			return err
		}
		r.askHere(ctx, here, round)
		next := make(map[facts.Read]facts.Answer, len(answers)+len(round))
		for read, a := range answers {
			next[read] = a
		}
		for read, a := range round {
			next[read] = a
		}
		answers = next
	}
	for _, k := range mine {
		k.State = tasks.NewState(k.Instance, answers, r.reveal)
	}
	return nil
}

// resurvey asks again about one instance, for the given tasks alone, and plans
// them.
func (r *Run) resurvey(ctx context.Context, conn transport.Conn, in inventory.Instance, bound []*tasks.Bound) (*tasks.Plan, error) {
	k := &Known{Instance: in}
	err := r.ask(ctx, conn, []*Known{k}, func(k *Known) []facts.Read {
		return append(tasks.Questions(in, k.State), readsOf(k, bound)...)
	})
	if err != nil {
		return nil, err
	}
	return tasks.PlanInstance(in, k.State, bound)
}
