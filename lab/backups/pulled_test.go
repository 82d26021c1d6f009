//go:build lab

package backups

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/backup/target"
	"github.com/pgfleet/pgfleet/internal/backup/target/s3server"
)

// keeper is a program that keeps objects in the folder "kept".
const keeper = `#!/bin/sh
what=$1
shift
mkdir -p kept && cd kept || exit
case $what in
put) mkdir -p "$(dirname "$1")" && cat >"$1.tmp" && mv "$1.tmp" "$1" ;;
get) [ -e "$1" ] || exit 3; cat "$1" ;;
list) find . -type f ! -name '*.tmp' -printf '{"name":"%P","bytes":%s,"modified":"2026-11-26T02:30:00Z"}\n' ;;
remove) rm -f "$@" ;;
*) exit 64 ;;
esac
`

const pulled = `
[[backup]]
name = "here"
limit = "pg17,pg13"
recipients = ["recipients.txt"]
databases = ["shop", "-odd*"]
keep = 1
to.here = "backups"

[[backup]]
name = "kept"
limit = "pg17,pg13"
recipients = ["recipients.txt"]
encrypt = "operator"
verify_on = "pg17"
databases = ["shop"]
to.command = ["./keeper"]

[[backup]]
name = "vault"
limit = "pg17"
recipients = ["recipients.txt"]
databases = ["shop"]
to = { host = "pg13", path = "/var/backups/vault" }

[[backup]]
name = "the.bucket" # a dot is no trouble
limit = "pg17"
recipients = ["recipients.txt"]
databases = ["shop"]
check = "counts"
to.s3 = { bucket = "backups", prefix = "lab", endpoint = "ENDPOINT", access_key_id = "env:LAB_S3_ID", secret_access_key = "env:LAB_S3_KEY" }
`

// goodSet returns the only set of a target, which must be good.
func goodSet(t *testing.T, in backup.Target, name, host string) *backup.Set {
	t.Helper()
	sets, err := backup.ReadSets(t.Context(), in, backup.Folder(name, host))
	if err != nil {
		t.Fatal(err)
	}
	if len(sets) != 1 {
		t.Fatalf("%s has %d sets of %s", name, len(sets), host)
	}
	if state, why := sets[0].State(time.Now(), false); state != backup.Good {
		t.Fatalf("%s of %s is %s: %s", name, host, state, why)
	}
	return &sets[0]
}

// Backups come over the connection into a folder here, a program and a bucket, encrypted there or here, and are what was in the server. A run whose
// connection is cut leaves no good set, and says so there.
func TestLabPulled(t *testing.T) {
	hosts := []string{"pg17", "pg13"}
	for _, h := range hosts {
		seed(t, h)
	}
	s3 := s3server.New(t)
	b := newBench(t, strings.Replace(pulled, "ENDPOINT", s3.URL, 1))
	b.Env = []string{"LAB_S3_ID=" + s3server.KeyID, "LAB_S3_KEY=" + s3server.SecretKey}
	b.Write("keeper", keeper)
	if err := os.Chmod(filepath.Join(b.Dir, "keeper"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.Want(0, "apply", "--yes", "-l", "pg17,pg13")
	b.Want(0, "backup", "run", "here", "--yes")
	if said := b.Want(0, "backup", "run", "--yes"); strings.Count(said.Stdout, " is good, ") != 6 || !strings.Contains(said.Stdout, "1 older set removed: here/") {
		t.Errorf("run said:\n%s", said.All())
	}
	here, program := target.NewFolder(filepath.Join(b.Dir, "backups")), target.NewCommand([]string{filepath.Join(b.Dir, "keeper")}, b.Dir)
	for _, h := range hosts {
		set := goodSet(t, here, "here", h)
		if m := set.Manifest; !strings.HasPrefix(m.Encryption.Tool, "age ") || len(m.Files) != 5 || !strings.HasPrefix(m.ServerVersion, strings.TrimPrefix(h, "pg")) {
			t.Errorf("the manifest: %+v", m)
		}
		if m := goodSet(t, program, "kept", h).Manifest; !strings.HasPrefix(m.Encryption.Tool, "pgfleet") || len(m.Files) != 3 {
			t.Errorf("the manifest: %+v", m)
		}
		var checks bytes.Buffer
		if err := here.Get(t.Context(), set.Folder()+"/"+backup.ChecksName("shop"), &checks); err != nil {
			t.Fatal(err)
		}
		plain, err := age.Decrypt(&checks, b.identities[1])
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(plain)
		found, err := backup.ParseChecks(bytes.NewReader(text))
		if err != nil || found["table public.orders"].Rows != 20000 || found["sequence public.numbers"].Kind == "" || found["large objects"].Rows != 1 {
			t.Errorf("the checks of %s: %v\n%s", h, err, text)
		}
	}
	b.Want(0, "backup", "verify", "the.bucket")
	b.Want(0, "backup", "verify", "vault")
	b.Want(0, "backup", "verify", "kept", "-l", "pg17", "--restore")

	// The connection is cut while pg_dump waits for a lock, and the host's programs end with it.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cut := make(chan string, 1)
	run := b.Command(ctx, "backup", "run", "here", "-l", "pg17", "--yes")
	var said bytes.Buffer
	run.Stdout, run.Stderr = &said, &said
	go func() {
		cut <- fleet.Look(t, "pg17", `cd /
sql() { runuser -u postgres -- psql -XAtq "$@"; }
( sql -d shop -c "BEGIN; LOCK TABLE by_year; SELECT pg_sleep(30) /* the lock */" >/dev/null 2>&1 || : ) &
waiting() { sql -d shop -c "SELECT count(*) FROM pg_locks WHERE relation = 'by_year'::regclass AND NOT granted"; }
until_waits() { i=0; until [ "$(waiting)" = "$1" ]; do i=$((i+1)); [ $i -lt 400 ] || exit 1; sleep 0.05; done; }
until_waits 1
pkill -KILL -f '^sshd.*@notty'
sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%/* the lock */' AND pid <> pg_backend_pid()" >/dev/null
i=0; while pgrep -u pgfleet_backup >/dev/null; do i=$((i+1)); [ $i -lt 200 ] || { echo "programs go on"; ps -u pgfleet_backup -f; exit; }; sleep 0.05; done`)
	}()
	time.Sleep(time.Second)
	err := run.Run()
	if on := <-cut; on != "" {
		t.Errorf("on the host: %s", on)
	}
	if run.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "is not good: database shop") {
		t.Errorf("a run that was cut off ended with %v:\n%s", err, &said)
	}
	sets, err := backup.ReadSets(t.Context(), here, backup.Folder("here", "pg17"))
	if err != nil || len(sets) != 2 {
		t.Fatalf("%d sets, %v", len(sets), err)
	}
	if state, why := sets[1].State(time.Now(), false); state != backup.Failing || !strings.Contains(why, "database shop") || len(sets[1].Objects) != 1 {
		t.Errorf("the set is %s: %s; %v", state, why, sets[1].Objects)
	}
}
