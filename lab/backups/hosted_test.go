//go:build lab

package backups

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// onHost is a shell that every script begins with: the unit, the newest set, and waiting.
const onHost = `set -eu; cd /
unit=pgfleet-backup-NAME-$(ls /usr/lib/postgresql)-main sets=TARGET/NAME/$(hostname)
newest() { ls -d "$sets"/*Z | tail -n 1; }
sql() { runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 "$@"; }
until_true() { i=0; until "$@"; do i=$((i+1)); [ $i -lt 200 ] || { echo "waited in vain for $*" >&2; systemctl status $unit >&2 || :; exit 1; }; sleep 0.05; done; }
ended() { case $(systemctl is-active $unit) in inactive | failed) ;; *) return 1 ;; esac; }
`

// look runs a script on a host that knows where a backup is.
func look(t *testing.T, host, name, target, script string) string {
	t.Helper()
	return fleet.Look(t, host, strings.NewReplacer("NAME", name, "TARGET", target).Replace(onHost)+script)
}

// oddName is a database's name with what shells, connection strings and SQL take for something else.
const oddName = "-odd 'name' %\\ x=1\nend "

// seed makes a small database with what a dump has to hold, and an oddly named one.
func seed(t *testing.T, host string) {
	t.Helper()
	fleet.Look(t, host, `cd /; runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 <<'SQL'
SELECT 'CREATE DATABASE shop' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'shop') \gexec
\set odd '`+strings.NewReplacer(`\`, `\\`, "'", "''", "\n", `\n`).Replace(oddName)+`'
SELECT format('CREATE DATABASE %I', :'odd') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'odd') \gexec
SELECT 'CREATE ROLE shopkeeper' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shopkeeper') \gexec
ALTER ROLE shopkeeper LOGIN PASSWORD 'lab-only';
REVOKE CONNECT ON DATABASE shop FROM PUBLIC;
\c shop
CREATE TABLE IF NOT EXISTS orders AS SELECT g AS id, md5(g::text) AS note FROM generate_series(1, 20000) g;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders OWNER TO shopkeeper;
CREATE TABLE IF NOT EXISTS by_year (at date) PARTITION BY RANGE (at);
CREATE SEQUENCE IF NOT EXISTS numbers;
SELECT lo_from_bytea(4711, 'a large object') WHERE NOT EXISTS (SELECT FROM pg_largeobject_metadata WHERE oid = 4711) \g /dev/null
SQL`)
}

const nightly = `
[[backup]]
name = "nightly"
recipients = ["recipients.txt"]
schedule = "*-*-* 02:30:00"
randomized_delay = "15m"
keep = 2
to.path = "/var/backups/pgfleet"
`

func matches(expression, text string) bool { return regexp.MustCompile(expression).MatchString(text) }

func perVersion(t *testing.T, test func(t *testing.T, version int, host string)) {
	t.Helper()
	for _, v := range versions() {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			test(t, v, fmt.Sprintf("pg%d", v))
		})
	}
}

// Apply makes what a backup needs, a second one finds nothing, the unit makes a set that is whole and can be restored with age and pg_restore alone, and
// older sets go.
func TestLabHosted(t *testing.T) {
	for _, v := range versions() {
		seed(t, fmt.Sprintf("pg%d", v))
	}
	b := newBench(t, nightly)
	plan := b.Want(0, "plan").All()
	for _, want := range []string{"superuser", "make the account pgfleet_backup", "enable, start (pgfleet-backup-nightly-15-main.timer)", "GRANT CONNECT ON DATABASE shop TO pgfleet_backup"} {
		if !strings.Contains(plan, want) {
			t.Errorf("the plan does not say %q:\n%s", want, plan)
		}
	}
	b.Want(0, "apply", "--yes")
	if again := b.Want(0, "plan"); !strings.Contains(again.Stdout, "0 to change") {
		t.Errorf("a second plan changes something:\n%s", again.Stdout)
	}
	perVersion(t, func(t *testing.T, version int, host string) {
		said := look(t, host, "nightly", "/var/backups/pgfleet", `for n in 1 2 3; do systemctl start $unit; done
systemctl list-timers --all $unit.timer >&2
stat -c '%U %a' /var/backups/pgfleet
ls -d "$sets"/*Z | wc -l
cat "$(newest)/manifest.json"`)
		rights, rest, _ := strings.Cut(said, "\n")
		count, manifest, _ := strings.Cut(rest, "\n")
		if rights != "pgfleet_backup 700" || strings.TrimSpace(count) != "2" {
			t.Errorf("the target is %s, with %s sets: want pgfleet_backup 700, and 2 of 3", rights, count)
		}
		m, err := backup.ParseManifest([]byte(manifest))
		if err != nil {
			t.Fatalf("%v\n%s", err, manifest)
		}
		if m.Instance != host || m.Backup != "nightly" || len(m.Encryption.Recipients) != 2 || !strings.HasPrefix(m.ServerVersion, fmt.Sprint(version)) {
			t.Errorf("the manifest: %s", manifest)
		}
		var odd string
		for _, f := range m.Files {
			if f.Kind == "database" && f.Database == oddName {
				odd = f.Name
			}
		}
		if odd == "" {
			t.Errorf("the database %q is not in the manifest: %s", oddName, manifest)
		}
		// With the second recipient's key, as somebody would who has lost pgfleet as well.
		restored := look(t, host, "nightly", "/var/backups/pgfleet", `s=$(newest) k=$(mktemp)
echo `+b.identities[1].String()+` >$k
sql -c 'DROP DATABASE IF EXISTS again' -c 'CREATE DATABASE again'
for f in "$s"/*.age; do age -d -i $k <"$f" >/dev/null; done
age -d -i $k <"$s/globals.sql.age" | grep -c "shopkeeper.*SCRAM-SHA-256\|shopkeeper.*md5"
age -d -i $k <"$s/shop.dump.age" | runuser -u postgres -- /usr/lib/postgresql/*/bin/pg_restore --exit-on-error -d again
age -d -i $k <"$s/`+odd+`" | /usr/lib/postgresql/*/bin/pg_restore -l | grep -c dbname
for d in shop again; do sql -d $d -c "SELECT count(*), sum(hashtext(o::text)::bigint), convert_from(lo_get(4711), 'UTF8') FROM orders o"; done | uniq | wc -l
age -d -i $k <"$s/shop.checks.age" | grep -c '"public.orders", "rows": 20000\|"rows": 20000, .*"public.orders"\|public.orders.*20000\|20000.*public.orders'
sql -c 'DROP DATABASE again'; rm $k`)
		if got := strings.Join(strings.Fields(restored), " "); got != "1 1 1 1" {
			t.Errorf("restored by hand: %s", restored)
		}
	})
}

// Whatever of making a backup dies, the run has failed, says what it was, leaves no part of a file, and leaves earlier sets as they were.
func TestLabHostedFaults(t *testing.T) {
	for _, v := range versions() {
		seed(t, fmt.Sprintf("pg%d", v))
	}
	b := newBench(t, strings.NewReplacer("nightly", "faults", `"/var/backups/pgfleet"`, `"/var/backups/faults"`, "keep = 2", "keep = 2\nlock_timeout = \"20s\"\ndatabases = [\"shop\"]").Replace(nightly))
	b.Want(0, "apply", "--yes")
	// pg_dump waits for the lock of a table that has no rows of its own to check, and so the script, age and the checks are all there when something dies.
	const blocked = `( sql -d shop -c "BEGIN; LOCK TABLE by_year; SELECT pg_sleep(30) /* the lock */" >/dev/null 2>&1 || : ) &
waits() { [ "$(sql -d shop -c "SELECT count(*) FROM pg_locks WHERE relation = 'by_year'::regclass AND mode = 'AccessExclusiveLock' AND granted")" = 1 ]; }
until_true waits
systemctl start --no-block $unit
dumps() { [ "$(sql -d shop -c "SELECT count(*) FROM pg_locks WHERE relation = 'by_year'::regclass AND NOT granted")" = 1 ]; }
until_true dumps
release() { sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%/* the lock */' AND pid <> pg_backend_pid()" >/dev/null; }
`
	faults := []struct{ name, script, step, message string }{
		{"pg_dump is killed", blocked + "pkill -KILL -u pgfleet_backup -x pg_dump; until_true ended; release", "shop: pg_dump", "killed by signal 9"},
		{"age is killed", blocked + "pkill -KILL -n -u pgfleet_backup -x age; release; until_true ended", "shop: age", "killed by signal 9"},
		{"the checks' session ends", blocked + `sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgfleet_backup' AND state = 'idle in transaction' AND query ~ 'pg_export_snapshot|gexec|jsonb'" >/dev/null; release; until_true ended`,
			"shop: checks", "terminating connection"},
		{"the server is stopped", blocked + "systemctl stop 'postgresql@*-main.service'; until_true ended; systemctl start postgresql@$(ls /usr/lib/postgresql)-main", "shop: pg_dump", "server closed the connection|terminating connection|connection to server was lost"},
		{"the server is down", "systemctl stop 'postgresql@*-main.service'; systemctl start $unit || :; systemctl start postgresql@$(ls /usr/lib/postgresql)-main", "server", "it cannot be asked: .*(connection|connect)"},
		{"the run is stopped", blocked + "systemctl stop $unit; until_true ended; release", "stopped", "has stopped the run"},
		{"the disk is full", `o=uid=$(id -u pgfleet_backup),mode=0700,size=100k
mount -t tmpfs -o $o none "$sets"
systemctl start $unit || :
f=$(cat "$(newest)/failed.json"); n=$(basename "$(newest)"); find "$sets" -name '*.partial'; umount "$sets"; mkdir "$sets/$n"; echo "$f" >"$sets/$n/failed.json"`, "shop: age", "no space left on device"},
		{"pg_dump is older", `c=/etc/pgfleet/backup/faults-*.sh; mkdir -p /opt/old; ln -sf /usr/lib/postgresql/*/bin/* /opt/old; rm /opt/old/pg_dump; printf '#!/bin/sh\necho "pg_dump (PostgreSQL) 12.22"\n' >/opt/old/pg_dump; chmod 755 /opt/old/pg_dump
cp -p $c /opt/kept; sed -i "s,^bin_dir=.*,bin_dir=/opt/old," $c; systemctl start $unit || :; cp -p /opt/kept $c`, "pg_dump", "it is version 12.22, and the server is 1[3-8]"},
		{"age is missing", "mv /usr/bin/age /usr/bin/age.away; systemctl start $unit || :; mv /usr/bin/age.away /usr/bin/age", "age", "not installed"},
		{"a lock is not had", `sed -i "s/^lock_timeout=.*/lock_timeout=300/" /etc/pgfleet/backup/faults-*.sh; ` + strings.NewReplacer("until_true dumps\n", "", "by_year", "orders").Replace(blocked) + "until_true ended; release", "shop: checks", "due to lock timeout"},
		{"pg_dump has no lock", strings.Replace(blocked, "until_true dumps\n", "", 1) + "until_true ended; release", "shop: pg_dump", "statement timeout.*LOCK TABLE"},
	}
	perVersion(t, func(t *testing.T, _ int, host string) {
		good := look(t, host, "faults", "/var/backups/faults", `systemctl start $unit; cd "$(newest)"; pwd; sha256sum *`)
		dir, sums, _ := strings.Cut(good, "\n")
		for _, f := range faults {
			said := look(t, host, "faults", "/var/backups/faults", f.script+`
[ "$(systemctl is-active $unit)" = failed ] || echo "the unit has not failed"
find "$sets" -name '*.partial'
tail -n 1 "$(newest)/failed.json"
n=$(newest); mv "$n/failed.json" "$n/seen.json"; rm -r "$n"; systemctl reset-failed $unit`)
			lines := strings.Split(strings.TrimSpace(said), "\n")
			var failed backup.Failed
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &failed); err != nil {
				t.Errorf("%s: failed.json: %v\n%s", f.name, err, said)
				continue
			}
			if strings.Contains(said, ".partial") || strings.Contains(said, "has not failed") {
				t.Errorf("%s: %s", f.name, said)
			}
			if failed.Step != f.step || !matches(f.message, failed.Message) {
				t.Errorf("%s: step %q, %q; want %q, %q", f.name, failed.Step, failed.Message, f.step, f.message)
			}
		}
		// The failure is seen from here.
		look(t, host, "faults", "/var/backups/faults", "mv /usr/bin/age /usr/bin/age.away; systemctl start $unit || :; mv /usr/bin/age.away /usr/bin/age")
		if said := b.Want(0, "backup", "list", "faults", "-l", host).Stdout; !strings.Contains(said, "the last run has failed") || !strings.Contains(said, "not installed") || !strings.Contains(said, "good") {
			t.Errorf("backup list says:\n%s", said)
		}
		look(t, host, "faults", "/var/backups/faults", `rm -r "$(newest)"; systemctl reset-failed $unit`)
		// Cut off without a word, it is the next run that cleans up.
		const waiting = "sed -i 's/^lock_timeout=.*/lock_timeout=20000/' /etc/pgfleet/backup/faults-*.sh\n" + blocked
		after := look(t, host, "faults", "/var/backups/faults", waiting+`systemctl kill -s KILL $unit; until_true ended; release; n=$(newest)
[ ! -e "$n/failed.json" ] || echo "it has said something"
systemctl reset-failed $unit; sleep 1; systemctl start $unit; find "$sets" -name '*.partial'; cat "$n/failed.json"
cd `+labtest.Quote(dir)+`; sha256sum *`)
		first, rest, _ := strings.Cut(after, "\n")
		if !strings.Contains(first, `"step":"cut off"`) || rest != sums {
			t.Errorf("after a run that was cut off:\n%s\nwant the good set as it was:\n%s", after, sums)
		}
		// Who waits for pg_dump to end does not empty a table before it is checked, and pg_dump is run once more when it has waited in vain.
		goes := look(t, host, "faults", "/var/backups/faults", waiting+`( sql -d shop -c "TRUNCATE orders" ) &
waits_too() { [ "$(sql -d shop -c "SELECT count(*) FROM pg_locks WHERE relation = 'orders'::regclass AND NOT granted")" = 1 ]; }
until_true waits_too
release; until_true ended; systemctl is-active $unit || :; wait; sql -d shop -c "INSERT INTO orders SELECT g, md5(g::text) FROM generate_series(1, 20000) g"
sed -i 's/^lock_timeout=.*/lock_timeout=3000/' /etc/pgfleet/backup/faults-*.sh
`+strings.Replace(blocked, "until_true dumps\n", "", 1)+`again() { journalctl -q -o cat _SYSTEMD_INVOCATION_ID="$(systemctl show -P InvocationID $unit)" | grep -q 'run once more'; }
until_true again; release; until_true ended; systemctl is-active $unit || :; ls "$(newest)"`)
		if got := strings.Join(strings.Fields(goes), " "); got != "inactive inactive globals.sql.age manifest.json shop.checks.age shop.dump.age" {
			t.Errorf("a table that is emptied in the meantime, and a lock that is had at the second try: %s", goes)
		}
	})
}

