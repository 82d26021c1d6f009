//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// While passwords are set, neither they nor their verifiers are to be seen
// anywhere, though the server logs and counts every statement. What is leaked on
// purpose is found by the same search.
func TestLabPasswordsAreHushed(t *testing.T) {
	for _, v := range []int{13, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			host := fmt.Sprintf("pg%d", v)
			b := newDeclared(t, host)
			look(t, host, fmt.Sprintf(`cat >/etc/postgresql/%d/main/conf.d/00-loud.conf <<'END'
shared_preload_libraries = 'pgaudit, pg_stat_statements, auto_explain'
log_statement = 'all'
log_min_duration_statement = 0
log_duration = on
log_min_error_statement = 'debug5'
pg_stat_statements.track_utility = on
pg_stat_statements.track = 'all'
auto_explain.log_min_duration = 0
END`, v))
			log := fmt.Sprintf("/var/log/postgresql/postgresql-%d-main.log", v)
			look(t, host, fmt.Sprintf(`: >%s; systemctl restart postgresql@%d-main; cd /
				for i in $(seq 100); do runuser -u postgres -- pg_isready -q && break; sleep 0.1; done
				runuser -u postgres -- psql -Xqc 'CREATE EXTENSION IF NOT EXISTS pg_stat_statements' -c 'SELECT pg_stat_statements_reset()' >/dev/null
				rm -f /run/seen; nohup setsid sh -c 'while [ ! -e /run/enough ]; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr "\0" "\n" >>/run/seen; done' >/dev/null 2>&1 &`, log, v))
			apply := b.want(0, "apply", "--yes", "-v")
			look(t, host, "touch /run/enough; sleep 1; rm -f /run/enough")
			verifiers := sql(t, host, "SELECT string_agg(split_part(rolpassword, ':', 3), ' ') FROM pg_authid WHERE rolname IN ('appuser', 'readuser')")
			if len(strings.Fields(verifiers)) != 2 {
				t.Fatalf("verifiers: %q", verifiers)
			}

			// where says in which places a word is; the words go in by standard input.
			where := func(words ...string) string {
				statements := sql(t, host, "SELECT string_agg(query, chr(10)) FROM pg_stat_statements")
				found := ""
				for _, w := range words {
					out := look(t, host, "grep -rlsF -- "+shellQuote(w)+" /var/log /run/seen; journalctl --no-pager -q | grep -cF -- "+shellQuote(w)+" || true")
					for _, place := range strings.Fields(out) {
						if place != "0" {
							found += " " + place
						}
					}
					if strings.Contains(statements, w) {
						found += " pg_stat_statements"
					}
					if strings.Contains(apply.all(), w) {
						found += " terminal"
					}
				}
				return found
			}
			hushed := append([]string{"pw-App7Kd2_unsaid", "pw-Read3Lm9_unsaid"}, strings.Fields(verifiers)...)
			if at := where(hushed...); at != "" {
				t.Errorf("a password or its verifier is in%s", at)
			}
			// The session's other statements are logged as ever.
			if at := where("CREATE ROLE appuser"); !strings.Contains(at, log) || !strings.Contains(at, "pg_stat_statements") {
				t.Errorf("CREATE ROLE is only in%s", at)
			}
			look(t, host, `cd /; runuser -u postgres -- psql -Xqc "CREATE ROLE leak PASSWORD 'canary-5Tq_said'"; runuser -u postgres -- psql -Xqc 'DROP ROLE leak'; sh -c 'sleep 1; : canary-5Tq_said' & sleep 0.5; cat /proc/[0-9]*/cmdline | tr "\0" "\n" >>/run/seen`)
			at := where("canary-5Tq_said")
			for _, place := range []string{log, "pg_stat_statements", "/run/seen"} {
				if !strings.Contains(at, place) {
					t.Errorf("the control is not found in %s, only in%s", place, at)
				}
			}
			t.Logf("PROOF: on PostgreSQL %d, %d passwords and verifiers are in no log, view, process list or output; a canary is found in%s", v, len(hushed), at)
			look(t, host, "rm -f /run/seen; cd /; runuser -u postgres -- psql -Xqc 'DROP EXTENSION pg_stat_statements'")
		})
	}
}
