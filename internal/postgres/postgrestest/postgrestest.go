// Package postgrestest starts PostgreSQL servers for tests, from the programs
// that the machine has.
package postgrestest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Server runs until the end of its test.
type Server struct {
	Dir     string // data directory
	Sockets string // of its Unix socket
	Port    int
	Version int       // server_version_num
	Admin   *pgx.Conn // as the superuser postgres, over the socket
	bin     string    // folder of its programs
}

// AdminRule is the line of pg_hba.conf that lets the test's own connection in.
const AdminRule = "local all postgres trust\n"

// Each runs a test against every PostgreSQL that is installed here. Without any
// it skips, or fails where CI=true.
func Each(t *testing.T, test func(*testing.T, *Server)) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts servers")
	}
	dirs := programs()
	if len(dirs) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("no PostgreSQL server programs on this machine")
		}
		t.Skip("no PostgreSQL server programs on this machine")
	}
	for _, dir := range dirs {
		t.Run(strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-"), func(t *testing.T) {
			test(t, start(t, dir))
		})
	}
}

// programs returns the folders that hold initdb and postgres, oldest first.
func programs() []string {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	redHat, _ := filepath.Glob("/usr/pgsql-*/bin")
	dirs = append(dirs, redHat...)
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	slices.Sort(dirs)
	return slices.DeleteFunc(slices.Compact(dirs), func(dir string) bool {
		for _, program := range []string{"initdb", "postgres"} {
			if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
				return true
			}
		}
		return false
	})
}

func start(t *testing.T, bin string) *Server {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "pgfleet-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	s := &Server{bin: bin, Dir: filepath.Join(base, "data"), Sockets: base, Port: freePort(t)}
	if os.Getuid() == 0 {
		uid, gid := nobody(t)
		if err := os.Chown(base, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.command(t, "initdb", "-D", s.Dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.Write(t, "pg_hba.conf", AdminRule)
	s.certificate(t)
	s.Append(t, "postgresql.conf", fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = '%s'\n"+
		"fsync = off\nssl = on\nlog_min_messages = log\n", s.Port, s.Sockets))
	s.run(t)
	return s
}

// run starts the postmaster in the foreground and connects to it.
func (s *Server) run(t *testing.T) {
	t.Helper()
	log, err := os.Create(filepath.Join(s.Sockets, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command(t, "postgres", "-D", s.Dir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
		log.Close()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s.Admin, err = pgx.Connect(t.Context(), s.URL("postgres", "postgres"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("the server does not answer: %v\n%s", err, text)
		}
	}
	t.Cleanup(func() { s.Admin.Close(context.Background()) })
	s.Version = s.Number(t, "SELECT current_setting('server_version_num')::int")
}

// command runs a program of the server as a user that is not root.
func (s *Server) command(t *testing.T, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.Sockets
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin", "TZ=UTC"}
	if os.Getuid() == 0 {
		uid, gid := nobody(t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	return cmd
}

func nobody(t *testing.T) (uid, gid int) {
	t.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// URL returns how a role connects to a database over the socket. The names hold
// no single quote and no backslash.
func (s *Server) URL(database, role string) string {
	return fmt.Sprintf("host=%s port=%d dbname='%s' user='%s'", s.Sockets, s.Port, database, role)
}

// Write puts a file, named relative to the data directory, in place.
func (s *Server) Write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		return
	}
	uid, gid := nobody(t)
	for p := path; p != s.Dir; p = filepath.Dir(p) {
		if err := os.Chown(p, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
}

// Append adds text to a file of the data directory.
func (s *Server) Append(t *testing.T, name, text string) {
	t.Helper()
	old, err := os.ReadFile(filepath.Join(s.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	s.Write(t, name, string(old)+text)
}

// Reload makes the server read its files, and returns once new connections see
// them.
func (s *Server) Reload(t *testing.T) {
	t.Helper()
	before := s.Number(t, "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint")
	s.Exec(t, "SELECT pg_reload_conf()")
	for range 500 {
		fresh, err := pgx.Connect(t.Context(), s.URL("postgres", "postgres"))
		if err != nil {
			t.Fatal(err)
		}
		var now int
		err = fresh.QueryRow(t.Context(), "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint").Scan(&now)
		fresh.Close(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the server did not reload")
}

// Exec runs a statement as the superuser.
func (s *Server) Exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := s.Admin.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Number returns what a query returns.
func (s *Server) Number(t *testing.T, sql string) int {
	t.Helper()
	var n int
	if err := s.Admin.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// certificate makes the server's key and self-signed certificate.
func (s *Server) certificate(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	leaf, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(t, "server.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})))
	s.Write(t, "server.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}
