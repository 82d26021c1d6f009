package rollout

import (
	"fmt"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// An Observer is told what happens, as it happens. It is called concurrently
// and must not block.
type Observer interface{ Observe(Event) }

// An EventKind says what happened.
type EventKind int

// What happens to a host, and then to an instance.
const (
	Connecting EventKind = iota
	Surveying
	Surveyed
	StepStarted
	StepPhase // Text says what the step is doing now
	StepDone
	StepFailed
	Waiting // an instance has done what it can for now; Text says what it waits for
	InstanceDone
	StepPlanned    // a step that could not be planned before: Changes are what it does
	WaveStarted    // Text says which, and what hosts
	GateStarted    // Text says after which wave
	Paused         // Text says for how long
	RolloutStopped // Err says why no further wave begins, or that what the last one left is not well
)

// String names what happened, as the journal does.
func (k EventKind) String() string {
	names := []string{
		"connecting", "surveying", "surveyed", "step started", "step phase", "step done", "step failed",
		"waiting", "instance done", "step planned", "wave started", "gate", "paused", "rollout stopped",
	}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("event %d", int(k))
	}
	return names[k]
}

// An Event is one thing that happened.
type Event struct {
	Kind     EventKind
	Host     string
	Instance inventory.InstanceID // from StepStarted on
	Step     int                  // from 1
	Steps    int
	Text     string
	Err      error
	Changes  []tasks.Change // of StepPlanned
	Result   *Result        // of InstanceDone; it does not change any more
}

func (r *Run) observe(e Event) {
	r.logOnHost(e)
	if r.Observer != nil {
		r.Observer.Observe(e)
	}
}
