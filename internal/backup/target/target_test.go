package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/backup/target/targettest"
	"github.com/pgfleet/pgfleet/transport"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

func TestFolder(t *testing.T) {
	targettest.Run(t, 300_000, func(t *testing.T) backup.Target {
		return NewFolder(filepath.Join(t.TempDir(), "backups"))
	})
}

func TestFolderLinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	f := NewFolder(dir)
	if _, _, err := f.Put(t.Context(), "a/x", strings.NewReader("x")); err == nil {
		t.Error("a link led out of the folder")
	}
	if _, _, err := f.Put(t.Context(), "b/x", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"b": 0o700 | os.ModeDir, "b/x": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// dial logs in to an in-process server.
func dial(t *testing.T, s *sshtest.Server) transport.Conn {
	t.Helper()
	t.Setenv("SSH_AUTH_SOCK", "")
	d := &transport.Dialer{SSHConfig: filepath.Join(t.TempDir(), "none")}
	t.Cleanup(func() { d.Close() })
	c, err := d.Dial(t.Context(), transport.Target{Name: "test", Address: s.Host, Port: s.Port, User: s.User, Identity: s.Identity, KnownHosts: s.Known})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestHost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the host's side is Linux")
	}
	s := sshtest.New(t, sshtest.Options{})
	c := dial(t, s)
	targettest.Run(t, 300_000, func(t *testing.T) backup.Target {
		return NewHost(c, "pg01", t.TempDir(), "")
	})
	dir := filepath.Join(t.TempDir(), "a", "backups")
	_, _, err := NewHost(c, "pg01", dir, "").Put(t.Context(), "a/x", strings.NewReader("x"))
	if err == nil || !strings.Contains(err.Error(), "pg01:"+dir+": write a/x: it cannot be used as") {
		t.Errorf("a folder that does not exist: %v", err)
	}
	if os.Getuid() != 0 { // root is who runs the test here
		return
	}
	root := NewHost(c, "pg01", dir, "root")
	if all, err := root.List(t.Context(), ""); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	if err := root.Get(t.Context(), "a/x", io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, _, err := root.Put(t.Context(), "a/x", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Chown(dir, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := root.Put(t.Context(), "a/y", strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "it belongs to") {
		t.Errorf("somebody else's folder: %v", err)
	}
	top := t.TempDir()
	for _, script := range []string{
		"mkdir -m 1777 shared", "mkdir -m 1777 sticky && mkdir sticky/own", "mkdir -m 0775 group && mkdir group/own", "mkdir real && ln -s real link && mkdir real/own", "mkdir theirs && mkdir theirs/own && chown 12345 theirs",
		"ln -s real itself",
	} {
		cmd := exec.Command("sh", "-c", "umask 022; cd \"$0\" && "+script+"; chmod 0775 group 2>/dev/null; :", top)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
	}
	for dir, want := range map[string]string{
		"shared": "others than root can write to it", "sticky/own": "", "sticky/new": "", "group/own": "group can be written to by others than root", "link/own": "link is a symbolic link, and leads to " + top + "/real",
		"theirs/own": "theirs belongs to 12345 and not to root", "theirs/new": "theirs belongs to 12345 and not to root", "itself": "it is a symbolic link",
	} {
		want = strings.ReplaceAll(want, "12345", "UNKNOWN") // which is what stat(1) calls a user without a name
		_, _, err := NewHost(c, "pg01", filepath.Join(top, dir), "root").Put(t.Context(), "a/x", strings.NewReader("x"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(top, "theirs/new")); err == nil {
		t.Error("a folder was made in somebody else's")
	}
}

// TestHostIsCut cuts the connection in the middle of what is put: nothing stands under the name.
func TestHostIsCut(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the host's side is Linux")
	}
	s := sshtest.New(t, sshtest.Options{})
	dir := t.TempDir()
	cut := dial(t, s)
	r := io.MultiReader(bytes.NewReader(targettest.Noise(1<<20)), &cutter{cut.Close}, bytes.NewReader(targettest.Noise(1<<20)))
	if _, _, err := NewHost(cut, "pg01", dir, "").Put(t.Context(), "a/x", r); err == nil {
		t.Error("the connection was cut, and it was put")
	}
	// The host's side may yet be at work.
	for began := time.Now(); s.Running() > 0 && time.Since(began) < 10*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	h := NewHost(dial(t, s), "pg01", dir, "")
	all, err := h.List(t.Context(), "")
	if err != nil || len(all) > 1 || len(all) == 1 && all[0].Name != "a/x.partial" {
		t.Errorf("%v, %v", all, err)
	}
	if _, _, err := h.Put(t.Context(), "a/x", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	if all, err := h.List(t.Context(), ""); err != nil || len(all) != 1 || all[0].Name != "a/x" {
		t.Errorf("%v, %v", all, err)
	}
}

// A cutter does something when it is read, and yields nothing.
type cutter struct{ cut func() error }

func (c *cutter) Read([]byte) (int, error) {
	_ = c.cut()
	return 0, io.EOF
}

// keeper is a program that keeps objects in the folder $1, in sh.
const keeper = `#!/bin/sh
dir=$1 what=$2
shift 2
cd "$dir" || exit
case $what in
put)
	mkdir -p "$(dirname "$1")" || exit
	trap 'rm -f "$1.tmp.$$"; exit 1' TERM
	# A shell waits for what runs in the foreground before it does what a trap says.
	exec 3<&0
	cat <&3 >"$1.tmp.$$" & wait $! || exit
	mv "$1.tmp.$$" "$1" ;;
get)
	[ -e "$1" ] || exit 3
	cat "$1" ;;
list)
	find . -type f ! -name '*.tmp.*' -printf '{"name":"%P","bytes":%s,"modified":"%TY-%Tm-%TdT%TH:%TM:%TSZ"}\n' | sed 's/\(:[0-9][0-9]\.[0-9]\{9\}\)[0-9]*Z/\1Z/' ;;
remove)
	for f do rm -f "$f" || exit; done ;;
*)
	echo "unknown: $what" >&2; exit 64 ;;
esac
`

func program(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keeper")
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	return name
}

func TestCommand(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the program is for Linux")
	}
	t.Setenv("TZ", "UTC")
	file := program(t, keeper)
	targettest.Run(t, 300_000, func(t *testing.T) backup.Target {
		return NewCommand([]string{file, t.TempDir()}, "/")
	})
}

func TestCommandFails(t *testing.T) {
	for _, test := range []struct{ script, want string }{
		{"echo 'no space left' >&2; exit 7", "keeper: write a/x: exit status 7: no space left"},
		{"exit 0", "keeper: write a/x: it did not read all that it was to keep"},
		{"kill -KILL $$", "keeper: write a/x: signal: killed"},
	} {
		c := NewCommand([]string{program(t, "#!/bin/sh\n"+test.script+"\n")}, "/")
		if _, _, err := c.Put(t.Context(), "a/x", bytes.NewReader(targettest.Noise(1<<20))); err == nil || err.Error() != test.want {
			t.Errorf("%s: %v", test.script, err)
		}
	}
	c := NewCommand([]string{program(t, "#!/bin/sh\necho '{\"name\":\"../x\"}'\n")}, "/")
	if _, err := c.List(t.Context(), ""); err == nil {
		t.Error("a name that leads out is listed")
	}
	c = NewCommand([]string{"/nonexistent/keeper"}, "/")
	if _, _, err := c.Put(t.Context(), "a/x", strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that is missing: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c = NewCommand([]string{program(t, "#!/bin/sh\nsleep 60\n")}, "/")
	began := time.Now()
	if err := c.Get(ctx, "a/x", io.Discard); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

// zeros yields zeros and counts them.
type zeros struct{ left int64 }

func (z *zeros) Read(b []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(z.left, int64(len(b)))
	z.left -= n
	return int(n), nil
}

// TestMemoryIsFlat sends much more than may be kept.
func TestMemoryIsFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("sends gigabytes")
	}
	c := NewCommand([]string{program(t, "#!/bin/sh\ncat >/dev/null\n")}, "/")
	before := allocated()
	n, _, err := c.Put(t.Context(), "a/x", &zeros{3 << 30})
	if err != nil || n != 3<<30 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if grown := allocated() - before; grown > 64<<20 {
		t.Errorf("%d bytes were allocated for them", grown)
	}
}

// allocated returns how many bytes were ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func ExampleNewS3() {
	fmt.Println(NewS3(S3Config{Bucket: "backups", Prefix: "/eu/"}))
	// Output: s3://backups/eu
}
