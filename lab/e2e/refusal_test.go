//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

func oneSetting(name, value string) string {
	return fmt.Sprintf("\n[[task]]\nname = \"Bad\"\nkind = \"settings\"\nfile = \"50-bad.conf\"\nsettings = { %s = %s }\n\n[[task]]\nname = \"PostgreSQL\"\nkind = \"service\"\n", name, value)
}

// Every trap of the guide is refused with a hint; the host is as before, its
// server never stops, and restarts afterwards.
func TestLabRefused(t *testing.T) {
	for _, c := range []struct {
		name, tasks string
		plan        int // plan's exit code
		want        []string
	}{
		{"a parameter of a later release", oneSetting("ssl_groups", `"X25519"`), 1, []string{"ssl_groups", "18", "fleet.toml:"}},
		{"a parameter of no release", oneSetting("log_failed_attempts", "true"), 1, []string{"log_failed_attempts", "failed", "log_connections"}},
		{"a value that is none", oneSetting("work_mem", `"lots"`), 1, []string{"work_mem", "lots", "fleet.toml:"}},
		{"a misspelt method", "\n[[task]]\nname = \"Bad\"\nkind = \"hba\"\nrules = [\"local all postgres peer\", \"hostssl all all 10.0.0.0/8 scram\"]\n", 1, []string{"scram", "scram-sha-256", "fleet.toml:"}},
		{"a library that is missing", oneSetting("shared_preload_libraries", `"pgaudti"`), 1, []string{"pgaudti", `did you mean "pgaudit"`, "would not start"}},
		{"ciphers that are none", oneSetting("ssl_ciphers", `"BAD"`), 1, []string{"ssl_ciphers", "BAD", "ECDHE"}},
		{"a key that cannot be read", oneSetting("ssl_key_file", `"/root/key.pem"`), 2, []string{"/root/key.pem", "was not put in place"}},
		{"TLS versions upside down", oneSetting("ssl_min_protocol_version", `"TLSv1.3", ssl_max_protocol_version = "TLSv1.2"`), 2, []string{"not put in place", "ssl_min_protocol_version"}},
		{"a value that contradicts another", oneSetting("wal_level", `"minimal"`), 2, []string{"not put in place", "WAL"}},
	} {
		t.Run(c.name+"/postgres-15", func(t *testing.T) {
			fresh(t, "pg15")
			look(t, "pg15", "install -m 0600 /dev/null /root/key.pem")
			b := newBench(t, c.tasks, "pg15")
			started := sql(t, "pg15", "SELECT pg_postmaster_start_time()")
			before := snapshot(t, "pg15")
			p := b.Run("plan", "--detailed-exitcode")
			if p.Code != c.plan {
				t.Errorf("plan exited with %d, want %d\n%s", p.Code, c.plan, p.All())
			}
			a := b.Run("apply", "--yes")
			if a.Code == 0 {
				t.Errorf("apply exited with 0\n%s", a.All())
			}
			for _, w := range c.want {
				if !strings.Contains(a.All(), w) {
					t.Errorf("apply does not say %q:\n%s", w, a.All())
				}
			}
			snapshotDiffers(t, before, snapshot(t, "pg15"))
			if got := sql(t, "pg15", "SELECT pg_postmaster_start_time()"); got != started {
				t.Errorf("the server was restarted: %s, before %s", got, started)
			}
			look(t, "pg15", "systemctl restart postgresql@15-main && for i in $(seq 50); do runuser -u postgres -- pg_isready -q && exit; sleep 0.1; done; exit 1")
		})
	}
}

// What only shows once the server runs with it is put back: here a library that
// exists, and whose own setting lets no server start.
func TestLabPutBackAfterAFailedRestart(t *testing.T) {
	for _, v := range []int{15, 17} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			conf := fmt.Sprintf("/etc/postgresql/%d/main", v)
			// The address is no address of the host's: a trial that listens
			// nowhere cannot see it, and the real server binds none of them.
			b := newBench(t, oneSetting("listen_addresses", `"192.0.2.1"`), host)
			before := etcFiles(t, host)
			s := b.Run("apply", "--yes")
			if s.Code != 1 || !strings.Contains(s.All(), "put back") {
				t.Errorf("exit %d\n%s", s.Code, s.All())
			}
			after := etcFiles(t, host)
			for path, sum := range after {
				if before[path] != sum {
					t.Errorf("%s is not as before", path)
				}
			}
			if _, there := after[conf+"/conf.d/50-bad.conf"]; there {
				t.Error("the fragment is still there")
			}
			if got := sql(t, host, "SHOW listen_addresses"); got != "localhost" {
				t.Errorf("listen_addresses is %s", got)
			}
		})
	}
}

// A host that cannot be reached never stops the others, and each error says
// what to do.
func TestLabOthersComplete(t *testing.T) {
	fresh(t, "pg15", "pg13")
	tasks := oneSetting("log_connections", "true")
	b := newBench(t, tasks, "pg13", "down", "pg15", "asks")
	// One host has a key that is not the one we know.
	b.Write("known_hosts", wrongKey(t, "pg15"))
	b.edit("fleet.toml", fleet.Lab.KnownHosts, "known_hosts")
	s := b.Run("apply", "--yes", "--connect-timeout", "5s")
	if s.Code != 1 {
		t.Errorf("exit %d", s.Code)
	}
	for _, want := range []string{"NOPASSWD", "ssh-keygen -R", "--ask-become-pass"} {
		if !strings.Contains(s.All(), want) {
			t.Errorf("nothing said of %q:\n%s", want, s.All())
		}
	}
	if got := sql(t, "pg13", "SHOW log_connections"); got != "on" {
		t.Errorf("pg13, which nothing is wrong with: log_connections is %s", got)
	}
	if got := sql(t, "pg15", "SHOW log_connections"); got == "on" {
		t.Error("pg15 was changed though its host key is not the known one")
	}
	for _, host := range []string{"down", "pg15", "asks"} {
		if !strings.Contains(s.All(), host) {
			t.Errorf("nothing said of %s", host)
		}
	}
}
