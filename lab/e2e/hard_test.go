//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// tooMuchMemory is a configuration that every check passes and no server starts with: the
// trial runs with little memory, and no view knows how much there is.
func tooMuchMemory(between string) string {
	return `
[[task]]
name = "Memory"
kind = "settings"
file = "10-memory.conf"
settings = { shared_buffers = "4TB", work_mem = "5MB" }
` + between + `
[[task]]
name = "PostgreSQL"
kind = "service"
`
}

const motd = `
[[task]]
name = "Something else"
kind = "file"
path = "/etc/motd.pgfleet"
content = "hello\n"
`

// Whatever comes between the files and the restart that fails, whoever owned
// the files, and however often it is tried: the old files come back and the
// server runs.
func TestLabServerNeverStaysDown(t *testing.T) {
	for _, v := range sampled(13, 17) {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			for name, c := range map[string]struct{ before, between string }{
				"one step":              {"", ""},
				"a step between":        {"", motd},
				"a file of root's":      {"echo 'work_mem = 4MB' >$conf/conf.d/10-memory.conf", ""},
				"pg_hba.conf of root's": {"chown root: $conf/pg_hba.conf; chmod 644 $conf/pg_hba.conf", "\n[[task]]\nname = \"Who\"\nkind = \"hba\"\nrules = [\"local all all peer\"]\n"},
			} {
				if v != 17 && name != "one step" {
					continue // one version is enough for the variants
				}
				t.Run(name, func(t *testing.T) { neverDown(t, fmt.Sprintf("pg%d", v), v, c.before, c.between) })
			}
		})
	}
}

// neverDown applies, a few times in a row, what no server starts with, and demands
// that the server runs and every file is as before.
func neverDown(t *testing.T, host string, v int, first, between string) {
	fresh(t, host)
	look(t, host, fmt.Sprintf("conf=/etc/postgresql/%d/main\n%s\ntrue", v, first))
	before := etcContents(t, host)
	b := newBench(t, tooMuchMemory(between), host)
	times := 4 // systemd refuses to start what failed a few times in a row
	if between != "" {
		times = 2
	}
	for range times {
		if s := b.Run("apply", "--yes"); s.Code != 1 {
			t.Fatalf("apply exited with %d\n%s", s.Code, s.All())
		}
	}
	look(t, host, "runuser -u postgres -- pg_isready")
	delete(before, "/etc/motd.pgfleet")
	after := etcContents(t, host)
	delete(after, "/etc/motd.pgfleet")
	for path, sum := range after {
		if before[path] != sum {
			t.Errorf("%s is not as before", path)
		}
	}
	look(t, host, fmt.Sprintf("systemctl reset-failed postgresql@%[1]d-main; systemctl restart postgresql@%[1]d-main && for i in $(seq 50); do runuser -u postgres -- pg_isready -q && exit; sleep 0.1; done; exit 1", v))
}

// etcContents is etcFiles without owners and modes: a file that root had put
// into postgres's folder comes back as postgres's.
func etcContents(t *testing.T, host string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for path, rest := range etcFiles(t, host) {
		_, sum, _ := strings.Cut(rest, " ")
		files[path] = sum
	}
	return files
}

// A setting that only a restart applies can be taken away again.
func TestLabSettingIsRemoved(t *testing.T) {
	for _, v := range sampled(15, 18) {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			b := newBench(t, oneSetting("max_wal_senders", "15"), host)
			b.Want(0, "apply", "--yes")
			if got := sql(t, host, "SHOW max_wal_senders"); got != "15" {
				t.Errorf("max_wal_senders is %s", got)
			}
			b.fleet("\n[[task]]\nname = \"Bad\"\nkind = \"settings\"\nfile = \"50-bad.conf\"\nstate = \"absent\"\n\n[[task]]\nname = \"PostgreSQL\"\nkind = \"service\"\n", host)
			b.Want(0, "apply", "--yes")
			if got := sql(t, host, "SHOW max_wal_senders"); got != "10" {
				t.Errorf("max_wal_senders is %s", got)
			}
			b.Want(0, "plan", "--detailed-exitcode")
		})
	}
}

// The secrets of a script, whether it succeeds or fails, are neither in the
// server's log nor in what the user sees; the same value written out is found in
// both, so the search would find them.
func TestLabScriptKeepsItsSecrets(t *testing.T) {
	fresh(t, "pg17")
	sql(t, "pg17", "ALTER SYSTEM SET log_statement = 'all'")
	sql(t, "pg17", "SELECT pg_reload_conf()")
	const canary = "canary-Zq8-of-a-script-that-is-rather-long"
	for name, script := range map[string]string{
		"succeeds": "CREATE TABLE IF NOT EXISTS t (v text);\nINSERT INTO t VALUES ({{ secret \"env:CANARY\" | literal }});\n",
		"fails":    "SELECT {{ secret \"env:CANARY\" | literal }}::int;\n",
		"no SQL":   "SELECT {{ secret \"env:CANARY\" | literal }} FROM WHERE;\n",
	} {
		b := newBench(t, "\n[[task]]\nname = \"Script\"\nkind = \"psql\"\nscript = \"s.sql\"\nalways = true\n", "pg17")
		b.Write("s.sql", script)
		b.Env = append(b.Env, "CANARY="+canary)
		s := b.Run("apply", "--yes")
		if (s.Code == 0) != (name == "succeeds") {
			t.Errorf("%s: exit %d\n%s", name, s.Code, s.All())
		}
		if strings.Contains(s.All(), canary[:12]) {
			t.Errorf("%s: the output shows the secret:\n%s", name, s.All())
		}
	}
	if log := serverLog(t, "pg17"); strings.Contains(log, canary) {
		t.Error("the server's log shows the secret")
	}
	sql(t, "pg17", "SELECT '"+canary+"'")
	if log := serverLog(t, "pg17"); !strings.Contains(log, canary) {
		t.Error("the control is not in the log either, so the search proves nothing")
	}
}

// Links that the account postgres plants in its own folders lead root nowhere.
func TestLabPlantedLinks(t *testing.T) {
	fresh(t, "pg18")
	conf := "/etc/postgresql/18/main"
	look(t, "pg18", "cp -p /etc/profile /root/profile; cd "+conf+" && rm -rf conf.d pg_hba.conf && runuser -u postgres -- ln -s /etc/profile.d conf.d && runuser -u postgres -- ln -s /etc/profile pg_hba.conf")
	b := newBench(t, oneSetting("work_mem", `"5MB"`)+"\n[[task]]\nname = \"Who\"\nkind = \"hba\"\nrules = [\"local all postgres peer\"]\n", "pg18")
	s := b.Run("apply", "--yes")
	if got := look(t, "pg18", "cmp /etc/profile /root/profile && stat -c %U /etc/profile && ls /etc/profile.d"); !strings.HasPrefix(got, "root\n") || strings.Contains(got, "50-bad") {
		t.Errorf("root followed a link of postgres's: %s\n%s", got, s.All())
	}
	look(t, "pg18", "cd "+conf+" && rm -f pg_hba.conf && runuser -u postgres -- ln -s /etc/shadow pg_hba.conf")
	if s := b.Run("plan"); strings.Contains(s.All(), "root:*") || strings.Contains(s.All(), "daemon:") {
		t.Errorf("the plan shows what root alone may read:\n%s", s.All())
	}
	fresh(t, "pg18")
}
