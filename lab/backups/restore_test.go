//go:build lab

package backups

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

//go:embed odd.sql
var oddSQL string

// odd is the name of the database that odd.sql makes.
const odd = `odd " db é.x`

const (
	// Rows take about 170 bytes: 20 MB of data on all versions but one, which has 200 MB, or with PGFLEET_SOAK 2 GB.
	fewRows, manyRows, soakRows = 120_000, 1_200_000, 12_000_000
	largeVersion                = 17
	// damagedVersion is the one whose sets are changed, encrypted anew and pruned.
	damagedVersion = 15
	// oddLineVersion is the one that has a database with an end of a line in its name, which pg_restore --create gives up on.
	oddLineVersion = 13
	oddLine        = "odd\rline"
)

func rowsOf(version int) int {
	switch {
	case version != largeVersion:
		return fewRows
	case os.Getenv("PGFLEET_SOAK") != "":
		return soakRows
	}
	return manyRows
}

// makeOdd makes the database on a host, and takes what an earlier test has made there away.
func makeOdd(t *testing.T, host string, rows int) {
	t.Helper()
	forget(t, host)
	fleet.Look(t, host, fmt.Sprintf("cd /; runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 -v rows=%d -f - <<'END_OF_SQL'\n%s\nEND_OF_SQL", rows, oddSQL))
}

// preload has pgaudit loaded, without which the extension cannot be made.
func preload(t *testing.T, version int, host string) {
	t.Helper()
	fleet.Look(t, host, fmt.Sprintf(`f=/etc/postgresql/%[1]d/main/conf.d/90-preload.conf
[ -e $f ] || { echo "shared_preload_libraries = 'pgaudit'" >$f; chown postgres: $f; systemctl restart postgresql@%[1]d-main; }
for i in $(seq 100); do runuser -u postgres -- pg_isready -q && exit; sleep 0.1; done; exit 1`, version))
}

func forget(t *testing.T, host string) {
	t.Helper()
	for _, name := range strings.Split(fleet.SQL(t, host, "SELECT datname FROM pg_database WHERE datname LIKE 'odd%' OR datname LIKE 'pgfleet%' OR datname LIKE 'copy%'"), "\n") {
		if name != "" {
			fleet.SQL(t, host, `ALTER DATABASE "`+strings.ReplaceAll(name, `"`, `""`)+`" RESET ALL`)
			fleet.SQL(t, host, `DROP DATABASE "`+strings.ReplaceAll(name, `"`, `""`)+`" WITH (FORCE)`)
		}
	}
	for _, role := range []string{"app", "grp", `"Odd Owner"`, `"quote""r"`} {
		fleet.SQL(t, host, "DROP ROLE IF EXISTS "+role)
	}
}

