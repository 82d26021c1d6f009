package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/inventory"
)

// Apply carries the surveyed plans out, wave by wave as [rollout] of fleet.toml
// says. Within a wave hosts are worked on in parallel, the members of a
// replication cluster one after the other, and the instances of one host one
// after the other. When stop is closed no new step starts; the steps that run are
// finished or put back. When ctx ends, everything stops at once. The leases of all
// hosts that are to be changed, and of all members of a cluster in which a server is
// to restart, are taken before the first change, and given back at the end. Instances that are beside the run come last in known; they are only
// looked at, and have no results.
//
// The results are in the order of known. The error says why the rollout ended
// before its last wave, or that what the last one left is not well; what failed
// on single instances is in their results alone.
func (r *Run) Apply(ctx context.Context, stop <-chan struct{}, known []Known) ([]Result, error) {
	mine := ofRun(known)
	r.RefuseLockouts(mine)
	refuseOrders(known)
	giveBack, refused := r.takeLeases(ctx, stop, known, r.Locking.Wait)
	if refused != nil {
		return refused, nil
	}
	defer giveBack()
	a := newRolling(r, stop, known)
	waves, err := Waves(known, r.Fleet.Rollout)
	if err == nil {
		err = lostCanary(known, r.Fleet.Rollout.Canary)
	}
	for n, w := range waves {
		if err != nil {
			break
		}
		if n > 0 {
			a.pause(ctx)
		}
		if err = a.halted(ctx); err == nil && n > 0 {
			err = a.gateAgain(ctx)
		}
		if err == nil {
			err = a.wave(ctx, w, n+1, len(waves))
		}
	}
	a.leaveAlone(err)
	for c := range a.waiting {
		a.finishWaiting(ctx, c)
	}
	if err != nil {
		_ = r.record(Event{Kind: RolloutStopped, Err: err}) // nothing is left that could be held back
	}
	if errors.Is(err, errStopped) {
		err = nil // whoever stopped it knows, and every result says so
	}
	return a.results[:len(mine)], err
}

// gated reports whether there is a look at the hosts after each wave.
func (r *Run) gated() bool {
	x := r.Fleet.Rollout
	return x.Canary.Count > 0 || x.Canary.Hosts != nil || x.Batches != nil || x.Gate != ""
}

// errStopped is why nothing more starts after the run was told to stop.
var errStopped = errors.New("stopped before its first step; run it again to go on")

// A rolling is one Apply on its way.
type rolling struct {
	run      *Run
	stop     <-chan struct{}
	known    []Known
	results  []Result
	clusters []Cluster
	of       []int // the cluster of each instance; -1 for none
	budget   *budget
	done     []int // that are through, for the gates

	mu      sync.Mutex
	bad     map[int]inventory.InstanceID // by cluster, a member that is in trouble
	waiting map[int][]*instanceRun       // by cluster, standbys that wait for their primary
	downFor map[int]string               // by cluster, how long a restart took
}

func newRolling(r *Run, stop <-chan struct{}, known []Known) *rolling {
	a := &rolling{
		run: r, stop: stop, known: known, results: make([]Result, len(known)), clusters: Clusters(known),
		bad: map[int]inventory.InstanceID{}, waiting: map[int][]*instanceRun{}, downFor: map[int]string{},
	}
	a.of = clusterOf(a.clusters, len(known))
	limit := -1
	if m := r.Fleet.Rollout.MaxFailures; m != nil {
		limit = max(1, m.Of(len(hostsOf(ofRun(known)))))
	}
	a.budget = newBudget(limit)
	for i, k := range ofRun(known) {
		if k.Err == nil {
			continue
		}
		// A change that one member lacks may be what keeps it from following, so
		// the others are left alone.
		if a.of[i] >= 0 {
			a.bad[a.of[i]] = k.Instance.ID()
		}
		a.budget.fail(k.Instance.Host.Name)
	}
	return a
}

func hostsOf(known []Known) []string {
	var hosts []string
	for _, k := range known {
		if !slices.Contains(hosts, k.Instance.Host.Name) {
			hosts = append(hosts, k.Instance.Host.Name)
		}
	}
	return hosts
}

