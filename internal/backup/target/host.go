package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/transport"
)

// A Host keeps objects as files in a folder on a host. With root's rights the folder is made with the first
// object, and one that is not root's alone, or under a folder that is not, is refused: others could lead root elsewhere. With another account's it has to exist.
type Host struct {
	conn transport.Conn
	host string
	dir  string
	user string
}

// NewHost returns the target: the absolute path of a folder on the host of a connection, with the rights
// of an account that owns it. The host's name is for messages. Nothing is read or written yet.
func NewHost(conn transport.Conn, host, dir, user string) *Host {
	return &Host{conn, host, dir, user}
}

// String returns the host's name and the folder's path.
func (h *Host) String() string { return h.host + ":" + h.dir }

// Exit statuses of the scripts here, which no program in them has.
const (
	exitNoFolder = 97
	exitMissing  = 98
)

// script puts the way into the folder in front of a script.
func (h *Host) script(text string) string {
	if h.user == "root" {
		text = fmt.Sprintf(`[ "$(stat -c %%U .)" = root ] || { echo "it belongs to $(stat -c %%U .)" >&2; exit %[1]d; }
case $(stat -c %%a .) in *[2367]? | *[2367]) echo 'others than root can write to it' >&2; exit %[1]d ;; esac
[ "$(pwd -P)" = %[2]s ] || { echo 'it is a symbolic link' >&2; exit %[1]d; }
`, exitNoFolder, transport.Quote(h.dir)) + text
	}
	return h.above() + fmt.Sprintf("umask 077\ncd -- %s || exit %d\n", transport.Quote(h.dir), exitNoFolder) + text
}

// above returns what looks at the folders above root's.
func (h *Host) above() string {
	if h.user != "root" {
		return ""
	}
	return fmt.Sprintf("%s || exit %d\n", hosted.CheckAbove(h.dir), exitNoFolder)
}

// absent returns what a script begins with that does something else where root's folder is not there.
func (h *Host) absent(do string) string {
	if h.user != "root" {
		return ""
	}
	return fmt.Sprintf("[ -d %s ] || %s\n", transport.Quote(h.dir), do)
}

// run runs a script in the folder, or absent where root has none; a failure of it is an error.
func (h *Host) run(ctx context.Context, absent, text string, unfenced bool, stdin io.Reader, stdout io.Writer) error {
	out, err := h.conn.Pipe(ctx, transport.Command{Script: h.absent(absent) + h.script(text), User: h.user, Unfenced: unfenced}, stdin, stdout)
	said := strings.ReplaceAll(strings.TrimSpace(string(out.Stderr)), "\n", "; ")
	switch {
	case err != nil:
		return err
	case out.ExitCode == 0:
		return nil
	case out.ExitCode == exitNoFolder:
		return fmt.Errorf("it cannot be used as %s: %s; pgfleet apply makes the folder of a backup that the host makes itself, and backup run every other", h.user, said)
	case out.ExitCode == exitMissing:
		return fs.ErrNotExist
	case said == "":
		return fmt.Errorf("exit status %d", out.ExitCode)
	}
	return errors.New(said)
}

// makeFolder makes a folder for root alone, and those above it for everybody to pass.
func makeFolder(dir string) string {
	return fmt.Sprintf("{ umask 022; mkdir -p -- %[1]s && chmod 0700 -- %[1]s && sync -- %[2]s; } || exit", transport.Quote(dir), transport.Quote(path.Dir(dir)))
}

// Put implements [backup.Target].
func (h *Host) Put(ctx context.Context, name string, r io.Reader) (int64, string, error) {
	if err := backup.CheckStored(name); err != nil {
		return 0, "", err
	}
	m := measure(ctx, r)
	return m.result(h, name, h.put(ctx, name, m))
}