// dumped is a digest of what pg_dump writes of a database of a host, as text; but for the random keys of \restrict.
func dumped(t *testing.T, host, database string) string {
	t.Helper()
	conninfo := "dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database) + "'"
	return fleet.Look(t, host, "cd /; runuser -u postgres -- pg_dump -w -d "+quote(conninfo)+` >/tmp/dumped || exit 1; grep -av -e '^\\restrict ' -e '^\\unrestrict ' /tmp/dumped | sha256sum; rm /tmp/dumped`)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// declaration is a backup of each version's host.
func declaration(keep int) string {
	var b strings.Builder
	for _, v := range versions() {
		fmt.Fprintf(&b, `
[[backup]]
name = "v%[1]d"
limit = "pg%[1]d"
databases = ["odd*"]
recipients = ["recipients.txt"]
keep = %[2]d
verify_on = "other%[1]d"
to.path = "/var/backups/pgfleet"
`, v, keep)
	}
	return b.String()
}

// A listed is what backup list --json says of one instance.
type listed struct {
	Backups []struct {
		Unit struct{ Active, Message string }
		Sets []struct {
			ID, State, Why string
			Proof          *struct {
				Level, Message string
				OK             bool
			}
		}
	}
}

func (b *bench) list(name string) listed {
	b.T.Helper()
	var l listed
	s := b.Want(0, "backup", "list", name, "--json")
	if err := json.Unmarshal([]byte(s.Stdout), &l); err != nil || len(l.Backups) != 1 {
		b.T.Fatalf("%v\n%s", err, s.All())
	}
	return l
}

func has(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}

func TestLabRestore(t *testing.T) {
	for _, v := range versions() {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, declaration(2))
			name, host, other := fmt.Sprintf("v%d", v), fmt.Sprintf("pg%d", v), fmt.Sprintf("other%d", v)
			fleet.Look(t, host, "rm -rf /var/backups/pgfleet/"+name)
			preload(t, v, host)
			preload(t, v, other)
			makeOdd(t, host, rowsOf(v))
			forget(t, other)
			databases := "1 database"
			if v == oddLineVersion {
				fleet.SQL(t, host, "CREATE DATABASE \""+oddLine+"\"")
				databases = "2 databases"
			}
			b.Want(0, "apply", "--yes", "-l", host)
			if v == largeVersion {
				b.interrupt(t, name, host)
			} else {
				has(t, b.Want(0, "backup", "run", name, "--yes").Stdout, "is good")
			}
			want := dumped(t, host, odd)

			// Read, and restored into a scratch cluster on another host.
			has(t, b.Want(0, "backup", "verify", name, "--restore").Stdout, "restored on "+other, databases)
			if left := fleet.Look(t, other, "ls -d /run/pgfleet-scratch-* /var/tmp/systemd-private-*pgfleet* 2>/dev/null; true"); left != "" {
				t.Errorf("left: %s", left)
			}
			sets := b.list(name).Backups[0].Sets
			if len(sets) != 1 || sets[0].State != "good" || sets[0].Proof == nil || !sets[0].Proof.OK || sets[0].Proof.Level != "restore" {
				t.Errorf("%+v", sets)
			}

			// To another host: the roles are missing first.
			s := b.Want(1, "backup", "restore", name, "--database", odd, "--to", other, "--yes")
			has(t, s.Stderr, "has no roles Odd Owner, app, grp, ", "quote\"r", "--globals")
			s = b.Want(0, "backup", "restore", name, "--globals", "--to", other, "--yes")
			has(t, s.Stdout, `made: role Odd Owner, role app, role grp`, "left alone, because the server has them: role p", "role postgres\n")
			if strings.Contains(s.All(), "SCRAM-") || strings.Contains(s.All(), "canary") {
				t.Error("a verifier was printed")
			}
			if got := fleet.SQL(t, other, `SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = 'quote"r'`); got != "t" {
				t.Errorf("the password: %s", got)
			}
			s = b.Want(0, "backup", "restore", name, "--database", odd, "--to", other, "--yes")
			has(t, s.Stdout, "its contents are those of the moment of the dump")
			if got := dumped(t, other, odd); got != want {
				t.Errorf("pg_dump of both differs: %s, %s", got, want)
			}
			has(t, b.Want(1, "backup", "restore", name, "--database", odd, "--to", other, "--yes").Stderr, "there is a database", "--as", "--overwrite", "nothing was changed")

			if v == oddLineVersion {
				s = b.Want(0, "backup", "restore", name, "--database", oddLine, "--as", "copy line", "--to", other, "--yes")
				has(t, s.Stdout, "it was restored and compared on "+other, "settings, comment and privileges of the database itself were not restored")
			}
			if v == largeVersion {
				forget(t, other)
				return // the rest is the same however large it is
			}
			// Over what is there, with a session that holds it.
			fleet.Look(t, other, `cd /; (runuser -u postgres -- psql -Xq -d "dbname='odd \" db é.x'" -c 'SELECT pg_sleep(600)' >/dev/null 2>&1 &) </dev/null >/dev/null 2>&1`)
			fleet.SQL(t, other, `CREATE DATABASE copy`)
			s = b.Want(0, "backup", "restore", name, "--database", odd, "--to", other, "--overwrite", odd, "--yes", "--json")
			var r struct{ Kept string }
			if err := json.Unmarshal([]byte(s.Stdout), &r); err != nil || !strings.HasPrefix(r.Kept, odd+"_before_") {
				t.Fatalf("%v\n%s", err, s.All())
			}
			for _, database := range []string{odd, r.Kept} {
				if got := dumped(t, other, database); got != want {
					t.Errorf("pg_dump of %s differs: %s, %s", database, got, want)
				}
			}
			if got := fleet.SQL(t, other, "SELECT count(*) FROM pg_database WHERE datname LIKE 'pgfleet%' OR NOT datallowconn AND datname <> 'template0'"); got != "0" {
				t.Errorf("%s databases are left over", got)
			}

			if v == damagedVersion {
				b.damage(t, name, host, other)
				b.rekeyAndPrune(t, name, host)
			}
			forget(t, other)
		})
	}
}

