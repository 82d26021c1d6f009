//go:build lab

package rollouts

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// connections is a setting that only a restart applies, and of which standbys
// must not have less than their primary.
func connections(n int) string {
	return fmt.Sprintf("\n[[task]]\nname = \"Connections\"\nkind = \"settings\"\nfile = \"20-connections.conf\"\nsettings = { max_connections = %d }\n", n)
}

// Twelve servers restart, once for a parameter that is raised and once for one
// that is lowered, while clients write to every primary and read from every
// standby. Never are two members of a cluster down, nothing that was committed is
// lost, and how long each was down is what pgfleet says.
func TestLabRestartUnderLoad(t *testing.T) {
	b := newBench(t)
	var hosts []string
	writers := map[string]*writer{}
	for _, c := range clusters() {
		hosts = append(hosts, members(c.Name)...)
		look(t, c.Name, `cd /; runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d bench -c 'DROP TABLE IF EXISTS written' -c 'CREATE TABLE written (n int PRIMARY KEY); ALTER TABLE written OWNER TO bench'`)
	}
	for _, c := range clusters() {
		writers[c.Name] = write(t, c.Name)
		look(t, c.Name, fmt.Sprintf(`cd /; p=/usr/lib/postgresql/%d/bin/pgbench
runuser -u postgres -- $p -iq bench >/dev/null 2>&1
nohup setsid sh -c "while [ ! -e /run/enough ]; do runuser -u postgres -- $p -n -R 20 -T 5 bench; sleep 0.2; done" >/dev/null 2>&1 &`, c.Postgres))
		t.Cleanup(func() {
			look(t, c.Name, "touch /run/enough; sleep 0.3; pkill -x pgbench; sleep 0.2; rm -f /run/enough")
		})
	}
	const rollout = "\n[rollout]\ncanary = 1\nbatches = \"50%\"\nmax_failures = 3\n"
	for _, step := range []struct {
		name         string
		n            int
		primaryFirst bool
	}{{"raised", 150, false}, {"lowered", 120, true}} {
		b.fleet(rollout, connections(step.n))
		plan := b.Want(0, "plan")
		if first := strings.Contains(plan.Stdout, "the primary restarts first"); first != step.primaryFirst {
			t.Errorf("%s: the plan says that the primary is first: %v\n%s", step.name, first, plan.Stdout)
		}
		p := poll(t, hosts)
		time.Sleep(time.Second)
		s := b.Want(0, "apply", "--yes", "--json")
		time.Sleep(500 * time.Millisecond)
		down := p.ends()
		said, _ := outcomes(t, s)
		for _, c := range clusters() {
			if two := overlap(down, members(c.Name)); two != "" {
				t.Errorf("%s: %s were down at the same time", step.name, two)
			}
			for _, h := range members(c.Name) {
				if got := sql(t, h, "SHOW max_connections"); got != strconv.Itoa(step.n) {
					t.Errorf("%s: %s has max_connections = %s, want %d", step.name, h, got, step.n)
				}
				var seen time.Duration
				for _, d := range down[h] {
					seen += d.length()
				}
				if seen == 0 || said[h].Down == 0 || math.Abs(seen.Seconds()-said[h].Down) > 0.5+0.25*seen.Seconds() {
					t.Errorf("%s: %s was down for %v, and pgfleet says %.2fs", step.name, h, seen, said[h].Down)
				}
			}
			if last := order(down, members(c.Name)); (last[0] == c.Name) != step.primaryFirst || (last[2] == c.Name) == step.primaryFirst {
				t.Errorf("%s: the members of %s restarted in the order %s", step.name, c.Name, last)
			}
		}
		t.Logf("PROOF: max_connections %s on 12 servers under load: at no time were two members of a cluster down, as %d polls saw; the times that each was down agree with the summary", step.name, p.asked.Load())
	}
	lost, total := 0, 0
	for name, w := range writers {
		committed := w.ends()
		total += len(committed)
		if len(committed) < 100 {
			t.Errorf("only %d rows were committed on %s", len(committed), name)
		}
		lsn := sql(t, name, "SELECT pg_current_wal_flush_lsn()")
		for _, h := range members(name) {
			if h != name {
				for range 100 {
					if sql(t, h, "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'") == "t" {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
			}
			there := strings.Fields(look(t, h, "cd /; runuser -u postgres -- psql -XAtq -d bench -c 'SELECT n FROM written'"))
			for _, n := range committed {
				if !slices.Contains(there, strconv.Itoa(n)) {
					lost++
				}
			}
		}
	}
	if lost > 0 {
		t.Errorf("%d committed rows are lost", lost)
	}
	t.Logf("PROOF: %d rows were committed meanwhile, and each is on all three members of its cluster", total)
}

// overlap names two hosts that were down at the same time; "" if none were. A
// tick of the poller at either end is not taken for being down.
func overlap(down map[string][]span, hosts []string) string {
	for i, a := range hosts {
		for _, b := range hosts[i+1:] {
			for _, x := range down[a] {
				for _, y := range down[b] {
					if x.from.Add(tick).Before(y.to) && y.from.Add(tick).Before(x.to) {
						return fmt.Sprintf("%s (%v to %v) and %s (%v to %v)", a, x.from, x.to, b, y.from, y.to)
					}
				}
			}
		}
	}
	return ""
}

// order returns hosts by when they were down first.
func order(down map[string][]span, hosts []string) []string {
	hosts = slices.Clone(hosts)
	slices.SortFunc(hosts, func(a, b string) int {
		first := func(h string) time.Time {
			if len(down[h]) == 0 {
				return time.Time{}
			}
			return down[h][0].from
		}
		return first(a).Compare(first(b))
	})
	return hosts
}