// A standby makes the backup as long as it streams, and the primary otherwise. A backup that is to be absent leaves nothing but its sets; one that is gone
// from fleet.toml leaves orphans.
func TestLabHostedStandby(t *testing.T) {
	t.Run("postgres-17", func(t *testing.T) {
		seed(t, "pg17")
		declared := strings.NewReplacer("nightly", "beside", `"/var/backups/pgfleet"`, `"/var/backups/beside"`, "keep = 2", "on = \"standby\"\nlimit = \"pg17,standby\"").Replace(nightly)
		b := newBench(t, declared)
		b.Want(0, "apply", "--yes", "-l", "pg17,standby")
		const made = "systemctl start $unit; journalctl -q -o cat -u $unit | grep 'Nothing to do\\|No standby\\|is complete' | tail -n 1; ls -d \"$sets\"/*Z 2>/dev/null | wc -l; [ ! -e \"$sets\"/*Z/manifest.json ] || grep -o '\"role\": \"[a-z]*\"' \"$sets\"/*Z/manifest.json"
		for _, c := range []struct{ host, systemctl, want string }{
			{"pg17", "", "Nothing to do: a standby makes the backup. 0"},
			{"standby", "", `is complete. 1 "role": "standby"`},
			{"standby", "stop", ""},
			{"pg17", "", `is complete. 1 "role": "primary"`},
			{"standby", "start", ""},
		} {
			if c.systemctl != "" {
				fleet.Look(t, c.host, "systemctl "+c.systemctl+" postgresql@17-main")
				if c.systemctl == "stop" {
					fleet.Look(t, "pg17", `i=0; while [ "$(cd /; runuser -u postgres -- psql -XAtqc 'SELECT count(*) FROM pg_stat_replication')" != 0 ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done`)
				}
				continue
			}
			if got := strings.Join(strings.Fields(look(t, c.host, "beside", "/var/backups/beside", made)), " "); !strings.Contains(got, c.want) {
				t.Errorf("on %s: %q, want %q", c.host, got, c.want)
			}
		}
		b.declare(strings.Replace(declared, "*-*-* 02:30:00", "*-*-* 03:33:00", 1))
		b.Want(0, "apply", "--yes", "-l", "pg17,standby")
		if next := look(t, "pg17", "beside", "/var/backups/beside", "systemctl show -P TimersCalendar $unit.timer"); !strings.Contains(next, "03:33:00") {
			t.Errorf("the timer's time is still %s", next)
		}
		b.declare("")
		if plan := b.Want(0, "plan", "-l", "pg17").Stdout; !strings.Contains(plan, "/etc/pgfleet/backup/beside-17-main.sh") {
			t.Errorf("the plan lists no orphan:\n%s", plan)
		}
		b.declare("\n[[backup]]\nname = \"beside\"\nstate = \"absent\"\nlimit = \"pg17,standby\"\n")
		b.Want(0, "apply", "--yes", "-l", "pg17,standby")
		left := look(t, "pg17", "beside", "/var/backups/beside", `ls /etc/pgfleet/backup /etc/systemd/system | grep beside || :; systemctl is-active $unit.timer || :; ls "$sets"/*Z/manifest.json | wc -l`)
		if got := strings.Join(strings.Fields(left), " "); got != "inactive 1" {
			t.Errorf("what is left is %q, want the set alone", got)
		}
		if plan := b.Want(0, "plan", "-l", "pg17,standby").Stdout; !strings.Contains(plan, "0 to change") || strings.Contains(plan, "beside-17-main") {
			t.Errorf("a plan after that:\n%s", plan)
		}
	})
}
