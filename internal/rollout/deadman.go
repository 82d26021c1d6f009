package rollout

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

//go:embed deadman_arm.sh
var armScript string

//go:embed deadman_restore.sh
var restoreScript string

//go:embed deadman_disarm.sh
var disarmScript string

const (
	defaultDeadMan = 5 * time.Minute
	armTimeout     = time.Minute
	// What a host is doing when it is asked: to disarm waits for it to put back
	// and restart.
	firingTimeout = restartTimeout + time.Minute
	// stepMargin is how long a step may ask the host to wait on for what has no
	// limit that the user sets: then one that hangs is put back as well.
	stepMargin = 10 * time.Minute
)

// deadMan returns how long a host waits for a word of this run, in whole
// seconds.
func (r *Run) deadMan() time.Duration {
	if r.DeadMan <= 0 {
		return defaultDeadMan
	}
	return max(r.DeadMan.Round(time.Second), time.Second)
}

// An undo is what the host does when nobody ends a step.
type undo struct {
	unit    string // PostgreSQL's, which must not start at boot before the files are back
	verb    string // "reload", "restart", "try-restart", or "" where the server is left alone
	daemon  bool   // systemd has to read its units again
	others  []string
	earlier []facts.FileInfo // as they are to be, from earlier steps
	paths   []string         // of files that are to be as they are now
}

// A deadMan is an armed undo. The nil deadMan is one of a step with nothing to
// put back.
type deadMan struct {
	conn    transport.Conn
	names   string // the variables of the scripts
	history string // the folder on the host that the copies go to when all is well
	verb    string // what has the server take the old files over
	run     string
	length  time.Duration // after which the host puts back
	longest time.Duration // for which it is put off
	cancel  context.CancelCauseFunc
	stop    chan struct{}
	stopped sync.WaitGroup
	fired   error // set once the host has put back by itself; read it after release
}

// A firedError says that the host put the old state back by itself.
type firedError struct{ said string }

func (e *firedError) Error() string { return e.said }

// undoConfiguration is the undo of a step of the server's configuration.
func (x *executor) undoConfiguration(s *swap, certs []*stagedCertificate, activate, restart, running bool) undo {
	u := undo{unit: x.instance.Unit()}
	switch {
	case restart && running:
		u.verb = "restart"
	case restart:
		u.verb = "try-restart"
	case activate:
		u.verb = "reload"
	}
	u.units(x.step)
	if restart {
		for _, e := range *x.earlier {
			for _, f := range e.before {
				known := slices.ContainsFunc(u.earlier, func(g facts.FileInfo) bool { return g.Path == f.Path })
				if !known && !f.TooLarge { // whose content nobody has
					u.earlier = append(u.earlier, f)
				}
			}
		}
	}
	for _, f := range s.before {
		u.paths = append(u.paths, f.Path)
	}
	for _, c := range certs {
		u.paths = append(u.paths, c.target)
	}
	return u
}

// undoFiles is the undo of a step of other files.
func (x *executor) undoFiles(s *swap) undo {
	u := undo{unit: x.instance.Unit()}
	u.units(x.step)
	for _, f := range s.before {
		u.paths = append(u.paths, f.Path)
	}
	return u
}

// units adds what the step has systemd do.
func (u *undo) units(step tasks.Step) {
	for _, c := range step.Changes {
		switch a := c.Action.(type) {
		case tasks.DaemonReload:
			u.daemon = true
		case tasks.SetUnit:
			switch {
			case a.Restart:
				u.others = append(u.others, "try-restart:"+a.Name)
			case a.Reload:
				u.others = append(u.others, "reload:"+a.Name)
			}
		}
	}
}

