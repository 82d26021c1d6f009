package lab

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed standby.sh
var standbyScript string

// supervisor holds the containers of one lab.
type supervisor struct {
	order
	log      io.Writer
	reports  *json.Encoder
	client   keyPair // the operator's
	machines []*machine
	boots    sync.WaitGroup // machines' run

	// repository is the address of the apt repository for hosts without pgaudit.
	repository netip.AddrPort
	// replication is the password of the role replicator in all clusters with standbys.
	replication string

	stop    func()        // asks for the end
	stopped chan struct{} // closed when nothing is left
	stopErr error         // why something is left; to be read after stopped
}

// Supervise holds the containers of a lab until it is told to stop or its owner
// ends. It is the whole of `lab supervise`, which Up starts: it reads its order
// from in and expects open files from 3 on (see startSupervisor). Progress that
// is of use when a lab fails goes to log.
func Supervise(ctx context.Context, in io.Reader, log io.Writer) error {
	var files [3]*os.File // owner, reports, lock
	for i := range files {
		syscall.CloseOnExec(3 + i)
		files[i] = os.NewFile(uintptr(3+i), "inherited")
		if files[i] == nil {
			return errors.New("lab: supervise is started by `lab up` and by tests, not by hand")
		}
	}
	defer files[2].Close() // the lock is given back last
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &supervisor{log: &lineWriter{w: log}, reports: json.NewEncoder(files[1]), stop: cancel, stopped: make(chan struct{})}
	if err := json.NewDecoder(in).Decode(&s.order); err != nil {
		return fmt.Errorf("lab: supervise is started by `lab up` and by tests, not by hand: %w", err)
	}
	guard, err := startGuard(s.Bridge, files[2])
	if err != nil {
		return err
	}
	go func() {
		// One byte: outlive the owner. The end of the pipe without it: the owner has ended.
		if n, _ := files[0].Read(make([]byte, 1)); n == 0 {
			cancel()
		}
	}()
	listener, err := net.Listen("unix", filepath.Join(s.Dir, controlSocket))
	if err != nil {
		return err
	}
	err = s.up(ctx, listener)
	if err == nil {
		_ = s.reports.Encode(report{Ready: true})
		files[1].Close()
		<-ctx.Done()
	} else {
		s.logf("%v", err)
	}
	s.stopErr = errors.Join(s.down(), guard())
	close(s.stopped)
	if err != nil {
		_ = s.reports.Encode(report{Err: errors.Join(err, s.stopErr).Error()})
	}
	time.Sleep(50 * time.Millisecond) // for the answer to POST /down
	return errors.Join(err, s.stopErr)
}

func (s *supervisor) logf(format string, args ...any) {
	fmt.Fprintf(s.log, time.Now().Format("15:04:05.000 ")+format+"\n", args...)
}

// tell reports progress to whoever waits in Up.
func (s *supervisor) tell(format string, args ...any) {
	s.logf(format, args...)
	_ = s.reports.Encode(report{Log: fmt.Sprintf(format, args...)})
}

