package main

import (
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A failure is what went wrong for one instance or host.
type failure struct {
	who inventory.InstanceID
	err error
}

// renderFailures shows errors, an equal one of many hosts once: who, then what,
// why, and what to do.
func renderFailures(failed []failure, st style) string {
	var b strings.Builder
	for _, same := range groupBy(failed, func(f failure) string { return f.err.Error() }) {
		var who []string
		for _, f := range same {
			who = append(who, string(f.who))
		}
		for _, line := range strings.Split(clean(same[0].err.Error()), "\n") {
			fmt.Fprintf(&b, "%s %s\n", st.red(strings.Join(who, ", ")+":"), line)
		}
	}
	return b.String()
}

// renderPlanSummary returns a line for each instance and one for all.
func renderPlanSummary(known []rollout.Known, st style) string {
	var rows [][]string
	var change, changes, unchanged, failed int
	for _, k := range known {
		row := []string{string(k.Instance.ID()), ""}
		switch {
		case k.Unreachable:
			failed++
			row[1] = st.red(string(k.Access()))
		case k.Err != nil:
			failed++
			row[1] = st.red("cannot be planned")
		case len(k.Plan.Changes()) == 0 && undecided(k.Plan):
			change++
			row[1] = st.yellow("decided while applying")
		case len(k.Plan.Changes()) == 0:
			unchanged++
			row[1] = "unchanged" + st.faint(everyTime(k.Plan)+byReplication(k.Plan))
		default:
			n := len(k.Plan.Changes())
			change++
			changes += n
			row[1] = st.yellow(count(n, "change", "changes")) + " in " + count(len(k.Plan.Steps), "step", "steps") + st.faint(byReplication(k.Plan))
		}
		rows = append(rows, row)
	}
	return columns(rows) + st.bold(fmt.Sprintf("%s: %d to change (%s), %d unchanged, %d failed",
		population(known), change, count(changes, "change", "changes"), unchanged, failed)) + "\n"
}

// undecided reports whether something of a plan is known only while it is carried
// out.
func undecided(p *tasks.Plan) bool { return countKind(p, "later") > 0 }

func countKind(p *tasks.Plan, kind string) int {
	n := 0
	for _, s := range p.Steps {
		for _, c := range s.Changes {
			if kindOf(c) == kind {
				n++
			}
		}
	}
	return n
}

// byReplication says what a standby gets from its primary.
func byReplication(p *tasks.Plan) string {
	n := countKind(p, "replicated")
	if n == 0 {
		return ""
	}
	return ", " + count(n, "statement comes", "statements come") + " by replication"
}

// everyTime says what an apply does though nothing is due.
func everyTime(p *tasks.Plan) string {
	commands, checks := countKind(p, "always"), countKind(p, "check")
	var parts []string
	if commands > 0 {
		parts = append(parts, count(commands, "command", "commands"))
	}
	if checks > 0 {
		parts = append(parts, count(checks, "check", "checks"))
	}
	if parts == nil {
		return ""
	}
	return ", " + strings.Join(parts, " and ") + " at every apply"
}

// population counts hosts, and instances where a host has several.
func population(known []rollout.Known) string {
	var instances []inventory.Instance
	for _, k := range known {
		instances = append(instances, k.Instance)
	}
	hosts := len(hostNames(instances))
	if hosts == len(instances) {
		return count(hosts, "host", "hosts")
	}
	return count(len(instances), "instance", "instances") + " on " + count(hosts, "host", "hosts")
}

// renderResults returns what became of each instance.
func renderResults(known []rollout.Known, results []rollout.Result, st style) string {
	var b strings.Builder
	var failed []failure
	for _, r := range results {
		if r.Err != nil {
			failed = append(failed, failure{r.Instance, r.Err})
		}
	}
	b.WriteString(renderFailures(failed, st))
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	color := map[rollout.Status]func(string) string{
		rollout.Changed: st.green, rollout.Failed: st.red, rollout.Unreachable: st.red, rollout.NoAccess: st.red,
		rollout.Refused: st.red, rollout.Stopped: st.yellow,
	}
	total := map[rollout.Status]int{}
	var rows [][]string
	changes := 0
	for _, r := range results {
		total[r.Status]++
		changes += r.Changes
		status := string(r.Status)
		if c := color[r.Status]; c != nil {
			status = c(status)
		}
		row := []string{string(r.Instance), status, "", "", ""}
		if r.Steps > 0 {
			row[2] = fmt.Sprintf("%d/%d steps", r.Done, r.Steps)
			row[3] = count(r.Changes, "change", "changes")
			row[4] = st.faint(seconds(r.Took))
			if r.Down > 0 {
				row[4] += fmt.Sprintf("  was down for %.1fs", r.Down.Seconds())
			}
		}
		rows = append(rows, row)
	}
	b.WriteString(columns(rows))
	for _, r := range results {
		for _, n := range r.Notes {
			b.WriteString(string(r.Instance) + ": " + clean(n) + "\n")
		}
	}
	var parts []string
	for _, s := range []rollout.Status{rollout.Changed, rollout.Unchanged, rollout.Failed, rollout.Unreachable, rollout.NoAccess, rollout.Refused, rollout.Stopped} {
		if total[s] > 0 || s == rollout.Changed || s == rollout.Unchanged || s == rollout.Failed {
			parts = append(parts, fmt.Sprintf("%d %s", total[s], s))
		}
	}
	b.WriteString(st.bold(population(known)+": "+strings.Join(parts, ", ")+"; "+count(changes, "change", "changes")+" made") + "\n")
	return b.String()
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
