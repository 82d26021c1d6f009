package rollout

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

//go:embed trial.sh
var trialScript string

// How long the server gets; a restart as long as the server says nothing, see
// patience.
const (
	reloadTimeout  = 15 * time.Second
	restartTimeout = 90 * time.Second
	pollEvery      = 50 * time.Millisecond
)

// configure carries out a step of one server's configuration: all of its files
// are staged, tried, put in place, loaded and verified together. Whatever fails,
// the old files come back, and the server runs with them again.
func (x *executor) configure(ctx context.Context) error {
	server, restart, activate := x.activation()
	before, err := x.server(ctx)
	if err == nil {
		err = x.sameRole(before)
	}
	if err != nil {
		return err
	}
	files, err := x.prepare(ctx)
	if err != nil {
		return err
	}
	if err := x.checkFiles(ctx); err != nil {
		return err
	}
	certs, err := x.issue(ctx)
	defer x.discard(ctx, certs)
	if err != nil {
		return err
	}
	if err := x.try(ctx, server, files, certs, restart); err != nil {
		return err
	}

	wasStreaming := false
	if restart && before.Reached {
		wasStreaming = x.streaming(ctx)
		if err := x.ready(ctx); err != nil {
			return err
		}
		if before, err = x.server(ctx); err == nil {
			err = x.sameRole(before)
		}
		if err != nil {
			return err
		}
	}
	if err := x.locksOut(ctx, before.HBAFile); err != nil {
		return err
	}
	if err := x.stillThere(ctx, files); err != nil {
		return err
	}

	x.phase("writing")
	loaded, logged := false, x.logSize(ctx)
	ctx, dead, err := x.arm(ctx, x.undoConfiguration(files, certs, activate, restart, before.Reached))
	if err != nil {
		return err
	}
	defer dead.end()
	touched, err := x.put(ctx, files)
	if err != nil && !touched {
		return x.settle(ctx, dead, reason(ctx, err))
	}
	if err == nil {
		err = x.putCertificates(ctx, certs)
	}
	if err == nil && before.Reached {
		err = x.readable(ctx)
	}
	if restart && before.Reached {
		defer x.watchOutage(ctx)()
	}
	if err == nil && activate {
		loaded = true
		err = x.load(ctx, server, before, restart)
	}
	if err == nil && activate {
		err = x.verified(ctx, logged)
	}
	if err == nil && restart {
		err = x.streams(ctx, wasStreaming)
	}
	if err == nil {
		err = x.proven(ctx)
	}
	if err == nil {
		err = dead.succeed(ctx, x.conn)
	}
	if err == nil {
		// A reload proves little of what only a restart applies: until one has
		// succeeded, these files may have to come back with a later step's.
		if restart {
			*x.earlier = nil
		} else {
			*x.earlier = append(*x.earlier, files)
		}
		return nil
	}
	return x.settle(ctx, dead, x.restored(ctx, reason(ctx, err), func(ctx context.Context) error {
		fired := dead.hasFired(ctx, x.conn)
		wrote, err := x.putBack(ctx, files)
		errs := []error{err, x.putBackCertificates(ctx, certs)}
		if restart {
			for _, s := range slices.Backward(*x.earlier) {
				w, err := x.putBack(ctx, s)
				wrote, errs = wrote || w, append(errs, err)
			}
		}
		// What the host has put back by itself it has loaded as well.
		done := fired && !wrote && len(certs) == 0
		if loaded && before.Reached && !done {
			failed, _ := x.server(ctx)
			errs = append(errs, x.load(context.WithoutCancel(ctx), server, failed, restart)) // which has limits of its own
		}
		return errors.Join(errs...)
	}))
}

// activation finds the step's reload or restart.
func (x *executor) activation() (s tasks.Server, restart, any bool) {
	for _, c := range x.step.Changes {
		switch a := c.Action.(type) {
		case tasks.Reload:
			return a.Server, false, true
		case tasks.Restart:
			return a.Server, true, true
		}
	}
	return x.step.Server, false, false
}

// server asks the instance's server about itself, in a session of its own.
func (x *executor) server(ctx context.Context) (facts.Server, error) {
	q := tasks.ServerRead(x.instance)
	x.conn.Refresh()
	answers, err := x.conn.Read(ctx, []facts.Read{q})
	if err != nil {
		return facts.Server{}, err
	}
	a := answers[q]
	if a.Err != nil {
		return facts.Server{}, a.Err
	}
	return a.Value.(facts.Server), nil
}

// sameRole refuses a server that was a standby when it was planned and is a primary
// now, or the other way round: other tasks are for it then.
func (x *executor) sameRole(now facts.Server) error {
	role := "primary"
	if now.InRecovery {
		role = "standby"
	}
	if x.role == "" || !now.Reached || role == x.role {
		return nil
	}
	return fmt.Errorf("the server's role (%s then, %s now) was %w", x.role, role, errDrifted)
}

