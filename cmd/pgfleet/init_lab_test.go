//go:build lab

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// initLab boots a host with each version and returns the flags that log in there.
func initLab(t *testing.T, versions ...int) (*lab.Lab, []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var hosts []lab.Host
	for i, v := range versions {
		hosts = append(hosts, lab.Host{Name: fmt.Sprintf("pg%02d", i+1), Postgres: v})
	}
	l, err := lab.Up(ctx, lab.Options{Hosts: hosts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Down() })
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	return l, []string{"--user", l.User, "--identity", l.Key, "--known-hosts", l.KnownHosts}
}

// pgfleet runs a command line in a fleet's folder and returns its exit code and
// what it printed.
func pgfleet(t *testing.T, dir string, args ...string) (int, string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	code := run(append([]string{"-f", filepath.Join(dir, "fleet.toml")}, args...), terminal{Out: out, Err: out, LookupEnv: os.LookupEnv}, make(chan os.Signal))
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, string(text)
}

// wantPlan fails unless a plan ends with the exit code: 0 for nothing to do, 2
// for changes.
func wantPlan(t *testing.T, dir string, want int) {
	t.Helper()
	if code, out := pgfleet(t, dir, "plan", "--detailed-exitcode"); code != want {
		t.Errorf("plan: exit %d, want %d:\n%s", code, want, out)
	}
}

func wantApply(t *testing.T, dir string) {
	t.Helper()
	if code, out := pgfleet(t, dir, "apply", "--yes"); code != 0 {
		t.Fatalf("apply: exit %d:\n%s", code, out)
	}
}

func TestLabInitApply(t *testing.T) {
	for _, version := range []int{15, 17} {
		t.Run(fmt.Sprintf("postgres-%d", version), func(t *testing.T) {
			l, flags := initLab(t, version, version)
			dir := filepath.Join(t.TempDir(), "fleet")
			args := append([]string{dir, "--version", fmt.Sprint(version), "--app-network", l.Applications.String()}, flags...)
			for _, name := range []string{"pg01", "pg02"} {
				args = append(args, "--host", name+"="+l.Host(name).Address.String())
			}
			if _, err := runInit(t, args...); err != nil {
				t.Fatal(err)
			}
			if code, out := pgfleet(t, dir, "check"); code != 0 {
				t.Fatalf("check: exit %d:\n%s", code, out)
			}
			wantPlan(t, dir, 2)
			wantApply(t, dir)
			wantPlan(t, dir, 0)

			h := l.Host("pg01")
			for script, want := range map[string]string{
				"runuser -u postgres -- psql -XAtc 'SHOW shared_preload_libraries'":                              "pgaudit",
				"runuser -u postgres -- psql -XAtc 'SHOW listen_addresses'":                                      "localhost, " + h.Address.String(),
				"runuser -u postgres -- psql -XAtc \"SELECT extname FROM pg_extension WHERE extname='pgaudit'\"": "pgaudit",
				"sleep 1; grep -c 'AUDIT: SESSION.*CREATE EXTENSION' /var/log/postgresql/audit.log":              "1",
			} {
				out, err := h.Exec(t.Context(), script)
				if err != nil || strings.TrimSpace(out) != want {
					t.Errorf("%s: %q %v, want %q", script, out, err, want)
				}
			}
		})
	}
}

// A server that somebody has worked on by hand for years.
const workedOn = `set -e
conf=$(ls -d /etc/postgresql/*/main)
version=$(basename "$(dirname "$conf")")
as() { runuser -u postgres -- "$@"; }
as tee "$conf/conf.d/10-logging.conf" >/dev/null <<'END'
# by hand, 2019
log_connections = on
log_line_prefix = '%m {{ %p %u@%d '   # odd
work_mem = 4MB
END
as tee "$conf/conf.d/20-memory.conf" >/dev/null <<'END'
work_mem = 8MB
shared_preload_libraries = 'pgaudit, auto_explain'
pgaudit.log = 'ddl'
END
as tee -a "$conf/pg_hba.conf" >/dev/null <<'END'
# the old application
hostssl  app,"App Two"  +writers,report  10.1.2.0  255.255.255.0   md5  # since 2019
host     all            all              samenet                   reject
local    all            dba              peer map=admins
END
echo 'admins /^(ops|deploy)$ dba' | as tee -a "$conf/pg_ident.conf" >/dev/null
systemctl restart "postgresql@$version-main"
as psql -Xqc "ALTER SYSTEM SET maintenance_work_mem = '96MB'"
as psql -Xqc "ALTER ROLE postgres SET statement_timeout = 0"
sleep 1.1
systemctl reload "postgresql@$version-main"
`

func TestLabInitFrom(t *testing.T) {
	l, flags := initLab(t, 15, 17)
	for _, h := range l.Hosts() {
		if out, err := h.Exec(t.Context(), workedOn); err != nil {
			t.Fatalf("%s %v", out, err)
		}
		const digest = `find /etc /var/lib/postgresql/*/main/postgresql.auto.conf -type f -exec stat -c '%n %U %G %a %Y' {} + -exec sha256sum {} + | sort`
		before, err := h.Exec(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "fleet")
		out, err := runInit(t, append([]string{dir, "--from", h.Address.String()}, flags...)...)
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		t.Log(out)
		if !strings.Contains(out, "The first plan is empty.") || !strings.Contains(out, "ALTER SYSTEM") {
			t.Errorf("%s: %s", h.Name, out)
		}
		wantPlan(t, dir, 0)
		if after, err := h.Exec(t.Context(), digest); err != nil || after != before {
			t.Errorf("%s: the host was changed: %v", h.Name, err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "fleet.toml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`"hostssl app,\"App Two\" +writers,report 10.1.2.0/24 md5",`, `"admins /^(ops|deploy)$ dba",`,
			`# ALTER SYSTEM has set`, `maintenance_work_mem = "96MB"`, `role "postgres": statement_timeout`,
			"20-memory.conf", "-pgaudit\",", "[hosts." + h.Name + "]",
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: fleet.toml lacks %q", h.Name, want)
			}
		}
		if t.Failed() {
			t.Logf("%s", text)
		}

		// A change made by hand is found and undone, and then nothing is due.
		if out, err := h.Exec(t.Context(), `echo 'host all all 0.0.0.0/0 trust' >>$(ls /etc/postgresql/*/main/pg_hba.conf); sed -i 's/8MB/16MB/' /etc/postgresql/*/main/conf.d/20-memory.conf`); err != nil {
			t.Fatalf("%s %v", out, err)
		}
		wantPlan(t, dir, 2)
		wantApply(t, dir)
		wantPlan(t, dir, 0)
	}
}
