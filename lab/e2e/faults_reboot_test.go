//go:build lab

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// reboots boots a host again, in order.
func reboots(ctx context.Context, h *lab.Running) error { return h.Reboot(ctx) }

// losesPower boots a host again after everything in it was killed.
func losesPower(ctx context.Context, h *lab.Running) error {
	if err := h.Kill(ctx); err != nil {
		return err
	}
	return h.Start(ctx)
}

// rebooted boots a host again in the middle of an apply with several steps, while
// pgfleet goes on: then it is as the steps that were done have left it. Without
// how, it stays off until pgfleet has given up.
func rebooted(t *testing.T, host string, how func(context.Context, *lab.Running) error) {
	c := change{
		tasks: "\n[[task]]\nname = \"First\"\nkind = \"file\"\npath = \"/etc/fault-first\"\ncontent = \"x\"\n" + threeFiles +
			"\n[[task]]\nname = \"Last\"\nkind = \"command\"\nrun = \"touch /var/tmp/fault-last\"\ncreates = \"/var/tmp/fault-last\"\n",
		at: "[ -e " + confD + "51-fault.conf ]",
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	h := fleet.Lab.Host(host)
	b, r, before := c.during(t, host, func(*bench) {})
	at := time.Now()
	off := how == nil
	if off {
		how = func(ctx context.Context, h *lab.Running) error { return h.Kill(ctx) }
	}
	if err := how(ctx, h); err != nil {
		t.Fatal(err)
	}
	s := r.end(1)
	took := time.Since(at)
	wantWords(t, s, host+": ")
	if took > 40*time.Second {
		t.Errorf("it took %v to find out\n%s", took, s)
	}
	if off {
		if err := h.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	decided(t, host, 25*time.Second)
	clientLogsIn(t, host)
	for line := range strings.Lines(unlike(before, whole(t, host))) {
		if !strings.Contains(line, "/etc/fault-first ") && !strings.Contains(line, ".files ") {
			t.Errorf("after the boot: %s\n%s", line, s)
		}
	}
	n := b.resumed()
	clientLogsIn(t, host)
	look(t, host, "[ -e /var/tmp/fault-last ]")
	if got := sql(t, host, "SHOW max_connections"); got != "77" {
		t.Errorf("max_connections is %s", got)
	}
	t.Logf("PROOF: PostgreSQL %d, rebooted in the middle of step 2 of 3: pgfleet ended after %v, the host was as before that step, and resume finished (%d)\n", h.Postgres, took.Round(100*time.Millisecond), n)
}

// standbyReboots: a standby reboots while it is restarted. Its primary, which waits
// for it, is left alone.
func standbyReboots(t *testing.T, host string) {
	const primary = "primary"
	served(t, primary, host)
	b := newBench(t, "\n[[task]]\nname = \"Connections\"\nkind = \"settings\"\nfile = \"50-fault.conf\"\nsettings = { max_connections = \"120\" }\n\n[[task]]\nname = \"PostgreSQL\"\nkind = \"service\"\n"+declaredClient, primary, host)
	streams := func() {
		until(t, primary, "[ \"$(cd /; runuser -u postgres -- psql -XAtqc \"SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'\")\" = 1 ]")
	}
	streams()
	caughtUp(t)
	u := untouchedYet(t, primary)
	before := whole(t, host)
	come := moment(t, host, "", "grep -q 'fast shutdown request' "+logFile(host))
	r := b.start("apply", "--yes", "--dead-man", "5s")
	come(r)
	at := time.Now()
	if err := fleet.Lab.Host(host).Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := r.end(1)
	took := time.Since(at)
	decided(t, host, 25*time.Second)
	u.by(labtest.Said{Stdout: s, Code: 1}, host+": ", "left alone, because standby of its cluster is in trouble")
	streams()
	clientLogsIn(t, host)
	if after := whole(t, host); after != before {
		t.Errorf("the standby is not as before:\n%s\n%s", unlike(before, after), s)
	}
	n := b.resumed()
	streams()
	for _, h := range []string{host, primary} {
		clientLogsIn(t, h)
		if got := sql(t, h, "SHOW max_connections"); got != "120" {
			t.Errorf("%s: max_connections is %s", h, got)
		}
	}
	t.Logf("PROOF: a standby rebooted while it was restarted: pgfleet ended after %v, the primary was not touched, and resume finished (%d)\n", took.Round(100*time.Millisecond), n)
}
