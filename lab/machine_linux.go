package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

//go:embed prepare.sh
var prepareScript string

// bootTime is how long a host may take until everything in it answers.
const bootTime = 90 * time.Second

// nspawn's exit status when the container asked for a reboot under --keep-unit.
const exitReboot = 133

// machine is a host as its supervisor holds it.
type machine struct {
	Host
	s         *supervisor
	dir       string // upper, work and root of the overlay
	machineID string
	hostKey   keyPair

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change of what follows
	wanted  bool          // to be booted again when it reboots
	running bool          // run is on
	nspawn  *os.Process
	leader  int
	boots   int
	state   State
	err     error
	ports   []int // of the clusters that must answer
}

func (m *machine) root() string { return filepath.Join(m.dir, "root") }

func (m *machine) status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := Status{Name: m.Name, Address: m.Address, State: m.state, Leader: m.leader, Boots: m.boots}
	if m.err != nil {
		st.Error = m.err.Error()
	}
	return st
}

// set changes the machine under its lock and wakes those who wait for a change.
func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	close(m.changed)
	m.changed = make(chan struct{})
}

// await returns when ok is true of the machine, which is locked meanwhile.
func (m *machine) await(ctx context.Context, ok func() bool) error {
	for {
		m.mu.Lock()
		done, changed := ok(), m.changed
		m.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// prepare mounts the overlay and makes it this host's root.
func (m *machine) prepare(ctx context.Context, b base, env []string) error {
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(m.dir, d), 0o755); err != nil {
			return err
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", b.Root, m.dir, m.dir)
	if err := syscall.Mount("overlay", m.root(), "overlay", 0, layers); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", prepareScript)
	cmd.Dir = "/"
	cmd.Env = append(append([]string(nil), hostEnv...), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:     m.root(),
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
	}
	out, err := cmd.CombinedOutput()
	m.s.logf("prepare %s: %s", m.Name, out)
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("prepare its root: %w: %s", err, lines[len(lines)-1])
	}
	return nil
}

// start boots the machine if it is off.
func (m *machine) start() {
	m.set(func() {
		m.wanted = true
		if !m.running {
			m.running, m.state, m.err = true, Booting, nil
			m.s.boots.Go(m.run)
		}
	})
}

// run holds the container, and boots it again when it reboots.
func (m *machine) run() {
	for {
		again, err := m.boot()
		if err != nil {
			m.s.logf("%s: %v", m.Name, err)
		}
		m.mu.Lock()
		again = again && m.wanted && err == nil
		m.mu.Unlock()
		m.set(func() {
			m.leader, m.nspawn, m.err = 0, nil, err
			m.state = Off
			if again {
				m.state = Booting
			} else {
				m.running = false
			}
		})
		if !again {
			return
		}
	}
}

// boot runs the container once. It reports whether the container wants to be
// booted again.
func (m *machine) boot() (again bool, err error) {
	dir, err := makeCgroup(m.s.Bridge, m.Name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, removeCgroup(dir)) }()
	group, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer group.Close()
	console, err := os.OpenFile(filepath.Join(m.s.Dir, m.Name+".console"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return false, err
	}
	defer console.Close()
	cmd := exec.Command("systemd-nspawn", "--quiet", "--boot", "--console=passive",
		"--directory="+m.root(), "--machine="+m.Name+"-"+m.s.Bridge, "--hostname="+m.Name, "--uuid="+m.machineID,
		"--network-bridge="+m.s.Bridge, "--register=no", "--keep-unit",
		"--link-journal=no", "--resolv-conf=off", "--timezone=off", "--settings=no")
	// From Debian 13 on systemd knows cgroups version 2 alone. /tmp is as in the base.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "SYSTEMD_NSPAWN_TMPFS_TMP=0")
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), bootTime, errors.New("not up in time"))
	defer cancel()
	m.set(func() { m.nspawn, m.boots = cmd.Process, m.boots+1 })
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		m.watch(ctx, cmd.Process.Pid)
	}()
	err = cmd.Wait()
	cancel()
	<-watched
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode() == exitReboot {
			return true, nil
		}
		m.mu.Lock()
		unwanted := !m.wanted
		m.mu.Unlock()
		if unwanted {
			return false, nil // killed, or powered off, as told
		}
		return false, fmt.Errorf("container ended (%w): %s", err, tail(console.Name(), 3))
	}
	return false, err
}

