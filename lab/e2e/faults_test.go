//go:build lab

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
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
		look(t, h, strings.NewReplacer("VERSION", fmt.Sprint(fleet.lab.Host(h).Postgres), "NETWORK", fleet.lab.Applications.String()).Replace(`set -e; cd /
conf=/etc/postgresql/VERSION/main
echo "listen_addresses = '*'" >$conf/conf.d/00-test.conf
printf 'host all app,reports NETWORK scram-sha-256\n' >>$conf/pg_hba.conf
systemctl stop fault.service 2>/dev/null || true
rm -rf /run/fault-* /var/tmp/fault-* /etc/fault-* /etc/systemd/system/fault.service
systemctl daemon-reload
systemctl restart postgresql@VERSION-main
for i in $(seq 100); do runuser -u postgres -- pg_isready -q && break; sleep 0.1; done
: >/var/log/postgresql/postgresql-VERSION-main.log
[ "$(runuser -u postgres -- psql -XAtqc 'SELECT pg_is_in_recovery()')" = f ] || exit 0
runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 <<END
SET password_encryption = 'scram-sha-256';
CREATE ROLE app LOGIN PASSWORD 'pw-Fault4Rq_unsaid';
CREATE ROLE reports LOGIN PASSWORD 'pw-Fault4Rq_unsaid';
END`))
	}
}

