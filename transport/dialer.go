package transport

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// A Dialer logs in to hosts. Its fields are set before the first Dial; the zero
// value is usable. It is safe for concurrent use.
type Dialer struct {
	// Passphrase asks for the passphrase of a key file: once for each, however
	// many hosts need it. nil: an encrypted key is only usable by the agent.
	// The result is overwritten after use.
	Passphrase func(ctx context.Context, file string) ([]byte, error)
	// BecomePassword asks for the password that sudo wants, once for all
	// hosts. nil: sudo must not ask for one.
	BecomePassword func(ctx context.Context) ([]byte, error)

	// ConnectTimeout is how long connecting, handshake and login may take
	// together: 0 means ssh_config's ConnectTimeout, or 10 s.
	ConnectTimeout time.Duration
	// StallTimeout is how long a host may owe an answer, without sending a
	// byte, before its connection is given up: 0 means ssh_config's
	// ServerAliveInterval times ServerAliveCountMax, or 15 s.
	StallTimeout time.Duration
	// ProbeTimeout is how long one facts.Probe may take: 0 means 30 s.
	ProbeTimeout time.Duration
	// StartTimeout is how long a program may take to start on the host, with
	// sudo and the login shell before it: 0 means 30 s.
	StartTimeout time.Duration
	// ReadTimeout is how long a Read may take beside its probes and queries,
	// which have limits of their own: 0 means 60 s.
	ReadTimeout time.Duration
	// MaxSessions is how many sessions to open on one connection at most: 0
	// means 10, sshd's default. A host that allows fewer is noticed.
	MaxSessions int

	// SSH is the ssh program that is asked what ssh_config says: "" finds it
	// in PATH. Where there is none, ssh's defaults hold.
	SSH string
	// SSHConfig is read instead of ~/.ssh/config and /etc/ssh/ssh_config.
	SSHConfig string

	Log *slog.Logger // nil logs nothing

	mu         sync.Mutex
	isPlain    *bool
	hostKeys   hostKeys
	identities identities
	jumps      map[string]*jump
	become     struct {
		once     sync.Once
		password []byte
		err      error
	}
}

// A Target is a host and how to log in there. Empty fields are decided by
// ssh_config, then by ssh's defaults.
type Target struct {
	Name     string // for messages
	Address  string // a name or an IP address; a Host of ssh_config may stand for it
	Port     int
	User     string
	Identity string // a private key file; "~" is expanded
	// KnownHosts is used instead of ssh_config's files.
	KnownHosts string
	// Jump names the hosts to go through, [user@]host[:port], the first one is
	// dialled from here. nil leaves it to ssh_config, empty means none.
	Jump []string
	// Become is how root and postgres are become: "sudo", "none", or "" for
	// none when the login user is root and sudo otherwise.
	Become string
}

// Dial logs in to a host. The connection outlives ctx.
func (d *Dialer) Dial(ctx context.Context, t Target) (Conn, error) {
	c, err := d.login(ctx, t, 0)
	if err != nil {
		return nil, err
	}
	return &host{d: d, c: c, become: t.Become}, nil
}

// Close forgets passwords and hangs up on agents. Connections are closed by
// themselves.
func (d *Dialer) Close() error {
	d.identities.close()
	d.become.once.Do(func() {})
	clear(d.become.password)
	d.become.password = nil
	return nil
}

func (d *Dialer) log() *slog.Logger {
	if d.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Log
}

