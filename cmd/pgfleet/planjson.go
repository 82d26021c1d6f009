package main

import (
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// jsonFormat is the version of what --json prints. It grows when a field
// changes its meaning or goes; new fields may come without.
const jsonFormat = 1

type planDocument struct {
	Format    int             `json:"format"`
	Pgfleet   string          `json:"pgfleet"`
	Fleet     string          `json:"fleet"`
	Instances []planInstance  `json:"instances"`
	Waves     []planWave      `json:"waves,omitempty"`
	Summary   summaryDocument `json:"summary"`
}

type planWave struct {
	Hosts  []string `json:"hosts"`
	Canary bool     `json:"canary,omitempty"`
}

type planInstance struct {
	Instance inventory.InstanceID `json:"instance"`
	Host     string               `json:"host"`
	Role     string               `json:"role,omitempty"`
	Status   string               `json:"status"` // change, unchanged, unreachable, no access, refused
	Error    string               `json:"error,omitempty"`
	Steps    []planStep           `json:"steps"`
	Downtime bool                 `json:"downtime,omitempty"` // a server that is written to restarts
	Warnings []planNote           `json:"warnings,omitempty"`
	Unknown  []planNote           `json:"unknown,omitempty"`
	Lockouts []planLockout        `json:"lockouts,omitempty"`
	Orphans  []string             `json:"orphans,omitempty"`
	Skipped  []string             `json:"skipped,omitempty"`
}

type planStep struct {
	ID      string       `json:"id"`
	Tasks   []string     `json:"tasks"`
	Changes []planChange `json:"changes"`
}

type planChange struct {
	Key    string `json:"key"`
	Action string `json:"action"` // create, change, remove, run, maybe, later, restart, always, check, replicated
	Counts bool   `json:"counts"` // whether it is counted as a change
	Intent string `json:"intent"`
	Diff   string `json:"diff,omitempty"` // unified, without the names of the files
	// Of a statement: where it runs, itself, and what is lost by it.
	Database string `json:"database,omitempty"`
	SQL      string `json:"sql,omitempty"`
	Danger   string `json:"danger,omitempty"`
	// Effects are what a rehearsal of a script changed in the catalogs.
	Effects []string `json:"effects,omitempty"`
}

type planNote struct {
	Task string `json:"task,omitempty"`
	Text string `json:"text"`
}

// A planLockout is somebody who would lose access.
type planLockout struct {
	Who      string `json:"who"` // as --allow-lockout takes it
	Task     string `json:"task,omitempty"`
	Subject  string `json:"subject"`
	Sessions int    `json:"sessions,omitempty"` // that are connected now
	Why      string `json:"why"`
}

type summaryDocument struct {
	Instances int `json:"instances"`
	ToChange  int `json:"to_change"`
	Changes   int `json:"changes"`
	Unchanged int `json:"unchanged"`
	Failed    int `json:"failed"`
}

func planJSON(fleet *inventory.Fleet, known []rollout.Known, beside ...rollout.Known) planDocument {
	doc := planDocument{
		Format: jsonFormat, Pgfleet: version(), Fleet: fleet.Name,
		Instances: []planInstance{}, Summary: summaryDocument{Instances: len(known)},
	}
	for _, k := range known {
		in := instanceJSON(k)
		switch in.Status {
		case "change":
			doc.Summary.ToChange++
			doc.Summary.Changes += len(k.Plan.Changes())
		case "unchanged":
			doc.Summary.Unchanged++
		default:
			doc.Summary.Failed++
		}
		doc.Instances = append(doc.Instances, in)
	}
	if waves, err := rollout.Waves(append(slices.Clip(known), beside...), fleet.Rollout); err == nil && len(waves) > 1 {
		for _, w := range waves {
			doc.Waves = append(doc.Waves, planWave{w.Hosts, w.Canary})
		}
	}
	return doc
}

func instanceJSON(k rollout.Known) planInstance {
	in := planInstance{Instance: k.Instance.ID(), Host: k.Instance.Host.Name, Steps: []planStep{}}
	if k.Err != nil {
		in.Status, in.Error = "refused", k.Err.Error()
		if k.Unreachable {
			in.Status = string(k.Access())
		}
		return in
	}
	in.Status = "unchanged"
	if len(k.Plan.Changes()) > 0 || undecided(k.Plan) {
		in.Status = "change"
	}
	in.Downtime = k.Downtime()
	in.Role, in.Orphans, in.Skipped = k.Plan.Role, k.Plan.Orphans, k.Plan.Skipped
	for _, n := range k.Plan.Warnings {
		in.Warnings = append(in.Warnings, planNote(n))
	}
	for _, n := range k.Plan.Unknown {
		in.Unknown = append(in.Unknown, planNote(n))
	}
	for _, l := range k.Plan.Lockouts {
		in.Lockouts = append(in.Lockouts, planLockout{l.Who, l.Task, l.Subject, l.Sessions, l.Why})
	}
	for _, s := range k.Plan.Steps {
		step := planStep{ID: s.ID}
		for _, b := range s.Tasks {
			step.Tasks = append(step.Tasks, b.Name)
		}
		for j, c := range s.Changes {
			change := planChange{Key: c.Key, Action: kindOf(c), Counts: tasks.Writes(c.Action), Intent: secrets.MaskPlaceholders(c.Intent)}
			change.Database, change.SQL = databaseOf(c)
			change.Danger, change.Effects = danger(s.Changes, j), c.Effects
			if c.Diff != nil && c.Diff.Old != c.Diff.New {
				change.Diff = strings.Join(diffLines(*c.Diff), "\n") + "\n"
			}
			step.Changes = append(step.Changes, change)
		}
		in.Steps = append(in.Steps, step)
	}
	return in
}

type resultDocument struct {
	Format    int              `json:"format"`
	Run       string           `json:"run,omitempty"` // for pgfleet runs; not of one that had nothing to run
	Pgfleet   string           `json:"pgfleet"`
	Fleet     string           `json:"fleet"`
	Instances []instanceResult `json:"instances"`
	Totals    map[string]int   `json:"totals"`          // instances by status
	Changes   int              `json:"changes"`         // that were made, on all of them
	Error     string           `json:"error,omitempty"` // why the rollout ended early
}

type instanceResult struct {
	Instance inventory.InstanceID `json:"instance"`
	Status   rollout.Status       `json:"status"`
	Steps    int                  `json:"steps"`
	Done     int                  `json:"done"`
	Changes  int                  `json:"changes"`
	Seconds  float64              `json:"seconds"`
	Down     float64              `json:"down,omitempty"` // seconds without connections while it restarted
	Notes    []string             `json:"notes,omitempty"`
	Error    string               `json:"error,omitempty"`
}

func resultJSON(fleet *inventory.Fleet, results []rollout.Result, early error) resultDocument {
	doc := resultDocument{Format: jsonFormat, Pgfleet: version(), Fleet: fleet.Name, Instances: []instanceResult{}, Totals: map[string]int{}}
	if early != nil {
		doc.Error = early.Error()
	}
	for _, r := range results {
		in := instanceResult{r.Instance, r.Status, r.Steps, r.Done, r.Changes, r.Took.Seconds(), r.Down.Seconds(), r.Notes, ""}
		if r.Err != nil {
			in.Error = r.Err.Error()
		}
		doc.Totals[string(r.Status)]++
		doc.Changes += r.Changes
		doc.Instances = append(doc.Instances, in)
	}
	return doc
}
