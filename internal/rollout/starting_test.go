package rollout

import (
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A step may have the host wait on for longer than all that the user gave a limit.
func TestLongestStep(t *testing.T) {
	proof := func(actions ...tasks.Action) tasks.Step {
		var s tasks.Step
		for _, a := range actions {
			s.Changes = append(s.Changes, tasks.Change{Action: a})
		}
		return s
	}
	x := &executor{run: &Run{Fleet: &inventory.Fleet{Rollout: inventory.Rollout{GateTimeout: 20 * time.Minute}}}, step: proof(tasks.Reload{})}
	if d := x.longestStep(); d != 30*time.Minute {
		t.Errorf("%v", d)
	}
	x.proofs = []tasks.Step{proof(tasks.Ask{Timeout: time.Minute}, tasks.Port{Timeout: 2 * time.Minute}), proof(tasks.Login{Timeout: 4 * time.Minute}, tasks.ProveLog{Timeout: 8 * time.Minute})}
	if d := x.longestStep(); d != 45*time.Minute {
		t.Errorf("with proofs: %v", d)
	}
	x.step = proof(tasks.Restart{})
	if d := x.longestStep(); d != 45*time.Minute+recoveryTimeout {
		t.Errorf("with a restart: %v", d)
	}
}
