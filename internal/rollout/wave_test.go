package rollout

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// worldOf are servers pg01, pg02, …: "p" a primary, "s" a standby of the primary
// before it, "-" a server that could not be asked, and a capital letter for one of
// which nothing is due.
func worldOf(t *testing.T, letters string, rollout string) ([]Known, inventory.Rollout) {
	t.Helper()
	var known []Known
	text := "[fleet]\nname = \"x\"\n[postgres]\nversion = 15\n"
	for i := range letters {
		text += fmt.Sprintf("[hosts.pg%02d]\naddress = \"10.0.0.%d\"\n", i+1, i+1)
	}
	path := filepath.Join(t.TempDir(), "fleet.toml")
	if err := os.WriteFile(path, []byte(text+rollout), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet, err := inventory.Load(path, inventory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	primary := ""
	for i, in := range fleet.Instances() {
		letter := letters[i : i+1]
		k := Known{Instance: in, Plan: &tasks.Plan{Instance: in}}
		if letter == strings.ToLower(letter) {
			k.Plan.Steps = []tasks.Step{{Changes: []tasks.Change{{Action: tasks.RunCommand{}}}}}
		}
		srv := facts.Server{Reached: true, Version: 150000, SystemIdentifier: "1"}
		switch strings.ToLower(letter) {
		case "p":
			primary = in.Host.Address
		case "s":
			srv.InRecovery, srv.Upstream = true, primary
		case "-":
			known = append(known, Known{Instance: in, Err: fmt.Errorf("dead"), Unreachable: true})
			continue
		}
		k.State = tasks.NewState(in, map[facts.Read]facts.Answer{tasks.ServerRead(in): {Value: srv}}, nil)
		k.Plan.After = k.State
		known = append(known, k)
	}
	return known, fleet.Rollout
}

func show(waves []Wave) string {
	var list []string
	for _, w := range waves {
		s := strings.ReplaceAll(strings.Join(w.Hosts, " "), "pg0", "")
		if w.Canary {
			s += "!"
		}
		list = append(list, s)
	}
	return strings.Join(list, " | ")
}

func TestWaves(t *testing.T) {
	for _, c := range []struct{ world, rollout, want string }{
		{"ppp", "", "1 2 3"},
		{"PPP", "", ""},
		{"ppppp", "canary = 1\nbatches = 2", "1! | 2 3 | 4 5"},
		{"ppppppppp", "batches = [1, \"25%\", \"50%\"]", "1 | 2 3 4 | 5 6 7 8 9"},
		{"pppp", "canary = 2\nbatches = \"10%\"", "1 2! | 3 | 4"},
		{"ppPp", "canary = 1", "1! | 2 4"},
		// A primary comes after its standbys, in whatever wave.
		{"psspss", "", "2 3 1 5 6 4"},
		{"psspss", "canary = 1\nbatches = 2", "2! | 3 1 | 5 6 | 4"},
		{"pss", "canary = [\"pg03\"]\nbatches = 1", "3! | 2 | 1"},
		{"psspss", "canary = [\"role=standby:pg0*\"]", "2 3 5 6! | 1 4"},
		{"pppp", "order = [\"pg04\", \"pg02\"]\nbatches = 1", "4 | 2 | 1 | 3"},
		{"pss", "order = [\"pg01\"]\nbatches = 1", "2 | 3 | 1"},
		{"p-p", "batches = 1", "1 | 3"},
		{"ppS", "canary = [\"pg02\"]\nbatches = 1", "2! | 1"},
	} {
		rollout := ""
		if c.rollout != "" {
			rollout = "[rollout]\n" + c.rollout + "\n"
		}
		known, r := worldOf(t, c.world, rollout)
		waves, err := Waves(known, r)
		if err != nil {
			t.Errorf("%s %q: %v", c.world, c.rollout, err)
			continue
		}
		if got := show(waves); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.world, c.rollout, got, c.want)
		}
		seen := map[int]bool{}
		for _, w := range waves {
			for _, i := range w.Members {
				if seen[i] {
					t.Errorf("%s %q: %d is in two waves", c.world, c.rollout, i)
				}
				seen[i] = true
			}
		}
		if len(seen) != len(known) {
			t.Errorf("%s %q: %d instances are in waves, of %d", c.world, c.rollout, len(seen), len(known))
		}
	}
	known, r := worldOf(t, "-pp", "[rollout]\ncanary = [\"pg01\"]\n")
	if err := lostCanary(known, r.Canary); err == nil || !strings.Contains(err.Error(), "pg01 is the canary and could not be asked") {
		t.Errorf("a dead canary: %v", err)
	}
	known, r = worldOf(t, "pss", "[rollout]\ncanary = [\"pg01\"]\n")
	if _, err := Waves(known, r); err == nil || !strings.Contains(err.Error(), "pg01 comes after pg02, pg03") {
		t.Errorf("a primary as the canary of its cluster: %v", err)
	}
}

