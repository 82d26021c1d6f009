package postgres

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

// A realServer is a PostgreSQL started from the machine's own binaries for one test.
type realServer struct {
	bin     string // folder of its programs
	dir     string // data directory
	sockets string
	port    int
	version Version
	admin   *pgx.Conn // as the superuser, over the socket
}

// adminRule keeps the test's own connection working whatever a test writes behind it.
const adminRule = "local postgres postgres trust\n"

// eachServer runs a test against every PostgreSQL that is installed here. Without any it skips, or fails where CI=true.
func eachServer(t *testing.T, test func(*testing.T, *realServer)) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts servers")
	}
	dirs := serverPrograms()
	if len(dirs) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("no PostgreSQL server programs on this machine")
		}
		t.Skip("no PostgreSQL server programs on this machine")
	}
	for _, dir := range dirs {
		t.Run(strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-"), func(t *testing.T) {
			test(t, startServer(t, dir))
		})
	}
}

// serverPrograms returns the folders that hold initdb and postgres, oldest first.
func serverPrograms() []string {
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

func startServer(t *testing.T, bin string) *realServer {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "pgfleet-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	s := &realServer{bin: bin, dir: filepath.Join(base, "data"), sockets: base, port: freePort(t)}
	if os.Getuid() == 0 {
		uid, gid := nobody(t)
		if err := os.Chown(base, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.command(t, "initdb", "-D", s.dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.write(t, "pg_hba.conf", adminRule)
	s.certificate(t)
	s.append(t, "postgresql.conf", fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = '%s'\n"+
		"fsync = off\nssl = on\nlog_min_messages = log\n", s.port, s.sockets))
	s.start(t)
	return s
}

// start runs the postmaster in the foreground and connects to it.
func (s *realServer) start(t *testing.T) {
	t.Helper()
	log, err := os.Create(filepath.Join(s.sockets, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command(t, "postgres", "-D", s.dir)
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
		s.admin, err = pgx.Connect(t.Context(), s.url("postgres", "postgres"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("the server does not answer: %v\n%s", err, text)
		}
	}
	t.Cleanup(func() { s.admin.Close(context.Background()) })
	s.version = Version(s.number(t, "SELECT current_setting('server_version_num')::int"))
}

// command runs a program of the server as a user that is not root.
func (s *realServer) command(t *testing.T, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.sockets
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

func (s *realServer) url(database, role string) string {
	return fmt.Sprintf("host=%s port=%d dbname=%s user=%s", s.sockets, s.port, database, role)
}

// write puts a file, named relative to the data directory, in place.
func (s *realServer) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
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
	for p := path; p != s.dir; p = filepath.Dir(p) {
		if err := os.Chown(p, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *realServer) append(t *testing.T, name, text string) {
	t.Helper()
	old, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, name, string(old)+text)
}

// reload makes the server read its files, and returns once new connections see them.
func (s *realServer) reload(t *testing.T) {
	t.Helper()
	before := s.number(t, "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint")
	s.exec(t, "SELECT pg_reload_conf()")
	for range 500 {
		fresh, err := pgx.Connect(t.Context(), s.url("postgres", "postgres"))
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

func (s *realServer) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := s.admin.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (s *realServer) number(t *testing.T, sql string) int {
	t.Helper()
	var n int
	if err := s.admin.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// certificate makes the server's key and self-signed certificate.
func (s *realServer) certificate(t *testing.T) {
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
	s.write(t, "server.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})))
	s.write(t, "server.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}
