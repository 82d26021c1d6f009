package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// An instanceRun carries the plan of one instance out, in one go or, on a
// standby that has to wait for its primary, in two.
type instanceRun struct {
	run      *Run
	known    Known
	stop     <-chan struct{}
	start    time.Time
	result   *Result
	conn     transport.Conn
	earlier  []*swap // of configuration steps that no restart has proven yet
	deferred []int   // steps that are left for later
	peers    peers   // the other members of its cluster
	lost     error   // why the recorder did not take what was done
	rotation rotation
	rotates  *tasks.Bound // the task that rotation is of
}

// begin carries out all steps but those that have to wait for another member of
// the cluster: what comes by replication, and the proofs after that.
func (w *instanceRun) begin(ctx context.Context) {
	k := w.known
	*w.result = Result{Instance: k.Instance.ID(), Err: k.Err}
	defer w.stopClock()
	switch {
	case k.Unreachable:
		w.result.Status = k.Access()
		return
	case k.Err != nil && !leftOpen(k):
		w.result.Status = Refused
		return
	}
	var err error
	if w.conn, err = w.run.Conn(ctx, k.Instance.Host); err != nil {
		w.result.Status, w.result.Err = noConn(err), err
		return
	}
	if err = w.run.undone(ctx, k, w.conn); err != nil {
		// Also where nothing could be planned: this may be why.
		w.result.Status, w.result.Err = Refused, errors.Join(k.Err, err)
		return
	}
	if k.Err != nil {
		w.result.Status = Refused
		return
	}
	if w.run.StillHolds != nil && len(k.Plan.Steps) > 0 {
		if err := w.run.StillHolds(ctx, k.Instance); err != nil {
			w.result.Status, w.result.Err = Refused, err
			return
		}
	}
	w.result.Steps, w.result.Status = len(k.Plan.Steps), Unchanged
	if w.run.gated() {
		x := &executor{run: w.run, conn: w.conn, instance: k.Instance}
		w.result.before = x.asBefore(ctx, k.server())
	}
	var deferred []int
	for i, s := range k.Plan.Steps {
		if waits(s) || len(deferred) > 0 && proves(s) {
			deferred = append(deferred, i)
			continue
		}
		if !w.step(ctx, i) {
			return
		}
	}
	if len(deferred) > 0 {
		w.deferred = deferred
		w.run.observe(Event{Kind: Waiting, Host: k.Instance.Host.Name, Instance: k.Instance.ID(), Text: "waiting for " + w.source()})
	}
}

// step carries one step out, and reports whether the next may follow.
func (w *instanceRun) step(ctx context.Context, i int) bool {
	steps := w.known.Plan.Steps
	if stopped(ctx, w.stop) {
		w.result.Status, w.result.Err = Stopped, fmt.Errorf("stopped before step %d of %d; run it again to go on", i+1, len(steps))
		return false
	}
	if !w.begun(i) {
		return false
	}
	x := w.executor(i)
	err := x.conn.Err()
	if err == nil {
		err = x.execute(ctx)
	}
	if !x.begun {
		err = x.again(ctx, err, func() error { return x.execute(ctx) })
	}
	w.conn = x.conn
	err = x.explained(ctx, err)
	w.count(x.made)
	if err != nil {
		w.failed(ctx, i, err)
		return false
	}
	w.done(i)
	return true
}

func (w *instanceRun) executor(i int) *executor {
	if task := w.known.Plan.Steps[i].Tasks[0]; w.rotates != task {
		w.rotates, w.rotation = task, rotation{} // what one rotation leaves is nothing to the next
	}
	return &executor{
		run: w.run, conn: w.conn, stop: w.stop, instance: w.known.Instance, role: w.known.Plan.Role, step: w.known.Plan.Steps[i], later: w.known.Plan.Steps[i+1:], proofs: w.proofs(i), earlier: &w.earlier, peers: w.peers,
		restarted: func(down time.Duration) { w.result.Down += down },
		planned:   func(changes []tasks.Change) error { return w.planned(i, changes) },
		rotation:  &w.rotation,
		noted:     func(text string) { w.result.Notes = append(w.result.Notes, text) },
		phase: func(text string) {
			p := w.event(StepPhase, i)
			p.Text = text
			w.run.observe(p)
		},
	}
}

// proofs returns the proofs that come right after a step. There are none as long as
// something before them waits for another member of the cluster.
func (w *instanceRun) proofs(i int) []tasks.Step {
	steps := w.known.Plan.Steps
	if slices.ContainsFunc(steps[:i], waits) {
		return nil
	}
	n := i + 1
	for n < len(steps) && proves(steps[n]) {
		n++
	}
	return steps[i+1 : n]
}

func (w *instanceRun) event(kind EventKind, i int) Event {
	in, steps := w.known.Instance, w.known.Plan.Steps
	return Event{Kind: kind, Host: in.Host.Name, Instance: in.ID(), Step: i + 1, Steps: len(steps), Text: steps[i].Title()}
}

func (w *instanceRun) done(i int) {
	w.kept(w.event(StepDone, i))
	w.result.Done++
	for _, c := range w.known.Plan.Steps[i].Changes {
		if tasks.Writes(c.Action) {
			w.count(1)
		}
	}
}

func (w *instanceRun) count(changes int) {
	if w.result.Changes += changes; w.result.Changes > 0 {
		w.result.Status = Changed
	}
}

func (w *instanceRun) failed(ctx context.Context, i int, err error) {
	w.result.Status = Failed
	switch {
	case errors.Is(err, errStoppedWaiting):
		w.result.Status = Stopped
	case ctx.Err() != nil:
		w.result.Status = Stopped
		err = fmt.Errorf("stopped in the middle of step %d of %d, and running it again finishes it: %w", i+1, len(w.known.Plan.Steps), err)
	}
	w.result.Err = &tasks.TaskError{Task: w.known.Plan.Steps[i].Title(), Err: err}
	e := w.event(StepFailed, i)
	e.Err = err
	w.kept(e)
}

func (w *instanceRun) stopClock() { w.result.Took = time.Since(w.start) }
