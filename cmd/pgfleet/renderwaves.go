package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
)

// renderWaves shows the replication clusters as they were found, and the waves in
// which an apply would go over the hosts; nothing where there is one wave, or
// nothing is due. Members of a cluster that are beside the run are among known.
func renderWaves(fleet *inventory.Fleet, known []rollout.Known, st style) string {
	if !slices.ContainsFunc(known, rollout.Known.Due) {
		return ""
	}
	var b strings.Builder
	for _, c := range rollout.Clusters(known) {
		if line := clusterLine(known, c); line != "" {
			b.WriteString(line + "\n")
		}
	}
	for _, text := range rollout.Unchecked(known) {
		b.WriteString(st.yellow("not checked before the restart of ") + clean(text) + "\n")
	}
	b.WriteString(renderDowntime(known))
	for _, c := range rollout.Clusters(known) {
		if _, err := c.PrimaryFirst(known); err != nil {
			b.WriteString(st.red("is refused: ") + clean(err.Error()) + "\n")
		}
	}
	waves, err := rollout.Waves(known, fleet.Rollout)
	if err != nil {
		return b.String() + st.red("cannot be rolled out: ") + clean(err.Error()) + "\n\n"
	}
	if len(waves) > 1 {
		for i, w := range waves {
			canary := ""
			if w.Canary {
				canary = " (canary)"
			}
			fmt.Fprintf(&b, "wave %d%s: %s\n", i+1, canary, strings.Join(w.Hosts, ", "))
		}
	}
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

// renderDowntime says which servers that are written to restart, and what is known
// of how long that takes.
func renderDowntime(known []rollout.Known) string {
	var measured, others []string
	clusters := rollout.Clusters(known)
	for i, k := range known {
		if k.Beside || !k.Downtime() {
			continue
		}
		c := slices.IndexFunc(clusters, func(c rollout.Cluster) bool { return slices.Contains(c.Members, i) })
		if c >= 0 && clusters[c].Measured(known, i) {
			measured = append(measured, string(k.Instance.ID()))
		} else {
			others = append(others, string(k.Instance.ID()))
		}
	}
	var text string
	if len(measured) > 0 {
		text = "downtime: restart of " + strings.Join(measured, ", ") + "; expected to be as long as that of the standby before it, which is measured\n"
	}
	if len(others) > 0 {
		text += "downtime: restart of " + strings.Join(others, ", ") + "; how long is not known\n"
	}
	return text
}

// clusterLine says who follows whom, and in which order they are worked on.
func clusterLine(known []rollout.Known, c rollout.Cluster) string {
	if len(c.Members) < 2 {
		return ""
	}
	var standbys []string
	primary := "no primary was found"
	for _, i := range c.Members {
		id := string(known[i].Instance.ID())
		if known[i].Beside {
			id += " (not in this run)"
		}
		switch {
		case i == c.Primary:
			primary = "primary " + id
		case known[i].State == nil || known[i].State.Role() == "":
			standbys = append(standbys, id+" (not known)")
		default:
			if up, ok := c.Upstream[i]; ok && up != c.Primary {
				id += " (of " + string(known[up].Instance.ID()) + ")"
			}
			standbys = append(standbys, id)
		}
	}
	line := fmt.Sprintf("cluster %s: %s, standbys %s", c.Name, primary, strings.Join(standbys, ", "))
	if first, err := c.PrimaryFirst(known); err == nil && first {
		line += "; the primary restarts first, because its standbys must not have less than it"
	}
	return line
}
