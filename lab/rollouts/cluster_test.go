//go:build lab

package rollouts

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// only writes a fleet.toml that has nothing but some hosts and a setting that a
// restart applies, and that says nothing of who replicates from whom.
func (b *bench) only(rollout string, connections int, hosts ...string) {
	b.T.Helper()
	l := fleet.Lab
	text := fmt.Sprintf("[fleet]\nname = \"lab\"\n[ssh]\nuser = %q\nidentity = %q\nknown_hosts = %q\n", l.User, l.Key, l.KnownHosts)
	for _, h := range hosts {
		text += fmt.Sprintf("[hosts.%s]\naddress = \"%s\"\npostgres.version = %d\n", h, l.Host(h).Address, l.Host(h).Postgres)
	}
	b.Write("fleet.toml", fmt.Sprintf("%s\n[rollout]\n%s\n[[task]]\nname = \"Connections\"\nkind = \"settings\"\nfile = \"20-connections.conf\"\nsettings = { max_connections = %d }\n"+
		"[[task]]\nname = \"PostgreSQL\"\nkind = \"service\"\n", text, rollout, connections))
}

// says demands texts of what was printed.
func says(t *testing.T, s labtest.Said, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(s.All(), w) {
			t.Errorf("not said: %q\n%s", w, s.All())
		}
	}
}

// runsWith demands the value of max_connections on hosts.
func runsWith(t *testing.T, n int, hosts ...string) {
	t.Helper()
	for _, h := range hosts {
		if got := sql(t, h, "SHOW max_connections"); got != fmt.Sprint(n) {
			t.Errorf("%s runs with max_connections = %s, want %d", h, got, n)
		}
	}
}

// follow has a standby stream from an address, and returns when it does. The test
// has it stream from its primary again when it ends.
func follow(t *testing.T, standby, address string) {
	t.Helper()
	auto := fmt.Sprintf("/var/lib/postgresql/%d/main/postgresql.auto.conf", fleet.Lab.Host(standby).Postgres)
	reload := fmt.Sprintf("systemctl reload postgresql@%d-main", fleet.Lab.Host(standby).Postgres)
	t.Cleanup(func() {
		look(t, standby, fmt.Sprintf("cp -a /root/followed %s; %s", auto, reload))
		streams(t, standby, "")
	})
	look(t, standby, fmt.Sprintf(`set -e
cp -a %[1]s /root/followed
pass=/var/lib/postgresql/.pgpass
sed -n "s/^[^:]*:/%[2]s:/p;q" $pass >>$pass
sed -i "s/host=[0-9.']*/host=%[2]s/; /primary_slot_name/d" %[1]s
%[3]s`, auto, address, reload))
	streams(t, standby, address)
}

