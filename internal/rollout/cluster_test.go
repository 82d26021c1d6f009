package rollout

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// A member is a server of a world: NAME, or NAME/REPLICATION with what fleet.toml
// calls its cluster. Its host has the address 10.0.0.N, N from its name.
type member struct {
	name     string
	id       string // its system identifier; "" for a server that does not answer
	from     string // what a standby streams from, "?" where no address of the fleet is that; "" for a primary
	rows     string // addresses in its pg_stat_replication
	restarts bool
	silent   bool // its host could not be asked
	beside   bool
}

func fleetOf(t *testing.T, list ...member) *inventory.Fleet {
	t.Helper()
	text := "[fleet]\nname = \"x\"\n[postgres]\nversion = 15\n"
	for _, m := range list {
		name, replication, _ := strings.Cut(m.name, "/")
		text += fmt.Sprintf("[hosts.%s]\naddress = \"10.0.0.%s\"\n", name, strings.TrimLeft(name, "pg0"))
		if replication != "" {
			text += fmt.Sprintf("replication = %q\n", replication)
		}
	}
	fleet, err := inventory.Load("fleet.toml", inventory.Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(text)}}})
	if err != nil {
		t.Fatal(err)
	}
	return fleet
}

// world returns servers as a survey finds them.
func world(t *testing.T, list ...member) []Known {
	t.Helper()
	var known []Known
	for i, in := range fleetOf(t, list...).Instances() {
		m := list[i]
		k := Known{Instance: in, Beside: m.beside}
		if m.silent {
			k.Err, k.Unreachable = errors.New("no route to host"), true
			known = append(known, k)
			continue
		}
		srv := facts.Server{Reached: m.id != "", Version: 150000, SystemIdentifier: m.id, InRecovery: m.from != "", Upstream: strings.Trim(m.from, "?")}
		for _, a := range strings.Fields(m.rows) {
			srv.Standbys = append(srv.Standbys, facts.Standby{Name: "walreceiver", State: "streaming", Addr: netip.MustParseAddr(a)})
		}
		k.State = tasks.NewState(in, map[facts.Read]facts.Answer{tasks.ServerRead(in): {Value: srv}}, nil)
		if !m.beside {
			k.Plan = &tasks.Plan{Instance: in, After: k.State}
			if m.restarts {
				k.Plan.Steps = []tasks.Step{{Changes: []tasks.Change{{Action: tasks.Restart{}}}}}
			}
		}
		known = append(known, k)
	}
	return known
}

func showClusters(known []Known) []string {
	var list []string
	for _, c := range Clusters(known) {
		s := c.Name + ": " + ids(known, c.Members)
		if c.Primary >= 0 {
			s += " of " + string(known[c.Primary].Instance.ID())
		}
		list = append(list, s)
	}
	return list
}

// Who belongs together where the addresses of replication are not the fleet's.
func TestClustersByIdentifier(t *testing.T) {
	for _, c := range []struct {
		what string
		list []member
		want []string
	}{
		{"another network", []member{{name: "pg01", id: "7", rows: "192.0.2.2 192.0.2.3"}, {name: "pg02", id: "7", from: "192.0.2.1"}, {name: "pg03", id: "7", from: "?"}},
			[]string{"pg01: pg02, pg03, pg01 of pg01"}},
		{"standbys without their primary", []member{{name: "pg02", id: "7", from: "?"}, {name: "pg03", id: "7", from: "?"}}, []string{"pg02: pg02, pg03"}},
		{"a restored copy", []member{{name: "pg01", id: "7"}, {name: "pg02", id: "7"}}, nil},
		{"a copy, and addresses", []member{{name: "pg01", id: "7"}, {name: "pg02", id: "7", from: "10.0.0.1"}, {name: "pg03", id: "7"}, {name: "pg04", id: "7", from: "10.0.0.3"}},
			[]string{"pg01: pg02, pg01 of pg01", "pg03: pg04, pg03 of pg03"}},
		{"a copy, and one address", []member{{name: "pg01", id: "7"}, {name: "pg02", id: "7", from: "10.0.0.1"}, {name: "pg03", id: "7"}},
			[]string{"pg01: pg02, pg01 of pg01"}},
		{"a copy, and names", []member{{name: "pg01/a", id: "7"}, {name: "pg02/a", id: "7", from: "?"}, {name: "pg03/b", id: "7"}, {name: "pg04/b", id: "7", from: "?"}},
			[]string{"a: pg02, pg01 of pg01", "b: pg04, pg03 of pg03"}},
		{"a copy, and nothing to go by", []member{{name: "pg01", id: "7"}, {name: "pg02", id: "7", from: "?"}, {name: "pg03", id: "7"}},
			[]string{"pg02: pg02, pg01, pg03"}},
		{"other servers", []member{{name: "pg01", id: "7"}, {name: "pg02", id: "8", from: "?"}, {name: "pg03", id: ""}}, nil},
		{"a cascade", []member{{name: "pg01", id: "7"}, {name: "pg02", id: "7", from: "10.0.0.1"}, {name: "pg03", id: "7", from: "10.0.0.2"}},
			[]string{"pg01: pg03, pg02, pg01 of pg01"}},
		{"a member that could not be asked", []member{{name: "pg01", silent: true}, {name: "pg02", id: "7", from: "10.0.0.1"}}, []string{"pg02: pg02, pg01"}},
		{"one that is not set up yet", []member{{name: "pg01/a", id: "7"}, {name: "pg02/a", id: "7", from: "?"}, {name: "pg03/a", id: "9"}}, []string{"a: pg02, pg01, pg03 of pg01"}},
	} {
		if d := cmp.Diff(c.want, showClusters(world(t, c.list...))); d != "" {
			t.Errorf("%s: %s", c.what, d)
		}
	}
}

