// Package sshtest is an SSH server inside the test process, for tests of package
// transport that need neither root nor sshd. What a client runs is really run,
// by this machine's sh, with the rights of the test; sudo, runuser and setpriv
// are replaced by scripts that refuse every option they do not know. It also
// has what networks do to connections: see Proxy and Silent.
package sshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Options say how a Server behaves. The zero value is a host where ops logs in
// and sudo asks for nothing.
type Options struct {
	User string // who may log in; "ops" by default

	// Sudo is how sudo behaves: "" lets everything, "password" asks for
	// SudoPassword, "denied", "requiretty" and "missing" refuse with the words
	// of the real one; "chatty" prints lines and never comes to an end, and
	// "flood" prints one that never ends.
	Sudo         string
	SudoPassword string

	MaxSessions int        // as sshd's; 0 means 10
	HostKey     ssh.Signer // a new ed25519 key by default
	// Forward allows direct-tcpip channels: the server is a jump host.
	Forward bool
}

// A Server is a running SSH server.
type Server struct {
	Host     string // 127.0.0.1
	Port     int
	Addr     string // host:port
	User     string
	HostKey  ssh.PublicKey
	Identity string // path of a private key that may log in
	Known    string // path of a known_hosts file with the server's key
	Home     string // where commands start

	o      Options
	listen net.Listener
	config *ssh.ServerConfig
	bin    string

	mu     sync.Mutex
	logins int
	conns  map[net.Conn]bool
	most   int

	running    int
	authorized []ssh.PublicKey
}

// New starts a server that ends with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	dir := t.TempDir()
	if o.User == "" {
		o.User = "ops"
	}
	if o.MaxSessions == 0 {
		o.MaxSessions = 10
	}
	if o.HostKey == nil {
		o.HostKey = NewKey(t, filepath.Join(dir, "host"))
	}
	s := &Server{
		Host: "127.0.0.1", User: o.User, HostKey: o.HostKey.PublicKey(), o: o,
		Identity: filepath.Join(dir, "id_ed25519"),
		Known:    filepath.Join(dir, "known_hosts"),
		Home:     filepath.Join(dir, "home"),
		bin:      filepath.Join(dir, "bin"),
		conns:    map[net.Conn]bool{},
	}
	client := NewKey(t, s.Identity)
	s.authorized = []ssh.PublicKey{client.PublicKey()}
	s.config = &ssh.ServerConfig{
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, a := range s.authorized {
				if c.User() == o.User && string(a.Marshal()) == string(key.Marshal()) {
					return nil, nil
				}
			}
			return nil, errors.New("not authorized")
		},
	}
	s.config.AddHostKey(o.HostKey)
	var err error
	if s.listen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.Addr = s.listen.Addr().String()
	s.Port = s.listen.Addr().(*net.TCPAddr).Port
	write(t, s.Known, 0o600, knownhosts.Line([]string{s.Addr}, s.HostKey)+"\n")
	for _, d := range []string{s.Home, s.bin} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.writeShims(t)
	go s.serve()
	t.Cleanup(s.close)
	return s
}

// Logins returns how many have logged in so far.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// MostSessions returns how many sessions one connection had at once at most.
func (s *Server) MostSessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Running returns how many commands are running.
func (s *Server) Running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// Authorize lets one more key log in.
func (s *Server) Authorize(key ssh.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authorized = append(s.authorized, key)
}

// Connections returns how many connections are open.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) close() {
	s.listen.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

func (s *Server) serve() {
	for {
		c, err := s.listen.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		go func() {
			defer func() {
				c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
			s.handle(c)
		}()
	}
}

func (s *Server) handle(c net.Conn) {
	conn, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	defer conn.Close()
	s.mu.Lock()
	s.logins++
	s.mu.Unlock()
	go func() {
		for r := range requests { // as sshd answers keepalive@openssh.com
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
		}
	}()
	open := 0 // sessions of this connection, guarded by s.mu
	for nc := range channels {
		switch {
		case nc.ChannelType() == "session":
			s.mu.Lock()
			full := open >= s.o.MaxSessions
			if !full {
				open++
				s.most = max(s.most, open)
			}
			s.mu.Unlock()
			if full {
				_ = nc.Reject(ssh.ConnectionFailed, "open failed") // sshd's words
				continue
			}
			go func() {
				s.session(nc)
				s.mu.Lock()
				open--
				s.mu.Unlock()
			}()
		case nc.ChannelType() == "direct-tcpip" && s.o.Forward:
			go forward(nc)
		default:
			_ = nc.Reject(ssh.Prohibited, "administratively prohibited: open failed")
		}
	}
}

// forward is what AllowTcpForwarding allows (RFC 4254, 7.2).
func forward(nc ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(nc.ExtraData(), &to); err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "bad request")
		return
	}
	out, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "Connection refused")
		return
	}
	defer out.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	go ssh.DiscardRequests(reqs)
	go func() {
		_, _ = io.Copy(out, ch)
		_ = out.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(ch, out)
}