// ids names members of a world.
func ids(known []Known, list []int) string {
	var names []inventory.InstanceID
	for _, i := range list {
		names = append(names, known[i].Instance.ID())
	}
	return joinIDs(names)
}

func TestClusters(t *testing.T) {
	known, _ := worldOf(t, "pssp-ps", "")
	var got []string
	for _, c := range Clusters(known) {
		got = append(got, c.Name+": "+ids(known, c.Members))
	}
	if d := cmp.Diff([]string{"pg01: pg02, pg03, pg01", "pg06: pg07, pg06"}, got); d != "" {
		t.Error(d)
	}
	// The primary knows the address, where the standby knows a name.
	known, _ = worldOf(t, "ps", "")
	for i, change := range []func(*facts.Server){
		func(s *facts.Server) { s.Standbys = []facts.Standby{{Addr: netip.MustParseAddr("10.0.0.2")}} },
		func(s *facts.Server) { s.Upstream = "db.example" },
	} {
		change(known[i].State.Server())
	}
	if c := Clusters(known); len(c) != 1 || c[0].Primary != 0 || c[0].Upstream[1] != 0 {
		t.Errorf("%+v", c)
	}
	// Another server with the same system identifier is no member by itself.
	known, _ = worldOf(t, "pp", "")
	if c := Clusters(known); len(c) != 0 {
		t.Errorf("%+v", c)
	}
}

// runningWith gives a member of a world the values of max_connections and
// max_wal_senders that it has, and is to have after a restart.
func runningWith(k *Known, before, after [2]string) {
	state := func(v [2]string) *tasks.State {
		srv := *k.State.Server()
		srv.Settings = []postgres.Setting{
			{Name: "max_connections", Setting: v[0], VarType: "integer", Context: "postmaster"},
			{Name: "max_wal_senders", Setting: v[1], VarType: "integer", Context: "postmaster"},
		}
		return tasks.NewState(k.Instance, map[facts.Read]facts.Answer{tasks.ServerRead(k.Instance): {Value: srv}}, nil)
	}
	k.State, k.Plan.After = state(before), state(after)
	if before != after {
		k.Plan.Steps = []tasks.Step{{Changes: []tasks.Change{{Action: tasks.Restart{}}}}}
	}
}

