//go:build lab

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// appLogin is the declared client's: it can log in whatever happens.
const appLogin = "dbname=postgres user=app password=pw-Fault4Rq_unsaid"

// declaredClient says so to pgfleet.
const declaredClient = `
[[client]]
name = "app"
user = "app"
database = "postgres"
from = "{{ .Vars.applications }}"
tls = false
`

// appRules are an hba task that lets the client in, and reports out.
const appRules = `
[[task]]
name = "Who"
kind = "hba"
rules = ["local all postgres peer", "local all all peer", "host all app {{ .Vars.applications }} scram-sha-256"]
`

// served makes hosts as at their first boot, with a client that logs in from the
// applications' network, and another one, reports, that the rules let in only as
// long as they are the old ones.
func served(t *testing.T, hosts ...string) {
	t.Helper()
	fresh(t, hosts...)
	for _, h := range hosts {
		if fleet.lab.Host(h).StandbyOf != "" {
			continue // it has the roles
		}
		look(t, h, strings.NewReplacer("VERSION", fmt.Sprint(fleet.lab.Host(h).Postgres), "NETWORK", fleet.lab.Applications.String()).Replace(`set -e; cd /
conf=/etc/postgresql/VERSION/main
echo "listen_addresses = '*'" >$conf/conf.d/00-test.conf
printf 'host all app,reports NETWORK scram-sha-256\n' >>$conf/pg_hba.conf
rm -f /run/fault-* /var/tmp/fault-*; ! [ -e /etc/systemd/system/fault.service ] || systemctl stop fault; rm -f /etc/systemd/system/fault.service; systemctl daemon-reload
systemctl restart postgresql@VERSION-main
for i in $(seq 100); do runuser -u postgres -- pg_isready -q && break; sleep 0.1; done
runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 <<END
SET password_encryption = 'scram-sha-256';
CREATE ROLE app LOGIN PASSWORD 'pw-Fault4Rq_unsaid';
CREATE ROLE reports LOGIN PASSWORD 'pw-Fault4Rq_unsaid';
CREATE ROLE holder;
END
: >/var/log/postgresql/postgresql-VERSION-main.log`))
	}
}

// whole is a host as somebody sees it who knows nothing of pgfleet: the files, what
// the server runs with and holds, and who may log in. Two of them are equal only
// if nothing is half done.
func whole(t *testing.T, host string) string {
	t.Helper()
	text := look(t, host, strings.ReplaceAll(`set -e; cd /
find /etc /var/lib/postgresql/VERSION/main/postgresql.auto.conf /var/lib/pgfleet/*.files -type f ! -path '*/.pgfleet.*' -exec sh -c 'for f; do echo "file $f $(stat -c %U:%G:%a "$f") $(sha256sum <"$f")"; done' sh {} + 2>/dev/null | sort
runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 <<'END'
SELECT 'setting', name, setting FROM pg_settings WHERE source = 'configuration file' ORDER BY 2;
SELECT 'pending', name FROM pg_settings WHERE pending_restart;
SELECT 'refused', name, error FROM pg_file_settings WHERE error IS NOT NULL;
SELECT 'refused', line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL;
SELECT 'role', rolname, rolcanlogin, rolconnlimit FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 2;
SELECT 'member', member::regrole, roleid::regrole FROM pg_auth_members WHERE member::regrole::text !~ '^pg_' ORDER BY 2, 3;
SELECT 'database', datname, datdba::regrole, datacl FROM pg_database ORDER BY 2;
SELECT 'relation', relname, relowner::regrole, relacl FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 2;
END
echo certificate $(openssl s_client -starttls postgres -connect localhost:5432 </dev/null 2>/dev/null | openssl x509 -noout -fingerprint 2>/dev/null)
dpkg-query -W -f 'package ${Package} ${Version} ${Status}\n' 'postgresql-*'
dpkg --audit
echo unit $(systemctl is-active fault.service) $(systemctl show -P NeedDaemonReload postgresql@VERSION-main)
ls /var/tmp/fault-* 2>/dev/null || true`, "VERSION", fmt.Sprint(fleet.lab.Host(host).Postgres)))
	return text + "reports " + letsIn(t, host, strings.Replace(appLogin, "user=app", "user=reports", 1)) + "\n"
}

// letsIn says what becomes of a login.
func letsIn(t *testing.T, host, parameters string) string {
	t.Helper()
	conn, err := login(t, host, parameters)
	if err != nil {
		_, said, _ := strings.Cut(err.Error(), "FATAL: ")
		return said
	}
	_ = conn.Close(t.Context())
	return "may log in"
}

