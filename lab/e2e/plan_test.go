//go:build lab

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// serverTasks put the guide's server configuration on a host: network, TLS and
// logging.
const serverTasks = `
[[task]]
name = "Listen only where needed"
kind = "settings"
file = "10-network.conf"
settings = { listen_addresses = "localhost, {{ .Host.Address }}" }

[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "local all all peer", "hostssl appdb appuser {{ .Vars.applications }} scram-sha-256"]

[[task]]
name = "Certificate"
kind = "certificate"
file = "server.pem"

[[task]]
name = "TLS"
kind = "settings"
file = "20-tls.conf"
settings = { ssl = true, ssl_cert_file = "{{ .Instance.ConfDir }}/server.pem", ssl_key_file = "{{ .Instance.ConfDir }}/server.pem", ssl_min_protocol_version = "TLSv1.2", ssl_ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20", password_encryption = "scram-sha-256" }

[[task]]
name = "Logging"
kind = "settings"
file = "30-audit.conf"
settings = { shared_preload_libraries = ["pgaudit"], pgaudit.log = "ddl, write, role", log_connections = true, log_line_prefix = "%m [%p] %q%u@%d %a %h " }

[[task]]
name = "PostgreSQL"
kind = "service"
`

// snapshot is what must not change while planning: every file of /etc with
// owner, mode and time, the catalogs, and when processes started.
func snapshot(t *testing.T, host string) string {
	t.Helper()
	return look(t, host, `cd /
find /etc -xdev -printf '%p %y %u:%g %m %T@ %C@ %l\n' | sort
find /etc -xdev -type f -print0 | sort -z | xargs -0 sha256sum
runuser -u postgres -- pg_dumpall -g | grep -v '^\\\(un\)\?restrict'
runuser -u postgres -- pg_dump -s postgres | grep -v '^\\\(un\)\?restrict'
find /var/lib/pgfleet /var/lib/postgresql -name '.pgfleet*' 2>/dev/null
for p in $(pgrep -o postgres) $(pgrep -o sshd) $(pgrep -o rsyslogd); do stat -c '%n %Y' /proc/$p; cut -d' ' -f22 /proc/$p/stat; done`)
}

func serverLog(t *testing.T, host string) string {
	v := fleet.Lab.Host(host).Postgres
	return look(t, host, fmt.Sprintf("cat /var/log/postgresql/postgresql-%d-main.log", v))
}

