//go:build lab

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func (b *bench) edit(name, old, new string) {
	b.T.Helper()
	path := filepath.Join(b.Dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		b.T.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		b.T.Fatalf("%s: no %q", name, old)
	}
	b.Write(name, strings.ReplaceAll(string(text), old, new))
}

// wrongKey is the lab's known_hosts with another host's key for one host.
func wrongKey(t *testing.T, host string) string {
	t.Helper()
	text, err := os.ReadFile(fleet.Lab.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	address := fleet.Lab.Host(host).Address.String()
	var lines []string
	other := ""
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && !strings.Contains(fields[0], address) {
			other = fields[2]
		}
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && strings.Contains(fields[0]+",", address+",") {
			fields[2] = other
		}
		lines = append(lines, strings.Join(fields, " "))
	}
	return strings.Join(lines, "\n") + "\n"
}

// A run that is killed in the middle, at points spread over it, is finished by
// the next one, or put back by it and finished by the one after.
func TestLabKilled(t *testing.T) {
	points := 6
	if os.Getenv("PGFLEET_SOAK") != "" {
		points = 40
	}
	host := "pg15"
	fresh(t, host)
	b := newBench(t, serverTasks, host)
	b.withCA()
	start := time.Now()
	b.Want(0, "apply", "--yes")
	whole := time.Since(start)
	changed := 0
	for i := range points {
		fresh(t, host)
		before := etcFiles(t, host)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		cmd := b.Command(ctx, "apply", "--yes")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(whole * time.Duration(i+1) / time.Duration(points+1))
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		cancel()
		time.Sleep(3 * time.Second) // what it had started on the host ends
		for path, sum := range etcFiles(t, host) {
			if before[path] != sum {
				changed++
				if look(t, host, "{ [ ! -e "+path+" ] || [ -s "+path+" ]; } && echo whole || true") == "" {
					t.Errorf("killed at %d of %d: %s is empty", i+1, points+1, path)
				}
				break
			}
		}
		// A step that was under way is put back first, and what was planned with it
		// in the middle does not hold then.
		if s := b.Run("apply", "--yes"); s.Code != 0 {
			if !strings.Contains(s.All(), "apply again") {
				t.Errorf("killed at %d of %d, the next apply says:\n%s", i+1, points+1, s.All())
			}
			b.Want(0, "apply", "--yes")
		}
		b.Want(0, "plan", "--detailed-exitcode")
		verifyServed(t, b, host)
		if left := look(t, host, "find / -xdev \\( -name '.pgfleet*' -o -name 'pgfleet-trial*' \\) 2>/dev/null || true"); left != "" {
			t.Errorf("killed at %d of %d, left behind: %s", i+1, points+1, left)
		}
		look(t, host, "systemctl restart postgresql@15-main && for i in $(seq 50); do runuser -u postgres -- pg_isready -q && exit; sleep 0.1; done; exit 1")
	}
	t.Logf("PROOF: killed %d times over %v; %d of the kills found the host half changed, and every next apply finished\n", points, whole.Round(time.Millisecond), changed)
	if changed == 0 {
		t.Error("no kill found the host half changed, so this proves nothing")
	}
}

// Ctrl-C once finishes the step that runs and starts no other.
func TestLabInterrupted(t *testing.T) {
	fresh(t, "pg15")
	b := newBench(t, serverTasks+`
[[task]]
name = "Later"
kind = "command"
run = "touch /run/later"
creates = "/run/later"
`, "pg15")
	b.withCA()
	look(t, "pg15", "rm -f /run/later")
	cmd := b.Command(context.Background(), "apply", "--yes")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		time.Sleep(50 * time.Millisecond)
		if look(t, "pg15", "ls -d /tmp/pgfleet-trial* 2>/dev/null || true") != "" {
			break
		}
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit %d\n%s", code, out.String())
	}
	if got := sql(t, "pg15", "SHOW log_connections"); got != "on" {
		t.Errorf("the step that ran was not finished: log_connections is %s\n%s", got, out.String())
	}
	if look(t, "pg15", "ls /run/later 2>/dev/null || true") != "" {
		t.Errorf("a step was started after Ctrl-C\n%s", out.String())
	}
	if !strings.Contains(out.String(), "stopped") {
		t.Errorf("the summary does not say that pg15 was stopped:\n%s", out.String())
	}
}

// A saved plan is applied exactly, and a host that has drifted since is refused.
func TestLabSavedPlan(t *testing.T) {
	fresh(t, "pg13", "pg17")
	b := newBench(t, oneSetting("log_connections", "true"), "pg13", "pg17")
	b.Want(0, "plan", "--out", "plan.json")
	look(t, "pg17", "echo '# by hand' >>/etc/postgresql/17/main/conf.d/50-bad.conf")
	s := b.Want(1, "apply", "--yes", "plan.json")
	if !strings.Contains(s.All(), "pg17") {
		t.Errorf("the host that drifted is not named:\n%s", s.All())
	}
	if got := sql(t, "pg13", "SHOW log_connections"); got != "on" {
		t.Errorf("pg13, which did not drift: log_connections is %s", got)
	}
	if got := sql(t, "pg17", "SHOW log_connections"); got != "off" {
		t.Errorf("pg17, which drifted: log_connections is %s", got)
	}
}

