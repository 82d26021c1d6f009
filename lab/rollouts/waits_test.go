//go:build lab

package rollouts

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// A restart waits for what it would cut off, and says what that is.
func TestLabRestartWaits(t *testing.T) {
	b := newBench(t)
	before := sql(t, "b2", "SHOW max_connections")

	t.Run("a synchronous standby/postgres-15", func(t *testing.T) {
		b.T = t
		sql(t, "b1", "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 2 (*)'")
		sql(t, "b1", "SELECT pg_reload_conf()")
		b.fleet("", connections(160))
		s := b.Want(1, "apply", "--yes", "-l", "b1,b2,b3")
		for _, want := range []string{"commits on b1 would wait until it is back", "FIRST 2 (*)", "wants 2, and without it 1 stream", "nothing was changed"} {
			if !strings.Contains(s.All(), want) {
				t.Errorf("not said: %q\n%s", want, s.All())
			}
		}
		for _, h := range members("b1") {
			if got := sql(t, h, "SHOW max_connections"); got != before {
				t.Errorf("%s has max_connections = %s", h, got)
			}
		}
		// With one of two it goes well.
		sql(t, "b1", "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'")
		sql(t, "b1", "SELECT pg_reload_conf()")
		time.Sleep(500 * time.Millisecond)
		b.Want(0, "apply", "--yes", "-l", "b1,b2,b3")
		sql(t, "b1", "ALTER SYSTEM RESET synchronous_standby_names")
		sql(t, "b1", "SELECT pg_reload_conf()")
	})

	t.Run("a transaction and a backup/postgres-17", func(t *testing.T) {
		b.T = t
		conn, err := login(t.Context(), "c1", "bench")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), "BEGIN; SELECT 'it is a secret'"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5500 * time.Millisecond)
		b.fleet("\n[rollout]\ntransaction_wait = \"2s\"\n", connections(170))
		s := b.Want(1, "apply", "--yes", "-l", "c1,c2,c3")
		if !strings.Contains(s.All(), "c1: ") || !strings.Contains(s.All(), "after 2s bench has a transaction open for") || !strings.Contains(s.All(), "idle in transaction") || strings.Contains(s.All(), "it is a secret") {
			t.Errorf("the transaction is not named:\n%s", s.All())
		}
		// It ends while apply waits for it.
		b.fleet("\n[rollout]\ntransaction_wait = \"1m\"\n", connections(170))
		b.during(0, "waiting for transactions: bench has a transaction open", func() { _, _ = conn.Exec(t.Context(), "COMMIT") }, "apply", "--yes", "-l", "c1,c2,c3")
		look(t, "c2", fmt.Sprintf("cd /; nohup setsid runuser -u postgres -- pg_basebackup -h %s -U replicator -w -c fast -D /var/lib/postgresql/copy --max-rate=32k -X none >/dev/null 2>&1 & sleep 2", fleet.Lab.Host("c1").Address))
		b.fleet("\n[rollout]\ntransaction_wait = \"1s\"\n", connections(180))
		s = b.Want(1, "apply", "--yes", "-l", "c1,c2,c3")
		if !strings.Contains(s.All(), "after 1s a base backup is running (pid ") {
			t.Errorf("the backup is not named:\n%s", s.All())
		}
		// It is not cut off either where transactions are, and when it has ended the
		// cluster is looked at again.
		b.fleet("\n[rollout]\ntransaction_wait = \"0s\"\ngate_timeout = \"2s\"\n", connections(180))
		started := sql(t, "c1", "SELECT pg_postmaster_start_time()")
		s = b.during(1, "waiting for transactions: a base backup is running (pid ", func() {
			look(t, "c3", "systemctl stop postgresql@17-main")
			look(t, "c2", "pkill -x pg_basebackup; sleep 0.5; rm -rf /var/lib/postgresql/copy")
		}, "apply", "--yes", "-l", "c1")
		says(t, s, "c1: ", "after 2s the standby c3 of its cluster does not answer", "nothing was changed")
		if got := sql(t, "c1", "SELECT pg_postmaster_start_time()"); got != started {
			t.Errorf("c1 restarted while c3 was down, at %s", got)
		}
		look(t, "c3", "systemctl start postgresql@17-main")
		streams(t, "c3", "")
		b.fleet("\n[rollout]\ntransaction_wait = \"1s\"\n", connections(180))
		// A dump that nobody takes off its hands.
		look(t, "c1", "cd /; runuser -u postgres -- psql -Xqd bench -c \"CREATE TABLE dumped AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)\"; nohup setsid sh -c 'runuser -u postgres -- pg_dump bench | sleep 90' >/dev/null 2>&1 & echo $! >/run/dump; sleep 1")
		s = b.Want(1, "apply", "--yes", "-l", "c1,c2,c3")
		if !strings.Contains(s.All(), "after 1s pg_dump is running (pid ") || !strings.Contains(s.All(), "database bench") {
			t.Errorf("the dump is not named:\n%s", s.All())
		}
		look(t, "c1", "kill -- -$(cat /run/dump); sleep 0.5; cd /; runuser -u postgres -- psql -Xqd bench -c 'DROP TABLE dumped'")
		b.Want(0, "apply", "--yes", "-l", "c1,c2,c3")
	})

	t.Run("a standby that does not stream/postgres-18", func(t *testing.T) {
		b.T = t
		b.fleet("\n[rollout]\ngate_timeout = \"3s\"\n", connections(160))
		look(t, "d3", "systemctl stop postgresql@18-main; mv /var/lib/postgresql/18/main/global /var/lib/postgresql/18/main/away")
		s := b.Want(1, "apply", "--yes", "-l", "d1,d2,d3")
		if !strings.Contains(s.All(), "left alone, because d3 of its cluster is in trouble") || sql(t, "d2", "SHOW max_connections") != before {
			t.Errorf("a second member went down while one was:\n%s", s.All())
		}
		// It can be started, and is, before the others.
		look(t, "d3", "mv /var/lib/postgresql/18/main/away /var/lib/postgresql/18/main/global")
		b.Want(0, "apply", "--yes", "-l", "d1,d2,d3")

		// One that runs and does not stream.
		const conf = "/var/lib/postgresql/18/main/postgresql.auto.conf"
		look(t, "d3", "cp -a "+conf+" /root/kept; sed -i \"s/host=[0-9.']*/host=192.0.2.1/\" "+conf+"; systemctl reload postgresql@18-main; sleep 1")
		b.fleet("\n[rollout]\ngate_timeout = \"3s\"\n", connections(170))
		s = b.Want(1, "apply", "--yes", "-l", "d1,d2,d3")
		if !strings.Contains(s.All(), "d2: ") || !strings.Contains(s.All(), "the standby d3 of its cluster does not stream") || sql(t, "d2", "SHOW max_connections") != "160" {
			t.Errorf("a second member went down while one did not stream:\n%s", s.All())
		}
		look(t, "d3", "cp -a /root/kept "+conf+"; systemctl reload postgresql@18-main; sleep 1")
		b.fleet("", connections(170))
		b.Want(0, "apply", "--yes", "-l", "d1,d2,d3")
	})
}

// during runs pgfleet, does something once it has said some words, and returns what
// it said in all.
func (b *bench) during(code int, words string, do func(), args ...string) labtest.Said {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.T.Context(), 4*time.Minute)
	defer cancel()
	cmd, out := b.Command(ctx, args...), &labtest.Output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		b.T.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its exit code is looked at below
	}()
	for said := false; !said; {
		select {
		case <-ended:
			b.T.Fatalf("it ended without saying %q:\n%s", words, out)
		case <-time.After(50 * time.Millisecond):
			said = strings.Contains(out.String(), words)
		}
	}
	do()
	<-ended
	if got := cmd.ProcessState.ExitCode(); got != code {
		b.T.Fatalf("it exited with %d, want %d:\n%s", got, code, out)
	}
	return labtest.Said{Stdout: out.String(), Code: code}
}