// The port tells apart whom a standby streams from on a host with several
// instances, and the standby that is up has the address that its primary lists.
func TestClustersOnSharedHosts(t *testing.T) {
	fleet, err := inventory.Load("fleet.toml", inventory.Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(`[fleet]
name = "x"
[postgres]
version = 15
[hosts.pg01]
address = "10.0.0.1"
instances.main = { port = 5432 }
instances.other = { port = 5433 }
[hosts.pg02]
address = "10.0.0.2"
instances.main = { port = 5432 }
instances.other = { port = 5433 }
`)}}})
	if err != nil {
		t.Fatal(err)
	}
	var known []Known
	for i, srv := range []facts.Server{
		{Reached: true, SystemIdentifier: "7", Standbys: []facts.Standby{{Name: "15/main", Addr: netip.MustParseAddr("10.0.0.2")}}},
		{}, // stopped, of another cluster
		{Reached: true, SystemIdentifier: "7", InRecovery: true, Upstream: "10.0.0.1", UpstreamPort: 5432},
		{}, // likewise
	} {
		in := fleet.Instances()[i]
		known = append(known, Known{Instance: in, Plan: &tasks.Plan{Instance: in}, State: tasks.NewState(in, map[facts.Read]facts.Answer{tasks.ServerRead(in): {Value: srv}}, nil)})
	}
	if d := cmp.Diff([]string{"pg01/main: pg02/main, pg01/main of pg01/main"}, showClusters(known)); d != "" {
		t.Error(d)
	}
	// A port on the way there counts for nothing where there is one instance.
	known = world(t, member{name: "pg01", id: "7"}, member{name: "pg02", id: "7", from: "10.0.0.1"})
	known[1].server().UpstreamPort = 6432
	if d := cmp.Diff([]string{"pg01: pg02, pg01 of pg01"}, showClusters(known)); d != "" {
		t.Error(d)
	}
}

// A standby that streams from a standby comes before that one, in whatever order
// the file has them, and in waves as well as within one.
func TestCascadeOrder(t *testing.T) {
	known := world(t, member{name: "pg01", id: "7", restarts: true}, member{name: "pg02", id: "7", from: "10.0.0.1", restarts: true}, member{name: "pg03", id: "7", from: "10.0.0.2", restarts: true})
	waves, err := Waves(known, inventory.Rollout{Batches: []inventory.Share{{Count: 1}}})
	if err != nil || show(waves) != "3 | 2 | 1" {
		t.Errorf("%s, %v", show(waves), err)
	}
	one, err := Waves(known, inventory.Rollout{})
	if err != nil || len(one) != 1 {
		t.Fatalf("%v, %v", one, err)
	}
	if got := lines(known, one[0], Clusters(known)); ids(known, got[0]) != "pg03, pg02, pg01" {
		t.Errorf("%s", ids(known, got[0]))
	}
	p := peersOf(known, Clusters(known)[0], 1)
	if joinInstances(p.below) != "pg03" || joinInstances(p.primaries) != "pg01" || p.cascades {
		t.Errorf("%+v", p)
	}
	if p = peersOf(known, Clusters(known)[0], 2); !p.cascades || p.below != nil {
		t.Errorf("%+v", p)
	}
}

