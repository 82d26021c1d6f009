package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// A pulledRun is a backup that this machine makes of a cluster, or of a server that is in none.
type pulledRun struct {
	backup  *inventory.Backup
	members []inventory.Instance // those that the backup is for, in the fleet's order

	written    []string
	recipients []age.Recipient

	instance inventory.Instance // the member that was dumped, or that failed; the first until it is known
	id       string             // of the set; "" if none was begun
	bytes    int64
	took     time.Duration
	removed  []string // folders of older sets
	note     string
	err      error
}

// pulledRuns returns the runs of a backup for the instances that are meant.
func (a *app) pulledRuns(s *session, b *inventory.Backup) ([]pulledRun, error) {
	var list []string
	for _, r := range b.Recipients {
		list = append(list, r.Value)
	}
	written, at, err := secrets.Recipients(list, local(s.fleet, a.term.LookupEnv))
	if err != nil {
		return nil, &inputError{fmt.Errorf("%s: recipients: %w", b.Recipients[at].Pos(), err)}
	}
	recipients, err := secrets.ParseRecipients(written)
	if err != nil {
		return nil, &inputError{fmt.Errorf("%s: recipients: %w", b.Pos, err)}
	}
	var runs []pulledRun
	for _, in := range s.instances {
		if !b.Means(in) || slices.ContainsFunc(runs, func(r pulledRun) bool { return r.has(in) }) {
			continue
		}
		members := slices.DeleteFunc(s.fleet.Replication(in.Replication), func(m inventory.Instance) bool { return !b.Means(m) })
		if len(members) == 0 {
			members = []inventory.Instance{in}
		}
		runs = append(runs, pulledRun{backup: b, members: members, written: written, recipients: recipients, instance: members[0]})
	}
	return runs, nil
}

func (r *pulledRun) has(in inventory.Instance) bool {
	return slices.ContainsFunc(r.members, func(m inventory.Instance) bool { return m.ID() == in.ID() })
}

// pull makes the backups.
func (a *app) pull(ctx context.Context, s *session, runs []pulledRun) {
	var names []string
	for i := range runs {
		names = append(names, string(runs[i].instance.ID()))
	}
	p := newByteProgress(a.ui, "backing up", names)
	p.Start()
	defer p.Stop()
	each(a.forks, runs, func(r *pulledRun) {
		w := p.Begin(r.backup.Name+" of "+string(r.instance.ID()), 0)
		w.Tell("connecting")
		began := time.Now()
		r.err = a.pullOne(ctx, s, r, w)
		r.took = time.Since(began)
		w.End(r.err)
	})
}

// A candidate is a member that may be dumped.
type candidate struct {
	in     inventory.Instance
	o      *backup.Operator
	server *backup.Server
}

func (a *app) pullOne(ctx context.Context, s *session, r *pulledRun, w *byteWork) error {
	var found []candidate
	var unreached []error
	for _, in := range r.members {
		o, server, err := a.operator(ctx, s, r, in, w)
		if err != nil {
			unreached = append(unreached, fmt.Errorf("%s: %w", in.ID(), err))
			continue
		}
		found = append(found, candidate{in, o, server})
		if r.backup.On == server.Role {
			break
		}
	}
	i := slices.IndexFunc(found, func(c candidate) bool { return c.server.Role == r.backup.On })
	if i < 0 && r.backup.On == "standby" { // no standby runs
		i = slices.IndexFunc(found, func(c candidate) bool { return c.server.Role == "primary" })
	}
	switch {
	case i < 0 && len(r.members) == 1 && len(unreached) == 1:
		return errors.Unwrap(unreached[0])
	case i < 0 && len(found) == 1 && len(r.members) == 1:
		i = 0 // a standby of a server that is not in the fleet, or that the backup is not for
	case i < 0 && len(unreached) > 0:
		return errors.Join(unreached...)
	case i < 0:
		return errors.New("none of the cluster's members is a primary")
	}
	c := found[i]
	r.instance = c.in
	target, err := a.backupTarget(ctx, s, r.backup, &c.in)
	if err != nil {
		return err
	}
	c.o.Target = target
	id, m, err := c.o.Run(ctx, c.server)
	r.id = id
	switch {
	case err != nil && id == "":
		return err
	case err != nil:
		return fmt.Errorf("the set %s is not good: %w", id, err)
	}
	r.bytes = m.Bytes()
	if len(unreached) > 0 {
		r.note = fmt.Sprintf("not reached: %v", errors.Join(unreached...))
	}
	w.Tell("removing what is beyond the newest " + fmt.Sprint(r.backup.Keep))
	if r.removed, err = c.o.Prune(ctx, r.backup.Keep); err != nil {
		return fmt.Errorf("the set %s is good; older ones could not be removed: %w", id, err)
	}
	return nil
}

// operator asks an instance's server, and returns what would dump it.
func (a *app) operator(ctx context.Context, s *session, r *pulledRun, in inventory.Instance, w *byteWork) (*backup.Operator, *backup.Server, error) {
	conn, err := s.run.Conn(ctx, in.Host)
	if err != nil {
		return nil, nil, err
	}
	b := r.backup
	o := &backup.Operator{
		Conn: conn, Backup: b.Name, Instance: string(in.ID()), Role: b.Role, SocketDir: "/var/run/postgresql", Port: in.Port,
		BinDir: fmt.Sprintf("/usr/lib/postgresql/%d/bin", in.Version), LockTimeout: b.LockTimeout, Compression: b.Compression, Check: b.Check,
		Means: b.MeansDatabase, Named: b.DatabaseNames(), Written: r.written, Recipients: r.recipients, Here: b.Encrypt == "operator",
		Now: time.Now, Tell: w.Tell, Bytes: &w.bytes,
	}
	server, err := o.Ask(ctx)
	return o, server, err
}

// pulledText is what is said of a run that made a set.
func pulledText(r *pulledRun) string {
	text := fmt.Sprintf("%s of %s: the set %s is good, %s in %s", r.backup.Name, r.instance.ID(), r.id, bytesText(r.bytes), seconds(r.took))
	if len(r.removed) > 0 {
		text += fmt.Sprintf("; %s removed: %s", count(len(r.removed), "older set", "older sets"), strings.Join(r.removed, ", "))
	}
	if r.note != "" {
		text += "; " + r.note
	}
	return clean(text)
}
