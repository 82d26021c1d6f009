package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
)

// An Outcome is how a run ended, or that it has not.
type Outcome string

// The outcomes.
const (
	Running Outcome = "running" // a process carries it out
	Died    Outcome = "died"    // its process ended before the run did
	Done    Outcome = "done"    // every instance is as wanted
	Failed  Outcome = "failed"  // an instance failed, was refused, or could not be asked
	Stopped Outcome = "stopped" // none failed, and not all steps were begun
	Damaged Outcome = "damaged" // the file is not as it was written
)

// A Run is what a journal says of a run.
type Run struct {
	ID      string    `json:"run"`
	Outcome Outcome   `json:"outcome"`
	Began   time.Time `json:"began"`
	// Last is the time of the last record.
	Last time.Time `json:"last"`
	Started
	Hosts    []Instance `json:"hosts"` // one for each of Instances
	Finished *Finished  `json:"finished,omitempty"`
	Others   []Record   `json:"others,omitempty"` // of kinds that are not known here
	Records  int        `json:"records"`
	Torn     bool       `json:"torn,omitempty"`
	Hash     string     `json:"hash"` // of the last record
}

// An Instance is what became of an instance, as far as the journal says.
type Instance struct {
	Instance inventory.InstanceID `json:"instance"`
	// Status is a rollout.Status, or NotBegun or Unfinished where the run has
	// not come to its end there.
	Status rollout.Status `json:"status"`
	// Planned is what was due, as it was planned.
	Planned *rollout.SavedInstance `json:"-"`
	Steps   []StepRun              `json:"steps,omitempty"`
	Changes int                    `json:"changes"` // made
	Seconds float64                `json:"seconds"`
	Down    float64                `json:"down,omitempty"` // seconds without connections while it restarted
	Error   string                 `json:"error,omitempty"`
}

// What an instance's status is before it has one.
const (
	NotBegun   rollout.Status = "not begun"
	Unfinished rollout.Status = "unfinished"
)

// Well reports whether the instance was as wanted at the end.
func (i Instance) Well() bool { return i.Status == rollout.Changed || i.Status == rollout.Unchanged }

// Failed reports whether the run came to an end there that was not a good one.
func (i Instance) Failed() bool {
	return !i.Well() && i.Status != NotBegun && i.Status != Unfinished
}

// A StepRun is a step, and what came of it.
type StepRun struct {
	Title   string                `json:"title"`
	Status  string                `json:"status"` // "not begun", "begun", "done" or "failed"
	Began   *time.Time            `json:"began,omitempty"`
	Seconds float64               `json:"seconds,omitempty"`
	Error   string                `json:"error,omitempty"`
	Changes []rollout.SavedChange `json:"changes"`
}

// Load reads a run's journal and says what it holds. The Run of a damaged one
// goes as far as the chain holds, and comes with a [ChainError]; it is nil if
// nothing does.
func (f Folder) Load(run string) (*Run, error) {
	// Asked before it is read: a run that ends in between is not taken for dead.
	alive, err := f.Alive(run)
	if err != nil {
		return nil, err
	}
	j, err := f.Read(run)
	if j == nil || len(j.Records) == 0 {
		return nil, err
	}
	damage := err
	if broken := (*ChainError)(nil); err != nil && !errors.As(err, &broken) {
		return nil, err
	}
	r, err := j.summary()
	if err != nil {
		return nil, err
	}
	switch {
	case damage != nil:
		r.Outcome = Damaged
	case r.Finished != nil:
		r.Outcome = r.Finished.Outcome
	case alive:
		r.Outcome, r.Torn = Running, false // a line may be on its way
	default:
		r.Outcome = Died
	}
	return r, damage
}

// summary gathers the records.
func (j *Journal) summary() (*Run, error) {
	r := &Run{ID: j.Run, Torn: j.Torn, Records: len(j.Records), Hash: j.Hash}
	r.Began, r.Last = j.Records[0].Time, j.Records[len(j.Records)-1].Time
	for n, record := range j.Records {
		if err := r.take(record); err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", j.Path, n+1, record.Kind, err)
		}
	}
	return r, nil
}

