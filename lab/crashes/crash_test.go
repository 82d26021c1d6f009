//go:build lab

package crashes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	deadMan = 5 * time.Second // the shortest that --dead-man takes
	// restarting is what a restart of PostgreSQL by the dead-man may take beyond
	// that, on a machine that has other things to do.
	restarting = 20 * time.Second
)

// samples is how many points are tried without PGFLEET_SOAK.
const samples = 2

func hosts() []string {
	var names []string
	for _, h := range fleet.Lab.Hosts() {
		names = append(names, h.Name)
	}
	return names
}

// everywhere does something for all hosts at the same time.
func everywhere(do func(host string)) {
	var group sync.WaitGroup
	for _, h := range hosts() {
		group.Go(func() { do(h) })
	}
	group.Wait()
}

// sights looks at all hosts.
func sights(t *testing.T) map[string]sight {
	t.Helper()
	var mu sync.Mutex
	all := map[string]sight{}
	everywhere(func(host string) {
		s := lookAt(t, host)
		mu.Lock()
		defer mu.Unlock()
		all[host] = s
	})
	return all
}

// journals returns the paths of the operator's journals.
func (b *bench) journals() []string {
	b.T.Helper()
	paths, err := filepath.Glob(filepath.Join(b.Home, ".local/state/pgfleet/runs/*.jsonl"))
	if err != nil {
		b.T.Fatal(err)
	}
	return paths
}

// records returns the kind and the time of each record of a journal that has been
// written so far.
func records(t *testing.T, path string) (kinds []string, times []time.Time) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var r struct {
			Kind string
			Time time.Time
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		kinds, times = append(kinds, r.Kind), append(times, r.Time)
	}
	return kinds, times
}

// whole applies without being killed, and returns how long it took from each
// record to the next.
func (b *bench) whole() []time.Duration {
	b.T.Helper()
	known := len(b.journals())
	b.Want(0, "apply", "--yes", "--dead-man", "5s")
	paths := b.journals()
	if len(paths) != known+1 {
		b.T.Fatalf("%d journals, and there were %d", len(paths), known)
	}
	_, times := records(b.T, paths[known]) // their names begin with the time
	gaps := make([]time.Duration, len(times))
	for i := range times[1:] {
		gaps[i] = times[i+1].Sub(times[i])
	}
	return gaps
}

// killed applies, and kills pgfleet once its journal has the record with the
// number point, or some time later. It returns the run's ID.
func (b *bench) killed(point int, later time.Duration) (run string) {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	known := map[string]bool{}
	for _, p := range b.journals() {
		known[p] = true
	}
	cmd := b.Command(ctx, "apply", "--yes", "--dead-man", "5s")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		b.T.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	path := ""
	for reached := false; !reached; {
		select {
		case <-ended: // there are a few records less than in the run that was counted
			reached = true
		case <-time.After(time.Millisecond):
		}
		for _, p := range b.journals() {
			if !known[p] {
				path = p
			}
		}
		if path != "" {
			text, err := os.ReadFile(path)
			if err != nil {
				b.T.Fatal(err)
			}
			reached = reached || bytes.Count(text, []byte("\n")) >= point
		}
	}
	time.Sleep(later)
	_ = cmd.Process.Kill()
	<-ended
	if path == "" {
		b.T.Fatalf("it has ended without a journal\n%s", out.String())
	}
	return strings.TrimSuffix(filepath.Base(path), ".jsonl")
}

// found counts how hosts were found after a kill.
type found struct{ before, wanted, between, putBack int }

// settled waits until every host is in order, each thing as before or as wanted,
// and the declared client can log in: within the dead-man's time.
func (b *bench) settled(before, wanted map[string]sight, f *found) {
	b.T.Helper()
	deadline := time.Now().Add(deadMan + restarting)
	var mu sync.Mutex
	everywhere(func(host string) {
		for {
			s := lookAt(b.T, host)
			asBefore, asWanted, problems := s.compare(before[host], wanted[host])
			if len(problems) == 0 {
				problems = s.clients(b.T.Context(), host)
			}
			if len(problems) > 0 && time.Now().Before(deadline) {
				time.Sleep(200 * time.Millisecond)
				continue
			}
			for _, p := range problems {
				b.T.Errorf("%s, %v after the kill: %s", host, deadMan+restarting, p)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case asBefore:
				f.before++
			case asWanted:
				f.wanted++
			default:
				f.between++
			}
			if s["fired"] != "" {
				f.putBack++
				if strings.Contains(s["fired"], "problem") || strings.Contains(s["fired"], "failed") {
					b.T.Errorf("%s: the dead-man could not do all of it: %s", host, s["fired"])
				}
			}
			return
		}
	})
}

// resumed goes on with a run that was killed, and looks whether it is finished.
func (b *bench) resumed(run string, wanted map[string]sight) {
	b.T.Helper()
	args := []string{"runs", "resume", run, "--yes", "--dead-man", "5s", "--lock-wait", "20s"}
	s := b.Run(args...)
	if s.Code != 0 && strings.Contains(s.All(), "apply again") { // it had the host put back
		s = b.Run(args...)
	}
	if s.Code != 0 {
		b.T.Errorf("resume exited with %d\n%s", s.Code, s.All())
	}
	if s := b.Run("plan", "--detailed-exitcode"); s.Code != 0 {
		b.T.Errorf("a plan exits with %d\n%s", s.Code, s.All())
	}
	everywhere(func(host string) {
		if _, asWanted, problems := lookAt(b.T, host).compare(wanted[host], wanted[host]); !asWanted {
			b.T.Errorf("%s: when it was resumed: %s", host, strings.Join(problems, "\n"))
		}
		if left := inside(b.T, host, strings.ReplaceAll(leftScript, "RUN", run)); left != "" {
			b.T.Errorf("%s: left behind: %s", host, left)
		}
	})
}

