package rollout

import (
	"context"
	"crypto/rand"
	_ "embed" // the script
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

//go:embed lease.sh
var leaseScript string

// Locking says how a run takes the leases of the hosts that it changes. The
// zero value refuses at once where somebody else has one.
type Locking struct {
	// Wait is how long to wait for leases that others have, all hosts together.
	Wait time.Duration
	// Why is told to others: the command.
	Why string
	// TTL is how long a lease holds that is not renewed; 0 means a minute. It is
	// renewed four times as often.
	TTL time.Duration
	// Dir is the folder on the hosts that the leases are in; "" means
	// /var/lib/pgfleet.
	Dir string
}

const (
	leaseDir     = "/var/lib/pgfleet"
	leaseTTL     = time.Minute
	leaseTimeout = 15 * time.Second // of one script
	writerWait   = 5 * time.Second  // for a write in progress, each time that the lease is asked for
	tryWait      = 2 * time.Second  // for who tries the same
	pollLease    = time.Second
)

func (l Locking) dir() string { return orSay(l.Dir, leaseDir) }

func (l Locking) ttl() time.Duration {
	if l.TTL > 0 {
		return l.TTL
	}
	return leaseTTL
}

// about is what a new lease holds of us.
func (r *Run) about() string {
	return fmt.Sprintf("holder %s\npid %d\nprocess %s\nrun %s\nwhy %s", oneWord(Operator()), os.Getpid(), process(os.Getpid()), oneWord(r.id()), note(r.Locking.Why))
}

// id names the run.
func (r *Run) id() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ID == "" {
		random := make([]byte, 4)
		_, _ = rand.Read(random) // never returns an error
		r.ID = time.Now().UTC().Format("20060102T150405Z-") + hex.EncodeToString(random)
	}
	return r.ID
}

// A HeldError says that somebody else may change the host now.
type HeldError struct {
	Lease   Lease
	Writers []string // processes that are still writing for a lease that has run out
	Waited  time.Duration
}

func (e *HeldError) Error() string {
	if len(e.Writers) > 0 {
		return fmt.Sprintf("the lease is free, and what was begun with it is still writing here (%s): wait with --lock-wait 10m, or end it on the host", strings.Join(e.Writers, "; "))
	}
	if e.Waited > 0 {
		return fmt.Sprintf("%s, and did not end within %v: see pgfleet unlock", e.Lease, e.Waited)
	}
	return e.Lease.String() + ": wait with --lock-wait 10m, or see pgfleet unlock"
}

// A lease is one that this run has, or why it could not be taken.
type lease struct {
	host  *inventory.Host
	fence transport.Fence
	err   error
	stop  func()        // ends keeping it, and waits for a renewal that is under way
	wake  chan struct{} // is sent to when there are new notes

	mu    sync.Mutex
	notes []string // lines that the host's log does not have yet
}

// changing returns the hosts that the plans change, in the order of their names,
// which is the same for all operators: so no two wait for each other.
func changing(known []Known) []*inventory.Host {
	var hosts []*inventory.Host
	for _, k := range known {
		if k.Due() || leftOpen(k) {
			hosts = append(hosts, k.Instance.Host)
		}
	}
	return inOrder(hosts)
}

