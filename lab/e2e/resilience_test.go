//go:build lab

package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// connections is a setting that only a restart applies.
func connections(n int) string {
	return fmt.Sprintf("\n[[task]]\nname = \"Connections\"\nkind = \"settings\"\nfile = \"50-connections.conf\"\nsettings = { max_connections = %d }\n", n) +
		"\n[[task]]\nname = \"PostgreSQL\"\nkind = \"service\"\n"
}

// holdOpen keeps a transaction open on a host for as long as a restart waits for
// one. The function that it returns ends it.
func holdOpen(t *testing.T, host string) (end func()) {
	t.Helper()
	look(t, host, "cd /; nohup setsid runuser -u postgres -- psql -Xqc "+labtest.Quote("SET application_name = 'holder'; BEGIN; SELECT pg_sleep(50)")+" >/dev/null 2>&1 & sleep 5.5")
	return func() {
		sql(t, host, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'")
	}
}

// While a restart waits nothing is changed yet: what somebody edits on the host
// meanwhile stays, the first Ctrl-C ends the wait, and a connection that breaks is
// made again.
func TestLabRestartThatWaits(t *testing.T) {
	const host, file = "pg17", "/etc/postgresql/17/main/conf.d/50-connections.conf"
	served(t, host)
	b := newBench(t, connections(77), host)
	p := b.through(host)
	b.Want(0, "apply", "--yes")
	started := sql(t, host, "SELECT pg_postmaster_start_time()")
	before := look(t, host, "cat "+file)
	b.edit("fleet.toml", "max_connections = 77", "max_connections = 78")

	t.Run("Ctrl-C, and a connection that breaks/postgres-17", func(t *testing.T) {
		b.T = t
		end := holdOpen(t, host)
		r := b.start("apply", "--yes")
		r.says("waiting for transactions: ")
		at := time.Now()
		r.signal(syscall.SIGINT)
		s := r.end(1)
		if took := time.Since(at); took > 3*time.Second {
			t.Errorf("it took %v to stop", took)
		}
		wantWords(t, s, "stopped while it waited to restart, and nothing was changed; run it again to go on", "0 failed, 1 stopped; 0 changes made")
		if now := look(t, host, "cat "+file); now != before {
			t.Errorf("something was written:\n%s", now)
		}
		stopped := b.runs()[0]
		if stopped.Outcome != "stopped" {
			t.Errorf("the run's outcome is %q", stopped.Outcome)
		}
		r = b.start("runs", "resume", stopped.Run, "--yes")
		r.says("waiting for transactions: ")
		p.Cut()
		time.Sleep(500 * time.Millisecond)
		if now := sql(t, host, "SELECT pg_postmaster_start_time()"); now != started {
			t.Errorf("it was restarted at %s", now)
		}
		end()
		r.end(0)
		if got := sql(t, host, "SHOW max_connections"); got != "78" {
			t.Errorf("resumed, and max_connections is %s", got)
		}
	})

	t.Run("an edit/postgres-17", func(t *testing.T) {
		b.T = t
		b.edit("fleet.toml", "max_connections = 78", "max_connections = 79")
		before := look(t, host, "cat "+file)
		end := holdOpen(t, host)
		r := b.start("apply", "--yes")
		r.says("waiting for transactions: ")
		look(t, host, "echo '# mine' >>"+file)
		end()
		wantWords(t, r.end(1), file+" was changed on the host since it was planned, so nothing was written; plan again")
		if now := look(t, host, "cat "+file); now != before+"# mine\n" {
			t.Errorf("the edit is lost:\n%s", now)
		}
		if left := armed(t, host) + look(t, host, "ls /var/lib/pgfleet/lease 2>/dev/null || true"); left != "" {
			t.Errorf("left behind: %s", left)
		}
	})
}

// A network that is away for some seconds while a host waits for its turn is no
// reason to leave the host out.
func TestLabNetworkIsBackInTime(t *testing.T) {
	const first, second = "pg15", "pg18"
	for _, silent := range []bool{false, true} {
		t.Run(map[bool]string{false: "refused", true: "silent"}[silent]+"/postgres-18", func(t *testing.T) {
			fresh(t, first, second)
			for _, h := range []string{first, second} {
				look(t, h, "rm -rf /run/e2e-* /var/lib/pgfleet/*")
			}
			look(t, second, "touch /run/e2e-go")
			b := newBench(t, "\n[rollout]\nbatches = 1\n"+slow+oneSetting("work_mem", `"5MB"`), first, second)
			p := b.through(second)
			r := b.start("apply", "--yes")
			until(t, first, "[ -e /run/e2e-began ]")
			if silent {
				p.StallAfter(0)
				time.Sleep(6 * time.Second) // until it is found out; see through
			} else {
				p.Refuse()
				time.Sleep(2 * time.Second)
			}
			p.Mend() // for new connections
			look(t, first, "touch /run/e2e-go")
			r.end(0)
			for _, h := range []string{first, second} {
				if got := sql(t, h, "SHOW work_mem"); got != "5MB" {
					t.Errorf("%s has work_mem = %s", h, got)
				}
			}
			if left := look(t, second, "ls /var/lib/pgfleet/lease 2>/dev/null || true"); left != "" {
				t.Error("the lease was not given back")
			}
			if n := strings.TrimSpace(look(t, second, "cat /var/lib/pgfleet/token")); n != "1" {
				t.Errorf("the lease was taken %s times", n)
			}
		})
	}
}

// How long a server was down is said as well where its restart has failed, from
// when it went down until it was back with its old configuration.
func TestLabDowntimeOfAFailedRestart(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		const host, log = "pg15", "/var/log/postgresql/postgresql-15-main.log"
		fresh(t, host)
		look(t, host, ": >"+log)
		b := newBench(t, tooMuchMemory(""), host)
		s := b.Want(1, "apply", "--yes")
		wantWords(t, s.All(), "everything was put back")
		said := regexp.MustCompile(`was down for ([0-9.]+)s`).FindStringSubmatch(s.All())
		if said == nil {
			t.Fatalf("it is not said how long it was down:\n%s", s.All())
		}
		down, _ := strconv.ParseFloat(said[1], 64)
		seen, err := strconv.ParseFloat(strings.TrimSpace(look(t, host, `from=$(grep -m 1 'fast shutdown request' `+log+` | cut -d' ' -f1-2)
to=$(grep 'ready to accept connections' `+log+` | tail -n 1 | cut -d' ' -f1-2)
echo "$(date -d "$to" +%s.%N) - $(date -d "$from" +%s.%N)" | awk '{ print $1 - $3 }'`)), 64)
		if err != nil {
			t.Fatal(err)
		}
		if down < seen-0.5 || down > seen+0.5 {
			t.Errorf("its log says that it was down for %.2fs, pgfleet %.1fs", seen, down)
		}
		t.Logf("PROOF: a failed restart: down for %.1fs, its log says %.2fs\n", down, seen)
	})
}

