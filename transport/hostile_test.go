package transport_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/transport"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// A host that never comes to the point is given up, whatever it says meanwhile.
func TestNeverReady(t *testing.T) {
	for sudo, words := range map[string][]string{"chatty": {"did not start within 400ms", "please wait"}, "flood": {"sends more than makes sense"}} {
		s := sshtest.New(t, sshtest.Options{Sudo: sudo})
		for name, do := range map[string]func(transport.Conn) error{
			"Read": func(c transport.Conn) error {
				_, err := c.Read(t.Context(), []facts.Read{facts.OS{}})
				return err
			},
			"Read of a server": func(c transport.Conn) error {
				_, err := c.Read(t.Context(), []facts.Read{facts.Postgres{Port: 5432}})
				return err
			},
			"Run": func(c transport.Conn) error {
				_, err := c.Run(t.Context(), transport.Command{Script: "true", User: "root"})
				return err
			},
			"WriteFiles": func(c transport.Conn) error {
				return c.WriteFiles(t.Context(), []transport.File{{Path: "/nowhere/x"}})
			},
		} {
			t.Run(sudo+"/"+name, func(t *testing.T) {
				d := dialer(t)
				d.StartTimeout = 400 * time.Millisecond
				began := time.Now()
				wantError(t, do(dial(t, d, target(s))), transport.KindSilent, words...)
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("took %s", took)
				}
			})
		}
	}
}

// A script that hangs ends with the Read's own deadline.
func TestReadTimeout(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{})
	d := dialer(t)
	d.ProbeTimeout, d.ReadTimeout = time.Second, 100*time.Millisecond
	// What is left behind holds the probe's output open.
	_, err := dial(t, d, target(s)).Read(t.Context(), []facts.Read{facts.Probe{Script: "setsid sleep 9 & true"}})
	wantError(t, err, transport.KindSilent, "has not answered everything within 6.1s")
}

// Whoever listens on the socket may not be PostgreSQL: that must be reported, and
// must not be the end of us or of the questions about the host.
func TestHostileServer(t *testing.T) {
	for name, test := range map[string]struct {
		serve func(net.Conn)
		want  string
	}{
		"silent":       {func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); time.Sleep(3 * time.Second) }, "no answer within"},
		"silent later": {func(c net.Conn) { welcome(c); time.Sleep(3 * time.Second) }, "no answer within"},
		"column":       {func(c net.Conn) { answer(welcome(c), 1, "x") }, "columns"},
		"statement":    {func(c net.Conn) { answer(welcome(c), 0) }, "ReadyForQuery"},
		"nonsense": {func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		}, ""},
		"large": {func(c net.Conn) {
			welcome(c)
			_, _ = c.Write([]byte{'D', 0x7f, 0xff, 0xff, 0xff})
			time.Sleep(3 * time.Second)
		}, "body length"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "pg") // a socket's path is short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			l, err := net.Listen("unix", dir+"/.s.PGSQL.5432")
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
					go func() {
						defer c.Close()
						test.serve(c)
					}()
				}
			}()
			d := dialer(t)
			d.ReadTimeout = time.Second
			r := facts.Postgres{SocketDir: dir, Port: 5432}
			answers, err := dial(t, d, target(sshtest.New(t, sshtest.Options{}))).Read(t.Context(), []facts.Read{facts.OS{}, r})
			if err != nil {
				t.Fatal(err)
			}
			if a := answers[facts.OS{}]; a.Err != nil {
				t.Error(a.Err)
			}
			problem := fmt.Sprint(answers[r].Err)
			if s, _ := answers[r].Value.(facts.Server); answers[r].Err == nil {
				problem = s.Problem
			}
			if problem == "" || !strings.Contains(problem, test.want) {
				t.Errorf("%q, want %q", problem, test.want)
			}
		})
	}
}

// welcome plays a server up to the first query.
func welcome(c net.Conn) *pgproto3.Backend {
	b := pgproto3.NewBackend(c, c)
	_, _ = b.ReceiveStartupMessage()
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "17.1"})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	_ = b.Flush()
	_, _ = b.Receive()
	return b
}

// answer answers every statement with one row, or only the first with none.
func answer(b *pgproto3.Backend, times int, row ...string) {
	n := 1
	if times > 0 {
		n = 13
	}
	for range n {
		var fields []pgproto3.FieldDescription
		var values [][]byte
		for _, v := range row {
			fields = append(fields, pgproto3.FieldDescription{Name: []byte("c")})
			values = append(values, []byte(v))
		}
		b.Send(&pgproto3.ParseComplete{})
		b.Send(&pgproto3.BindComplete{})
		if len(row) > 0 {
			b.Send(&pgproto3.RowDescription{Fields: fields})
			b.Send(&pgproto3.DataRow{Values: values})
		} else {
			b.Send(&pgproto3.NoData{})
		}
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
	}
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	b.Send(&pgproto3.ParseComplete{})
	b.Send(&pgproto3.BindComplete{})
	b.Send(&pgproto3.NoData{})
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte("COMMIT")})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	_ = b.Flush()
	time.Sleep(300 * time.Millisecond)
}

// ssh_config's RevokedHostKeys counts, and "none" is not a file's name.
func TestRevokedHostKeys(t *testing.T) {
	s := sshtest.New(t, sshtest.Options{})
	dir := t.TempDir()
	put := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	login := func(config string) error {
		d := dialer(t)
		d.SSHConfig = put("config", config)
		to := target(s)
		to.KnownHosts = ""
		c, err := d.Dial(t.Context(), to)
		if err == nil {
			c.Close()
		}
		return err
	}
	knownFile := "UserKnownHostsFile " + put("known", knownhosts.Line([]string{s.Addr}, s.HostKey)+"\n") + "\n"
	other := sshtest.NewKey(t, filepath.Join(dir, "other"))
	if err := login(knownFile + "RevokedHostKeys " + put("others", "# comment\n\n"+keyText(other.PublicKey())+" x\n")); err != nil {
		t.Error(err)
	}
	if err := login(knownFile + "RevokedHostKeys none\nGlobalKnownHostsFile none"); err != nil {
		t.Error(err)
	}
	wantError(t, login(knownFile+"RevokedHostKeys "+put("revoked", keyText(s.HostKey)+"\n")), transport.KindHostKeyChanged, "revokes")
	wantError(t, login(knownFile+"RevokedHostKeys "+put("krl", "SSHKRL\n\x00\x00\x00\x00\x01")), transport.KindConfig, "key revocation list")
	wantError(t, login(knownFile+"RevokedHostKeys "+filepath.Join(dir, "missing")), transport.KindConfig, "no such file")
	wantError(t, login(knownFile+"RevokedHostKeys "+put("broken", "what?\n")), transport.KindConfig, "broken:1")
	wantError(t, login("UserKnownHostsFile none\nGlobalKnownHostsFile none"), transport.KindHostKeyUnknown, "names no known_hosts file")
}