// whole is a host as somebody sees it who knows nothing of pgfleet: the files, what
// the server runs with and holds, and who may log in. Two of them are equal only
// if nothing is half done.
func whole(t *testing.T, host string) string {
	t.Helper()
	text := look(t, host, strings.ReplaceAll(`set -e; cd /
find /etc /var/lib/postgresql/VERSION/main/postgresql.auto.conf /var/lib/pgfleet/*.files -type f ! -path '*/.pgfleet.*' ! -name .full -exec sh -c 'for f; do echo "file $f $(stat -c %U:%G:%a "$f") $(sha256sum <"$f")"; done' sh {} + 2>/dev/null | sort
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
	for look(t, host, "ls /var/lib/pgfleet/undo/*/restore 2>/dev/null; flock -n /var/lib/pgfleet/lock true || echo writing") != "" {
		if time.Since(start) > within {
			t.Fatalf("after %v the host is not left alone: %s", within, look(t, host, "journalctl -n 30 --no-pager; cat /var/lib/pgfleet/undo/*/*.note; ps axf"))
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
			tasks:  "\n[[task]]\nname = \"Database\"\nkind = \"database\"\ndatabase = \"fault\"\npublic = [\"CONNECT\", \"TEMPORARY\"]\n",
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
	if most := map[bool]time.Duration{false: 10 * time.Second, true: 30 * time.Second}[silent]; took > most {
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

// startedAt is when a host's server started.
func startedAt(t *testing.T, host string) string {
	t.Helper()
	return sql(t, host, "SELECT pg_postmaster_start_time()")
}

// small puts a file system of few MB in the place of a folder of a host, with what
// is in the folder.
func small(t *testing.T, host, dir string, megabytes int) {
	t.Helper()
	look(t, host, strings.ReplaceAll("set -e; mkdir -p -m 0755 "+dir+"; cd "+dir+`; d=$PWD; s=$(mktemp -d -p /root); cp -a . $s/; o=size=SIZE,mode=$(stat -c %a .),uid=$(stat -c %u .),gid=$(stat -c %g .)
mount -t tmpfs -o $o none $d; cp -a $s/. $d/; rm -r $s`, "SIZE", fmt.Sprintf("%dm", megabytes)))
	t.Cleanup(func() {
		look(t, host, "cd "+dir+"; s=$(mktemp -d -p /root); rm -f .full; cp -a . $s/; cd /; umount "+dir+"; cp -a $s/. "+dir+"/; rm -r $s")
	})
}

// full leaves so many blocks of 4 kB free in the file system of a folder; fewer
// than 0 are all.
func full(t *testing.T, host, dir string, blocks int) {
	t.Helper()
	look(t, host, fmt.Sprintf(`set -e; cd %s; rm -f .full; [ %[2]d -ge 0 ] || exit 0
n=$(($(df --output=avail -B4096 . | tail -n 1) - %[2]d)); head -c $((n * 4096)) /dev/zero >.full; [ $(df --output=avail -B4096 . | tail -n 1) = %[2]d ]`, dir, blocks))
}

// threeFiles change three files of a server's configuration, and restart it.
const threeFiles = `
[[task]]
name = "Memory"
kind = "settings"
file = "50-fault.conf"
settings = { max_connections = "77" }

[[task]]
name = "More memory"
kind = "settings"
file = "51-fault.conf"
settings = { work_mem = "5MB" }
` + appRules + `
[[task]]
name = "PostgreSQL"
kind = "service"
`

// An untouched is a host as it was, for what must change nothing.
type untouched struct {
	t                     *testing.T
	host, before, started string
}

func untouchedYet(t *testing.T, host string) untouched {
	t.Helper()
	return untouched{t, host, whole(t, host), startedAt(t, host)}
}

// by demands that a run has failed and said why, and has changed nothing.
func (u untouched) by(s said, words ...string) {
	u.t.Helper()
	if s.code != 1 {
		u.t.Errorf("exit %d\n%s", s.code, s.all())
	}
	wantWords(u.t, s.all(), append(words, u.host+": ")...)
	if after := whole(u.t, u.host); after != u.before {
		u.t.Errorf("the host is not as before:\n%s\n%s", unlike(u.before, after), s.all())
	}
	if now := startedAt(u.t, u.host); now != u.started {
		u.t.Errorf("the server was restarted\n%s", s.all())
	}
	if left := stillArmed(u.t, u.host); left != "" {
		u.t.Errorf("armed: %s\n%s", left, s.all())
	}
	clientLogsIn(u.t, u.host)
}

// stillArmed is armed, without a file system of the test's own.
func stillArmed(t *testing.T, host string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(armed(t, host)) {
		if !strings.Contains(line, "var-lib-pgfleet.mount") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// fullDisk applies with little room in a folder. Each run leaves the host as it
// was, and says what there is no room for; with room again, the first run is gone
// on with.
func fullDisk(t *testing.T, host, tasks, dir string, blocks []int, words ...string) {
	served(t, host)
	dir = strings.ReplaceAll(dir, "VERSION", fmt.Sprint(fleet.lab.Host(host).Postgres))
	b := newBench(t, tasks+declaredClient, host)
	b.withCA()
	small(t, host, dir, 64)
	u := untouchedYet(t, host)
	for _, n := range blocks {
		full(t, host, dir, n)
		s := b.run("apply", "--yes", "--dead-man", "5s")
		full(t, host, dir, -1)
		if s.code == 0 {
			t.Fatalf("%d blocks are enough\n%s", n, s.all())
		}
		t.Logf("%d blocks free:\n%s", n, s.all())
		u.by(s, append(words, "No space left on device")...)
	}
	b.resumed()
	clientLogsIn(t, host)
	if got := sql(t, host, "SHOW max_connections"); got != "77" {
		t.Errorf("max_connections is %s", got)
	}
	t.Logf("PROOF: PostgreSQL %d, %s full: %d applies failed and changed nothing; with room resume finished\n", fleet.lab.Host(host).Postgres, dir, len(blocks))
}

// A disk that is full where something has to be written: nothing is half done.
func TestLabDiskFull(t *testing.T) {
	for _, c := range []struct {
		name, dir string
		v         int
		blocks    []int
		words     []string
	}{
		{"configuration", "/etc/postgresql/VERSION/main", 15, []int{0, 1, 2}, []string{"/etc/postgresql/15/main/"}},
		{"copies", "/var/lib/pgfleet", 17, []int{0, 1, 2, 4, 10}, []string{"/var/lib/pgfleet/"}},
		{"trial", "/tmp", 18, []int{0}, []string{"/tmp/"}},
	} {
		t.Run(fmt.Sprintf("%s/postgres-%d", c.name, c.v), func(t *testing.T) {
			t.Parallel()
			fullDisk(t, fmt.Sprintf("pg%d", c.v), threeFiles, c.dir, c.blocks, c.words...)
		})
	}
	t.Run("put back by the host/postgres-13", func(t *testing.T) {
		t.Parallel()
		noRoomForTheHost(t, "pg13")
	})
}

// larger has pg_hba.conf take more room than all that replaces it, in a small file
// system.
func larger(t *testing.T, host, dir string) {
	t.Helper()
	small(t, host, dir, 1)
	look(t, host, "yes '# a long comment' | head -n 3000 >>"+dir+"/pg_hba.conf")
}

// noRoomForTheHost: the network is cut and the disk is full when the host has to
// put back. It does what it can, the server runs, and with room the rest follows.
func noRoomForTheHost(t *testing.T, host string) {
	dir := fmt.Sprintf("/etc/postgresql/%d/main", fleet.lab.Host(host).Postgres)
	var p *sshtest.Proxy
	c := change{tasks: threeFiles, at: "grep -q pgfleet /etc/postgresql/VERSION/main/pg_hba.conf"}
	b, r, before := c.during(t, host, func(b *bench) {
		larger(t, host, dir)
		p = b.through(host)
	})
	p.Refuse()
	full(t, host, dir, 0)
	t.Logf("%s", r.ends(1).stdout)
	until(t, host, "grep -q '^failed ' /var/lib/pgfleet/undo/*/fired.note && runuser -u postgres -- pg_isready -q")
	clientLogsIn(t, host)
	p.Mend()
	s := b.run("plan")
	t.Logf("%s", s.all())
	wantWords(t, s.all(), "it could not do all of it", dir+"/pg_hba.conf", "No space left on device", "the next apply tries again")
	s = b.want(1, "apply", "--yes")
	t.Logf("%s", s.all())
	wantWords(t, s.all(), "No space left on device", "mend that and apply again")
	clientLogsIn(t, host)
	full(t, host, dir, -1)
	b.want(1, "runs", "resume", b.runs()[1].Run, "--yes") // puts back
	if after := whole(t, host); after != before {
		t.Errorf("with room, the host is not as before:\n%s", unlike(before, after))
	}
	b.resumed()
	clientLogsIn(t, host)
}

// noRoomForUs: the disk is full when pgfleet has to put back. The host is left to
// try again.
func noRoomForUs(t *testing.T, host string) {
	dir := fmt.Sprintf("/etc/postgresql/%d/main", fleet.lab.Host(host).Postgres)
	good := "settings = { max_connections = \"77\" }"
	c := change{
		tasks: strings.Replace(threeFiles, good, `settings = { max_connections = "77", listen_addresses = "192.0.2.1" }`, 1),
		at:    "grep -q pgfleet /etc/postgresql/VERSION/main/pg_hba.conf",
	}
	b, r, before := c.during(t, host, func(*bench) { larger(t, host, dir) })
	full(t, host, dir, 0)
	s := r.ends(1)
	t.Logf("%s", s.stdout)
	wantWords(t, s.stdout, "No space left on device", "putting the old state back failed as well", undo)
	until(t, host, "runuser -u postgres -- pg_isready -q")
	clientLogsIn(t, host)
	full(t, host, dir, -1)
	b.edit("fleet.toml", ", listen_addresses = \"192.0.2.1\"", "")
	b.run("apply", "--yes")
	if after := whole(t, host); after != before {
		t.Errorf("with room, the host is not as before:\n%s", unlike(before, after))
	}
	b.resumed()
	clientLogsIn(t, host)
}

// A disk that is full when pgfleet has to put back.
func TestLabDiskFullAtPutBack(t *testing.T) {
	for _, v := range []int{15, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			noRoomForUs(t, fmt.Sprintf("pg%d", v))
		})
	}
}

// readOnly makes a folder of a host one that cannot be written to, until the
// function that it returns is called. A server that runs in it goes on.
func readOnly(t *testing.T, host, dir string) (undo func()) {
	t.Helper()
	look(t, host, "set -e; mount --bind "+dir+" "+dir+"; mount -o remount,ro,bind "+dir)
	undo = sync.OnceFunc(func() { look(t, host, "umount "+dir) })
	t.Cleanup(undo)
	return undo
}

// A read-only /etc, or data directory: refused before anything was changed.
func TestLabReadOnly(t *testing.T) {
	for _, v := range []int{15, 17} {
		host := fmt.Sprintf("pg%d", v)
		t.Run(fmt.Sprintf("etc/postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			served(t, host)
			b := newBench(t, threeFiles+declaredClient, host)
			b.withCA()
			u := untouchedYet(t, host)
			end := readOnly(t, host, "/etc")
			s := b.run("apply", "--yes")
			t.Logf("%s", s.all())
			u.by(s, "Read-only file system", "/etc/")
			for _, tasks := range []string{
				changes()[3].tasks,
				"\n[[task]]\nname = \"File\"\nkind = \"file\"\npath = \"/etc/fault-file\"\ncontent = \"x\"\n",
				changes()[4].tasks,
			} {
				other := newBench(t, tasks+declaredClient, host)
				other.withCA()
				s := other.run("apply", "--yes")
				t.Logf("%s", s.all())
				u.by(s, "Read-only file system", "/etc/")
			}
			end()
			b.resumed()
			clientLogsIn(t, host)
		})
	}
	for _, v := range []int{13, 18} {
		host := fmt.Sprintf("pg%d", v)
		t.Run(fmt.Sprintf("data/postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			served(t, host)
			sql(t, host, "ALTER SYSTEM SET work_mem = '9MB'")
			sql(t, host, "SELECT pg_reload_conf()")
			b := newBench(t, threeFiles+declaredClient, host)
			until(t, host, "[ \"$(cd /; runuser -u postgres -- psql -XAtqc 'SHOW work_mem')\" = 9MB ]")
			u := untouchedYet(t, host)
			end := readOnly(t, host, fmt.Sprintf("/var/lib/postgresql/%d/main", v))
			s := b.run("apply", "--yes")
			t.Logf("%s", s.all())
			u.by(s, "Read-only file system", "postgresql.auto.conf")
			end()
			b.resumed()
			clientLogsIn(t, host)
		})
	}
}

// reboots boots a host again: in order, or as after a loss of power.
func reboots(t *testing.T, host string, power bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	h := fleet.lab.Host(host)
	if !power {
		if err := h.Reboot(ctx); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := h.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// A host that reboots in the middle of an apply with several steps, while pgfleet
// goes on: after the boot it is as the steps that were done have left it.
func TestLabHostReboots(t *testing.T) {
	for _, v := range versions() {
		host, power := fmt.Sprintf("pg%d", v), v == 15 || v == 18
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			c := change{
				tasks: "\n[[task]]\nname = \"First\"\nkind = \"file\"\npath = \"/etc/fault-first\"\ncontent = \"x\"\n" + threeFiles +
					"\n[[task]]\nname = \"Last\"\nkind = \"command\"\nrun = \"touch /var/tmp/fault-last\"\ncreates = \"/var/tmp/fault-last\"\n",
				at: "[ -e " + confD + "51-fault.conf ]",
			}
			b, r, before := c.during(t, host, func(*bench) {})
			at := time.Now()
			reboots(t, host, power)
			up := time.Since(at)
			s := r.ends(1)
			t.Logf("%s", s.stdout)
			took := time.Since(at)
			decided(t, host, 25*time.Second)
			clientLogsIn(t, host)
			for line := range strings.Lines(unlike(before, whole(t, host))) {
				if !strings.Contains(line, "/etc/fault-first ") && !strings.Contains(line, ".files ") {
					t.Errorf("after the boot: %s", line)
				}
			}
			n := b.resumed()
			clientLogsIn(t, host)
			look(t, host, "[ -e /var/tmp/fault-last ]")
			if got := sql(t, host, "SHOW max_connections"); got != "77" {
				t.Errorf("max_connections is %s", got)
			}
			t.Logf("PROOF: PostgreSQL %d, rebooted in the middle of step 2 of 3: up after %v, pgfleet ended after %v, as before that step, and resume finished (%d)\n", v, up.Round(100*time.Millisecond), took.Round(100*time.Millisecond), n)
		})
	}
}

// A standby that reboots while it is restarted: its primary, which waits for it, is
// left alone.
func TestLabStandbyReboots(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		served(t, "primary", "standby")
		b := newBench(t, "\n[[task]]\nname = \"Connections\"\nkind = \"settings\"\nfile = \"50-fault.conf\"\nsettings = { max_connections = \"120\" }\n\n[[task]]\nname = \"PostgreSQL\"\nkind = \"service\"\n"+declaredClient, "primary", "standby")
		streams := func() {
			until(t, "primary", "[ \"$(cd /; runuser -u postgres -- psql -XAtqc \"SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'\")\" = 1 ]")
		}
		streams()
		caughtUp(t)
		u := untouchedYet(t, "primary")
		before := whole(t, "standby")
		come := moment(t, "standby", "", "grep -q 'fast shutdown request' "+logFile("standby"))
		r := b.begins("apply", "--yes", "--dead-man", "5s")
		come(r)
		at := time.Now()
		reboots(t, "standby", false)
		s := r.ends(1)
		t.Logf("%s", s.stdout)
		took := time.Since(at)
		decided(t, "standby", 25*time.Second)
		u.by(s, "standby: ", "left alone, because standby of its cluster is in trouble")
		streams()
		clientLogsIn(t, "standby")
		if after := whole(t, "standby"); after != before {
			t.Errorf("the standby is not as before:\n%s", unlike(before, after))
		}
		n := b.resumed()
		streams()
		for _, h := range []string{"standby", "primary"} {
			clientLogsIn(t, h)
			if got := sql(t, h, "SHOW max_connections"); got != "120" {
				t.Errorf("%s: max_connections is %s", h, got)
			}
		}
		t.Logf("PROOF: a standby rebooted while it was restarted: pgfleet ended after %v, the primary was not touched, and resume finished (%d)\n", took.Round(100*time.Millisecond), n)
	})
}
