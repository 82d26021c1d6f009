package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/transport"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// through is how to log in to a server through a proxy.
func through(t *testing.T, s *sshtest.Server, delay time.Duration) (*sshtest.Proxy, transport.Target) {
	t.Helper()
	p, err := sshtest.NewProxy(s.Addr, delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	to := target(s)
	host, port, _ := strings.Cut(p.Addr, ":")
	to.Address = host
	_, _ = fmt.Sscan(port, &to.Port)
	to.KnownHosts = filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(to.KnownHosts, []byte(knownhosts.Line([]string{p.Addr}, s.HostKey)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return p, to
}

// wantError checks an error's kind and words.
func wantError(t *testing.T, err error, kind transport.Kind, words ...string) {
	t.Helper()
	var e *transport.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Errorf("%v: not an error of kind %q", err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v: does not say %q", err, w)
		}
	}
}

func TestUnreachable(t *testing.T) {
	d := dialer(t)
	d.ConnectTimeout = 300 * time.Millisecond
	s := sshtest.New(t, sshtest.Options{})
	to := target(s)

	to.Port = sshtest.Silent(t)
	began := time.Now()
	_, err := d.Dial(t.Context(), to)
	wantError(t, err, transport.KindSilent, "said nothing for 300ms", "is it sshd")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("a silent listener took %s", took)
	}

	to.Port = 1
	_, err = d.Dial(t.Context(), to)
	wantError(t, err, transport.KindUnreachable, "connect to 127.0.0.1:1: connection refused")

	to.Address, to.Port = "no-such-host.invalid", 22
	_, err = d.Dial(t.Context(), to)
	wantError(t, err, transport.KindUnreachable, "connect to no-such-host.invalid:22")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Dial(ctx, target(s)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A host that stops in the middle of the handshake, at many points of it.
func TestStallInHandshake(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{})
	p, to := through(t, s, 0)
	c := dial(t, dialer(t), to)
	whole := p.Passed()
	c.Close()
	d := dialer(t)
	d.ConnectTimeout = 200 * time.Millisecond
	for i := int64(1); i < 8; i++ {
		p.StallAfter(whole * i / 8)
		began := time.Now()
		_, err := d.Dial(t.Context(), to)
		wantError(t, err, transport.KindSilent, "did not complete the login within 200ms")
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("after %d of %d bytes: took %s", whole*i/8, whole, took)
		}
		p.Cut()
	}
}

// A host that stops later ends whatever waits for it, with the reason.
func TestStallLater(t *testing.T) {
	for name, do := range map[string]func(context.Context, transport.Conn) error{
		"Read": func(ctx context.Context, c transport.Conn) error {
			_, err := c.Read(ctx, []facts.Read{facts.OS{}, facts.Postgres{Port: 5432}, facts.Certificate{Port: 5432, Addresses: "127.0.0.1"}})
			return err
		},
		"Run": func(ctx context.Context, c transport.Conn) error {
			_, err := c.Run(ctx, transport.Command{Script: "true"})
			return err
		},
		"WriteFiles": func(ctx context.Context, c transport.Conn) error {
			return c.WriteFiles(ctx, []transport.File{{Path: "/nowhere/x"}})
		},
		"Postgres": func(ctx context.Context, c transport.Conn) error {
			_, err := c.Postgres(ctx, transport.Endpoint{})
			return err
		},
		"DialPostgres": func(ctx context.Context, c transport.Conn) error {
			_, err := c.DialPostgres(ctx, "127.0.0.1", 5432)
			return err
		},
	} {
		for _, after := range []int64{0, 120} { // at once, and in the middle of opening
			t.Run(fmt.Sprintf("%s/%d", name, after), func(t *testing.T) {
				t.Parallel()
				s := sshtest.New(t, sshtest.Options{})
				p, to := through(t, s, 0)
				d := &transport.Dialer{SSHConfig: "/nonexistent", StallTimeout: 300 * time.Millisecond}
				c := dial(t, d, to)
				p.StallAfter(after)
				began := time.Now()
				err := do(t.Context(), c)
				wantError(t, err, transport.KindSilent, "no answer for 300ms")
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("took %s", took)
				}
			})
		}
	}
}

// A connection that breaks ends whatever waits for it.
func TestCut(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{})
	p, to := through(t, s, 0)
	c := dial(t, dialer(t), to)
	if err := c.Err(); err != nil {
		t.Error(err)
	}
	time.AfterFunc(200*time.Millisecond, p.Cut)
	_, err := c.Run(t.Context(), transport.Command{Script: "sleep 20"})
	wantError(t, err, transport.KindUnreachable)
	wantError(t, c.Err(), transport.KindUnreachable)
	_, err = c.Run(t.Context(), transport.Command{Script: "true"})
	wantError(t, err, transport.KindUnreachable)
}

