package rollout

import (
	"context"
	"slices"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// Beside finds the instances of the fleet that are not among known and belong to
// the replication cluster of one whose server is to restart, so that it restarts
// only while they are well. Each is asked one question, in one round trip, and has
// no plan; one whose host could not be asked has its Err. To be given to Apply they
// are appended to known.
//
// Asked are those with the same replication in fleet.toml, and those whose address
// the servers name as where they stream from or to. Where fleet.toml says nothing
// of replication and a member is still missing, all others are.
func (r *Run) Beside(ctx context.Context, known []Known) []Known {
	all := slices.Clone(known)
	rest := slices.DeleteFunc(r.Fleet.Instances(), func(in inventory.Instance) bool { return among(known, in) })
	for len(rest) > 0 && slices.ContainsFunc(known, Known.restarts) {
		wanted := missing(all, rest)
		if len(wanted) == 0 {
			break
		}
		rest = slices.DeleteFunc(rest, func(in inventory.Instance) bool {
			return slices.ContainsFunc(wanted, func(w inventory.Instance) bool { return w.ID() == in.ID() })
		})
		all = append(all, r.lookAt(ctx, wanted)...)
	}
	restarting := aroundRestarts(all)
	var beside []Known
	for i := len(known); i < len(all); i++ {
		if restarting[i] {
			beside = append(beside, all[i])
		}
	}
	return beside
}

func among(known []Known, in inventory.Instance) bool {
	return slices.ContainsFunc(known, func(k Known) bool { return k.Instance.ID() == in.ID() })
}

// ofRun returns those that are part of the run.
func ofRun(known []Known) []Known {
	if n := slices.IndexFunc(known, func(k Known) bool { return k.Beside }); n >= 0 {
		return known[:n]
	}
	return known
}

// aroundRestarts returns those of known that restart, and the members of their
// clusters.
func aroundRestarts(known []Known) map[int]bool {
	list := map[int]bool{}
	for i, k := range known {
		if k.restarts() {
			list[i] = true
		}
	}
	for _, c := range Clusters(known) {
		if slices.ContainsFunc(c.Members, func(i int) bool { return known[i].restarts() }) {
			for _, i := range c.Members {
				list[i] = true
			}
		}
	}
	return list
}

// missing returns those of the rest that have to be asked before what restarts
// among known is known to have all members of its cluster.
func missing(known []Known, rest []inventory.Instance) []inventory.Instance {
	restarting := aroundRestarts(known)
	named := func(in inventory.Instance) bool {
		for i := range restarting {
			k := known[i]
			if r := k.Instance.Replication; r != "" && r == in.Replication {
				return true
			}
			srv := k.server()
			if srv == nil {
				continue
			}
			if tasks.StreamsFrom(srv, in) ||
				slices.ContainsFunc(srv.Standbys, func(row facts.Standby) bool { return comesFrom(row, in) }) {
				return true
			}
		}
		return false
	}
	list := slices.DeleteFunc(slices.Clone(rest), func(in inventory.Instance) bool { return !named(in) })
	if len(list) > 0 {
		return list
	}
	clusters := Clusters(known)
	of := clusterOf(clusters, len(known))
	for i := range restarting {
		if known[i].Instance.Replication != "" {
			continue // fleet.toml says who belongs to it
		}
		c := clusterAt(clusters, of, i)
		if srv := known[i].server(); srv != nil && (srv.InRecovery && len(c.primaries(known)) == 0 && !c.silent(known) || len(c.strangers(known, i)) > 0) {
			return slices.Clone(rest)
		}
	}
	return nil
}

// clusterAt returns the cluster of an instance; one of its own if it is in none.
func clusterAt(clusters []Cluster, of []int, i int) Cluster {
	if of[i] < 0 {
		return Cluster{Members: []int{i}, Primary: -1, Upstream: map[int]int{}}
	}
	return clusters[of[i]]
}

// silent reports whether a member does not answer. It may be the primary, and
// nobody restarts then.
func (c Cluster) silent(known []Known) bool {
	return slices.ContainsFunc(c.Members, func(i int) bool { return known[i].server() == nil })
}

// strangers returns the standbys that member i lists in pg_stat_replication, and
// that are no other member; nil if each may be one. Copies of the write-ahead log
// and base backups are none.
func (c Cluster) strangers(known []Known, i int) []facts.Standby {
	srv := known[i].server()
	if srv == nil {
		return nil
	}
	var left []facts.Standby
	for _, row := range srv.Standbys {
		switch {
		case row.Database != "", row.State == "backup", row.Name == "pg_basebackup", row.Name == "pg_receivewal":
		case slices.ContainsFunc(c.Members, func(j int) bool { return comesFrom(row, known[j].Instance) }):
		default:
			left = append(left, row)
		}
	}
	unnamed := 0
	for _, j := range c.Members {
		s := known[j].server()
		if _, ok := c.Upstream[j]; !ok && j != i && s != nil && s.InRecovery {
			unnamed++
		}
	}
	if len(left) <= unnamed {
		return nil
	}
	return left
}

// lookAt asks instances about their servers.
func (r *Run) lookAt(ctx context.Context, instances []inventory.Instance) []Known {
	known := make([]Known, len(instances))
	for i, in := range instances {
		known[i] = Known{Instance: in, Beside: true}
	}
	r.eachHost(known, func(mine []*Known) {
		host := mine[0].Instance.Host
		r.observe(Event{Kind: Connecting, Host: host.Name})
		conn, err := r.Conn(ctx, host)
		if err == nil {
			r.observe(Event{Kind: Surveying, Host: host.Name})
			err = r.ask(ctx, conn, mine, func(k *Known) []facts.Read { return []facts.Read{tasks.ServerRead(k.Instance)} })
		}
		if err != nil {
			for _, k := range mine {
				k.State, k.Err, k.Unreachable = nil, err, true
			}
		}
		r.observe(Event{Kind: Surveyed, Host: host.Name, Err: err})
	})
	return known
}
