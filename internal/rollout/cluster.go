package rollout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A Cluster is a primary and its standbys, as they were found.
type Cluster struct {
	// Name is what fleet.toml calls it, or its primary's name where it has none.
	Name     string
	Members  []int       // of the list that was given to Clusters, standbys first
	Primary  int         // likewise; -1 where none was found
	Upstream map[int]int // what a standby streams from, where that is a member
}

// Clusters finds the replication clusters among the instances: what fleet.toml
// says, and what the servers say of themselves. A standby belongs to the server
// with the same system identifier whose address it streams from, or which lists
// its address in pg_stat_replication. An instance that stands alone is in none.
func Clusters(known []Known) []Cluster {
	of := newGroups(len(known))
	upstream := map[int]int{}
	for i := range known {
		for j := range known {
			if i == j {
				continue
			}
			if r := known[i].Instance.Replication; r != "" && r == known[j].Instance.Replication {
				of.join(i, j)
			}
			if follows(known[i], known[j]) {
				upstream[i] = j
				of.join(i, j)
			}
		}
	}
	var list []Cluster
	for _, members := range of.lists() {
		if len(members) == 1 && known[members[0]].Instance.Replication == "" {
			continue
		}
		slices.SortStableFunc(members, func(a, b int) int { return rank(known[a]) - rank(known[b]) })
		c := Cluster{Members: members, Primary: -1, Upstream: map[int]int{}}
		for _, i := range members {
			if known[i].State != nil && known[i].State.Role() == "primary" {
				c.Primary = i
			}
			if c.Name == "" {
				c.Name = known[i].Instance.Replication
			}
			if up, ok := upstream[i]; ok {
				c.Upstream[i] = up
			}
		}
		if c.Name == "" {
			named := members[0]
			if c.Primary >= 0 {
				named = c.Primary
			}
			c.Name = string(known[named].Instance.ID())
		}
		list = append(list, c)
	}
	return list
}

// follows reports whether the standby streams from the other server.
func follows(standby, other Known) bool {
	if standby.State == nil || other.State == nil || standby.State.Role() != "standby" {
		return false
	}
	s, o := standby.State.Server(), other.State.Server()
	if o == nil || s.SystemIdentifier != o.SystemIdentifier {
		return false
	}
	at := other.Instance.Host
	if s.Upstream != "" && (s.Upstream == at.Address || s.Upstream == at.Name) {
		return true
	}
	for _, row := range o.Standbys {
		if row.Addr.IsValid() && row.Addr.Unmap().String() == standby.Instance.Host.Address {
			return true
		}
	}
	return false
}

// clusterOf returns the cluster of each instance, as an index; -1 for none.
func clusterOf(clusters []Cluster, n int) []int {
	of := make([]int, n)
	for i := range of {
		of[i] = -1
	}
	for c, cluster := range clusters {
		for _, i := range cluster.Members {
			of[i] = c
		}
	}
	return of
}

// growing are the parameters of which a standby must not have less than its
// primary (manual, 26.4.3 Administrator's Overview of hot standby).
func growing() []string {
	return []string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"}
}

// PrimaryFirst reports whether the members of a cluster have to restart in the
// other order than usual, the primary before its standbys: it does when one of
// the parameters becomes less of which a standby must not have less than its
// primary. The error says which of them go in opposite directions, so that no
// order is right.
func (c Cluster) PrimaryFirst(known []Known) (bool, error) {
	var up, down []string
	for _, i := range c.Members {
		k := known[i]
		if k.Plan == nil || !slices.ContainsFunc(k.Plan.Steps, restarts) {
			continue
		}
		for _, name := range growing() {
			before, ok := k.State.Running(name)
			after, known := k.Plan.After.Running(name)
			var x, y int
			if _, err := fmt.Sscan(before+" "+after, &x, &y); !ok || !known || err != nil || x == y {
				continue
			}
			if y > x {
				up = append(up, name)
			} else {
				down = append(down, name)
			}
		}
	}
	up, down = compactSorted(up), compactSorted(down)
	if len(up) > 0 && len(down) > 0 {
		return false, fmt.Errorf("%s becomes more and %s less: standbys would have to restart before the primary for the one and after it for the other; do it in two applies",
			strings.Join(up, ", "), strings.Join(down, ", "))
	}
	return len(down) > 0, nil
}

func compactSorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// restarts reports whether a step restarts the server.
func restarts(s tasks.Step) bool {
	return slices.ContainsFunc(s.Changes, func(c tasks.Change) bool { _, ok := c.Action.(tasks.Restart); return ok })
}

// groups joins numbers from 0 on into disjoint sets.
type groups []int

func newGroups(n int) groups {
	g := make(groups, n)
	for i := range g {
		g[i] = i
	}
	return g
}

func (g groups) join(i, j int) {
	from, to := g[max(i, j)], g[min(i, j)]
	for k := range g {
		if g[k] == from {
			g[k] = to
		}
	}
}

// lists returns the sets, in the order of their first numbers.
func (g groups) lists() [][]int {
	var order []int
	members := map[int][]int{}
	for i, set := range g {
		if members[set] == nil {
			order = append(order, set)
		}
		members[set] = append(members[set], i)
	}
	var all [][]int
	for _, set := range order {
		all = append(all, members[set])
	}
	return all
}

// joinIDs lists instances for the reader.
func joinIDs(list []inventory.InstanceID) string {
	names := make([]string, len(list))
	for i, id := range list {
		names[i] = string(id)
	}
	return strings.Join(names, ", ")
}
