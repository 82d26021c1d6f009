//go:build lab

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// risky is a step that restarts the server, with a file that is new and two that
// there are.
const risky = `
[[task]]
name = "Memory"
kind = "settings"
file = "50-risky.conf"
settings = { max_connections = "77", work_mem = "5MB" }

[[task]]
name = "Who"
kind = "hba"
rules = ["local all postgres peer"]

[[task]]
name = "PostgreSQL"
kind = "service"
`

// newFile is the one of its files that was not there.
const newFile = "/etc/postgresql/VERSION/main/conf.d/50-risky.conf"

// reloading is a step that a reload applies.
var reloading = strings.Replace(risky, `max_connections = "77", `, "", 1)

// later is a step that restarts the server for what an earlier one wrote.
var later = strings.Replace(risky, "\n[[task]]\nname = \"PostgreSQL\"", motd+"\n[[task]]\nname = \"PostgreSQL\"", 1)

// A cut is an apply that is stopped from outside once its files are in place.
type cut struct {
	b      *bench
	host   string
	before map[string]string // the host's configuration
	out    *bytes.Buffer
	cmd    *exec.Cmd
}

func (c *cut) signal(s syscall.Signal) { _ = c.cmd.Process.Signal(s) }

// cutAt runs apply and sends it a signal once the host has the new files.
func cutAt(t *testing.T, host, deadMan string, signal syscall.Signal) *cut {
	t.Helper()
	return cutOnce(t, risky, newFile, host, deadMan, signal)
}

// cutOnce is cutAt for other tasks, once the host has some files, given as globs.
func cutOnce(t *testing.T, tasks, files, host, deadMan string, signal syscall.Signal) *cut {
	t.Helper()
	fresh(t, host)
	b := newBench(t, tasks, host)
	b.withCA()
	c := &cut{b: b, host: host, before: etcFiles(t, host), out: new(bytes.Buffer)}
	files = strings.ReplaceAll(files, "VERSION", fmt.Sprint(fleet.Lab.Host(host).Postgres))
	there := func() bool {
		for _, f := range strings.Fields(files) {
			if found, err := filepath.Glob(filepath.Join(fleet.Lab.Host(host).Root(), f)); err != nil || len(found) == 0 {
				return false
			}
		}
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := b.Command(ctx, "apply", "--yes", "--dead-man", deadMan)
	cmd.Stdout, cmd.Stderr = c.out, c.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.cmd = cmd
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if there() {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the files were never put in place:\n%s", c.out)
		}
	}
	c.signal(signal)
	if signal == syscall.SIGKILL {
		_ = cmd.Wait()
	}
	if armed(t, host) == "" {
		t.Fatalf("the host is not armed in the middle of a step\n%s", c.out)
	}
	return c
}

// armed says what the dead-man of a host consists of.
func armed(t *testing.T, host string) string {
	t.Helper()
	return look(t, host, `find /var/lib/pgfleet/undo -mindepth 1 ! -name '*.note' ! -name 'postgresql@*' 2>/dev/null
find /etc/systemd/system /run/systemd -name 'pgfleet-undo*'
systemctl list-timers --all | grep pgfleet-undo
systemctl list-units --all | grep pgfleet-undo
systemctl list-unit-files | grep pgfleet-undo
true`)
}

