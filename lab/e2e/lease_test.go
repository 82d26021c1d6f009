//go:build lab

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// A started is a run of pgfleet that goes on.
type started struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   labtest.Output
	ended chan struct{}
}

// says waits until the run has printed some words.
func (s *started) says(words string) {
	s.t.Helper()
	for range 600 {
		if strings.Contains(s.out.String(), words) {
			return
		}
		select {
		case <-s.ended:
			if !strings.Contains(s.out.String(), words) {
				s.t.Fatalf("it ended without saying %q:\n%s", words, s.out.String())
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.t.Fatalf("it did not say %q:\n%s", words, s.out.String())
}

// start starts pgfleet, which is killed at the end of the test.
func (b *bench) start(args ...string) *started {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	s := &started{t: b.T, cmd: b.Command(ctx, args...), ended: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		b.T.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	b.T.Cleanup(func() {
		cancel()
		<-s.ended
		if b.T.Failed() {
			b.T.Logf("pgfleet %s:\n%s", strings.Join(args, " "), s.out.String())
		}
	})
	return s
}

func (s *started) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("%v: %v\n%s", sig, err, s.out.String())
	}
}

// end waits until the run has ended, with this exit code.
func (s *started) end(code int) string {
	s.t.Helper()
	<-s.ended
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d:\n%s", got, code, s.out.String())
	}
	return s.out.String()
}

// until waits until a script succeeds on a host.
func until(t *testing.T, host, script string) {
	t.Helper()
	look(t, host, "for i in $(seq 300); do if "+script+"; then exit 0; fi; sleep 0.1; done; exit 1")
}

func wantWords(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

// slow is a task in the middle of which a run can be caught: it says that it has
// begun, and waits.
const slow = `
[[task]]
name = "Slow"
kind = "command"
run = "touch /run/e2e-began; until [ -e /run/e2e-go ]; do sleep 0.1; done; touch /run/e2e-slow"
creates = "/run/e2e-slow"
`

const second = `
[[task]]
name = "The second operator's"
kind = "file"
path = "/etc/pgfleet-second"
content = "second\n"
`

func leaseBenches(t *testing.T, tasks string, host string, more ...string) (first, other *bench) {
	t.Helper()
	for _, h := range append(more, host) {
		fresh(t, h)
		look(t, h, "rm -rf /run/e2e-* /etc/pgfleet-second /etc/pgfleet-late /var/lib/pgfleet")
	}
	return newBench(t, slow+tasks, host), newBench(t, second, append(more, host)...)
}

// Two operators at once: one wins, and the other is told who and since when, and
// goes on after the first if told to wait.
func TestLabTwoOperators(t *testing.T) {
	t.Run("postgres-17", func(t *testing.T) {
		b, other := leaseBenches(t, "", "pg17", "pg15")
		first := b.start("apply", "--yes")
		until(t, "pg17", "[ -e /run/e2e-began ]")
		holder := strings.TrimSpace(look(t, "pg17", "sed -n 's/^holder //p' /var/lib/pgfleet/lease"))
		since := strings.TrimSpace(look(t, "pg17", "sed -n 's/^since //p' /var/lib/pgfleet/lease"))
		if mode := look(t, "pg17", "cd /var/lib/pgfleet; stat -c '%U %a %n' . lease lock log token"); mode != "root 755 .\nroot 644 lease\nroot 644 lock\nroot 644 log\nroot 644 token\n" {
			t.Errorf("on the host:\n%s", mode)
		}
		var clock int64
		fmt.Sscan(since, &clock)
		who := fmt.Sprintf("%s has been applying here since %s", holder, time.Unix(clock, 0).Format(time.TimeOnly))

		wantWords(t, other.Want(0, "plan").Stdout, "pg17: "+who)
		refused := other.Want(1, "apply", "--yes")
		wantWords(t, refused.All(), who, fmt.Sprintf("pid %d", first.cmd.Process.Pid), "wait with --lock-wait 10m, or see pgfleet unlock", "nothing was changed, because pg17 is not free")
		for _, h := range []string{"pg15", "pg17"} {
			if got := look(t, h, "ls /etc/pgfleet-second 2>/dev/null || true"); got != "" {
				t.Errorf("%s was changed by who was refused", h)
			}
		}
		if got := look(t, "pg15", "ls /var/lib/pgfleet"); got != "lock\nlog\ntoken\n" {
			t.Errorf("on pg15, whose lease was given back: %q", got)
		}

		waiting := other.start("apply", "--yes", "--lock-wait", "1m")
		time.Sleep(1500 * time.Millisecond)
		look(t, "pg17", "touch /run/e2e-go")
		first.end(0)
		wantWords(t, waiting.end(0), "pg17: waiting for its lease: "+who)
		for _, h := range []string{"pg15", "pg17"} {
			look(t, h, "grep -qx second /etc/pgfleet-second")
		}
		if got := look(t, "pg17", "cd /var/lib/pgfleet; ls lease 2>/dev/null; cat token"); got != "2\n" {
			t.Errorf("after both: %q", got)
		}
		log := other.Want(0, "log", "-l", "pg17", "-n", "6").Stdout
		at := 0
		for _, line := range []string{"lease 1 taken: pgfleet apply --yes=true", "step 1/1 done: Slow", "lease 1 given back",
			"lease 2 taken: pgfleet apply --lock-wait=1m0s --yes=true", "step 1/1 done: The second operator's", "lease 2 given back"} {
			i := strings.Index(log[at:], line)
			if i < 0 {
				t.Fatalf("no %q, or not in order:\n%s", line, log)
			}
			at += i
		}
		wantWords(t, other.Want(0, "log", "-l", "pg17", "--json").Stdout, `"what": "lease 2 given back"`, `"who": "`+holder)
		t.Logf("PROOF: the second operator was told: %s\n", who)
	})
}

// An operator whose run was stopped, whose lease ran out and was taken by another
// one, writes nothing when the run goes on: neither file nor command nor SQL.
func TestLabStaleLease(t *testing.T) {
	late := map[string]string{
		"file":     "kind = \"file\"\npath = \"/etc/pgfleet-late\"\ncontent = \"late\\n\"\n",
		"command":  "kind = \"command\"\nrun = \"touch /etc/pgfleet-late\"\ncreates = \"/etc/pgfleet-late\"\n",
		"settings": "kind = \"settings\"\nfile = \"99-late.conf\"\nsettings = { log_connections = true }\n",
		"role":     "kind = \"role\"\nrole = \"late\"\n",
		"database": "kind = \"database\"\ndatabase = \"late\"\n",
		"psql":     "kind = \"psql\"\nscript = \"late.sql\"\nunless = \"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'late')\"\n",
	}
	for v, kinds := range map[int][]string{13: {"role"}, 15: {"file", "settings", "database"}, 17: {"command", "psql", "role"}, 18: {"role"}} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			for _, kind := range kinds {
				b, other := leaseBenches(t, "\n[[task]]\nname = \"Late\"\n"+late[kind], host)
				b.Write("late.sql", "CREATE ROLE late;\n")
				first := b.start("apply", "--yes", "--lease-ttl", "2s")
				until(t, host, "[ -e /run/e2e-began ]")
				first.signal(syscall.SIGSTOP)
				look(t, host, "touch /run/e2e-go")
				other.Want(0, "apply", "--yes", "--lock-wait", "20s")
				first.signal(syscall.SIGCONT)
				out := first.end(1)
				wantWords(t, out, "this run's lease was taken away, as pgfleet log shows, so nothing more is written here")
				left := look(t, host, "ls /etc/pgfleet-late /etc/postgresql/*/main/conf.d/99-late.conf 2>/dev/null || true")
				left += sql(t, host, "SELECT rolname FROM pg_roles WHERE rolname = 'late' UNION SELECT datname FROM pg_database WHERE datname = 'late'")
				if left != "" {
					t.Errorf("%s: the late write was done: %s\n%s", kind, left, out)
				}
				if got := look(t, host, "cat /etc/pgfleet-second; ls /var/lib/pgfleet/lease 2>/dev/null || true"); got != "second\n" {
					t.Errorf("%s: the second operator's: %q", kind, got)
				}
				t.Logf("PROOF: %s on %s was refused by the host after the lease was another's\n", kind, host)
			}
		})
	}
}

