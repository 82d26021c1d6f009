package rollout

import (
	"testing"

	"github.com/pgfleet/pgfleet/tasks"
)

// A gate asks again for what was proven, and not for what a standby has left for
// when its primary is done.
func TestProofsMade(t *testing.T) {
	step := func(name string, a tasks.Action) tasks.Step {
		return tasks.Step{Changes: []tasks.Change{{Intent: name, Action: a}}}
	}
	steps := []tasks.Step{
		step("first", tasks.Port{}), step("a command", tasks.RunCommand{}), step("comes", tasks.Replicated{}), step("a unit", tasks.SetUnit{}), step("login", tasks.Login{}),
	}
	for done, want := range map[int]string{3: "first ", 5: "first login "} {
		got := ""
		for _, s := range proofsMade(steps, done) {
			got += s.Changes[0].Intent + " "
		}
		if got != want {
			t.Errorf("with %d of 5 steps done: %q, want %q", done, got, want)
		}
	}
}
