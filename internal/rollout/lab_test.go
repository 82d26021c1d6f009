//go:build lab

package rollout

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

func upLab(t *testing.T, hosts ...lab.Host) *lab.Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{Hosts: hosts, Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// labBench is a bench on the first of some hosts of the lab.
func labBench(t *testing.T, l *lab.Lab, names ...string) *bench {
	t.Helper()
	b := &bench{t: t, dir: "/var/run/postgresql", port: 5432}
	hosts := map[string]transport.Target{}
	for _, name := range names {
		h := l.Host(name)
		hosts[name] = transport.Target{Name: name, Address: h.Address.String(), User: h.User, Identity: l.Key, KnownHosts: l.KnownHosts}
	}
	b.dial(hosts)
	for _, in := range b.run.Fleet.Instances() {
		if in.Host.Name == names[0] {
			b.in = in
		}
	}
	b.reconnect()
	b.log = func() string { return look(t, l, names[0], "cat /var/log/postgresql/*.log") }
	return b
}

// reconnect opens the session of the test's own statements.
func (b *bench) reconnect() {
	b.t.Helper()
	conn, err := b.run.Conn(b.t.Context(), b.in.Host)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.admin, err = conn.Postgres(b.t.Context(), transport.Endpoint{}); err != nil {
		b.t.Fatal(err)
	}
}

// look runs a script inside a host as root, past ssh and pgfleet.
func look(t *testing.T, l *lab.Lab, host, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := l.Host(host).Exec(ctx, script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", host, err, out)
	}
	return out
}

// configure writes a file of conf.d and restarts the server.
func configure(t *testing.T, l *lab.Lab, b *bench, conf string) {
	t.Helper()
	v := l.Host(b.in.Host.Name).Postgres
	look(t, l, b.in.Host.Name, fmt.Sprintf("cat >/etc/postgresql/%[1]d/main/conf.d/99-test.conf <<'END'\n%[2]s\nEND\nsystemctl restart postgresql@%[1]d-main\n"+
		"for i in $(seq 100); do runuser -u postgres -- pg_isready -q && exit; sleep 0.1; done; exit 1", v, conf))
	b.reconnect()
}

// Statements and passwords on every version; with pgaudit, which keeps a record
// of the statement without the password.
func TestLabStatements(t *testing.T) {
	var hosts []lab.Host
	for _, v := range []int{13, 15, 17, 18} {
		hosts = append(hosts, lab.Host{Name: fmt.Sprintf("postgres-%d", v), Postgres: v})
	}
	l := upLab(t, hosts...)
	for _, h := range hosts {
		t.Run(h.Name, func(t *testing.T) {
			b := labBench(t, l, h.Name)
			conf := strings.Replace(talkative, "'pg_stat_statements", "'pgaudit,pg_stat_statements", 1) + "pgaudit.log = all\npgaudit.log_parameter = on\n"
			configure(t, l, b, conf)
			testPasswordLeavesNoTrace(b)
			if !strings.Contains(b.log(), "PASSWORD <REDACTED>") {
				t.Error("pgaudit has no record of the new password")
			}
			if h.Postgres >= 16 {
				b.sql("ALTER ROLE postgres SET scram_iterations = 5000")
				ref := secrets.Ref{Store: "env", Path: "PASSWORD"}
				b.in.Version = h.Postgres
				r := b.applyLines(line{st: catalog.SetPassword{Role: "app\"user", Secret: ref}, done: `SELECT EXISTS (SELECT FROM pg_authid WHERE rolpassword LIKE '%$5000:%')`})
				if r.Status != Changed {
					t.Error(r.Err)
				}
			}
			testBusy(t, l, b)
			testDrift(t, l, b)
			testProveLog(t, l, b)
		})
	}
}

// What a restart would cut off is seen, by the names that the tools have there:
// pgBackRest 2.45 was asked for its own, those of Barman and WAL-G are from their
// sources.
func testBusy(t *testing.T, l *lab.Lab, b *bench) {
	host := b.in.Host.Name
	b.in.Version = l.Host(host).Postgres
	x := b.executor()
	ask := func() string {
		t.Helper()
		why, err := x.busy(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return why
	}
	want := func(what, words string) {
		t.Helper()
		if why := ask(); !strings.Contains(why, words) {
			t.Errorf("%s: %q, and it should say %q", what, why, words)
		}
	}
	session := func() *pgx.Conn {
		t.Helper()
		conn, err := x.conn.Postgres(t.Context(), transport.Endpoint{})
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	if why := ask(); why != "" {
		t.Errorf("nothing runs, and it says %q", why)
	}
	tool := session()
	for _, name := range []string{"pg_dump", "pg_dumpall", "pgBackRest [backup]", "barman", "barman_cloud_backup"} {
		if _, err := tool.Exec(t.Context(), "SET application_name = '"+name+"'"); err != nil {
			t.Fatal(err)
		}
		want(name, name+" is running (pid ")
	}
	for _, name := range []string{"my pg_dump", "app"} {
		if _, err := tool.Exec(t.Context(), "SET application_name = '"+name+"'"); err != nil {
			t.Fatal(err)
		}
		if why := ask(); why != "" {
			t.Errorf("%s is no backup: %q", name, why)
		}
	}
	start, end := "pg_backup_start('by hand', true)", "pg_backup_stop(false)"
	if b.in.Version < 15 {
		start, end = "pg_start_backup('by hand', true, false)", "pg_stop_backup(false, false)"
	}
	if _, err := tool.Exec(t.Context(), "SELECT "+start); err != nil {
		t.Fatal(err)
	}
	none := time.Duration(0)
	b.run.Fleet.Rollout.TransactionWait = &none
	want(start+" with transaction_wait = 0", "postgres has started a backup (pid ")
	b.run.Fleet.Rollout.TransactionWait = nil
	if _, err := tool.Exec(t.Context(), "SELECT "+end); err != nil {
		t.Fatal(err)
	}
	if why := ask(); why != "" {
		t.Errorf("the backup has ended, and it says %q", why)
	}
	_ = tool.Close(t.Context())
	look(t, l, host, "cd /; setsid runuser -u postgres -- sh -c 'sleep 60; :' wal-g backup-push /data >/dev/null 2>&1 & echo $! >/run/wal-g; sleep 0.2")
	want("WAL-G", "WAL-G makes a backup on this host (backup-push, process ")
	look(t, l, host, "p=$(cat /run/wal-g); kill -- -$p; while kill -0 -- -$p 2>/dev/null; do sleep 0.05; done")
	if why := ask(); why != "" {
		t.Errorf("WAL-G has ended, and it says %q", why)
	}
}

// A step that only reloads writes nothing where somebody has worked on its file
// during the trial, or where the server has another role than when it was planned.
func testDrift(t *testing.T, l *lab.Lab, b *bench) {
	host := b.in.Host.Name
	conf := fmt.Sprintf("/etc/postgresql/%d/main", l.Host(host).Postgres)
	path := conf + "/conf.d/98-drift.conf"
	x := b.executor()
	server := tasks.Server{Port: 5432, Unit: b.in.Unit(), ConfDir: conf, DataDir: fmt.Sprintf("/var/lib/postgresql/%d/main", l.Host(host).Postgres),
		BinDir: fmt.Sprintf("/usr/lib/postgresql/%d/bin", l.Host(host).Postgres)}
	x.step = tasks.Step{Server: server, Changes: []tasks.Change{
		{Before: tasks.Absent, Action: tasks.WriteFile{Path: path, Content: "work_mem = '8MB'\n", Owner: "postgres", Group: "postgres", Mode: 0o644}},
		{Action: tasks.Reload{Server: server}},
	}}
	x.phase = func(text string) {
		if text == "checking" {
			look(t, l, host, "echo '# by hand' >"+path)
		}
	}
	if err := x.configure(t.Context()); err == nil || !strings.Contains(err.Error(), path+" was changed on the host since it was planned, so nothing was written") {
		t.Errorf("a file that was edited during the trial: %v", err)
	}
	if got := look(t, l, host, "cat "+path+"; rm "+path); got != "# by hand\n" {
		t.Errorf("the file holds %q", got)
	}
	x.role, x.phase = "standby", func(text string) { t.Errorf("it went on: %s", text) }
	if err := x.configure(t.Context()); err == nil || !strings.Contains(err.Error(), "the server's role (standby then, primary now) was changed on the host since it was planned, so nothing was written") {
		t.Errorf("another role: %v", err)
	}
}

// A record of pgaudit is found wherever log_destination has it go, and missed
// where it does not arrive.
func testProveLog(t *testing.T, l *lab.Lab, b *bench) {
	host := b.in.Host.Name
	prove := func() Result {
		return b.apply(t.Context(), &tasks.Plan{Instance: b.in, Steps: []tasks.Step{{Tasks: []*tasks.Bound{{Name: "proof"}}, Changes: []tasks.Change{
			{Action: tasks.ProveLog{Server: b.server(), Timeout: 3 * time.Second}},
		}}}})
	}
	audit := "shared_preload_libraries = 'pgaudit'\nlog_destination = '%s'\nlogging_collector = %s\nsyslog_ident = 'postgres-main'\n"
	formats := "stderr,csvlog,syslog"
	if l.Host(host).Postgres >= 15 {
		formats = "stderr,csvlog,jsonlog,syslog"
	}
	places := []struct{ destination, collector, more string }{
		{formats, "on", ""},
		{"stderr", "off", ""},
		{"stderr,syslog", "off", ""},
		{"csvlog", "on", "log_directory = '/tmp'\n"},
		{"syslog", "off", "pgaudit.log_level = debug1\npgaudit.log_catalog = off\n"},
	}
	sampled := l.Host(host).Postgres != lab.DefaultPostgres && os.Getenv("PGFLEET_SOAK") == ""
	if sampled {
		places = places[:1]
	}
	for _, test := range places {
		configure(t, l, b, fmt.Sprintf(audit, test.destination, test.collector)+test.more)
		if r := prove(); r.Status != Unchanged || r.Err != nil {
			t.Errorf("%v: %v", test, r.Err)
		}
	}
	if sampled {
		return
	}
	// Nothing listens at /dev/log: the server logs there as if all were well.
	configure(t, l, b, fmt.Sprintf(audit, "stderr,syslog", "off"))
	look(t, l, host, "mv /dev/log /dev/log.away")
	configure(t, l, b, fmt.Sprintf(audit, "stderr,syslog", "off"))
	wantError(t, prove(), Failed, "log_destination has syslog, and no audit record arrived in the journal or under /var/log", "/dev/log")
	// rsyslog alone, without the journal, writes where its configuration says.
	look(t, l, host, `mkdir -p /var/log/app; cat >/etc/rsyslog-test.conf <<'END'
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="/dev/log")
local0.* /var/log/app/pg.log
END
rsyslogd -f /etc/rsyslog-test.conf -i /run/rsyslog-test.pid`)
	configure(t, l, b, fmt.Sprintf(audit, "stderr,syslog", "off"))
	if r := prove(); r.Err != nil {
		t.Error(r.Err)
	}
	look(t, l, host, "kill $(cat /run/rsyslog-test.pid); rm -f /dev/log; mv /dev/log.away /dev/log")
	configure(t, l, b, fmt.Sprintf(audit, "stderr", "off")+"log_min_messages = fatal\n")
	wantError(t, prove(), Failed, "/var/log/postgresql/postgresql-", "log_min_messages = fatal")
	configure(t, l, b, fmt.Sprintf(audit, "stderr,csvlog", "off"))
	wantError(t, prove(), Failed, "csvlog, which needs logging_collector = on")
	configure(t, l, b, "pgaudit.log = all\n")
	wantError(t, prove(), Failed, "pgaudit is not loaded")
}

// What is done on the primary is waited for on the standby, and verified there.
func TestLabReplicated(t *testing.T) {
	l := upLab(t, lab.Host{Name: "primary"}, lab.Host{Name: "standby", StandbyOf: "primary"})
	b := labBench(t, l, "primary", "standby")
	standby := labBench(t, l, "standby")
	known := func(first string, lines ...line) []Known {
		var all []Known
		for _, in := range b.run.Fleet.Instances() {
			l := &list{lines: lines}
			task := b.bound(l)
			if in.Host.Name == "standby" {
				task = standby.bound(l)
				l.replicated = true
			}
			k := Known{Instance: in, State: stateOf(t, b, in), Plan: b.plan(task)}
			if in.Host.Name == first {
				all = append([]Known{k}, all...)
			} else {
				all = append(all, k)
			}
		}
		return all
	}
	apply := func(list []Known) (primary, standby Result) {
		b.events = nil
		results, _ := b.run.Apply(t.Context(), make(chan struct{}), list)
		for _, r := range results {
			if r.Instance == "primary" {
				primary = r
			} else {
				standby = r
			}
		}
		return primary, standby
	}
	p, s := apply(known("standby", table("one"), table("two")))
	if p.Status != Changed || p.Changes != 2 || s.Status != Unchanged || s.Err != nil || s.Done != 1 || s.Changes != 0 {
		t.Errorf("%+v, %+v", p, s)
	}
	// The primary fails.
	p, s = apply(known("primary", line{sql: "CREATE nonsense"}))
	wantError(t, p, Failed, "CREATE nonsense")
	wantError(t, s, Stopped, "what differs comes by replication from primary, where this run did not come to its end")
	// It is not part of the run.
	list := known("standby", table("three"))
	_, s = apply(list[:1])
	wantError(t, s, Stopped, "what differs comes by replication from pg09: apply there")
	// Replay is paused.
	standby.sql("SELECT pg_wal_replay_pause()")
	p, s = apply(known("standby", table("three")))
	if p.Status != Changed {
		t.Error(p.Err)
	}
	wantError(t, s, Failed, "replay is paused at ", "pg_wal_replay_resume()")
	standby.sql("SELECT pg_wal_replay_resume()")
	// Something is missing all the same.
	p, s = apply(known("standby", line{sql: "CREATE TABLE four (a int)", done: "SELECT NOT pg_is_in_recovery() AND to_regclass('four') IS NOT NULL"}))
	if p.Status != Changed {
		t.Error(p.Err)
	}
	wantError(t, s, Failed, "still lacks: CREATE TABLE four")
}

// stateOf asks an instance what a survey would.
func stateOf(t *testing.T, b *bench, in inventory.Instance) *tasks.State {
	t.Helper()
	known := b.run.Survey(t.Context(), []inventory.Instance{in}, nil)
	if known[0].Err != nil {
		t.Fatal(known[0].Err)
	}
	return known[0].State
}