// A script that is running when its run is stopped is waited for, and what comes
// after it is refused, with the name of who has the lease.
func TestLabStaleScript(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		b, other := leaseBenches(t, "", "pg15")
		b.fleet(`
[[task]]
name = "Long"
kind = "psql"
script = "long.sql"
unless = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'long')"

[[task]]
name = "Late"
kind = "role"
role = "late"
`, "pg15")
		b.Write("long.sql", "SELECT pg_sleep(5);\nCREATE ROLE long;\n")
		other.fleet(second+slow, "pg15")
		first := b.start("apply", "--yes", "--lease-ttl", "1s")
		until(t, "pg15", `[ "$(cd /; runuser -u postgres -- psql -XAtqc "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")" = 1 ]`)
		first.signal(syscall.SIGSTOP)
		time.Sleep(2500 * time.Millisecond)
		third := other.start("apply", "--yes", "--lock-wait", "30s")
		until(t, "pg15", "[ -e /run/e2e-began ]")
		if got := sql(t, "pg15", "SELECT count(*) FROM pg_roles WHERE rolname = 'long'"); got != "1" {
			t.Error("the lease was taken while the script was running")
		}
		holder := strings.TrimSpace(look(t, "pg15", "sed -n 's/^holder //p' /var/lib/pgfleet/lease"))
		first.signal(syscall.SIGCONT)
		wantWords(t, first.end(1), "this run's lease was taken by "+holder+" at ", "so nothing more is written here")
		look(t, "pg15", "touch /run/e2e-go")
		third.end(0)
		if got := sql(t, "pg15", "SELECT count(*) FROM pg_roles WHERE rolname = 'late'"); got != "0" {
			t.Error("the late role was made")
		}
	})
}