// autoConf is the file of ALTER SYSTEM, in the data directory.
const autoConf = "postgresql.auto.conf"

// trialElsewhere is the folder of a trial for the step's files that are not in the
// folder of postgresql.conf.
const trialElsewhere = "pgfleet.elsewhere"

// try has PostgreSQL judge the new files before they are put in place: its own
// parser always, and a server of its own where a restart or TLS is at stake,
// whose mistakes no view would show.
func (x *executor) try(ctx context.Context, server tasks.Server, files *swap, certs []*stagedCertificate, restart bool) error {
	if len(files.write) == 0 && len(files.remove) == 0 && len(certs) == 0 && !restart {
		return nil
	}
	x.phase("checking")
	boot := restart || len(certs) > 0 || slices.ContainsFunc(files.before, func(f facts.FileInfo) bool { return bytes.Contains(f.Content, []byte("ssl")) })
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files.write {
		name, inside := strings.CutPrefix(f.Path, server.ConfDir+"/")
		switch {
		case f.Path == path.Join(server.DataDir, autoConf):
			name = autoConf
		case !inside: // it may be what a setting of TLS names
			name = trialElsewhere + f.Path
		}
		boot = boot || bytes.Contains(f.Content, []byte("ssl"))
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(f.Content)), Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := w.Write(f.Content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	var removed []string
	for _, p := range files.remove {
		if name, inside := strings.CutPrefix(p, server.ConfDir+"/"); inside {
			removed = append(removed, name)
		}
	}
	gone := strings.Join(files.remove, "\n")
	pem, target := "", ""
	if len(certs) > 0 {
		pem, target = path.Join(certs[0].dir, "pem"), certs[0].target
	}
	vars := fmt.Sprintf("conf_dir=%s data_dir=%s bin_dir=%s pem=%s pem_target=%s boot=%s removed=%s gone=%s\n",
		transport.Quote(server.ConfDir), transport.Quote(server.DataDir), transport.Quote(server.BinDir), transport.Quote(pem), transport.Quote(target),
		map[bool]string{true: "yes", false: "no"}[boot], transport.Quote(strings.Join(removed, "\n")), transport.Quote(gone))
	ctx, cancel := context.WithTimeoutCause(ctx, restartTimeout, errors.New("the trial of the new configuration took too long"))
	defer cancel()
	out, err := x.conn.Run(ctx, transport.Command{Script: vars + trialScript, User: "postgres", Stdin: archive.Bytes(), Unfenced: true})
	if err != nil {
		return because(ctx, err)
	}
	switch out.ExitCode {
	case 0:
		return nil
	case 3:
		return fmt.Errorf("PostgreSQL refuses the new configuration, so it was not put in place: %s", cleanLog(message(out)))
	case 4:
		return fmt.Errorf("a server does not start with the new configuration, so it was not put in place: %s", cleanLog(message(out)))
	}
	return fmt.Errorf("the new configuration could not be tried, so it was not put in place: %s", message(out))
}

// cleanLog takes the time and the process off the lines of a server's log, and
// says each line once.
func cleanLog(text string) string {
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		for _, severity := range []string{"FATAL:", "ERROR:", "LOG:", "WARNING:", "HINT:", "DETAIL:"} {
			if _, rest, ok := strings.Cut(line, severity); ok {
				line = strings.TrimSpace(rest)
				break
			}
		}
		if line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// readable has the running server read the new files before it loads them: its
// views show every mistake of syntax.
func (x *executor) readable(ctx context.Context) error {
	s, err := x.server(ctx)
	if err != nil || !s.Reached {
		return err
	}
	var problems []string
	for _, f := range s.FileSettings {
		setting, known := s.Setting(f.Name)
		// "setting could not be applied" also means: only by a restart. A row
		// without a file is about a line that is gone, and says the same.
		if f.Error == "" || f.File == "" || known && setting.NeedsRestart() {
			continue
		}
		problems = append(problems, fmt.Sprintf("%s line %d: %s: %s", f.File, f.Line, f.Name, f.Error))
	}
	for _, h := range s.HBA {
		if h.Refused() { // error alone does not tell: some rules have one and load, some have none and do not
			problems = append(problems, fmt.Sprintf("%s line %d: %s", path.Base(s.HBAFile), h.Line, orSay(h.Error, "the rule is not accepted")))
		}
	}
	for _, e := range s.IdentErrors {
		problems = append(problems, path.Base(s.IdentFile)+": "+e)
	}
	if len(problems) > 0 {
		return fmt.Errorf("the server refuses its new files: %s", strings.Join(problems, "; "))
	}
	return nil
}

// load makes the server take the files over and waits until it has: before
// holds what it said of itself earlier.
func (x *executor) load(ctx context.Context, server tasks.Server, before facts.Server, restart bool) error {
	verb, limit := "reload", reloadTimeout
	if restart {
		verb, limit = "restart", restartTimeout
	}
	expected := ""
	if restart {
		expected = expectedDowntime(before, x.peers.downFor)
	}
	x.phase(verb + "ing " + server.Unit + expected)
	logged := x.logSize(ctx)
	if restart {
		patient, end := x.patience(ctx, limit)
		defer end()
		ctx = patient
	} else {
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = limited
	}
	script := "exec systemctl " + verb + " " + transport.Quote(server.Unit)
	if restart {
		// systemd refuses to start a unit that failed a few times in a row, and
		// putting back may be just the next time.
		script = "systemctl reset-failed " + transport.Quote(server.Unit) + " 2>/dev/null; " + script
	}
	out, err := x.conn.Run(ctx, transport.Command{Script: script, User: "root"})
	if err != nil && restart && ctx.Err() != nil {
		return fmt.Errorf("systemctl restart %s did not end: %w%s", server.Unit, because(ctx, err), x.lastWords(context.WithoutCancel(ctx), logged))
	}
	if err != nil {
		return err
	}
	if out.ExitCode != 0 {
		why := x.lastWords(ctx, logged)
		if why == "" {
			why = ": " + message(out)
		}
		return fmt.Errorf("systemctl %s %s failed%s", verb, server.Unit, why)
	}
	var last facts.Server
	for {
		last, err = x.server(ctx)
		if gone(err) {
			return err
		}
		if err == nil && before.Reached && shutOut(last) {
			return fmt.Errorf("the server does not let pgfleet in any more: %s", last.Problem)
		}
		if err == nil && last.Reached {
			switch {
			case restart && last.Started.After(before.Started):
				return nil
			case !restart && last.Loaded.After(before.Loaded):
				return nil
			}
		}
		select {
		case <-time.After(pollEvery):
			continue
		case <-ctx.Done():
		}
		break
	}
	if last.Reached {
		return fmt.Errorf("the server was told to %s and went on as before%s", verb, x.lastWords(context.WithoutCancel(ctx), logged))
	}
	return fmt.Errorf("the server does not answer after its %s: %s%s", verb, last.Problem, x.lastWords(context.WithoutCancel(ctx), logged))
}

// log is Debian's log of the server.
func (x *executor) log() string {
	return fmt.Sprintf("/var/log/postgresql/postgresql-%d-%s.log", x.instance.Version, x.instance.Cluster)
}

// logSize returns how long the server's log is, so that what it says of a change
// can be told from what it said before; 0 where there is none.
func (x *executor) logSize(ctx context.Context) int64 {
	out, err := x.conn.Run(ctx, transport.Command{Script: "stat -c %s " + transport.Quote(x.log()), User: "postgres", Unfenced: true})
	if err != nil || out.ExitCode != 0 {
		return 0
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(out.Stdout)), 10, 64)
	if err != nil {
		return 0
	}
	return size
}

// lastWords returns the server's complaints since its log was of some size. They
// are read as postgres, who owns the log and could put something else there.
func (x *executor) lastWords(ctx context.Context, since int64) string {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	log := transport.Quote(x.log())
	out, err := x.conn.Run(ctx, transport.Command{Script: fmt.Sprintf(
		"[ -f %[1]s ] && tail -c +%[2]d %[1]s | head -c 65536 | grep -E 'FATAL|ERROR|could not|not reloaded' | grep -v 'administrator command' | tail -n 3", log, since+1), User: "postgres", Unfenced: true})
	words := cleanLog(string(out.Stdout))
	if err != nil || words == "" {
		return ""
	}
	return "; its log says: " + words
}

// verified plans the step's tasks again from fresh facts: nothing may be due
// any more. What a view would not show is so found as well, because planning
// compares running values, the certificate that is served and the time of the
// last load.
func (x *executor) verified(ctx context.Context, logged int64) error {
	left, err := x.stillLeft(ctx)
	if err == nil && left != "" {
		err = fmt.Errorf("the server did not take the change over; still due: %s%s", left, x.lastWords(ctx, logged))
	}
	return err
}

// stillLeft plans the step's tasks again from fresh facts and returns what is due.
func (x *executor) stillLeft(ctx context.Context) (string, error) {
	x.phase("verifying")
	x.conn.Refresh()
	plan, err := x.run.resurvey(ctx, x.conn, x.instance, x.step.Tasks)
	if err != nil {
		return "", fmt.Errorf("after the change: %w", err)
	}
	var left []string
	for _, c := range plan.Changes() {
		left = append(left, c.Intent)
	}
	return strings.Join(left, "; "), nil
}