// streams waits until a standby streams, from an address if one is given.
func streams(t *testing.T, standby, address string) {
	t.Helper()
	for range 300 {
		if got := sql(t, standby, "SELECT status || ' ' || sender_host FROM pg_stat_wal_receiver"); strings.HasPrefix(got, "streaming ") && strings.HasSuffix(got, address) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s does not stream from %s", standby, address)
}

// allowReplication lets the standbys in from everywhere.
func allowReplication(t *testing.T, hosts ...string) {
	t.Helper()
	for _, h := range hosts {
		v := fleet.Lab.Host(h).Postgres
		hba := fmt.Sprintf("/etc/postgresql/%d/main/pg_hba.conf", v)
		look(t, h, fmt.Sprintf(`sed -i "1i host replication replicator 0.0.0.0/0 scram-sha-256" %s; systemctl reload postgresql@%d-main`, hba, v))
		t.Cleanup(func() { look(t, h, "sed -i 1d "+hba+fmt.Sprintf("; systemctl reload postgresql@%d-main", v)) })
	}
}

// Replication goes over a network of its own, and fleet.toml says nothing of it:
// the servers are one cluster all the same, and those that are not part of a run
// are looked at.
func TestLabReplicationNetwork(t *testing.T) {
	t.Run("postgres-18", func(t *testing.T) {
		b := newBench(t)
		b.T = t
		hosts := members("d1")
		allowReplication(t, hosts...)
		for i, h := range hosts {
			look(t, h, fmt.Sprintf("ip address add 172.31.255.%d/24 dev host0", i+1))
			t.Cleanup(func() { look(t, h, fmt.Sprintf("ip address del 172.31.255.%d/24 dev host0", i+1)) })
		}
		follow(t, "d2", "172.31.255.1")
		follow(t, "d3", "172.31.255.1")

		b.only("gate_timeout = \"10s\"\nbatches = \"100%\"", 130, append([]string{"c1"}, hosts...)...)
		says(t, b.Want(0, "plan"), "cluster d1: primary d1, standbys d2, d3\n")
		s := b.Want(0, "plan", "-l", "d3")
		says(t, s, "cluster d1: primary d1 (not in this run), standbys d3, d2 (not in this run)\n")
		if strings.Contains(s.All(), "c1") {
			t.Errorf("c1 is no member:\n%s", s.All())
		}
		p := poll(t, hosts)
		b.Want(0, "apply", "--yes", "-l", "d1,d2,d3")
		down := p.ends()
		runsWith(t, 130, hosts...)
		if two := overlap(down, hosts); two != "" || len(down) != 3 {
			t.Errorf("%s were down at the same time, of %v", two, down)
		}
		if got := order(down, hosts); got[2] != "d1" {
			t.Errorf("they restarted in the order %s", got)
		}
		t.Logf("PROOF: three servers that replicate over another network than fleet.toml has were one cluster: no two were down at once")
	})
}

// A member of a cluster restarts alone only while the others are well.
func TestLabHalfACluster(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		b := newBench(t)
		b.T = t
		const quick = "\n[rollout]\ngate_timeout = \"3s\"\n"
		// A parameter that must become more on the standbys first.
		b.fleet(quick, connections(130))
		s := b.Want(1, "apply", "--yes", "-l", "b1")
		says(t, s, "cluster b1-cluster: primary b1, standbys b2 (not in this run), b3 (not in this run)\n", "b1: ", "its standby b2 runs with max_connections = 100", "apply there first")
		runsWith(t, 100, "b1")

		// The other standby's server is down; its host is; it is back.
		look(t, "b3", "systemctl stop postgresql@15-main")
		s = b.Want(1, "apply", "--yes", "-l", "b2")
		says(t, s, "b2: ", "after 3s the standby b3 of its cluster does not answer")
		look(t, "b3", "systemctl start postgresql@15-main; systemctl stop ssh.socket ssh")
		s = b.Want(1, "apply", "--yes", "-l", "b2")
		says(t, s, "because b3 of its cluster, which is not part of this run, could not be asked", "nothing was changed")
		runsWith(t, 100, "b1", "b2")
		look(t, "b3", "systemctl start ssh")
		streams(t, "b3", "")
		s = b.Want(0, "apply", "--yes", "-l", "b2")
		if strings.Contains(s.All(), "not checked") {
			t.Errorf("all could be checked:\n%s", s.All())
		}

		// A commit would wait for it.
		sql(t, "b1", "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 2 (*)'")
		sql(t, "b1", "SELECT pg_reload_conf()")
		s = b.Want(1, "apply", "--yes", "-l", "b3")
		says(t, s, "commits on b1 would wait until it is back", "nothing was changed")
		sql(t, "b1", "ALTER SYSTEM RESET synchronous_standby_names")
		sql(t, "b1", "SELECT pg_reload_conf()")
		b.Want(0, "apply", "--yes", "-l", "b3")

		// A primary alone waits for the standbys, before and after.
		b.Want(0, "apply", "--yes", "-l", "b1")
		streams(t, "b2", "")
		runsWith(t, 130, members("b1")...)

		// A parameter that must become less on the primary first.
		b.fleet(quick, connections(120))
		says(t, b.Want(1, "apply", "--yes", "-l", "b2"), "its primary b1 runs with max_connections = 130, and a standby does not start with less, here 120")
		runsWith(t, 130, "b2")

		// The others are not in fleet.toml at all.
		b.only("gate_timeout = \"3s\"", 140, "b2")
		start := time.Now()
		says(t, b.Want(0, "apply", "--yes"), "not checked before the restart of b2: its primary is not in fleet.toml (it streams from "+fleet.Lab.Host("b1").Address.String()+")", "not checked: its primary is not in fleet.toml")
		b.only("gate_timeout = \"3s\"", 120, "b1")
		says(t, b.Want(0, "apply", "--yes"), "not checked before the restart of b1: not all that stream from it are in fleet.toml (", fleet.Lab.Host("b3").Address.String())
		t.Logf("PROOF: half a cluster restarts only while the other half is well; two servers alone took %v", time.Since(start))
		streams(t, "b2", "")
		streams(t, "b3", "")
	})
}

