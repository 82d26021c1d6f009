package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A Wave is a set of instances that is carried out, and looked at, before the
// next one begins.
type Wave struct {
	Members []int // of the list that was given to Waves
	Hosts   []string
	Canary  bool
}

// Waves puts the instances of which something is due into waves, as [rollout]
// says: the canary, and then batches of hosts, of which the last size repeats.
// Percentages are of the hosts that have something due. All instances of a host
// are in one wave, and no member of a replication cluster comes in a later wave
// than one that has to wait for it. Hosts on which nothing is to be done but to
// check, or to wait for what comes by replication, are in the last wave, and do
// not count; instances beside the run are in none. The error says why no such order
// exists.
func Waves(known []Known, r inventory.Rollout) ([]Wave, error) {
	hosts, err := hostOrder(known, r)
	if err != nil {
		return nil, err
	}
	due := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return !hostDue(known, h) })
	var waves []Wave
	left := due
	take := func(n int, canary bool) {
		n = min(n, len(left))
		waves = append(waves, Wave{Hosts: left[:n:n], Canary: canary})
		left = left[n:]
	}
	if n := canaryHosts(known, r.Canary, due); n > 0 {
		take(n, true)
	}
	for i := 0; len(left) > 0; i++ {
		if len(r.Batches) == 0 {
			take(len(left), false)
			break
		}
		take(r.Batches[min(i, len(r.Batches)-1)].Of(len(due)), false)
	}
	if waves == nil {
		waves = []Wave{{}}
	}
	for i := range known {
		if known[i].Beside {
			continue
		}
		host := known[i].Instance.Host.Name
		at := slices.IndexFunc(waves, func(w Wave) bool { return slices.Contains(w.Hosts, host) })
		if at < 0 {
			at = len(waves) - 1
		}
		waves[at].Members = append(waves[at].Members, i)
	}
	return waves, nil
}

// canaryHosts returns how many of the hosts, which begin with the canary, are in
// it.
func canaryHosts(known []Known, c inventory.Canary, hosts []string) int {
	if c.Hosts == nil {
		return min(c.Count, len(hosts))
	}
	return len(slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return !meant(known, h, c.Hosts) }))
}

// meant reports whether one of the selectors means an instance of a host.
func meant(known []Known, host string, selectors []inventory.Selector) bool {
	return slices.ContainsFunc(known, func(k Known) bool {
		role := func(inventory.InstanceID) (string, bool) {
			if k.State == nil || k.State.Role() == "" {
				return "", false
			}
			return k.State.Role(), true
		}
		return !k.Beside && k.Instance.Host.Name == host && slices.ContainsFunc(selectors, func(s inventory.Selector) bool { return s.Match(k.Instance, role) == inventory.Yes })
	})
}

func hostDue(known []Known, host string) bool {
	return slices.ContainsFunc(known, func(k Known) bool { return k.Instance.Host.Name == host && k.Due() })
}

// Due reports whether something is to be done on the instance, more than to check
// and to wait for what comes by replication.
func (k Known) Due() bool {
	return k.Err == nil && k.Plan != nil && slices.ContainsFunc(k.Plan.Steps, func(s tasks.Step) bool { return !waits(s) && !proves(s) })
}

// lostCanary says that a host which is to be the canary cannot be; nil if all can.
func lostCanary(known []Known, c inventory.Canary) error {
	for _, k := range known {
		if k.Err != nil && !k.Beside && meant(known, k.Instance.Host.Name, c.Hosts) {
			return fmt.Errorf("%s is the canary and could not be asked, or is refused, so nothing was touched; mend that, or name another one", k.Instance.ID())
		}
	}
	return nil
}