// recorded looks whether the journals of the run that was killed, and of the one
// that resumed it, say what happened.
func (b *bench) recorded(run string) {
	b.T.Helper()
	var doc struct {
		Runs []struct{ Run, Outcome, Resumes string }
	}
	if err := json.Unmarshal([]byte(b.Want(0, "runs", "list", "--json").Stdout), &doc); err != nil {
		b.T.Fatal(err)
	}
	resumed := false
	for _, r := range doc.Runs {
		if r.Run != run && r.Resumes != run {
			continue
		}
		if s := b.Want(0, "runs", "show", r.Run); !strings.Contains(s.Stdout, "the chain holds") {
			b.T.Errorf("runs show %s:\n%s", r.Run, s.All())
		}
		kinds, _ := records(b.T, filepath.Join(b.Home, ".local/state/pgfleet/runs", r.Run+".jsonl"))
		switch last := kinds[len(kinds)-1]; {
		case r.Run == run && last == "run finished":
			resumed = true // there was nothing left to resume
			if r.Outcome != "done" {
				b.T.Errorf("the run that was killed when it had finished is %s", r.Outcome)
			}
		case r.Run == run && r.Outcome != "died":
			b.T.Errorf("the run that was killed is %s", r.Outcome)
		case r.Resumes == run:
			resumed = resumed || r.Outcome == "done"
		}
	}
	if !resumed {
		// Where all had been done, what resumes it keeps no journal.
		s := b.Want(0, "runs", "resume", run, "--yes")
		if !strings.Contains(s.Stdout, "0 changes made") && !strings.Contains(s.Stdout, "nothing is left to do") {
			b.T.Errorf("no run that resumed %s is done\n%s", run, s.All())
		}
	}
}

// A point is where a run is killed: when its journal has so many records, or
// somewhere on the way to the next one.
type point struct {
	record int
	later  bool
	hasty  bool // it is resumed at once, before the dead-man has put anything back
}

// points returns those to try: some that are spread evenly, or all of them, and
// of every fourth record also one on the way to the next.
func points(n int, random *rand.Rand) []point {
	var list []point
	if os.Getenv("PGFLEET_SOAK") == "" {
		first := random.Float64()
		for i := range samples {
			list = append(list, point{record: 1 + int((float64(i)+first)*float64(n)/samples), later: i%2 == 1})
		}
		return list
	}
	for r := 1; r <= n; r++ {
		list = append(list, point{record: r})
		if r%4 == 0 {
			list = append(list, point{record: r, later: true, hasty: r%8 == 0})
		}
	}
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// pgfleet is killed with SIGKILL at points of its journal: within the dead-man's
// time every host is in order, each thing as before or as wanted, and the declared
// client can log in; and the run can be resumed.
func TestLabCrashes(t *testing.T) {
	began := time.Now()
	seed := rand.Uint64() >> 16
	if text := os.Getenv("PGFLEET_CRASHES_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PGFLEET_CRASHES_SEED: %v", err)
		}
	}
	random := rand.New(rand.NewPCG(seed, 0))
	b := newBench(t)
	seen, gaps := map[state]map[string]sight{}, map[state][]time.Duration{}
	for _, s := range []state{other, one} {
		b.declare(s)
		gaps[s] = b.whole()
		seen[s] = sights(t)
		for host, was := range seen[s] {
			for _, p := range append(was.clients(t.Context(), host), was["wrong"], was["dead-man"]) {
				if p != "" {
					t.Fatalf("%s, before anything is killed: %s", host, p)
				}
			}
		}
	}
	n := len(gaps[one])
	tried := points(n, random)
	t.Logf("%d points, %v to count them; PGFLEET_CRASHES_SEED=%d", n, time.Since(began).Round(time.Second), seed)
	var f found
	at := map[int]bool{}
	from := one
	for _, p := range tried {
		to := from.opposite()
		later := time.Duration(0)
		name := fmt.Sprintf("record %d", p.record)
		if p.later {
			later = time.Duration(random.Float64() * float64(gaps[one][p.record-1]))
			name += fmt.Sprintf(" and %v", later.Round(time.Millisecond))
		}
		if p.hasty {
			name += ", resumed at once"
		}
		b.declare(to)
		at[p.record] = true
		ok := t.Run(name, func(t *testing.T) {
			b.T = t
			began, start := time.Now(), sights(t)
			run := b.killed(p.record, later)
			killed := time.Now()
			if !p.hasty {
				b.settled(start, seen[to], &f)
			}
			settled := time.Now()
			b.resumed(run, seen[to])
			b.recorded(run)
			t.Logf("%s: killed after %.1fs, in order %.1fs later, resumed and looked at in %.1fs", run, killed.Sub(began).Seconds(), settled.Sub(killed).Seconds(), time.Since(settled).Seconds())
		})
		b.T = t
		if !ok {
			for range 2 { // so that the next point says something of its own
				if b.Run("apply", "--yes").Code == 0 {
					break
				}
			}
		}
		from = to
	}
	t.Logf("PROOF: killed with SIGKILL %d times, at %d of %d points of the journal (seed %d): of %d hosts %d were found as before, %d as wanted, %d with some steps done and the others not; the dead-man had put %d back; the declared client could log in to all of them, and each run was resumed",
		len(tried), len(at), n, seed, f.before+f.wanted+f.between, f.before, f.wanted, f.between, f.putBack)
}