// login connects, checks the host key and authenticates. depth counts jump
// hosts.
func (d *Dialer) login(ctx context.Context, t Target, depth int) (*client, error) {
	started := time.Now()
	cfg, err := d.lookup(ctx, t.Address, t.User, t.Port)
	if err != nil {
		return nil, err
	}
	if t.User == "" {
		t.User = cfg.User
	}
	if t.User == "" {
		if me, err := user.Current(); err == nil {
			t.User = me.Username
		}
	}
	if t.Port == 0 {
		t.Port = cfg.Port
	}
	if t.Port == 0 {
		t.Port = 22
	}
	if t.Jump == nil {
		t.Jump = cfg.ProxyJump
	} else {
		cfg.ProxyCommand = ""
	}
	if cfg.HostName == "" {
		cfg.HostName = t.Address
	}
	address := net.JoinHostPort(cfg.HostName, strconv.Itoa(t.Port))
	tokens := map[byte]string{'h': cfg.HostName, 'n': t.Address, 'p': strconv.Itoa(t.Port), 'r': t.User, 'd': expandHome("~"), 'k': t.Address}
	if me, err := user.Current(); err == nil {
		tokens['u'] = me.Username
	}

	files := append(append([]string(nil), cfg.UserKnownHosts...), cfg.GlobalKnownHosts...)
	if t.KnownHosts != "" {
		files = []string{t.KnownHosts}
	}
	for i, f := range files {
		files[i] = expandHome(expandTokens(f, tokens))
	}
	revoked := ""
	if cfg.RevokedHostKeys != "" {
		revoked = expandHome(expandTokens(cfg.RevokedHostKeys, tokens))
	}
	keys, err := d.hostKeys.open(files, revoked)
	if err != nil {
		return nil, err
	}
	name := address
	if cfg.HostKeyAlias != "" {
		name = net.JoinHostPort(cfg.HostKeyAlias, "22") // an alias stands without a port
	}
	signers, tried, err := d.signers(cfg, t.Identity, tokens)
	if err != nil {
		return nil, err
	}

	timeout := firstOf(d.ConnectTimeout, cfg.ConnectTimeout, 10*time.Second)
	dialCtx, cancel := context.WithTimeoutCause(ctx, timeout, errConnectTimeout)
	defer cancel()
	raw, release, err := d.connect(dialCtx, t, cfg, address, tokens, depth)
	if err != nil {
		return nil, err
	}
	conn := newWatchedConn(raw)

	// A deadline on the connection covers what ClientConfig.Timeout does not: a
	// listener that says nothing. Closing covers what has no deadlines.
	stop := context.AfterFunc(dialCtx, func() { conn.Close() })
	var rejected error // by us
	check := keys.check(name)
	config := &ssh.ClientConfig{
		User:              t.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyAlgorithms: keys.algorithms(name),
		HostKeyCallback: func(hostname string, remote net.Addr, key ssh.PublicKey) error {
			rejected = check(hostname, remote, key)
			return rejected
		},
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, address, config)
	if !stop() && err == nil {
		_ = c.Close()
		err = dialCtx.Err()
	}
	if err != nil {
		conn.Close()
		release()
		if rejected != nil {
			return nil, rejected
		}
		return nil, loginError(dialCtx, err, conn, address, t.User, tried, timeout)
	}
	stall := d.StallTimeout
	if stall == 0 && cfg.AliveInterval > 0 {
		stall = cfg.AliveInterval * time.Duration(max(1, cfg.AliveCountMax))
	}
	stall = firstOf(stall, 15*time.Second)
	sessions := d.MaxSessions
	if sessions <= 0 {
		sessions = 10
	}
	d.log().Debug("logged in", "host", t.Name, "address", address, "user", t.User, "took", time.Since(started))
	return newClient(c, chans, reqs, conn, clientOptions{maxSessions: sessions, interval: stall / 3, stall: stall, after: release, startTimeout: d.StartTimeout}), nil
}

var errConnectTimeout = errors.New("connect timeout")

// firstOf returns the first that is not 0.
func firstOf(ds ...time.Duration) time.Duration {
	for _, d := range ds {
		if d > 0 {
			return d
		}
	}
	return 0
}

// connect opens the byte stream that SSH is spoken on: TCP, through a jump
// host, or a ProxyCommand. release gives back what it stands on.
func (d *Dialer) connect(ctx context.Context, t Target, cfg sshConfig, address string, tokens map[byte]string, depth int) (net.Conn, func(), error) {
	op := "connect to " + address
	switch {
	case len(t.Jump) > 0:
		return d.dialThrough(ctx, t, address, depth)
	case cfg.ProxyCommand != "":
		conn, err := proxyCommand(expandTokens(cfg.ProxyCommand, tokens))
		if err != nil {
			return nil, nil, &Error{Kind: KindUnreachable, Op: op + " by ProxyCommand", Err: err}
		}
		return conn, func() {}, nil
	}
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, dialError(ctx, op, err)
	}
	return conn, func() {}, nil
}

