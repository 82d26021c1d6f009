package rollout

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// Peers are the other members of an instance's replication cluster, also those that
// are beside the run.
type peers struct {
	cluster string
	standby bool // the instance is one itself
	// Primaries are, of a standby, those that it may follow: one where it is known
	// which.
	primaries []inventory.Instance
	cascades  bool                 // it is a standby that streams from another standby
	standbys  []inventory.Instance // the others, and those that do not answer and may be some
	below     []inventory.Instance // those of them that stream from the instance, or may
	// OneStream says that all standbys follow the same primary, so that they can be
	// compared with it.
	oneStream  bool
	silent     []Known // whose hosts could not be asked
	parameters []parameter
	unchecked  string // what cannot be asked, for the reader; "" if all can
	// downFor says how long the member that restarted last was down; "" before.
	downFor string
}

func (a *rolling) peersOf(i int) peers {
	p := peersOf(a.known, clusterAt(a.clusters, a.of, i), i)
	a.mu.Lock()
	p.downFor = a.downFor[a.of[i]]
	a.mu.Unlock()
	return p
}

func peersOf(known []Known, c Cluster, i int) peers {
	own := known[i].server()
	p := peers{
		cluster: c.Name, oneStream: true, parameters: known[i].parameters(), unchecked: unchecked(known, c, i),
		// One that does not answer is taken for what its cluster does not have.
		standby: own != nil && own.InRecovery || own == nil && c.Primary >= 0,
	}
	up, named := c.Upstream[i]
	p.cascades = named && known[up].server() != nil && known[up].server().InRecovery
	source := c.primaryOf(known, i)
	for _, j := range c.Members {
		k := known[j]
		s := k.server()
		follows := c.primaryOf(known, j)
		switch {
		case j == i:
		case k.State == nil:
			if k.Beside { // one of the run keeps its cluster from being touched
				p.silent = append(p.silent, k)
			}
		case s != nil && !s.InRecovery:
			if p.standby && (source == j || source < 0) {
				p.primaries = append(p.primaries, k.Instance)
			}
		case source >= 0 && follows >= 0 && follows != source: // of another primary
		default: // also one that does not answer, and may be one
			p.standbys = append(p.standbys, k.Instance)
			p.oneStream = p.oneStream && follows == source
			if !p.standby || own != nil && c.streamsFrom(known, j, i) {
				p.below = append(p.below, k.Instance)
			}
		}
	}
	return p
}

// streamsFrom reports whether standby j streams from standby i, or may: then no
// address names what it streams from, and i lists somebody that no address names.
func (c Cluster) streamsFrom(known []Known, j, i int) bool {
	if up, ok := c.Upstream[j]; ok {
		return up == i
	}
	for _, row := range known[i].server().Standbys {
		if row.Database == "" && row.State == "streaming" {
			return true
		}
	}
	return false
}

// Unchecked says of each instance that is to restart what pgfleet cannot know
// before it does, because what it replicates from or to is not in the inventory.
func Unchecked(known []Known) []string {
	clusters := Clusters(known)
	of := clusterOf(clusters, len(known))
	var list []string
	for i, k := range known {
		if !k.restarts() {
			continue
		}
		if text := unchecked(known, clusterAt(clusters, of, i), i); text != "" {
			list = append(list, fmt.Sprintf("%s: %s", k.Instance.ID(), text))
		}
	}
	return list
}

func unchecked(known []Known, c Cluster, i int) string {
	srv := known[i].server()
	if srv == nil {
		return ""
	}
	var list []string
	if srv.InRecovery && c.primaryOf(known, i) < 0 && !c.silent(known) {
		var names []string
		for _, p := range c.primaries(known) {
			names = append(names, string(known[p].Instance.ID()))
		}
		if len(names) > 0 {
			list = append(list, fmt.Sprintf("which of the primaries %s it follows is not known, so lag is not looked at: give the members of a cluster the same replication in fleet.toml", strings.Join(names, ", ")))
		} else {
			list = append(list, fmt.Sprintf("its primary is not in fleet.toml (it streams from %s), so nobody looks whether commits there would wait for it", orSay(srv.Upstream, "nobody now")))
		}
	}
	if rows := c.strangers(known, i); len(rows) > 0 {
		var names []string
		for _, row := range rows {
			names = append(names, rowName(row))
		}
		list = append(list, fmt.Sprintf("not all that stream from it are in fleet.toml (%s), so nobody looks whether they come back", strings.Join(names, ", ")))
	}
	return strings.Join(list, "; ")
}

func rowName(row facts.Standby) string {
	if !row.Addr.IsValid() {
		return orSay(row.Name, "no application_name")
	}
	return orSay(row.Name, "no application_name") + " at " + row.Addr.Unmap().String()
}

