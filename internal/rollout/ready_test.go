package rollout

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A canary that is left alone has shown nothing, so it is the last.
func TestCanaryIsLeftAlone(t *testing.T) {
	list := []member{{name: "pg02/a", id: "7", from: "?", restarts: true}, {name: "pg03/a", silent: true}, {name: "pg04", id: "8", restarts: true}}
	known := world(t, list...)
	run := &Run{Fleet: fleetOf(t, list...), Connector: &noHost{}, Forks: 1}
	run.Fleet.Rollout.Canary.Count = 1
	results, err := run.Apply(t.Context(), nil, known)
	if err == nil || !strings.Contains(err.Error(), "the canary was not changed (pg02), so nothing else was touched") {
		t.Errorf("the rollout ended: %v", err)
	}
	for i, want := range []struct {
		status Status
		says   string
	}{{Stopped, "left alone, because pg03 of its cluster is in trouble"}, {Unreachable, "no route to host"}, {Stopped, "the canary was not changed (pg02)"}} {
		if r := results[i]; r.Status != want.status || r.Err == nil || !strings.Contains(r.Err.Error(), want.says) {
			t.Errorf("%s is %s: %v", r.Instance, r.Status, r.Err)
		}
	}
}

// Around a restart the leases of all members are taken that answer, and of nobody
// else; and whoever is refused is told why another's host matters.
func TestLeasesAroundARestart(t *testing.T) {
	list := []member{{name: "pg02/a", id: "7", from: "10.0.0.1", restarts: true}, {name: "pg04", id: "8"}, {name: "pg01/a", id: "7", beside: true}, {name: "pg03/a", silent: true, beside: true}}
	known := world(t, list...)
	var names []string
	for _, h := range inOrder(aside(known)) {
		names = append(names, h.Name)
	}
	if !slices.Equal(names, []string{"pg01", "pg02"}) {
		t.Errorf("leases of %q", names)
	}
	quiet := world(t, member{name: "pg02/a", id: "7", from: "10.0.0.1"}, member{name: "pg01/a", id: "7"})
	if got := aside(quiet); len(got) != 0 {
		t.Errorf("nothing restarts, and leases of %v", got)
	}
	held := &HeldError{Lease: Lease{Holder: "ana@laptop", Run: "first"}}
	results := notBegun(known, known[2].Instance.Host, held)
	if len(results) != 2 || results[0].Status != Refused || results[1].Status != Unchanged ||
		!strings.HasPrefix(results[0].Err.Error(), "pg01 belongs to its cluster, and nobody else may change that while this one restarts; on pg01 ana@laptop has been applying here since ") {
		t.Errorf("%+v", results)
	}
	// A host that is to be changed itself is refused itself.
	results = notBegun(known, known[0].Instance.Host, held)
	if results[0].Status != Refused || !strings.HasPrefix(results[0].Err.Error(), "ana@laptop") {
		t.Errorf("%+v", results)
	}
}

// lostHost is a Connector of hosts whose connection has broken.
type lostHost struct{}

func (lostHost) Dial(context.Context, *inventory.Host) (transport.Conn, error) {
	return nil, &transport.Error{Kind: transport.KindUnreachable, Op: "connect", Err: errors.New("no route to host")}
}

// A standby's host that is away for a moment does not end the wait for it; the
// server's own host that is away does.
func TestStreamsOfAHostThatIsAway(t *testing.T) {
	list := []member{{name: "pg01", id: "7", restarts: true}, {name: "pg02", id: "7", from: "10.0.0.1"}}
	known := world(t, list...)
	run := &Run{Fleet: fleetOf(t, list...), Connector: lostHost{}}
	run.Fleet.Rollout.GateTimeout = 500 * time.Millisecond
	x := &executor{run: run, instance: known[0].Instance, phase: func(string) {}}
	x.peers.below = []inventory.Instance{known[1].Instance}
	if err := x.streams(t.Context(), false); err == nil || !strings.Contains(err.Error(), "it restarted, and 500ms later pg02 does not answer: ") {
		t.Errorf("a standby's host is away: %v", err)
	}
	x.instance = known[1].Instance
	began := time.Now()
	if err := x.streams(t.Context(), true); err == nil || !strings.Contains(err.Error(), "whether pg02 streams is not known") || time.Since(began) > 400*time.Millisecond {
		t.Errorf("its own host is away: %v", err)
	}
}

// What is waited for in several goes is waited for no longer than the limit.
func TestWaitsTogether(t *testing.T) {
	x := &executor{phase: func(string) {}}
	p := newPatience(600 * time.Millisecond)
	until := func(n int) func(context.Context) (string, error) {
		return func(context.Context) (string, error) {
			if n--; n < 0 {
				return "", nil
			}
			return "something is in the way", nil
		}
	}
	if waited, err := x.wait(t.Context(), p, "waiting", until(0)); waited || err != nil || p.left != p.limit {
		t.Errorf("%v, %v, %v left", waited, err, p.left)
	}
	if waited, err := x.wait(t.Context(), p, "waiting", until(2)); !waited || err != nil || p.left > 250*time.Millisecond {
		t.Errorf("%v, %v, %v left", waited, err, p.left)
	}
	began := time.Now()
	if _, err := x.wait(t.Context(), p, "waiting", until(1000)); err == nil || !strings.Contains(err.Error(), "after 600ms something is in the way") || time.Since(began) > 550*time.Millisecond {
		t.Errorf("%v", err)
	}
}

func TestSameRole(t *testing.T) {
	x := &executor{role: "standby"}
	for _, c := range []struct {
		now  facts.Server
		same bool
	}{{facts.Server{Reached: true, InRecovery: true}, true}, {facts.Server{}, true}, {facts.Server{Reached: true}, false}} {
		if err := x.sameRole(c.now); (err == nil) != c.same || err != nil && !errors.Is(err, errDrifted) {
			t.Errorf("%+v: %v", c.now, err)
		}
	}
}
