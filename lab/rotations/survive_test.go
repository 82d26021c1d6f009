//go:build lab

package rotations

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
)

// A tally counts what was found. It may be used by several tests at once.
type tally struct {
	mu    sync.Mutex
	found map[string]int
	all   int
}

func (n *tally) add(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.found == nil {
		n.found = map[string]int{}
	}
	n.found[what]++
	n.all++
}

// TestLabRotationsSurvive has rotations die in every way, on each kind of store: the
// current secret logs in, at once with two roles, and the next rotation finishes what
// was begun.
func TestLabRotationsSurvive(t *testing.T) {
	random, seed := seeded(t)
	t.Logf("PGFLEET_ROTATIONS_SEED=%d", seed)
	var killed, failed tally
	t.Cleanup(func() {
		t.Logf("PROOF: rotations were killed with SIGKILL %d times, on four kinds of store (seed %d), and found so: %v; %d times a call of the store failed, hung, or its answer was lost, and rotate exited so: %v; with two roles the current secret always logged in, and the next rotation finished what was begun",
			killed.all, seed, killed.found, failed.all, failed.found)
	})
	onEveryStore(t, random, func(x *target, random *rand.Rand) {
		whole := x.t
		for _, c := range []struct {
			name string
			do   func()
		}{
			{"killed", func() { x.kill(random, &killed) }},
			{"store fails", func() { x.failing(random, &failed) }},
			{"primary dies", x.primaryDies},
			{"standby does not replay", x.standbyPaused},
			{"standby cannot be asked", x.standbyAway},
			{"two at once", x.twoAtOnce},
			{"gone back by hand", x.goneBack},
		} {
			ok := whole.Run(c.name, func(t *testing.T) {
				x.t, x.T = t, t
				c.do()
			})
			x.t, x.T = whole, whole
			if !ok {
				return
			}
		}
	})
}

// failures returns those to try: some of them, or all.
func failures(calls int, name string, random *rand.Rand) []fault {
	var list []fault
	for n := 1; n <= calls; n++ {
		list = append(list, fault{Call: n, Kind: faults.Before})
		if name != "age" || soaks() { // whose lock is waited for longer than others for an answer
			list = append(list, fault{Call: n, Kind: faults.Hang})
		}
		if name != "age" { // whose writes have no answer that could be lost
			list = append(list, fault{Call: n, Kind: faults.After}, fault{Call: n, From: true, Kind: faults.Before}, fault{Call: n, From: true, Kind: faults.After}, fault{Call: n, Kind: faults.HangAfter})
		}
	}
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if !soaks() {
		list = list[:1]
	}
	return list
}

// comesBack is how long a store is down without PGFLEET_SOAK: less than a rotation
// waits for it.
const comesBack = 5 * time.Second

// failing has calls of the store fail during rotations.
func (x *target) failing(random *rand.Rand, seen *tally) {
	for _, role := range []string{"shop", "svc"} {
		_, calls := x.whole(role)
		for _, f := range failures(calls, x.backend.name, random) {
			began := time.Now()
			code := x.failsAt(role, f)
			x.t.Logf("%s, %s, %v: exit code %d, in %.1fs", x.backend.name, role, f, code, time.Since(began).Seconds())
			seen.add(fmt.Sprintf("exit code %d", code))
			if x.t.Failed() {
				return
			}
		}
	}
}

func (x *target) failsAt(role string, f fault) int {
	x.t.Helper()
	x.fresh()
	x.backend.fail(x.t, x.path(role), &f)
	var back *time.Timer
	if f.From && !soaks() {
		back = time.AfterFunc(comesBack, func() { x.backend.fail(x.t, x.path(role), nil) })
	}
	s := x.Run("rotate", role, "--yes", "-l", x.cluster())
	if back == nil || back.Stop() {
		x.backend.fail(x.t, x.path(role), nil)
	}
	switch s.Code {
	case 0:
	case 1:
		has(x.t, s.All(), "pgfleet rotate", "secret")
	case 2:
		has(x.t, s.All(), "secrets could not be read, so nothing", "secret "+x.backend.name+":")
	default:
		x.t.Errorf("exit code %d\n%s", s.Code, s.All())
	}
	// In place nobody can know whether a store that does not answer any more has
	// published the new password.
	if unknown := strings.Contains(s.All(), "whether it is published is not known"); !unknown || role == "shop" {
		x.logsIn(role, "after the store failed")
	}
	if x.t.Failed() {
		x.t.Logf("%v:\n%s", f, s.All())
	}
	x.finishes(role)
	return s.Code
}