func joinInstances(list []inventory.Instance) string {
	var names []string
	for _, in := range list {
		names = append(names, string(in.ID()))
	}
	return strings.Join(names, ", ")
}

// Whom a run asks that are beside it: few, and nobody without a restart.
func TestMissingMembers(t *testing.T) {
	for _, c := range []struct {
		what string
		list []member // those beside are the rest
		want string
	}{
		{"nothing restarts", []member{{name: "pg02/a", id: "7", from: "10.0.0.1"}, {name: "pg01/a", beside: true}}, ""},
		{"by name", []member{{name: "pg02/a", id: "7", from: "?", restarts: true}, {name: "pg01/a", beside: true}, {name: "pg03/a", beside: true}, {name: "pg04/b", beside: true}, {name: "pg05", beside: true}}, "pg01, pg03"},
		{"by address", []member{{name: "pg02", id: "7", from: "10.0.0.1", restarts: true}, {name: "pg01", beside: true}, {name: "pg03", beside: true}}, "pg01"},
		{"a primary's list", []member{{name: "pg01", id: "7", rows: "10.0.0.3 192.0.2.9", restarts: true}, {name: "pg02", beside: true}, {name: "pg03", beside: true}}, "pg03"},
		{"no address is known", []member{{name: "pg02", id: "7", from: "192.0.2.1", restarts: true}, {name: "pg01", beside: true}, {name: "pg03/b", beside: true}}, "pg01, pg03"},
		{"a server that stands alone", []member{{name: "pg02", id: "7", restarts: true}, {name: "pg01", beside: true}}, ""},
		{"named, and known to be alone", []member{{name: "pg02/a", id: "7", from: "192.0.2.1", restarts: true}, {name: "pg01", beside: true}}, ""},
	} {
		all := world(t, c.list...)
		at := slices.IndexFunc(all, func(k Known) bool { return k.Beside })
		var rest []inventory.Instance
		for _, k := range all[at:] {
			rest = append(rest, k.Instance)
		}
		if got := joinInstances(missing(all[:at], rest)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// What is known before a restart, and what is said of the rest.
func TestPeers(t *testing.T) {
	for _, c := range []struct {
		what                       string
		list                       []member // the first one restarts
		primaries, standbys, below string
		silent, unchecked          string
	}{
		{"a standby and the others beside it", []member{{name: "pg02", id: "7", from: "10.0.0.1", restarts: true}, {name: "pg01", id: "7", beside: true, rows: "10.0.0.3"}, {name: "pg03", id: "7", from: "10.0.0.1", beside: true}},
			"pg01", "pg03", "", "", ""},
		{"one of them is down", []member{{name: "pg02/a", id: "7", from: "10.0.0.1", restarts: true}, {name: "pg01/a", id: "7", beside: true}, {name: "pg03/a", silent: true, beside: true}},
			"pg01", "", "", "pg03", ""},
		{"its server is down", []member{{name: "pg02/a", id: "7", from: "10.0.0.1", restarts: true}, {name: "pg01/a", id: "7", beside: true}, {name: "pg03/a", beside: true}},
			"pg01", "pg03", "", "", ""},
		{"a standby alone", []member{{name: "pg02", id: "7", from: "192.0.2.1", restarts: true}}, "", "", "", "",
			"its primary is not in fleet.toml (it streams from 192.0.2.1), so nobody looks whether commits there would wait for it"},
		{"its primary does not answer", []member{{name: "pg02/a", id: "7", from: "192.0.2.1", restarts: true}, {name: "pg01/a", beside: true}}, "", "pg01", "", "", ""},
		{"a primary", []member{{name: "pg01", id: "7", restarts: true, rows: "10.0.0.2"}, {name: "pg02", id: "7", from: "10.0.0.1", beside: true}}, "", "pg02", "pg02", "", ""},
		{"a primary alone", []member{{name: "pg01", id: "7", restarts: true, rows: "192.0.2.2"}}, "", "", "", "",
			"not all that stream from it are in fleet.toml (walreceiver at 192.0.2.2), so nobody looks whether they come back"},
		{"another network", []member{{name: "pg01", id: "7", restarts: true, rows: "192.0.2.2"}, {name: "pg02", id: "7", from: "192.0.2.1", beside: true}}, "", "pg02", "pg02", "", ""},
		{"a copy", []member{{name: "pg02", id: "7", from: "?", restarts: true}, {name: "pg01", id: "7"}, {name: "pg03", id: "7"}}, "pg01, pg03", "", "", "",
			"which of the primaries pg01, pg03 it follows is not known, so lag is not looked at: give the members of a cluster the same replication in fleet.toml"},
	} {
		known := world(t, c.list...)
		clusters := Clusters(known)
		p := peersOf(known, clusterAt(clusters, clusterOf(clusters, len(known)), 0), 0)
		var silent []string
		for _, k := range p.silent {
			silent = append(silent, string(k.Instance.ID()))
		}
		got := []string{joinInstances(p.primaries), joinInstances(p.standbys), joinInstances(p.below), strings.Join(silent, ", "), p.unchecked}
		if d := cmp.Diff([]string{c.primaries, c.standbys, c.below, c.silent, c.unchecked}, got); d != "" {
			t.Errorf("%s: %s", c.what, d)
		}
		if err := p.allAsked(); (err != nil) != (c.silent != "") {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// Members beside the run are in no wave, and nobody waits for them.
func TestBesideIsInNoWave(t *testing.T) {
	known := world(t, member{name: "pg01", id: "7", restarts: true}, member{name: "pg03", id: "7", from: "10.0.0.1", restarts: true}, member{name: "pg02", id: "7", from: "10.0.0.1", beside: true},
		member{name: "pg04/x", silent: true, beside: true})
	sel, err := inventory.ParseSelector("pg04")
	if err != nil {
		t.Fatal(err)
	}
	canary := inventory.Canary{Hosts: []inventory.Selector{sel}}
	if err := lostCanary(known, canary); err != nil {
		t.Error(err)
	}
	waves, err := Waves(known, inventory.Rollout{Batches: []inventory.Share{{Count: 1}}})
	if err != nil || show(waves) != "3 | 1" || len(waves[0].Members) != 1 || len(waves[1].Members) != 1 {
		t.Errorf("%+v, %v", waves, err)
	}
	if got := ofRun(known); len(got) != 2 {
		t.Errorf("%d are of the run", len(got))
	}
}

// What a restart changes of the parameters that a standby must not have less of.
func TestParameters(t *testing.T) {
	known := world(t, member{name: "pg01", id: "7", restarts: true})
	state := func(n string) *tasks.State {
		srv := *known[0].server()
		srv.Settings = []postgres.Setting{{Name: "max_connections", Setting: n, VarType: "integer", Context: "postmaster"}}
		return tasks.NewState(known[0].Instance, map[facts.Read]facts.Answer{tasks.ServerRead(known[0].Instance): {Value: srv}}, nil)
	}
	known[0].State, known[0].Plan.After = state("100"), state("50")
	if got := known[0].parameters(); len(got) != 1 || got[0] != (parameter{"max_connections", 100, 50}) {
		t.Errorf("%v", got)
	}
}

// noHost is a Connector of hosts that are all off.
type noHost struct{ dialled []string }

func (n *noHost) Dial(_ context.Context, h *inventory.Host) (transport.Conn, error) {
	n.dialled = append(n.dialled, h.Name)
	return nil, errors.New("no route to host")
}

// Hosts that cannot be asked are members if fleet.toml or an address says so.
func TestBesideOfDeadHosts(t *testing.T) {
	for _, c := range []struct {
		list            []member // the first one is in the run
		dialled, beside string
	}{
		{[]member{{name: "pg02/a", id: "7", from: "?", restarts: true}, {name: "pg01/a"}, {name: "pg03/a"}, {name: "pg04"}}, "pg01 pg03", "pg01 pg03"},
		{[]member{{name: "pg02", id: "7", from: "10.0.0.1", restarts: true}, {name: "pg01"}, {name: "pg03"}}, "pg01", "pg01"},
		{[]member{{name: "pg02", id: "7", from: "?", restarts: true}, {name: "pg01"}, {name: "pg03"}}, "pg01 pg03", ""},
		{[]member{{name: "pg02/a", id: "7", from: "?"}, {name: "pg01/a"}}, "", ""},
	} {
		all := world(t, c.list...)
		hosts := &noHost{}
		run := &Run{Fleet: fleetOf(t, c.list...), Connector: hosts, Forks: 1}
		var beside []string
		for _, k := range run.Beside(t.Context(), all[:1]) {
			if !k.Beside || k.Err == nil {
				t.Errorf("%+v", k)
			}
			beside = append(beside, string(k.Instance.ID()))
		}
		if got := strings.Join(hosts.dialled, " "); got != c.dialled || strings.Join(beside, " ") != c.beside {
			t.Errorf("%v: dialled %q, beside %q", c.list, got, beside)
		}
	}
}