func TestPrimaryFirst(t *testing.T) {
	for _, c := range []struct {
		primary, standby, primaryThen, standbyThen [2]string // max_connections, max_wal_senders
		first                                      bool
		problem                                    string
	}{
		{[2]string{"100", "10"}, [2]string{"100", "10"}, [2]string{"200", "10"}, [2]string{"200", "10"}, false, ""},
		{[2]string{"100", "10"}, [2]string{"100", "10"}, [2]string{"50", "10"}, [2]string{"50", "10"}, true, ""},
		{[2]string{"100", "10"}, [2]string{"100", "10"}, [2]string{"50", "20"}, [2]string{"50", "20"}, false, "cluster pg01: max_wal_senders becomes more and max_connections less"},
		{[2]string{"100", "10"}, [2]string{"100", "10"}, [2]string{"100", "10"}, [2]string{"100", "10"}, false, ""},
		// A standby that has more than its primary needs is in nobody's way.
		{[2]string{"100", "10"}, [2]string{"200", "10"}, [2]string{"150", "10"}, [2]string{"150", "10"}, false, ""},
		{[2]string{"100", "10"}, [2]string{"200", "10"}, [2]string{"150", "5"}, [2]string{"150", "5"}, true, ""},
		{[2]string{"100", "10"}, [2]string{"200", "20"}, [2]string{"100", "15"}, [2]string{"100", "15"}, false, ""},
		{[2]string{"100", "10"}, [2]string{"200", "20"}, [2]string{"100", "10"}, [2]string{"50", "20"}, true, ""},
	} {
		known, _ := worldOf(t, "ps", "")
		runningWith(&known[0], c.primary, c.primaryThen)
		runningWith(&known[1], c.standby, c.standbyThen)
		first, err := Clusters(known)[0].PrimaryFirst(known)
		if first != c.first || (err != nil) != (c.problem != "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%v: %v, %v", c, first, err)
		}
		waves, err := Waves(known, inventory.Rollout{})
		want := map[bool]string{true: "1 2", false: "2 1"}[c.first]
		if due := known[0].restarts() && known[1].restarts(); err != nil || due && show(waves) != want {
			t.Errorf("%v: %s, %v, want %s", c, show(waves), err, want)
		}
	}
}

// A cluster without an order is refused, and the others are not.
func TestRefuseOrders(t *testing.T) {
	known, _ := worldOf(t, "pspsp", "")
	for i, then := range [][2]string{{"50", "20"}, {"50", "20"}, {"200", "20"}, {"200", "20"}, {"50", "20"}} {
		runningWith(&known[i], [2]string{"100", "10"}, then)
	}
	refuseOrders(known)
	for i, refused := range []bool{true, true, false, false, false} {
		if err := known[i].Err; (err != nil) != refused || refused && !strings.Contains(err.Error(), "do it in two applies; nothing was changed") {
			t.Errorf("%s: %v", known[i].Instance.ID(), err)
		}
	}
	waves, err := Waves(known, inventory.Rollout{Batches: []inventory.Share{{Count: 1}}})
	if err != nil || show(waves) != "4 | 3 | 5" {
		t.Errorf("%s, %v", show(waves), err)
	}
}

// Whatever happens to those that run, no more hosts fail than the budget has.
func TestBudgetIsNeverOverrun(t *testing.T) {
	for _, limit := range []int{1, 2, 5} {
		b := newBudget(limit)
		var failed, running, most atomic.Int64
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				host := fmt.Sprint(i)
				if b.reserve(context.Background(), nil, host) != nil {
					return
				}
				for n := running.Add(1); ; {
					if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
						break
					}
				}
				time.Sleep(time.Millisecond)
				running.Add(-1)
				failed.Add(1)
				b.done(host, true)
			})
		}
		group.Wait()
		if failed.Load() != int64(limit) || most.Load() > int64(limit) {
			t.Errorf("of a budget of %d, %d failed, at most %d at once", limit, failed.Load(), most.Load())
		}
		if err := b.reserve(context.Background(), nil, "late"); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("max_failures = %d allows no more", limit)) {
			t.Errorf("%v", err)
		}
	}
	// Those that are well give back what they reserved.
	b := newBudget(1)
	for i := range 5 {
		if err := b.reserve(context.Background(), nil, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		b.done(fmt.Sprint(i), false)
	}
	// Whoever waits is woken by Ctrl-C.
	if err := b.reserve(context.Background(), nil, "runs"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	close(stop)
	if err := b.reserve(context.Background(), stop, "waits"); err == nil {
		t.Error("it started after the stop")
	}
}
