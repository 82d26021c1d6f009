package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/journal"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/tasks"
)

func (a *app) runsShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show RUN",
		Short: "Show what a run did, host by host",
		Long: `Show verifies the run's journal and prints what it holds: who ran what and when,
and for each host the steps, how long they took, their changes with the digests of
what was there before and is there after, and errors. A change without digests is
one that leaves nothing to be compared, such as a reload. With -v digests are whole.

The digests are made with a key of yours: equal ones mean equal contents, and they
tell nobody else anything.`,
		Args:              oneRun,
		ValidArgsFunction: a.completeRun,
		RunE:              func(_ *cobra.Command, args []string) error { return a.runsShow(args[0], asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

func (a *app) runsShow(prefix string, asJSON bool) error {
	r, damage := a.findRun(prefix)
	if r == nil {
		return damage
	}
	if asJSON {
		doc := struct {
			Format int `json:"format"`
			*journal.Run
		}{jsonFormat, r}
		if err := a.ui.JSON(doc); err != nil {
			return err
		}
	} else {
		a.ui.Print(renderRun(r, a.ui.style, a.verbose))
	}
	return damage
}

// renderRun returns what a journal says.
func renderRun(r *journal.Run, st style, verbose bool) string {
	var b strings.Builder
	outcome := string(r.Outcome)
	switch r.Outcome {
	case journal.Done:
		outcome = st.green(outcome)
	case journal.Running, journal.Stopped:
		outcome = st.yellow(outcome)
	default:
		outcome = st.red(outcome)
	}
	fmt.Fprintf(&b, "%s %s\n", st.bold("run "+r.ID+":"), outcome)
	rows := [][]string{
		{"  by", fmt.Sprintf("%s, process %d, pgfleet %s", clean(r.Who), r.PID, clean(r.Pgfleet))},
		{"  began", localTime(r.Began)},
		{"  took", seconds(r.Last.Sub(r.Began)) + unlessEnded(r)},
		{"  fleet", clean(r.Fleet) + ", " + clean(r.File)},
	}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{"  " + name, clean(value)})
		}
	}
	add(map[string]string{"resume": "resumes", "retry": "retries"}[r.Command], r.Resumes)
	add("limit", r.Limit)
	add("tags", strings.Join(r.Tags, ", "))
	if r.Plan != nil {
		add("plan", r.Plan.File+", SHA-256 "+r.Plan.SHA256)
	}
	chain := ", the chain holds, last hash "
	if r.Outcome == journal.Damaged {
		chain = " before the damage, the last hash there is "
	}
	add("journal", count(r.Records, "record", "records")+chain+r.Hash)
	if r.Torn {
		rows = append(rows, []string{"", "its last line was not written whole, and is left out"})
	}
	b.WriteString(columns(rows))
	for _, o := range r.Others {
		fmt.Fprintf(&b, "  %s  %s\n", localTime(o.Time), clean(o.Text()))
	}
	for _, h := range r.Hosts {
		b.WriteString("\n" + renderRunHost(h, st, verbose))
	}
	if r.Outcome != journal.Done && r.Outcome != journal.Running && r.Outcome != journal.Damaged {
		fmt.Fprintf(&b, "\ngo on with: pgfleet runs resume %s\n", r.ID)
	}
	return b.String()
}

// unlessEnded says that the time of the last record is not that of the end.
func unlessEnded(r *journal.Run) string {
	if r.Finished == nil {
		return ", to the last record"
	}
	return ""
}

func renderRunHost(h journal.Instance, st style, verbose bool) string {
	var b strings.Builder
	status := string(h.Status)
	switch {
	case h.Status == rollout.Changed:
		status = st.green(status)
	case h.Failed() && h.Status != rollout.Stopped:
		status = st.red(status)
	case !h.Well():
		status = st.yellow(status)
	}
	fmt.Fprintf(&b, "%s  %s", st.bold(string(h.Instance)), status)
	if h.Changes > 0 {
		b.WriteString(", " + count(h.Changes, "change", "changes"))
	}
	if h.Seconds > 0 {
		b.WriteString(st.faint(", " + took(h.Seconds)))
	}
	if h.Down > 0 {
		fmt.Fprintf(&b, ", was down for %.1fs", h.Down)
	}
	b.WriteByte('\n')
	why := h.Error
	if why == "" && h.Planned != nil {
		why = h.Planned.Error
	}
	for line := range strings.Lines(clean(why)) {
		b.WriteString("  " + strings.TrimRight(line, "\n") + "\n")
	}
	for i, s := range h.Steps {
		fmt.Fprintf(&b, "  %d. %s: %s", i+1, clean(s.Title), stepStatus(s, st))
		if s.Seconds > 0 {
			b.WriteString(st.faint(", " + took(s.Seconds)))
		}
		b.WriteByte('\n')
		for _, c := range s.Changes {
			b.WriteString("     " + clean(c.Intent))
			if c.Before != "" || c.After != "" {
				b.WriteString(st.faint("  " + digest(c.Before, verbose) + " → " + digest(c.After, verbose)))
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func stepStatus(s journal.StepRun, st style) string {
	switch s.Status {
	case "done":
		return st.green(s.Status)
	case "failed":
		return st.red(s.Status)
	case "begun":
		return st.yellow("begun, and its end is not recorded")
	}
	return st.faint(s.Status)
}

func took(s float64) string { return seconds(time.Duration(s * float64(time.Second))) }

// digest shortens a digest to what tells it from others.
func digest(d string, whole bool) string {
	const enough = 12
	kind, sum, keyed := strings.Cut(d, ":")
	switch {
	case d == "":
		return "not known before it is made"
	case d == string(tasks.Absent) || whole || !keyed || len(sum) <= enough:
		return d
	}
	return kind + ":" + sum[:enough]
}
