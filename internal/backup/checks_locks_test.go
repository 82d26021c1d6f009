package backup_test

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
)

// session runs the first part of the checks, then what happens in the meantime, then the second part. Waiting, if there is some, happens while the
// first part waits for a lock.
func session(t *testing.T, s *postgrestest.Server, waiting, meantime func()) (backup.Checks, string, error) {
	t.Helper()
	cmd := exec.Command(program(t, s, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "check=rows", "-v", "lock_timeout=2000", s.URL("busy", "postgres"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	until := func(condition string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); s.Number(t, "SELECT count(*)::int FROM pg_stat_activity WHERE datname = 'busy' AND application_name = 'psql' AND "+condition) == 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no session for which %s; psql: %s", condition, &said)
			}
		}
	}
	_, _ = io.WriteString(in, hosted.ChecksBegin)
	if waiting != nil {
		until("wait_event_type = 'Lock'")
		waiting()
	}
	if meantime != nil {
		_, _ = io.WriteString(in, "SELECT 'begun' \\g /dev/null\n")
		until("state = 'idle in transaction' AND query LIKE '%begun%'")
		meantime()
	}
	_, _ = io.WriteString(in, hosted.ChecksRest)
	in.Close()
	if err := cmd.Wait(); err != nil {
		return nil, said.String(), err
	}
	all, err := backup.ParseChecks(&out)
	if err != nil {
		t.Fatal(err)
	}
	return all, said.String(), nil
}

// Tables are locked for as long as the checks need them, one that is dropped before it is locked is no failure, and a lock is not waited for longer than said.
func TestChecksLock(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		s.Exec(t, "CREATE DATABASE busy")
		db, err := pgx.Connect(t.Context(), s.URL("busy", "postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close(t.Context())
		do := func(sql string) {
			t.Helper()
			if _, err := db.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		do(`SET lock_timeout = '100ms';
CREATE TABLE kept AS SELECT generate_series(1, 10) AS a;
CREATE TABLE "it's :odd; ""one""" AS SELECT 1 AS a;
CREATE TABLE doomed AS SELECT 1 AS a;
CREATE MATERIALIZED VIEW seen AS SELECT 1 AS a;
CREATE MATERIALIZED VIEW gone AS SELECT 1 AS a;`)

		do("BEGIN; DROP TABLE doomed")
		all, _, err := session(t, s, func() { do("CREATE TABLE late AS SELECT 1 AS a; COMMIT") }, func() {
			for _, sql := range []string{"TRUNCATE kept", "DROP TABLE kept", "ALTER TABLE kept ALTER a TYPE bigint", "TRUNCATE late", `DROP TABLE "it's :odd; ""one"""`} {
				if _, err := db.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "lock timeout") {
					t.Errorf("%s, while the dump would go on: %v", sql, err)
				}
			}
			do("REFRESH MATERIALIZED VIEW seen; DROP MATERIALIZED VIEW gone; INSERT INTO kept VALUES (11)")
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := all["table public.doomed"]; ok || all["table public.kept"].Rows != 10 || all[`table public."it's :odd; ""one"""`].Rows != 1 || all["table public.late"].Rows != 1 {
			t.Errorf("the checks: %+v", all)
		}
		if _, ok := all["materialized view public.gone"]; ok || all["materialized view public.seen"].Rows != 1 {
			t.Errorf("the checks: %+v", all)
		}

		do("BEGIN; LOCK TABLE kept")
		began := time.Now()
		_, said, err := session(t, s, nil, nil)
		if took := time.Since(began); err == nil || !strings.Contains(said, "lock timeout") || strings.Contains(said, "is aborted") || took > 10*time.Second {
			t.Errorf("without a lock, after %v: %v: %s", took, err, said)
		}
		do("ROLLBACK")
	})
}
