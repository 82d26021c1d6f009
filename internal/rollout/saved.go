package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// SavedFormat is the version of the format of saved plans.
const SavedFormat = 1

// A SavedPlan is what was due when somebody reviewed it. It holds no values: a
// secret is named with its version, and every digest is made with the operator's
// own key, so that nobody can test guesses against the file.
type SavedPlan struct {
	Format  int           `json:"format"`
	Pgfleet string        `json:"pgfleet"` // the version that made it
	Fleet   string        `json:"fleet"`
	Tags    []string      `json:"tags,omitempty"`
	Secrets []secrets.Ref `json:"secrets,omitempty"`
	// Key recognises the key of the digests.
	Key       string          `json:"key"`
	Instances []SavedInstance `json:"instances"`
}

// A SavedInstance is what was due on one instance.
type SavedInstance struct {
	Instance inventory.InstanceID `json:"instance"`
	// Error is why there was no plan for it. It is not applied.
	Error string      `json:"error,omitempty"`
	Steps []SavedStep `json:"steps"`
	// Lockouts are those who would lose access, as --allow-lockout names them.
	Lockouts []string `json:"lockouts,omitempty"`
}

// A SavedStep is a tasks.Step.
type SavedStep struct {
	Tasks   []string      `json:"tasks"`
	Changes []SavedChange `json:"changes"`
}

// A SavedChange is a tasks.Change. Before, After and Action are digests.
type SavedChange struct {
	Key    string `json:"key"`
	Before string `json:"before,omitempty"`
	Intent string `json:"intent"`
	After  string `json:"after,omitempty"`
	Action string `json:"action"` // of how it is carried out: a command's text, a certificate's names
}

// Save makes a SavedPlan of what was surveyed. Mask is given every text for the
// reader, and hides what must not be in the file. Fields that describe the run
// are left to the caller: Pgfleet, Fleet, Tags and Secrets.
func Save(known []Known, d *secrets.Digester, mask func(string) string) (*SavedPlan, error) {
	plan := &SavedPlan{Format: SavedFormat, Key: keyDigest(d), Instances: []SavedInstance{}}
	for _, k := range known {
		in, err := saveInstance(k, d, mask)
		if err != nil {
			return nil, err
		}
		plan.Instances = append(plan.Instances, in)
	}
	return plan, nil
}

func saveInstance(k Known, d *secrets.Digester, mask func(string) string) (SavedInstance, error) {
	in := SavedInstance{Instance: k.Instance.ID(), Steps: []SavedStep{}}
	if k.Err != nil {
		in.Error = mask(k.Err.Error())
		return in, nil
	}
	for _, s := range k.Plan.Steps {
		step := SavedStep{}
		for _, b := range s.Tasks {
			step.Tasks = append(step.Tasks, b.Name)
		}
		var err error
		if step.Changes, err = SaveChanges(s.Changes, d, mask); err != nil {
			return in, err
		}
		in.Steps = append(in.Steps, step)
	}
	for _, l := range k.Plan.Lockouts {
		if !slices.Contains(in.Lockouts, l.Who) {
			in.Lockouts = append(in.Lockouts, l.Who)
		}
	}
	return in, nil
}

// SaveChanges returns changes in the form in which they may be kept.
func SaveChanges(changes []tasks.Change, d *secrets.Digester, mask func(string) string) ([]SavedChange, error) {
	var saved []SavedChange
	for _, c := range changes {
		// The text of an action holds placeholders and no values.
		action, err := json.Marshal(c.Action)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Key, err)
		}
		saved = append(saved, SavedChange{
			Key: c.Key, Intent: mask(c.Intent),
			Before: saveDigest(c.Before, d), After: saveDigest(c.After, d),
			Action: d.Digest(secrets.NewString(fmt.Sprintf("%T ", c.Action) + string(action))),
		})
	}
	return saved, nil
}

func saveDigest(v tasks.Digest, d *secrets.Digester) string {
	if v == "" || v == tasks.Absent {
		return string(v)
	}
	return d.Digest(secrets.NewString(string(v)))
}

func keyDigest(d *secrets.Digester) string {
	return d.Digest(secrets.NewString("the key of a saved plan"))
}