// halted says why no further wave begins; nil if it may.
func (a *rolling) halted(ctx context.Context) error {
	if stopped(ctx, a.stop) {
		return errStopped
	}
	return a.budget.halted()
}

// wave carries one wave out and looks at what it left. The error says why it is
// the last one.
func (a *rolling) wave(ctx context.Context, w Wave, n, of int) error {
	name := fmt.Sprintf("wave %d of %d", n, of)
	if w.Canary {
		name += " (canary)"
	}
	if of > 1 {
		if err := a.say(Event{Kind: WaveStarted, Text: name + ": " + strings.Join(w.Hosts, ", ")}); err != nil {
			return err
		}
	}
	var group errgroup.Group
	group.SetLimit(a.run.forks())
	if a.run.OneByOne {
		group.SetLimit(1)
	}
	for _, line := range lines(a.known, w, a.clusters) {
		group.Go(func() error {
			a.line(ctx, line)
			return nil
		})
	}
	_ = group.Wait()
	a.done = append(a.done, w.Members...)
	if stopped(ctx, a.stop) {
		return nil // the next wave says so, if there is one
	}
	var failed []inventory.InstanceID
	for _, i := range w.Members {
		if a.known[i].Err == nil && trouble(a.results[i]) {
			failed = append(failed, a.known[i].Instance.ID())
		}
	}
	switch {
	case len(failed) > 0 && w.Canary:
		return fmt.Errorf("the canary failed (%s), so nothing else was touched; mend that, and run it again", joinIDs(failed))
	case w.Canary && len(a.notDone(w)) > 0:
		return fmt.Errorf("the canary was not changed (%s), so nothing else was touched; mend what kept it from that, and run it again", joinIDs(a.notDone(w)))
	case len(failed) > 0 && n < of && a.budget.max < 0:
		return fmt.Errorf("%s failed in %s, so no other began; mend that, and run it again ([rollout] max_failures says how many may fail)", joinIDs(failed), name)
	}
	if !a.run.gated() {
		return nil
	}
	err := a.gate(ctx, w, n, name)
	switch {
	case errors.Is(err, errStopped) && n < of:
		return err
	case errors.Is(err, errStopped):
		return fmt.Errorf("stopped while it looked at the hosts after %s, so whether all are well is not known", name)
	case err != nil:
		return fmt.Errorf("after %s: %w", name, err)
	}
	return nil
}

// notDone returns those of a wave that something was due on, and that were neither
// changed nor found as wanted: they show nothing about the others.
func (a *rolling) notDone(w Wave) []inventory.InstanceID {
	var list []inventory.InstanceID
	for _, i := range w.Members {
		if s := a.results[i].Status; a.known[i].Due() && s != Changed && s != Unchanged {
			list = append(list, a.known[i].Instance.ID())
		}
	}
	return list
}

// say records and shows what the rollout does next. The error says why it may not.
func (a *rolling) say(e Event) error {
	if err := a.run.record(e); err != nil {
		return fmt.Errorf("the rollout could not be recorded, so no further wave began: %w", err)
	}
	a.run.observe(e)
	return nil
}

// pause waits between two waves.
func (a *rolling) pause(ctx context.Context) {
	d := a.run.Fleet.Rollout.Pause
	if d == 0 {
		return
	}
	a.run.observe(Event{Kind: Paused, Text: fmt.Sprintf("waiting %v before the next wave", d)})
	select {
	case <-time.After(d):
	case <-a.stop:
	case <-ctx.Done():
	}
}

// line carries out the plans of instances that must not be worked on at the same
// time. What a standby only waits for comes when its primary is done.
func (a *rolling) line(ctx context.Context, line []int) {
	touched := map[int]bool{}
	for _, i := range line {
		touched[a.of[i]] = true
		a.instance(ctx, i)
	}
	for c := range touched {
		// A primary that is not part of the run, or that a later wave has, is
		// waited for until the end.
		if c < 0 || a.clusters[c].Primary >= 0 && a.decided(a.clusters[c].Primary) {
			a.finishWaiting(ctx, c)
		}
	}
}

