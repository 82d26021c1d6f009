//go:build lab

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// slowReload has reloads of a host's server end some seconds after the server has
// the new rules, so that pgfleet can be killed in between.
func slowReload(t *testing.T, host string) {
	t.Helper()
	const dir = "/etc/systemd/system/postgresql@.service.d"
	look(t, host, "mkdir -p "+dir+"; printf '[Service]\nExecReload=/bin/sleep 3\n' >"+dir+"/slow.conf; systemctl daemon-reload")
	t.Cleanup(func() { look(t, host, "rm -r "+dir+"; systemctl daemon-reload") })
}

// A forced is an apply of rules that shut somebody out, which was killed after the
// server had loaded them.
type forced struct {
	b      *bench
	host   string
	before map[string]string
	at     time.Time
}

// force applies in spite of a lock-out, and kills pgfleet when the new rules are in
// force.
func (b *bench) force(host, allow string) forced {
	t := b.T
	t.Helper()
	f := forced{b: b, host: host, before: etcFiles(t, host)}
	log := fmt.Sprintf("/var/log/postgresql/postgresql-%d-main.log", fleet.Lab.Host(host).Postgres)
	look(t, host, ": >"+log)
	r := b.start("apply", "--yes", "-l", host, "--dead-man", "5s", "--allow-lockout", allow)
	until(t, host, "grep -q 'received SIGHUP, reloading' "+log)
	r.signal(syscall.SIGKILL)
	<-r.ended
	f.at = time.Now()
	if armed(t, host) == "" || strings.Contains(r.out.String(), "putting back") {
		t.Fatalf("it was killed too late, or the host is not armed\n%s", r.out.String())
	}
	return f
}

// comesBack waits until the host's own timer has put the old rules back.
func (f forced) comesBack(t *testing.T) {
	t.Helper()
	for armed(t, f.host) != "" {
		if time.Since(f.at) > 25*time.Second {
			t.Fatalf("not back after %v: %s", time.Since(f.at), armed(t, f.host)+look(t, f.host, "journalctl -n 40 --no-pager"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("PROOF: the old rules were back %v after pgfleet was killed", time.Since(f.at).Round(100*time.Millisecond))
	after := etcFiles(t, f.host)
	for path, sum := range f.before {
		if after[path] != sum {
			t.Errorf("%s is not as before", path)
		}
	}
	if len(after) != len(f.before) {
		t.Errorf("%d files in /etc, and there were %d", len(after), len(f.before))
	}
	if note := look(t, f.host, "cat /var/lib/pgfleet/undo/*/fired.note"); !strings.Contains(note, "\nby timer\n") || strings.Contains(note, "failed") || strings.Contains(note, "problem") {
		t.Errorf("the note is:\n%s", note)
	}
}

// Rules that shut somebody out, forced, and pgfleet dies: the host itself puts the
// old ones back, and who was shut out gets in again.
func TestLabForcedLockout(t *testing.T) {
	t.Run("pgfleet itself/postgres-17", func(t *testing.T) {
		t.Parallel()
		const host = "pg17"
		fresh(t, host)
		slowReload(t, host)
		b := newBench(t, who("local all dba peer"), host)
		f := b.force(host, "pgfleet")
		const asks = "cd /; runuser -u postgres -- psql -XAtqc 'SELECT 1' 2>&1 || true"
		if got := look(t, host, asks); !strings.Contains(got, "no pg_hba.conf entry") {
			t.Fatalf("postgres is let in by the new rules: %s", got)
		}
		f.comesBack(t)
		if got := look(t, host, asks); got != "1\n" {
			t.Errorf("postgres is not let in: %s", got)
		}
		says(t, b.Want(0, "plan"), "the host put the old files back by itself at", "would lose access: pgfleet itself")
	})
	t.Run("an application/postgres-13", func(t *testing.T) {
		t.Parallel()
		const host = "pg13"
		fresh(t, host)
		applications(t, host)
		slowReload(t, host)
		open := stays(t, host, "user=appuser dbname=appdb")
		net := fleet.Lab.Applications.String()
		b := newBench(t, who("local all postgres peer", "host all reports "+net+" trust", "host replication appstream "+net+" trust"), host)
		f := b.force(host, "appuser")
		refused(t, host, "user=appuser dbname=appdb")
		f.comesBack(t)
		letIn(t, host, "user=appuser dbname=appdb")
		if _, err := open.Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
			t.Errorf("the session that was open: %v", err)
		}
		says(t, b.Want(0, "plan"), "the host put the old files back by itself at", "would lose access: appuser in appdb")
	})
	t.Run("a standby/postgres-15", func(t *testing.T) {
		t.Parallel()
		fresh(t, "primary")
		slowReload(t, "primary")
		b := newBench(t, who("local all postgres peer"), "primary", "standby")
		b.edit("fleet.toml", `replication = "orders"`, "")
		const streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
		until(t, "primary", "[ \"$(cd /; runuser -u postgres -- psql -XAtqc \""+streams+"\")\" = 1 ]")
		look(t, "standby", ": >/var/log/postgresql/postgresql-15-main.log")
		f := b.force("primary", "standby:standby")
		sql(t, "primary", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
		until(t, "standby", "grep -q 'pg_hba.conf rejects replication connection' /var/log/postgresql/postgresql-15-main.log")
		if got := sql(t, "primary", streams); got != "0" {
			t.Errorf("%s standbys stream by the new rules", got)
		}
		f.comesBack(t)
		until(t, "primary", "[ \"$(cd /; runuser -u postgres -- psql -XAtqc \""+streams+"\")\" = 1 ]")
		says(t, b.Want(0, "plan"), "the host put the old files back by itself at", "would lose access: the standby 15/main")
	})
}

// refused demands that a login is rejected by the rules.
func refused(t *testing.T, host, parameters string) {
	t.Helper()
	conn, err := login(t, host, parameters)
	if err == nil {
		_ = conn.Close(t.Context())
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || !strings.Contains(pg.Message, "pg_hba.conf rejects") {
		t.Fatalf("%s at %s: %v", parameters, host, err)
	}
}

// letIn demands that a login succeeds.
func letIn(t *testing.T, host, parameters string) {
	t.Helper()
	conn, err := login(t, host, parameters)
	if err != nil {
		t.Errorf("%s at %s: %v", parameters, host, err)
		return
	}
	_ = conn.Close(t.Context())
}
