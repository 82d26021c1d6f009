//go:build lab

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// A fault is something that goes wrong in the middle of an apply, on a host.
type fault struct {
	host, name string
	always     bool // not only in a soak
	run        func(t *testing.T, host string)
}

// faults are all of them. Those that always run are spread over the versions.
func faults() []fault {
	var list []fault
	for _, v := range versions() {
		host := fmt.Sprintf("pg%d", v)
		add := func(name string, run func(t *testing.T, host string), always ...int) {
			list = append(list, fault{host, name, slices.Contains(always, v), run})
		}
		for i, c := range changes() {
			one := versions()[i%len(versions())]
			add("network cut/"+c.name, func(t *testing.T, host string) { c.cut(t, host, false) }, one)
			add("network silent/"+c.name, func(t *testing.T, host string) { c.cut(t, host, true) }, map[string]int{"reload": 17, "transaction": 18}[c.name])
		}
		add("network cut for a moment", blinks, 13)
		add("network cut anywhere", cutAnywhere)
		add("disk full/configuration", fullConfiguration, 15)
		add("disk full/copies", fullCopies, 17)
		add("disk full/trial", fullTrial)
		add("disk full/put back by the host", noRoomForTheHost, 13)
		add("disk full/put back by pgfleet", noRoomForUs, 17)
		add("read-only/etc", readOnlyEtc, 15)
		add("read-only/data directory", readOnlyData, 18)
		add("reboot", func(t *testing.T, host string) { rebooted(t, host, reboots) }, 13, 17)
		add("loss of power", func(t *testing.T, host string) { rebooted(t, host, losesPower) }, 15)
		add("away", func(t *testing.T, host string) { rebooted(t, host, nil) }, 18)
	}
	for i, c := range packages() {
		list = append(list, fault{"noforward", "network cut/" + c.name, i == 0, func(t *testing.T, host string) {
			t.Cleanup(func() { look(t, host, "dpkg --configure -a; dpkg -P postgresql-15-pgaudit") })
			c.cut(t, host, false)
		}})
	}
	return append(list, fault{"standby", "reboot of a standby", true, standbyReboots})
}

// Whatever goes wrong in the middle of an apply: each host is as before or as
// wanted within the dead-man's time, the declared client can log in, and resume
// finishes. The hosts are worked on at the same time.
func TestLabFaults(t *testing.T) {
	chains := map[string][]fault{}
	for _, f := range faults() {
		if f.always || os.Getenv("PGFLEET_SOAK") != "" {
			chains[f.host] = append(chains[f.host], f)
		}
	}
	var group sync.WaitGroup
	for _, chain := range chains {
		group.Go(func() {
			for _, f := range chain {
				t.Run(fmt.Sprintf("%s/postgres-%d", f.name, fleet.Lab.Host(f.host).Postgres), func(t *testing.T) { f.run(t, f.host) })
			}
		})
	}
	group.Wait()
}

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
		look(t, h, strings.NewReplacer("VERSION", fmt.Sprint(fleet.Lab.Host(h).Postgres), "NETWORK", fleet.Lab.Applications.String()).Replace(`set -e; cd /
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
ls /var/tmp/fault-* 2>/dev/null || true`, "VERSION", fmt.Sprint(fleet.Lab.Host(host).Postgres)))
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
	b.T.Helper()
	address := fleet.Lab.Host(host).Address.String()
	p, err := sshtest.NewProxy(net.JoinHostPort(address, "22"), 0)
	if err != nil {
		b.T.Fatal(err)
	}
	b.T.Cleanup(func() { p.Close() })
	_, port, _ := net.SplitHostPort(p.Addr)
	text, err := os.ReadFile(fleet.Lab.KnownHosts)
	if err != nil {
		b.T.Fatal(err)
	}
	known := string(text)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && slices.Contains(strings.Split(f[0], ","), address) {
			known += fmt.Sprintf("[%s]:%s,[127.0.0.1]:%s %s %s\n", address, port, port, f[1], f[2])
		}
	}
	b.Write("known", known)
	b.Write("ssh_config", fmt.Sprintf("Host %s\n HostName 127.0.0.1\n Port %s\n ConnectTimeout 3\n ServerAliveInterval 1\n ServerAliveCountMax 3\n", address, port))
	b.edit("fleet.toml", "[ssh]\n", "[ssh]\nconfig = \"ssh_config\"\n")
	b.edit("fleet.toml", fleet.Lab.KnownHosts, "known")
	return p
}

// moment waits until a condition of the shell holds on a host; before is run
// first. The one that it returns is to be called once the condition may come true.
func moment(t *testing.T, host, before, condition string) (come func(r *started)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	result := make(chan error, 1)
	go func() {
		_, err := fleet.Lab.Host(host).Exec(ctx, "cd /\n"+before+"\nuntil "+condition+"; do sleep 0.002; done")
		result <- err
	}()
	return func(r *started) {
		t.Helper()
		select {
		case err := <-result:
			if err != nil {
				t.Fatalf("%v\n%s", err, r.out.String())
			}
		case <-r.ended:
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
	b.T.Helper()
	list := b.runs()
	if len(list) == 0 {
		b.T.Fatal("there is no run to resume")
	}
	id := list[len(list)-1].Run
	for n := 1; ; n++ {
		s := b.Run("runs", "resume", id, "--yes", "--lock-wait", "30s")
		if s.Code == 0 {
			b.Want(0, "plan", "--detailed-exitcode")
			return n
		}
		if n == 2 {
			b.T.Fatalf("resumed twice, and not finished:\n%s", s.All())
		}
		b.T.Logf("resumed:\n%s", s.All())
		if !strings.Contains(s.All(), "again") {
			b.T.Errorf("what to do is not said:\n%s", s.All())
		}
	}
}