// interrupt has a run followed, ends the following, and follows it again.
func (b *bench) interrupt(t *testing.T, name, host string) {
	t.Helper()
	cmd := b.Command(t.Context(), "backup", "run", name, "--yes")
	var out labtest.Output
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fleet.Look(t, host, "for i in $(seq 200); do ls /var/backups/pgfleet/"+name+"/*/*/*.dump.age.partial 2>/dev/null && exit; sleep 0.05; done; exit 1")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d", cmd.ProcessState.ExitCode())
	}
	has(t, out.String(), host+": not followed any more: the run goes on; to end it, on "+host+": systemctl stop pgfleet-backup-")
	has(t, b.Want(0, "backup", "run", name, "--yes").Stdout, "is good", "it was going on already")
}

// damage changes files of a set, and looks that each change is found and named.
func (b *bench) damage(t *testing.T, name, host, other string) {
	t.Helper()
	id := b.list(name).Backups[0].Sets[0].ID
	dir := path.Join("/var/backups/pgfleet", name, host, id)
	dump := dir + "/odd%20%22%20db%20%C3%A9%2Ex.dump.age"
	fleet.Look(t, host, "cp -a "+dir+" /var/backups/kept")
	back := func() { fleet.Look(t, host, "rm -rf "+dir+"; cp -a /var/backups/kept "+dir) }
	defer fleet.Look(t, host, "rm -rf /var/backups/kept")

	// Cut off: the size is seen at once.
	fleet.Look(t, host, "truncate -s -100 "+dump)
	has(t, b.Want(1, "backup", "verify", name).Stderr, id, "x.dump.age has ", "should have")
	has(t, b.Want(1, "backup", "restore", name, "--database", odd, "--as", "copy2", "--yes").Stderr, id, "x.dump.age has ")
	back()
	// One bit: the size is right.
	fleet.Look(t, host, `perl -e 'open F, "+<", $ARGV[0] or die; seek F, -s($ARGV[0]) / 2, 0; read F, $b, 1; seek F, -1, 1; print F chr(ord($b) ^ 4)' `+dump)
	for _, args := range [][]string{
		{"backup", "verify", name}, {"backup", "verify", name, "--restore"},
		{"backup", "restore", name, "--database", odd, "--as", "copy2", "--yes"},
	} {
		has(t, b.Want(1, args...).Stderr, host, id, "x.dump.age was changed since it was made", "restore from another set")
	}
	if proof := b.list(name).Backups[0].Sets[0].Proof; proof == nil || proof.OK || !strings.Contains(proof.Message, "was changed") {
		t.Errorf("%+v", proof)
	}
	if got := fleet.SQL(t, host, "SELECT count(*) FROM pg_database WHERE datname IN ('copy2') OR datname LIKE 'pgfleet%'"); got != "0" {
		t.Error("a database was made of a file that was changed")
	}
	back()
	// No key.
	b.Write("identity.txt", "")
	b.Want(2, "backup", "verify", name)
	b.Want(2, "backup", "restore", name, "--database", odd, "--as", "copy2", "--yes")
	// Nobody's key.
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b.Write("identity.txt", identity.String()+"\n")
	has(t, b.Want(1, "backup", "verify", name).Stderr, host, id, "none of the identities opens", b.identities[0].Recipient().String())
	b.Write("identity.txt", b.identities[1].String()+"\n")
	// No manifest.
	fleet.Look(t, host, "rm "+dir+"/manifest.json; find "+dir+" -exec touch -d '1 hour ago' {} +")
	has(t, b.Want(1, "backup", "verify", name).Stderr, id, "cut off", "without a manifest")
	if set := b.list(name).Backups[0].Sets[0]; set.State != "cut off" {
		t.Errorf("%+v", set)
	}
	back()
	has(t, b.Want(0, "backup", "verify", name).Stdout, "read whole on "+other)
}

