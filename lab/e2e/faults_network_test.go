//go:build lab

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab/labtest"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// A change is a kind of change, and a moment in the middle of it.
type change struct {
	name, tasks string
	before, at  string // at is a condition of the shell
	hold        string // SQL in a transaction of somebody else's, from before until after the cut
	want        string // what pgfleet says
}

const (
	confD = "/etc/postgresql/VERSION/main/conf.d/"
	undo  = "the host puts the old files back by itself 5s after it last heard of pgfleet, or at the next apply"
	asks  = "runuser -u postgres -- psql -XAtqc "
)

// changes are all kinds of them.
func changes() []change {
	const service = "\n[[task]]\nname = \"PostgreSQL\"\nkind = \"service\"\n"
	settings := func(text string) string {
		return "\n[[task]]\nname = \"Settings\"\nkind = \"settings\"\nfile = \"50-fault.conf\"\nsettings = { " + text + " }\n" + service
	}
	return []change{
		{name: "reload", tasks: settings(`work_mem = "5MB"`), at: "[ -e " + confD + "50-fault.conf ]", want: undo},
		{name: "hba", tasks: appRules + service, at: "grep -q pgfleet /etc/postgresql/VERSION/main/pg_hba.conf", want: undo},
		{name: "restart", tasks: settings(`max_connections = "77"`) + appRules, at: "grep -q 'fast shutdown request' /var/log/postgresql/postgresql-VERSION-main.log", want: undo},
		{
			name:  "certificate",
			tasks: "\n[[task]]\nname = \"Certificate\"\nkind = \"certificate\"\nfile = \"server.pem\"\n" + settings(`ssl = true, ssl_cert_file = "{{ .Instance.ConfDir }}/server.pem", ssl_key_file = "{{ .Instance.ConfDir }}/server.pem"`),
			at:    "[ -e /etc/postgresql/VERSION/main/server.pem ]", want: undo,
		},
		{
			name: "unit",
			tasks: "\n[[task]]\nname = \"Unit\"\nkind = \"file\"\npath = \"/etc/systemd/system/fault.service\"\ncontent = \"[Service]\\nExecStart=/bin/sleep infinity\\n\"\n" +
				"\n[[task]]\nname = \"It runs\"\nkind = \"service\"\nunit = \"fault.service\"\n",
			at: "[ -e /etc/systemd/system/fault.service ]",
		},
		{
			name:  "command",
			tasks: "\n[[task]]\nname = \"Command\"\nkind = \"command\"\nrun = \"touch /run/fault-began; sleep 3; touch /var/tmp/fault-done\"\ncreates = \"/var/tmp/fault-done\"\n",
			at:    "[ -e /run/fault-began ]",
		},
		{
			name:  "psql",
			tasks: "\n[[task]]\nname = \"Script\"\nkind = \"psql\"\nscript = \"script.sql\"\nunless = \"SELECT to_regclass('public.second') IS NOT NULL\"\n",
			at:    asks + "\"SELECT 'now' FROM pg_stat_activity WHERE wait_event = 'PgSleep'\" | grep -q now",
		},
		{
			name: "transaction",
			tasks: "\n[[task]]\nname = \"Role\"\nkind = \"role\"\nrole = \"fault\"\nmember_of = [\"pg_monitor\"]\nconnection_limit = 7\n" +
				"\n[[task]]\nname = \"Grant\"\nkind = \"grant\"\ndatabase = \"postgres\"\nto = \"fault\"\nschemas = \"public\"\nprivileges = \"USAGE\"\n",
			hold: "LOCK pg_auth_members IN SHARE MODE",
			at:   asks + "\"SELECT 'now' FROM pg_locks WHERE NOT granted\" | grep -q now",
		},
		{
			name:   "database",
			tasks:  "\n[[task]]\nname = \"Database\"\nkind = \"database\"\ndatabase = \"fault\"\npublic = [\"CONNECT\", \"TEMPORARY\"]\n",
			before: "n=$(ls /var/lib/postgresql/VERSION/main/base | wc -l)",
			at:     "[ $(ls /var/lib/postgresql/VERSION/main/base | wc -l) -gt $n ]",
		},
	}
}

// packages are changes of a host that has an apt repository.
func packages() []change {
	var list []change
	for name, at := range map[string]string{
		"package":                      "[ -n \"$(ls -A /var/lib/dpkg/updates)\" ]",
		"package, when apt-get begins": "pgrep -x apt-get >/dev/null",
		"package, when dpkg begins":    "pgrep -x dpkg >/dev/null",
		"package, when it is unpacked": "[ -e /var/lib/dpkg/info/postgresql-15-pgaudit.list ]",
	} {
		list = append(list, change{name: name, tasks: "\n[[task]]\nname = \"pgaudit\"\nkind = \"package\"\npackages = [\"postgresql-15-pgaudit\"]\n", at: at})
	}
	slices.SortFunc(list, func(a, b change) int { return strings.Compare(a.name, b.name) })
	return list
}

const script = "CREATE TABLE public.first (a int);\nSELECT pg_sleep(2);\nCREATE TABLE public.second (a int);\n"

