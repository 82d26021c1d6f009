//go:build lab

package rotations

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/faults"
)

// samples is how many kills are tried of each store and strategy without PGFLEET_SOAK.
const samples = 2

// seeded returns where random numbers come from, and their seed.
func seeded(t *testing.T) (*rand.Rand, uint64) {
	t.Helper()
	seed := rand.Uint64() >> 16
	if text := os.Getenv("PGFLEET_ROTATIONS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PGFLEET_ROTATIONS_SEED: %v", err)
		}
	}
	return rand.New(rand.NewPCG(seed, 0)), seed
}

func soaks() bool { return os.Getenv("PGFLEET_SOAK") != "" }

// A target is one cluster with a store of its own.
type target struct {
	*bench
	t       *testing.T
	primary string
	backend backend
}

// onEveryStore has each cluster use another store, and runs do on each of them at the
// same time, once both roles were rotated.
func onEveryStore(t *testing.T, random *rand.Rand, do func(x *target, random *rand.Rand)) {
	t.Helper()
	const both = `
[[rotation]]
role = "shop"
secret = "STORE:{{ .Host.Replication }}/shop"
ca = "ca.pem"
database = "shop"
retire_after = "200ms"
retire_wait = "5s"

[[rotation]]
role = "svc"
strategy = "in-place"
secret = "STORE:{{ .Host.Replication }}/svc"
ca = "ca.pem"
`
	b := newBench(t, "")
	stores := backends(t, b)
	random.Shuffle(len(stores), func(i, j int) { stores[i], stores[j] = stores[j], stores[i] })
	store, tables := "{{ if false }}", ""
	for i, c := range names() {
		store += fmt.Sprintf(`{{ else if eq .Host.Replication \"%s-cluster\" }}%s`, c, stores[i].name)
		tables += "\n" + stores[i].table
		b.Env = append(b.Env, stores[i].env...)
	}
	text, err := os.ReadFile(filepath.Join(b.Dir, "fleet.toml"))
	if err != nil {
		t.Fatal(err)
	}
	b.Write("fleet.toml", string(text)+tables+strings.ReplaceAll(both, "STORE", store+"{{ end }}"))
	for i, c := range clusters() {
		own := rand.New(rand.NewPCG(random.Uint64(), 0))
		t.Run(fmt.Sprintf("postgres-%d", c.Postgres), func(t *testing.T) {
			t.Parallel()
			bench, lab := *b, *b.Bench
			bench.Bench = &lab
			lab.T = t
			x := &target{bench: &bench, t: t, primary: c.Name, backend: stores[i]}
			x.fresh()
			for range 2 { // so that there is a previous version, as there is later
				x.Want(0, "rotate", "--all", "--yes", "-l", x.cluster())
			}
			do(x, own)
		})
	}
}

func (x *target) cluster() string         { return x.primary + "-cluster" }
func (x *target) path(role string) string { return x.cluster() + "/" + role }

// fresh is a user whom this machine has not seen before.
func (x *target) fresh() { x.Home = x.t.TempDir() }

// status is what rotate --status says of a role.
func (x *target) status(role string) string {
	x.t.Helper()
	s := x.Run("rotate", role, "--status", "--json", "-l", x.cluster())
	var doc struct {
		Rotations []struct{ Stage, Problem string }
	}
	if err := json.Unmarshal([]byte(s.Stdout), &doc); err != nil || len(doc.Rotations) != 1 {
		x.t.Fatalf("--status: %v\n%s", err, s.All())
	}
	if p := doc.Rotations[0].Problem; p != "" {
		x.t.Errorf("--status: %s", p)
	}
	return doc.Rotations[0].Stage
}

// logsIn wants the store's current secret to log in, on the primary and the standby.
func (x *target) logsIn(role, when string) {
	x.t.Helper()
	entry, err := x.backend.store.Get(context.Background(), x.path(role), "")
	if err != nil {
		x.t.Errorf("%s: %v", when, err)
		return
	}
	user, database := role, "postgres"
	if role == "shop" {
		user, database = string(entry.Keys["username"].Expose()), "shop"
	}
	for _, host := range []string{x.primary, x.primary[:1] + "2"} {
		if err := x.login(context.Background(), host, user, string(entry.Keys["password"].Expose()), database); err != nil {
			x.t.Errorf("%s: the current secret, version %s, does not log in on %s: %v", when, entry.ID, host, err)
		}
	}
}

// oneHasAPassword wants one of the two roles to have one.
func (x *target) oneHasAPassword(when string) {
	x.t.Helper()
	n := fleet.SQL(x.t, x.primary, "SELECT count(rolpassword) FROM pg_authid WHERE rolname IN ('shop_a', 'shop_b')")
	if n != "1" {
		x.t.Errorf("%s: %s of the two roles have a password", when, n)
	}
}

// ids returns the IDs of a secret's versions, and that of the one in a stage.
func (x *target) ids(role string, stage secrets.Stage) (all []string, one string) {
	x.t.Helper()
	for _, v := range versionsOf(x.t, x.backend.store, x.path(role)) {
		all = append(all, v.ID)
		if v.Stage == stage {
			one = v.ID
		}
	}
	return all, one
}

// newIDs counts those of now that were not there before.
func newIDs(before, now []string) int {
	n := 0
	for _, id := range now {
		if !slices.Contains(before, id) {
			n++
		}
	}
	return n
}

// A kill is where a rotation is killed: when its journal has so many records, or some
// time later; or in a call of the store.
type kill struct {
	role   string
	record int
	later  time.Duration
	fault  *fault
}