// A connection that breaks while files are written leaves the old ones or the
// new ones, all of them, and nothing else.
func TestCutInWriteFiles(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{})
	dir := t.TempDir()
	old, now := bytes.Repeat([]byte("old\n"), 1000), bytes.Repeat([]byte("new\n"), 30_000)
	files := []transport.File{{Path: dir + "/a", Content: now}, {Path: dir + "/b", Content: now}, {Path: dir + "/c", Content: now}}
	reset := func() {
		for _, f := range files {
			if err := os.WriteFile(f.Path, old, 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	p, to := through(t, s, 0)
	d := dialer(t)

	reset()
	c := dial(t, d, to)
	before := p.Sent()
	if err := c.WriteFiles(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	whole := p.Sent() - before
	c.Close()

	const points = 12
	olds, news := 0, 0
	for i := int64(0); i <= points; i++ {
		reset()
		c := dial(t, d, to)
		p.CutAfter(max(1, whole*i/points-1))
		_ = c.WriteFiles(t.Context(), files)
		// The host's side goes on without us: wait for its end.
		var names []string
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			names = nil
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if s.Running() == 0 {
				break
			}
		}
		if strings.Join(names, " ") != "a b c" {
			t.Errorf("cut after %d of %d bytes: left over: %v", whole*i/points, whole, names)
		}
		var states []string
		for _, f := range files {
			got, err := os.ReadFile(f.Path)
			switch {
			case err != nil:
				t.Fatal(err)
			case bytes.Equal(got, old):
				states = append(states, "old")
				olds++
			case bytes.Equal(got, now):
				states = append(states, "new")
				news++
			default:
				t.Errorf("cut after %d of %d bytes: %s has %d bytes", whole*i/points, whole, f.Path, len(got))
			}
		}
		if s := strings.Join(states, " "); s != "old old old" && s != "new new new" {
			t.Errorf("cut after %d of %d bytes: %s", whole*i/points, whole, s)
		}
	}
	t.Logf("cut at %d points: %d files old, %d new", points+1, olds, news)
	if olds == 0 {
		t.Error("no cut came in time")
	}
}

func TestBecomeRefused(t *testing.T) {
	asked := 0
	for _, test := range []struct {
		name    string
		options sshtest.Options
		give    string
		words   []string
	}{
		{"asks", sshtest.Options{Sudo: "password", SudoPassword: "sesame"}, "", []string{"sudo asks ops for a password", "ops ALL=(ALL) NOPASSWD: ALL", "/etc/sudoers.d/pgfleet", "--ask-become-pass"}},
		{"wrong", sshtest.Options{Sudo: "password", SudoPassword: "sesame"}, "wrong", []string{"does not accept the password of ops"}},
		{"denied", sshtest.Options{Sudo: "denied"}, "", []string{"does not let ops become root", "NOPASSWD: ALL"}},
		{"requiretty", sshtest.Options{Sudo: "requiretty"}, "", []string{"Defaults:ops !requiretty"}},
		{"missing", sshtest.Options{Sudo: "missing"}, "", []string{"sudo is not installed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := sshtest.New(t, test.options)
			d := dialer(t)
			if test.give != "" {
				d.BecomePassword = func(context.Context) ([]byte, error) { asked++; return []byte(test.give), nil }
			}
			c := dial(t, d, target(s))
			_, err := c.Read(t.Context(), []facts.Read{facts.OS{}})
			wantError(t, err, transport.KindBecome, test.words...)
			err = c.WriteFiles(t.Context(), []transport.File{{Path: "/nowhere/x", Content: []byte("secret")}})
			wantError(t, err, transport.KindBecome, test.words...)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("content in an error: %v", err)
			}
			// What needs no rights works.
			out, err := c.Run(t.Context(), transport.Command{Script: "echo fine"})
			if err != nil || string(out.Stdout) != "fine\n" {
				t.Errorf("%q, %v", out.Stdout, err)
			}
		})
	}
	if asked != 1 {
		t.Errorf("the password was asked for %d times", asked)
	}
	s := sshtest.New(t, sshtest.Options{})
	to := target(s)
	to.Become = "none"
	_, err := dial(t, dialer(t), to).Run(t.Context(), transport.Command{Script: "true", User: "root"})
	wantError(t, err, transport.KindBecome, "become is none")
}

// Many hosts that share one Dialer ask for one password once.
func TestAskedOnce(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{Sudo: "password", SudoPassword: "sesame"})
	key := filepath.Join(t.TempDir(), "locked")
	locked := sshtest.NewKeyWithPassphrase(t, key, "let me in")
	s.Authorize(locked.PublicKey())
	d := dialer(t)
	var mu sync.Mutex
	var asked []string
	ask := func(what, answer string) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, what)
		return []byte(answer), nil
	}
	d.Passphrase = func(_ context.Context, file string) ([]byte, error) { return ask(filepath.Base(file), "let me in") }
	d.BecomePassword = func(context.Context) ([]byte, error) { return ask("become", "sesame") }
	to := target(s)
	to.Identity = key
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			c, err := d.Dial(t.Context(), to)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if out, err := c.Run(t.Context(), transport.Command{Script: "cat", User: "root", Stdin: []byte("sesame is not in here twice")}); err != nil || string(out.Stdout) != "sesame is not in here twice" {
				t.Errorf("%q, %v", out.Stdout, err)
			}
		})
	}
	wg.Wait()
	if len(asked) != 2 {
		t.Errorf("asked for %q", asked)
	}

	d = dialer(t)
	_, err := d.Dial(t.Context(), to)
	wantError(t, err, transport.KindDenied, "nobody can be asked", "ssh-add")
	d.Passphrase = func(context.Context, string) ([]byte, error) { return []byte("wrong"), nil }
	d2 := dialer(t)
	d2.Passphrase = d.Passphrase
	_, err = d2.Dial(t.Context(), to)
	wantError(t, err, transport.KindDenied, "the passphrase is wrong")
}
