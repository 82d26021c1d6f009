//go:build lab

package rotations

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// loud makes a server say of statements what it can, in every place that it has.
const loud = `cat >/etc/postgresql/%[1]d/main/conf.d/00-loud.conf <<'END'
shared_preload_libraries = 'pgaudit, pg_stat_statements, auto_explain'
log_destination = 'stderr,syslog,csvlog'
logging_collector = on
log_directory = '/var/log/postgresql/loud'
log_statement = 'all'
log_duration = on
log_connections = on
log_replication_commands = on
log_min_duration_statement = 0
log_transaction_sample_rate = 1
log_min_error_statement = 'debug5'
pg_stat_statements.track_utility = on
pg_stat_statements.track = 'all'
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
pgaudit.log = 'all'
pgaudit.log_parameter = on
pgaudit.log_relation = on
END
install -D /dev/stdin /etc/systemd/journald.conf.d/loud.conf <<'END'
[Journal]
RateLimitBurst=0
END
systemctl restart systemd-journald
install -d -o postgres /var/log/postgresql/loud`

const restart = `cd /; systemctl restart postgresql@%[1]d-main
for i in $(seq 300); do runuser -u postgres -- pg_isready -q && break; sleep 0.1; done`

const quiet = `rm -rf /etc/postgresql/%[1]d/main/conf.d/00-loud.conf /etc/systemd/journald.conf.d /var/log/postgresql/loud /run/seen /run/shown /root/.pgpass-said /etc/userlist-said
systemctl restart systemd-journald`

// watch writes down, in a tight loop, what every process of the host has for
// arguments and environment, and what the server shows of running statements.
const watch = `cd /; rm -f /run/seen /run/shown /run/enough
nohup setsid sh -c 'while [ ! -e /run/enough ]; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr "\0" "\n" >>/run/seen; done' >/dev/null 2>&1 &
nohup setsid sh -c 'while [ ! -e /run/enough ]; do echo "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid();"; sleep 0.01; done | runuser -u postgres -- psql -XAtq >/run/shown' >/dev/null 2>&1 &`

// forms are a word as it could be written, and encoded.
func forms(word string) []string {
	list := []string{word, hex.EncodeToString([]byte(word)), strings.ToUpper(hex.EncodeToString([]byte(word))), url.QueryEscape(word), url.PathEscape(word)}
	for shift := range 3 { // base64 of a text in which the word stands anywhere
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + word))
		text = strings.TrimRight(text, "=")[4*((shift+2)/3):]
		text = text[:len(text)-2] // its last digits depend on what follows
		list = append(list, text, strings.NewReplacer("+", "-", "/", "_").Replace(text))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// words are all forms of passwords and of verifiers, of which each part counts.
