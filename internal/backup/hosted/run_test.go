package hosted_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
)

// fakeAge encrypts nothing.
const fakeAge = `#!/bin/sh
case $*:$(cat "$BASE/../fault" 2>/dev/null) in
--version:*) echo v1.2.1 ;;
-R\ *:full) echo 'no space left on device' >&2; exit 1 ;;
-R\ *:*) exec cat ;;
*) exit 64 ;;
esac
`

// fakeSync notes what is made durable.
const fakeSync = `#!/bin/sh
printf '%s\n' "$@" >>"$BASE/../synced"
exec /bin/sync "$@"
`

// fakeSort is what runs when older sets are looked for: somebody stops the run just then.
const fakeSort = `#!/bin/sh
[ "$(cat "$BASE/../fault" 2>/dev/null)" != stop ] || kill -TERM "$(cat "$BASE/../pid")"
exec /usr/bin/sort "$@"
`

// A site is a folder of sets, and what runs the script there.
type site struct {
	t          *testing.T
	base, bins string
	script     string
}

// binDir returns the folder of psql and pg_dump of a server's version.
func binDir(t *testing.T, s *postgrestest.Server) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/postgresql/%d/bin", "/usr/pgsql-%d/bin"} {
		dir := fmt.Sprintf(pattern, s.Version/10000)
		if _, err := os.Stat(filepath.Join(dir, "pg_dumpall")); err == nil {
			return dir
		}
	}
	path, err := exec.LookPath("pg_dumpall")
	if err != nil {
		t.Skip(err)
	}
	return filepath.Dir(path)
}

func newSite(t *testing.T, s *postgrestest.Server, keep int) *site {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the host's side is Linux")
	}
	for _, name := range []string{"x_gone", "x_before_20260301t081500z", "x_kept_before_20260301t081500z"} {
		s.Exec(t, "CREATE DATABASE "+name)
	}
	top := t.TempDir()
	x := &site{t: t, base: filepath.Join(top, "target", "nightly", "pg01"), bins: filepath.Join(top, "bin")}
	text, err := hosted.Config{
		Backup: "nightly", Instance: "pg01", Target: filepath.Join(top, "target"), Base: x.base, Unit: "pgfleet-backup-nightly-15-main", Role: "postgres", SocketDir: s.Sockets, Port: s.Port,
		BinDir: binDir(t, s), Wanted: []string{"^postgres$", "^x_.*$"}, Excluded: []string{"^x_gone$"}, Aside: "_before_[0-9]{8}t[0-9]{6}z$", Named: []string{"x_kept_before_20260301t081500z"}, Keep: keep, Check: "rows", On: "primary",
	}.Script()
	if err != nil {
		t.Fatal(err)
	}
	x.write("../../../recipients", "age1x\n")
	x.script = strings.Replace(text, "recipients='/etc/pgfleet/backup/nightly-15-main.recipients'", "recipients="+filepath.Join(top, "recipients"), 1)
	for name, text := range map[string]string{"age": fakeAge, "sync": fakeSync, "sort": fakeSort} {
		x.write("../../../bin/"+name, text)
	}
	return x
}

func (x *site) write(name, text string) {
	x.t.Helper()
	name = filepath.Join(x.base, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		x.t.Fatal(err)
	}
}

// run runs the script, and returns what it has said, and whether it ended well.
func (x *site) run() (string, bool) {
	x.t.Helper()
	cmd := exec.Command("sh", "-c", `echo $$ >"$BASE/../pid"; exec sh "$0"`, filepath.Join(x.base, "..", "script"))
	x.write("../script", x.script)
	cmd.Env = []string{"PATH=" + x.bins + ":/usr/bin:/bin", "RUNTIME_DIRECTORY=" + x.t.TempDir(), "BASE=" + x.base}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// sets returns the sets there are.
func (x *site) sets() []string {
	var ids []string
	all, _ := filepath.Glob(filepath.Join(x.base, "2*Z"))
	for _, s := range all {
		ids = append(ids, filepath.Base(s))
	}
	return ids
}

func (x *site) has(name string) bool {
	_, err := os.Lstat(filepath.Join(x.base, name))
	return err == nil
}

// copy makes a set that is a copy of another.
func (x *site) copy(from, to string) {
	x.t.Helper()
	files, err := os.ReadDir(filepath.Join(x.base, from))
	if err != nil {
		x.t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(x.base, from, f.Name()))
		if err != nil {
			x.t.Fatal(err)
		}
		x.write(to+"/"+f.Name(), string(bytes.ReplaceAll(text, []byte(from), []byte(to))))
	}
}

