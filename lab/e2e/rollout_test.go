//go:build lab

package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// four are hosts of a version each, and of no cluster, in the order of fleet.toml.
var four = []string{"pg13", "pg15", "pg17", "pg18"}

// checked are tasks with a login that every apply proves. Rules come before those
// that let it in.
func checked(slow int, rules ...string) string {
	list := append([]string{"local all postgres peer"}, rules...)
	text, _ := json.Marshal(append(list, "hostssl postgres app samenet scram-sha-256"))
	return fmt.Sprintf(`
[[task]]
name = "Who"
kind = "hba"
rules = %s

[[task]]
name = "Certificate"
kind = "certificate"
file = "server.pem"

[[task]]
name = "Settings"
kind = "settings"
file = "20-rollout.conf"
[task.settings]
listen_addresses = "*"
ssl = true
ssl_cert_file = "{{ .Instance.ConfDir }}/server.pem"
ssl_key_file = "{{ .Instance.ConfDir }}/server.pem"
password_encryption = "scram-sha-256"
log_min_duration_statement = %d

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "Application"
kind = "role"
role = "app"
login = true
password = "env:APP_PASSWORD"

[[task]]
name = "The application can log in"
kind = "verify"
query = "SELECT current_user"
expect = "app"
login = { role = "app", password = "env:APP_PASSWORD", ca = "ca.pem" }
`, text, slow)
}

// rollout writes a fleet.toml with a table [rollout].
func (b *bench) rollout(table, tasks string) {
	b.T.Helper()
	b.fleet("\n[rollout]\n"+table+"\n"+tasks, four...)
}

// A mark is what changes on a host when something is done there: what the files hold
// and when they were written, and when the server loaded them and started.
type mark struct{ content, written, server string }

func marks(t *testing.T) map[string]mark {
	t.Helper()
	m := map[string]mark{}
	for i, v := range versions() {
		files := fmt.Sprintf("cd /etc/postgresql/%d/main; find . -type f | sort | xargs ", v)
		m[four[i]] = mark{
			look(t, four[i], files+"sha256sum; stat -c '%n %U %a' pg_hba.conf conf.d/*"), look(t, four[i], files+"stat -c '%n %i %z'"),
			sql(t, four[i], "SELECT pg_conf_load_time(), pg_postmaster_start_time()"),
		}
	}
	return m
}

// running says with what log_min_duration_statement the four run.
func running(t *testing.T) string {
	t.Helper()
	var all []string
	for _, h := range four {
		all = append(all, sql(t, h, "SELECT setting FROM pg_settings WHERE name = 'log_min_duration_statement'"))
	}
	return strings.Join(all, " ")
}

