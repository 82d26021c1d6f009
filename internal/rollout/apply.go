package rollout

import (
	"context"
	"errors"
	"slices"
	"time"

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
	Refused     Status = "refused"     // its tasks could not be planned, or somebody would lose access; nothing was changed
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
	// Down is for how long the server took no connections while it restarted,
	// as seen from here; 0 if it did not restart.
	Down time.Duration
	// Notes are remarks for the reader: what was measured, or left undone.
	Notes []string

	before *before // what a gate compares with; nil if none looks
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
					if a.Issuer.Key != (secrets.Ref{}) {
						refs = append(refs, a.Issuer.Key)
					}
				case tasks.WriteRevocationLists:
					for _, l := range a.Lists {
						refs = append(refs, l.Key)
					}
				case tasks.Login:
					refs = append(refs, a.Password)
				default:
					refs = append(refs, rotationSecrets(a)...)
				}
			}
		}
	}
	return refs
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

// downRank is that of a server that does not answer: it is started, or found to
// be broken, before anything is done to the others of its cluster.
const downRank = -2

func rank(k Known) int {
	switch {
	case k.State == nil:
	case k.State.Role() == "standby":
		return 0
	case k.State.Role() == "":
		return downRank
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
	role     string // of the server when it was planned; "" where that is not known
	step     tasks.Step
	later    []tasks.Step // of the same plan
	proofs   []tasks.Step // of later, those that come right after the step
	earlier  *[]*swap
	phase    func(string)
	peers    peers
	// restarted is told for how long the server was down.
	restarted func(time.Duration)
	planned   func([]tasks.Change) error // records what is known only now
	rotation  *rotation                  // of the plan that the step is of
	noted     func(string)               // adds a remark to the result
	stop      <-chan struct{}            // ends what a step waits for before its first change
	begun     bool                       // the step may have changed something
	// lowered is how far the primary had written, with the lower parameter, when a
	// standby first waited to replay that; "" before.
	lowered string
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
		case tasks.WriteFile, tasks.WriteRevocationLists, tasks.RemoveFile:
			return true
		}
		return false
	})
}
