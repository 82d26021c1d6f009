//go:build lab

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// loud makes a server say of statements what it can, in every place that it has;
// the task's own pgaudit.log is "all". The journal keeps all of it.
const loud = `cat >/etc/postgresql/%[1]d/main/conf.d/00-loud.conf <<'END'
shared_preload_libraries = 'pgaudit, pg_stat_statements, auto_explain'
log_destination = 'stderr,syslog,csvlog'
logging_collector = on
log_directory = '/var/log/postgresql/loud'
log_statement = 'all'
log_duration = on
log_min_duration_statement = 0
log_transaction_sample_rate = 1
log_min_error_statement = 'debug5'
pg_stat_statements.track_utility = on
pg_stat_statements.track = 'all'
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
pgaudit.log_parameter = on
pgaudit.log_client = off
pgaudit.log_relation = on
END
install -D /dev/stdin /etc/systemd/journald.conf.d/loud.conf <<'END'
[Journal]
RateLimitBurst=0
END
systemctl restart systemd-journald
install -d -o postgres /var/log/postgresql/loud; cd /
systemctl restart postgresql@%[1]d-main
for i in $(seq 100); do runuser -u postgres -- pg_isready -q && break; sleep 0.1; done
runuser -u postgres -- psql -Xqc 'CREATE EXTENSION pg_stat_statements'`

// watch writes down, in a tight loop, what every process of the host has for
// arguments and environment, and what the server shows of running statements.
const watch = `cd /; rm -f /run/seen /run/shown /run/enough
nohup setsid sh -c 'while [ ! -e /run/enough ]; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr "\0" "\n" >>/run/seen; done' >/dev/null 2>&1 &
nohup setsid sh -c 'while [ ! -e /run/enough ]; do echo "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid();"; sleep 0.01; done | runuser -u postgres -- psql -XAtq >/run/shown' >/dev/null 2>&1 &`

// places says where one of several words is to be found on a host: in files under
// /var/log, in the journal, in what watch wrote, or in the server's statistics.
// The words reach the host by standard input of nothing that is watched.
func places(t *testing.T, host string, words ...string) []string {
	t.Helper()
	list := labtest.Quote(strings.Join(words, "\n"))
	out := look(t, host, `cd /; grep -rlaF -- `+list+` /var/log /run/seen /run/shown
journalctl --no-pager -q -a -o export | grep -qaF -- `+list+` && echo journal
runuser -u postgres -- psql -XAtqc 'SET pg_stat_statements.track = none' -c 'SELECT query FROM pg_stat_statements' | grep -qaF -- `+list+` && echo pg_stat_statements
true`)
	return strings.Fields(out)
}

