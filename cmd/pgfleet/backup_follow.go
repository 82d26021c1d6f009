package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A hostedRun is a run that a host makes by itself, and what came of it.
type hostedRun struct {
	backup   *inventory.Backup
	instance inventory.Instance

	ID      string // of the set that it made; "" if it had nothing to do
	Bytes   int64
	Took    time.Duration
	Said    string // what it printed last, where it had nothing to do
	Ongoing bool   // a run went on already, which was followed
	Err     error
}

// unit is its unit, without .service.
func (r *hostedRun) unit() string { return r.backup.Unit(r.instance) }

// errFollowing is how following ends that was interrupted.
var errFollowing = errors.New("not followed any more")

const (
	followEvery = time.Second
	// startingUp is how long systemd gets to show a unit that it was told to start.
	startingUp = 10 * time.Second
	// silent is for how long a host may not answer while its run is followed.
	silent = 2 * time.Minute
)

// followHosted starts the units of the runs and follows them, until all have ended. When ctx ends they go on, and
// those that did not end before have errFollowing as their error.
func (a *app) followHosted(ctx context.Context, s *session, runs []hostedRun) {
	var names []string
	for i := range runs {
		names = append(names, string(runs[i].instance.ID()))
	}
	p := newByteProgress(a.ui, "backing up", names)
	p.Start()
	defer p.Stop()
	each(a.forks, runs, func(r *hostedRun) {
		w := p.Begin(r.backup.Name+" of "+string(r.instance.ID()), 0)
		w.Tell("connecting")
		r.Err = a.followOne(ctx, s, r, w)
		if ctx.Err() != nil && r.Err != nil && !errors.Is(r.Err, errFollowing) {
			r.Err = fmt.Errorf("%w: whether it was started is not known; on %s: systemctl status %s", errFollowing, r.instance.Host.Name, r.unit())
		}
		w.End(r.Err)
	})
}

func (a *app) followOne(ctx context.Context, s *session, r *hostedRun, w *byteWork) error {
	conn, err := s.run.Conn(ctx, r.instance.Host)
	if err != nil {
		return err
	}
	before, err := askUnit(ctx, conn, r.unit())
	if err != nil {
		return err
	}
	if !before.Loaded {
		return fmt.Errorf("the unit %s is not on the host: pgfleet apply makes it", r.unit())
	}
	base := path.Join(r.backup.To.Path, backupFolder(r.backup, r.instance.ID()))
	earlier, _, _, err := newestSet(ctx, conn, base)
	if err != nil {
		return err
	}
	began := time.Now()
	invocation, since := before.Invocation, ""
	if r.Ongoing = before.running(); r.Ongoing {
		earlier = "" // the newest may be its own
	} else if invocation, since, err = startUnit(ctx, conn, r.unit()); err != nil {
		return err
	}
	now, err := s.followUnit(ctx, r, invocation, since, func(ctx context.Context, conn transport.Conn) {
		if id, bytes, partial, err := newestSet(ctx, conn, base); err == nil && id > earlier {
			w.bytes.Store(bytes)
			w.Tell("dumping " + dumped(partial))
		}
	}, w)
	if err != nil {
		return err
	}
	r.Took = time.Since(began)
	ctx = context.WithoutCancel(ctx) // it has ended; say how
	ctx, cancel := context.WithTimeout(ctx, silent)
	defer cancel()
	// The connection may be another one than at the beginning.
	if conn, err = s.run.Conn(ctx, r.instance.Host); err != nil {
		return err
	}
	id, bytes, _, err := newestSet(ctx, conn, base)
	if err != nil {
		return err
	}
	if id > earlier {
		r.ID, r.Bytes = id, bytes
	}
	journal, err := askJournal(ctx, conn, r.unit(), now.Invocation)
	if err != nil {
		return err
	}
	switch {
	case now.Active == "failed":
		return errors.New(a.whyFailed(ctx, s, r, now, journal))
	case r.ID == "":
		r.Said = lastSaid(journal)
		return nil
	}
	return a.isGood(ctx, s, r)
}

// isGood reads the set of a run that has ended well.
func (a *app) isGood(ctx context.Context, s *session, r *hostedRun) error {
	t, err := a.backupTarget(ctx, s, r.backup, &r.instance)
	if err != nil {
		return err
	}
	sets, err := backup.ReadSets(ctx, t, backup.SetFolder(r.backup.Name, string(r.instance.ID()), r.ID))
	if err != nil {
		return fmt.Errorf("the run ended well, and its set cannot be read: %w", err)
	}
	for i := range sets {
		if sets[i].ID != r.ID {
			continue
		}
		if state, why := sets[i].State(time.Now().Add(backup.Quiet), false); state != backup.Good {
			return fmt.Errorf("the run ended well, and its set %s is not good but %s: %s", r.ID, state, why)
		}
		return nil
	}
	return fmt.Errorf("the run ended well, and its set %s is not there any more", r.ID)
}

