//go:build lab

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// threeSteps are a file, the server's configuration with a restart, and a file
// that holds a secret.
const threeSteps = `
[[task]]
name = "First"
kind = "file"
path = "/etc/pgfleet-first"
content = "first\n"

[[task]]
name = "Logging"
kind = "settings"
file = "30-log.conf"
settings = { log_connections = true, max_connections = 123 }

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "Last"
kind = "file"
path = "/etc/pgfleet-last"
content = "{{ secret \"env:TOKEN\" }}"
mode = "0600"
`

// journals returns the text of each journal of the bench's operator, by the
// file's name.
func (b *bench) journals() map[string]string {
	b.T.Helper()
	names, err := filepath.Glob(filepath.Join(b.Home, ".local/state/pgfleet/runs/*.jsonl"))
	if err != nil {
		b.T.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			b.T.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".jsonl")] = string(text)
	}
	return all
}

// A listed run is what runs list --json says of it.
type listed struct {
	Run, Outcome, Command, Resumes string
	Instances, Changed, Failed     int
}

// runs lists the runs, the newest first. Each one's chain has to hold.
func (b *bench) runs() []listed {
	b.T.Helper()
	var doc struct{ Runs []listed }
	if err := json.Unmarshal([]byte(b.Want(0, "runs", "list", "--json").Stdout), &doc); err != nil {
		b.T.Fatal(err)
	}
	for _, r := range doc.Runs {
		if s := b.Want(0, "runs", "show", r.Run); !strings.Contains(s.Stdout, "the chain holds") {
			b.T.Errorf("runs show %s:\n%s", r.Run, s.All())
		}
	}
	return doc.Runs
}

// killedWhile begins an apply and kills it when all hosts are in their second step,
// as the journal says, and one of them does there what the phase says.
func (b *bench) killedWhile(phase string, hosts int, args ...string) {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := b.Command(ctx, args...)
	out, err := os.Create(filepath.Join(b.T.TempDir(), "out"))
	if err != nil {
		b.T.Fatal(err)
	}
	defer out.Close()
	said := func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			b.T.Fatal(err)
		}
		return string(text)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		b.T.Fatal(err)
	}
	begun := func() bool {
		for _, text := range b.journals() {
			n := 0
			for line := range strings.Lines(text) {
				if strings.Contains(line, `"kind":"step started"`) && strings.Contains(line, `"step":2,`) {
					n++
				}
			}
			return n == hosts
		}
		return false
	}
	for !begun() || !strings.Contains(said(), phase) {
		if ctx.Err() != nil {
			b.T.Fatalf("the second steps never began\n%s", said())
		}
		time.Sleep(5 * time.Millisecond)
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != -1 {
		b.T.Fatalf("it ended before it was killed\n%s", said())
	}
}