func (a *rolling) decided(i int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.results[i].Status != ""
}

// instance carries out the plan of one instance, if it may start.
func (a *rolling) instance(ctx context.Context, i int) {
	k, c := a.known[i], a.of[i]
	w := &instanceRun{run: a.run, known: k, stop: a.stop, start: time.Now(), result: &Result{}, peers: a.peersOf(i)}
	a.mu.Lock()
	bad := a.bad[c]
	a.mu.Unlock()
	switch {
	case k.Err == nil && bad != "" && bad != k.Instance.ID():
		*w.result = Result{
			Instance: k.Instance.ID(), Status: Stopped, Steps: len(k.Plan.Steps),
			Err: fmt.Errorf("left alone, because %s of its cluster is in trouble: mend that, or leave it out with --limit '!%s', and run it again", bad, bad),
		}
	case k.Err != nil || len(k.Plan.Steps) == 0:
		w.begin(ctx)
	default:
		if err := a.budget.reserve(ctx, a.stop, k.Instance.Host.Name); err != nil {
			*w.result = Result{Instance: k.Instance.ID(), Status: Stopped, Steps: len(k.Plan.Steps), Err: err}
			break
		}
		w.begin(ctx)
		a.budget.done(k.Instance.Host.Name, trouble(*w.result))
	}
	a.keep(i, w)
}

// trouble reports whether a result uses the budget up, and keeps the others of
// its cluster from being begun.
func trouble(r Result) bool {
	return r.Status == Failed || r.Status == Refused || r.Status == Unreachable || r.Status == NoAccess
}

// keep takes over what became of an instance.
func (a *rolling) keep(i int, w *instanceRun) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.of[i]
	a.results[i] = *w.result
	w.result = &a.results[i]
	if w.result.Down > 0 && c >= 0 {
		a.downFor[c] = fmt.Sprintf("%s was down for %v", w.known.Instance.ID(), w.result.Down.Round(10*time.Millisecond))
	}
	if trouble(*w.result) && c >= 0 && a.bad[c] == "" {
		a.bad[c] = w.known.Instance.ID()
	}
	if len(w.deferred) > 0 {
		a.waiting[c] = append(a.waiting[c], w)
		return
	}
	a.finished(w)
}

func (a *rolling) finished(w *instanceRun) {
	a.run.ended(w.known.Instance, *w.result)
}

// finishWaiting carries out what standbys of a cluster have waited with.
func (a *rolling) finishWaiting(ctx context.Context, c int) {
	a.mu.Lock()
	list := a.waiting[c]
	a.waiting[c] = nil
	a.mu.Unlock()
	var from primary
	if c >= 0 && a.clusters[c].Primary >= 0 && !a.known[a.clusters[c].Primary].Beside {
		p := a.clusters[c].Primary
		a.mu.Lock()
		from = primary{a.known[p], a.results[p]}
		a.mu.Unlock()
	}
	for _, w := range list {
		host := w.known.Instance.Host.Name
		if err := a.budget.reserve(ctx, a.stop, host); err != nil {
			w.result.Status, w.result.Err = Stopped, err
		} else {
			w.finish(ctx, from)
			a.budget.done(host, trouble(*w.result))
		}
		a.finished(w)
	}
}

// leaveAlone says of those that never started why.
func (a *rolling) leaveAlone(why error) {
	if why == nil {
		return
	}
	for i, k := range ofRun(a.known) {
		if a.results[i].Status != "" {
			continue
		}
		w := &instanceRun{run: a.run, known: k, stop: a.stop, start: time.Now(), result: &a.results[i]}
		if k.Err != nil || len(k.Plan.Steps) == 0 {
			w.begin(context.Background())
		} else {
			a.results[i] = Result{Instance: k.Instance.ID(), Status: Stopped, Steps: len(k.Plan.Steps), Err: why}
		}
		a.finished(w)
	}
}
