package rollout

import "github.com/pgfleet/pgfleet/inventory"

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
)

// An Event is one thing that happened.
type Event struct {
	Kind     EventKind
	Host     string
	Instance inventory.InstanceID // from StepStarted on
	Step     int                  // from 1
	Steps    int
	Text     string
	Err      error
}

func (r *Run) observe(e Event) {
	r.record(e)
	if r.Observer != nil {
		r.Observer.Observe(e)
	}
}