// A run that is killed in the middle of a step on two hosts has died, and resume
// finishes it without doing again what stands; also that of a saved plan.
func TestLabResumed(t *testing.T) {
	for _, v := range []int{15, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			hosts := []string{fmt.Sprintf("pg%d", v), fmt.Sprintf("pg%d", map[int]int{15: 13, 17: 18}[v])}
			fresh(t, hosts...)
			remove := func() {
				for _, h := range hosts {
					look(t, h, "rm -f /etc/pgfleet-first /etc/pgfleet-last")
				}
			}
			remove()
			t.Cleanup(remove)
			b := newBench(t, threeSteps, hosts...)
			const token = "squeamish-ossifrage-42"
			b.Env = []string{"TOKEN=" + token}
			phase, args := "checking", []string{"apply", "--yes"}
			if v == 17 {
				b.Want(0, "plan", "--out", "a.plan")
				phase, args = "restarting", []string{"apply", "a.plan"}
			}
			b.killedWhile(phase, len(hosts), args...)
			list := b.runs()
			if len(list) != 1 || list[0].Outcome != "died" || list[0].Instances != 2 || list[0].Changed != 2 {
				t.Fatalf("after the kill: %+v", list)
			}
			died := list[0].Run
			s := b.Want(0, "runs", "show", died)
			for _, want := range []string{"died", "1. First: done", "begun, and its end is not recorded", "3. Last: not begun", "pgfleet runs resume " + died} {
				if !strings.Contains(s.Stdout, want) {
					t.Errorf("runs show has no %q:\n%s", want, s.Stdout)
				}
			}
			if s := b.Want(0, "runs", "retry", "--failed", "--yes"); !strings.Contains(s.Stdout, "failed nowhere") {
				t.Errorf("retry: %s", s.All())
			}
			time.Sleep(3 * time.Second) // what it had started on the host ends
			first := map[string]string{}
			for _, h := range hosts {
				first[h] = look(t, h, "stat -c '%i %z' /etc/pgfleet-first")
			}

			s = b.Want(0, "runs", "resume", "--yes", died[:len(died)-1])
			if strings.Contains(s.All(), "is not as it was") {
				t.Errorf("fleet.toml has not changed:\n%s", s.All())
			}
			for _, h := range hosts {
				if now := look(t, h, "stat -c '%i %z' /etc/pgfleet-first"); now != first[h] {
					t.Errorf("%s: the first file was written again: %s, was %s", h, now, first[h])
				}
				if got := sql(t, h, "SHOW max_connections"); got != "123" {
					t.Errorf("%s: max_connections is %s", h, got)
				}
				if got := look(t, h, "cat /etc/pgfleet-last"); got != token {
					t.Errorf("%s: the last file holds %q", h, got)
				}
			}
			b.Want(0, "plan", "--detailed-exitcode")
			list = b.runs()
			if len(list) != 2 || list[0].Outcome != "done" || list[0].Command != "resume" || list[0].Resumes != died {
				t.Fatalf("after resume: %+v", list)
			}

			// Nothing is left, whichever of them is asked for.
			s = b.Want(0, "runs", "resume", "--yes", died)
			if !strings.Contains(s.Stdout, "0 changes made") {
				t.Errorf("resumed again:\n%s", s.All())
			}
			if s := b.Want(0, "runs", "resume", "--yes", list[0].Run); !strings.Contains(s.Stdout, "finished everywhere") {
				t.Errorf("the run that resumed, resumed:\n%s", s.All())
			}
			if n := len(b.runs()); n != 2 {
				t.Errorf("%d runs, and the last two changed nothing", n)
			}

			for run, text := range b.journals() {
				if strings.Contains(text, token) {
					t.Errorf("the secret is in the journal of %s", run)
				}
				if !strings.Contains(text, "/etc/pgfleet-last") {
					t.Errorf("the journal of %s does not name the file of the secret, so it proves nothing", run)
				}
			}
		})
	}
}