// The lease of a run that was killed runs out, and the next one takes over: at
// once on the machine where that can be seen.
func TestLabKilledHolder(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		b, other := leaseBenches(t, "", "pg15")
		kill := func() {
			look(t, "pg15", "rm -f /run/e2e-*")
			first := b.start("apply", "--yes", "--lease-ttl", "6s")
			until(t, "pg15", "[ -e /run/e2e-began ]")
			first.signal(syscall.SIGKILL)
			<-first.ended
			look(t, "pg15", "touch /run/e2e-go")
			until(t, "pg15", "[ -e /run/e2e-slow ]")
		}
		kill()
		look(t, "pg15", "sed -i 's/^process .*/process elsewhere/' /var/lib/pgfleet/lease")
		wantWords(t, other.Want(1, "apply", "--yes").All(), "has been applying here")
		other.Want(0, "apply", "--yes", "--lock-wait", "30s")
		kill()
		look(t, "pg15", "rm /etc/pgfleet-second")
		other.Want(0, "apply", "--yes")
		wantWords(t, other.Want(0, "log").Stdout, "lease 1 of ", "was never given back", "lease 4 taken")
	})
}

// unlock shows whose the lease is, and takes it away; the run that had it ends.
func TestLabUnlock(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		b, other := leaseBenches(t, "\n[[task]]\nname = \"Late\"\nkind = \"file\"\npath = \"/etc/pgfleet-late\"\ncontent = \"late\\n\"\n", "pg15")
		wantWords(t, other.Want(0, "unlock", "--yes").Stdout, "nobody is applying")
		wantWords(t, other.Want(0, "log").Stdout, "pgfleet has changed nothing here")
		first := b.start("apply", "--yes")
		until(t, "pg15", "[ -e /run/e2e-began ]")
		wantWords(t, other.Want(2, "unlock").All(), "add --yes")
		busy := other.Want(1, "unlock", "--yes")
		wantWords(t, busy.All(), "has been applying here since", "pgfleet apply --yes=true", "if it is not renewed", "lease 1 taken", "something is being written with it", "pid ")
		first.signal(syscall.SIGSTOP)
		look(t, "pg15", "touch /run/e2e-go")
		until(t, "pg15", "[ -e /run/e2e-slow ]")
		wantWords(t, other.Want(0, "unlock", "--yes").Stdout, "was taken away")
		other.Want(0, "apply", "--yes")
		first.signal(syscall.SIGCONT)
		wantWords(t, first.end(1), "this run's lease was taken away, as pgfleet log shows")
		if got := look(t, "pg15", "ls /etc/pgfleet-late 2>/dev/null || true"); got != "" {
			t.Error("the late file was written")
		}
		wantWords(t, other.Want(0, "log").Stdout, " taken away", "lease 3 taken")
	})
}

// A host on which no lease can be taken, because nothing can be written there,
// fails alone.
func TestLabLeaseReadOnly(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		_, other := leaseBenches(t, "", "pg15", "pg17")
		look(t, "pg15", "mkdir -p /var/lib/pgfleet && mount -t tmpfs -o ro,mode=755 none /var/lib/pgfleet")
		t.Cleanup(func() { look(t, "pg15", "umount /var/lib/pgfleet") })
		wantWords(t, other.Want(1, "apply", "--yes").All(), "its lease could not be taken, so nothing was changed", "Read-only file system")
		look(t, "pg17", "grep -qx second /etc/pgfleet-second")
		look(t, "pg15", "[ ! -e /etc/pgfleet-second ]")
	})
}