// While passwords are set and changed, neither they nor any part of their
// verifiers are anywhere, though the server says all that it can. What is leaked
// on purpose in each of these places is found by the same search.
func TestLabNothingIsSaidOfPasswords(t *testing.T) {
	for _, v := range []int{13, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			b := newDeclared(t, host)
			b.edit("fleet.toml", `file = "30-audit.conf"`, "file = \"30-audit.conf\"\nlog = \"all\"")
			b.edit("fleet.toml", `log_destination = "stderr"`, `log_destination = "stderr,syslog,csvlog"`)
			look(t, host, "rm -rf /var/log/postgresql/loud")
			look(t, host, fmt.Sprintf(loud, v))
			t.Cleanup(func() {
				look(t, host, "rm -rf /var/log/postgresql/loud /run/seen /run/shown /etc/systemd/journald.conf.d; systemctl restart systemd-journald")
			})

			look(t, host, watch)
			var secret []string
			output := ""
			set := func(app, read string) {
				b.Env = append(slices.Clone(b.Env), "APP_PASSWORD="+app, "READ_PASSWORD="+read)
				plan := b.Want(2, "plan", "--detailed-exitcode", "-v", "--out", "saved")
				apply := b.Want(0, "apply", "--yes", "-v", "saved")
				saved, err := os.ReadFile(filepath.Join(b.Dir, "saved"))
				if err != nil {
					t.Fatal(err)
				}
				output += plan.All() + apply.All() + string(saved)
				secret = append(secret, app, read)
				for _, verifier := range strings.Fields(sql(t, host, "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")) {
					secret = append(secret, strings.FieldsFunc(verifier, func(r rune) bool { return r == '$' || r == ':' })[2:]...)
				}
			}
			set("pw-First4Wq_unsaid", "pw-First9Zx_unsaid")
			set("pw-Second4Wq_unsaid", "pw-Second9Zx_unsaid")
			look(t, host, "touch /run/enough; sleep 1")

			if len(secret) != 2*(2+2*3) {
				t.Fatalf("%d words, want two passwords with salt, stored key and server key, twice", len(secret))
			}
			secret = append(secret, "SCRAM-SHA-256$")
			if at := places(t, host, secret...); len(at) > 0 {
				t.Errorf("a password, or a part of a verifier, is in %s", at)
			}
			for _, s := range secret {
				if strings.Contains(output, s) {
					t.Errorf("a password, or a part of a verifier, is in what pgfleet says:\n%s", output)
				}
			}
			// What comes after it in the same session is said as ever, and pgaudit
			// has kept a record of the statement itself.
			at := places(t, host, "COMMENT ON ROLE appuser IS 'said'")
			if len(at) > 0 {
				t.Fatalf("found before it was said: %s", at)
			}
			b.edit("fleet.toml", "connection_limit = 20", "connection_limit = 20\ncomment = \"said\"")
			b.Env = append(b.Env, "APP_PASSWORD=pw-Third4Wq_unsaid")
			b.Want(0, "apply", "--yes")
			at = places(t, host, "COMMENT ON ROLE appuser IS 'said'")
			for _, place := range []string{"/var/log/postgresql/loud", "journal", "pg_stat_statements"} {
				if !strings.Contains(strings.Join(at, " "), place) {
					t.Errorf("the statement after the password is not in %s, only in %s", place, at)
				}
			}
			if at := places(t, host, "pw-Third4Wq_unsaid", "SCRAM-SHA-256$"); len(at) > 0 {
				t.Errorf("the third password is in %s", at)
			}
			if at := places(t, host, "ALTER ROLE appuser PASSWORD <REDACTED>"); len(at) == 0 {
				t.Error("pgaudit has no record that the password was changed")
			}

			control(t, host)
			if n := strings.Count(output, "ALTER ROLE appuser PASSWORD"); n < 2 || t.Failed() {
				t.Fatalf("pgfleet speaks of the password %d times; once in each plan would be right", n)
			}
			t.Logf("PROOF: PostgreSQL %d logs and counts every statement; of 5 passwords and their verifiers nothing is in a log, the journal, pg_stat_statements, pg_stat_activity, a process's arguments or environment, pgfleet's output or a saved plan; a canary is found in each place on the host", v)
		})
	}
}

// control leaks a canary in every place that is searched, and wants it found.
func control(t *testing.T, host string) {
	t.Helper()
	const canary = "canary-5Tq_said"
	look(t, host, watch)
	look(t, host, `cd /
runuser -u postgres -- psql -Xqc "CREATE ROLE leak PASSWORD '`+canary+`'" -c 'DROP ROLE leak'
CANARY=`+canary+` sleep 1
runuser -u postgres -- psql -Xqc "SELECT pg_sleep(1), '`+canary+`'" >/dev/null
touch /run/enough; sleep 1`)
	at := strings.Join(places(t, host, canary), " ")
	for _, place := range []string{"/var/log/postgresql/loud", ".csv", "journal", "/run/seen", "/run/shown", "pg_stat_statements"} {
		if !strings.Contains(at, place) {
			t.Errorf("the canary is not found in %s, only in %s", place, at)
		}
	}
}
