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
	readers := map[string]*reader{}
	for _, h := range hosts {
		if !strings.HasSuffix(h, "1") {
			readers[h] = read(t, h)
		}
	}
	outages := map[string][]span{}
	const budget = 3
	rollout := fmt.Sprintf("\n[rollout]\ncanary = 1\nbatches = \"50%%\"\nmax_failures = %d\n", budget)
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
		// What is said before is also in the plan: downtime, and whether a standby
		// will have shown how long.
		expected := "downtime: restart of a1, b1, c1, d1; expected to be as long as that of the standby before it"
		if step.primaryFirst {
			expected = "downtime: restart of a1, b1, c1, d1; how long is not known"
		}
		if !strings.Contains(plan.Stdout, expected) {
			t.Errorf("%s: the plan does not say %q:\n%s", step.name, expected, plan.Stdout)
		}
		p := poll(t, hosts)
		time.Sleep(time.Second)
		s := b.Want(0, "apply", "--yes", "--json")
		time.Sleep(500 * time.Millisecond)
		down := p.ends()
		said, _ := outcomes(t, s)
		expected = "which is downtime, expected to be as long as "
		if step.primaryFirst {
			expected = "which is downtime; how long is not known"
		}
		if n := strings.Count(s.Stderr, expected); n != len(clusters()) {
			t.Errorf("%s: said %d times: %q\n%s", step.name, n, expected, s.Stderr)
		}
		if most, who := atOnce(down); most > budget {
			t.Errorf("%s: with max_failures = %d, %d hosts were down at once: %s", step.name, budget, most, who)
		}
		for h, list := range down {
			outages[h] = append(outages[h], list...)
		}
		widest := 0.0
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
				// Each of the two tries every 50 ms, at the beginning and at the end of
				// each outage, and takes as long as a login does: they differ by 0.05 s
				// on a machine that has time.
				widest = max(widest, math.Abs(seen.Seconds()-said[h].Down))
				if seen == 0 || said[h].Down == 0 || math.Abs(seen.Seconds()-said[h].Down) > 0.25+0.1*seen.Seconds() {
					t.Errorf("%s: %s was down for %v, and pgfleet says %.2fs", step.name, h, seen, said[h].Down)
				}
			}
			if last := order(down, members(c.Name)); (last[0] == c.Name) != step.primaryFirst || (last[2] == c.Name) == step.primaryFirst {
				t.Errorf("%s: the members of %s restarted in the order %s", step.name, c.Name, last)
			}
		}
		t.Logf("PROOF: max_connections %s on 12 servers under load: at no time were two members of a cluster down, as %d polls saw; the times that each was down agree with the summary within %.2fs; never were more than %d down at once", step.name, p.asked.Load(), widest, budget)
	}
	reads := 0
	for h, r := range readers {
		r.ends()
		reads += r.reads
		if r.reads < 50 {
			t.Errorf("%s was read only %d times", h, r.reads)
		}
		for _, f := range r.faults {
			t.Error(f)
		}
		for _, at := range r.failed {
			if !within(outages[h], at) {
				t.Errorf("a read of %s that began at %v failed, and its server was not down: %v", h, at, outages[h])
			}
		}
	}
	t.Logf("PROOF: %d reads of eight standbys: each saw all rows that an earlier one had seen, and they failed only while that server was down", reads)
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

// atOnce returns how many hosts were down at the same time at most, and which. As in
// overlap, a tick at either end does not count.
func atOnce(down map[string][]span) (most int, who string) {
	for _, spans := range down {
		for _, x := range spans {
			var there []string
			for h, list := range down {
				// The most are down when one has just gone down.
				if slices.ContainsFunc(list, func(y span) bool {
					return !y.from.After(x.from) && y.to.After(x.from.Add(tick))
				}) {
					there = append(there, h)
				}
			}
			if len(there) > most {
				most, who = len(there), strings.Join(there, ", ")
			}
		}
	}
	return most, who
}

// within reports whether a server was down at some time, or so near to one that a
// reader may have noticed it one attempt of the poller's before or after.
func within(down []span, at time.Time) bool {
	const near = 5 * tick
	return slices.ContainsFunc(down, func(s span) bool { return at.After(s.from.Add(-near)) && at.Before(s.to.Add(near)) })
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
