//go:build lab

package rotations

import (
	"fmt"
	"strings"
	"testing"
)

// streaming is the rotation of the role that the standbys stream as.
const streaming = `
[[rotation]]
role = "replicator"
strategy = "in-place"
secret = "age:{{ .Host.Replication }}/replicator"
verify_from = "none"
`

// TestLabReplicationRole changes the password with which standbys stream, in a
// password file, and where it stands in primary_conninfo, from where it is moved to one.
func TestLabReplicationRole(t *testing.T) {
	b := newBench(t, streaming)
	s := b.Want(1, "rotate", "replicator", "--yes", "-l", "a1,c1")
	has(t, s.All(), "replicator has a password, and age:a1-cluster/replicator#password does not exist")
	b.Want(0, "rotate", "replicator", "--yes", "--force", "-l", "a1,c1")

	// On c2 the password stands in primary_conninfo itself.
	entry, err := b.entry(t.Context(), "c1-cluster/replicator")
	if err != nil {
		t.Fatal(err)
	}
	password := string(entry.Keys["password"].Expose())
	fleet.SQL(t, "c2", "ALTER SYSTEM SET primary_conninfo = 'user=replicator password="+password+" host="+fleet.Lab.Host("c1").Address.String()+" port=5432'")
	fleet.SQL(t, "c2", "SELECT pg_reload_conf()")
	fleet.Look(t, "c2", "mv /var/lib/postgresql/.pgpass /var/lib/postgresql/.pgpass.away")
	t.Cleanup(func() {
		fleet.Look(t, "c2", "mv /var/lib/postgresql/.pgpass.away /var/lib/postgresql/.pgpass")
		fresh, err := b.entry(t.Context(), "c1-cluster/replicator")
		if err == nil {
			fleet.Look(t, "c2", fmt.Sprintf("sed -i 's/replicator:.*/replicator:%s/' /var/lib/postgresql/.pgpass", fresh.Keys["password"].Expose()))
		}
	})
	// Somebody else streams as the role, from a standby's own host and by another name.
	// That is refused, and with --force it is not cut off, while the standbys' streams
	// become other ones.
	fleet.Look(t, "a2", "cd /var/lib/postgresql; mkdir -p -m 0777 /tmp/copy; chown postgres /tmp/copy; setsid runuser -u postgres -- /usr/lib/postgresql/13/bin/pg_receivewal -n -D /tmp/copy -h "+fleet.Lab.Host("a1").Address.String()+" -U replicator </dev/null >/tmp/copy.log 2>&1 & sleep 1; cat /tmp/copy.log")
	stopCopying := func() { // without its connection it ends: -n
		fleet.SQL(t, "a1", "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication WHERE application_name = 'pg_receivewal'")
		fleet.Look(t, "a2", "rm -rf /tmp/copy /tmp/copy.log")
	}
	t.Cleanup(stopCopying)
	copying := func() string {
		return strings.TrimSpace(fleet.SQL(t, "a1", "SELECT string_agg(pid::text, ',') FROM pg_stat_replication WHERE application_name = 'pg_receivewal'"))
	}
	copier := copying()
	if copier == "" {
		t.Fatal("pg_receivewal does not stream")
	}
	verifier := fleet.SQL(t, "a1", "SELECT rolpassword FROM pg_authid WHERE rolname = 'replicator'")
	s = b.Want(1, "rotate", "replicator", "--yes", "-l", "a1")
	has(t, s.All(), "pg_receivewal from "+fleet.Lab.Host("a2").Address.String()+" on a1", "--force; nothing was changed")
	if fleet.SQL(t, "a1", "SELECT rolpassword FROM pg_authid WHERE rolname = 'replicator'") != verifier {
		t.Error("the password was changed")
	}
	receiver := fleet.SQL(t, "a2", "SELECT pid FROM pg_stat_wal_receiver")
	b.Want(0, "rotate", "replicator", "--yes", "--force", "-l", "a1")
	if now := fleet.SQL(t, "a2", "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'"); now == "" || now == receiver {
		t.Errorf("the standby has the WAL receiver %q as before", receiver)
	}
	if now := copying(); now != copier {
		t.Errorf("pg_receivewal was cut off: %q, %q", copier, now)
	}
	stopCopying()

	for range 2 {
		s := b.Want(0, "rotate", "replicator", "--yes", "-l", "a1,c1")
		has(t, s.All(), "give the new password to the standbys that stream as replicator")
		for _, standby := range []string{"a2", "c2"} {
			if status := fleet.SQL(t, standby, "SELECT status FROM pg_stat_wal_receiver"); status != "streaming" {
				t.Errorf("%s does not stream: %q", standby, status)
			}
		}
		for cluster, at := range map[string]string{"a1": "cat /var/lib/postgresql/.pgpass", "c1": "cat /var/lib/postgresql/.pgpass.postgresql@17-main"} {
			entry, err := b.entry(t.Context(), cluster+"-cluster/replicator")
			if err != nil {
				t.Fatal(err)
			}
			if text := fleet.Look(t, cluster[:1]+"2", at); !strings.Contains(text, string(entry.Keys["password"].Expose())) {
				t.Errorf("the standby of %s does not have the current password", cluster)
			}
		}
	}
	if text := fleet.Look(t, "c2", "grep primary_conninfo /var/lib/postgresql/*/main/postgresql.auto.conf"); !strings.Contains(text, "passfile=") || strings.Contains(text, "password=") {
		t.Error("primary_conninfo still has a password, or names no file")
	}
	if owner := strings.TrimSpace(fleet.Look(t, "a2", "stat -c '%U %a' /var/lib/postgresql/.pgpass")); owner != "postgres 600" {
		t.Errorf("the password file is %s now", owner)
	}

	// A standby that cannot be given it: everything is as before.
	fleet.Look(t, "a2", "mv /var/lib/postgresql/.pgpass /var/lib/postgresql/.pgpass.away")
	t.Cleanup(func() {
		fleet.Look(t, "a2", "cd /var/lib/postgresql; [ ! -e .pgpass.away ] || mv .pgpass.away .pgpass")
	})
	before := fleet.SQL(t, "a1", "SELECT rolpassword FROM pg_authid WHERE rolname = 'replicator'")
	s = b.Want(1, "rotate", "replicator", "--yes", "--rollback", "-l", "a1")
	has(t, s.All(), "the role has the password again that it had before, and the secret is as it was")
	if strings.Contains(s.All(), "pending") {
		t.Errorf("nothing is pending:\n%s", s.All())
	}
	s = b.Want(1, "rotate", "replicator", "--yes", "-l", "a1")
	has(t, s.All(), "there is no /var/lib/postgresql/.pgpass", "the role has its old password again, and the new one stays pending")
	if after := fleet.SQL(t, "a1", "SELECT rolpassword FROM pg_authid WHERE rolname = 'replicator'"); after != before {
		t.Error("the old verifier did not come back")
	}
	fleet.Look(t, "a2", "mv /var/lib/postgresql/.pgpass.away /var/lib/postgresql/.pgpass")
	s = b.Want(0, "rotate", "replicator", "--yes", "-l", "a1")
	has(t, s.All(), "goes on with a rotation that was begun before")
	if status := fleet.SQL(t, "a2", "SELECT status FROM pg_stat_wal_receiver"); status != "streaming" {
		t.Errorf("a2 does not stream: %q", status)
	}
}