func (k kill) String() string {
	text := k.role + ", "
	if k.fault != nil {
		return text + k.fault.String()
	}
	text += fmt.Sprintf("record %d", k.record)
	if k.later > 0 {
		text += fmt.Sprintf(" and %v", k.later.Round(time.Millisecond))
	}
	return text
}

// journal returns the times of the records of the only journal of the user.
func (x *target) journal() []time.Time {
	paths, _ := filepath.Glob(filepath.Join(x.Home, ".local/state/pgfleet/runs/*.jsonl"))
	if len(paths) == 0 {
		return nil
	}
	text, _ := os.ReadFile(paths[0])
	var times []time.Time
	for line := range bytes.Lines(text) {
		var r struct{ Time time.Time }
		if !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &r) != nil {
			break
		}
		times = append(times, r.Time)
	}
	return times
}

// whole rotates without being killed, and returns how long it took from each record to
// the next, and how many calls of the store there were.
func (x *target) whole(role string) (gaps []time.Duration, calls int) {
	x.t.Helper()
	x.fresh()
	x.backend.fail(x.t, x.path(role), nil)
	x.Want(0, "rotate", role, "--yes", "-l", x.cluster())
	calls = x.backend.seen()
	times := x.journal()
	for i := range times {
		gap := time.Duration(0)
		if i+1 < len(times) {
			gap = times[i+1].Sub(times[i])
		}
		gaps = append(gaps, gap)
	}
	return gaps, calls
}

// killed begins a rotation and kills it. It reports whether it had come to an end.
func (x *target) killed(k kill) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	x.fresh()
	x.backend.fail(x.t, x.path(k.role), k.fault)
	defer x.backend.fail(x.t, x.path(k.role), nil)
	cmd := x.Command(ctx, "rotate", k.role, "--yes", "--lease-ttl", "3s", "--lock-wait", "30s", "-l", x.cluster())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	reached := func() bool {
		if k.fault != nil {
			return x.backend.hangs(cmd.Process.Pid)
		}
		return len(x.journal()) >= k.record
	}
	for !reached() {
		select {
		case <-ended: // there are a few less than in the run that was counted
			return
		case <-time.After(time.Millisecond):
		}
	}
	time.Sleep(k.later)
	_ = cmd.Process.Kill()
	<-ended
}

// reconciled kills a rotation, and looks at what is left, and whether the next one, by
// somebody else, finishes it.
func (x *target) reconciled(k kill) (stage string) {
	x.t.Helper()
	x.killed(k)
	if k.role == "shop" {
		x.logsIn("shop", "after the kill")
	}
	x.fresh()
	stage = x.status(k.role)
	if k.role == "shop" && stage == "settled" {
		x.oneHasAPassword("settled after the kill")
	}
	before, pending := x.ids(k.role, secrets.Pending)
	_, current := x.ids(k.role, secrets.Current)
	x.Want(0, "rotate", k.role, "--yes", "--lock-wait", "30s", "-l", x.cluster())
	now, fresh := x.ids(k.role, secrets.Current)
	made := newIDs(before, now)
	switch {
	case stage == "settled" && made == 1:
	case stage == "settled":
		x.t.Errorf("nothing had been begun, and %d versions were made", made)
	case made != 0:
		x.t.Errorf("%s after the kill, and then another rotation began: %d versions", stage, made)
	case pending != "" && fresh != pending:
		x.t.Errorf("version %s was pending, and then %s was published", pending, fresh)
	case stage == "published" && fresh != current:
		x.t.Errorf("version %s was published, and then %s", current, fresh)
	}
	x.logsIn(k.role, "after the next rotate")
	if k.role == "shop" {
		x.oneHasAPassword("after the next rotate")
	}
	if s := x.status(k.role); s != "settled" {
		x.t.Errorf("after the next rotate it is %s", s)
	}
	return stage
}

// kills returns those to try: some of them, or all.
func kills(role string, gaps []time.Duration, calls int, random *rand.Rand) []kill {
	var list []kill
	for r := 1; r <= len(gaps); r++ {
		list = append(list, kill{role: role, record: r})
		if gap := gaps[r-1]; gap > 10*time.Millisecond {
			list = append(list, kill{role: role, record: r, later: time.Duration(random.Float64() * float64(gap))})
		}
	}
	inRecords := len(list)
	for n := 1; n <= calls; n++ {
		list = append(list, kill{role: role, fault: &fault{Call: n, Kind: faults.Hang}}, kill{role: role, fault: &fault{Call: n, Kind: faults.HangAfter}})
	}
	if !soaks() {
		var some []kill
		for i := range samples {
			from, to := 0, inRecords
			if i%2 == 1 {
				from, to = inRecords, len(list)
			}
			some = append(some, list[from+random.IntN(to-from)])
		}
		return some
	}
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// kill kills rotations of both roles.
func (x *target) kill(random *rand.Rand, seen *tally) {
	for _, role := range []string{"shop", "svc"} {
		gaps, calls := x.whole(role)
		list := kills(role, gaps, calls, random)
		x.t.Logf("%s on %s: %d records, %d calls; %d kills", role, x.backend.name, len(gaps), calls, len(list))
		for _, k := range list {
			began := time.Now()
			stage := x.reconciled(k)
			x.t.Logf("%s, %v: %s, in %.1fs", x.backend.name, k, stage, time.Since(began).Seconds())
			seen.add(stage)
			if x.t.Failed() {
				return
			}
		}
	}
}
