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
	"github.com/pgfleet/pgfleet/transport"
)

// gate looks at all instances that are done, and says what is not well with them:
// their clients are back, nobody is refused who was not before, standbys stream,
// the checks of verify tasks still hold, and the user's own command agrees.
func (a *rolling) gate(ctx context.Context, w Wave, n int, name string) error {
	if err := a.say(Event{Kind: GateStarted, Text: "looking at the hosts after " + name}); err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(a.run.forks())
	problems := make([]error, len(a.known))
	for _, i := range a.done {
		if a.known[i].State == nil || a.results[i].Status != Changed && a.results[i].Status != Unchanged {
			continue
		}
		group.Go(func() error {
			if err := a.look(ctx, i); err != nil {
				problems[i] = fmt.Errorf("%s: %w", a.known[i].Instance.ID(), err)
			}
			return nil
		})
	}
	_ = group.Wait()
	if err := errors.Join(problems...); err != nil {
		return err
	}
	return a.command(ctx, w, n)
}

// look waits until an instance is as well as it was before the run.
func (a *rolling) look(ctx context.Context, i int) error {
	k := a.known[i]
	x := &executor{run: a.run, instance: k.Instance, peers: a.peersOf(i), phase: func(string) {}}
	deadline := time.Now().Add(a.run.gateTimeout())
	for {
		var why string
		var err error
		if x.conn, err = a.run.Conn(ctx, k.Instance.Host); err == nil { // a new one if the old one has ended
			why, err = x.unwell(ctx, k.State.Server())
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
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := x.refusals(ctx, a.results[i].LogFrom, k.Plan); err != nil {
		return err
	}
	if a.results[i].Status == Unchanged {
		return nil
	}
	for _, s := range proofsMade(k.Plan.Steps, a.results[i].Done) {
		x.step = s
		for _, c := range s.Changes {
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

// unwell says what an instance had before the run and lacks now: clients, and
// standbys that stream.
func (x *executor) unwell(ctx context.Context, before *facts.Server) (string, error) {
	if before == nil {
		return "", nil
	}
	now, err := x.server(ctx)
	if err != nil {
		return "", err
	}
	if !now.Reached {
		return "the server does not answer: " + now.Problem, nil
	}
	for _, c := range clients(before.Sessions) {
		at := slices.IndexFunc(now.Sessions, func(s facts.Session) bool { return s.User == c.user && s.Database == c.database })
		// A single session may have been somebody's psql.
		if at < 0 && c.sessions >= 2 {
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
	if had, has := streaming(before.Standbys), streaming(now.Standbys); has < had && !now.InRecovery {
		return fmt.Sprintf("%d standbys streamed from it before, and %d do now", had, has), nil
	}
	return "", nil
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

// refusedLogins are the server's messages to those whom it does not let in (auth.c,
// hba.c and postinit.c of PostgreSQL).
const refusedLogins = "FATAL:  (no pg_hba.conf entry|pg_hba.conf rejects|.* authentication failed for user|permission denied for database|role .* is not permitted to log in)"

// refusals compares who was refused since the run has begun with this instance
// with who was before, by what the server's log says. Logins that verify tasks
// made to be refused do not count.
func (x *executor) refusals(ctx context.Context, from int64, plan *tasks.Plan) error {
	if from == 0 {
		return nil // there is no log, or nothing was written before
	}
	log := transport.Quote(x.log())
	pick := " | grep -aE " + transport.Quote(refusedLogins) + " | tail -n 500"
	out, err := x.conn.Run(ctx, transport.Command{
		Script: fmt.Sprintf("head -c %[2]d %[1]s | tail -c 1048576%[3]s; echo; tail -c +%[4]d %[1]s | head -c 4194304%[3]s", log, from, pick, from+1), User: "postgres",
	})
	if err != nil {
		return err
	}
	before, after, _ := strings.Cut("\n"+string(out.Stdout), "\n\n")
	known := logMessages(before)
	var fresh []string
	for _, m := range logMessages(after) {
		if !slices.Contains(known, m) && !meantToFail(m, plan) {
			fresh = append(fresh, m)
		}
	}
	if len(fresh) > 0 {
		return fmt.Errorf("logins are refused that were not before: %s", strings.Join(fresh[:min(3, len(fresh))], "; "))
	}
	return nil
}

// logMessages returns the messages of lines of a log, each once.
func logMessages(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		_, m, ok := strings.Cut(strings.TrimSpace(line), "FATAL:  ")
		if ok && !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}

func meantToFail(message string, plan *tasks.Plan) bool {
	return slices.ContainsFunc(plan.Steps, func(s tasks.Step) bool {
		return slices.ContainsFunc(s.Changes, func(c tasks.Change) bool {
			l, ok := c.Action.(tasks.Login)
			return ok && l.Refused && strings.Contains(message, fmt.Sprintf("user %q", l.Role))
		})
	})
}

// command runs the user's own gate, here.
func (a *rolling) command(ctx context.Context, w Wave, n int) error {
	script := a.run.Fleet.Rollout.Gate
	if script == "" {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.run.gateTimeout(), fmt.Errorf("it took longer than gate_timeout, %v", a.run.gateTimeout()))
	defer cancel()
	r, err := runHere(ctx, script, a.run.dir(""), fmt.Sprintf("PGFLEET_WAVE=%d", n), "PGFLEET_HOSTS="+strings.Join(w.Hosts, " "))
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("it exited with %d: %s", r.ExitCode, orSay(r.Output, "without a word"))
	}
	if err != nil {
		return fmt.Errorf("the gate %q: %w", script, because(ctx, err))
	}
	return nil
}