// arm has the host put back by itself what the step changes, unless it is
// disarmed in time. It is done before the step's first write. The context
// returned ends when the host has done it, with the reason as its cause.
func (x *executor) arm(ctx context.Context, u undo) (context.Context, *deadMan, error) {
	if err := x.conn.Err(); err != nil {
		return ctx, nil, err
	}
	x.begun = true
	if len(u.earlier) == 0 && len(u.paths) == 0 {
		return ctx, nil, nil
	}
	d := &deadMan{conn: x.conn, run: rand.Text(), verb: u.verb, history: tasks.HistoryDir(x.instance, x.run.id()), stop: make(chan struct{})}
	d.length, d.longest = x.run.deadMan(), x.longestStep()
	d.names = undoNames(x.instance, d.run, d.length)
	script, stdin := armCommand(x.instance, d.names, u)
	limited, cancel := context.WithTimeoutCause(ctx, armTimeout, errors.New("the host took too long to keep copies of the old files"))
	defer cancel()
	out, err := x.conn.Run(limited, transport.Command{Script: script, User: "root", Stdin: stdin})
	switch {
	case err != nil:
		// It may be armed all the same: then it finds that nothing was changed.
		return ctx, nil, fmt.Errorf("nothing was written, because the host could not be made to put it back by itself: %w", because(limited, err))
	case out.ExitCode == 4:
		return ctx, nil, errors.New("a step of another run is open on the host, so nothing was written; when that has ended, or the host has put it back by itself, plan again")
	case out.ExitCode != 0:
		return ctx, nil, fmt.Errorf("nothing was written, because the host could not be made to put it back by itself: %s", message(out))
	}
	ctx, d.cancel = context.WithCancelCause(ctx)
	d.stopped.Go(func() { d.keep(ctx) })
	return ctx, d, nil
}