func TestLabPlanChangesNothingAndApplyMakesIt(t *testing.T) {
	for _, v := range versions() {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			b := newBench(t, serverTasks, host)
			b.withCA()
			conf := fmt.Sprintf("/etc/postgresql/%d/main", v)

			// Every line of the log says who caused it.
			look(t, host, "printf \"log_line_prefix = '%%m [%%p] app=%%a '\\nlog_statement = 'all'\\n\" >"+conf+"/conf.d/00-test.conf; chown postgres: "+conf+"/conf.d/00-test.conf")
			sql(t, host, "SELECT pg_reload_conf()")
			time.Sleep(200 * time.Millisecond)
			before, logBefore := snapshot(t, host), serverLog(t, host)
			plan := b.Want(2, "plan", "--detailed-exitcode")
			time.Sleep(200 * time.Millisecond)
			logAfter := serverLog(t, host)
			snapshotDiffers(t, before, snapshot(t, host))
			added := strings.TrimPrefix(logAfter, logBefore)
			ours := 0
			for line := range strings.Lines(added) {
				if !regexp.MustCompile(`^\d{4}-`).MatchString(line) {
					continue // a statement's further lines
				}
				if strings.Contains(line, "app=pgfleet ") {
					ours++
				} else if !strings.Contains(line, "app=psql ") && !strings.Contains(line, "app=pg_dump") {
					t.Errorf("not pgfleet's: %s", line)
				}
			}
			if ours == 0 {
				t.Error("the log shows nothing of pgfleet, so the search would find nothing else either")
			}
			look(t, host, "rm "+conf+"/conf.d/00-test.conf")
			sql(t, host, "SELECT pg_reload_conf()")

			// What was planned is what is made, and nothing else.
			etc := etcFiles(t, host)
			b.Want(0, "apply", "--yes")
			var planned []string
			for _, m := range regexp.MustCompile(`(?:create|change) (/\S+)`).FindAllStringSubmatch(plan.Stdout, -1) {
				planned = append(planned, m[1])
			}
			planned = append(planned, conf+"/server.pem")
			for path, sum := range etcFiles(t, host) {
				if etc[path] != sum && !contains(planned, path) {
					t.Errorf("%s was changed, and the plan did not say so", path)
				}
			}
			for _, path := range planned {
				if strings.HasPrefix(path, "/etc") && etc[path] == etcFiles(t, host)[path] {
					t.Errorf("%s was planned and is as before", path)
				}
			}
			for query, want := range map[string]string{
				"SHOW listen_addresses": "localhost, " + fleet.Lab.Host(host).Address.String(),
				"SHOW ssl_cert_file":    conf + "/server.pem",
				"SHOW log_connections":  "on",
				"SHOW pgaudit.log":      "ddl, write, role",
				"SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL":                                                      "0",
				"SELECT string_agg(auth_method, ' ' ORDER BY line_number) FROM pg_hba_file_rules":                                     "peer peer scram-sha-256 reject reject reject reject",
				"SELECT count(*) FROM pg_settings WHERE pending_restart":                                                              "0",
				"SELECT string_agg(setting, ' ') FROM pg_settings WHERE name IN ('shared_preload_libraries') AND source <> 'default'": "pgaudit",
			} {
				if got := sql(t, host, query); got != want && !(query == "SHOW log_connections" && got == "all") {
					t.Errorf("%s: %q, want %q", query, got, want)
				}
			}
			verifyServed(t, b, host)
			if got := look(t, host, "stat -c '%U:%G %a' "+conf+"/server.pem"); strings.TrimSpace(got) != "postgres:postgres 600" {
				t.Errorf("server.pem is %s", got)
			}
			second := b.Want(0, "plan", "--detailed-exitcode")
			b.Want(0, "apply", "--yes")
			if left := look(t, host, "find / -xdev -name '.pgfleet*' -o -xdev -name 'pgfleet-trial*' 2>/dev/null | grep -v ^/proc || true"); left != "" {
				t.Errorf("left behind: %s", left)
			}
			if strings.Contains(second.All(), "reload") {
				t.Errorf("second plan:\n%s", second.All())
			}

			// A change made by hand is found and undone.
			look(t, host, "echo 'host all all 0.0.0.0/0 trust' >>"+conf+"/pg_hba.conf; sed -i s/localhost/\\*/ "+conf+"/conf.d/10-network.conf; systemctl restart postgresql@"+fmt.Sprint(v)+"-main")
			drift := b.Want(2, "plan", "--detailed-exitcode")
			if !strings.Contains(drift.Stdout, "-host all all 0.0.0.0/0 trust") {
				t.Errorf("the plan does not show the rule that was added by hand:\n%s", drift.Stdout)
			}
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
			if got := sql(t, host, "SHOW listen_addresses"); !strings.HasPrefix(got, "localhost") {
				t.Errorf("listen_addresses is %s", got)
			}
			// And a restart by somebody else works.
			look(t, host, fmt.Sprintf("systemctl restart postgresql@%d-main && sleep 1 && runuser -u postgres -- pg_isready", v))
		})
	}
}

// etcFiles returns the digest, owner and mode of every file of /etc.
func etcFiles(t *testing.T, host string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for line := range strings.Lines(look(t, host, "find /etc -xdev -type f -exec sh -c 'for f; do echo \"$f $(stat -c %U:%G:%a \"$f\") $(sha256sum <\"$f\")\"; done' sh {} +")) {
		path, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[path] = rest
	}
	return files
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// snapshotDiffers fails the test with the lines that differ.
func snapshotDiffers(t *testing.T, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	old := map[string]bool{}
	for line := range strings.Lines(before) {
		old[line] = true
	}
	for line := range strings.Lines(after) {
		if !old[line] {
			t.Errorf("changed while planning: %s", line)
		}
	}
	t.Error("the host is not as before")
}
