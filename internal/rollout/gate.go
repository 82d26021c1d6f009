package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/tasks"
)

// gate looks at all instances that are done, and says what is not well with them:
// their clients are back, nobody is refused who was not before, standbys stream,
// the checks of verify tasks still hold, and the user's own command agrees.
func (a *rolling) gate(ctx context.Context, w Wave, n int, name string) error {
	if err := a.say(Event{Kind: GateStarted, Text: "looking at the hosts after " + name + a.unsearched(w.Members)}); err != nil {
		return err
	}
	if err := a.lookAtAll(ctx); err != nil {
		return err
	}
	return a.command(ctx, w, n)
}

// gateAgain looks once more after a pause, in which something may have turned bad,
// and without the user's command.
func (a *rolling) gateAgain(ctx context.Context) error {
	if a.run.Fleet.Rollout.Pause == 0 || !a.run.gated() {
		return nil
	}
	const text = "looking at the hosts once more after the pause"
	if err := a.say(Event{Kind: GateStarted, Text: text}); err != nil {
		return err
	}
	err := a.lookAtAll(ctx)
	if err != nil && !errors.Is(err, errStopped) {
		return fmt.Errorf("after the pause: %w", err)
	}
	return err
}

// unsearched says of which instances refused logins are not looked for, and why.
func (a *rolling) unsearched(members []int) string {
	var list []string
	for _, i := range members {
		if b := a.results[i].before; b != nil && b.log.problem != "" {
			list = append(list, fmt.Sprintf("; refused logins are not looked for on %s: %s", a.known[i].Instance.ID(), b.log.problem))
		}
	}
	return strings.Join(list, "")
}

// lookAtAll looks at all instances that are done. The error is errStopped if the
// run was told to stop before anything was found.
func (a *rolling) lookAtAll(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(a.run.forks())
	problems := make([]error, len(a.known))
	for _, i := range a.done {
		if a.known[i].State == nil || a.results[i].Status != Changed && a.results[i].Status != Unchanged {
			continue
		}
		group.Go(func() error {
			if err := a.look(ctx, i); err != nil && !errors.Is(err, errStopped) {
				problems[i] = fmt.Errorf("%s: %w", a.known[i].Instance.ID(), err)
			}
			return nil
		})
	}
	_ = group.Wait()
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if stopped(ctx, a.stop) {
		return errStopped
	}
	return nil
}

// look waits until an instance is as well as it was before its first step, or the
// run is told to stop.
func (a *rolling) look(ctx context.Context, i int) error {
	k := a.known[i]
	x := &executor{run: a.run, instance: k.Instance, peers: a.peersOf(i), phase: func(string) {}}
	before := a.results[i].before
	deadline := time.Now().Add(a.run.gateTimeout())
	for {
		if stopped(ctx, a.stop) {
			return errStopped
		}
		var why string
		var err error
		if x.conn, err = a.run.Conn(ctx, k.Instance.Host); err == nil && before != nil { // a new one if the old one has ended
			why, err = x.unwell(ctx, before)
		}
		if err == nil && why == "" {
			break
		}
		if time.Now().After(deadline) {
			if err != nil {
				return err
			}
			return fmt.Errorf("%s, for %v", why, a.run.gateTimeout())
		}
		select {
		case <-time.After(readyEvery):
		case <-a.stop:
		case <-ctx.Done():
		}
	}
	if before != nil {
		if err := x.refusals(ctx, before.log, k.Plan); err != nil {
			return err
		}
	}
	if a.results[i].Status == Unchanged {
		return nil
	}
	for _, s := range proofsMade(k.Plan.Steps, a.results[i].Done) {
		x.step = s
		for _, c := range s.Changes {
			if stopped(ctx, a.stop) {
				return errStopped
			}
			if err := x.single(ctx, c); err != nil {
				return &tasks.TaskError{Task: s.Title(), Err: err}
			}
		}
	}
	return nil
}

// proofsMade returns those of the steps that prove something and have been carried
// out: a standby that still waits for its primary has not made the last ones.
func proofsMade(steps []tasks.Step, done int) []tasks.Step {
	var list []tasks.Step
	for _, s := range steps {
		if waits(s) && done < len(steps) {
			break
		}
		if proves(s) {
			list = append(list, s)
		}
	}
	return list
}

// A before is what an instance was like when its first step was about to begin.
type before struct {
	server facts.Server
	// receiver is the process of a WAL receiver that streamed; 0 where none did.
	receiver int
	log      loginLog
}