// A server that cannot say whether a transaction of an earlier run is open fails
// alone, within what may fail.
func TestLabServerThatCannotSay(t *testing.T) {
	t.Run("postgres-13", func(t *testing.T) {
		const broken, other = "pg13", "pg15"
		fresh(t, broken, other)
		for _, h := range []string{broken, other} {
			look(t, h, "rm -f /etc/pgfleet-second")
		}
		rename := func(from, to string) {
			look(t, broken, "cd /; runuser -u postgres -- psql -Xq -c 'SET allow_system_table_mods = on' -c 'ALTER VIEW pg_catalog."+from+" RENAME TO "+to+"'")
		}
		rename("pg_locks", "pg_locks_away")
		t.Cleanup(func() { rename("pg_locks_away", "pg_locks") })
		b := newBench(t, second, broken, other)
		b.edit("fleet.toml", "\n[[task]]", "\n[rollout]\nbatches = 1\nmax_failures = 1\n\n[[task]]")
		s := b.Want(1, "apply", "--yes")
		wantWords(t, s.All(), "its lease was given back, and nothing was changed: whether a transaction of an earlier run is open is not known: ", "pg15: left alone: pg13 failed, and max_failures = 1 allows no more", "1 failed, 1 stopped")
		b.edit("fleet.toml", "max_failures = 1", "max_failures = 2")
		s = b.Want(1, "apply", "--yes")
		wantWords(t, s.All(), "1 changed, 0 unchanged, 1 failed")
		look(t, other, "grep -qx second /etc/pgfleet-second")
		look(t, broken, "[ ! -e /etc/pgfleet-second ] && [ ! -e /var/lib/pgfleet/lease ] && grep -q 'lease 2 given back' /var/lib/pgfleet/log")
	})
}