func inOrder(hosts []*inventory.Host) []*inventory.Host {
	slices.SortFunc(hosts, func(a, b *inventory.Host) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(hosts)
}

// elsewhere returns the hosts that plans change beside those that they are for.
func (r *Run) elsewhere(known []Known) []*inventory.Host {
	var hosts []*inventory.Host
	for _, k := range known {
		if k.Err != nil || k.Plan == nil {
			continue
		}
		for _, s := range k.Plan.Steps {
			for _, c := range s.Changes {
				for _, name := range tasks.Elsewhere(c.Action) {
					if h := r.Fleet.Host(name); h != nil {
						hosts = append(hosts, h)
					}
				}
			}
		}
	}
	return hosts
}

// aside returns the hosts of all members of the clusters in which a server is to
// restart, also of those that are not changed: somebody else might restart one of
// them at the same time, and two would be missing. One that could not be asked keeps
// its cluster from being restarted anyway.
func aside(known []Known) []*inventory.Host {
	var hosts []*inventory.Host
	for i := range aroundRestarts(known) {
		if known[i].Err == nil {
			hosts = append(hosts, known[i].Instance.Host)
		}
	}
	return hosts
}

// besideRestarts returns those instances of the run that are to restart, and whose
// cluster has a member on a host; none if the run changes that host.
func besideRestarts(known []Known, h *inventory.Host) map[int]bool {
	if slices.Contains(changing(ofRun(known)), h) {
		return nil
	}
	list := map[int]bool{}
	for _, c := range Clusters(known) {
		if !slices.ContainsFunc(c.Members, func(i int) bool { return known[i].Instance.Host == h }) {
			continue
		}
		for _, i := range c.Members {
			if known[i].restarts() {
				list[i] = true
			}
		}
	}
	return list
}

// leftOpen reports whether a step of an earlier run is to be put back: whoever has
// the lease knows that nobody is at it.
func leftOpen(k Known) bool {
	if k.State == nil {
		return false
	}
	u, err := k.State.Undo()
	return err == nil && u.Armed
}

// takeLeases takes the leases of all hosts that the plans change, and of those that
// must not change meanwhile. If somebody
// has one of them, those that were taken are given back, and refused says so of
// every instance: nothing was changed. Else giveBack is to be called at the end.
// A host that could not be asked for its lease fails alone, when its turn comes.
// Wait is how long to wait for those that others have.
func (r *Run) takeLeases(ctx context.Context, stop <-chan struct{}, known []Known, wait time.Duration) (giveBack func(), refused []Result) {
	began := time.Now()
	mine := ofRun(known)
	hosts := inOrder(slices.Concat(changing(mine), r.elsewhere(mine), aside(known)))
	if r.tryAll(ctx, hosts) {
		hosts = nil
	} else {
		r.giveBack(ctx)
	}
	for _, h := range hosts {
		err := r.takeLease(ctx, stop, h, known, began, wait)
		held, isHeld := errors.AsType[*HeldError](err)
		switch {
		case isHeld:
			held.Waited = wait
			r.giveBack(ctx)
			return nil, notBegun(known, h, err)
		case err != nil:
			r.remember(&lease{host: h, err: fmt.Errorf("%w: %w", errNoLease, err)})
		}
	}
	var err error
	var busy *inventory.Host
	if !stopped(ctx, stop) {
		busy, err = r.awaitSessions(ctx, stop, mine, wait)
	}
	switch {
	case stopped(ctx, stop):
		r.giveBack(ctx)
		return nil, notBegun(known, nil, nil)
	case err != nil:
		r.giveBack(ctx)
		return nil, notBegun(known, busy, err)
	}
	return func() { r.giveBack(ctx) }, nil
}

// tryAll takes the leases of all hosts at the same time, and reports whether
// nobody else has one. If somebody has, it might be who tries the same, and is
// refused because of us: so then they are to be given back, and taken in order.
func (r *Run) tryAll(ctx context.Context, hosts []*inventory.Host) bool {
	var held atomic.Bool
	var group errgroup.Group
	group.SetLimit(r.forks())
	for _, h := range hosts {
		group.Go(func() error {
			err := r.tryLease(ctx, h, "")
			if _, ok := errors.AsType[*HeldError](err); ok {
				held.Store(true)
			} else if err != nil {
				r.remember(&lease{host: h, err: fmt.Errorf("%w: %w", errNoLease, err)})
			}
			return nil
		})
	}
	_ = group.Wait()
	return !held.Load()
}

// stopped reports whether a run was told to start nothing more, or to stop.
func stopped(ctx context.Context, stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return ctx.Err() != nil
	}
}

// notBegun is how a run ends that has changed nothing, because of one host.
func notBegun(known []Known, because *inventory.Host, err error) []Result {
	mine := ofRun(known)
	results := make([]Result, len(mine))
	beside := besideRestarts(known, because)
	for i, k := range mine {
		res := Result{Instance: k.Instance.ID(), Err: k.Err}
		switch {
		case k.Unreachable:
			res.Status = k.Access()
		case k.Err != nil:
			res.Status = Refused
		case because != nil && k.Instance.Host == because && len(beside) == 0:
			res.Status, res.Err = Refused, err
		case !slices.Contains(changing([]Known{k}), k.Instance.Host):
			res.Status = Unchanged
		case beside[i]:
			res.Status, res.Err = Refused, fmt.Errorf("%s belongs to its cluster, and nobody else may change that while this one restarts; on %s %w", because.Name, because.Name, err)
		case because != nil:
			res.Status, res.Err = Stopped, fmt.Errorf("nothing was changed, because %s is not free", because.Name)
		default:
			res.Status, res.Err = Stopped, errors.New("stopped before the first step; nothing was changed")
		}
		if k.Plan != nil {
			res.Steps = len(k.Plan.Steps)
		}
		results[i] = res
	}
	return results
}

