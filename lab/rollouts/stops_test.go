//go:build lab

package rollouts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// logged is a setting that a reload applies.
func logged(ms int) string {
	return fmt.Sprintf("\n[[task]]\nname = \"Slow statements\"\nkind = \"settings\"\nfile = \"30-slow.conf\"\nsettings = { log_min_duration_statement = %d }\n", ms)
}

// running says what log_min_duration_statement each host runs with.
func (b *bench) running(hosts ...string) map[string]string {
	m := map[string]string{}
	for _, h := range hosts {
		m[h] = sql(b.T, h, "SELECT setting FROM pg_settings WHERE name = 'log_min_duration_statement'")
	}
	return m
}

// wantRunning demands a value on some hosts, and another on all others.
func (b *bench) wantRunning(changed []string, value, other string) {
	b.T.Helper()
	for h, got := range b.running(all()...) {
		want := other
		if slices.Contains(changed, h) {
			want = value
		}
		if got != want {
			b.T.Errorf("%s runs with %s, want %s", h, got, want)
		}
	}
}

func all() []string {
	var hosts []string
	for _, c := range clusters() {
		hosts = append(hosts, members(c.Name)...)
	}
	return hosts
}

// A rollout stops where it should, and what failed its checks is as it was.
func TestLabRolloutStops(t *testing.T) {
	b := newBench(t)
	b.fleet("", logged(100))
	b.Want(0, "apply", "--yes")

	t.Run("a setting with which no server starts, in the canary", func(t *testing.T) {
		b.T = t
		b.fleet("\n[rollout]\ncanary = 1\nbatches = 4\n", logged(200)+"\n[[task]]\nname = \"Memory\"\nkind = \"settings\"\nfile = \"40-memory.conf\"\nsettings = { shared_buffers = \"900GB\" }\n")
		s := b.Want(1, "apply", "--yes", "--json")
		said, early := outcomes(t, s)
		if !strings.Contains(early, "the canary failed (a2), so nothing else was touched") {
			t.Errorf("the rollout ended: %q", early)
		}
		for h, o := range said {
			if want := map[bool]string{true: "failed", false: "stopped"}[h == "a2"]; o.Status != want {
				t.Errorf("%s is %s, want %s: %s", h, o.Status, want, o.Error)
			}
		}
		if !strings.Contains(said["a2"].Error, "everything was put back") {
			t.Errorf("a2: %s", said["a2"].Error)
		}
		b.wantRunning(nil, "", "100")
	})

	t.Run("the user's own gate", func(t *testing.T) {
		b.T = t
		b.fleet("\n[rollout]\ncanary = [\"b3\"]\nbatches = [2, \"100%\"]\ngate = \"echo $PGFLEET_HOSTS >>seen; test $PGFLEET_WAVE != 2 || { echo no more of this; exit 7; }\"\n", logged(200))
		s := b.Want(1, "apply", "--yes")
		if !strings.Contains(s.All(), "after wave 2 of 3: the gate") || !strings.Contains(s.All(), "no more of this") {
			t.Errorf("not said that the gate failed:\n%s", s.All())
		}
		if seen, _ := os.ReadFile(filepath.Join(b.Dir, "seen")); string(seen) != "b3\na2 a3\n" {
			t.Errorf("the gate was run with %q", seen)
		}
		b.wantRunning([]string{"b3", "a2", "a3"}, "200", "100")
		b.fleet("", logged(100))
		b.Want(0, "apply", "--yes")
	})

	t.Run("clients that do not come back", func(t *testing.T) {
		b.T = t
		for range 3 {
			conn, err := login(t.Context(), "a2", "bench")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
		}
		b.fleet("\n[rollout]\ncanary = 1\ngate_timeout = \"3s\"\n", connections(130)+logged(200))
		s := b.Want(1, "apply", "--yes")
		if !strings.Contains(s.All(), "after wave 1 of 2 (canary): a2: bench in database bench had 3 sessions before, and has none now") {
			t.Errorf("not said that clients are missing:\n%s", s.All())
		}
		b.wantRunning([]string{"a2"}, "200", "100")
		b.fleet("", connections(100)+logged(100))
		b.Want(0, "apply", "--yes", "-l", "a1,a2,a3")
	})

	t.Run("a client that is refused when it logs in anew, seen after the pause", func(t *testing.T) {
		b.T = t
		b.fleet("\n[rollout]\ncanary = [\"a2\"]\npause = \"1s\"\ngate = \"touch looked-1\"\n", logged(200))
		path := filepath.Join(b.Dir, "fleet.toml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b.Write("fleet.toml", strings.Replace(string(text), `"host all bench samenet scram-sha-256"`, `"host all bench samenet reject"`, 1))
		tried := make(chan error, 1)
		go func() {
			for range 600 {
				if _, err := os.Stat(filepath.Join(b.Dir, "looked-1")); err == nil {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			conn, err := login(t.Context(), "a2", "bench")
			if conn != nil {
				_ = conn.Close(t.Context())
			}
			tried <- err
		}()
		s := b.Want(1, "apply", "--yes")
		if err := <-tried; err == nil {
			t.Error("the client was let in")
		}
		if !strings.Contains(s.All(), "after the pause: a2: logins are refused that were not before: pg_hba.conf rejects connection") || !strings.Contains(s.All(), `user "bench"`) {
			t.Errorf("not said who is refused:\n%s", s.All())
		}
		b.wantRunning([]string{"a2"}, "200", "100")
		b.fleet("", logged(100))
		b.Want(0, "apply", "--yes")
	})

	t.Run("a standby that streams no more", func(t *testing.T) {
		b.T = t
		slot := func(name string) string {
			return fmt.Sprintf("\n[[task]]\nname = \"Slot\"\nkind = \"settings\"\nfile = \"50-slot.conf\"\nsettings = { primary_slot_name = %q }\n", name)
		}
		b.fleet("\n[rollout]\ncanary = [\"d3\"]\ngate_timeout = \"3s\"\n", logged(200)+slot("nowhere"))
		s := b.Want(1, "apply", "--yes")
		if !strings.Contains(s.All(), "after wave 1 of 2 (canary): d3: it streamed from its primary before, and does not now, for 3s") {
			t.Errorf("not said that it does not stream:\n%s", s.All())
		}
		b.wantRunning([]string{"d3"}, "200", "100")
		b.fleet("", logged(100)+slot(""))
		b.Want(0, "apply", "--yes")
	})

	t.Run("dead hosts", func(t *testing.T) {
		b.T = t
		dead := []string{"b2", "c2", "d2"}
		const rollout = "\n[rollout]\ncanary = [\"a2\"]\nbatches = 3\nmax_failures = 2\ngate = \"touch seen-$PGFLEET_WAVE; sleep 3\"\n"
		b.fleet(rollout, logged(200))
		// They die while the rollout is on its way.
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			for range 600 {
				if _, err := os.Stat(filepath.Join(b.Dir, "seen-1")); err == nil {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			for _, h := range dead {
				if err := fleet.Lab.Host(h).Kill(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}()
		s := b.Want(1, "apply", "--yes", "--json")
		<-killed
		said, early := outcomes(t, s)
		failed := 0
		for _, o := range said {
			if o.Status == "failed" || o.Status == "unreachable" {
				failed++
			}
		}
		if failed != 2 || !strings.Contains(early, "max_failures = 2 allows no more") {
			t.Errorf("%d hosts failed, and the rollout ended: %q", failed, early)
		}
		for _, h := range []string{"d1", "d3"} {
			if said[h].Status != "stopped" {
				t.Errorf("%s is %s", h, said[h].Status)
			}
		}
		// They were dead before it begins: nobody is touched.
		s = b.Want(1, "apply", "--yes", "--json")
		said, early = outcomes(t, s)
		for h, o := range said {
			if want := map[bool]string{true: "unreachable", false: "stopped"}[slices.Contains(dead, h)]; o.Status != want && o.Status != "unchanged" {
				t.Errorf("%s is %s, want %s: %s", h, o.Status, want, o.Error)
			}
		}
		if !strings.Contains(early, "b2, c2, d2 failed, and max_failures = 2 allows no more") {
			t.Errorf("the rollout ended: %q", early)
		}
		for _, h := range dead {
			if err := fleet.Lab.Host(h).Start(t.Context()); err != nil {
				t.Error(err)
			}
			for range 300 {
				if strings.Contains(look(t, h, "cd /; runuser -u postgres -- psql -XAtqc 'SELECT status FROM pg_stat_wal_receiver' 2>&1 || true"), "streaming") {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		b.Want(0, "apply", "--yes")
		b.wantRunning(all(), "200", "")
	})
	t.Log("PROOF: a bad setting in the canary, a gate, missing clients, refused logins, a standby that streams no more, and three dead hosts against a budget of two stopped the rollout where they should; no host that failed its checks was left changed")
}