// What failed on one of two hosts is tried again there, and nowhere else.
func TestLabRetried(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		for _, h := range []string{"pg15", "pg17"} {
			look(t, h, "rm -f /run/retried /run/mended; [ $(hostname) = pg15 ] || touch /run/mended")
		}
		b := newBench(t, `
[[task]]
name = "Do"
kind = "command"
run = "test -e /run/mended && touch /run/retried"
creates = "/run/retried"
`, "pg15", "pg17")
		// Where no journal can be kept, nothing is done.
		b.Env = []string{"XDG_STATE_HOME=/dev/null"}
		if s := b.Want(1, "apply", "--yes"); !strings.Contains(s.Stderr, "the journal of runs in /dev/null/pgfleet/runs cannot be written: not a directory; nothing was changed") {
			t.Errorf("without a journal:\n%s", s.All())
		}
		look(t, "pg17", "test ! -e /run/retried")
		b.Env = nil
		s := b.Want(1, "apply", "--yes")
		list := b.runs()
		if len(list) != 1 || list[0].Outcome != "failed" || list[0].Changed != 1 || list[0].Failed != 1 {
			t.Fatalf("%+v\n%s", list, s.All())
		}
		if n := strings.Count(s.Stdout, "run "+list[0].Run+": pgfleet runs show "+list[0].Run); n != 2 {
			t.Errorf("the run is named %d times, not at the start and at the end:\n%s", n, s.Stdout)
		}
		failed := list[0].Run
		b.Want(1, "runs", "retry", "--failed", "--yes") // it still fails
		look(t, "pg15", "touch /run/mended")
		b.edit("fleet.toml", `name = "Do"`, `name = "Do it"`)
		s = b.Want(0, "runs", "retry", "--failed", "--yes", "--json")
		if !strings.Contains(s.Stderr, "fleet.toml is not as it was") {
			t.Errorf("nothing is said of the change of fleet.toml:\n%s", s.Stderr)
		}
		var doc struct {
			Run       string
			Instances []struct{ Instance, Status string }
		}
		if err := json.Unmarshal([]byte(s.Stdout), &doc); err != nil {
			t.Fatal(err)
		}
		list = b.runs()
		if len(doc.Instances) != 1 || doc.Instances[0].Instance != "pg15" || doc.Instances[0].Status != "changed" || doc.Run != list[0].Run {
			t.Errorf("%+v", doc)
		}
		if len(list) != 3 || list[0].Command != "retry" || list[0].Resumes != list[1].Run || list[1].Resumes != failed || list[0].Outcome != "done" {
			t.Errorf("%+v", list)
		}
		look(t, "pg15", "test -e /run/retried")
		if s := b.Want(0, "runs", "retry", "--failed", "--yes"); !strings.Contains(s.Stdout, "finished everywhere") {
			t.Errorf("%s", s.All())
		}
	})
}

// When the operator's disk is full in the middle of a run, the run stops there:
// what the journal has no room for is not done.
func TestLabJournalFull(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		look(t, "pg15", "rm -rf /run/full; mkdir /run/full")
		const steps = 20
		var tasks strings.Builder
		for i := range steps {
			fmt.Fprintf(&tasks, "\n[[task]]\nname = \"Step %[1]d\"\nkind = \"command\"\nrun = \"touch /run/full/%02[1]d\"\ncreates = \"/run/full/%02[1]d\"\n", i+1)
		}
		b := newBench(t, tasks.String(), "pg15")
		state := filepath.Join(b.Home, ".local/state")
		if err := os.MkdirAll(state, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=8k,mode=700"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(state, 0); err != nil {
				t.Error(err)
			}
		})
		s := b.Want(1, "apply", "--yes")
		for _, want := range []string{"could not be recorded", "no space left on device", "could not be written, and ends before the run did"} {
			if !strings.Contains(s.All(), want) {
				t.Errorf("apply does not say %q:\n%s", want, s.All())
			}
		}
		done := strings.Count(look(t, "pg15", "ls /run/full"), "\n")
		if done == 0 || done == steps {
			t.Fatalf("%d of %d steps were done, so this proves nothing\n%s", done, steps, s.All())
		}
		list := b.runs() // the half line at the end is no damage
		if len(list) != 1 || list[0].Outcome != "died" || list[0].Changed != 1 {
			t.Fatalf("%+v", list)
		}
		begun := strings.Count(b.journals()[list[0].Run], `"kind":"step started"`)
		t.Logf("PROOF: %d of %d steps were done, and the journal announces %d\n", done, steps, begun)
		if begun < done {
			t.Errorf("%d steps were done, and the journal announces %d", done, begun)
		}
		if err := syscall.Mount("", state, "", syscall.MS_REMOUNT, "size=1m"); err != nil {
			t.Fatal(err)
		}
		b.Want(0, "runs", "resume", "--yes", list[0].Run)
		if n := strings.Count(look(t, "pg15", "ls /run/full"), "\n"); n != steps {
			t.Errorf("after resume %d of %d steps were done", n, steps)
		}
		if list := b.runs(); len(list) != 2 || list[0].Outcome != "done" {
			t.Errorf("%+v", list)
		}
	})
}