func (r *Run) take(record Record) error {
	switch record.Kind {
	case RunStarted:
		if err := json.Unmarshal(record.Data, &r.Started); err != nil {
			return err
		}
		for _, id := range r.Instances {
			r.Hosts = append(r.Hosts, Instance{Instance: id, Status: NotBegun})
		}
		return nil
	case InstancePlanned:
		var p rollout.SavedInstance
		if err := json.Unmarshal(record.Data, &p); err != nil {
			return err
		}
		in := r.host(p.Instance)
		in.Planned = &p
		for _, s := range p.Steps {
			in.Steps = append(in.Steps, StepRun{Title: strings.Join(s.Tasks, ", "), Status: string(NotBegun), Changes: s.Changes})
		}
		return nil
	case StepStarted, StepPlanned, StepDone, StepFailed:
		var s Step
		if err := json.Unmarshal(record.Data, &s); err != nil {
			return err
		}
		return r.step(record, s)
	case InstanceDone:
		var e Ended
		if err := json.Unmarshal(record.Data, &e); err != nil {
			return err
		}
		in := r.host(e.Instance)
		in.Status, in.Changes, in.Seconds, in.Down, in.Error = e.Status, e.Changes, e.Seconds, e.Down, e.Error
		return nil
	case RunFinished:
		return json.Unmarshal(record.Data, &r.Finished)
	}
	r.Others = append(r.Others, record)
	return nil
}

func (r *Run) step(record Record, s Step) error {
	in := r.host(s.Instance)
	if s.Step < 1 || s.Step > len(in.Steps) {
		return fmt.Errorf("%s has no step %d", s.Instance, s.Step)
	}
	step := &in.Steps[s.Step-1]
	switch record.Kind {
	case StepStarted:
		at := record.Time
		step.Title, step.Status, step.Began = s.Title, "begun", &at
		if in.Status == NotBegun {
			in.Status = Unfinished
		}
		return nil
	case StepPlanned:
		step.Changes = s.Changes
		return nil
	case StepDone:
		step.Status = "done"
	case StepFailed:
		step.Status, step.Error = "failed", s.Error
	}
	if step.Began != nil {
		step.Seconds = record.Time.Sub(*step.Began).Seconds()
	}
	return nil
}

// host returns the entry of an instance.
func (r *Run) host(id inventory.InstanceID) *Instance {
	i := slices.IndexFunc(r.Hosts, func(h Instance) bool { return h.Instance == id })
	if i < 0 {
		i = len(r.Hosts)
		r.Hosts = append(r.Hosts, Instance{Instance: id, Status: NotBegun})
	}
	return &r.Hosts[i]
}

// Those returns the instances for which is holds.
func (r *Run) Those(is func(Instance) bool) []inventory.InstanceID {
	var ids []inventory.InstanceID
	for _, h := range r.Hosts {
		if is(h) {
			ids = append(ids, h.Instance)
		}
	}
	return ids
}

// Changed returns on how many instances something was changed, as far as is
// known.
func (r *Run) Changed() int {
	return len(r.Those(func(h Instance) bool {
		return h.Changes > 0 || slices.ContainsFunc(h.Steps, func(s StepRun) bool { return h.Status == Unfinished && s.Status == "done" })
	}))
}

// Reviewed returns the plan that the run held to, as the journal has it; nil if
// it held to none.
func (r *Run) Reviewed() *rollout.SavedPlan {
	if r.Plan == nil {
		return nil
	}
	p := &rollout.SavedPlan{Format: rollout.SavedFormat, Pgfleet: r.Pgfleet, Fleet: r.Fleet, Tags: r.Tags, Key: r.Key}
	for _, h := range r.Hosts {
		if h.Planned != nil {
			p.Instances = append(p.Instances, *h.Planned)
		}
	}
	return p
}