// put writes the file beside the real name and gives it that name by a command of its own:
// the first one's input also ends when the connection does.
func (h *Host) put(ctx context.Context, name string, m *measured) error {
	var digest bytes.Buffer
	partial, folder := transport.Quote(name+backup.PartialSuffix), transport.Quote(path.Dir(name))
	err := h.run(ctx, "{\n"+h.above()+makeFolder(h.dir)+"\n}", fmt.Sprintf("trap %[3]s TERM\nmkdir -p -- %[2]s && cat >%[1]s && sync %[1]s && sha256sum <%[1]s", partial, folder, transport.Quote("rm -f -- "+partial+"; exit 1")), false, m, &digest)
	_, sent, ended := m.whole()
	if got, _, _ := strings.Cut(digest.String(), " "); err == nil && (got != sent || !ended) {
		err = errors.New("what the host has written is not what was sent: is its disk all right?")
	}
	if err == nil {
		folders := ""
		for f := path.Dir(name); ; f = path.Dir(f) {
			folders += " " + transport.Quote(f)
			if f == "." {
				break
			}
		}
		err = h.run(ctx, "exit", fmt.Sprintf("mv -f -- %s %s && sync%s", partial, transport.Quote(name), folders), false, nil, io.Discard)
	}
	if err != nil && h.conn.Err() == nil {
		tidying, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = h.run(tidying, "exit", "rm -f -- "+partial, false, nil, io.Discard)
	}
	return err
}

// Get implements [backup.Target].
func (h *Host) Get(ctx context.Context, name string, w io.Writer) error {
	if err := backup.CheckStored(name); err != nil {
		return err
	}
	to := &sink{w: w}
	file := transport.Quote(name)
	err := h.run(ctx, fmt.Sprintf("exit %d", exitMissing), fmt.Sprintf("[ -e %[1]s ] || exit %[2]d\ncat -- %[1]s", file, exitMissing), true, nil, to)
	return to.result(h, name, err)
}

// maxList bounds what a host says of its files, in bytes.
const maxList = 256 << 20

// List implements [backup.Target].
func (h *Host) List(ctx context.Context, folder string) ([]backup.Object, error) {
	if err := checkFolder(folder); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	at := transport.Quote(path.Join(".", folder))
	err := h.run(ctx, "exit 0", fmt.Sprintf("[ -d %[1]s ] || exit 0\nfind %[1]s -ignore_readdir_race -type f -printf '%%s %%T@ %%P\\0'", at), true, nil, &bounded{&out, maxList})
	if err != nil {
		return nil, fail("list", h, folder, err)
	}
	var all []backup.Object
	for entry := range strings.SplitSeq(strings.TrimSuffix(out.String(), "\x00"), "\x00") {
		parts := strings.SplitN(entry, " ", 3)
		if len(parts) != 3 {
			continue
		}
		size, err1 := strconv.ParseInt(parts[0], 10, 64)
		at, err2 := strconv.ParseFloat(parts[1], 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fail("list", h, folder, fmt.Errorf("the host's answer cannot be read: %w", err))
		}
		if name := path.Join(folder, parts[2]); backup.CheckName(name) == nil {
			all = append(all, backup.Object{Name: name, Bytes: size, Modified: time.UnixMilli(int64(at * 1000)).UTC()})
		}
	}
	sortObjects(all)
	return all, nil
}

// A bounded writer takes so many bytes.
type bounded struct {
	w    io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errors.New("the answer is longer than makes sense")
	}
	return b.w.Write(p)
}

// Remove implements [backup.Target].
func (h *Host) Remove(ctx context.Context, names ...string) error {
	var script strings.Builder
	for _, name := range names {
		if err := backup.CheckName(name); err != nil {
			return err
		}
		fmt.Fprintf(&script, "rm -f -- %s || exit\n", transport.Quote(name))
		if folder := path.Dir(name); folder != "." {
			fmt.Fprintf(&script, "rmdir -p -- %s 2>/dev/null\n", transport.Quote(folder))
		}
	}
	if err := h.run(ctx, "exit 0", script.String()+"exit 0", false, nil, io.Discard); err != nil {
		return fail("remove files", h, "", err)
	}
	return nil
}