func (s *supervisor) machine(name string) *machine {
	for _, m := range s.machines {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// up brings the whole lab up.
func (s *supervisor) up(ctx context.Context, listener net.Listener) error {
	started := time.Now()
	if err := s.makeMachines(); err != nil {
		return err
	}
	content, err := json.MarshalIndent(state{Options: s.Options, Supervisor: os.Getpid(), Owner: s.Owner}, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Dir, stateFile), content, 0o600); err != nil {
		return err
	}
	go func() { _ = (&http.Server{Handler: s.handler(), ReadHeaderTimeout: time.Minute}).Serve(listener) }()

	operator, application := nth(s.Network, 1), nth(s.Applications, 10)
	err = makeBridge(ctx, s.Bridge, []netip.Prefix{
		netip.PrefixFrom(operator, 24),
		netip.PrefixFrom(nth(s.Applications, 1), 24),
		netip.PrefixFrom(application, 24),
	})
	if err != nil {
		return err
	}
	if err := s.mount(); err != nil {
		return err
	}
	if err := s.serveRepository(operator); err != nil {
		return err
	}
	g, prepareCtx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU() + 1)
	for _, m := range s.machines {
		g.Go(func() error {
			if err := m.prepare(prepareCtx, s.Bases[m.Postgres], s.environment(m)); err != nil {
				return fmt.Errorf("host %s: %w", m.Name, err)
			}
			if !m.Down {
				m.start()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.tell("prepared %d hosts in %s", len(s.machines), time.Since(started).Round(time.Millisecond))
	for _, m := range s.machines {
		if m.Down {
			continue
		}
		if err := m.waitOn(ctx); err != nil {
			return fmt.Errorf("host %s: %w; its console says:\n%s", m.Name, err, tail(filepath.Join(s.Dir, m.Name+".console"), 10))
		}
	}
	if err := s.makeStandbys(ctx); err != nil {
		return err
	}
	s.tell("%d hosts are up after %s", len(s.machines), time.Since(started).Round(time.Millisecond))
	return nil
}

func (s *supervisor) makeMachines() error {
	var err error
	if s.client, err = newKeyPair("pgfleet lab"); err != nil {
		return err
	}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails
	s.replication = hex.EncodeToString(secret)
	keys := map[string]keyPair{}
	for _, h := range s.Hosts {
		key, err := newKeyPair("root@" + h.Name)
		if err != nil {
			return err
		}
		id := make([]byte, 16)
		_, _ = rand.Read(id)
		keys[h.Name] = key
		m := &machine{
			Host: h, s: s, dir: filepath.Join(s.Dir, "hosts", h.Name), hostKey: key,
			machineID: hex.EncodeToString(id), changed: make(chan struct{}), state: Off,
		}
		if h.StandbyOf == "" {
			m.ports = append(m.ports, 5432)
		}
		for _, in := range h.Instances {
			m.ports = append(m.ports, in.Port)
		}
		s.machines = append(s.machines, m)
	}
	return writeSSHFiles(s.Dir, s.Hosts, s.client, keys)
}

// mount makes the file system that the hosts' overlays write to. It is in
// memory: nothing of it is to last, and hosts boot and sync faster.
func (s *supervisor) mount() error {
	hosts := filepath.Join(s.Dir, "hosts")
	if err := os.Mkdir(hosts, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", hosts, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", hosts, err)
	}
	// nspawn leaves folders here when it is killed.
	const nspawn = "/run/systemd/nspawn"
	if err := os.MkdirAll(nspawn, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", nspawn, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", nspawn, err)
	}
	return nil
}

// serveRepository serves the bases' packages on the bridge, if a host has use for it.
func (s *supervisor) serveRepository(operator netip.Addr) error {
	mux := http.NewServeMux()
	wanted := false
	for _, m := range s.machines {
		if !m.NoPgaudit {
			continue
		}
		packages := s.Bases[m.Postgres].Packages
		debs, err := filepath.Glob(filepath.Join(packages, "*.deb"))
		if err != nil {
			return err
		}
		if len(debs) == 0 {
			return fmt.Errorf("host %s: its Debian release has no package of pgaudit for PostgreSQL %d", m.Name, m.Postgres)
		}
		wanted = true
		prefix := "/" + strconv.Itoa(m.Postgres) + "/"
		mux.Handle(prefix+m.Name+"/", http.StripPrefix(prefix+m.Name+"/", http.FileServer(http.Dir(packages))))
	}
	if !wanted {
		return nil
	}
	listener, err := net.Listen("tcp", netip.AddrPortFrom(operator, 0).String())
	if err != nil {
		return fmt.Errorf("apt repository: %w", err)
	}
	s.repository = listener.Addr().(*net.TCPAddr).AddrPort()
	go func() { _ = (&http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}).Serve(listener) }()
	return nil
}

// environment is what prepare.sh is told.
func (s *supervisor) environment(m *machine) []string {
	var hosts, clusters strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, h := range s.Hosts {
		fmt.Fprintf(&hosts, "%s %s\n", h.Address, h.Name)
	}
	if m.StandbyOf == "" {
		clusters.WriteString("main 5432 auto\n")
	} else {
		clusters.WriteString("main 5432 manual\n")
	}
	for _, in := range m.Instances {
		fmt.Fprintf(&clusters, "%s %d auto\n", in.Cluster, in.Port)
	}
	flag := func(b bool) string {
		if b {
			return "yes"
		}
		return ""
	}
	sessions := ""
	if m.MaxSessions > 0 {
		sessions = strconv.Itoa(m.MaxSessions)
	}
	return []string{
		"NAME=" + m.Name,
		"ADDRESS=" + m.Address.String(),
		"APPLICATIONS=" + s.Applications.String(),
		"MACHINE_ID=" + m.machineID,
		"HOSTS_FILE=" + hosts.String(),
		"HOST_KEY=" + strings.TrimSpace(string(m.hostKey.private)),
		"AUTHORIZED_KEY=" + s.client.public(),
		"LOGIN=" + m.user(),
		"SUDO_PASSWORD=" + m.SudoPassword,
		"DISABLE_FORWARDING=" + flag(m.DisableForwarding),
		"MAX_SESSIONS=" + sessions,
		"NO_PGAUDIT=" + flag(m.NoPgaudit),
		fmt.Sprintf("REPOSITORY=http://%s/%d/%s/", s.repository, m.Postgres, m.Name),
		"VERSION=" + strconv.Itoa(m.Postgres),
		"CLUSTERS=" + clusters.String(),
		"MEMBERS=" + strings.Join(s.members(m), " "),
	}
}

// members are the addresses of the primary and standbys that a machine belongs
// to; none if it replicates with nobody.
func (s *supervisor) members(m *machine) []string {
	primary := m.Name
	if m.StandbyOf != "" {
		primary = m.StandbyOf
	}
	var addresses []string
	for _, h := range s.Hosts {
		if h.Name == primary || h.StandbyOf == primary {
			addresses = append(addresses, h.Address.String())
		}
	}
	if len(addresses) == 1 {
		return nil
	}
	return addresses
}

// makeStandbys makes the standbys of primaries that are up.
func (s *supervisor) makeStandbys(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, primary := range s.machines {
		if primary.StandbyOf != "" || len(s.members(primary)) == 0 {
			continue
		}
		g.Go(func() error {
			// From 14 on SCRAM is the default.
			_, err := run(ctx, s.Bridge, primary.Name, primary.status().Leader, []string{"PASSWORD=" + s.replication}, `
				cd / && runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 <<-END
					SET password_encryption = 'scram-sha-256';
					CREATE ROLE replicator LOGIN REPLICATION PASSWORD '$PASSWORD';
				END`)
			if err != nil {
				return fmt.Errorf("role for the standbys of %s: %w", primary.Name, err)
			}
			standbys, ctx := errgroup.WithContext(ctx)
			for _, m := range s.machines {
				if m.StandbyOf == primary.Name {
					standbys.Go(func() error { return s.makeStandby(ctx, primary, m) })
				}
			}
			return standbys.Wait()
		})
	}
	return g.Wait()
}

func (s *supervisor) makeStandby(ctx context.Context, primary, m *machine) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, errors.New("it does not stream in time"))
	defer cancel()
	_, err := run(ctx, s.Bridge, m.Name, m.status().Leader, []string{
		"VERSION=" + strconv.Itoa(m.Postgres),
		"PRIMARY=" + primary.Address.String(),
		"SLOT=" + strings.ReplaceAll(m.Name, "-", "_"),
		"PASSWORD=" + s.replication,
	}, standbyScript)
	if err != nil {
		return fmt.Errorf("standby %s of %s: %w", m.Name, primary.Name, err)
	}
	m.set(func() { m.ports = append(m.ports, 5432) })
	return nil
}

// down ends all that up began.
func (s *supervisor) down() error {
	for _, m := range s.machines {
		m.set(func() { m.wanted = false })
	}
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		s.boots.Wait()
		close(ended)
	}()
	// Again and again: a container may just be starting.
	for done := false; !done; {
		if err := removeCgroup(filepath.Join(root, "pgfleet-lab", s.Bridge)); err != nil {
			return err
		}
		select {
		case <-ended:
			done = true
		case <-ctx.Done():
			return errors.New("containers do not end")
		case <-time.After(20 * time.Millisecond):
		}
	}
	for _, m := range s.machines {
		_ = syscall.Unmount(m.root(), syscall.MNT_DETACH)
	}
	_ = syscall.Unmount(filepath.Join(s.Dir, "hosts"), syscall.MNT_DETACH)
	return removeRemains(ctx, s.Bridge)
}
