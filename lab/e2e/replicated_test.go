//go:build lab

package e2e

import (
	"strings"
	"testing"
	"time"
)

// onlyLooked fails the test if a standby's log has a statement of ours that
// would write. A standby refuses such a one, so it would be logged as an error
// too.
func onlyLooked(t *testing.T, host string) {
	t.Helper()
	log := look(t, host, "cat "+logFile(host))
	if !strings.Contains(log, "SELECT") {
		t.Error("the standby's log has no statement, so the search would find nothing")
	}
	for _, s := range changesOf(t, host) {
		t.Errorf("run on the standby: %s", s.sql)
	}
	if strings.Contains(log, "in a read-only transaction") {
		t.Errorf("something tried to write:\n%s", log)
	}
}

// caughtUp waits until the standby has replayed what its primary has written.
func caughtUp(t *testing.T) {
	t.Helper()
	lsn := sql(t, "primary", "SELECT pg_current_wal_flush_lsn()")
	for range 200 {
		if sql(t, "standby", "SELECT pg_last_wal_replay_lsn() >= '"+lsn+"'") == "t" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("the standby does not replay up to %s", lsn)
}

// What is declared comes to a standby by replication: it is waited for, and
// never written there.
func TestLabStandbyWaits(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		b := newDeclared(t, "primary", "standby")
		caughtUp(t)
		look(t, "standby", "printf 'log_statement = all\\nrecovery_min_apply_delay = 3s\\n' >/etc/postgresql/15/main/conf.d/00-test.conf; systemctl reload postgresql@15-main; sleep 0.5; : >"+logFile("standby"))

		plan := b.Want(2, "plan", "--detailed-exitcode")
		for _, want := range []string{"comes by replication from primary: CREATE ROLE appowner", "comes by replication from primary: CREATE POLICY tenant"} {
			if !strings.Contains(plan.Stdout, want) {
				t.Errorf("the plan does not say %q:\n%s", want, plan.Stdout)
			}
		}

		// Alone it cannot be done, and says where.
		alone := b.Want(1, "apply", "--yes", "--limit", "standby")
		if !strings.Contains(alone.All(), "Owner: what differs comes by replication from primary: apply there") {
			t.Errorf("apply of the standby alone:\n%s", alone.All())
		}
		if got := sql(t, "primary", "SELECT count(*) FROM pg_roles WHERE rolname IN ('appowner', 'appuser', 'readuser')"); got != "0" {
			t.Errorf("the primary has %s of the roles", got)
		}

		start := time.Now()
		b.Want(0, "apply", "--yes")
		if took := time.Since(start); took < 3*time.Second {
			t.Errorf("apply took %v, and replay is 3 s late", took)
		}
		b.Want(0, "plan", "--detailed-exitcode")
		if got := sql(t, "standby", "SELECT count(*) FROM pg_roles WHERE rolname IN ('appowner', 'appuser', 'readuser')"); got != "3" {
			t.Errorf("when apply has ended, the standby has %s of the 3 roles", got)
		}

		// A standby that does not replay: the primary is put right, and of the
		// standby nothing is claimed.
		sql(t, "standby", "SELECT pg_wal_replay_pause()")
		sql(t, "primary", "ALTER ROLE appuser CONNECTION LIMIT 7")
		paused := b.Run("apply", "--yes")
		if got := sql(t, "primary", "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'appuser'"); got != "20" {
			t.Errorf("the primary was not put right: %s\n%s", got, paused.All())
		}
		sql(t, "standby", "SELECT pg_wal_replay_resume()")
		caughtUp(t)
		b.Want(0, "apply", "--yes")
		b.Want(0, "plan", "--detailed-exitcode")

		// The drift arrives, and then its way back does not.
		sql(t, "primary", "ALTER ROLE appuser CONNECTION LIMIT 7")
		for range 100 {
			if sql(t, "standby", "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'appuser'") == "7" {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		sql(t, "standby", "SELECT pg_wal_replay_pause()")
		stuck := b.Want(1, "apply", "--yes")
		for _, want := range []string{"standby", "replay is paused at", "SELECT pg_wal_replay_resume() goes on"} {
			if !strings.Contains(stuck.All(), want) {
				t.Errorf("a standby that is paused: not said %q:\n%s", want, stuck.All())
			}
		}
		sql(t, "standby", "SELECT pg_wal_replay_resume()")
		b.Want(0, "apply", "--yes")
		b.Want(0, "plan", "--detailed-exitcode")
		onlyLooked(t, "standby")
	})
}