// asBefore asks for what a gate compares with later. Where the server does not
// answer, what the survey knows has to do.
func (x *executor) asBefore(ctx context.Context, surveyed *facts.Server) *before {
	var b before
	s, err := x.server(ctx)
	switch {
	case err == nil && s.Reached:
		b.server = s
	case surveyed != nil:
		b.server = *surveyed
	}
	if b.server.InRecovery {
		_, b.receiver, _ = x.receiver(ctx)
	}
	b.log = x.loginLog(ctx)
	return &b
}

// unwell says what an instance had before its first step and lacks now: clients,
// standbys that stream, or its own streaming.
func (x *executor) unwell(ctx context.Context, before *before) (string, error) {
	if !before.server.Reached {
		return "", nil
	}
	now, err := x.server(ctx)
	if err != nil {
		return "", err
	}
	if !now.Reached {
		return "the server does not answer: " + now.Problem, nil
	}
	for _, c := range clients(before.server.Sessions) {
		at := slices.IndexFunc(now.Sessions, func(s facts.Session) bool { return s.User == c.user && s.Database == c.database })
		// A single session may have been somebody's psql.
		if at < 0 && c.sessions >= 2 && !slices.Contains(x.run.Rotated, c.user) {
			return fmt.Sprintf("%s in database %s had %d sessions before, and has none now", c.user, c.database, c.sessions), nil
		}
	}
	streaming := func(list []facts.Standby) (n int) {
		for _, s := range list {
			if s.State == "streaming" {
				n++
			}
		}
		return n
	}
	// A standby's own standbys too: it has a row for each.
	if had, has := streaming(before.server.Standbys), streaming(now.Standbys); has < had {
		return fmt.Sprintf("%d standbys streamed from it before, and %d do now", had, has), nil
	}
	if before.receiver != 0 {
		return x.notStreaming(ctx)
	}
	return "", nil
}

// notStreaming says that a standby does not stream; "" if it does. One whose slot
// or primary is wrong connects again and again, and looks for a moment as if it
// streamed (walreceiver.c), so the same WAL receiver has to be seen twice.
func (x *executor) notStreaming(ctx context.Context) (string, error) {
	first := 0
	for {
		standby, pid, err := x.receiver(ctx)
		switch {
		case err != nil:
			return "", err
		case !standby:
			return "it was a standby that streamed before, and is a primary now", nil
		case pid == 0 || first != 0 && pid != first:
			return "it streamed from its primary before, and does not now", nil
		case first != 0:
			return "", nil
		}
		first = pid
		select {
		case <-time.After(readyEvery):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// receiver returns whether the server is a standby, and the process of its WAL
// receiver if that streams; else 0.
func (x *executor) receiver(ctx context.Context) (standby bool, pid int, err error) {
	err = x.query(ctx, x.instance, `SELECT pg_catalog.pg_is_in_recovery(), coalesce((SELECT pid FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming'), 0)`,
		&standby, &pid)
	return standby, pid, err
}

// A client is a role with a database, and how many sessions it has there.
type client struct {
	user, database string
	sessions       int
}

func clients(list []facts.Session) []client {
	var all []client
	for _, s := range list {
		at := slices.IndexFunc(all, func(c client) bool { return c.user == s.User && c.database == s.Database })
		if at < 0 {
			at, all = len(all), append(all, client{user: s.User, database: s.Database})
		}
		all[at].sessions += s.Count
	}
	return all
}

// command runs the user's own gate, here.
func (a *rolling) command(ctx context.Context, w Wave, n int) error {
	script := a.run.Fleet.Rollout.Gate
	if script == "" {
		return nil
	}
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, a.run.gateTimeout(), fmt.Errorf("it took longer than gate_timeout, %v", a.run.gateTimeout()))
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-a.stop:
			cancel()
		case <-ended:
		}
	}()
	r, err := runHere(ctx, script, a.run.dir(""), fmt.Sprintf("PGFLEET_WAVE=%d", n), "PGFLEET_HOSTS="+strings.Join(w.Hosts, " "))
	if err != nil && stopped(outer, a.stop) {
		return errStopped
	}
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("it exited with %d: %s", r.ExitCode, orSay(r.Output, "without a word"))
	}
	if err != nil {
		return fmt.Errorf("the gate %q: %w", script, because(ctx, err))
	}
	return nil
}
