package rollout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// other returns another operator's run on the bench's host.
func (b *bench) other(id string) *Run {
	r := &Run{Fleet: b.run.Fleet, Observer: b, Resolver: b, Connector: b.run.Connector, ID: id, Locking: b.run.Locking}
	b.t.Cleanup(r.Close)
	return r
}

// by has what follows done by another run.
func (b *bench) by(r *Run, f func()) {
	mine := b.run
	b.run = r
	defer func() { b.run = mine }()
	f()
}

func (b *bench) leaseFile(name string) string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.run.Locking.Dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	return string(text)
}

// executor is of a step of the bench's host, whose statements need no more than
// that.
func (b *bench) executor() *executor {
	b.t.Helper()
	conn, err := b.run.Conn(context.Background(), b.in.Host)
	if err != nil {
		b.t.Fatal(err)
	}
	return &executor{run: b.run, conn: conn, instance: b.in, phase: func(string) {}}
}

// stall makes a run as one that was stopped: it renews nothing any more, and its
// leases run out.
func (b *bench) stall(r *Run) {
	b.t.Helper()
	for _, l := range r.leases {
		l.stop()
	}
	until := regexp.MustCompile(`(?m)^until .*$`)
	text := until.ReplaceAllString(b.leaseFile("lease"), fmt.Sprintf("until %d", time.Now().Unix()-1))
	if err := os.WriteFile(filepath.Join(r.Locking.Dir, "lease"), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func TestLease(t *testing.T) {
	b := newBench(t, "")
	b.run.ID, b.run.Locking.Why = "first", "pgfleet apply\n{{ x }}"
	if r := b.applyLines(table("one"), line{sql: `CREATE DATABASE "My db"`, alone: true, done: "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'My db')"}); r.Status != Changed {
		t.Fatal(r.Err)
	}
	if b.leaseFile("lease") != "" || b.leaseFile("token") != "1\n" {
		t.Errorf("after a run: lease %q, token %q", b.leaseFile("lease"), b.leaseFile("token"))
	}
	r, err := b.run.HostRecord(t.Context(), b.in.Host, 10)
	if err != nil || r.Lease != nil || time.Since(r.Clock).Abs() > time.Minute {
		t.Errorf("%+v, %v", r, err)
	}
	var what []string
	for _, l := range r.Log {
		if at, err := time.Parse(time.RFC3339, l.Time); err != nil || time.Since(at).Abs() > time.Minute || l.Run != "first" || l.Who != Operator() {
			t.Errorf("%+v, %v", l, err)
		}
		what = append(what, l.What)
	}
	if want := []string{"lease 1 taken: pgfleet apply {{ x }}", "step 1/2 done: list", "step 2/2 done: list", "lease 1 given back"}; !slices.Equal(what, want) {
		t.Errorf("the host's log: %q", what)
	}
	// Nothing is due: no lease.
	if r := b.applyLines(line{done: "SELECT true"}); r.Status != Unchanged || b.leaseFile("token") != "1\n" {
		t.Errorf("%+v", r)
	}
	// A step that fails is told of as well, and the lease is given back.
	wantError(t, b.applyLines(line{sql: "CREATE nonsense"}), Failed, "nonsense")
	if b.leaseFile("lease") != "" || !strings.Contains(b.leaseFile("log"), "step 1/1 failed: list\n") {
		t.Error(b.leaseFile("log"))
	}
	// And by a run whose context has ended.
	ctx, cancel := context.WithCancel(t.Context())
	release, refused := b.run.takeLeases(ctx, nil, []Known{{Instance: b.in, Plan: &tasks.Plan{Steps: []tasks.Step{{Changes: []tasks.Change{{Action: tasks.DaemonReload{}}}}}}}}, 0)
	if refused != nil || b.leaseFile("lease") == "" {
		t.Fatal(refused)
	}
	cancel()
	release()
	if b.leaseFile("lease") != "" || b.leaseFile("token") != "3\n" {
		t.Errorf("lease %q, token %q", b.leaseFile("lease"), b.leaseFile("token"))
	}
}

// A machine that fleet.toml has by two names has one lease.
func TestLeaseOfTwoNames(t *testing.T) {
	b := newBench(t, "")
	at := b.run.Connector.(dialTo).hosts["pg01"]
	dir := b.run.Locking.Dir
	b.dial(map[string]transport.Target{"pg01": at, "pg02": at})
	b.run.Locking.Dir = dir
	var known []Known
	for _, in := range b.run.Fleet.Instances() {
		b.in = in
		known = append(known, Known{Instance: in, Plan: b.plan(b.bound(&list{lines: []line{table(in.Host.Name)}}))})
	}
	results, _ := b.run.Apply(t.Context(), nil, known)
	for _, r := range results {
		if r.Status != Changed {
			t.Errorf("%s: %v", r.Instance, r.Err)
		}
	}
	if b.leaseFile("lease") != "" || strings.Count(b.leaseFile("log"), "done: list") != 2 {
		t.Errorf("lease %q, log:\n%s", b.leaseFile("lease"), b.leaseFile("log"))
	}
}

// The log keeps its last thousand lines.
func TestLeaseLogIsBounded(t *testing.T) {
	b := newBench(t, "")
	if err := os.Mkdir(b.run.Locking.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.run.Locking.Dir, "log"), []byte(strings.Repeat("t\tr\tw\told\n", 5000)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.run.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	b.run.giveBack(t.Context())
	if n := strings.Count(b.leaseFile("log"), "\n"); n != 1002 {
		t.Errorf("%d lines", n)
	}
}

// Two operators: the second is told of the first, or waits for it.
func TestLeaseHeld(t *testing.T) {
	b := newBench(t, "")
	first := b.other("first")
	if err := first.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	r := b.applyLines(table("one"))
	wantError(t, r, Refused, Operator()+" has been applying here since ", fmt.Sprintf("(run first, pid %d): wait with --lock-wait 10m, or see pgfleet unlock", os.Getpid()))
	if b.sql("SELECT to_regclass('one') IS NULL") != "t" {
		t.Error("something was changed")
	}
	b.run.Locking.Wait = 300 * time.Millisecond
	wantError(t, b.applyLines(table("one")), Refused, "and did not end within 300ms")
	b.run.Locking.Wait = 20 * time.Second
	time.AfterFunc(500*time.Millisecond, func() { first.giveBack(context.Background()) })
	if r := b.applyLines(table("one")); r.Status != Changed {
		t.Error(r.Err)
	}
	if !slices.Contains(b.events, "waiting 0") {
		t.Errorf("nobody was told of the waiting: %q", b.events)
	}
	// Ctrl-C ends the waiting.
	if err := first.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	time.AfterFunc(200*time.Millisecond, func() { close(stop) })
	began := time.Now()
	p := b.plan(b.bound(&list{lines: []line{table("two")}}))
	results, _ := b.run.Apply(t.Context(), stop, []Known{{Instance: b.in, Plan: p}})
	if r := results[0]; r.Status != Refused || time.Since(began) > 10*time.Second {
		t.Errorf("%+v", r)
	}
	first.giveBack(t.Context())
}

// A lease is kept for as long as the run lasts, and is free when its process has
// ended, on this machine at once.
func TestLeaseIsKept(t *testing.T) {
	b := newBench(t, "")
	first := b.other("first")
	first.Locking.TTL = time.Second
	if err := first.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond)
	wantError(t, b.applyLines(table("one")), Refused, "run first")
	first.giveBack(t.Context())

	if err := first.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("sleep", "60")
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(fmt.Sprintf("pid %d\n", os.Getpid()), fmt.Sprintf("pid %d\n", gone.Process.Pid), process(os.Getpid()), process(gone.Process.Pid)).Replace(b.leaseFile("lease"))
	first.giveBack(t.Context())
	write := func(text string) {
		text = regexp.MustCompile(`(?m)^until .*$`).ReplaceAllString(text, fmt.Sprintf("until %d", time.Now().Unix()+1000))
		if err := os.WriteFile(filepath.Join(b.run.Locking.Dir, "lease"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	wantError(t, b.applyLines(table("one")), Refused, fmt.Sprintf("pid %d", gone.Process.Pid))
	_ = gone.Process.Kill()
	_ = gone.Wait()
	write(strings.Replace(text, "holder "+Operator(), "holder ana@laptop", 1))
	wantError(t, b.applyLines(table("one")), Refused, "ana@laptop has been applying here")
	write(text)
	if r := b.applyLines(table("one")); r.Status != Changed {
		t.Error(r.Err)
	}
	if !strings.Contains(b.leaseFile("log"), " was never given back\n") {
		t.Error(b.leaseFile("log"))
	}
	// What cannot be read as a lease is nobody's.
	write("nonsense\n")
	if r := b.applyLines(table("two")); r.Status != Changed || b.leaseFile("lease") != "" {
		t.Error(r.Err)
	}
}

// Who has lost the lease writes nothing any more.
func TestLeaseLost(t *testing.T) {
	b := newBench(t, "")
	first := b.other("first")
	if err := first.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.dir, "file")
	var x *executor
	b.by(first, func() {
		x = b.executor()
		if err := x.conn.WriteFiles(t.Context(), []transport.File{{Path: file, Content: []byte("first")}}); err != nil {
			t.Fatal(err)
		}
		// What is idle has not lost it yet.
		b.stall(first)
		if err := x.must(t.Context(), transport.Command{Script: ":"}); err != nil {
			t.Error(err)
		}
	})
	if r := b.applyLines(table("one")); r.Status != Changed {
		t.Fatal(r.Err)
	}
	lost := func(what string, err error, words ...string) {
		t.Helper()
		if !leaseLost(err) {
			t.Errorf("%s: %v", what, err)
		}
		err = x.explained(t.Context(), err)
		for _, w := range append(words, "so nothing more is written here") {
			if !strings.Contains(fmt.Sprint(err), w) {
				t.Errorf("%s: no %q in %v", what, w, err)
			}
		}
	}
	changes := func(l line) []tasks.Change {
		return []tasks.Change{{Action: tasks.Execute{Server: b.server(), Database: "postgres", Statement: l}}}
	}
	tryAll := func(words ...string) {
		t.Helper()
		lost("file", x.conn.WriteFiles(t.Context(), []transport.File{{Path: file, Content: []byte("second")}}), words...)
		lost("removal", x.conn.Remove(t.Context(), file), words...)
		lost("command", x.must(t.Context(), transport.Command{Script: "rm -f " + file}), words...)
		lost("here", x.runCommand(t.Context(), tasks.RunCommand{Here: true, Script: "rm -f " + file, Timeout: time.Minute}), words...)
		lost("script", x.runScript(t.Context(), tasks.RunScript{Server: b.server(), Database: "postgres", SQL: "CREATE TABLE two (a int)", Timeout: time.Minute}), words...)
		lost("transaction", x.transact(t.Context(), changes(table("two"))), words...)
		lost("alone", x.transact(t.Context(), changes(line{sql: "CREATE DATABASE two", alone: true})), words...)
		lost("proof", x.proveLog(t.Context(), tasks.ProveLog{Server: b.server()}), words...)
		lost("putting back", x.restored(t.Context(), &transport.Error{Kind: transport.KindFenced, Err: errors.New("why")}, func(context.Context) error {
			t.Error("it tried to put things back")
			return nil
		}), append(words, errNotPutBack.Error())...)
		err := x.restored(t.Context(), errors.New("the reload failed"), func(ctx context.Context) error { return x.conn.Remove(ctx, file) })
		if got := fmt.Sprint(err); leaseLost(err) || !strings.HasPrefix(got, "the reload failed; putting the old state back failed as well: this run's lease was ") {
			t.Errorf("putting back was refused: %s", got)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != "first" {
			t.Errorf("the file: %q, %v", text, err)
		}
		if b.sql("SELECT to_regclass('two') IS NULL AND NOT EXISTS (SELECT FROM pg_database WHERE datname = 'two')") != "t" {
			t.Error("something was changed by SQL")
		}
	}
	tryAll("this run's lease was taken away, as pgfleet log shows")
	second := b.other("second")
	if err := second.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	tryAll("this run's lease was taken by " + Operator() + " at ")
	first.giveBack(t.Context())
	if !strings.Contains(b.leaseFile("lease"), "run second\n") {
		t.Error("who has lost the lease gave another's back")
	}
	second.giveBack(t.Context())
}

// Whoever takes the lease waits for what was begun with the last one, and says
// what that is when it takes too long.
func TestLeaseWaitsForWriters(t *testing.T) {
	b := newBench(t, "")
	b.run.Locking.TTL = time.Second
	first := b.other("first")
	if err := first.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	var x *executor
	b.by(first, func() { x = b.executor() })
	go func() { done <- x.must(context.Background(), transport.Command{Script: "sleep 4; : the end"}) }()
	time.Sleep(300 * time.Millisecond)
	b.stall(first)
	wantError(t, b.applyLines(table("one")), Refused, "the lease is free, and what was begun with it is still writing here (pid ", "sleep 4", "--lock-wait")
	b.run.Locking.Wait = 20 * time.Second
	if r := b.applyLines(table("one")); r.Status != Changed {
		t.Error(r.Err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	default:
		t.Error("the lease was taken before the write had ended")
	}
}

// An open transaction of whoever had the lease is waited for in every database.
func TestLeaseWaitsForTransactions(t *testing.T) {
	b := newBench(t, "")
	b.sql("CREATE DATABASE elsewhere")
	first := b.other("first")
	if err := first.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	session, err := b.connect("elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(context.Background())
	if _, err := session.Exec(t.Context(), "BEGIN; SELECT pg_advisory_xact_lock_shared("+leaseLock+"); "+leaseCheck(first.fence(b.in.Host))); err != nil {
		t.Fatal(err)
	}
	b.stall(first)
	ended := make(chan error, 1)
	time.AfterFunc(time.Second, func() {
		_, err := session.Exec(context.Background(), "COMMIT")
		ended <- err
	})
	if err := b.run.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	defer b.run.giveBack(t.Context())
	if err := b.run.awaitSession(t.Context(), nil, b.in, transport.Endpoint{SocketDir: b.dir, Port: b.port}, 0); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the transaction does not end")
	}
	if !slices.Contains(b.events, "waiting 0") {
		t.Errorf("nobody was told: %q", b.events)
	}
	// So it does for a session that never ends, until the run does.
	if _, err := session.Exec(t.Context(), "SELECT pg_advisory_lock_shared("+leaseLock+")"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.run.awaitSession(ctx, nil, b.in, transport.Endpoint{SocketDir: b.dir, Port: b.port}, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	// Or until it is told to stop: nothing was changed yet.
	stop := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() { close(stop) })
	began := time.Now()
	if err := b.run.awaitSession(t.Context(), stop, b.in, transport.Endpoint{SocketDir: b.dir, Port: b.port}, 0); err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("%v, after %v", err, time.Since(began))
	}
}

func TestTakeAway(t *testing.T) {
	b := newBench(t, "")
	first := b.other("first")
	first.Locking.Why = "pgfleet apply -l eu"
	if err := first.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	r, err := b.run.HostRecord(t.Context(), b.in.Host, 5)
	if err != nil || r.Lease == nil || r.RanOut() || r.Lease.Run != "first" || r.Lease.Why != "pgfleet apply -l eu" || len(r.Log) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	stale := *r.Lease
	stale.Fence += "x"
	if err := b.run.TakeAway(t.Context(), b.in.Host, stale); err == nil || !strings.Contains(err.Error(), "not the lease that was shown") {
		t.Error(err)
	}
	if err := b.run.TakeAway(t.Context(), b.in.Host, *r.Lease); err != nil {
		t.Fatal(err)
	}
	b.by(first, func() {
		if err := b.executor().must(t.Context(), transport.Command{Script: ":"}); !leaseLost(err) {
			t.Error(err)
		}
	})
	if b.leaseFile("lease") != "" || b.leaseFile("token") != "2\n" || !strings.Contains(b.leaseFile("log"), "lease 1 of "+Operator()+" taken away\n") {
		t.Errorf("lease %q, token %q, log:\n%s", b.leaseFile("lease"), b.leaseFile("token"), b.leaseFile("log"))
	}
}