// startUnit starts a unit without waiting for its end, and returns which run of it that is: its invocation, "" if it had
// ended before it could be seen, and when it was started by the host's clock.
func startUnit(ctx context.Context, conn transport.Conn, unit string) (invocation, since string, err error) {
	const script = `date +%s
systemctl start --no-block "$unit" || exit
for i in $(seq 50); do
	said=$(LC_ALL=C systemctl show "$unit" --property=ActiveState,InvocationID)
	case $said in *ActiveState=activating*) printf '%s\n' "$said"; exit ;; esac
	sleep 0.02
done
`
	out, err := conn.Run(ctx, transport.Command{Script: "unit=" + transport.Quote(unit+".service") + "\n" + script, User: "root"})
	if err == nil && out.ExitCode != 0 {
		err = fmt.Errorf("systemctl start %s: %s", unit, firstLine(strings.TrimSpace(string(out.Stderr))))
	}
	since, rest, _ := strings.Cut(string(out.Stdout), "\n")
	return properties(rest)["InvocationID"], since, err
}

// followUnit waits for the end of a unit's run. What systemd says of it comes with the invocation that it had: a unit that has
// ended well is soon forgotten.
func (s *session) followUnit(ctx context.Context, r *hostedRun, invocation, since string, look func(context.Context, transport.Conn), w *byteWork) (unitState, error) {
	heard, began := time.Now(), time.Now()
	for {
		conn, err := s.run.Conn(ctx, r.instance.Host) // again, if the connection was lost
		var now unitState
		if err == nil {
			now, err = askUnit(ctx, conn, r.unit())
		}
		switch {
		case ctx.Err() != nil:
		case err != nil && time.Since(heard) > silent:
			return unitState{}, fmt.Errorf("%w; the run may go on: systemctl status %s", err, r.unit())
		case err != nil:
			w.Tell("the host does not answer; the run goes on there")
		case now.running():
			heard, invocation = time.Now(), now.Invocation
			look(ctx, conn)
		case invocation != "":
			now.Invocation = invocation
			return now, nil
		default: // it was never seen to run
			heard = time.Now()
			ended, err := saidSince(ctx, conn, r.unit(), since)
			if err == nil && ended {
				return now, nil
			}
			if time.Since(began) > startingUp {
				return unitState{}, fmt.Errorf("systemd did not start %[1]s: systemctl status %[1]s", r.unit())
			}
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return unitState{}, fmt.Errorf("%w: the run goes on; to end it, on %s: systemctl stop %s", errFollowing, r.instance.Host.Name, r.unit())
		}
	}
}

// saidSince reports whether a unit has written to the journal since a time, in seconds since 1970.
func saidSince(ctx context.Context, conn transport.Conn, unit, since string) (bool, error) {
	out, err := conn.Run(ctx, transport.Command{
		Script: "journalctl --quiet --no-pager --output=cat --unit=" + transport.Quote(unit+".service") + " --since=" + transport.Quote("@"+since), User: "root", Unfenced: true,
	})
	return err == nil && strings.TrimSpace(string(out.Stdout)) != "", err
}

// newestSet looks at the newest set in a folder: its ID, the size of its files, and which one is being written.
func newestSet(ctx context.Context, conn transport.Conn, base string) (id string, bytes int64, partial string, err error) {
	const script = `cd -- "$base" 2>/dev/null || exit 0
newest=$(ls -1 | grep -E '^[0-9]{8}T[0-9]{6}Z$' | sort | tail -n 1)
[ -n "$newest" ] || exit 0
echo "$newest"
find "./$newest" -maxdepth 1 -type f -printf '%s %f\n'
`
	out, err := conn.Run(ctx, transport.Command{Script: "base=" + transport.Quote(base) + "\n" + script, User: "root", Unfenced: true})
	if err != nil {
		return "", 0, "", err
	}
	lines := strings.Split(strings.TrimSpace(string(out.Stdout)), "\n")
	for _, line := range lines[1:] {
		size, name, _ := strings.Cut(line, " ")
		n, _ := strconv.ParseInt(size, 10, 64)
		bytes += n
		if strings.HasSuffix(name, ".dump.age"+backup.PartialSuffix) || partial == "" && strings.HasSuffix(name, backup.PartialSuffix) {
			partial = name
		}
	}
	return lines[0], bytes, partial, nil
}

// dumped is the database that a file being written is of.
func dumped(partial string) string {
	name, _, _ := strings.Cut(partial, ".")
	if database, err := backup.Unescape(name); err == nil {
		return database
	}
	return name
}

// whyFailed says why a run failed: what it wrote beside the set, or else said to the journal.
func (a *app) whyFailed(ctx context.Context, s *session, r *hostedRun, now unitState, journal string) string {
	if r.ID != "" {
		t, err := a.backupTarget(ctx, s, r.backup, &r.instance)
		if err == nil {
			var sets []backup.Set
			sets, err = backup.ReadSets(ctx, t, backupFolder(r.backup, r.instance.ID()))
			i := slices.IndexFunc(sets, func(x backup.Set) bool { return x.ID == r.ID })
			if err == nil && i >= 0 && sets[i].Failed != nil {
				return fmt.Sprintf("%s: %s", sets[i].Failed.Step, sets[i].Failed.Message)
			}
		}
	}
	if why := failureIn(journal); why != "" {
		return why
	}
	return fmt.Sprintf("%s ended with %s, status %s", r.unit(), now.Result, now.ExitStatus)
}

// hostedText says what came of a run.
func hostedText(r *hostedRun) string {
	who := r.backup.Name + " of " + string(r.instance.ID())
	switch {
	case r.Err != nil:
		return ""
	case r.ID == "":
		return clean(who + ": " + r.Said)
	}
	text := fmt.Sprintf("%s: the set %s is good, %s in %s", who, r.ID, bytesText(r.Bytes), seconds(r.Took))
	if r.Ongoing {
		text += "; it was going on already"
	}
	return clean(text)
}