// finishes has the next rotation finish what was begun, and begin no other one.
func (x *target) finishes(role string) {
	x.t.Helper()
	x.fresh()
	stage := x.status(role)
	before, _ := x.ids(role, secrets.Pending)
	x.Want(0, "rotate", role, "--yes", "--lock-wait", "30s", "-l", x.cluster())
	now, _ := x.ids(role, secrets.Pending)
	if made := newIDs(before, now); (stage == "settled") != (made == 1) || made > 1 {
		x.t.Errorf("it was %s, and then %d versions were made", stage, made)
	}
	x.logsIn(role, "after the next rotate")
	if role == "shop" {
		x.oneHasAPassword("after the next rotate")
	}
	if s := x.status(role); s != "settled" {
		x.t.Errorf("after the next rotate it is %s", s)
	}
}

// begun begins a rotation, and returns once its journal has a line with all of these
// words. The process is stopped by then; what it prints is for later.
func (x *target) begun(role string, words ...string) (p *running) {
	x.t.Helper()
	x.fresh()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	x.t.Cleanup(cancel)
	p = &running{cmd: x.Command(ctx, "rotate", role, "--yes", "-l", x.cluster()), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	for !x.recorded(words...) {
		select {
		case <-p.ended:
			x.t.Fatalf("it ended without a record of %v\n%s", words, p.out.String())
		case <-time.After(time.Millisecond):
		}
	}
	p.signal(x.t, syscall.SIGSTOP)
	return p
}

// primaryDies kills the primary's postmaster between the change of a password and the
// login. It is started again, before rotate gives up or after that.
func (x *target) primaryDies() {
	unit := fmt.Sprintf("postgresql@%d-main", fleet.Lab.Host(x.primary).Postgres)
	start := "systemctl start " + unit + "; cd /; for i in $(seq 300); do runuser -u postgres -- pg_isready -q && exit 0; sleep 0.1; done; exit 1"
	for i, role := range []string{"shop", "svc"} {
		if other := x.primary == "a1" || x.primary == "d1"; !soaks() && other == (i == 0) {
			continue // each is done on two of the four
		}
		p := x.begun(role, `"step done"`, ": verifier")
		fleet.Look(x.t, x.primary, "systemctl kill -s KILL "+unit+"; for i in $(seq 100); do systemctl is-active -q "+unit+" || exit 0; sleep 0.1; done; exit 1")
		p.signal(x.t, syscall.SIGCONT)
		comesBack := (i == 0) == (x.primary < "c1")
		if comesBack {
			fleet.Look(x.t, x.primary, start)
		}
		code := p.wait()
		if !comesBack {
			if code != 1 {
				x.t.Errorf("%s: exit code %d though the primary was dead\n%s", role, code, p.out.String())
			}
			fleet.Look(x.t, x.primary, start)
		}
		if role == "shop" || code == 0 {
			x.logsIn(role, "after the primary died")
		}
		x.finishes(role)
		x.t.Logf("%s: the primary came back %s, exit code %d", role, map[bool]string{true: "at once", false: "later"}[comesBack], code)
	}
}

// standbyPaused has a standby that does not replay what the primary writes.
func (x *target) standbyPaused() {
	standby := x.primary[:1] + "2"
	for _, role := range []string{"shop", "svc"} {
		fleet.SQL(x.t, standby, "SELECT pg_wal_replay_pause()")
		s := x.Run("rotate", role, "--yes", "-l", x.cluster())
		x.logsIn(role, "while the standby does not replay")
		fleet.SQL(x.t, standby, "SELECT pg_wal_replay_resume()")
		if s.Code != 1 {
			x.t.Errorf("exit code %d", s.Code)
		}
		has(x.t, s.All(), "replay is paused")
		x.finishes(role)
	}
}

// standbyAway has a standby that pgfleet does not reach.
func (x *target) standbyAway() {
	standby := x.primary[:1] + "2"
	fleet.Look(x.t, standby, "systemctl stop ssh.socket ssh.service 2>/dev/null; true")
	before, _ := x.ids("shop", secrets.Pending)
	s := x.Run("rotate", "shop", "--yes", "-l", x.cluster())
	fleet.Look(x.t, standby, "systemctl start ssh.service")
	if s.Code != 1 {
		x.t.Errorf("exit code %d", s.Code)
	}
	has(x.t, s.All(), standby+" of the same cluster cannot be asked", "nothing is begun")
	if now, _ := x.ids("shop", secrets.Pending); newIDs(before, now) > 0 {
		x.t.Error("a rotation was begun")
	}
	x.finishes("shop")
}

// twoAtOnce has two rotate the same role at the same time. Each rotates, or says that
// the other one did.
func (x *target) twoAtOnce() {
	x.fresh()
	before, _ := x.ids("shop", secrets.Pending)
	var group sync.WaitGroup
	said := make([]string, 2)
	codes := make([]int, 2)
	for i := range said {
		group.Go(func() {
			y := *x.Bench
			y.Home = x.t.TempDir()
			s := y.Run("rotate", "shop", "--yes", "--lock-wait", "60s", "-l", x.cluster())
			said[i], codes[i] = s.All(), s.Code
		})
	}
	group.Wait()
	rotated := 0
	for i, text := range said {
		switch {
		case codes[i] == 0:
			rotated++
		case codes[i] != 1 || !strings.Contains(text, "somebody else has changed the versions"):
			x.t.Errorf("exit code %d\n%s", codes[i], text)
		}
	}
	x.t.Logf("exit codes %v", codes)
	now, _ := x.ids("shop", secrets.Pending)
	if made := newIDs(before, now); rotated == 0 || made > rotated {
		x.t.Errorf("%d of two rotated, and there are %d new versions\n%s", rotated, made, strings.Join(said, "\n"))
	}
	x.logsIn("shop", "after two at once")
	x.finishes("shop")
}

// goneBack publishes the old password by hand while a rotation waits for the old
// role's last session: it must not be taken then.
func (x *target) goneBack() {
	entry, err := x.backend.store.Get(context.Background(), x.path("shop"), "")
	if err != nil {
		x.t.Fatal(err)
	}
	old := string(entry.Keys["username"].Expose())
	conn, err := x.connect(context.Background(), x.primary, old, string(entry.Keys["password"].Expose()), "shop")
	if err != nil {
		x.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	p := x.begun("shop", `"step started"`, ": old password")
	if err := x.backend.store.Promote(context.Background(), x.path("shop"), entry.ID); err != nil {
		x.t.Fatal(err)
	}
	_ = conn.Close(context.Background())
	p.signal(x.t, syscall.SIGCONT)
	if code := p.wait(); code != 0 {
		x.t.Errorf("exit code %d\n%s", code, p.out.String())
	}
	has(x.t, p.out.String(), old+" keeps its password", "says that it is in use")
	x.logsIn("shop", "after it was gone back by hand")
	x.finishes("shop")
}

// A running is a rotation that goes on.
type running struct {
	cmd   *exec.Cmd
	out   bytes.Buffer
	ended chan struct{}
}

func (p *running) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// wait returns the exit code.
func (p *running) wait() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// recorded reports whether the user's journal has a line with all of these words.
func (x *target) recorded(words ...string) bool {
	paths, _ := filepath.Glob(filepath.Join(x.Home, ".local/state/pgfleet/runs/*.jsonl"))
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			found := true
			for _, w := range words {
				found = found && strings.Contains(line, w)
			}
			if found {
				return true
			}
		}
	}
	return false
}