// hostOrder returns the hosts in the order in which they are worked on: the
// canary's, then as order says, then as in fleet.toml, but the members of a
// cluster so that a primary comes after its standbys, or before them where that
// is what a restart needs.
func hostOrder(known []Known, r inventory.Rollout) ([]string, error) {
	hosts := hostsOf(known)
	place := func(host string) int {
		if meant(known, host, r.Canary.Hosts) {
			return -1
		}
		for i, s := range r.Order {
			if meant(known, host, []inventory.Selector{s}) {
				return i
			}
		}
		return len(r.Order)
	}
	slices.SortStableFunc(hosts, func(a, b string) int { return place(a) - place(b) })
	after := predecessors(known)
	var order []string
	for len(hosts) > 0 {
		at := slices.IndexFunc(hosts, func(h string) bool {
			return !slices.ContainsFunc(hosts, func(other string) bool { return slices.Contains(after[h], other) && hostDue(known, other) })
		})
		at = max(at, 0) // a circle, of hosts with several instances: they are in one line anyway
		order = append(order, hosts[at])
		hosts = slices.Delete(hosts, at, at+1)
	}
	for i, h := range order {
		if meant(known, h, r.Canary.Hosts) && slices.ContainsFunc(order[:i], func(o string) bool {
			return !meant(known, o, r.Canary.Hosts) && hostDue(known, o) && slices.Contains(after[h], o)
		}) {
			return nil, fmt.Errorf("[rollout] canary: %s comes after %s, which belongs to the same replication cluster and is not in the canary: name that one", h, strings.Join(after[h], ", "))
		}
	}
	return order, nil
}

// predecessors returns, for each host, those that are worked on before it: a
// standby before its primary, one that streams from another standby before that
// one, and a server that does not answer before all others of its cluster.
func predecessors(known []Known) map[string][]string {
	after := map[string][]string{}
	for _, c := range Clusters(known) {
		first := primaryFirst(c, known)
		for _, i := range c.Members {
			for _, j := range c.Members {
				a, b := known[i].Instance.Host.Name, known[j].Instance.Host.Name
				if a != b && !known[i].Beside && !known[j].Beside && c.before(known, j, i, first) {
					after[a] = append(after[a], b)
				}
			}
		}
	}
	return after
}

// before reports whether member i is worked on before member j.
func (c Cluster) before(known []Known, i, j int, primaryFirst bool) bool {
	a, b := rank(known[i]), rank(known[j])
	switch {
	case a == downRank || b == downRank:
		return a < b
	case a != b:
		return a < b != primaryFirst
	default:
		return c.under(i, j)
	}
}

// lines puts those instances of a wave that must not be worked on at the same
// time into one line: those of one host, and those of one replication cluster.
// Within a line they keep the order of a cluster's members.
func lines(known []Known, wave Wave, clusters []Cluster) [][]int {
	of := clusterOf(clusters, len(known))
	g := newGroups(len(known))
	for _, i := range wave.Members {
		for _, j := range wave.Members {
			if known[i].Instance.Host == known[j].Instance.Host || of[i] >= 0 && of[i] == of[j] {
				g.join(i, j)
			}
		}
	}
	place := func(i int) int {
		first := of[i] >= 0 && primaryFirst(clusters[of[i]], known)
		if r := rank(known[i]); first && r != downRank {
			return -r
		}
		return rank(known[i])
	}
	depth := func(i int) int {
		if of[i] < 0 {
			return 0
		}
		return clusters[of[i]].depth(i)
	}
	var all [][]int
	for _, members := range g.lists() {
		members = slices.DeleteFunc(members, func(i int) bool { return !slices.Contains(wave.Members, i) })
		if len(members) == 0 {
			continue
		}
		slices.SortStableFunc(members, func(a, b int) int { return cmp.Or(place(a)-place(b), depth(b)-depth(a)) })
		all = append(all, members)
	}
	return all
}

// primaryFirst is PrimaryFirst where it does not matter that there is no order:
// Apply refuses the members of such a cluster.
func primaryFirst(c Cluster, known []Known) bool {
	first, _ := c.PrimaryFirst(known)
	return first
}