// The newest good sets stay, and only those are good that Go takes for good too.
func TestRunKeeps(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		x := newSite(t, s, 2)
		said, ok := x.run()
		if !ok || len(x.sets()) != 1 {
			t.Fatalf("%q: %s", x.sets(), said)
		}
		dumps, _ := filepath.Glob(filepath.Join(x.base, "*", "*.dump.age"))
		if len(dumps) != 2 || filepath.Base(dumps[0]) != "postgres.dump.age" || filepath.Base(dumps[1]) != "x_kept_before_20260301t081500z.dump.age" {
			t.Errorf("the dumps are %q", dumps)
		}
		if synced, _ := os.ReadFile(filepath.Join(x.base, "../synced")); !strings.Contains(string(synced), x.base+"\n") || !strings.Contains(string(synced), filepath.Dir(filepath.Dir(x.base))+"\n") {
			t.Errorf("the folders above the set are not made durable:\n%s", synced)
		}
		first := x.sets()[0]
		const refused, damaged, unreadable, kept, old, ruin = "20260106T000000Z", "20260105T000000Z", "20260104T000000Z", "20260103T000000Z", "20260102T000000Z", "20260101T000000Z"
		for _, id := range []string{refused, damaged, unreadable, kept, old, ruin} {
			x.copy(first, id)
		}
		sum, err := exec.Command("sh", "-c", `sha256sum <"$0"`, filepath.Join(x.base, refused, "manifest.json")).Output()
		if err != nil {
			t.Fatal(err)
		}
		x.write(refused+"/proof.json", fmt.Sprintf(`{"version":1,"ok":false,"manifest_sha256":%q}`, strings.Fields(string(sum))[0]))
		x.write(damaged+"/postgres.dump.age", "x")
		x.write(unreadable+"/manifest.json", "{")
		x.write(kept+"/proof.json", fmt.Sprintf(`{"version":1,"ok":false,"manifest_sha256":%q}`, strings.Repeat("0", 64)))
		for _, id := range []string{first, ruin} { // of the first one is left what is no good set
			if err := os.Remove(filepath.Join(x.base, id, "globals.sql.age")); err != nil {
				t.Fatal(err)
			}
		}
		said, ok = x.run()
		ids := x.sets()
		made := ids[len(ids)-1]
		if want := []string{kept, unreadable, damaged, refused, first, made}; !ok || made == first || !slices.Equal(ids, want) {
			t.Errorf("the sets are %q, want %q: %s", ids, want, said)
		}
	})
}

// A set that lies in the future, or a stop, cost no set.
func TestRunLeaves(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		x := newSite(t, s, 1)
		if said, ok := x.run(); !ok || len(x.sets()) != 1 {
			t.Fatalf("%q: %s", x.sets(), said)
		}
		first := x.sets()[0]
		x.copy(first, "20990101T000000Z")
		if said, ok := x.run(); !ok || len(x.sets()) != 3 || !strings.Contains(said, "20990101T000000Z lies in the future") {
			t.Errorf("%q: %s", x.sets(), said)
		}
		if err := os.RemoveAll(filepath.Join(x.base, "20990101T000000Z")); err != nil {
			t.Fatal(err)
		}
		x.write("../fault", "stop")
		said, ok := x.run()
		ids := x.sets()
		made := ids[len(ids)-1]
		if !ok || !x.has(made+"/manifest.json") || x.has(made+"/failed.json") || !strings.Contains(said, "is complete. The run was stopped") {
			t.Errorf("a stop after the set was complete: %s", said)
		}
	})
}

// What is left of runs that failed goes before the next one writes anything.
func TestRunCleans(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		x := newSite(t, s, 2)
		x.write("20260101T000000Z/postgres.dump.age", "x")
		x.write("20260101T000000Z/failed.json", "{}")
		x.write("20260102T000000Z/postgres.dump.age", "x")
		x.write("20260102T000000Z/postgres.checks.age.partial", "x")
		x.write("../fault", "full")
		said, ok := x.run()
		if ok || len(x.sets()) != 3 {
			t.Fatalf("%q: %s", x.sets(), said)
		}
		left, _ := filepath.Glob(filepath.Join(x.base, "20260*", "*.age*"))
		text, _ := os.ReadFile(filepath.Join(x.base, "20260102T000000Z/failed.json"))
		var failed struct{ ID, Began, Step string }
		if err := json.Unmarshal(text, &failed); err != nil || failed.ID != "20260102T000000Z" || failed.Began != "2026-01-02T00:00:00Z" || failed.Step != "cut off" || len(left) > 0 {
			t.Errorf("left are %q, and failed.json is %s (%v)", left, text, err)
		}
	})
}
