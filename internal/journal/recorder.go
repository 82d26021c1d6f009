package journal

import (
	"encoding/json"
	"time"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// The kinds of records. A reader passes over those that it does not know.
const (
	RunStarted      = "run started"      // Started
	InstancePlanned = "instance planned" // rollout.SavedInstance
	StepStarted     = "step started"     // Step
	StepPlanned     = "step planned"     // Step, with its Changes: it could not be planned before
	StepDone        = "step done"        // Step
	StepFailed      = "step failed"      // Step, with its Error
	InstanceDone    = "instance done"    // Ended
	CAChanged       = "ca changed"       // text: what was done to the CA's files and keys
	RunFinished     = "run finished"     // Finished
)

// Started is the data of the first record: who runs what.
type Started struct {
	Pgfleet    string        `json:"pgfleet"` // the version
	Command    string        `json:"command"` // "apply", "rotate", "certs renew", "resume", "retry" or "undo"
	Resumes    string        `json:"resumes,omitempty"`
	Who        string        `json:"who"` // user@machine
	PID        int           `json:"pid"`
	Fleet      string        `json:"fleet"`       // its name
	File       string        `json:"file"`        // the absolute path of fleet.toml
	FileDigest string        `json:"file_digest"` // of it and of what it includes
	Limit      string        `json:"limit,omitempty"`
	Tags       []string      `json:"tags,omitempty"`
	Plan       *ReviewedPlan `json:"plan,omitempty"`
	// Rotation is what a run rotates; nil for one that applies.
	Rotation *Rotation `json:"rotation,omitempty"`
	// Kinds are those of the tasks that are meant; all if there are none.
	Kinds []string `json:"kinds,omitempty"`
	// Key recognises the operator's key, with which all digests of contents are made.
	Key       string                 `json:"key"`
	Instances []inventory.InstanceID `json:"instances"`
	// Beside are instances that were planned for and not meant by --limit: which
	// one a task of `on = "one"` is for depends on them.
	Beside []inventory.InstanceID `json:"beside,omitempty"`
}

// A Rotation is what pgfleet rotate was asked for.
type Rotation struct {
	Roles []string    `json:"roles,omitempty"` // all if there are none
	Due   bool        `json:"due,omitempty"`   // only those that are due
	Asked tasks.Asked `json:"asked"`
}

// A ReviewedPlan is the saved plan that a run holds to.
type ReviewedPlan struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"` // of the file, as sha256sum prints it
}

// A Step is the data of the records about a step.
type Step struct {
	Instance inventory.InstanceID  `json:"instance"`
	Step     int                   `json:"step"` // from 1
	Steps    int                   `json:"steps"`
	Title    string                `json:"title"`
	Error    string                `json:"error,omitempty"`
	Changes  []rollout.SavedChange `json:"changes,omitempty"`
}

// Ended is where an instance stands.
type Ended struct {
	Instance inventory.InstanceID `json:"instance"`
	Status   rollout.Status       `json:"status"`
	Steps    int                  `json:"steps"`
	Done     int                  `json:"done"`
	Changes  int                  `json:"changes"`
	Seconds  float64              `json:"seconds"`
	Down     float64              `json:"down,omitempty"` // seconds without connections while it restarted
	Error    string               `json:"error,omitempty"`
}

// Finished is the data of the last record.
type Finished struct {
	Outcome Outcome                `json:"outcome"` // done, failed or stopped
	Totals  map[rollout.Status]int `json:"totals"`  // instances
	Changes int                    `json:"changes"`
	Seconds float64                `json:"seconds"`
}

// other is the data of what happened and has no type of its own.
type other struct {
	Host     string               `json:"host,omitempty"`
	Instance inventory.InstanceID `json:"instance,omitempty"`
	Text     string               `json:"text,omitempty"`
	Error    string               `json:"error,omitempty"`
}

// Text says in words what a record of any other kind holds.
func (r Record) Text() string {
	var o other
	text := r.Kind
	if json.Unmarshal(r.Data, &o) != nil || o == (other{}) {
		return text + " " + string(r.Data)
	}
	who := string(o.Instance)
	if who == "" {
		who = o.Host
	}
	for _, part := range []string{who, o.Text, o.Error} {
		if part != "" {
			text += ": " + part
		}
	}
	return text
}

// A Recorder writes what a rollout does into a journal. It implements
// rollout.Recorder. Events that have no type of data of their own are recorded
// with their name, host, instance, text and error.
type Recorder struct {
	Writer   *Writer
	Digester *secrets.Digester
}

// Record implements rollout.Recorder.
func (r *Recorder) Record(e rollout.Event) error {
	mask := r.Writer.mask
	var problem string
	if e.Err != nil {
		problem = mask(e.Err.Error()) // before it is encoded, which replaces bytes that are no UTF-8
	}
	step := Step{Instance: e.Instance, Step: e.Step, Steps: e.Steps, Title: mask(e.Text), Error: problem}
	switch e.Kind {
	case rollout.StepStarted:
		return r.Writer.Append(StepStarted, step)
	case rollout.StepDone:
		return r.Writer.Append(StepDone, step)
	case rollout.StepFailed:
		return r.Writer.Append(StepFailed, step)
	case rollout.StepPlanned:
		var err error
		if step.Changes, err = rollout.SaveChanges(e.Changes, r.Digester, mask); err != nil {
			return err
		}
		return r.Writer.Append(StepPlanned, step)
	case rollout.InstanceDone:
		if x := e.Result; x != nil {
			return r.Writer.Append(InstanceDone, Ended{x.Instance, x.Status, x.Steps, x.Done, x.Changes, x.Took.Seconds(), x.Down.Seconds(), problem})
		}
	}
	return r.Writer.Append(e.Kind.String(), other{e.Host, e.Instance, mask(e.Text), problem})
}

// Finish writes the last record. Early is why the rollout as a whole came to no
// good end, nil if it did.
func (r *Recorder) Finish(results []rollout.Result, early error, took time.Duration) error {
	f := Finished{Outcome: Done, Totals: map[rollout.Status]int{}, Seconds: took.Seconds()}
	for _, x := range results {
		f.Totals[x.Status]++
		f.Changes += x.Changes
		switch x.Status {
		case rollout.Changed, rollout.Unchanged:
		case rollout.Stopped:
			if f.Outcome == Done {
				f.Outcome = Stopped
			}
		default:
			f.Outcome = Failed
		}
	}
	if early != nil {
		f.Outcome = Failed
	}
	return r.Writer.Append(RunFinished, f)
}
