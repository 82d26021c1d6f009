package transport_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgfleet/pgfleet/transport"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// known writes a known_hosts file.
func known(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "known hosts") // with a space
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostKeyUnknown(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{})
	to := target(s)
	to.KnownHosts = known(t, "# nobody")
	_, err := dialer(t).Dial(t.Context(), to)
	wantError(t, err, transport.KindHostKeyUnknown, "ssh-ed25519 "+ssh.FingerprintSHA256(s.HostKey), to.KnownHosts, "ssh_host_ed25519_key.pub")
	// The command that it names does what it says.
	_, command, ok := strings.Cut(err.Error(), "trust it with: ")
	if !ok {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	dial(t, dialer(t), to)

	to.KnownHosts = filepath.Join(t.TempDir(), "none")
	_, err = dialer(t).Dial(t.Context(), to)
	wantError(t, err, transport.KindHostKeyUnknown)
	if _, err := os.Stat(to.KnownHosts); err == nil {
		t.Error("known_hosts was written")
	}
}

func TestHostKeyChanged(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{})
	other := sshtest.NewKey(t, filepath.Join(t.TempDir(), "other")).PublicKey()
	to := target(s)
	to.KnownHosts = known(t, "# one", knownhosts.Line([]string{s.Addr}, other))
	_, err := dialer(t).Dial(t.Context(), to)
	wantError(t, err, transport.KindHostKeyChanged, ssh.FingerprintSHA256(s.HostKey), ssh.FingerprintSHA256(other), to.KnownHosts+":2",
		fmt.Sprintf("ssh-keygen -R '[127.0.0.1]:%d' -f", s.Port))
	if keygen, err2 := exec.LookPath("ssh-keygen"); err2 == nil {
		_, command, _ := strings.Cut(err.Error(), "forget the old key with: ")
		cmd := exec.Command("sh", "-c", command)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(keygen)+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		_, err = dialer(t).Dial(t.Context(), to)
		wantError(t, err, transport.KindHostKeyUnknown)
	}
	to.KnownHosts = known(t, knownhosts.Line([]string{s.Addr}, s.HostKey), "@revoked * "+keyText(s.HostKey))
	_, err = dialer(t).Dial(t.Context(), to)
	wantError(t, err, transport.KindHostKeyChanged, "revokes", to.KnownHosts+":2")
}

