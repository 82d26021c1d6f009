package transport_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/transport"
	"github.com/pgfleet/pgfleet/transport/sshtest"
	"github.com/pgfleet/pgfleet/transport/transporttest"
)

// target is how to log in to an in-process server.
func target(s *sshtest.Server) transport.Target {
	return transport.Target{Name: "test", Address: s.Host, Port: s.Port, User: s.User, Identity: s.Identity, KnownHosts: s.Known}
}

// dialer reads nobody's own ssh configuration.
func dialer(t testing.TB) *transport.Dialer {
	t.Helper()
	t.Setenv("SSH_AUTH_SOCK", "")
	d := &transport.Dialer{SSHConfig: filepath.Join(t.TempDir(), "none")}
	t.Cleanup(func() { d.Close() })
	return d
}

// dial logs in to an in-process server, which must work.
func dial(t testing.TB, d *transport.Dialer, to transport.Target) transport.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := d.Dial(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestConformance runs the suite on the in-process server.
func TestConformance(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the host's side is Linux")
	}
	pg := startPostgres(t)
	for _, test := range []struct {
		name    string
		options sshtest.Options
		become  string
	}{
		{"sudo", sshtest.Options{}, ""},
		{"password", sshtest.Options{Sudo: "password", SudoPassword: "open sesame"}, "open sesame"},
		{"root", sshtest.Options{User: "root", Forward: true}, ""},
		{"MaxSessions2", sshtest.Options{MaxSessions: 2}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := sshtest.New(t, test.options)
			d := dialer(t)
			if test.become != "" {
				d.BecomePassword = func(context.Context) ([]byte, error) { return []byte(test.become), nil }
			}
			transporttest.Run(t, transporttest.Host{
				Open:     func(t *testing.T) transport.Conn { return dial(t, d, target(s)) },
				Dir:      t.TempDir(),
				Postgres: pg, TCP: pg != nil,
				Brief: test.name != "sudo",
			})
			if most := s.MostSessions(); test.options.MaxSessions > 0 && most > test.options.MaxSessions {
				t.Errorf("%d sessions at once", most)
			}
		})
	}
}

// startPostgres starts a server from this machine's binaries, or returns nil
// where there are none.
func startPostgres(t *testing.T) *transport.Endpoint {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if p, err := exec.LookPath("postgres"); err == nil {
		found = append(found, p)
	}
	if len(found) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("no PostgreSQL binaries on this machine")
		}
		return nil
	}
	bin := filepath.Dir(slices.Max(found))
	dir, err := os.MkdirTemp("", "pg") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // PostgreSQL refuses root
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.SysProcAttr = attr
		cmd.Dir = dir
		cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	port := 20000 + os.Getpid()%20000
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server := run("postgres", "-D", data, "-p", strconv.Itoa(port), "-k", dir, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB")
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
		text, _ := os.ReadFile(log.Name())
		for line := range strings.Lines(string(text)) {
			// What the suite provokes on purpose comes from our own sessions;
			// fetching a certificate or leaving must not show at all.
			for _, bad := range []string{"could not receive data", "unexpected EOF", "incomplete startup packet", "could not accept SSL"} {
				if strings.Contains(line, bad) {
					t.Errorf("the server's log: %s", line)
				}
			}
		}
	})
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("unix", fmt.Sprintf("%s/.s.PGSQL.%d", dir, port)); err == nil {
			c.Close()
			return &transport.Endpoint{SocketDir: dir, Port: port}
		}
		if time.Since(began) > 20*time.Second {
			text, _ := os.ReadFile(log.Name())
			t.Fatal(fmt.Errorf("PostgreSQL does not start: %s", text))
		}
	}
}