// during starts an apply of a change and returns when it is in the middle of it.
func (c change) during(t *testing.T, host string, how func(b *bench)) (*bench, *started, string) {
	t.Helper()
	served(t, host)
	b := newBench(t, c.tasks+declaredClient, host)
	b.withCA()
	b.Write("script.sql", script)
	how(b)
	before := whole(t, host)
	if c.hold != "" {
		look(t, host, "cd /; nohup setsid runuser -u postgres -- psql -Xqc "+labtest.Quote("BEGIN; "+c.hold+"; SET application_name = 'holder'; SELECT pg_sleep(50)")+" >/dev/null 2>&1 & sleep 0.5")
	}
	version := fmt.Sprint(fleet.Lab.Host(host).Postgres)
	come := moment(t, host, strings.ReplaceAll(c.before, "VERSION", version), strings.ReplaceAll(c.at, "VERSION", version))
	r := b.start("apply", "--yes", "--dead-man", "5s")
	come(r)
	return b, r, before
}

// finishes demands that the host is as before or as wanted, and that resume
// finishes.
func (c change) finishes(t *testing.T, b *bench, host, before string) (resumes int, wasDone bool) {
	t.Helper()
	clientLogsIn(t, host)
	between := whole(t, host)
	resumes = b.resumed()
	clientLogsIn(t, host)
	after := whole(t, host)
	if after == before {
		t.Errorf("nothing has changed in the end, so this proves nothing:\n%s", after)
	}
	if between != before && between != after {
		t.Errorf("the host was half done. Against before:\n%s\nagainst after:\n%s", unlike(before, between), unlike(between, after))
	}
	if left := armed(t, host) + look(t, host, "find / -xdev \\( -name '.pgfleet*' -o -name 'pgfleet-trial*' \\) 2>/dev/null || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	return resumes, between == after
}

// The network is cut in the middle of a change, and refuses or swallows everything
// until pgfleet has given up.
func (c change) cut(t *testing.T, host string, silent bool) {
	var p *sshtest.Proxy
	b, r, before := c.during(t, host, func(b *bench) { p = b.through(host) })
	at := time.Now()
	if silent {
		p.StallAfter(0)
	} else {
		p.Refuse()
	}
	s := r.end(1)
	took := time.Since(at)
	if most := map[bool]time.Duration{false: 10 * time.Second, true: 20 * time.Second}[silent]; took > most {
		t.Errorf("it took %v to find out\n%s", took, s)
	}

	wantWords(t, s, c.want)
	if c.hold != "" {
		sql(t, host, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'")
	}
	decided(t, host, 25*time.Second)
	alone := time.Since(at)
	p.Cut() // what is stuck would otherwise stay so, and keep its session
	p.Mend()
	resumes, done := c.finishes(t, b, host, before)
	t.Logf("PROOF: PostgreSQL %d, network cut in the middle of %s: pgfleet gave up after %v, after %v the host was %s, and resume finished (%d)\n", fleet.Lab.Host(host).Postgres, c.name,
		took.Round(100*time.Millisecond), alone.Round(100*time.Millisecond), map[bool]string{false: "as before", true: "as wanted"}[done], resumes)
}

// blinks cuts the network for a moment: pgfleet comes back and puts back itself,
// before the host would.
func blinks(t *testing.T, host string) {
	var p *sshtest.Proxy
	c := changes()[0]
	b, r, before := c.during(t, host, func(b *bench) { p = b.through(host) })
	p.Refuse()
	time.AfterFunc(1500*time.Millisecond, p.Mend)
	s := r.end(1)
	wantWords(t, s, "trying to connect again", "everything was put back")
	if strings.Contains(s, "by itself") {
		t.Errorf("the host was faster:\n%s", s)
	}
	if left := armed(t, host); left != "" {
		t.Errorf("still armed: %s", left)
	}
	if now := whole(t, host); now != before {
		t.Errorf("not as before:\n%s", unlike(before, now))
	}
	c.finishes(t, b, host, before)
}

// cutAnywhere cuts the network at points spread over a run of several steps.
func cutAnywhere(t *testing.T, host string) {
	points := 12
	tasks := changes()[7].tasks + threeFiles + changes()[6].tasks + changes()[5].tasks
	configuration := func(text string) string {
		var lines []string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "file /etc/postgresql/") || strings.HasPrefix(line, "setting|") || strings.HasPrefix(line, "pending|") || strings.HasPrefix(line, "refused|") || strings.HasPrefix(line, "reports ") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	var length time.Duration
	for i := range points + 1 {
		served(t, host)
		b := newBench(t, tasks+declaredClient, host)
		b.Write("script.sql", script)
		p := b.through(host)
		before := configuration(whole(t, host))
		at := time.Now()
		r := b.start("apply", "--yes", "--dead-man", "5s")
		if i == 0 {
			r.end(0)
			length = time.Since(at)
			continue
		}
		time.Sleep(length * time.Duration(i) / time.Duration(points+1))
		if i%2 == 0 {
			p.StallAfter(0)
		} else {
			p.Refuse()
		}
		at = time.Now()
		<-r.ended
		if took := time.Since(at); took > 30*time.Second {
			t.Errorf("cut at %d of %d: it took %v to find out\n%s", i, points, took, r.out.String())
		}
		decided(t, host, 30*time.Second)
		clientLogsIn(t, host)
		between := configuration(whole(t, host))
		p.Cut()
		p.Mend()
		if len(b.runs()) > 0 {
			b.resumed()
		} else {
			b.Want(0, "apply", "--yes")
		}
		clientLogsIn(t, host)
		if after := configuration(whole(t, host)); between != before && between != after {
			t.Errorf("cut at %d of %d, the host was half done. Against before:\n%s\nagainst after:\n%s\n%s", i, points, unlike(before, between), unlike(between, after), r.out.String())
		}
	}
	t.Logf("PROOF: PostgreSQL %d, network cut at %d points over %v: each time as before or as wanted, and finished\n", fleet.Lab.Host(host).Postgres, points, length.Round(100*time.Millisecond))
}
