package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxJumps ends configurations that go in circles.
const maxJumps = 8

// A jump is a connection to a jump host, shared by all hosts behind it and
// closed with the last of them.
type jump struct {
	ready chan struct{} // closed when c or err is set
	c     *client
	err   error
	users int // guarded by Dialer.mu
}

// dialThrough connects to address from the last of t.Jump.
func (d *Dialer) dialThrough(ctx context.Context, t Target, address string, depth int) (net.Conn, func(), error) {
	if depth >= maxJumps {
		return nil, nil, &Error{Kind: KindConfig, Op: "connect to " + address, Err: fmt.Errorf("more than %d jump hosts in a row; does one jump through itself?", maxJumps)}
	}
	last := t.Jump[len(t.Jump)-1]
	via, err := parseJump(last)
	if err != nil {
		return nil, nil, &Error{Kind: KindConfig, Op: "connect to " + address, Err: err}
	}
	via.KnownHosts = t.KnownHosts
	via.Identity = t.Identity
	via.Name = last
	if len(t.Jump) > 1 {
		via.Jump = t.Jump[:len(t.Jump)-1]
	}
	key := strings.Join(t.Jump, ",") + "\x00" + t.KnownHosts + "\x00" + t.Identity
	j, err := d.jump(ctx, key, via, depth+1)
	if err != nil {
		return nil, nil, fmt.Errorf("jump host %s: %w", last, err)
	}
	release := sync.OnceFunc(func() { d.leave(key, j) })
	conn, err := j.c.dialTCP(ctx, address)
	if err != nil {
		release()
		return nil, nil, err
	}
	return conn, release, nil
}

// jump returns the connection to a jump host, making it if it is the first to
// need it.
func (d *Dialer) jump(ctx context.Context, key string, via Target, depth int) (*jump, error) {
	d.mu.Lock()
	if d.jumps == nil {
		d.jumps = map[string]*jump{}
	}
	j := d.jumps[key]
	if j == nil || j.over() {
		j = &jump{ready: make(chan struct{})}
		d.jumps[key] = j
		go func() {
			// Not ctx: it is one host's, and others wait for this as well. The
			// connect timeout bounds it.
			j.c, j.err = d.login(context.WithoutCancel(ctx), via, depth)
			close(j.ready)
		}()
	}
	j.users++
	d.mu.Unlock()
	select {
	case <-j.ready:
	case <-ctx.Done():
		go func() { <-j.ready; d.leave(key, j) }()
		if errors.Is(context.Cause(ctx), errConnectTimeout) {
			return nil, &Error{Kind: KindSilent, Op: "connect", Err: errors.New("no answer in time")}
		}
		return nil, ctx.Err()
	}
	if j.err != nil {
		d.leave(key, j)
		return nil, j.err
	}
	return j, nil
}

// over reports whether the connection failed or has ended.
func (j *jump) over() bool {
	select {
	case <-j.ready:
		return j.err != nil || j.c.err() != nil
	default:
		return false
	}
}

// leave gives a jump host back.
func (d *Dialer) leave(key string, j *jump) {
	d.mu.Lock()
	j.users--
	last := j.users == 0
	if last && d.jumps[key] == j {
		delete(d.jumps, key)
	}
	d.mu.Unlock()
	if last && j.c != nil {
		j.c.end(errClosed)
	}
}

// parseJump reads [user@]host[:port], as in ssh_config's ProxyJump; an ssh://
// before it is allowed.
func parseJump(s string) (Target, error) {
	rest := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "ssh://"), "/")
	var t Target
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		t.User, rest = rest[:i], rest[i+1:]
	}
	t.Address = rest
	if h, p, err := net.SplitHostPort(rest); err == nil {
		port, err := strconv.Atoi(p)
		if err != nil || port < 1 || port > 65535 {
			return Target{}, fmt.Errorf("jump host %q: %q is not a port", s, p)
		}
		t.Address, t.Port = h, port
	}
	t.Address = strings.Trim(t.Address, "[]")
	if t.Address == "" || strings.HasPrefix(t.Address, "-") {
		return Target{}, fmt.Errorf("jump host %q is not [user@]host[:port]", s)
	}
	return t, nil
}

// dialTCP connects from a jump host to an address.
func (c *client) dialTCP(ctx context.Context, address string) (net.Conn, error) {
	op := "connect to " + address + " from the jump host"
	conn, err := c.forward(ctx, address)
	if err == nil {
		return conn, nil
	}
	var refused *ssh.OpenChannelError
	switch {
	case errors.As(err, &refused) && refused.Reason == ssh.Prohibited:
		return nil, &Error{Kind: KindUnreachable, Op: op, Err: errors.New(refused.Message), Hint: "the jump host's sshd must allow it: AllowTcpForwarding, DisableForwarding, PermitOpen"}
	case refused != nil:
		return nil, &Error{Kind: KindUnreachable, Op: op, Err: errors.New(refused.Message), Hint: "is the host up, and sshd listening there?"}
	case errors.Is(context.Cause(ctx), errConnectTimeout):
		return nil, &Error{Kind: KindSilent, Op: op, Err: errors.New("no answer in time"), Hint: "is the host up, and does a firewall let the jump host through?"}
	}
	return nil, err
}

// proxyCommand starts a command that is the connection.
func proxyCommand(command string) (net.Conn, error) {
	near, far := net.Pipe()
	cmd := exec.Command("sh", "-c", "exec "+command)
	said := &tail{max: 4096}
	cmd.Stderr = said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(stdin, far)
		stdin.Close()
		time.AfterFunc(time.Second, func() { _ = cmd.Process.Kill() })
	}()
	go func() {
		_, _ = io.Copy(far, stdout)
		ended := time.AfterFunc(time.Second, func() { far.Close() })
		_ = cmd.Wait() // then all that it said is known
		ended.Stop()
		far.Close()
	}()
	return &proxied{Conn: near, said: said}, nil
}

// A proxied is a ProxyCommand's connection. What the command prints to its
// standard error is the reason when nothing else comes.
type proxied struct {
	net.Conn
	said *tail
}

func (p *proxied) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	return n, p.reason(err)
}

func (p *proxied) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	return n, p.reason(err)
}

// reason is what the command said where it has ended.
func (p *proxied) reason(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	if s := p.said.String(); s != "" {
		return &Error{Kind: KindUnreachable, Op: "ProxyCommand", Err: errors.New(lastLines(s, 2))}
	}
	return err
}