// comesBack waits until the dead-man has done its work, and looks whether all is
// as before.
func (c *cut) comesBack(t *testing.T, within time.Duration, by string) {
	t.Helper()
	start := time.Now()
	for armed(t, c.host) != "" {
		if time.Since(start) > within {
			t.Fatalf("not back after %v: %s", within, armed(t, c.host)+look(t, c.host, "journalctl -n 40 --no-pager; cat /var/lib/pgfleet/undo/*/*.note"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("PROOF: all was back %v after the cut", time.Since(start).Round(100*time.Millisecond))
	c.asBefore(t, by)
}

func (c *cut) asBefore(t *testing.T, by string) {
	t.Helper()
	after := etcFiles(t, c.host)
	for path := range after {
		if strings.Contains(path, "/.pgfleet.") && !strings.Contains(path, ".undo.") {
			continue // where a certificate was made: the next run removes that
		}
		if c.before[path] != after[path] {
			t.Errorf("%s is %q and was %q", path, after[path], c.before[path])
		}
	}
	for path := range c.before {
		if _, ok := after[path]; !ok {
			t.Errorf("%s is gone", path)
		}
	}
	if got := sql(t, c.host, "SELECT current_setting('max_connections') || current_setting('work_mem') || ' ' || (SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL) || ' ' || (SELECT count(*) > 3 FROM pg_hba_file_rules)"); got != "1004MB 0 true" {
		t.Errorf("the server does not run with the old files: %s", got)
	}
	if note := look(t, c.host, "cat /var/lib/pgfleet/undo/*/fired.note"); !strings.Contains(note, "\nby "+by+"\n") || !strings.Contains(note, "\nback ") || strings.Contains(note, "failed") || strings.Contains(note, "problem") {
		t.Errorf("the note is:\n%s", note)
	}
	if left := look(t, c.host, "find /etc/postgresql -name '.pgfleet.undo*'; cat /var/lib/pgfleet/*.files 2>/dev/null || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// finishes says what the next run makes of it.
func (c *cut) finishes(t *testing.T) {
	t.Helper()
	if s := c.b.Want(0, "plan"); !strings.Contains(s.Stdout, "the host put the old files back by itself at") {
		t.Errorf("the plan does not say what happened:\n%s", s.All())
	}
	c.b.Want(0, "apply", "--yes")
	if got := sql(t, c.host, "SHOW max_connections"); got != "77" {
		t.Errorf("max_connections is %s", got)
	}
	if left := armed(t, c.host) + look(t, c.host, "ls -A /var/lib/pgfleet/undo"); left != "" {
		t.Errorf("an ordinary apply left behind: %s", left)
	}
	if s := c.b.Want(0, "plan", "--detailed-exitcode"); strings.Contains(s.Stdout, "by itself") {
		t.Errorf("the plan still speaks of it:\n%s", s.Stdout)
	}
}

// pgfleet killed by a real -9 when its files are in place: within the time that
// it was given, the host has the old files and a server that runs with them.
func TestLabDeadManKilled(t *testing.T) {
	for _, v := range sampled(13, 18) {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			c := cutAt(t, fmt.Sprintf("pg%d", v), "6s", syscall.SIGKILL)
			c.comesBack(t, 25*time.Second, "timer")
			c.finishes(t)
		})
	}
}

// A host that loses its power in the middle of a step, also while it is putting
// back, has the old files before PostgreSQL starts.
func TestLabDeadManReboot(t *testing.T) {
	for _, v := range sampled(15, 17) {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			c := cutAt(t, host, "5m", syscall.SIGKILL)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			h := fleet.Lab.Host(host)
			if v == 15 || v == 17 {
				// Killed at some points of its work, it has not lost its way.
				look(t, host, `for ms in 20 40 60 80 120; do setsid sh /var/lib/pgfleet/undo/*/restore timer >/dev/null 2>&1 & sleep 0.$(printf %03d $ms); kill -9 -- -$!; wait $!; done; test -e /var/lib/pgfleet/undo/*/restore`)
			}
			if v == 13 || v == 17 {
				if err := h.Reboot(ctx); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := h.Kill(ctx); err != nil {
					t.Fatal(err)
				}
				if err := h.Start(ctx); err != nil {
					t.Fatal(err)
				}
			}
			// Nothing restarts the server after a boot: what it runs with, it found.
			c.asBefore(t, "boot")
			c.finishes(t)
		})
	}
}

// However pgfleet is lost, and whatever the step is: the host has the old files
// within the time that it was given.
func TestLabDeadManFires(t *testing.T) {
	for _, test := range []struct {
		name string
		v    int
		run  func(t *testing.T, host string)
	}{
		{"stopped", 15, stopped},
		{"stopped", 17, stopped},
		{"network", 13, networkCut},
		{"unit", 18, unitPutBack},
	} {
		t.Run(fmt.Sprintf("%s/postgres-%d", test.name, test.v), func(t *testing.T) {
			t.Parallel()
			test.run(t, fmt.Sprintf("pg%d", test.v))
		})
	}
}

// stopped: pgfleet that comes back after the host has given it up says so, and
// fails.
func stopped(t *testing.T, host string) {
	c := cutAt(t, host, "5s", syscall.SIGSTOP)
	c.comesBack(t, 25*time.Second, "timer")
	started := sql(t, c.host, "SELECT pg_postmaster_start_time()")
	c.signal(syscall.SIGCONT)
	_ = c.cmd.Wait()
	if code := c.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(c.out.String(), "the host put the old files back by itself at") || !strings.Contains(c.out.String(), "because no word came from pgfleet for 5s") {
		t.Errorf("exit %d\n%s", code, c.out)
	}
	c.asBefore(t, "timer")
	if now := sql(t, c.host, "SELECT pg_postmaster_start_time()"); now != started {
		t.Errorf("the server was restarted once more: at %s and at %s\n%s", started, now, c.out)
	}
}

// networkCut: the host's network goes down and stays down.
func networkCut(t *testing.T, host string) {
	c := cutOnce(t, reloading, newFile, host, "5s", syscall.SIGSTOP)
	look(t, host, "ip link set host0 down")
	defer look(t, host, "ip link set host0 up; for i in $(seq 50); do ip route get 10.0.0.1 >/dev/null 2>&1 && exit; sleep 0.1; done; true")
	c.signal(syscall.SIGCONT)
	c.comesBack(t, 25*time.Second, "timer")
	c.signal(syscall.SIGKILL)
	_ = c.cmd.Wait()
}

// unitPutBack: systemd's own units are put back as well, and it reads them again.
func unitPutBack(t *testing.T, host string) {
	look(t, host, "mkdir -p /etc/systemd/system/postgresql@.service.d")
	c := cutOnce(t, "\n[[task]]\nname = \"Files\"\nkind = \"file\"\npath = \"/etc/systemd/system/postgresql@.service.d/limits.conf\"\ncontent = \"[Service]\\nLimitNOFILE=4711\\n\"\n",
		"/etc/systemd/system/postgresql@.service.d/limits.conf", host, "5s", syscall.SIGKILL)
	c.comesBack(t, 25*time.Second, "timer")
	if got := look(t, host, "systemctl show -p LimitNOFILE postgresql@18-main; systemctl is-active postgresql@18-main"); strings.Contains(got, "4711") || !strings.Contains(got, "\nactive\n") {
		t.Errorf("the host has:\n%s", got)
	}
	look(t, host, "rmdir /etc/systemd/system/postgresql@.service.d")
}

// A restart for what earlier steps wrote: their files come back with it. A
// certificate and its key, which never leaves the host. Whoever applies next finds
// the open step, has it put back, and then plans and applies.
func TestLabDeadManOpenStep(t *testing.T) {
	for _, test := range []struct {
		name, tasks, files string
		v                  int
	}{
		{"earlier steps", later, "/var/lib/pgfleet/history/*/postgresql@VERSION-main/002 /var/lib/pgfleet/undo/postgresql@VERSION-main/restore", 15},
		{"a certificate", serverTasks, "/etc/postgresql/VERSION/main/server.pem", 17},
		{"a reload", reloading, newFile, 13},
		{"a restart", risky, newFile, 18},
	} {
		t.Run(fmt.Sprintf("%s/postgres-%d", test.name, test.v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", test.v)
			look(t, host, "rm -f /etc/motd.pgfleet")
			c := cutOnce(t, test.tasks, test.files, host, "5m", syscall.SIGKILL)
			if test.v == 15 { // this step was done, and stays
				look(t, host, "rm /etc/motd.pgfleet; sed -i '/motd/d' /var/lib/pgfleet/*.files")
			}
			if s := c.b.Run("plan"); !strings.Contains(s.All(), "or at the next apply") {
				t.Errorf("the plan does not speak of the open step:\n%s", s.All())
			}
			s := c.b.Want(0, "apply", "--yes")
			if !strings.Contains(s.All(), "the host put the old files back at") || !strings.Contains(s.All(), "because the next run found a step that was not ended") {
				t.Errorf("apply says:\n%s", s.All())
			}
			c.b.Want(0, "plan", "--detailed-exitcode")
			if left := armed(t, host) + look(t, host, "ls -A /var/lib/pgfleet/undo"); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// What the account postgres puts in the place of its files leads root nowhere, and
// the old files come back all the same, or once their folder is there again.
func TestLabDeadManPlantedLinks(t *testing.T) {
	t.Parallel()
	t.Run("postgres-17", func(t *testing.T) {
		host := "pg17"
		c := cutAt(t, host, "5m", syscall.SIGKILL)
		look(t, host, `cp -a /etc/profile /root/profile; cd /etc/postgresql/17/main
runuser -u postgres -- ln -sf /etc/profile pg_hba.conf
runuser -u postgres -- ln -sf /etc/profile conf.d/50-risky.conf
runuser -u postgres -- ln -s /etc .pgfleet.undo.planted`)
		look(t, host, "sh /var/lib/pgfleet/undo/*/restore run")
		c.asBefore(t, "run")
		look(t, host, "cmp /etc/profile /root/profile && [ \"$(stat -c %U /etc/profile)\" = root ] && test -e /etc/passwd")
	})
	t.Run("a folder/postgres-17", func(t *testing.T) {
		host := "pg17"
		c := cutAt(t, host, "5m", syscall.SIGKILL)
		look(t, host, `cd /etc/postgresql/17/main; mv conf.d /root/conf.d; touch /etc/profile.d/50-risky.conf; runuser -u postgres -- ln -s /etc/profile.d conf.d`)
		s := c.b.Want(1, "apply", "--yes")
		if !strings.Contains(s.All(), "it could not do all of it") || !strings.Contains(s.All(), "conf.d/50-risky.conf") {
			t.Errorf("apply says:\n%s", s.All())
		}
		look(t, host, `test -e /etc/profile.d/50-risky.conf && rm /etc/profile.d/50-risky.conf; cd /etc/postgresql/17/main; rm conf.d; mv /root/conf.d .`)
		if s := c.b.Run("plan"); !strings.Contains(s.All(), "the next apply tries again") {
			t.Errorf("the plan says:\n%s", s.All())
		}
		look(t, host, "sh /var/lib/pgfleet/undo/*/restore run")
		c.asBefore(t, "run")
	})
}

// A step that takes longer than the host waits is none of one that died.
func TestLabDeadManWaits(t *testing.T) {
	t.Parallel()
	for _, v := range []int{13, 18} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			const slow = "/etc/systemd/system/postgresql@.service.d"
			look(t, host, "mkdir "+slow+"; printf '[Service]\nExecStartPre=/bin/sleep 7\n' >"+slow+"/slow.conf; systemctl daemon-reload")
			defer look(t, host, "rm -r "+slow+"; systemctl daemon-reload")
			b := newBench(t, risky, host)
			s := b.Want(0, "apply", "--yes", "--dead-man", "5s")
			if got := sql(t, host, "SHOW max_connections"); got != "77" || s.Took < 7*time.Second {
				t.Errorf("max_connections is %s after %v", got, s.Took)
			}
			if left := armed(t, host) + look(t, host, "ls -A /var/lib/pgfleet/undo"); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}