func words(values []string) []string {
	var list []string
	for _, v := range values {
		list = append(list, forms(v)...)
		rest, isVerifier := strings.CutPrefix(v, "SCRAM-SHA-256$")
		if !isVerifier {
			continue
		}
		for _, part := range strings.FieldsFunc(rest, func(r rune) bool { return r == '$' || r == ':' })[1:] {
			list = append(list, forms(part)...)
			if raw, err := base64.StdEncoding.DecodeString(part); err == nil {
				list = append(list, hex.EncodeToString(raw))
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// placesOnHost says where one of several words is to be found on a host: in files, the
// journal, what watch wrote, the server's statistics. Where they belong is left out:
// the server's data, and what is told of a password.
func placesOnHost(t *testing.T, host string, list []string) []string {
	t.Helper()
	file := filepath.Join(fleet.Lab.Host(host).Root(), "root/words-said")
	if err := os.WriteFile(file, []byte(strings.Join(list, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := fleet.Look(t, host, `cd /
grep -rlaF -f /root/words-said --exclude=words-said --exclude=.pgpass-said --exclude=userlist-said --exclude='.pgpass*' --exclude=postgresql.auto.conf --exclude-dir=base --exclude-dir=global --exclude-dir=pg_wal /var/log /var/lib/pgfleet /var/lib/postgresql /tmp /var/tmp /run/seen /run/shown /run/log /etc /root /home 2>/dev/null
journalctl --no-pager -q -a -o export | grep -qaF -f /root/words-said && echo journal
runuser -u postgres -- psql -XAtqc 'SET pg_stat_statements.track = none' -c 'SELECT query FROM pg_stat_statements' | grep -qaF -f /root/words-said && echo pg_stat_statements
rm /root/words-said; true`)
	return strings.Fields(out)
}

// An operator is what is seen on the machine that pgfleet runs on.
type operator struct {
	b     *bench
	began time.Time
	stop  chan struct{}
	ended chan struct{}
	seen  map[string]bool // arguments and environments of processes
	said  strings.Builder // what pgfleet printed
}

func watchOperator(b *bench) *operator {
	o := &operator{b: b, began: time.Now(), stop: make(chan struct{}), ended: make(chan struct{}), seen: map[string]bool{}}
	go func() {
		defer close(o.ended)
		for {
			select {
			case <-o.stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
				paths, _ := filepath.Glob(pattern)
				for _, p := range paths {
					text, _ := os.ReadFile(p)
					o.seen[string(text)] = true
				}
			}
		}
	}()
	return o
}

// enough ends watching.
func (o *operator) enough() {
	select {
	case <-o.stop:
	default:
		close(o.stop)
	}
	<-o.ended
}

// run runs pgfleet and keeps what it says.
func (o *operator) run(code int, args ...string) {
	o.b.T.Helper()
	s := o.b.Run(args...)
	o.said.WriteString(s.All())
	if s.Code != code {
		o.b.T.Errorf("pgfleet %s exited with %d, want %d\n%s", strings.Join(args, " "), s.Code, code, s.All())
	}
}

// places is what placesOnHost is for the operator's machine.
func (o *operator) places(list []string) []string {
	o.b.T.Helper()
	var at []string
	holds := func(text string) bool {
		return slices.ContainsFunc(list, func(w string) bool { return strings.Contains(text, w) })
	}
	for text := range o.seen {
		if holds(text) {
			at = append(at, "processes")
			break
		}
	}
	if holds(o.said.String()) {
		at = append(at, "output")
	}
	for _, dir := range []string{o.b.Dir, o.b.Home, "/tmp", "/var/tmp"} {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // it went away meanwhile
			}
			info, err := d.Info()
			if d.IsDir() && (strings.HasPrefix(d.Name(), "go-build") || d.Name() == ".git") {
				return fs.SkipDir
			}
			if err != nil || !info.Mode().IsRegular() || info.ModTime().Before(o.began) || info.Size() > 16<<20 {
				return nil //nolint:nilerr // likewise
			}
			if text, err := os.ReadFile(path); err == nil && holds(string(text)) {
				at = append(at, path)
			}
			return nil
		})
	}
	return at
}

// TestLabNothingIsSaidOfRotations rotates in all ways while servers say all that they
// can, and searches everywhere for passwords and verifiers, and for a canary that is
// leaked in each of these places.
func TestLabNothingIsSaidOfRotations(t *testing.T) {
	tell := strings.NewReplacer("/etc/pgbouncer-userlist.txt", "/etc/userlist-said", "/root/.pgpass-shop", "/root/.pgpass-said", "a2", "d2", "b2", "d1", `{ service = "shop-app.service", hosts = ["d1"] },`, "").Replace(telling)
	tell = strings.Replace(tell, `  { service = "shop-app.service", hosts = ["d1"] },`+"\n", "", 1)
	b := newBench(t, strings.Replace(alternate, `role = "shop"`, "role = \"shop\"\nlimit = \"d1-cluster\"", 1)+tell+strings.Replace(inPlace, `role = "svc"`, "role = \"svc\"\nlimit = \"d1-cluster\"", 1)+
		strings.Replace(streaming, `role = "replicator"`, "role = \"replicator\"\nlimit = \"d1-cluster\"", 1))
	b.Env = append(b.Env, "TMPDIR="+t.TempDir())
	hosts := []string{"d1", "d2"}
	version := fleet.Lab.Host("d1").Postgres
	for _, h := range hosts {
		fleet.Look(t, h, fmt.Sprintf(loud, version))
		fleet.Look(t, h, `umask 077; printf '`+fleet.Lab.Host("d1").Address.String()+`:5432:shop:shop_a:old\n' >/root/.pgpass-said; printf '"admin" "kept"\n' >/etc/userlist-said`)
	}
	for _, h := range hosts {
		fleet.Look(t, h, fmt.Sprintf(restart, version))
	}
	fleet.SQL(t, "d1", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
	t.Cleanup(func() {
		fleet.SQL(t, "d1", "DROP EXTENSION IF EXISTS pg_stat_statements")
		for _, h := range hosts {
			fleet.Look(t, h, fmt.Sprintf(quiet+"\n"+restart, version))
		}
	})
	// The standby has a password in primary_conninfo, as pg_basebackup may leave it. It
	// is changed below before it is searched for.
	b.Want(0, "rotate", "replicator", "--yes", "--force")
	entry, err := b.entry(t.Context(), "d1-cluster/replicator")
	if err != nil {
		t.Fatal(err)
	}
	first := string(entry.Keys["password"].Expose())
	fleet.SQL(t, "d2", "ALTER SYSTEM SET primary_conninfo = 'user=replicator password="+first+" host="+fleet.Lab.Host("d1").Address.String()+" port=5432'")
	fleet.SQL(t, "d2", "SELECT pg_reload_conf()")

	for _, h := range hosts {
		fleet.Look(t, h, watch)
	}
	o := watchOperator(b)
	defer o.enough()
	found := map[string]bool{}
	gather := func() {
		t.Helper()
		store, err := b.store()
		if err != nil {
			t.Fatal(err)
		}
		for _, role := range []string{"shop", "svc", "replicator"} {
			for _, v := range versionsOf(t, store, "d1-cluster/"+role) {
				e, err := store.Get(t.Context(), "d1-cluster/"+role, v.ID)
				if err != nil {
					t.Fatal(err)
				}
				found[string(e.Keys["password"].Expose())] = true
			}
		}
		for _, v := range strings.Fields(fleet.SQL(t, "d1", "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")) {
			found[v] = true
		}
		delete(found, first)
	}
	run := func(code int, args ...string) {
		t.Helper()
		o.run(code, args...)
		gather()
	}
	run(0, "rotate", "shop", "--yes", "-v")
	run(0, "rotate", "svc", "replicator", "--yes", "-v")
	run(0, "rotate", "--plan", "-v")
	run(0, "rotate", "--plan", "--json")
	run(0, "rotate", "--status")
	run(0, "rotate", "--all", "--yes", "--json")
	run(0, "rotate", "shop", "svc", "--yes", "--rollback", "-v")
	// Failures: after the change of a password, in the store, and of somebody who is told.
	fleet.SQL(t, "d2", "SELECT pg_wal_replay_pause()")
	run(1, "rotate", "svc", "--yes", "-v")
	fleet.SQL(t, "d2", "SELECT pg_wal_replay_resume()")
	fleet.Look(t, "d2", "mv /etc/userlist-said /etc/userlist-said.away")
	run(1, "rotate", "shop", "--yes", "-v")
	fleet.Look(t, "d2", "mv /etc/userlist-said.away /etc/userlist-said")
	run(0, "rotate", "shop", "svc", "--yes", "-v")
	fleet.SQL(t, "d1", "ALTER ROLE svc PASSWORD NULL")
	run(1, "rotate", "svc", "--yes", "-v")
	run(0, "rotate", "svc", "--yes", "--force", "-v")
	run(0, "plan", "-v", "-l", "d1-cluster", "--out", "saved")
	run(0, "runs", "list", "--json")
	journals, err := filepath.Glob(filepath.Join(b.Home, ".local/state/pgfleet/runs/*.jsonl"))
	if err != nil || len(journals) < 8 {
		t.Fatalf("%d journals, %v", len(journals), err)
	}
	for _, j := range journals[:2] {
		run(0, "runs", "show", "-v", strings.TrimSuffix(filepath.Base(j), ".jsonl"))
	}
	run(0, "log", "-l", "d1-cluster")

	var values []string
	for v := range found {
		values = append(values, v)
	}
	passwords := len(values)
	list := words(append(values, "SCRAM-SHA-256$4096:"))
	if passwords < 15 {
		t.Errorf("only %d passwords and verifiers", passwords)
	}
	// The canary, in each place and each form.
	const canary = "canary-5Tq/said+more"
	for _, h := range hosts {
		fleet.Look(t, h, `cd /
runuser -u postgres -- psql -Xqc "SELECT pg_sleep(1), '`+canary+`'" -c 'DO $$ BEGIN -- `+canary+`
END $$' >/dev/null
CANARY=`+canary+` sleep 1
logger -p auth.info '`+canary+`'
for d in /tmp /var/tmp /var/lib/pgfleet /etc; do printf %s '`+canary+`' | base64 >$d/canary-base64; printf 'x%s' '`+canary+`' | base64 >$d/canary-shifted; printf %s '`+canary+`' | od -An -tx1 | tr -d ' \n' >$d/canary-hex; echo '`+url.QueryEscape(canary)+`' >$d/canary-url; done`)
	}
	leak := exec.Command("sleep", "0.5")
	leak.Env = []string{"CANARY=" + canary}
	if err := leak.Run(); err != nil {
		t.Fatal(err)
	}
	o.said.WriteString(canary)
	for i, form := range []string{canary, base64.StdEncoding.EncodeToString([]byte("xy" + canary)), hex.EncodeToString([]byte(canary))} {
		for _, dir := range []string{b.Dir, filepath.Join(b.Home, ".local/state/pgfleet/runs"), os.TempDir()} {
			path := filepath.Join(dir, fmt.Sprintf("canary-said-%d", i))
			if err := os.WriteFile(path, []byte(form), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(path) })
		}
	}
	for _, h := range hosts {
		fleet.Look(t, h, "touch /run/enough; sleep 1")
	}
	o.enough()

	for _, h := range hosts {
		if at := placesOnHost(t, h, list); len(at) > 0 {
			t.Errorf("on %s a password, or a part of a verifier, is in %s", h, at)
		}
		at := strings.Join(placesOnHost(t, h, words([]string{canary})), " ")
		wanted := []string{"/var/log/postgresql/loud", ".csv", "journal", "/run/seen", "/run/shown", "pg_stat_statements"}
		if strings.TrimSpace(fleet.Look(t, h, "ls /var/log/auth.log 2>/dev/null || true")) != "" {
			wanted = append(wanted, "/var/log/auth.log")
		}
		for _, d := range []string{"/tmp", "/var/tmp", "/var/lib/pgfleet", "/etc"} {
			for _, f := range []string{"base64", "shifted", "hex", "url"} {
				wanted = append(wanted, d+"/canary-"+f)
			}
		}
		for _, w := range wanted {
			if !strings.Contains(at, w) {
				t.Errorf("on %s the canary is not found in %s, only in %s", h, w, at)
			}
		}
		fleet.Look(t, h, "rm -f /tmp/canary-* /var/tmp/canary-* /var/lib/pgfleet/canary-* /etc/canary-*")
	}
	if at := o.places(list); len(at) > 0 {
		t.Errorf("here a password, or a part of a verifier, is in %s", at)
	}
	at := strings.Join(o.places(words([]string{canary})), " ")
	for _, w := range []string{"processes", "output", b.Dir + "/canary-said-0", "runs/canary-said-1", "runs/canary-said-2", os.TempDir() + "/canary-said-1"} {
		if !strings.Contains(at, w) {
			t.Errorf("here the canary is not found in %s, only in %s", w, at)
		}
	}
	t.Log(fleet.Look(t, "d2", `grep -ho 'parameter "primary_conninfo" changed.*' /var/log/postgresql/loud/*.log | sed 's/password=[^ ]*/password=FOUND/' || true`))
	t.Logf("PROOF: PostgreSQL %d logs and counts every statement, on a primary and a standby; of %d passwords and verifiers of rotations of both strategies and of the replication role, none is, in any of %d forms, in a log, the journal, pg_stat_statements, pg_stat_activity, a process's arguments or environment, pgfleet's output, journals, plans and folders or temporary files; a canary is found in each of these places",
		version, passwords, len(list))
}