// keep puts the firing off while the step goes on.
func (d *deadMan) keep(ctx context.Context) {
	tick := time.NewTicker(d.length / 3)
	defer tick.Stop()
	end := time.After(d.longest)
	for {
		select {
		case <-tick.C:
			beat, cancel := context.WithTimeout(ctx, d.length)
			err := d.ask(beat, d.conn, "more=1\n")
			cancel()
			if _, fired := errors.AsType[*firedError](err); fired {
				d.fired = err
				d.cancel(err)
				return
			}
		case <-end:
			return
		case <-d.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// release ends keep.
func (d *deadMan) release() {
	select {
	case <-d.stop:
	default:
		close(d.stop)
	}
	d.stopped.Wait()
}

// succeed ends the undo: what the step did is to stay, and the copies are kept for
// whoever wants to take it back later. The error is a firedError if the host was
// faster.
func (d *deadMan) succeed(ctx context.Context, conn transport.Conn) error {
	if d == nil {
		return nil
	}
	return d.disarm(ctx, conn, d.history)
}

// disarm ends the undo. With a folder in history the copies are kept there.
func (d *deadMan) disarm(ctx context.Context, conn transport.Conn, history string) error {
	if d == nil {
		return nil
	}
	d.release()
	if d.fired != nil {
		return d.fired
	}
	ctx, cancel := context.WithTimeout(ctx, firingTimeout)
	defer cancel()
	err := d.ask(ctx, conn, fmt.Sprintf("more= history=%s verb=%s\n", transport.Quote(history), transport.Quote(d.verb)))
	if _, fired := errors.AsType[*firedError](err); fired {
		d.fired = err
	}
	return err
}

// ask runs the script that disarms or puts off.
func (d *deadMan) ask(ctx context.Context, conn transport.Conn, more string) error {
	out, err := conn.Run(ctx, transport.Command{Script: d.names + more + disarmScript, User: "root"})
	switch {
	case err != nil:
		return err
	case out.ExitCode == 5:
		return &firedError{tasks.ParseUndo(string(out.Stdout)).String()}
	case out.ExitCode == 6:
		return &firedError{"somebody removed the copies of the old files that the host keeps while a step is under way"}
	case out.ExitCode != 0:
		return errors.New(message(out))
	}
	return nil
}

// hasFired asks whether the host has put back by itself, and has it wait on if
// not, also while pgfleet puts back: a server may take long to start. It reports false where that could not be learned.
func (d *deadMan) hasFired(ctx context.Context, conn transport.Conn) bool {
	if d == nil {
		return false
	}
	d.release()
	if d.fired == nil {
		if err := d.ask(ctx, conn, "more=1\n"); err != nil {
			if _, fired := errors.AsType[*firedError](err); fired {
				d.fired = err
			}
		}
	}
	if d.fired == nil {
		d.conn, d.stop = conn, make(chan struct{})
		d.stopped.Go(func() { d.keep(context.WithoutCancel(ctx)) })
		return false
	}
	return true
}

// reason returns why a step failed: that the host has put its files back, if that
// is what ended its context.
func reason(ctx context.Context, err error) error {
	if fired, ok := errors.AsType[*firedError](context.Cause(ctx)); ok {
		return fired
	}
	return err
}

// end frees what an armed deadMan holds here.
func (d *deadMan) end() {
	if d != nil {
		d.release()
		d.cancel(nil)
	}
}

// settle disarms after a step that failed, whose error is why, and says so if
// the host has put back by itself, or is going to.
func (x *executor) settle(ctx context.Context, d *deadMan, why error) error {
	if d == nil {
		return why
	}
	d.release()
	err := d.fired
	half, ok := errors.AsType[*halfDoneError](why)
	switch {
	case err != nil:
	case ok: // the host has all that it takes to do better
		err = half
	default:
		err = d.disarm(context.WithoutCancel(ctx), x.conn, "")
	}
	if _, fired := errors.AsType[*firedError](err); fired {
		if _, said := errors.AsType[*firedError](why); said {
			return why
		}
		return fmt.Errorf("%w; before that: %w", err, why)
	}
	if err != nil {
		return fmt.Errorf("%w; the host puts the old files back by itself %v after it last heard of pgfleet, or at the next apply", why, x.run.deadMan())
	}
	return why
}

// fire has the host put back now what an earlier run left open, and returns what
// came of that. The error is why it could not.
func (r *Run) fire(ctx context.Context, in inventory.Instance, conn transport.Conn) (tasks.Undo, error) {
	ctx, cancel := context.WithTimeout(ctx, firingTimeout)
	defer cancel()
	dir := transport.Quote(tasks.UndoDir(in))
	script := "cd " + dir + " 2>/dev/null || exit 0; [ ! -e restore ] || sh ./restore run >/dev/null 2>&1; cat fired.note 2>/dev/null; [ ! -e restore ]"
	out, err := conn.Run(ctx, transport.Command{Script: script, User: "root"})
	if err != nil {
		return tasks.Undo{}, fmt.Errorf("a step of an earlier run is open on the host, and it could not be made to put the old files back: %w", err)
	}
	u := tasks.ParseUndo(string(out.Stdout))
	switch {
	case out.ExitCode != 0 && u.Fired.IsZero():
		return u, fmt.Errorf("a step of an earlier run is open on the host, and it could not put the old files back: %s", message(out))
	case out.ExitCode != 0:
		return u, fmt.Errorf("%s; mend that and apply again, or remove %s on the host to leave the files as they are", u, tasks.UndoDir(in))
	}
	return u, nil
}

// PutBack has those hosts put the old files back now on which a run that died has
// left a step open, so that what is planned after it holds. It takes their leases
// for that; a host that somebody else is at is left to them. It returns what came
// of it by instance, and reports whether anything was there to be put back.
func (r *Run) PutBack(ctx context.Context, known []Known) (said map[inventory.InstanceID]string, any bool) {
	var open []Known
	for _, k := range known {
		if leftOpen(k) {
			open = append(open, Known{Instance: k.Instance, State: k.State})
		}
	}
	if open == nil {
		return nil, false
	}
	giveBack, refused := r.takeLeases(ctx, nil, open, 0)
	if refused != nil {
		return nil, false
	}
	defer giveBack()
	said = map[inventory.InstanceID]string{}
	for _, k := range open {
		conn, err := r.Conn(ctx, k.Instance.Host)
		var u tasks.Undo
		if err == nil {
			u, err = r.fire(ctx, k.Instance, conn)
			conn.Refresh() // the server may have been restarted
		}
		switch {
		case err != nil:
			said[k.Instance.ID()] = err.Error()
		case !u.Fired.IsZero():
			said[k.Instance.ID()] = u.String()
			r.forget(ctx, k.Instance, conn)
		}
	}
	return said, true
}

// forget removes the note of an undo that the user has been told of.
func (r *Run) forget(ctx context.Context, in inventory.Instance, conn transport.Conn) {
	dir := transport.Quote(tasks.UndoDir(in))
	_, _ = conn.Run(ctx, transport.Command{Script: "[ -e " + dir + "/restore ] || rm -rf " + dir, User: "root"})
}

// undone deals with what an earlier run left on the host. The error is why the
// plan does not hold any more.
func (r *Run) undone(ctx context.Context, k Known, conn transport.Conn) error {
	if k.State == nil {
		return nil
	}
	u, err := k.State.Undo()
	switch {
	case err != nil: // the plan says so, and a step that is open is found by arm
	case u.Armed:
		back, err := r.fire(ctx, k.Instance, conn)
		if err == nil && back.Fired.IsZero() {
			return errors.New("a step of another run was open when this was planned, and has ended since; plan again")
		}
		if err == nil {
			err = fmt.Errorf("%s; what was planned does not hold any more: apply again", back)
		}
		return err
	case !u.Fired.IsZero():
		r.forget(ctx, k.Instance, conn)
	}
	return nil
}

// undoNames are the variables that all scripts have.
func undoNames(in inventory.Instance, run string, length time.Duration) string {
	dir, unit := tasks.UndoDir(in), escapeUnit(in.Unit())
	service := "pgfleet-undo-" + unit + ".service"
	return fmt.Sprintf("base=%s undo=%s service=%s wants=%s timer=%s run=%s seconds=%d\n",
		transport.Quote(path.Dir(dir)), transport.Quote(dir),
		transport.Quote("/etc/systemd/system/"+service), transport.Quote("/etc/systemd/system/multi-user.target.wants/"+service),
		transport.Quote("pgfleet-undo-timer-"+unit), transport.Quote(run), int(length/time.Second))
}

// armCommand renders the script that arms, and what goes to its standard input.
func armCommand(in inventory.Instance, names string, u undo) (script string, stdin []byte) {
	var restore, calls strings.Builder
	restore.WriteString(names)
	fmt.Fprintf(&restore, "unit=%s verb=%s daemon_reload=%s others=%s\n", transport.Quote(u.unit+".service"), transport.Quote(u.verb),
		transport.Quote(map[bool]string{true: "yes"}[u.daemon]), transport.Quote(strings.Join(u.others, " ")))
	restore.WriteString(transport.Rights + restoreScript)
	content := bytes.NewBufferString(restore.String())
	seen := map[string]bool{}
	var dirs []string
	for _, f := range u.earlier {
		seen[f.Path] = true
		dirs = append(dirs, path.Dir(f.Path))
		if !f.Exists {
			fmt.Fprintf(&calls, "absent %s\n", transport.Quote(f.Path))
			continue
		}
		fmt.Fprintf(&calls, "given %s %d %s %04o\n", transport.Quote(f.Path), len(f.Content), transport.Quote(f.Owner+":"+f.Group), facts.ModeBits(f.Mode))
		content.Write(f.Content)
	}
	for _, p := range u.paths {
		if !seen[p] {
			seen[p] = true
			dirs = append(dirs, path.Dir(p))
			fmt.Fprintf(&calls, "keep %s\n", transport.Quote(p))
		}
	}
	vars := fmt.Sprintf("size=%d unit_file=%s\n", restore.Len(), transport.Quote(undoUnit(in, dirs)))
	return names + vars + transport.Rights + armScript + calls.String() + "finish\n", content.Bytes()
}

// undoUnit is the unit that puts back at boot, before PostgreSQL starts
// (systemd.unit(5), systemd.service(5)).
func undoUnit(in inventory.Instance, dirs []string) string {
	restore := tasks.UndoDir(in) + "/restore"
	dirs = append(dirs, tasks.UndoDir(in))
	slices.Sort(dirs)
	var mounts []string
	for _, d := range slices.Compact(dirs) {
		mounts = append(mounts, unitWord(d))
	}
	return fmt.Sprintf(`# Written by pgfleet for as long as a step is under way.
[Unit]
Description=Put back what an interrupted step of pgfleet changed
Before=%s
RequiresMountsFor=%s
ConditionPathExists=%s

[Service]
Type=oneshot
ExecStart=/bin/sh %s boot
TimeoutStartSec=120

[Install]
WantedBy=multi-user.target
`, strings.ReplaceAll(in.Unit(), "%", "%%")+".service", strings.Join(mounts, " "), strings.ReplaceAll(restore, "%", "%%"), strings.ReplaceAll(unitWord(restore), "$", "$$"))
}

// unitWord quotes a word for a unit file (systemd.syntax(7), "Quoting"; "%" is
// a specifier's, systemd.unit(5)).
func unitWord(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}

// escapeUnit escapes a string for a part of a unit's name, as systemd-escape(1)
// does (systemd.unit(5), "String escaping for inclusion in unit names").
func escapeUnit(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '/':
			b.WriteByte('-')
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == ':', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}