// clientLogsIn demands that the declared client does.
func clientLogsIn(t *testing.T, host string) {
	t.Helper()
	if got := letsIn(t, host, appLogin); got != "may log in" {
		t.Errorf("the declared client on %s: %s", host, got)
	}
}

// unlike lists the lines that only one of two texts has.
func unlike(a, b string) string {
	var list []string
	for _, pair := range [][3]string{{"- ", a, b}, {"+ ", b, a}} {
		for line := range strings.Lines(pair[1]) {
			if !slices.Contains(strings.Split(pair[2], "\n"), strings.TrimSuffix(line, "\n")) {
				list = append(list, pair[0]+line)
			}
		}
	}
	return strings.Join(list, "")
}

// through has the bench reach a host's sshd by a proxy. Certificates, rules and
// everything else still name the host's own address.
func (b *bench) through(host string) *sshtest.Proxy {
	b.t.Helper()
	address := fleet.lab.Host(host).Address.String()
	p, err := sshtest.NewProxy(net.JoinHostPort(address, "22"), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { p.Close() })
	_, port, _ := net.SplitHostPort(p.Addr)
	text, err := os.ReadFile(fleet.lab.KnownHosts)
	if err != nil {
		b.t.Fatal(err)
	}
	known := string(text)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && slices.Contains(strings.Split(f[0], ","), address) {
			known += fmt.Sprintf("[%s]:%s,[127.0.0.1]:%s %s %s\n", address, port, port, f[1], f[2])
		}
	}
	b.write("known", known)
	b.write("ssh_config", fmt.Sprintf("Host %s\n HostName 127.0.0.1\n Port %s\n ServerAliveInterval 1\n ServerAliveCountMax 3\n", address, port))
	b.edit("fleet.toml", "[ssh]\n", "[ssh]\nconfig = \"ssh_config\"\n")
	b.edit("fleet.toml", fleet.lab.KnownHosts, "known")
	return p
}

// A running is an apply that was started and not waited for.
type running struct {
	b    *bench
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}
}

func (b *bench) begins(args ...string) *running {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	r := &running{b: b, done: make(chan struct{})}
	r.cmd = b.command(ctx, args...)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if err := r.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait()
		cancel()
		close(r.done)
	}()
	b.t.Cleanup(func() {
		_ = r.cmd.Process.Signal(syscall.SIGKILL)
		<-r.done
	})
	return r
}

// ends waits for its end and returns what it has said.
func (r *running) ends(code int) said {
	r.b.t.Helper()
	start := time.Now()
	<-r.done
	s := said{r.out.String(), "", r.cmd.ProcessState.ExitCode(), time.Since(start)}
	if s.code != code {
		r.b.t.Errorf("pgfleet exited with %d, want %d\n%s", s.code, code, s.stdout)
	}
	return s
}

// moment waits until a condition of the shell holds on a host; before is run
// first. The one that it returns is to be called once the condition may come true.
func moment(t *testing.T, host, before, condition string) (come func(r *running)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	result := make(chan error, 1)
	go func() {
		_, err := fleet.lab.Host(host).Exec(ctx, "cd /\n"+before+"\nuntil "+condition+"; do sleep 0.002; done")
		result <- err
	}()
	return func(r *running) {
		t.Helper()
		select {
		case err := <-result:
			if err != nil {
				t.Fatalf("%v\n%s", err, r.out.String())
			}
		case <-r.done:
			t.Fatalf("it ended before the moment had come\n%s", r.out.String())
		}
	}
}