// session runs the one command of a session.
func (s *Server) session(nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for r := range reqs {
		if r.Type != "exec" { // no pty, no environment, no signals
			_ = r.Reply(false, nil)
			continue
		}
		var m struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			_ = r.Reply(false, nil)
			continue
		}
		if r.WantReply {
			_ = r.Reply(true, nil)
		}
		go ssh.DiscardRequests(reqs)
		s.run(ch, m.Command)
		return
	}
}

// run runs a command and reports how it ended (RFC 4254, 6.10).
func (s *Server) run(ch ssh.Channel, command string) {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Dir = s.Home
	cmd.Env = []string{"HOME=" + s.Home, "USER=" + s.User, "PATH=" + s.bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as sshd does
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return
	}
	// Pipes of our own: cmd.Wait must not wait for what a command left behind
	// holding them, but the channel must stay open for it, as with sshd.
	outR, outW, err := os.Pipe()
	if err != nil {
		return
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return
	}
	cmd.Stdout, cmd.Stderr = outW, errW
	err = cmd.Start()
	outW.Close()
	errW.Close()
	if err != nil {
		return
	}
	s.count(1)
	defer s.count(-1)
	go func() {
		_, _ = io.Copy(stdin, ch)
		stdin.Close()
	}()
	var out sync.WaitGroup
	out.Go(func() { _, _ = io.Copy(ch, outR); outR.Close() })
	out.Go(func() { _, _ = io.Copy(ch.Stderr(), errR); errR.Close() })
	_ = cmd.Wait()
	out.Wait()
	_ = ch.CloseWrite()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		names := map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGKILL: "KILL", syscall.SIGHUP: "HUP", syscall.SIGPIPE: "PIPE"}
		_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal     string
			CoreDumped bool
			Message    string
			Lang       string
		}{Signal: names[ws.Signal()]}))
		return
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(cmd.ProcessState.ExitCode())}))
}

func (s *Server) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running += n
}

// writeShims puts sudo, runuser and setpriv in front of the real ones. They
// accept what package transport uses and nothing else, and run it without
// changing rights.
func (s *Server) writeShims(t testing.TB) {
	refuse := "*) echo \"$0: what is $1?\" >&2; exit 99;;\n"
	sudo := map[string]string{
		"": "",
		"password": `if [ -z "$prompt" ]; then echo "sudo: a password is required" >&2; exit 1; fi
for try in 1 2 3; do
	printf %s "$prompt" >&2
	IFS= read -r got || { echo >&2; echo "sudo: no password was provided" >&2; exit 1; }
	[ "$got" = "$(cat "${0%/*}/password")" ] && break
	echo "Sorry, try again." >&2
	[ $try -lt 3 ] || { echo "sudo: 3 incorrect password attempts" >&2; exit 1; }
done
`,
		"denied":     `echo "$USER is not in the sudoers file." >&2; exit 1` + "\n",
		"requiretty": `echo "sudo: sorry, you must have a tty to run sudo" >&2; exit 1` + "\n",
		"chatty":     "while :; do echo please wait; sleep 0.05; done\n",
		"flood":      "exec tr '\\0' x </dev/zero\n",
		"missing":    `echo "sh: 1: sudo: not found" >&2; exit 127` + "\n",
	}
	body, ok := sudo[s.o.Sudo]
	if !ok {
		t.Fatalf("sshtest: no sudo is like %q", s.o.Sudo)
	}
	write(t, filepath.Join(s.bin, "password"), 0o600, s.o.SudoPassword)
	write(t, filepath.Join(s.bin, "sudo"), 0o755, `#!/bin/sh
prompt= user=
while :; do case $1 in
-n) shift;;
-S) shift;;
-p) prompt=$2; shift 2;;
-u) user=$2; shift 2;;
--) shift; break;;
`+refuse+`esac; done
[ -n "$user" ] || exit 99
`+body+`
USER=$user; export USER
exec "$@"
`)
	write(t, filepath.Join(s.bin, "runuser"), 0o755, `#!/bin/sh
[ "$1" = -u ] && [ "$3" = -- ] || { echo "runuser: what is $*?" >&2; exit 99; }
USER=$2; export USER
shift 3
exec "$@"
`)
	write(t, filepath.Join(s.bin, "setpriv"), 0o755, `#!/bin/sh
while :; do case $1 in
--reuid=*|--regid=*|--init-groups) shift;;
--) shift; break;;
`+refuse+`esac; done
exec "$@"
`)
}

// NewKey makes an ed25519 key and writes it to path in OpenSSH's format, with
// path.pub beside it.
func NewKey(t testing.TB, path string) ssh.Signer {
	t.Helper()
	return NewKeyWithPassphrase(t, path, "")
}

// NewKeyWithPassphrase is NewKey with the file encrypted.
func NewKeyWithPassphrase(t testing.TB, path, passphrase string) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, 0o600, string(pem.EncodeToMemory(block)))
	write(t, path+".pub", 0o644, string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	return signer
}

// Silent starts a listener that accepts connections and says nothing. It
// returns its port.
func Silent(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); close(done) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { <-done; c.Close() }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func write(t testing.TB, path string, mode os.FileMode, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(fmt.Errorf("sshtest: %w", err))
	}
}