// takeLease takes one, or waits for it, as long as the run waits for all of them.
// A lease that was never renewed may be one that is about to be given back by who
// tried to take all at the same time.
func (r *Run) takeLease(ctx context.Context, stop <-chan struct{}, h *inventory.Host, known []Known, began time.Time, wait time.Duration) error {
	replace, told, deadline := "", false, began.Add(wait)
	for {
		err := r.tryLease(ctx, h, replace)
		held, ok := errors.AsType[*HeldError](err)
		switch {
		case !ok:
			return err
		case replace == "" && held.Lease.abandoned():
			replace = held.Lease.Fence
			continue
		case wait < tryWait && held.Lease.Until.Sub(held.Lease.Since) <= r.Locking.ttl() && time.Since(began) < tryWait:
			deadline = began.Add(tryWait)
		case !time.Now().Before(deadline):
			return err
		case !told:
			beside := besideRestarts(known, h)
			for i, k := range ofRun(known) {
				switch {
				case beside[i]:
					r.observe(Event{Kind: Waiting, Host: k.Instance.Host.Name, Instance: k.Instance.ID(), Text: fmt.Sprintf("waiting for the lease of %s, which belongs to its cluster: %s", h.Name, held.Lease)})
				case k.Instance.Host == h && len(beside) == 0:
					r.observe(Event{Kind: Waiting, Host: h.Name, Instance: k.Instance.ID(), Text: "waiting for its lease: " + held.Lease.String()})
				}
			}
			told = true
		}
		replace = ""
		select {
		case <-time.After(min(pollLease, time.Until(deadline))):
		case <-stop:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryLease asks the host for its lease once, and keeps it if it is ours.
func (r *Run) tryLease(ctx context.Context, h *inventory.Host, replace string) error {
	word := make([]byte, 8)
	_, _ = rand.Read(word) // never returns an error
	out, err := r.onLease(ctx, h, "take", hex.EncodeToString(word), replace, []string{note(r.Locking.Why)})
	if err != nil {
		return err
	}
	switch out.ExitCode {
	case 0:
	case 3:
		l := ParseLease(string(out.Stdout))
		if r.known(h, l) {
			return nil
		}
		return &HeldError{Lease: l}
	case 4:
		return &HeldError{Writers: writers(out)}
	default:
		return errors.New(message(out))
	}
	l := &lease{host: h, fence: transport.Fence{Dir: r.Locking.dir(), Line: strings.TrimSpace(string(out.Stdout))}, wake: make(chan struct{}, 1)}
	// It is kept for as long as something may be put back, also when the run is
	// being stopped.
	quit, done := make(chan struct{}), make(chan struct{})
	l.stop = sync.OnceFunc(func() {
		close(quit)
		<-done
	})
	go func() {
		r.keep(context.WithoutCancel(ctx), quit, l)
		close(done)
	}()
	r.remember(l)
	return nil
}

// known reports whether a lease is one that the run has of the same machine, by
// another name of it. Then it is this host's as well.
func (r *Run) known(h *inventory.Host, found Lease) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.leases {
		if l.err == nil && l.fence.Line == found.Fence {
			r.leases[h.Name] = l
			return true
		}
	}
	return false
}

func (r *Run) remember(l *lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leases == nil {
		r.leases = map[string]*lease{}
	}
	r.leases[l.host.Name] = l
}

func writers(out transport.Output) []string {
	list := strings.Split(strings.TrimSpace(string(out.Stdout)), "\n")
	if list[0] == "" {
		return []string{"the process is not known"}
	}
	return list
}

// onLease runs the lease's script on a host.
func (r *Run) onLease(ctx context.Context, h *inventory.Host, verb, fence, replace string, notes []string) (transport.Output, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaseTimeout, errors.New("the host did not say anything about its lease in time"))
	defer cancel()
	conn, err := r.conn(ctx, h)
	if err != nil {
		return transport.Output{}, because(ctx, err)
	}
	out, err := conn.Run(ctx, r.leaseCommand(verb, fence, replace, notes))
	return out, because(ctx, err)
}

func (r *Run) leaseCommand(verb, fence, replace string, notes []string) transport.Command {
	vars := ""
	for _, v := range [][2]string{
		{"verb", verb}, {"dir", r.Locking.dir()}, {"fence", fence}, {"replace", replace}, {"about", r.about()}, {"run", oneWord(r.id())}, {"who", oneWord(Operator())},
		{"ttl", strconv.Itoa(max(1, int(r.Locking.ttl().Seconds())))}, {"wait", strconv.Itoa(max(1, int(min(writerWait, r.Locking.ttl()).Seconds())))},
	} {
		vars += v[0] + "=" + transport.Quote(v[1]) + "\n"
	}
	stdin := ""
	for _, n := range notes {
		stdin += n + "\n"
	}
	return transport.Command{Script: vars + leaseScript, User: "root", Stdin: []byte(stdin)}
}
