package rollout

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/transport"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// through has the bench reach its host by a proxy.
func (b *bench) through() *sshtest.Proxy {
	b.t.Helper()
	at := b.run.Connector.(dialTo).hosts["pg01"]
	p, err := sshtest.NewProxy(net.JoinHostPort(at.Address, fmt.Sprint(at.Port)), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { p.Close() })
	known, err := os.ReadFile(at.KnownHosts)
	if err != nil {
		b.t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(p.Addr)
	_, key, _ := strings.Cut(string(known), " ")
	at.Address = host
	_, _ = fmt.Sscan(port, &at.Port)
	at.KnownHosts = filepath.Join(b.t.TempDir(), "known_hosts")
	if err := os.WriteFile(at.KnownHosts, []byte(fmt.Sprintf("[%s]:%s %s", host, port, key)), 0o600); err != nil {
		b.t.Fatal(err)
	}
	dir := b.run.Locking.Dir
	b.dial(map[string]transport.Target{"pg01": at})
	b.run.Locking.Dir = dir
	return p
}

// A beforeStep does something just before a step begins.
type beforeStep struct {
	step int
	do   func()
}

func (r *beforeStep) Record(e Event) error {
	if e.Kind == StepStarted && e.Step == r.step {
		r.do()
	}
	return nil
}

// A connection that has broken between two changes is made again, and what is
// done by it is done only with the lease.
func TestConnectAgain(t *testing.T) {
	b := newBench(t, "")
	p := b.through()
	two := func() []line {
		return []line{table("one"), {sql: "CREATE DATABASE two", alone: true, done: "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'two')"}}
	}
	b.run.Recorder = &beforeStep{2, func() {
		other := strings.Replace(b.leaseFile("lease"), "pgfleet lease 1 ", "pgfleet lease 2 ", 1)
		if err := os.WriteFile(filepath.Join(b.run.Locking.Dir, "lease"), []byte(other), 0o644); err != nil {
			t.Error(err)
		}
		p.Cut()
	}}
	wantError(t, b.applyLines(two()...), Failed, "this run's lease was taken by "+Operator())
	if b.sql("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'two')") != "f" {
		t.Error("something was done without the lease")
	}
	if err := os.Remove(filepath.Join(b.run.Locking.Dir, "lease")); err != nil {
		t.Fatal(err)
	}
	b.sql("DROP TABLE one")

	b.run.Recorder = &beforeStep{2, p.Cut}
	if r := b.applyLines(two()...); r.Status != Changed || r.Changes != 2 {
		t.Errorf("%+v", r)
	}
	if b.leaseFile("lease") != "" {
		t.Error("the lease was not given back")
	}
	b.sql("DROP TABLE one; CREATE TABLE zero (a int)")
	b.sql("DROP DATABASE two")

	// Nobody is there when it is tried again.
	b.run.Recorder = &beforeStep{2, p.Refuse}
	wantError(t, b.applyLines(two()...), Failed, "connecting again: ")
	p.Mend()
}

// A lease is kept by a new connection after the old one has broken.
func TestLeaseIsKeptAfterACut(t *testing.T) {
	b := newBench(t, "")
	p := b.through()
	b.run.Locking.TTL = 2 * time.Second
	if err := b.run.tryLease(t.Context(), b.in.Host, ""); err != nil {
		t.Fatal(err)
	}
	p.Refuse()
	time.Sleep(700 * time.Millisecond)
	p.Mend()
	time.Sleep(2500 * time.Millisecond)
	if l := ParseLease(b.leaseFile("lease")); l.ranOut(time.Now()) {
		t.Errorf("the lease ran out: %+v", l)
	}
	b.run.giveBack(t.Context())
	if b.leaseFile("lease") != "" {
		t.Error("it was not given back")
	}
}

// What is known of a server adds up to how long it was down.
func TestOutage(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for _, test := range []struct {
		name string
		saw  func(o *outage)
		want int
	}{
		{"never down", func(o *outage) { o.saw(at(0), at(1), true) }, 0},
		{"down and back", func(o *outage) { o.saw(at(0), at(1), false); o.saw(at(3), at(4), true) }, 4},
		{"twice", func(o *outage) {
			o.saw(at(0), at(0), false)
			o.saw(at(1), at(1), true)
			o.saw(at(5), at(5), false)
			o.saw(at(7), at(7), true)
		}, 3},
		{"never back", func(o *outage) { o.saw(at(0), at(1), false); o.saw(at(8), at(9), false) }, 9},
		{"seen no more after it went down", func(o *outage) { o.saw(at(0), at(2), false) }, 2},
	} {
		var o outage
		test.saw(&o)
		if got := o.length(); got != time.Duration(test.want)*time.Second {
			t.Errorf("%s: %v, want %d s", test.name, got, test.want)
		}
	}
}