// keyText is a public key as known_hosts has it.
func keyText(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func TestHostKeyKnown(t *testing.T) {
	_, raw, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	ca := sshtest.NewKey(t, filepath.Join(t.TempDir(), "ca"))
	certificate := func(valid ...string) ssh.Signer {
		cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: valid, ValidBefore: uint64(time.Now().Add(time.Hour).Unix())}
		if err := cert.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewCertSigner(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return signer
	}
	for _, test := range []struct {
		name string
		key  ssh.Signer
		line func(s *sshtest.Server) string
		ok   bool
	}{
		{"plain", key, func(s *sshtest.Server) string { return knownhosts.Line([]string{s.Addr}, key.PublicKey()) }, true},
		{"hashed", key, func(s *sshtest.Server) string {
			return knownhosts.HashHostname(knownhosts.Normalize(s.Addr)) + " " + keyText(key.PublicKey())
		}, true},
		{"wildcard", key, func(*sshtest.Server) string { return "127.0.0.* " + keyText(key.PublicKey()) }, true},
		{"other port", key, func(*sshtest.Server) string { return "[127.0.0.1]:1 " + keyText(key.PublicKey()) }, false},
		{"certificate", certificate("127.0.0.1"), func(*sshtest.Server) string { return "@cert-authority * " + keyText(ca.PublicKey()) }, true},
		{"certificate for another", certificate("10.0.0.1"), func(*sshtest.Server) string { return "@cert-authority * " + keyText(ca.PublicKey()) }, false},
		{"certificate of another", certificate("127.0.0.1"), func(*sshtest.Server) string { return "@cert-authority * " + keyText(key.PublicKey()) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := sshtest.New(t, sshtest.Options{HostKey: test.key})
			to := target(s)
			to.KnownHosts = known(t, test.line(s))
			c, err := dialer(t).Dial(t.Context(), to)
			if (err == nil) != test.ok {
				t.Errorf("%v", err)
			}
			if err == nil {
				c.Close()
			}
		})
	}
	s := sshtest.New(t, sshtest.Options{})
	to := target(s)
	to.KnownHosts = known(t, "127.0.0.1 ssh-ed25519 nonsense")
	_, err = dialer(t).Dial(t.Context(), to)
	wantError(t, err, transport.KindConfig, to.KnownHosts+":1")
}

func TestKeys(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{})
	dir := t.TempDir()
	to := target(s)

	other := filepath.Join(dir, "other")
	sshtest.NewKey(t, other)
	to.Identity = other
	_, err := dialer(t).Dial(t.Context(), to)
	wantError(t, err, transport.KindDenied, "tried "+other, "authorized_keys")
	to.Identity = filepath.Join(dir, "none")
	_, err = dialer(t).Dial(t.Context(), to)
	wantError(t, err, transport.KindConfig, to.Identity, "no such file")

	// An encrypted key that the agent holds needs no passphrase.
	locked := filepath.Join(dir, "locked")
	signer := sshtest.NewKeyWithPassphrase(t, locked, "x")
	s.Authorize(signer.PublicKey())
	text, err := os.ReadFile(locked)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ssh.ParseRawPrivateKeyWithPassphrase(text, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: raw}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keyring, c) }()
		}
	}()
	d := dialer(t)
	t.Setenv("SSH_AUTH_SOCK", socket)
	to.Identity = locked
	dial(t, d, to)
	to.Identity = ""
	dial(t, d, to)

	// A certificate beside the key.
	ca := sshtest.NewKey(t, filepath.Join(dir, "ca"))
	certified := sshtest.NewKey(t, filepath.Join(dir, "certified"))
	cert := &ssh.Certificate{Key: certified.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"ops"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "certified-cert.pub"), ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Authorize(cert)
	to.Identity = filepath.Join(dir, "certified")
	dial(t, dialer(t), to)
}

// Several hosts behind two jump hosts share one connection to each.
func TestJump(t *testing.T) {
	first := sshtest.New(t, sshtest.Options{User: "jump", Forward: true})
	second := sshtest.New(t, sshtest.Options{User: "jump", Forward: true})
	closed := sshtest.New(t, sshtest.Options{User: "jump"})
	hosts := []*sshtest.Server{sshtest.New(t, sshtest.Options{}), sshtest.New(t, sshtest.Options{})}
	identity := filepath.Join(t.TempDir(), "id")
	key := sshtest.NewKey(t, identity).PublicKey()
	var lines []string
	for _, s := range append([]*sshtest.Server{first, second, closed}, hosts...) {
		s.Authorize(key)
		lines = append(lines, knownhosts.Line([]string{s.Addr}, s.HostKey))
	}
	file := known(t, lines...)
	d := dialer(t)
	d.ConnectTimeout = 5 * time.Second
	jump := []string{"jump@" + first.Addr, "ssh://jump@" + second.Addr}
	to := func(s *sshtest.Server) transport.Target {
		return transport.Target{Address: s.Host, Port: s.Port, User: s.User, Identity: identity, KnownHosts: file, Jump: jump}
	}
	var wg sync.WaitGroup
	conns := make(chan transport.Conn, 8)
	for i := range 8 {
		wg.Go(func() {
			c, err := d.Dial(t.Context(), to(hosts[i%2]))
			if err != nil {
				t.Error(err)
				return
			}
			conns <- c
			if out, err := c.Run(t.Context(), transport.Command{Script: "echo here"}); err != nil || string(out.Stdout) != "here\n" {
				t.Errorf("%q, %v", out.Stdout, err)
			}
		})
	}
	wg.Wait()
	close(conns)
	if first.Logins() != 1 || second.Logins() != 1 || hosts[0].Logins() != 4 {
		t.Errorf("%d, %d and %d logins", first.Logins(), second.Logins(), hosts[0].Logins())
	}
	for c := range conns {
		c.Close()
	}
	for began := time.Now(); first.Connections()+second.Connections() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 5*time.Second {
			t.Fatal("the jump hosts' connections stay open")
		}
	}
	dial(t, d, to(hosts[0])).Close()

	// The jump host's key is checked like any other.
	unknown := to(hosts[0])
	unknown.KnownHosts = known(t, lines[1:]...)
	_, err := d.Dial(t.Context(), unknown)
	wantError(t, err, transport.KindHostKeyUnknown, "jump host", first.Host)

	gone := to(hosts[0])
	gone.Port = 1
	_, err = d.Dial(t.Context(), gone)
	wantError(t, err, transport.KindUnreachable, "from the jump host")

	refuses := to(hosts[0])
	refuses.Jump = []string{"jump@" + closed.Addr}
	_, err = d.Dial(t.Context(), refuses)
	wantError(t, err, transport.KindUnreachable, "AllowTcpForwarding")

	silent := to(hosts[0])
	silent.Port = sshtest.Silent(t)
	d.ConnectTimeout = 300 * time.Millisecond
	_, err = d.Dial(t.Context(), silent)
	wantError(t, err, transport.KindSilent, "said nothing")
}

