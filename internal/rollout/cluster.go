package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A Cluster is a primary and its standbys, as they were found.
type Cluster struct {
	// Name is what fleet.toml calls it, or its primary's name where it has none.
	Name string
	// Members are of the list that was given to Clusters: standbys first, and those
	// that stream from another standby before that one.
	Members  []int
	Primary  int         // likewise; -1 where none was found, or it is not known which
	Upstream map[int]int // what a standby streams from, where an address names that member
}

// Clusters finds the replication clusters among the instances: what fleet.toml
// says, and what the servers say of themselves. A standby belongs to the server
// whose address it streams from, or which lists its address in
// pg_stat_replication. Where the addresses name none, because replication goes over
// another network, it belongs to the primary with the same system identifier and
// the same replication in fleet.toml, or else to all with that identifier that
// fleet.toml does not put elsewhere. Two primaries are not joined by their
// identifier: one may be a restored copy of the other. An instance that stands
// alone is in none.
func Clusters(known []Known) []Cluster {
	of := newGroups(len(known))
	upstream := map[int]int{}
	for i := range known {
		for j := range known[:i] {
			if r := known[i].Instance.Replication; r != "" && r == known[j].Instance.Replication {
				of.join(i, j)
			}
		}
		named := sources(known, i)
		for _, j := range named {
			of.join(i, j)
		}
		if len(named) > 0 {
			upstream[i] = named[0]
			continue
		}
		for _, j := range kin(known, i) {
			of.join(i, j)
		}
	}
	var list []Cluster
	for _, members := range of.lists() {
		if len(members) == 1 && known[members[0]].Instance.Replication == "" {
			continue
		}
		c := Cluster{Members: members, Upstream: map[int]int{}}
		for _, i := range members {
			if c.Name == "" {
				c.Name = known[i].Instance.Replication
			}
			if up, ok := upstream[i]; ok {
				c.Upstream[i] = up
			}
		}
		c.Primary = c.primary(known)
		slices.SortStableFunc(members, func(a, b int) int {
			return cmp.Or(rank(known[a])-rank(known[b]), c.depth(b)-c.depth(a))
		})
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

// sources returns the servers that instance i streams from, by their addresses: by
// what it says itself before what they say.
func sources(known []Known, i int) []int {
	var own, others []int
	for j := range known {
		if j == i {
			continue
		}
		switch by := follows(known[i], known[j]); by {
		case itsOwnWord:
			own = append(own, j)
		case theOthersWord:
			if known[i].server() != nil || !neighbourFollows(known, i, j) {
				others = append(others, j)
			}
		}
	}
	return append(own, others...)
}

// neighbourFollows reports whether another server of instance i's host says itself
// that it streams from j: then that one has the address which j lists.
func neighbourFollows(known []Known, i, j int) bool {
	for n, k := range known {
		if s := k.server(); n != i && n != j && k.Instance.Host == known[i].Instance.Host && s != nil && s.InRecovery && tasks.StreamsFrom(s, known[j].Instance) {
			return true
		}
	}
	return false
}

// By whose word a standby streams from another server.
const (
	nobodysWord = iota
	itsOwnWord
	theOthersWord
)

// follows reports whether an address says that the standby streams from the other
// server, and by whose word. Of a server that could not be asked, the address is
// enough.
func follows(standby, other Known) int {
	s, o := standby.server(), other.server()
	if s != nil && !s.InRecovery || s != nil && o != nil && s.SystemIdentifier != o.SystemIdentifier {
		return nobodysWord
	}
	if s != nil && tasks.StreamsFrom(s, other.Instance) {
		return itsOwnWord
	}
	if o != nil && slices.ContainsFunc(o.Standbys, func(row facts.Standby) bool { return comesFrom(row, standby.Instance) }) {
		return theOthersWord
	}
	return nobodysWord
}

// comesFrom reports whether a row of pg_stat_replication has the instance's
// address, and is of physical replication.
func comesFrom(row facts.Standby, in inventory.Instance) bool {
	return row.Database == "" && row.Addr.IsValid() && row.Addr.Unmap().String() == in.Host.Address
}

// server returns what is known of the instance's server; nil if it did not answer.
func (k Known) server() *facts.Server {
	if k.State == nil {
		return nil
	}
	return k.State.Server()
}

// kin returns the servers to whose cluster a standby belongs that no address
// names: those with its system identifier, unless fleet.toml says otherwise.
func kin(known []Known, i int) []int {
	s := known[i].server()
	if s == nil || !s.InRecovery || s.SystemIdentifier == "" {
		return nil
	}
	var list []int
	for j := range known {
		o := known[j].server()
		if j == i || o == nil || o.SystemIdentifier != s.SystemIdentifier {
			continue
		}
		own, other := known[i].Instance.Replication, known[j].Instance.Replication
		switch {
		case own != "" && own == other && !o.InRecovery:
			return []int{j}
		case own == "" || other == "" || own == other:
			list = append(list, j)
		}
	}
	return list
}

// depth is how many members a standby's stream goes through.
func (c Cluster) depth(i int) int {
	n := 0
	for range c.Members {
		up, ok := c.Upstream[i]
		if !ok {
			break
		}
		i = up
		n++
	}
	return n
}

// under reports whether member i streams from member j, itself or through others.
func (c Cluster) under(i, j int) bool {
	for range c.Members {
		up, ok := c.Upstream[i]
		if ok && up == j {
			return true
		}
		i = up
		if !ok {
			break
		}
	}
	return false
}

// primaries returns those members that are primaries.
func (c Cluster) primaries(known []Known) []int {
	return slices.DeleteFunc(slices.Clone(c.Members), func(i int) bool { s := known[i].server(); return s == nil || s.InRecovery })
}

// primary finds the cluster's: where it has several, the one that its standbys
// follow.
func (c Cluster) primary(known []Known) int {
	all := c.primaries(known)
	if len(all) == 1 {
		return all[0]
	}
	found := -1
	for _, i := range c.Members {
		p := c.primaryOf(known, i)
		switch {
		case p == i || p < 0 || p == found:
		case found >= 0:
			return -1
		default:
			found = p
		}
	}
	return found
}

// primaryOf returns the primary that a member follows, itself or through other
// standbys; -1 if it is not known, and the member if it is one.
func (c Cluster) primaryOf(known []Known, i int) int {
	top := i
	for range c.Members {
		if up, ok := c.Upstream[top]; ok {
			top = up
		}
	}
	if s := known[top].server(); s != nil && !s.InRecovery {
		return top
	}
	all := slices.DeleteFunc(c.primaries(known), func(p int) bool {
		s := known[i].server()
		return s != nil && s.SystemIdentifier != known[p].server().SystemIdentifier
	})
	if len(all) > 1 {
		all = slices.DeleteFunc(all, func(p int) bool { return known[p].Instance.Replication != known[i].Instance.Replication })
	}
	if len(all) != 1 {
		return -1
	}
	return all[0]
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
// other order than usual, the primary before its standbys: it does when a standby
// will have less than its primary has now of one of the parameters of which it
// must not have less. The error says that for another one it is the other way
// round, or for another standby, so that no order is right.
func (c Cluster) PrimaryFirst(known []Known) (bool, error) {
	if c.Primary < 0 {
		return false, nil
	}
	var up, down []string
	for _, name := range growing() {
		primary, ok := known[c.Primary].parameter(name)
		if !ok {
			continue
		}
		for _, i := range c.Members {
			standby, ok := known[i].parameter(name)
			if i == c.Primary || !ok {
				continue
			}
			if primary.after > standby.before && primary.after > primary.before {
				up = append(up, name)
			}
			if standby.after < primary.before && standby.after < standby.before {
				down = append(down, name)
			}
		}
	}
	up, down = compactSorted(up), compactSorted(down)
	if len(up) > 0 && len(down) > 0 {
		return false, fmt.Errorf("cluster %s: %s becomes more and %s less: standbys would have to restart before the primary for the one and after it for the other; do it in two applies",
			c.Name, strings.Join(up, ", "), strings.Join(down, ", "))
	}
	return len(down) > 0, nil
}

// refuseOrders gives the members of clusters for whose restarts no order is right
// the reason as their error, so that Apply does nothing to them and goes on with
// the others. Known is changed in place.
func refuseOrders(known []Known) {
	for _, c := range Clusters(known) {
		_, err := c.PrimaryFirst(known)
		for _, i := range c.Members {
			if k := &known[i]; err != nil && k.Err == nil && !k.Beside && len(k.Plan.Steps) > 0 {
				k.Err = fmt.Errorf("%w; nothing was changed", err)
			}
		}
	}
}

// A parameter is one of growing that a restart changes.
type parameter struct {
	name          string
	before, after int
}

// parameter returns one of growing as the instance's server has it now, and after
// its plan; false where that is not known.
func (k Known) parameter(name string) (parameter, bool) {
	p := parameter{name: name}
	if k.State == nil {
		return p, false
	}
	value, ok := k.State.Running(name)
	if _, err := fmt.Sscan(value, &p.before); !ok || err != nil {
		return p, false
	}
	p.after = p.before
	if k.restarts() {
		value, ok = k.Plan.After.Running(name)
		_, err := fmt.Sscan(value, &p.after)
		return p, ok && err == nil
	}
	return p, true
}

// parameters returns those of growing that the instance's plan changes.
func (k Known) parameters() []parameter {
	var list []parameter
	for _, name := range growing() {
		if p, ok := k.parameter(name); ok && p.before != p.after {
			list = append(list, p)
		}
	}
	return list
}

func compactSorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// restarts reports whether a step restarts the server.
func restarts(s tasks.Step) bool {
	return slices.ContainsFunc(s.Changes, func(c tasks.Change) bool { _, ok := c.Action.(tasks.Restart); return ok })
}

// restarts reports whether the instance's plan restarts its server.
func (k Known) restarts() bool {
	return k.Err == nil && k.Plan != nil && slices.ContainsFunc(k.Plan.Steps, restarts)
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
