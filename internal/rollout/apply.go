package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// A Status is where an instance stands after Apply.
type Status string

// The statuses.
const (
	Unchanged   Status = "unchanged"   // nothing was due
	Changed     Status = "changed"     // every step was done
	Failed      Status = "failed"      // a step failed; what it had changed was put back, or Err says that it was not
	Unreachable Status = "unreachable" // the host could not be asked; nothing was changed
	NoAccess    Status = "no access"   // the host was reached and did not let us in, or not become root
	Refused     Status = "refused"     // its tasks could not be planned; nothing was changed
	Stopped     Status = "stopped"     // the run was stopped before all of its steps had begun
)

// A Result is what became of one instance.
type Result struct {
	Instance inventory.InstanceID
	Status   Status
	Steps    int // steps of the plan
	Done     int // steps that were carried out
	Changes  int // changes in them, as they are counted
	Err      error
	Took     time.Duration
}

// Secrets returns the references that carrying the plans out needs beyond what
// planning needed.
func Secrets(known []Known) []secrets.Ref {
	var refs []secrets.Ref
	for _, k := range known {
		if k.Plan == nil {
			continue
		}
		for _, s := range k.Plan.Steps {
			for _, c := range s.Changes {
				switch a := c.Action.(type) {
				case tasks.IssueCertificate:
					refs = append(refs, a.CAKey)
				case tasks.Login:
					refs = append(refs, a.Password)
				}
			}
		}
	}
	return refs
}

// Apply carries the surveyed plans out: hosts in parallel, the members of a
// replication cluster one after the other, standbys first, and the instances of
// one host one after the other. When stop is closed no new step starts; the
// steps that run are finished or put back. When ctx ends, everything stops at
// once.
func (r *Run) Apply(ctx context.Context, stop <-chan struct{}, known []Known) []Result {
	results := make([]Result, len(known))
	var group errgroup.Group
	group.SetLimit(r.forks())
	for _, line := range lines(known) {
		group.Go(func() error {
			r.applyLine(ctx, stop, known, line, results)
			return nil
		})
	}
	_ = group.Wait()
	return results
}

// applyLine carries out the plans of instances that must not be worked on at the
// same time. What a standby only waits for comes when all of them are done.
func (r *Run) applyLine(ctx context.Context, stop <-chan struct{}, known []Known, line []int, results []Result) {
	bad := troubles(known, line)
	var waiting []*instanceRun
	for _, i := range line {
		in := known[i].Instance
		w := &instanceRun{run: r, known: known[i], stop: stop, start: time.Now(), result: &results[i]}
		if why := bad[in.Replication]; in.Replication != "" && why != "" && known[i].Err == nil && why != in.ID() {
			results[i] = Result{
				Instance: in.ID(), Status: Stopped, Steps: len(known[i].Plan.Steps),
				Err: fmt.Errorf("left alone, because %s of its cluster is in trouble: mend that, or leave it out with --limit '!%s', and apply again", why, why),
			}
		} else {
			w.begin(ctx)
		}
		// Refused: also because the host had to put an earlier step back.
		if status := results[i].Status; (status == Failed || status == Refused) && in.Replication != "" {
			bad[in.Replication] = in.ID()
		}
		if len(w.deferred) > 0 {
			waiting = append(waiting, w)
			continue
		}
		r.observe(Event{Kind: InstanceDone, Host: in.Host.Name, Instance: in.ID(), Err: results[i].Err})
	}
	for _, w := range waiting {
		in := w.known.Instance
		w.finish(ctx, primaryOf(in, known, results))
		r.observe(Event{Kind: InstanceDone, Host: in.Host.Name, Instance: in.ID(), Err: w.result.Err})
	}
}

// troubles names, for each replication cluster in a line, a member that could
// not be asked or planned: the others are left alone, since a change that one
// member lacks may be what keeps it from following.
func troubles(known []Known, line []int) map[string]inventory.InstanceID {
	bad := map[string]inventory.InstanceID{}
	for _, i := range line {
		if in := known[i].Instance; known[i].Err != nil && in.Replication != "" {
			bad[in.Replication] = in.ID()
		}
	}
	return bad
}

// lines puts instances that must not be worked on at the same time into one
// line: those of one host, and those of one replication cluster. Within a line
// standbys come first and a primary last.
func lines(known []Known) [][]int {
	line := make([]int, len(known)) // the line of each instance, by its first member
	for i := range known {
		line[i] = i
	}
	for i := range known {
		for j := range i {
			a, b := known[i].Instance, known[j].Instance
			if line[i] != line[j] && (a.Host.Name == b.Host.Name || a.Replication != "" && a.Replication == b.Replication) {
				from, to := line[i], line[j]
				for k := range line {
					if line[k] == from {
						line[k] = to
					}
				}
			}
		}
	}
	members := map[int][]int{}
	var order []int
	for i, l := range line {
		if members[l] == nil {
			order = append(order, l)
		}
		members[l] = append(members[l], i)
	}
	var all [][]int
	for _, l := range order {
		slices.SortStableFunc(members[l], func(a, b int) int { return rank(known[a]) - rank(known[b]) })
		all = append(all, members[l])
	}
	return all
}

// Access tells, for an instance whose host could not be asked, a host that was
// not reached from one that let nobody in.
func (k Known) Access() Status {
	if e, ok := errors.AsType[*transport.Error](k.Err); ok {
		switch e.Kind {
		case transport.KindHostKeyUnknown, transport.KindHostKeyChanged, transport.KindDenied, transport.KindBecome:
			return NoAccess
		}
	}
	return Unreachable
}

func rank(k Known) int {
	if k.State != nil && k.State.Role() == "standby" {
		return 0
	}
	return 1
}

// errDrifted is why a step is refused when what planning found is no longer
// there.
var errDrifted = errors.New("changed on the host since it was planned, so nothing was written; plan again")

// An executor carries one step out on one host.
type executor struct {
	run      *Run
	conn     transport.Conn
	instance inventory.Instance
	step     tasks.Step
	later    []tasks.Step // of the same plan
	earlier  *[]*swap
	phase    func(string)
	// made counts what a step did whose changes were not known while planning.
	made int
}

// execute does all changes of the step as one where they belong together, and
// otherwise one after the other.
func (x *executor) execute(ctx context.Context) error {
	switch x.step.Changes[0].Action.(type) {
	case tasks.Execute:
		return x.statements(ctx)
	case tasks.Replan:
		return x.replanned(ctx)
	}
	if x.configures() {
		return x.configure(ctx)
	}
	if x.touchesFiles() {
		return x.replaceFiles(ctx)
	}
	for _, c := range x.step.Changes {
		if err := x.single(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (x *executor) configures() bool {
	return slices.ContainsFunc(x.step.Changes, func(c tasks.Change) bool {
		switch c.Action.(type) {
		case tasks.Reload, tasks.Restart:
			return true
		}
		return false
	}) || x.step.Changes[0].Part == tasks.ConfigurationPart(x.instance)
}

func (x *executor) touchesFiles() bool {
	return slices.ContainsFunc(x.step.Changes, func(c tasks.Change) bool {
		switch c.Action.(type) {
		case tasks.WriteFile, tasks.RemoveFile:
			return true
		}
		return false
	})
}