// Write writes the plan to a file that only its owner can read. The file is
// there whole or not at all.
func (p *SavedPlan) Write(path string) error {
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".pgfleet-plan-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// ReadSavedPlan reads a plan that Write wrote. The Digester must have the key
// that the plan was made with.
func ReadSavedPlan(path string, d *secrets.Digester) (*SavedPlan, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var p SavedPlan
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("%s is no saved plan: %w", path, err)
	}
	switch {
	case p.Format != SavedFormat:
		return nil, fmt.Errorf("%s has format %d, and this pgfleet reads format %d; make the plan again", path, p.Format, SavedFormat)
	case p.Key != keyDigest(d):
		return nil, fmt.Errorf("%s was made with another operator's key for digests, so nothing in it can be compared; make the plan again here", path)
	}
	return &p, nil
}

// A DriftError is why an instance is refused: what is due there now is not what
// the saved plan holds.
type DriftError struct{ Differences []string }

// Error names every difference.
func (e *DriftError) Error() string {
	return "not what the saved plan holds, so nothing was changed; review a new plan: " + strings.Join(e.Differences, "; ")
}

// Hold compares what is due now with the saved plan, and gives every instance
// that differs in anything a DriftError. Apply refuses those before their first
// write; the others go on.
func (p *SavedPlan) Hold(known []Known, d *secrets.Digester, mask func(string) string) error {
	return p.hold(known, d, mask, differences)
}

// hold is Hold, with what counts as a difference.
func (p *SavedPlan) hold(known []Known, d *secrets.Digester, mask func(string) string, differences func(saved, now SavedInstance) []string) error {
	for i := range known {
		k := &known[i]
		if k.Err != nil {
			continue
		}
		at := slices.IndexFunc(p.Instances, func(s SavedInstance) bool { return s.Instance == k.Instance.ID() })
		if at < 0 {
			k.Err = &DriftError{[]string{"the instance is not in it"}}
			continue
		}
		if p.Instances[at].Error != "" {
			k.Err = &DriftError{[]string{"there was no plan for this instance: " + p.Instances[at].Error}}
			continue
		}
		now, err := saveInstance(*k, d, mask)
		if err != nil {
			return err
		}
		diff := differences(p.Instances[at], now)
		for _, who := range now.Lockouts {
			if !slices.Contains(p.Instances[at].Lockouts, who) {
				diff = append(diff, "now would also lose access: "+who)
			}
		}
		if len(diff) > 0 {
			k.Err = &DriftError{diff}
		}
	}
	return nil
}

// A plannedChange is a change with the step that it is in.
type plannedChange struct {
	SavedChange
	step  int
	tasks string
}

func flatten(in SavedInstance) []plannedChange {
	var all []plannedChange
	for i, s := range in.Steps {
		for _, c := range s.Changes {
			all = append(all, plannedChange{c, i, strings.Join(s.Tasks, ", ")})
		}
	}
	return all
}

// differences says what is due now and was not planned so, and the other way
// round.
func differences(saved, now SavedInstance) []string {
	old, fresh := flatten(saved), flatten(now)
	if slices.Equal(old, fresh) {
		return nil
	}
	var list []string
	left := slices.Clone(old)
	for _, c := range fresh {
		i := slices.IndexFunc(left, func(o plannedChange) bool { return o.Key == c.Key })
		if i < 0 {
			list = append(list, "now also due: "+c.Intent)
			continue
		}
		o := left[i]
		left = slices.Delete(left, i, i+1)
		switch {
		case o.SavedChange == c.SavedChange:
		case o.Before != c.Before:
			list = append(list, c.Key+" has changed on the host since")
		case o.Intent != c.Intent:
			list = append(list, fmt.Sprintf("now %q, planned was %q", c.Intent, o.Intent))
		default:
			list = append(list, c.Key+" would become something else: fleet.toml, a file beside it or a secret has changed since")
		}
	}
	for _, o := range left {
		list = append(list, "no longer due: "+o.Intent)
	}
	if len(list) == 0 {
		list = append(list, "the same changes in other steps")
	}
	return list
}