// decided waits until a host is left alone: the dead-man has done its work, and
// what was begun there has ended.
func decided(t *testing.T, host string, within time.Duration) {
	t.Helper()
	start := time.Now()
	for armed(t, host) != "" || look(t, host, "flock -n /var/lib/pgfleet/lock true || echo writing") != "" {
		if time.Since(start) > within {
			t.Fatalf("after %v the host is not left alone: %s", within, armed(t, host)+look(t, host, "journalctl -n 30 --no-pager; cat /var/lib/pgfleet/undo/*/*.note; ps axf"))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// resumed finishes the bench's first run, and returns how often it had to be asked.
func (b *bench) resumed() int {
	b.t.Helper()
	list := b.runs()
	if len(list) == 0 {
		b.t.Fatal("there is no run to resume")
	}
	id := list[len(list)-1].Run
	for n := 1; ; n++ {
		s := b.run("runs", "resume", id, "--yes", "--lock-wait", "30s")
		if s.code == 0 {
			b.want(0, "plan", "--detailed-exitcode")
			return n
		}
		if n == 2 {
			b.t.Fatalf("resumed twice, and not finished:\n%s", s.all())
		}
		b.t.Logf("resumed:\n%s", s.all())
		if !strings.Contains(s.all(), "apply again") {
			b.t.Errorf("what to do is not said:\n%s", s.all())
		}
	}
}

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
			tasks: "\n[[task]]\nname = \"Certificate\"\nkind = \"certificate\"\nfile = \"server.pem\"\nca = \"ca.pem\"\nca_key = \"file:ca.key\"\n" + settings(`ssl = true, ssl_cert_file = "{{ .Instance.ConfDir }}/server.pem", ssl_key_file = "{{ .Instance.ConfDir }}/server.pem"`),
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
			tasks:  "\n[[task]]\nname = \"Database\"\nkind = \"database\"\ndatabase = \"fault\"\n",
			before: "n=$(ls /var/lib/postgresql/VERSION/main/base | wc -l)",
			at:     "[ $(ls /var/lib/postgresql/VERSION/main/base | wc -l) -gt $n ]",
		},
	}
}

// onePackage is the change of a host that has an apt repository.
var onePackage = change{
	name:  "package",
	tasks: "\n[[task]]\nname = \"pgaudit\"\nkind = \"package\"\npackages = [\"postgresql-15-pgaudit\"]\n",
	at:    "[ -n \"$(ls -A /var/lib/dpkg/updates)\" ]",
}

const script = "CREATE TABLE public.first (a int);\nSELECT pg_sleep(2);\nCREATE TABLE public.second (a int);\n"

// during starts an apply of a change and returns when it is in the middle of it.
func (c change) during(t *testing.T, host string, how func(b *bench)) (*bench, *running, string) {
	t.Helper()
	served(t, host)
	b := newBench(t, c.tasks+declaredClient, host)
	b.withCA()
	b.write("script.sql", script)
	how(b)
	before := whole(t, host)
	if c.hold != "" {
		look(t, host, "cd /; nohup setsid runuser -u postgres -- psql -Xqc "+shellQuote("BEGIN; "+c.hold+"; SET application_name = 'holder'; SELECT pg_sleep(50)")+" >/dev/null 2>&1 & sleep 0.5")
	}
	version := fmt.Sprint(fleet.lab.Host(host).Postgres)
	come := moment(t, host, strings.ReplaceAll(c.before, "VERSION", version), strings.ReplaceAll(c.at, "VERSION", version))
	r := b.begins("apply", "--yes", "--dead-man", "5s")
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
	s := r.ends(1)
	took := time.Since(at)
	if most := map[bool]time.Duration{false: 5 * time.Second, true: 30 * time.Second}[silent]; took > most {
		t.Errorf("it took %v to find out\n%s", took, s.stdout)
	}
	t.Logf("%s", s.stdout)
	wantWords(t, s.stdout, c.want)
	if c.hold != "" {
		sql(t, host, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'")
	}
	decided(t, host, 25*time.Second)
	alone := time.Since(at)
	p.Mend()
	resumes, done := c.finishes(t, b, host, before)
	t.Logf("PROOF: PostgreSQL %d, network cut in the middle of %s: pgfleet gave up after %v, after %v the host was %s, and resume finished (%d)\n", fleet.lab.Host(host).Postgres, c.name,
		took.Round(100*time.Millisecond), alone.Round(100*time.Millisecond), map[bool]string{false: "as before", true: "as wanted"}[done], resumes)
}

// The network cut in the middle of each kind of change.
func TestLabNetworkCut(t *testing.T) {
	for _, v := range versions() {
		host := fmt.Sprintf("pg%d", v)
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			for i, c := range changes() {
				if os.Getenv("PGFLEET_SOAK") == "" && i%len(versions()) != slices.Index(versions(), v) {
					continue
				}
				t.Run(fmt.Sprintf("%s/postgres-%d", c.name, v), func(t *testing.T) { c.cut(t, host, false) })
			}
		})
	}
	t.Run("noforward", func(t *testing.T) {
		t.Parallel()
		t.Run("package/postgres-15", func(t *testing.T) {
			t.Cleanup(func() { look(t, "noforward", "dpkg --configure -a; dpkg -P postgresql-15-pgaudit") })
			onePackage.cut(t, "noforward", false)
		})
	})
}

var _ = filepath.Join
