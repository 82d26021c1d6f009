//go:build lab

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const toUndo = `
[[task]]
name = "Slow statements"
kind = "settings"
file = "30-slow.conf"
settings = { log_min_duration_statement = %d }

[[task]]
name = "Connections"
kind = "settings"
file = "40-connections.conf"
settings = { max_connections = %d }

[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "host all app%[2]d {{ .Vars.applications }} scram-sha-256"]

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "A file"
kind = "file"
path = "/etc/pgfleet-test"
content = "of %[1]d\n"

[[task]]
name = "A role"
kind = "role"
role = "app%[2]d"
`

// What a run has changed in files is put back by runs undo, and what it did in SQL
// is named with its opposite.
func TestLabUndo(t *testing.T) {
	for _, v := range []int{13, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			t.Cleanup(func() { look(t, host, "rm -f /etc/pgfleet-test") })
			state := func() string {
				return look(t, host, fmt.Sprintf("cd /; cat /etc/pgfleet-test /etc/postgresql/%[1]d/main/pg_hba.conf /etc/postgresql/%[1]d/main/conf.d/* 2>/dev/null; stat -c '%%n %%U %%a' /etc/pgfleet-test /etc/postgresql/%[1]d/main/pg_hba.conf /etc/postgresql/%[1]d/main/conf.d/* 2>/dev/null; runuser -u postgres -- psql -XAtqc 'SHOW log_min_duration_statement' -c 'SHOW max_connections' -c 'SELECT type, database, user_name, auth_method FROM pg_hba_file_rules'", v))
			}
			b := newBench(t, fmt.Sprintf(toUndo, 100, 110), host)
			empty := state()
			first := lastRun(t, b, "apply", "--yes", "--json")
			before := state()
			b.fleet(fmt.Sprintf(toUndo, 200, 120), host)
			run := lastRun(t, b, "apply", "--yes", "--json")
			if before == state() {
				t.Fatal("the second apply changed nothing")
			}

			// Not while somebody's change would be lost.
			look(t, host, fmt.Sprintf("echo '# by hand' >>/etc/postgresql/%d/main/conf.d/30-slow.conf", v))
			s := b.Want(1, "runs", "undo", run, "--yes")
			if !strings.Contains(s.All(), "30-slow.conf has changed since that run") {
				t.Errorf("somebody's change is not respected:\n%s", s.All())
			}
			look(t, host, fmt.Sprintf("sed -i '$d' /etc/postgresql/%d/main/conf.d/30-slow.conf", v))

			s = b.Want(0, "runs", "undo", run, "--yes")
			for _, want := range []string{"change /etc/postgresql/", "pg_hba.conf", "-max_connections = '120'", "+max_connections = '110'", "restart: the run restarted it", "CREATE ROLE app120", "(the opposite: DROP ROLE app120)"} {
				if !strings.Contains(s.Stdout, want) {
					t.Errorf("the undo does not say %q:\n%s", want, s.Stdout)
				}
			}
			if after := state(); after != before {
				t.Errorf("after the undo\n%s\nand before the run\n%s", after, before)
			}
			// Once more there is nothing to do; and the first one can be taken back too.
			if s := b.Want(0, "runs", "undo", run, "--yes"); strings.Contains(s.Stdout, "change /") {
				t.Errorf("undone twice:\n%s", s.Stdout)
			}
			b.Want(0, "runs", "undo", first, "--yes", "--allow-lockout", "all")
			if after := state(); after != empty {
				t.Errorf("after both\n%s\nand at the beginning\n%s", after, empty)
			}
			for _, id := range []string{run, first} {
				b.Want(0, "runs", "show", id)
			}
			t.Logf("PROOF: on PostgreSQL %d two runs were undone, with a reload and a restart; files, owners, modes and what the server runs with are as before", v)
		})
	}
}

// lastRun runs pgfleet, which must succeed, and returns the run's ID.
func lastRun(t *testing.T, b *bench, args ...string) string {
	t.Helper()
	var doc struct{ Run string }
	if err := json.Unmarshal([]byte(b.Want(0, args...).Stdout), &doc); err != nil || doc.Run == "" {
		t.Fatalf("no run: %v", err)
	}
	if _, err := os.Stat(filepath.Join(b.Home, ".local/state/pgfleet/runs", doc.Run+".jsonl")); err != nil {
		t.Error(err)
	}
	return doc.Run
}
