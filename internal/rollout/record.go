package rollout

import (
	"fmt"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A Recorder keeps what a run does where a later run finds it. Record returns
// once the event is kept, so that it outlives this process; it is called
// concurrently. A step that it does not take is not begun.
type Recorder interface{ Record(Event) error }

// record keeps an event, if there is a Recorder.
func (r *Run) record(e Event) error {
	if r.Recorder == nil {
		return nil
	}
	return r.Recorder.Record(e)
}

// ended records and shows where an instance stands. A Recorder that does not
// take this has to tell its owner: nothing is left here that could be held back.
func (r *Run) ended(in inventory.Instance, result Result) {
	e := Event{Kind: InstanceDone, Host: in.Host.Name, Instance: in.ID(), Err: result.Err, Result: &result}
	_ = r.record(e)
	r.observe(e)
}

// begun records and then shows that a step begins, and reports whether it may.
func (w *instanceRun) begun(i int) bool {
	e := w.event(StepStarted, i)
	err := w.lost
	if err == nil {
		err = w.run.record(e)
	}
	if err != nil {
		w.result.Status, w.result.Err = Stopped, fmt.Errorf("stopped before step %d of %d, which could not be recorded: %w", e.Step, e.Steps, err)
		return false
	}
	w.run.observe(e)
	return true
}

// kept records and shows what became of a step. When it cannot be recorded, no
// further step of the instance begins.
func (w *instanceRun) kept(e Event) {
	if err := w.run.record(e); err != nil {
		w.lost = err
	}
	w.run.observe(e)
}

// planned records what a step does that could not be planned before.
func (w *instanceRun) planned(i int, changes []tasks.Change) error {
	e := w.event(StepPlanned, i)
	e.Changes = changes
	if err := w.run.record(e); err != nil {
		return fmt.Errorf("nothing was written, because what is due could not be recorded: %w", err)
	}
	return nil
}