func (b *bench) rekeyAndPrune(t *testing.T, name, host string) {
	t.Helper()
	has(t, b.Want(0, "backup", "rekey", name).Stdout, "nothing to do")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b.Write("recipients.txt", identity.Recipient().String()+"\n"+b.identities[1].Recipient().String()+"\n")
	has(t, b.Want(2, "backup", "rekey", name).Stderr, "nothing was written")
	has(t, b.Want(0, "backup", "rekey", name, "--yes").Stdout, "2 +1 -1", "1 set was encrypted anew")
	b.Write("identity.txt", b.identities[0].String()+"\n")
	has(t, b.Want(1, "backup", "verify", name).Stderr, "none of the identities opens")
	b.Write("identity.txt", identity.String()+"\n")
	if set := b.list(name).Backups[0].Sets[0]; set.State != "good" || set.Proof == nil || !set.Proof.OK || set.Proof.Level != "restore" {
		t.Errorf("%+v", set)
	}
	b.Want(0, "backup", "verify", name)
	if got := fleet.Look(t, host, "ls /var/backups/pgfleet/"+name+"/"+host+"/*/"); strings.Contains(got, "x.dump.age") || !strings.Contains(got, "x.dump.r1.age") {
		t.Error(got)
	}
	// Older sets, of which two more are kept; then one that failed, which nothing goes after.
	dir := "/var/backups/pgfleet/" + name + "/" + host
	for _, id := range []string{"20250101T000000Z", "20250102T000000Z", "20250103T000000Z"} {
		fleet.Look(t, host, fmt.Sprintf(`cd %s; cp -a 2026* %[2]s; sed -i 's/"id": *"[0-9TZ]*"/"id": "%[2]s"/' %[2]s/manifest.json; touch %[2]s/notes.txt`, dir, id))
	}
	future := backup.NewID(time.Now().Add(time.Hour)) // not so far ahead that a clock was wrong
	fleet.Look(t, host, "mkdir "+dir+"/"+future+"; echo '{\"version\":1,\"id\":\""+future+"\",\"began\":\"2027-01-01T00:00:00Z\",\"ended\":\"2027-01-01T00:00:00Z\",\"step\":\"x\",\"message\":\"y\"}' >"+dir+"/"+future+"/failed.json; chown -R pgfleet_backup: "+dir)
	has(t, b.Want(0, "backup", "prune", name, "--yes").Stdout, "nothing is to be removed", "nothing goes until one is good again")
	fleet.Look(t, host, "rm -r "+dir+"/"+future)
	has(t, b.Want(0, "backup", "prune", name, "--dry-run").Stdout, "2 of 4 sets would be removed")
	has(t, b.Want(2, "backup", "prune", name).Stderr, "nothing was removed")
	has(t, b.Want(0, "backup", "prune", name, "--yes").Stdout, "2 of 4 sets were removed")
	if got := strings.Fields(fleet.Look(t, host, "cd "+dir+"; echo */*")); len(got) != 2*5+3 {
		t.Errorf("left: %q", got)
	}
	// A unit that ends well is not believed without looking at the set.
	unit := strings.TrimSpace(fleet.Look(t, host, "basename /etc/systemd/system/pgfleet-backup-"+name+"-*.service"))
	fleet.Look(t, host, "mkdir -p /run/systemd/system/"+unit+".d; printf '[Service]\\nExecStartPost=/bin/sh -c \"find "+dir+" -newermt -20sec -name manifest.json -delete\"\\n' >/run/systemd/system/"+unit+".d/x.conf; systemctl daemon-reload")
	has(t, b.Want(1, "backup", "run", name, "--yes").Stderr, "the run ended well, and its set ", "is not good but cut off")
	fleet.Look(t, host, "rm -r /run/systemd/system/"+unit+".d; systemctl daemon-reload; cd "+dir+"; for s in *Z; do [ -e $s/manifest.json ] || rm -r $s; done; systemctl start "+unit)
	// A run that fails before it can leave anything is seen all the same.
	b.Want(0, "backup", "list", name, "--detailed-exitcode")
	fleet.Look(t, host, "cd "+dir+"; mv /usr/bin/age /usr/bin/age.away; systemctl start "+unit+" || :; mv /usr/bin/age.away /usr/bin/age; grep -l version */failed.json | xargs -r dirname | xargs -r rm -r")
	b.Want(0, "backup", "list", name)
	has(t, b.Want(1, "backup", "list", name, "--detailed-exitcode").Stdout, "the last run has failed", "not installed")
	has(t, b.Want(1, "backup", "verify", name).Stderr, "the last run of pgfleet-backup-"+name, "has failed", "not installed")
}
