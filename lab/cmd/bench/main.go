// Command bench times `pgfleet plan` on eight lab hosts that are as the example
// fleet.toml wants them, against cmd/floor on the same hosts in the same run:
// the two in turn, so that a machine that is busy is busy for both. Then it does
// the same through a proxy that adds 100 ms to every round trip, and counts the
// round trips. And it times backups; see backups.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

func main() {
	hosts := flag.Int("hosts", 8, "how many hosts plan is timed on; 0 to leave that out")
	runs := flag.Int("runs", 7, "how many runs of each are counted")
	rtt := flag.Duration("rtt", 100*time.Millisecond, "the round trip that the proxy makes")
	backups := flag.Int("backups", 5, "how many backups of each kind are counted; 0 to leave that out")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *hosts, *runs, *rtt, *backups); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

type bench struct {
	dir, pgfleet, floor string
	lab                 *lab.Lab
}

func run(ctx context.Context, hosts, runs int, rtt time.Duration, backups int) error {
	dir, err := os.MkdirTemp("", "pgfleet-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, pgfleet: filepath.Join(dir, "pgfleet"), floor: filepath.Join(dir, "floor")}
	for path, pkg := range map[string]string{b.pgfleet: "cmd/pgfleet", b.floor: "lab/cmd/floor"} {
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "./"+pkg).CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	if hosts > 0 {
		if err := b.plan(ctx, hosts, runs, rtt); err != nil {
			return err
		}
	}
	if backups > 0 {
		return b.backups(ctx, backups)
	}
	return nil
}

// plan times `pgfleet plan`.
func (b *bench) plan(ctx context.Context, hosts, runs int, rtt time.Duration) (err error) {
	var list []lab.Host
	for i := range hosts {
		list = append(list, lab.Host{Name: fmt.Sprintf("pg%02d", i+1)})
	}
	b.lab, err = lab.Up(ctx, lab.Options{Hosts: list, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { _ = b.lab.Down() }()

	direct := map[string]string{}
	proxied := map[string]string{}
	for _, h := range b.lab.Hosts() {
		direct[h.Name] = net.JoinHostPort(h.Address.String(), "22")
		p, err := newProxy(direct[h.Name], rtt/2)
		if err != nil {
			return err
		}
		defer p.Close()
		proxied[h.Name] = p.Addr().String()
	}
	if err := b.fleet(ctx, "direct"); err != nil {
		return err
	}
	if _, err := b.time(ctx, b.pgfleet, "-f", b.file("direct"), "apply", "--yes"); err != nil {
		return err
	}
	if err := b.proxied(proxied); err != nil {
		return err
	}
	fmt.Printf("%d hosts, medians of %d runs each, the two in turn\n", hosts, runs)
	floor, plan, err := b.pair(ctx, runs, "direct", direct)
	if err != nil {
		return err
	}
	fmt.Printf("floor  %v\nplan   %v\nratio  %.2f (2.5 or less is wanted)\n", floor.Round(time.Millisecond), plan.Round(time.Millisecond), float64(plan)/float64(floor))
	floor, plan, err = b.pair(ctx, 3, "proxied", proxied)
	if err != nil {
		return err
	}
	fmt.Printf("behind a round trip of %v\nfloor  %.1f round trips\nplan   %.1f round trips (18 or less is wanted)\n", rtt, float64(floor)/float64(rtt), float64(plan)/float64(rtt))
	return nil
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name, "fleet.toml") }

// fleet makes the example fleet with pgfleet init, and tells it how to log in.
func (b *bench) fleet(ctx context.Context, name string) error {
	args := []string{"init", filepath.Join(b.dir, name), "--user", b.lab.User, "--app-network", b.lab.Applications.String()}
	for _, h := range b.lab.Hosts() {
		args = append(args, "--host", h.Name+"="+h.Address.String())
	}
	if _, err := b.time(ctx, b.pgfleet, args...); err != nil {
		return err
	}
	return b.edit(name, "[ssh]\n", fmt.Sprintf("[ssh]\nidentity = %q\nknown_hosts = %q\n", b.lab.Key, b.lab.KnownHosts))
}

// proxied copies the example fleet, with sshd reached through the proxies.
func (b *bench) proxied(addresses map[string]string) error {
	if err := os.CopyFS(filepath.Join(b.dir, "proxied"), os.DirFS(filepath.Join(b.dir, "direct"))); err != nil {
		return err
	}
	known, err := os.ReadFile(b.lab.KnownHosts)
	if err != nil {
		return err
	}
	var lines strings.Builder
	for _, h := range b.lab.Hosts() {
		for line := range strings.Lines(string(known)) {
			fields := strings.Fields(line)
			if len(fields) == 3 && slices.Contains(strings.Split(fields[0], ","), h.Address.String()) {
				_, port, _ := net.SplitHostPort(addresses[h.Name])
				fmt.Fprintf(&lines, "[%s]:%s %s %s\n", h.Address, port, fields[1], fields[2])
				fmt.Fprintf(&lines, "[127.0.0.1]:%s %s %s\n", port, fields[1], fields[2])
			}
		}
	}
	path := filepath.Join(b.dir, "proxied", "known")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		return err
	}
	config := filepath.Join(b.dir, "proxied", "ssh_config")
	// The address that certificates and rules name stays the host's own: only
	// ssh takes the other way.
	var ssh strings.Builder
	for _, h := range b.lab.Hosts() {
		host, port, _ := net.SplitHostPort(addresses[h.Name])
		fmt.Fprintf(&ssh, "Host %s\n HostName %s\n Port %s\n", h.Address, host, port)
	}
	if err := os.WriteFile(config, []byte(ssh.String()), 0o600); err != nil {
		return err
	}
	if err := b.edit("proxied", "[ssh]\n", "[ssh]\nconfig = \"ssh_config\"\n"); err != nil {
		return err
	}
	return b.edit("proxied", b.lab.KnownHosts, path)
}

func (b *bench) edit(name, old, new string) error {
	text, err := os.ReadFile(b.file(name))
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), old) {
		return fmt.Errorf("%s: no %q", b.file(name), old)
	}
	return os.WriteFile(b.file(name), []byte(strings.Replace(string(text), old, new, 1)), 0o600)
}

// pair times floor and plan in turn, and returns their medians.
func (b *bench) pair(ctx context.Context, runs int, name string, addresses map[string]string) (floor, plan time.Duration, err error) {
	floorArgs := []string{b.lab.User, b.lab.Key}
	for _, h := range b.lab.Hosts() {
		floorArgs = append(floorArgs, addresses[h.Name])
	}
	var floors, plans []time.Duration
	for i := range runs + 1 {
		f, err := b.time(ctx, b.floor, floorArgs...)
		if err != nil {
			return 0, 0, err
		}
		p, err := b.time(ctx, b.pgfleet, "-f", b.file(name), "plan", "--detailed-exitcode")
		if err != nil {
			return 0, 0, fmt.Errorf("the hosts are not as wanted: %w", err)
		}
		if i == 0 {
			continue // warms the machine up
		}
		floors, plans = append(floors, f), append(plans, p)
	}
	slices.Sort(floors)
	slices.Sort(plans)
	return floors[len(floors)/2], plans[len(plans)/2], nil
}

func (b *bench) time(ctx context.Context, program string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_CONFIG_HOME=")
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("%s: %w", filepath.Base(program), err), errors.New(string(out)))
	}
	return took, nil
}