// Two operators restart two standbys of one cluster: the second waits for the first,
// though their hosts are not the same.
func TestLabTwoOperatorsOfACluster(t *testing.T) {
	t.Run("postgres-17", func(t *testing.T) {
		b := newBench(t)
		b.T = t
		b.fleet("", connections(110))
		p := poll(t, members("c1"))
		look(t, "c2", "cd /; setsid runuser -u postgres -- sh -c 'sleep 90; :' wal-g backup-push /data >/dev/null 2>&1 & echo $! >/run/wal-g")
		done := make(chan labtest.Said, 1)
		go func() { done <- b.Run("apply", "--yes", "-l", "c2") }()
		for range 200 {
			if look(t, "c1", "cat /var/lib/pgfleet/lease 2>/dev/null || true") != "" {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		other := *b.Bench
		other.Home = t.TempDir()
		s := other.Want(1, "apply", "--yes", "-l", "c3")
		says(t, s, "c1 belongs to its cluster, and nobody else may change that while this one restarts; on c1 ", " has been applying here since ")
		go func() {
			time.Sleep(time.Second)
			look(t, "c2", "kill -- -$(cat /run/wal-g)")
		}()
		s = other.Want(0, "apply", "--yes", "--lock-wait", "1m", "-l", "c3")
		says(t, s, "c3: waiting for the lease of c1, which belongs to its cluster: ")
		if first := <-done; first.Code != 0 {
			t.Errorf("the first operator's:\n%s", first.All())
		}
		down := p.ends()
		if two := overlap(down, members("c1")); two != "" || len(down["c2"]) != 1 || len(down["c3"]) != 1 {
			t.Errorf("%s were down at the same time, of %v", two, down)
		}
		runsWith(t, 110, "c2", "c3")
		if left := look(t, "c1", "cat /var/lib/pgfleet/lease 2>/dev/null || true"); left != "" {
			t.Errorf("a lease stays on c1: %s", left)
		}
		t.Logf("PROOF: two operators restarted two standbys of one cluster, the second after the first; %v", down)
	})
}

// A standby of a standby, lag, and a standby that has not replayed what was lowered
// on its primary.
func TestLabStandbysBehind(t *testing.T) {
	b := newBench(t)
	t.Run("a cascade/postgres-17", func(t *testing.T) {
		b.T = t
		allowReplication(t, "c2")
		follow(t, "c3", fleet.Lab.Host("c2").Address.String())
		b.fleet("\n[rollout]\norder = [\"c2\"]\n", connections(130))
		says(t, b.Want(0, "plan", "-l", "c1,c2,c3"), "standbys c3 (of c2), c2\n")
		// No commit waits for c3, which the primary does not know of.
		sql(t, "c1", "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'")
		sql(t, "c1", "SELECT pg_reload_conf()")
		time.Sleep(300 * time.Millisecond)
		b.Want(0, "apply", "--yes", "-l", "c3")
		sql(t, "c1", "ALTER SYSTEM RESET synchronous_standby_names")
		sql(t, "c1", "SELECT pg_reload_conf()")
		p := poll(t, members("c1"))
		b.Want(0, "apply", "--yes", "-l", "c2")
		if got := sql(t, "c3", "SELECT status FROM pg_stat_wal_receiver"); got != "streaming" {
			t.Errorf("when c2 is done, c3 is %q", got)
		}
		b.Want(0, "apply", "--yes", "-l", "c1,c2,c3")
		down := p.ends()
		if two := overlap(down, members("c1")); two != "" {
			t.Errorf("%s were down at the same time", two)
		}
		runsWith(t, 130, members("c1")...)
	})

	t.Run("max_lag/postgres-17", func(t *testing.T) {
		b.T = t
		before := sql(t, "c2", "SHOW max_connections")
		b.fleet("\n[rollout]\nmax_lag = \"1MB\"\ngate_timeout = \"2s\"\n", connections(140))
		look(t, "c3", "pkill -STOP -f 'postgres: .*walreceiver'")
		sql(t, "c1", "CREATE TABLE lag AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
		sql(t, "c1", "DROP TABLE lag")
		s := b.Want(1, "apply", "--yes", "-l", "c2")
		says(t, s, "the standby c3 of its cluster is 5", "and max_lag is 1MB", "nothing was changed")
		if got := sql(t, "c2", "SHOW max_connections"); got != before {
			t.Errorf("c2 restarted, and runs with max_connections = %s", got)
		}
		// It catches up while apply waits.
		b.fleet("\n[rollout]\nmax_lag = \"1MB\"\ngate_timeout = \"20s\"\n", connections(140))
		b.during(0, "waiting for its cluster: the standby c3 of its cluster is 5", func() { look(t, "c3", "pkill -CONT -f 'postgres: .*walreceiver'") }, "apply", "--yes", "-l", "c1,c2,c3")
		runsWith(t, 140, members("c1")...)
	})

	lowered := []string{"a1"}
	if os.Getenv("PGFLEET_SOAK") != "" {
		lowered = append(lowered, "c1", "d1")
	}
	for _, c := range lowered {
		v := fleet.Lab.Host(c).Postgres
		t.Run(fmt.Sprintf("a lowered parameter/postgres-%d", v), func(t *testing.T) {
			b.T = t
			hosts := members(c)
			late := hosts[2]
			look(t, late, fmt.Sprintf("echo 'recovery_min_apply_delay = 4s' >/etc/postgresql/%d/main/conf.d/90-late.conf; systemctl reload postgresql@%[1]d-main; sleep 0.3", v))
			look(t, c, `cd /; runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d bench -c "DROP TABLE IF EXISTS written" -c "CREATE TABLE written (n int PRIMARY KEY); ALTER TABLE written OWNER TO bench"`)
			w := write(t, c) // what is late are commits
			b.fleet("", connections(95))
			s := b.Want(0, "apply", "--yes", "-l", strings.Join(hosts, ","))
			w.ends()
			says(t, s, "waiting for replay of the lower max_connections: it has replayed up to ", "its recovery_min_apply_delay is 4s")
			runsWith(t, 95, hosts...)
			look(t, late, fmt.Sprintf("rm /etc/postgresql/%d/main/conf.d/90-late.conf; systemctl reload postgresql@%[1]d-main", v))

			// Replay that somebody has paused, before and after the primary restarts.
			sql(t, late, "SELECT pg_wal_replay_pause()")
			const quick = "\n[rollout]\ngate_timeout = \"2s\"\n"
			b.fleet(quick, connections(90))
			s = b.Want(1, "apply", "--yes", "-l", strings.Join(hosts, ","))
			says(t, s, c+": ", "nothing was changed, because after 2s replay of the standby "+late+" is paused")
			runsWith(t, 95, c)
			sql(t, late, "SELECT pg_wal_replay_resume()")
			b.fleet("", connections(90))
			b.Want(0, "apply", "--yes", "-l", c+","+hosts[1])
			sql(t, late, "SELECT pg_wal_replay_pause()")
			sql(t, c, "CREATE TABLE more (); DROP TABLE more")
			s = b.Want(1, "apply", "--yes", "-l", late)
			says(t, s, late+": ", "nothing was changed, because replay is paused at", "SELECT pg_wal_replay_resume() goes on")
			runsWith(t, 95, late)
			sql(t, late, "SELECT pg_wal_replay_resume()")
			b.Want(0, "apply", "--yes", "-l", strings.Join(hosts, ","))
			runsWith(t, 90, hosts...)
		})
	}
}