// allAsked returns an error if a member of the cluster could not be asked: it may
// be down, and with the instance two would be.
func (p peers) allAsked() error {
	if len(p.silent) == 0 {
		return nil
	}
	k := p.silent[0]
	return fmt.Errorf("it was not restarted, and nothing was changed, because %s of its cluster, which is not part of this run, could not be asked: %w; bring that one back first, or take it out of fleet.toml if it is gone for good",
		k.Instance.ID(), k.Err)
}

// written returns how far the write-ahead log is that the standbys have to have: on
// the primary, or on the instance where its primary cannot be asked. Where they
// follow several primaries it is nothing.
func (x *executor) written(ctx context.Context) (string, error) {
	switch {
	case !x.peers.oneStream, x.peers.standby && len(x.peers.primaries) > 1:
		return "0/0", nil
	case x.peers.standby && len(x.peers.primaries) == 0:
		var lsn string
		err := x.query(ctx, x.instance, `SELECT `+receivedLSN+`::pg_catalog.text`, &lsn)
		return lsn, err
	}
	primary := x.instance
	if x.peers.standby {
		primary = x.peers.primaries[0]
	}
	lsn, err := x.flushed(ctx, primary)
	if err != nil {
		return "", fmt.Errorf("the primary %s cannot be asked how far it has written: %w", primary.ID(), err)
	}
	return lsn, nil
}

// enough waits until no standby would have less of a parameter than its primary
// when the server is back, with which it would not start, or not replay any more
// (manual, 26.4.3 Administrator's Overview of hot standby). A parameter that was
// lowered on the primary counts for a standby once it has replayed that. Waited says
// whether it had to wait.
func (x *executor) enough(ctx context.Context, replay *patience) (waited bool, err error) {
	lowered := ""
	for _, p := range x.peers.parameters {
		switch {
		case !x.peers.standby && p.after > p.before:
			for _, s := range x.peers.standbys {
				has, err := x.running(ctx, s, p.name)
				if err != nil {
					return false, fmt.Errorf("what %s of %s is cannot be asked: %w", p.name, s.ID(), err)
				}
				if has < p.after {
					return false, fmt.Errorf("it was not restarted, and nothing was changed, because its standby %s runs with %s = %d, and would not replay any more with less than its primary, here %d: apply there first",
						s.ID(), p.name, has, p.after)
				}
			}
		case x.peers.standby && p.after < p.before && len(x.peers.primaries) == 1:
			primary := x.peers.primaries[0]
			has, err := x.running(ctx, primary, p.name)
			if err != nil {
				return false, fmt.Errorf("what %s of %s is cannot be asked: %w", p.name, primary.ID(), err)
			}
			if has > p.after {
				return false, fmt.Errorf("it was not restarted, and nothing was changed, because its primary %s runs with %s = %d, and a standby does not start with less, here %d: apply there first",
					primary.ID(), p.name, has, p.after)
			}
			lowered = p.name
		}
	}
	if lowered == "" {
		return false, nil
	}
	primary := x.peers.primaries[0]
	if x.lowered == "" {
		lsn, err := x.flushed(ctx, primary)
		if err != nil {
			return false, fmt.Errorf("how far %s has written is not known: %w", primary.ID(), err)
		}
		x.lowered = lsn
	}
	lsn := x.lowered // what is written later does not matter
	return x.wait(ctx, replay, "waiting for replay of the lower "+lowered, func(ctx context.Context) (string, error) {
		return x.notReplayed(ctx, lsn, primary.ID(), lowered)
	})
}

// notReplayed says that the standby has not replayed up to a position; "" if it
// has. It is an error if it will not.
func (x *executor) notReplayed(ctx context.Context, lsn string, from inventory.InstanceID, lowered string) (string, error) {
	var r replay
	err := x.query(ctx, x.instance, replayQuery(lsn), &r.done, &r.lsn, &r.paused, &r.delay)
	switch {
	case err != nil || r.done:
		return "", err
	case r.paused:
		return "", fmt.Errorf("it was not restarted, and nothing was changed, because replay is paused at %s, before %s of %s, where %s was lowered: SELECT pg_wal_replay_resume() goes on",
			r.lsn, lsn, from, lowered)
	}
	why := fmt.Sprintf("it has replayed up to %s, and %s, where %s was lowered, is at %s", r.lsn, from, lowered, lsn)
	if r.delay != "0" {
		why += "; its recovery_min_apply_delay is " + r.delay
	}
	return why, nil
}

// running asks a member for the value that a parameter has.
func (x *executor) running(ctx context.Context, in inventory.Instance, name string) (int, error) {
	var value string
	if err := x.query(ctx, in, "SELECT pg_catalog.current_setting("+postgres.QuoteLiteral(name)+")", &value); err != nil {
		return 0, err
	}
	return strconv.Atoi(value)
}
