//go:build lab

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// shared is what all tests of the package use: the program and a lab that is
// booted once.
type shared struct {
	program string
	lab     *lab.Lab
}

var fleet shared

// versions are the major versions that tests run against.
func versions() []int { return []int{13, 15, 17, 18} }

func TestMain(m *testing.M) {
	code, err := withLab(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the lab cannot start:", err)
		code = 1
	}
	os.Exit(code)
}

func withLab(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "pgfleet-e2e")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	fleet.program = filepath.Join(dir, "pgfleet")
	build := exec.Command("go", "build", "-o", fleet.program, "github.com/pgfleet/pgfleet/cmd/pgfleet")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	hosts := []lab.Host{
		{Name: "pg13", Postgres: 13},
		{Name: "pg15", Postgres: 15},
		{Name: "pg17", Postgres: 17},
		{Name: "pg18", Postgres: 18},
		{Name: "primary"},
		{Name: "standby", StandbyOf: "primary"},
		{Name: "asks", SudoPassword: "Xk7-lab-only-9q"},
		{Name: "noforward", DisableForwarding: true, NoPgaudit: true},
		{Name: "asroot", RootLogin: true, Instances: []lab.Instance{{Cluster: "second", Port: 5433}}},
		{Name: "down", Down: true},
	}
	fleet.lab, err = lab.Up(ctx, lab.Options{Hosts: hosts, Log: os.Stderr})
	if err != nil {
		return 1, err
	}
	defer fleet.lab.Down()
	return m.Run(), nil
}

// A bench is a folder with a fleet.toml, and the user who runs pgfleet in it.
type bench struct {
	t    *testing.T
	dir  string
	home string
	env  []string
}

// newBench writes a fleet.toml for some of the lab's hosts with the given
// tasks. The CA's key is in a file, which tests of other things keep simple.
func newBench(t *testing.T, tasks string, hosts ...string) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), home: t.TempDir()}
	b.fleet(tasks, hosts...)
	return b
}

func (b *bench) fleet(tasks string, hosts ...string) {
	b.t.Helper()
	l := fleet.lab
	var text strings.Builder
	fmt.Fprintf(&text, "[fleet]\nname = \"lab\"\n\n[ssh]\nuser = %q\nidentity = %q\nknown_hosts = %q\n\n[vars]\napplications = %q\n", l.User, l.Key, l.KnownHosts, l.Applications.String())
	for _, name := range hosts {
		h := l.Host(name)
		if h == nil {
			b.t.Fatalf("the lab has no host %s", name)
		}
		fmt.Fprintf(&text, "\n[hosts.%s]\naddress = %q\nuser = %q\npostgres.version = %d\n", name, h.Address, h.User, h.Postgres)
		if name == "primary" || name == "standby" {
			fmt.Fprintln(&text, `replication = "orders"`)
		}
	}
	b.write("fleet.toml", text.String()+tasks)
}

func (b *bench) write(name, content string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// A said is what a run of pgfleet printed and how it ended.
type said struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

func (s said) all() string { return s.stdout + s.stderr }

func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, fleet.program, args...)
	cmd.Dir = b.dir
	cmd.Env = append([]string{"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}, b.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// run runs pgfleet; any exit code is fine.
func (b *bench) run(args ...string) said {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := b.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return said{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(start)}
}

// want runs pgfleet and demands an exit code.
func (b *bench) want(code int, args ...string) said {
	b.t.Helper()
	s := b.run(args...)
	if s.code != code {
		b.t.Fatalf("pgfleet %s exited with %d, want %d\n%s\n%s", strings.Join(args, " "), s.code, code, s.stdout, s.stderr)
	}
	return s
}

// look runs a script inside a host as root, past ssh and pgfleet.
func look(t *testing.T, host, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := fleet.lab.Host(host).Exec(ctx, script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", host, err, out)
	}
	return out
}

// sql asks a host's server as postgres.
func sql(t *testing.T, host, query string) string {
	t.Helper()
	return strings.TrimSpace(look(t, host, "cd /; runuser -u postgres -- psql -XAtqc "+shellQuote(query)))
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// fresh makes a host as it was at its first boot as far as PostgreSQL goes: its
// configuration, its databases and its roles. So tests do not depend on each
// other's order. A standby has what its primary has.
func fresh(t *testing.T, hosts ...string) {
	t.Helper()
	for _, h := range hosts {
		v := fleet.lab.Host(h).Postgres
		look(t, h, fmt.Sprintf(`set -e
cd /
d=/var/lib/postgresql/%[1]d/main
p() { runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 "$@"; }
if [ ! -d /root/etc-postgresql ]; then
	cp -a /etc/postgresql /root/etc-postgresql
	cp -a $d/postgresql.auto.conf /root # a standby's says whom it follows
	p -c "SELECT quote_literal(rolname) FROM pg_roles WHERE rolname !~ '^pg_'" | paste -sd, >/root/roles
	exit 0
fi
systemctl stop 'pgfleet-undo-*' # of a test that killed pgfleet
rm -rf /etc/postgresql/*; cp -a /root/etc-postgresql/. /etc/postgresql/
rm -rf /var/lib/pgfleet/*
cp -a /root/postgresql.auto.conf $d/
systemctl restart postgresql@%[1]d-main
for i in $(seq 100); do runuser -u postgres -- pg_isready -q && break; sleep 0.1; done
[ "$(p -c 'SELECT pg_is_in_recovery()')" = f ] || exit 0
roles="rolname !~ '^pg_' AND rolname NOT IN ($(cat /root/roles))"
p <<END
ALTER ROLE postgres PASSWORD NULL;
ALTER ROLE postgres RESET ALL;
ALTER ROLE ALL RESET ALL;
SELECT format('ALTER DATABASE %%I IS_TEMPLATE false', datname) FROM pg_database WHERE datistemplate AND datname !~ '^template[01]\$' \gexec
SELECT format('DROP DATABASE %%I WITH (FORCE)', datname) FROM pg_database WHERE datname !~ '^(template[01]|postgres)\$' \gexec
END
# pgaudit first: its event triggers would want its library for what comes after.
for db in template1 postgres; do p -d $db <<END
SET client_min_messages = warning;
SELECT format('DROP EXTENSION %%I CASCADE', extname) FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY extname <> 'pgaudit' \gexec
SELECT 'GRANT CREATE ON SCHEMA public TO PUBLIC' WHERE current_setting('server_version_num')::int < 150000 \gexec
SELECT format('DROP OWNED BY %%I CASCADE', rolname) FROM pg_roles WHERE $roles \gexec
END
done
p -c "SELECT format('DROP ROLE %%I;', rolname) FROM pg_roles WHERE $roles" | p
`, v))
	}
}