// A file that is no longer declared is an orphan, and state = "absent" removes
// it.
func TestLabOrphan(t *testing.T) {
	fresh(t, "pg15")
	b := newBench(t, oneSetting("log_connections", "true"), "pg15")
	b.Want(0, "apply", "--yes")
	b.fleet("\n[[task]]\nname = \"PostgreSQL\"\nkind = \"service\"\n", "pg15")
	s := b.Want(0, "plan", "--detailed-exitcode")
	if !strings.Contains(s.Stdout, "conf.d/50-bad.conf") {
		t.Errorf("the orphan is not listed:\n%s", s.All())
	}
	b.fleet("\n[[task]]\nname = \"Gone\"\nkind = \"settings\"\nfile = \"50-bad.conf\"\nstate = \"absent\"\n", "pg15")
	b.Want(0, "apply", "--yes")
	if got := sql(t, "pg15", "SHOW log_connections"); got != "off" {
		t.Errorf("log_connections is %s", got)
	}
	b.Want(0, "plan", "--detailed-exitcode")
}

// A cluster's own standby keeps streaming under a rule file that names only
// applications, which the guide's would cut off.
func TestLabStandbyKeepsStreaming(t *testing.T) {
	fresh(t, "primary")
	b := newBench(t, "\n[[task]]\nname = \"Who\"\nkind = \"hba\"\nrules = [\"local all postgres peer\"]\n", "primary", "standby")
	b.Want(0, "apply", "--yes")
	look(t, "standby", "systemctl restart postgresql@15-main")
	for range 100 {
		if sql(t, "primary", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1" {
			b.Want(0, "plan", "--detailed-exitcode")
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("the standby does not stream:\n%s", look(t, "standby", "tail -n 5 /var/log/postgresql/*.log"))
}

// Hosts of every sort take the same tasks: one that logs in as root and has two
// instances, one that forbids forwarding, one whose sudo asks.
func TestLabSortsOfHosts(t *testing.T) {
	for _, host := range []string{"asroot", "noforward"} {
		t.Run(host+"/postgres-15", func(t *testing.T) {
			fresh(t, host)
			b := newBench(t, oneSetting("log_connections", "true"), host)
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
			if got := sql(t, host, "SHOW log_connections"); got != "on" {
				t.Errorf("log_connections is %s", got)
			}
		})
	}
	t.Run("two instances/postgres-15", func(t *testing.T) {
		fresh(t, "asroot")
		b := newBench(t, oneSetting("log_connections", "true"), "asroot")
		b.edit("fleet.toml", "postgres.version = 15\n", "postgres.version = 15\n[hosts.asroot.instances.main]\n[hosts.asroot.instances.second]\nport = 5433\n")
		b.Want(0, "apply", "--yes")
		b.Want(0, "plan", "--detailed-exitcode")
		got := look(t, "asroot", "cd /; for p in 5432 5433; do runuser -u postgres -- psql -XAtq -p $p -c 'SHOW log_connections'; done")
		if got != "on\non\n" {
			t.Errorf("log_connections: %s", got)
		}
	})
	t.Run("package/postgres-15", func(t *testing.T) {
		b := newBench(t, "\n[[task]]\nname = \"pgaudit\"\nkind = \"package\"\npackages = [\"postgresql-15-pgaudit\"]\n", "noforward")
		b.Want(2, "plan", "--detailed-exitcode")
		b.Want(0, "apply", "--yes")
		if got := look(t, "noforward", "dpkg-query -W -f '${Status}' postgresql-15-pgaudit"); got != "install ok installed" {
			t.Errorf("pgaudit: %s", got)
		}
		b.Want(0, "plan", "--detailed-exitcode")
	})
}

// exec and sql reach every host, and say which said what.
func TestLabExecAndSQL(t *testing.T) {
	b := newBench(t, "", "pg13", "pg15", "pg17", "pg18")
	s := b.Want(0, "sql", "SELECT current_setting('server_version_num')::int / 10000 AS major", "--csv")
	for _, v := range versions() {
		if !strings.Contains(s.Stdout, fmt.Sprintf("pg%d,%d", v, v)) {
			t.Errorf("no line for pg%d:\n%s", v, s.Stdout)
		}
	}
	s = b.Want(1, "exec", "--", "hostname; [ $(hostname) != pg17 ]")
	for _, v := range versions() {
		if !strings.Contains(s.All(), fmt.Sprintf("pg%d", v)) {
			t.Errorf("nothing of pg%d:\n%s", v, s.All())
		}
	}
	s = b.Want(1, "sql", "SELECT nonsense FROM pg_class", "-l", "pg15")
	for _, want := range []string{"LINE 1", "^", `column "nonsense" does not exist`} {
		if !strings.Contains(s.All(), want) {
			t.Errorf("sql does not say %q:\n%s", want, s.All())
		}
	}
}

// What is about a host and not about one of its servers is done once for it.
func TestLabTwoInstancesShareTheirHost(t *testing.T) {
	fresh(t, "asroot")
	look(t, "asroot", "rm -f /etc/pgfleet-shared /var/tmp/times")
	b := newBench(t, `
[[task]]
name = "A file of the host"
kind = "file"
path = "/etc/pgfleet-shared"
content = "shared\n"

[[task]]
name = "A command"
kind = "command"
run = "echo once >>/var/tmp/times"
unless = "test -e /var/tmp/times"
`, "asroot")
	b.edit("fleet.toml", "postgres.version = 15\n", "postgres.version = 15\n[hosts.asroot.instances.main]\n[hosts.asroot.instances.second]\nport = 5433\n")
	b.Want(2, "plan", "--detailed-exitcode")
	b.Want(0, "apply", "--yes")
	if got := look(t, "asroot", "cat /etc/pgfleet-shared /var/tmp/times"); got != "shared\nonce\n" {
		t.Errorf("found %q", got)
	}
	b.Want(0, "plan", "--detailed-exitcode")
}