// written says when a host got its present settings, in seconds.
func written(t *testing.T, host string) float64 {
	t.Helper()
	s, err := strconv.ParseFloat(strings.TrimSpace(look(t, host, "stat -c %.3Y /etc/postgresql/*/main/conf.d/20-rollout.conf")), 64)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Bad rules stop in the canary, which is as before; waves are as far apart as they
// should be; a run that was stopped between two of them is gone on with, and one
// that failed tried again, without touching what stands.
func TestLabRollout(t *testing.T) {
	fresh(t, four...)
	b := newBench(t, "")
	b.withCA()
	b.Env = []string{"APP_PASSWORD=pw-Rollout5Kd_unsaid"}
	b.rollout("", checked(100))
	b.Want(0, "apply", "--yes")

	bad := func(t *testing.T, rule string, words ...string) {
		t.Helper()
		b.T = t
		before := marks(t)
		b.rollout("canary = 1", checked(200, rule))
		s := b.Want(1, "apply", "--yes")
		says(t, s, append(words, "pg13: ", "the canary failed (pg13), so nothing else was touched; mend that, and run it again")...)
		after := marks(t)
		if after["pg13"].content != before["pg13"].content {
			t.Errorf("the canary is left changed:\n%s\n%s", unlike(before["pg13"].content, after["pg13"].content), s.All())
		}
		for _, h := range four[1:] {
			if after[h] != before[h] {
				t.Errorf("%s was touched:\n%+v\n%+v", h, before[h], after[h])
			}
		}
		if got := running(t); got != "100 100 100 100" {
			t.Errorf("they run with %s", got)
		}
		if left := armed(t, "pg13"); left != "" {
			t.Errorf("armed: %s", left)
		}
		// The check holds again, by the old rules.
		b.rollout("", checked(100))
		says(t, b.Want(0, "apply", "--yes"), "0 changes made")
		t.Logf("PROOF: the canary was put back, and the others were not touched: %s", words[0])
	}
	t.Run("a rule that the server refuses/postgres-13", func(t *testing.T) {
		bad(t, "host all all 192.0.2.0/24 radius radiusservers=radius.invalid radiussecrets=x", "could not translate RADIUS server name", "so it was not put in place")
	})
	t.Run("a rule that shuts the application out/postgres-13", func(t *testing.T) {
		bad(t, "host all app all reject", "The application can log in: the login of app at ", "pg_hba.conf rejects", "everything was put back")
	})

	t.Run("a pause, and resume/postgres-15", func(t *testing.T) {
		b.T = t
		b.rollout("canary = 1\nbatches = [1, \"100%\"]\npause = \"2s\"", checked(200))
		r := b.start("apply", "--yes")
		for end := time.Now().Add(time.Minute); strings.Count(r.out.String(), "waiting 2s before the next wave") < 2; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("there is no second pause")
			}
		}
		at := time.Now()
		r.signal(syscall.SIGINT)
		out := r.end(1)
		if took := time.Since(at); took > time.Second {
			t.Errorf("it took %v to end in a pause", took)
		}
		run := b.runs()[0]
		wantWords(t, out, "wave 1 of 3 (canary): pg13", "waiting 2s before the next wave", "wave 2 of 3: pg15", "pg17, pg18: stopped before its first step", "pgfleet runs resume "+run.Run)
		if strings.Contains(out, "wave 3 of 3") || run.Outcome != "stopped" || running(t) != "200 200 100 100" {
			t.Errorf("after Ctrl-C: %+v, and they run with %s\n%s", run, running(t), out)
		}
		if apart := written(t, "pg15") - written(t, "pg13"); apart < 2 {
			t.Errorf("the waves are %.3f s apart", apart)
		}
		before := marks(t)
		s := b.Want(0, "runs", "resume", "--yes", run.Run)
		says(t, s, "wave 1 of 2 (canary): pg17", "waiting 2s before the next wave", "wave 2 of 2: pg18")
		after := marks(t)
		for _, h := range four[:2] {
			if after[h] != before[h] {
				t.Errorf("%s was done, and is touched again:\n%+v\n%+v", h, before[h], after[h])
			}
			if strings.Contains(s.All(), h) {
				t.Errorf("%s was done, and is named:\n%s", h, s.All())
			}
		}
		if apart := written(t, "pg18") - written(t, "pg17"); apart < 2 || running(t) != "200 200 200 200" {
			t.Errorf("the waves are %.3f s apart, and they run with %s", apart, running(t))
		}
		t.Log("PROOF: Ctrl-C in a pause ended at once; resume went on with the waves that were left, 2 s apart, and touched none of the hosts that were done")
	})

	t.Run("retry/postgres-15", func(t *testing.T) {
		b.T = t
		for _, h := range four {
			look(t, h, "rm -f /run/rollout-mended; [ $(hostname) = pg15 ] || touch /run/rollout-mended")
		}
		const fails = "\n[[task]]\nname = \"Mended\"\nkind = \"command\"\nrun = \"test -e /run/rollout-mended-by-hand && touch /run/rollout-mended\"\ncreates = \"/run/rollout-mended\"\n"
		b.rollout("canary = 1\nbatches = [1, \"100%\"]", fails+checked(300))
		s := b.Want(1, "apply", "--yes")
		says(t, s, "pg15 failed in wave 2 of 3, so no other began; mend that, and run it again")
		if got := running(t); got != "300 200 200 200" {
			t.Errorf("they run with %s", got)
		}
		before := marks(t)
		look(t, "pg15", "touch /run/rollout-mended-by-hand")
		s = b.Want(0, "runs", "retry", "--failed", "--yes")
		says(t, s, "wave 1 of 3 (canary): pg15", "wave 2 of 3: pg17", "wave 3 of 3: pg18")
		if after := marks(t); after["pg13"] != before["pg13"] || strings.Contains(s.All(), "pg13") {
			t.Errorf("pg13 was done, and is touched or named:\n%s", s.All())
		}
		if got := running(t); got != "300 300 300 300" {
			t.Errorf("they run with %s", got)
		}
	})
}
