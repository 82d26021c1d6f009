//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// These tests boot real hosts. They need root, and the bridge that
// PGFLEET_LAB_BRIDGE names.

func bridge() string {
	if b := os.Getenv("PGFLEET_LAB_BRIDGE"); b != "" {
		return b
	}
	return "pglab0"
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func up(t *testing.T, hosts ...lab.Host) *lab.Lab {
	t.Helper()
	l, err := lab.Up(testContext(t), lab.Options{Hosts: hosts, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// login runs a command by OpenSSH's client.
func login(t *testing.T, l *lab.Lab, args ...string) (string, error) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "ssh", append([]string{"-F", l.SSHConfig, "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

func mustLogin(t *testing.T, l *lab.Lab, args ...string) string {
	t.Helper()
	out, err := login(t, l, args...)
	if err != nil {
		t.Fatalf("ssh %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func look(t *testing.T, h *lab.Running, script string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func query(t *testing.T, h *lab.Running, port int, sql string) string {
	t.Helper()
	return look(t, h, fmt.Sprintf("cd / && runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -p %d -c %q", port, sql))
}

func TestLabKindsOfHosts(t *testing.T) {
	l := up(t,
		lab.Host{Name: "pg01", Instances: []lab.Instance{{Cluster: "second", Port: 5433}}},
		lab.Host{Name: "pg02", StandbyOf: "pg01"},
		lab.Host{Name: "pg03", Postgres: 17, SudoPassword: "open sesame", DisableForwarding: true, MaxSessions: 3},
		lab.Host{Name: "pg04", Postgres: 13, RootLogin: true},
		lab.Host{Name: "pg05", Postgres: 18, NoPgaudit: true},
		lab.Host{Name: "pg06", Down: true},
		lab.Host{Name: "pg07", NoPgaudit: true},
		lab.Host{Name: "pg08", Postgres: 13, StandbyOf: "pg04"},
	)
	// The order matters: some tests restart hosts.
	for _, test := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{
		{"healthy", testHealthy},
		{"exec", testExec},
		{"clusters", testClusters},
		{"standby", testStandby},
		{"sudo", testSudo},
		{"forwarding", testForwarding},
		{"application", testApplication},
		{"pgaudit", testPgaudit},
		{"reboot", testReboot},
		{"power", testPower},
		{"down", testDown},
		{"second lab", testSecondLab},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, l) })
	}
	root := l.Host("pg01").Root()
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("a host's root is still there")
	}
	mustBeGone(t, 0)
}

func testHealthy(t *testing.T, l *lab.Lab) {
	seen := map[string]string{}
	for _, h := range l.Hosts() {
		if h.Down {
			continue
		}
		if got := look(t, h, "systemctl is-system-running --wait || systemctl --failed"); got != "running" {
			t.Errorf("%s is %s", h.Name, got)
		}
		if got := mustLogin(t, l, h.Name, "hostname; id -un"); got != h.Name+"\n"+h.User {
			t.Errorf("%s: logged in to %q", h.Name, got)
		}
		if got := query(t, h, 5432, "SHOW server_version_num"); got[:2] != strconv.Itoa(h.Postgres) {
			t.Errorf("%s has PostgreSQL %s, want %d", h.Name, got, h.Postgres)
		}
		if got := query(t, h, 5432, "SHOW fsync"); got != "on" {
			t.Errorf("%s: fsync is %s", h.Name, got)
		}
		for _, what := range []string{"cat /etc/machine-id", "cat /etc/ssh/ssh_host_*_key.pub /etc/ssh/ssh_host_*_key | sha256sum", "sha256sum /etc/ssl/private/*"} {
			got := look(t, h, what)
			if seen[got] != "" {
				t.Errorf("%s and %s have the same: %s", h.Name, seen[got], what)
			}
			seen[got] = h.Name
		}
		if out, err := h.Exec(t.Context(), "ip route get 192.0.2.1"); err == nil {
			t.Errorf("%s has a route out: %s", h.Name, out)
		}
		if out := look(t, h, "command -v age perl python3 openssl rsyslogd getfattr setfacl; test -S /dev/log && logger -t lab hello && sleep 1 && grep -l 'lab: hello' /var/log/syslog"); strings.Count(out, "\n") != 7 {
			t.Errorf("%s lacks something: %s", h.Name, out)
		}
	}
}

func testExec(t *testing.T, l *lab.Lab) {
	h := l.Host("pg01")
	if got := look(t, h, "id -un; cat; tr '\\0' ' ' </proc/$$/cmdline # secret"); got != "root\n/bin/bash /dev/fd/3" {
		t.Errorf("got %q", got)
	}
	out, err := h.Exec(t.Context(), "echo out; echo complaint >&2; exit 3")
	var exit *exec.ExitError
	if out != "out\n" || !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "complaint") {
		t.Errorf("got %q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	started := time.Now()
	if _, err := h.Exec(ctx, "sleep 97531"); !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(started), err)
	}
	if out, err := h.Exec(t.Context(), "pgrep -f 'sleep 9753[1]'"); err == nil {
		t.Errorf("a cancelled script goes on: %s", out)
	}
	if _, err := os.Stat(filepath.Join(h.Root(), "etc/postgresql/15/main/postgresql.conf")); err != nil {
		t.Error(err)
	}
}

func testClusters(t *testing.T, l *lab.Lab) {
	const sql = "SELECT system_identifier FROM pg_control_system()"
	seen := map[string]string{}
	note := func(name, id string) {
		if seen[id] != "" {
			t.Errorf("clusters of %s and %s have one system identifier", name, seen[id])
		}
		seen[id] = name
	}
	for _, h := range l.Hosts() {
		if !h.Down && h.StandbyOf == "" {
			note(h.Name, query(t, h, 5432, sql))
		}
	}
	note("pg01/second", query(t, l.Host("pg01"), 5433, sql))
	if got := look(t, l.Host("pg01"), "systemctl is-active postgresql@15-main postgresql@15-second"); got != "active\nactive" {
		t.Errorf("units are %s", got)
	}
}

func testStandby(t *testing.T, l *lab.Lab) {
	for _, pair := range [][2]string{{"pg01", "pg02"}, {"pg04", "pg08"}} {
		primary, standby := l.Host(pair[0]), l.Host(pair[1])
		query(t, primary, 5432, "CREATE TABLE streamed AS SELECT 42 AS n")
		eventually(t, func() error {
			out, err := standby.Exec(t.Context(), "cd / && runuser -u postgres -- psql -XAtqc 'SELECT n, pg_is_in_recovery() FROM streamed'")
			if strings.TrimSpace(out) != "42|t" {
				return fmt.Errorf("standby has %q: %v", out, err)
			}
			return nil
		})
		got := query(t, primary, 5432, "SELECT client_addr, state FROM pg_stat_replication")
		if got != standby.Address.String()+"|streaming" {
			t.Errorf("primary sees %q", got)
		}
		if got := look(t, standby, "stat -c '%U %a' /var/lib/postgresql/.pgpass"); got != "postgres 600" {
			t.Errorf(".pgpass is %s", got)
		}
	}
}

func testSudo(t *testing.T, l *lab.Lab) {
	if got := mustLogin(t, l, "pg01", "sudo -n id -un; sudo -n -u postgres id -un"); got != "root\npostgres" {
		t.Errorf("sudo makes %q", got)
	}
	if out, err := login(t, l, "pg03", "sudo -n true"); err == nil || !strings.Contains(err.Error(), "password is required") {
		t.Errorf("sudo did not ask: %q, %v", out, err)
	}
	if got := mustLogin(t, l, "pg03", "echo open sesame | sudo -S -p '' -u postgres id -un"); got != "postgres" {
		t.Errorf("with the password sudo makes %q", got)
	}
	if out, err := l.Host("pg04").Exec(t.Context(), "id ops"); err == nil {
		t.Errorf("a host with RootLogin has ops: %s", out)
	}
}

func testForwarding(t *testing.T, l *lab.Lab) {
	forward := func(host string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ssh", "-F", l.SSHConfig, "-W", "127.0.0.1:22", host).CombinedOutput()
		if bytes.HasPrefix(out, []byte("SSH-2.0-")) {
			return nil
		}
		return fmt.Errorf("%s, %v", out, err)
	}
	if err := forward("pg01"); err != nil {
		t.Error(err)
	}
	if err := forward("pg03"); err == nil || !strings.Contains(err.Error(), "prohibited") {
		t.Errorf("forwarded in spite of DisableForwarding: %v", err)
	}
	if got := look(t, l.Host("pg03"), "sshd -T | grep -E '^(maxsessions|disableforwarding)' | sort"); got != "disableforwarding yes\nmaxsessions 3" {
		t.Errorf("sshd says %q", got)
	}
}

func testApplication(t *testing.T, l *lab.Lab) {
	conn, err := l.FromApplication().DialContext(t.Context(), "tcp", l.Host("pg05").Address.String()+":22")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	got := mustLogin(t, l, "-b", l.Application.String(), "pg01", "echo $SSH_CONNECTION")
	if !strings.HasPrefix(got, l.Application.String()+" ") {
		t.Errorf("the host sees %q", got)
	}
	if got := mustLogin(t, l, "pg01", "echo $SSH_CONNECTION"); !strings.HasPrefix(got, l.Operator.String()+" ") {
		t.Errorf("the host sees %q", got)
	}
}

func testPgaudit(t *testing.T, l *lab.Lab) {
	for _, name := range []string{"pg05", "pg07"} {
		h := l.Host(name)
		pkg := fmt.Sprintf("postgresql-%d-pgaudit", h.Postgres)
		if out, err := h.Exec(t.Context(), "dpkg-query -W "+pkg); err == nil {
			t.Errorf("%s has %s", name, out)
		}
		look(t, h, "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "+pkg)
		if got := look(t, h, "dpkg-query -W -f '${Status}' "+pkg); got != "install ok installed" {
			t.Errorf("%s: pgaudit is %s", name, got)
		}
	}
	look(t, l.Host("pg01"), "dpkg-query -W postgresql-15-pgaudit && apt-get update && ! apt-cache policy | grep http")
}

func testReboot(t *testing.T, l *lab.Lab) {
	h := l.Host("pg01")
	look(t, h, "echo kept >/root/kept; date >/run/lost")
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := look(t, h, "cat /root/kept; ls /run/lost 2>/dev/null || true"); got != "kept" {
		t.Errorf("after a reboot: %q", got)
	}
	before, err := h.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = login(t, l, "pg01", "sudo -n systemctl reboot") // it may lose its connection
	if err := h.Wait(t.Context(), before.Boots+1); err != nil {
		t.Fatal(err)
	}
	if got := mustLogin(t, l, "pg01", "cat /etc/hostname"); got != "pg01" {
		t.Errorf("after a reboot by ssh: %q", got)
	}
	eventually(t, func() error {
		out, err := l.Host("pg02").Exec(t.Context(), "cd / && runuser -u postgres -- psql -XAtqc 'SELECT status FROM pg_stat_wal_receiver'")
		if strings.TrimSpace(out) != "streaming" {
			return fmt.Errorf("the standby of a rebooted primary: %q, %v", out, err)
		}
		return nil
	})
}

func testPower(t *testing.T, l *lab.Lab) {
	h := l.Host("pg04")
	query(t, h, 5432, "CREATE TABLE kept AS SELECT 1 AS n")
	for _, off := range []func(context.Context) error{h.Stop, h.Kill} {
		if err := off(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st, err := h.Status(t.Context()); err != nil || st.State != lab.Off || st.Leader != 0 {
			t.Errorf("status is %+v, %v", st, err)
		}
		if _, err := h.Exec(t.Context(), "true"); err == nil {
			t.Error("a host that is off runs a script")
		}
		if _, err := os.Stat(filepath.Join(h.Root(), "etc/hostname")); err != nil {
			t.Error(err)
		}
		if err := h.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query(t, h, 5432, "SELECT n FROM kept"); got != "1" {
			t.Errorf("after power was off: %q", got)
		}
	}
}

func testDown(t *testing.T, l *lab.Lab) {
	h := l.Host("pg06")
	d := net.Dialer{Timeout: time.Second}
	if conn, err := d.DialContext(t.Context(), "tcp", h.Address.String()+":22"); err == nil {
		conn.Close()
		t.Error("a host that is down answers")
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := mustLogin(t, l, "pg06", "hostname"); got != "pg06" {
		t.Errorf("got %q", got)
	}
}

// testSecondLab boots a lab on another bridge, and is refused one on this.
func testSecondLab(t *testing.T, l *lab.Lab) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var log bytes.Buffer
	_, err := lab.Up(ctx, lab.Options{Hosts: []lab.Host{{Name: "pg01"}}, Log: &log})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(log.String(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("got %v and log %q", err, log.String())
	}
	other, err := lab.Up(testContext(t), lab.Options{Bridge: "pglab88", Hosts: []lab.Host{{Name: "pg01"}}, Detach: true, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Down()
	a, b := mustLogin(t, l, "pg01", "cat /etc/machine-id"), mustLogin(t, other, "pg01", "cat /etc/machine-id")
	if a == b {
		t.Error("hosts of two labs have one machine-id")
	}
	_, err = lab.Up(t.Context(), lab.Options{Bridge: "pglab88", Hosts: []lab.Host{{Name: "pg01"}}})
	if err == nil || !strings.Contains(err.Error(), "lab down") {
		t.Errorf("a second lab on the bridge of a detached one: %v", err)
	}
	attached, err := lab.Attach(t.Context(), "pglab88")
	if err != nil {
		t.Fatal(err)
	}
	if err := attached.Down(); err != nil {
		t.Error(err)
	}
	if _, err := lab.Attach(t.Context(), "pglab88"); err == nil {
		t.Error("attached to a lab that is down")
	}
}

// TestLabFreshHosts wants nothing of a host kept from one lab to the next.
func TestLabFreshHosts(t *testing.T) {
	for range 2 {
		l := up(t, lab.Host{Name: "pg01"})
		look(t, l.Host("pg01"), "test ! -e /root/seen && touch /root/seen")
		if err := l.Down(); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits for what takes a moment.
func eventually(t *testing.T, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
