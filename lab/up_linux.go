package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const runDir = "/run/pgfleet-lab"

// order is what the supervisor reads from its standard input.
type order struct {
	Options
	Dir   string
	Bases map[int]base
	Owner string // who asked for the lab, for the error that a second Up gives
}

// state is the file by which others find a running lab. It holds sudo
// passwords, and is readable by root alone.
type state struct {
	Options
	Supervisor int
	Owner      string
}

// report is a line from the supervisor to Up: progress, or how it ended.
type report struct {
	Log   string `json:",omitempty"`
	Ready bool   `json:",omitempty"`
	Err   string `json:",omitempty"`
}

// Up boots the hosts and returns once their sshd and clusters answer and the
// standbys stream. Missing bases are built first. The lab lasts until Down, or
// until this process ends unless Options.Detach is set. If the bridge carries a
// lab that a test holds, Up waits for its end as long as ctx lets it; a
// detached one is an error that names its holder.
func Up(ctx context.Context, opts Options) (*Lab, error) {
	if opts.Log == nil {
		opts.Log = io.Discard
	}
	opts.Log = &lineWriter{w: opts.Log}
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	l, err := up(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	return l, nil
}

func up(ctx context.Context, opts Options) (*Lab, error) {
	if err := Install(ctx, opts.Log); err != nil {
		return nil, err
	}
	bases, err := ensureBases(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := raiseInotify(); err != nil {
		return nil, err
	}
	lock, err := lockBridge(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	command, done, err := supervisorCommand(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer done()
	dir := filepath.Join(runDir, opts.Bridge)
	if err := removeRemains(ctx, opts.Bridge); err != nil {
		return nil, err
	}
	if err := unused(opts.Network, opts.Applications); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	o := order{Options: opts, Dir: dir, Bases: bases, Owner: fmt.Sprintf("process %d (%s)", os.Getpid(), filepath.Base(os.Args[0]))}
	return startSupervisor(ctx, command, o, lock)
}

// raiseInotify lets two dozen systemds run beside each other: all containers
// share the kernel's limit of inotify instances for root, which is 128 by default
// (inotify(7)), and each systemd takes five or more. It stays raised.
func raiseInotify() error {
	const path, enough = "/proc/sys/fs/inotify/max_user_instances", 1024
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if now, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && now >= enough {
		return nil
	}
	return os.WriteFile(path, []byte(strconv.Itoa(enough)), 0o644)
}

func ensureBases(ctx context.Context, opts Options) (map[int]base, error) {
	wanted := map[int]bool{}
	for _, h := range opts.Hosts {
		wanted[h.Postgres] = true
	}
	bases := map[int]base{}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for version := range wanted {
		g.Go(func() error {
			b, err := ensureBase(ctx, version, opts.Log)
			mu.Lock()
			defer mu.Unlock()
			bases[version] = b
			return err
		})
	}
	return bases, g.Wait()
}

// lockBridge takes the lock that a lab holds as long as it runs.
func lockBridge(ctx context.Context, opts Options) (*os.File, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, err
	}
	return lockFile(ctx, lockPath(opts.Bridge), func(first bool) error {
		s, err := readState(opts.Bridge)
		switch {
		case err != nil: // it starts or stops just now
			return nil
		case s.Detach:
			return fmt.Errorf("bridge %s carries a lab that %s started (supervisor %d): stop it with `lab down`, or choose another bridge", opts.Bridge, s.Owner, s.Supervisor)
		case first:
			fmt.Fprintf(opts.Log, "waiting for the lab of %s on bridge %s\n", s.Owner, opts.Bridge)
		}
		return nil
	})
}

func lockPath(bridge string) string { return filepath.Join(runDir, bridge+".lock") }

func readState(bridge string) (state, error) {
	var s state
	content, err := os.ReadFile(filepath.Join(runDir, bridge, stateFile))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(content, &s)
}

// removeRemains removes what a lab whose supervisor was killed has left. The
// caller holds the lock.
func removeRemains(ctx context.Context, bridge string) error {
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	if err := removeCgroup(filepath.Join(root, "pgfleet-lab", bridge)); err != nil {
		return err
	}
	if err := removeBridge(ctx, bridge); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(runDir, bridge))
}

// supervisorCommand is the path of the lab command. If it was built for the
// occasion, done removes it; it may be called as soon as the command runs.
func supervisorCommand(ctx context.Context, opts Options) (path string, done func(), err error) {
	if opts.Command != "" {
		return opts.Command, func() {}, nil
	}
	if c := os.Getenv("PGFLEET_LAB_COMMAND"); c != "" {
		return c, func() {}, nil
	}
	removeOldCommands()
	dir, err := os.MkdirTemp(cacheDir(), "command-")
	if err != nil {
		return "", nil, err
	}
	done = func() { os.RemoveAll(dir) }
	path = filepath.Join(dir, "lab")
	if _, err := output(exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/pgfleet/pgfleet/lab/cmd/lab")); err != nil {
		done()
		return "", nil, fmt.Errorf("build the lab command (or name one by PGFLEET_LAB_COMMAND): %w", err)
	}
	return path, done, nil
}

// removeOldCommands removes what was left by processes killed while they built
// the command. Those that run no longer need their file.
func removeOldCommands() {
	left, _ := filepath.Glob(filepath.Join(cacheDir(), "command-*")) // the pattern is good
	for _, dir := range left {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > 10*time.Minute {
			_ = os.RemoveAll(dir) // the next Up tries again
		}
	}
}

// startSupervisor starts the supervisor, hands it the lock, and waits until the
// lab is up. The files that it inherits are, from 3 on: the pipe whose end
// tells it that its owner has ended, the pipe for reports, the lock.
func startSupervisor(ctx context.Context, command string, o order, lock *os.File) (*Lab, error) {
	content, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	ownerR, ownerW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ownerR.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		ownerW.Close()
		return nil, err
	}
	defer reportR.Close()
	log, err := os.Create(filepath.Join(o.Dir, "supervisor.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := exec.Command(command, "supervise", "--bridge", o.Bridge) // for ps; the order says it all
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(string(content))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{ownerR, reportW, lock}
	// A session and a mount namespace of its own: Ctrl-C passes it by, and its
	// mounts end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	err = cmd.Start()
	reportW.Close()
	if err != nil {
		ownerW.Close()
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	stop := context.AfterFunc(ctx, func() { ownerW.Close() })
	err = readReports(reportR, o.Log)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		ownerW.Close()
		<-exited
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if o.Detach {
		if _, err := ownerW.Write([]byte(detachByte)); err != nil {
			return nil, err
		}
		ownerW.Close()
		ownerW = nil
	}
	l := newLab(o.Options, cmd.Process.Pid)
	l.owner, l.exited = ownerW, exited
	return l, nil
}

// detachByte, written to the owner's pipe, tells the supervisor to outlive its owner.
const detachByte = "d"

// readReports passes progress on until the lab is up or has failed.
func readReports(r io.Reader, log io.Writer) error {
	for s := bufio.NewScanner(r); s.Scan(); {
		var rep report
		if err := json.Unmarshal(s.Bytes(), &rep); err != nil {
			return err
		}
		switch {
		case rep.Ready:
			return nil
		case rep.Err != "":
			return errors.New(rep.Err)
		default:
			fmt.Fprintln(log, rep.Log)
		}
	}
	return errors.New("the supervisor ended early")
}

// newLab describes a running lab.
func newLab(opts Options, pid int) *Lab {
	dir := filepath.Join(runDir, opts.Bridge)
	l := &Lab{
		Bridge:       opts.Bridge,
		Network:      opts.Network,
		Applications: opts.Applications,
		Operator:     nth(opts.Network, 1),
		Application:  nth(opts.Applications, 10),
		User:         "ops",
		Key:          filepath.Join(dir, keyFile),
		KnownHosts:   filepath.Join(dir, knownHostsFile),
		SSHConfig:    filepath.Join(dir, sshConfigFile),
		dir:          dir,
		pid:          pid,
	}
	for _, h := range opts.Hosts {
		l.hosts = append(l.hosts, &Running{Host: h, User: h.user(), lab: l})
	}
	return l
}

// Attach finds the running lab of a bridge; "" is the default bridge.
func Attach(ctx context.Context, bridge string) (*Lab, error) {
	if bridge == "" {
		bridge = defaultBridge()
	}
	s, err := readState(bridge)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("lab: no lab runs on bridge %s: start one with `lab up`", bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	l := newLab(s.Options, s.Supervisor)
	if _, err := l.Status(ctx); err != nil {
		return nil, fmt.Errorf("lab: the lab on bridge %s is no longer supervised; `lab down` removes what is left: %w", bridge, err)
	}
	return l, nil
}

// Down stops the lab: every process, mount, file and the bridge. Hosts are not
// shut down but killed, since nothing of them remains.
func (l *Lab) Down() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := down(ctx, l.Bridge)
	if l.owner != nil {
		l.owner.Close()
	}
	if l.exited != nil {
		select {
		case <-l.exited:
		case <-ctx.Done():
			err = errors.Join(err, fmt.Errorf("lab: supervisor %d does not end", l.pid))
		}
	}
	return err
}

// Down stops the lab of a bridge, "" for the default one, or removes what is
// left of one whose supervisor was killed. That there is none is no error.
func Down(ctx context.Context, bridge string) error {
	if os.Geteuid() != 0 {
		return errors.New("lab: a lab needs root")
	}
	if bridge == "" {
		bridge = defaultBridge()
	}
	return down(ctx, bridge)
}

func down(ctx context.Context, bridge string) error {
	c := control{dir: filepath.Join(runDir, bridge)}
	err := c.call(ctx, "POST", "/down", nil)
	if err == nil {
		return nil
	}
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return err
	}
	lock, lockErr := tryLock(lockPath(bridge))
	if lockErr != nil || lock == nil {
		return errors.Join(fmt.Errorf("lab: stop the lab on bridge %s: %w", bridge, err), lockErr)
	}
	defer lock.Close()
	if err := removeRemains(ctx, bridge); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// lineWriter lets several goroutines write lines to one writer.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}