// dialError explains why there is no TCP connection.
func dialError(ctx context.Context, op string, err error) error {
	e := &Error{Kind: KindUnreachable, Op: op, Err: err}
	var dns *net.DNSError
	var opErr *net.OpError
	switch {
	case errors.Is(context.Cause(ctx), errConnectTimeout):
		e.Err = errors.New("no answer in time")
		e.Hint = "is the host up, and does a firewall let port 22 through?"
		if _, port, ok := strings.Cut(op, "]:"); ok {
			e.Hint = "is the host up, and does a firewall let port " + port + " through?"
		} else if i := strings.LastIndexByte(op, ':'); i >= 0 {
			e.Hint = "is the host up, and does a firewall let port " + op[i+1:] + " through?"
		}
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &dns):
		e.Err = fmt.Errorf("the name %s is not known", dns.Name)
		if dns.IsTimeout || dns.IsTemporary {
			e.Err = fmt.Errorf("the name server does not answer for %s", dns.Name)
		}
		e.Hint = "set the host's address in fleet.toml, or its HostName in ~/.ssh/config"
	case errors.As(err, &opErr):
		e.Err = errors.New(strings.TrimPrefix(opErr.Err.Error(), "connect: "))
		e.Hint = "is the host up, and sshd listening there?"
	}
	return e
}

// loginError explains why the handshake or the login failed.
func loginError(ctx context.Context, err error, conn *watchedConn, address, user string, tried []string, timeout time.Duration) error {
	op := fmt.Sprintf("log in to %s as %s", address, user)
	var own *Error
	switch {
	case errors.Is(context.Cause(ctx), errConnectTimeout):
		e := &Error{Kind: KindSilent, Op: op, Err: fmt.Errorf("it accepted the connection, but did not complete the login within %s", timeout),
			Hint: "the host may be overloaded, or its name server not answer (UseDNS)"}
		if !conn.heard() {
			e.Err = fmt.Errorf("it accepted the connection, but said nothing for %s", timeout)
			e.Hint = "is it sshd that listens there?"
		}
		return e
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &own):
		return own
	case strings.Contains(err.Error(), "unable to authenticate"):
		return &Error{Kind: KindDenied, Op: op, Err: fmt.Errorf("none of our keys is accepted (tried %s)", strings.Join(tried, ", ")),
			Hint: "add the public key to ~" + user + "/.ssh/authorized_keys on the host (ssh-copy-id), or name another user or identity in fleet.toml"}
	case errors.Is(err, io.EOF), strings.Contains(err.Error(), "connection reset"):
		return &Error{Kind: KindUnreachable, Op: op, Err: errors.New("it closed the connection before the login was complete"),
			Hint: "look at sshd's log on the host: MaxStartups, MaxAuthTries, DenyUsers or fail2ban may have done it"}
	case strings.Contains(err.Error(), "Too many authentication failures"):
		return &Error{Kind: KindDenied, Op: op, Err: fmt.Errorf("sshd refused to try more keys (tried %s)", strings.Join(tried, ", ")),
			Hint: "name the right one in fleet.toml ([ssh] identity) and set IdentitiesOnly in ~/.ssh/config"}
	}
	return &Error{Kind: KindUnreachable, Op: op, Err: errors.New(strings.TrimPrefix(err.Error(), "ssh: handshake failed: "))}
}

// becomePassword asks for sudo's password when it is first needed.
func (d *Dialer) becomePassword(ctx context.Context) ([]byte, error) {
	d.become.once.Do(func() {
		d.become.password, d.become.err = d.BecomePassword(ctx)
	})
	return d.become.password, d.become.err
}

// newPrompt makes a prompt that nothing on the host can print by accident.
func newPrompt() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return "pgfleet-" + hex.EncodeToString(b) + ":"
}
