package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A hostRecord is what one host said of its lease and its log.
type hostRecord struct {
	host *inventory.Host
	rollout.HostRecord
	err error
}

// records asks every host.
func (s *session) records(ctx context.Context, lines int) (records []hostRecord, failed []failure) {
	all := eachHost(ctx, s, func(ctx context.Context, _ transport.Conn, h *inventory.Host) hostRecord {
		record, err := s.run.HostRecord(ctx, h, lines)
		return hostRecord{h, record, err}
	}, func(h *inventory.Host, err error) hostRecord { return hostRecord{host: h, err: err} })
	for _, r := range all {
		if r.err != nil {
			failed = append(failed, failure{inventory.InstanceID(r.host.Name), r.err})
			continue
		}
		records = append(records, r)
	}
	return records, failed
}

func (a *app) logCommand() *cobra.Command {
	var lines int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show what was done to hosts, and by whom, from their own logs",
		Long: `Log shows the last lines of every host's own log, /var/lib/pgfleet/log: who took
the host's lease and gave it back, and which steps were done or failed. It is on
the host, so it also tells of runs that were made from other machines.`,
		Example: `  pgfleet log -l pg03 -n 50`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 1 {
				return &inputError{errors.New("-n: want at least 1")}
			}
			return a.hostLogs(cmd.Context(), lines, asJSON)
		},
	}
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how `many` lines of each host")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the lines as JSON")
	return cmd
}

type hostLogDocument struct {
	Host  string            `json:"host"`
	Lines []rollout.LogLine `json:"lines"`
}

func (a *app) hostLogs(ctx context.Context, lines int, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	records, failed := s.records(ctx, lines)
	if asJSON {
		list := []hostLogDocument{}
		for _, r := range records {
			list = append(list, hostLogDocument{r.host.Name, append([]rollout.LogLine{}, r.Log...)})
		}
		if err := a.ui.JSON(struct {
			Format int               `json:"format"`
			Hosts  []hostLogDocument `json:"hosts"`
		}{jsonFormat, list}); err != nil {
			return err
		}
		return a.failures(failed)
	}
	for _, r := range records {
		a.ui.Print(renderLog(r, a.ui.style))
	}
	return a.failures(failed)
}

func renderLog(r hostRecord, st style) string {
	if len(r.Log) == 0 {
		return st.bold(r.host.Name+":") + " (pgfleet has changed nothing here)\n"
	}
	var rows [][]string
	for _, l := range r.Log {
		rows = append(rows, []string{"  " + clean(l.Time), clean(l.Who), clean(l.Run), clean(l.What)})
	}
	return st.bold(r.host.Name+":") + "\n" + columns(rows)
}

func (a *app) unlockCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "unlock",
		Short: "Show who is applying, ask, and take their leases away",
		Long: `Unlock shows which hosts have a lease, whose it is, until when it holds, and what
was done on the host last; asks; and takes the leases away. From then on the hosts
refuse whatever those runs still try to write.

A lease that is not renewed runs out within a minute, and the next apply takes it
by itself: unlock is for a run that goes on and should not.`,
		Example: `  pgfleet unlock -l pg03`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.unlock(cmd.Context(), yes) },
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// unlockLines is how much of a host's log unlock shows.
const unlockLines = 5

func (a *app) unlock(ctx context.Context, yes bool) error {
	if !yes && !a.ui.Interactive() {
		return &inputError{errors.New("this is not a terminal, so nobody can be asked: add --yes")}
	}
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	all, failed := s.records(ctx, unlockLines)
	var held []hostRecord
	for _, r := range all {
		if r.Lease != nil {
			held = append(held, r)
			a.ui.Print(renderLease(r, a.ui.style))
		}
	}
	if len(held) == 0 {
		a.ui.Print("nobody is applying: no host has a lease\n")
		return a.failures(failed)
	}
	if !yes {
		answer, err := a.ui.Ask(ctx, "\nTake these leases away? Only 'yes' is taken for a yes: ")
		if err != nil {
			return err
		}
		if answer != "yes" {
			return errors.New("nothing was changed")
		}
	}
	for _, r := range held {
		if err := s.run.TakeAway(ctx, r.host, *r.Lease); err != nil {
			failed = append(failed, failure{inventory.InstanceID(r.host.Name), fmt.Errorf("the lease was not taken away: %w", err)})
			continue
		}
		a.ui.Print(fmt.Sprintf("%s the lease of %s was taken away\n", a.ui.style.bold(r.host.Name+":"), clean(r.Lease.Holder)))
	}
	return a.failures(failed)
}

func renderLease(r hostRecord, st style) string {
	l := r.Lease
	until := "until " + l.Until.Format("15:04:05") + ", if it is not renewed"
	if r.RanOut() {
		until = "ran out at " + l.Until.Format("15:04:05")
	}
	text := st.bold(r.host.Name+":") + " " + clean(l.String()) + "\n  " + clean(l.Why) + "\n  " + until + "\n"
	if len(r.Log) > 0 {
		text += renderLog(r, st)
	}
	return text
}

// showLeases says who is applying to the hosts of a plan.
func (s *session) showLeases(known []rollout.Known) {
	said := map[*inventory.Host]bool{}
	for _, k := range known {
		if l, held := s.run.HeldBy(k); held && !said[k.Instance.Host] {
			said[k.Instance.Host] = true
			s.app.ui.Print(s.app.ui.style.yellow(fmt.Sprintf("%s: %s", k.Instance.Host.Name, clean(l.String()))) + "\n")
		}
	}
}