// watch sets the state once the host answers, or its error once it should have.
func (m *machine) watch(ctx context.Context, nspawn int) {
	var leader int
	err := poll(ctx, func() error {
		if leader = leaderOf(nspawn); leader == 0 {
			return errors.New("no process 1 yet")
		}
		return nil
	})
	if err == nil {
		m.set(func() { m.leader = leader })
		err = poll(ctx, func() error { return m.answers(ctx, leader) })
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the container has ended
	}
	m.set(func() {
		if m.err = err; err == nil {
			m.state = On
		}
	})
}

// answers returns nil if sshd lets us in and every cluster accepts connections.
func (m *machine) answers(ctx context.Context, leader int) error {
	if err := m.login(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	var script strings.Builder
	for _, port := range m.ports {
		fmt.Fprintf(&script, "/usr/lib/postgresql/%d/bin/pg_isready -q -h /var/run/postgresql -p %d || { echo port %d >&2; exit 1; }\n", m.Postgres, port, port)
	}
	m.mu.Unlock()
	if _, err := run(ctx, m.s.Bridge, m.Name, leader, nil, script.String()); err != nil {
		return fmt.Errorf("PostgreSQL does not accept connections: %w", err)
	}
	return nil
}

// login logs in as a user of the lab does.
func (m *machine) login(ctx context.Context) error {
	address := net.JoinHostPort(m.Address.String(), "22")
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User:            m.user(),
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(m.s.client.signer)},
		HostKeyCallback: ssh.FixedHostKey(m.hostKey.signer.PublicKey()),
	})
	if err != nil {
		return err
	}
	client := ssh.NewClient(c, channels, requests)
	defer func() { _ = client.Close() }()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	return session.Run("true")
}

// poll calls ok until it returns nil; when ctx ends, it returns the last error.
func poll(ctx context.Context, ok func() error) error {
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// waitOn returns once the machine is up, or has failed to come up.
func (m *machine) waitOn(ctx context.Context) error {
	err := m.await(ctx, func() bool { return m.state == On || m.state == Off || m.err != nil })
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.err != nil:
		return m.err
	case m.state == Off:
		return errors.New("it is off")
	}
	return nil
}

// stop shuts the machine down in order.
func (m *machine) stop(ctx context.Context) error {
	m.set(func() {
		m.wanted = false
		if m.nspawn != nil {
			// nspawn passes it on as SIGRTMIN+3: systemd halts the host.
			_ = m.nspawn.Signal(syscall.SIGTERM)
		}
	})
	return m.await(ctx, func() bool { return !m.running })
}

// kill ends all of the machine's processes.
func (m *machine) kill() error {
	m.set(func() { m.wanted = false })
	dir, err := makeCgroup(m.s.Bridge, m.Name)
	if err != nil {
		return err
	}
	if err := removeCgroup(dir); err != nil {
		return err
	}
	return m.await(context.Background(), func() bool { return !m.running })
}

// reboot reboots the machine from inside.
func (m *machine) reboot(ctx context.Context) error {
	st := m.status()
	if st.Leader == 0 {
		return errors.New("it is off")
	}
	// systemctl may be ended by the reboot that it asks for.
	_, askErr := run(ctx, m.s.Bridge, m.Name, st.Leader, nil, "systemctl reboot")
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, errors.Join(errors.New("it did not reboot"), askErr))
	defer cancel()
	return m.waitBoots(ctx, st.Boots+1)
}

// waitBoots is waitOn once the machine was booted so many times.
func (m *machine) waitBoots(ctx context.Context, boots int) error {
	if err := m.await(ctx, func() bool { return m.boots >= boots || !m.running }); err != nil {
		return err
	}
	return m.waitOn(ctx)
}