// What ~/.ssh/config says is asked of ssh itself.
func TestSSHConfig(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("no ssh program")
	}
	s := sshtest.New(t, sshtest.Options{})
	gate := sshtest.New(t, sshtest.Options{User: "jump", Forward: true})
	key, err := os.ReadFile(s.Identity + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(key)
	if err != nil {
		t.Fatal(err)
	}
	gate.Authorize(pub)
	file := filepath.Join(t.TempDir(), "known") // ssh splits names at spaces
	if err := os.WriteFile(file, []byte(knownhosts.Line([]string{s.Addr}, s.HostKey)+"\n"+knownhosts.Line([]string{gate.Addr}, gate.HostKey)+"\nalias "+keyText(s.HostKey)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`
Host db gated aliased
	HostName 127.0.0.1
	Port %d
	User ops
Host gated
	ProxyJump gate
Host gate
	HostName 127.0.0.1
	Port %d
	User jump
Host aliased
	HostKeyAlias alias
Host proxied
	HostName 127.0.0.1
	User ops
	Port %d
	ProxyCommand perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new("%%h:%%p") or die "cannot: $!\n"; if(fork){while(sysread STDIN,$b,8192){syswrite $s,$b}shutdown $s,1;wait}else{while(sysread $s,$b,8192){syswrite STDOUT,$b}}'
Host broken
	ProxyCommand sh -c 'echo no way >&2; exit 1'
Host *
	IdentityFile %s
	IdentitiesOnly yes
	UserKnownHostsFile %s
`, s.Port, gate.Port, s.Port, s.Identity, file)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d := dialer(t)
	d.SSHConfig = config
	hosts := []string{"db", "gated", "aliased"}
	if _, err := exec.LookPath("perl"); err == nil {
		hosts = append(hosts, "proxied")
	}
	for _, name := range hosts {
		c, err := d.Dial(t.Context(), transport.Target{Address: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Close()
	}
	if gate.Logins() != 1 {
		t.Errorf("%d logins on the jump host", gate.Logins())
	}
	_, err = d.Dial(t.Context(), transport.Target{Address: "broken"})
	wantError(t, err, transport.KindUnreachable, "no way")

	// fleet.toml wins.
	_, err = d.Dial(t.Context(), transport.Target{Address: "db", Port: 1, Jump: []string{}})
	wantError(t, err, transport.KindUnreachable, "127.0.0.1:1")
	_, err = d.Dial(t.Context(), transport.Target{Address: "db", KnownHosts: known(t)})
	wantError(t, err, transport.KindHostKeyUnknown)

	if err := os.WriteFile(config, []byte("NoSuchKeyword yes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d2 := dialer(t)
	d2.SSHConfig = config
	_, err = d2.Dial(context.Background(), transport.Target{Address: "db"})
	wantError(t, err, transport.KindConfig, "ssh -G db", strings.ToLower("NoSuchKeyword"))
}
