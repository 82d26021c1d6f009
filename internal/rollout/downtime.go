package rollout

import "github.com/pgfleet/pgfleet/internal/facts"

// Downtime reports whether carrying the plan out restarts a server that is written
// to: a primary, or one that stands alone.
func (k Known) Downtime() bool {
	s := k.server()
	return k.restarts() && s != nil && !s.InRecovery
}

// Measured reports whether another member of the cluster restarts before member i,
// and so shows for how long that one will be down.
func (c Cluster) Measured(known []Known, i int) bool {
	first, err := c.PrimaryFirst(known)
	if err != nil {
		return false
	}
	for _, j := range c.Members {
		if j != i && !known[j].Beside && known[j].restarts() && c.before(known, j, i, first) {
			return true
		}
	}
	return false
}

// expectedDowntime says what is known before a server restarts of how long it will
// take: as long as the member of its cluster that restarted last. A shutdown writes
// all that is dirty in shared_buffers, which nobody can ask for beforehand without
// an extension.
func expectedDowntime(before facts.Server, downFor string) string {
	text := ""
	if before.Reached && !before.InRecovery {
		text = ", which is downtime"
	}
	switch {
	case downFor != "":
		return text + ", expected to be as long as " + downFor
	case text != "":
		return text + "; how long is not known, because no other member of its cluster has restarted in this run"
	}
	return ""
}
