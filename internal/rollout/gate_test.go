package rollout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
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

// A refused login is found in a log that was empty before, behind many megabytes of
// other lines, and where the log was emptied meanwhile; one that was refused before
// as well is not new.
func TestRefusals(t *testing.T) {
	b := newBench(t, "")
	conn, err := b.run.Conn(t.Context(), b.in.Host)
	if err != nil {
		t.Fatal(err)
	}
	x := &executor{run: b.run, conn: conn, instance: b.in}
	file := filepath.Join(b.dir, "log of logins")
	refused := func(user string) string {
		return fmt.Sprintf("2026-01-01 UTC [7] %s@app FATAL:  password authentication failed for user \"%s\"\n", user, user)
	}
	for _, c := range []struct{ name, before, now, want string }{
		{"nothing", "", "", ""},
		{"an empty log", "", refused("app"), `user "app"`},
		{"a long log", "x\n", "x\n" + strings.Repeat("LOG:  something else\n", 400_000) + refused("app"), `user "app"`},
		{"known", refused("app"), refused("app") + refused("app"), ""},
		{"many of a known one", refused("app"), strings.Repeat(refused("app"), 2000) + refused("web"), `user "web"`},
		{"emptied", strings.Repeat(refused("app"), 10), refused("app"), `user "app"`},
	} {
		if err := os.WriteFile(file, []byte(c.now), 0o644); err != nil {
			t.Fatal(err)
		}
		err := x.refusals(t.Context(), loginLog{file: file, size: int64(len(c.before))}, &tasks.Plan{})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// The first Ctrl-C ends a gate's wait for a host, and for the user's command.
func TestGateStops(t *testing.T) {
	b := newBench(t, "")
	known := []Known{{Instance: b.in, State: tasks.NewState(b.in, nil, nil), Plan: &tasks.Plan{Instance: b.in}}}
	for _, waits := range []bool{true, false} {
		stop := make(chan struct{})
		a := newRolling(b.run, stop, known)
		a.done = []int{0}
		a.results[0] = Result{Status: Unchanged}
		if waits { // for a server that is not there
			a.results[0].before = &before{server: facts.Server{Reached: true}, log: loginLog{problem: "there is none"}}
		} else {
			b.run.Fleet.Rollout.Gate = "exec sleep 50"
		}
		time.AfterFunc(300*time.Millisecond, func() { close(stop) })
		began := time.Now()
		err := a.gate(t.Context(), Wave{Members: []int{0}}, 1, "wave 1 of 2")
		if took := time.Since(began); !errors.Is(err, errStopped) || took > 10*time.Second || took < 300*time.Millisecond {
			t.Errorf("after %v: %v", took, err)
		}
	}
}

// Of a server that is written to the plan knows that its restart is downtime, and
// whether a standby's will show how long.
func TestDowntime(t *testing.T) {
	known, _ := worldOf(t, "psp", "")
	for i := range known {
		known[i].Plan.Steps = []tasks.Step{{Changes: []tasks.Change{{Action: tasks.Restart{}}}}}
	}
	c := Clusters(known)[0]
	if !known[0].Downtime() || known[1].Downtime() || !known[2].Downtime() || !c.Measured(known, 0) {
		t.Error(known[0].Downtime(), known[1].Downtime(), known[2].Downtime(), c.Measured(known, 0))
	}
	known[1].Plan.Steps = nil
	if c.Measured(known, 0) {
		t.Error("no standby restarts, and its downtime is known")
	}
	for _, c := range []struct {
		standby       bool
		downFor, want string
	}{
		{false, "", "which is downtime; how long is not known"},
		{false, "pg02 was down for 400ms", "which is downtime, expected to be as long as pg02 was down for 400ms"},
		{true, "pg02 was down for 400ms", ", expected to be as long as pg02"},
	} {
		if got := expectedDowntime(facts.Server{Reached: true, InRecovery: c.standby}, c.downFor); !strings.Contains(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if got := expectedDowntime(facts.Server{Reached: true, InRecovery: true}, ""); got != "" {
		t.Error(got)
	}
}