// A new database is never open to everybody: not even where pgfleet is killed
// between the statement that makes it and those that take CONNECT from PUBLIC.
// The next apply finishes it, and nothing is due then.
func TestLabDatabaseIsNeverOpen(t *testing.T) {
	for _, v := range sampled(15, 18) {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			served(t, host)
			b := newBench(t, "\n[[task]]\nname = \"Database\"\nkind = \"database\"\ndatabase = \"shop\"\nowner = \"reports\"\nsettings = { work_mem = \"5MB\" }\n", host)
			inShop := strings.Replace(appLogin, "dbname=postgres", "dbname=shop", 1)
			statements := []string{
				"CREATE DATABASE shop OWNER reports CONNECTION LIMIT 0", "REVOKE CONNECT, TEMPORARY ON DATABASE shop FROM PUBLIC",
				"ALTER DATABASE shop SET work_mem TO '5MB'", "ALTER DATABASE shop CONNECTION LIMIT -1",
			}
			inOrder(t, b.Want(2, "plan", "--detailed-exitcode").Stdout, statements...)

			// Somebody's lock keeps the second step from its end.
			look(t, host, "cd /; nohup setsid runuser -u postgres -- psql -Xqc "+labtest.Quote("SET application_name = 'holder'; BEGIN; LOCK pg_db_role_setting IN SHARE MODE; SELECT pg_sleep(50)")+" >/dev/null 2>&1 & sleep 0.5")
			come := moment(t, host, "", asks+"\"SELECT 'now' FROM pg_locks WHERE NOT granted\" | grep -q now")
			r := b.start("apply", "--yes")
			come(r)
			r.signal(syscall.SIGKILL)
			<-r.ended
			sql(t, host, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name IN ('holder', 'pgfleet')")
			if got := letsIn(t, host, inShop); !strings.Contains(got, "too many connections for database") {
				t.Errorf("the database is half made, and the application is told: %s", got)
			}
			if got := sql(t, host, "SELECT datconnlimit, datacl FROM pg_database WHERE datname = 'shop'"); got != "0|" {
				t.Errorf("the database is half made: %s", got)
			}
			s := b.Want(2, "plan", "--detailed-exitcode").Stdout
			inOrder(t, s, statements[1:]...)
			if strings.Contains(s, "CREATE DATABASE") {
				t.Errorf("it is made again:\n%s", s)
			}
			b.Want(0, "apply", "--yes", "--lock-wait", "30s")
			b.Want(0, "plan", "--detailed-exitcode")
			if got := sql(t, host, "SELECT datconnlimit, datacl FROM pg_database WHERE datname = 'shop'"); got != "-1|{reports=CTc/reports}" {
				t.Errorf("the database: %s", got)
			}
			if got := letsIn(t, host, inShop); !strings.Contains(got, "permission denied for database") {
				t.Errorf("the application is told: %s", got)
			}
			// Whoever closes one by hand that is as declared finds it so.
			sql(t, host, "ALTER DATABASE shop CONNECTION LIMIT 0")
			b.Want(0, "plan", "--detailed-exitcode")
		})
	}
}

// inOrder demands words in this order.
func inOrder(t *testing.T, text string, words ...string) {
	t.Helper()
	at := 0
	for _, w := range words {
		i := strings.Index(text[at:], w)
		if i < 0 {
			t.Errorf("no %q, or not in this order:\n%s", w, text)
			return
		}
		at += i + len(w)
	}
}
