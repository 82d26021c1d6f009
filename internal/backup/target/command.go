package target

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup"
)

// A Command is a program on this machine that keeps objects. It is started for each
// operation with these arguments behind its own:
//
//	put NAME       stores standard input; ends with 0 once it is there whole and durably
//	get NAME       writes the object to standard output; ends with 3 if there is none
//	list FOLDER    writes a line of JSON for each object whose name begins with FOLDER:
//	               {"name": "a/b", "bytes": 3, "modified": "2026-11-26T02:30:00Z"}
//	remove NAME... deletes objects in this order; one that is gone is no failure
//
// Any other status is a failure, of which standard error says why. A program whose operation
// is given up gets SIGTERM before its standard input ends, and must then leave nothing under the name.
type Command struct {
	argv []string
	dir  string
}

// NewCommand returns the target: a program and its own arguments, started in a folder.
func NewCommand(argv []string, dir string) *Command { return &Command{argv, dir} }

// String returns the program's name; its arguments may hold anything.
func (c *Command) String() string { return path.Base(c.argv[0]) }

const (
	// statusMissing is the exit status of get for an object that does not exist.
	statusMissing = 3
	// ending is how long a program has after SIGTERM.
	ending = 10 * time.Second
	// maxSaid bounds what is kept of a program's standard error, in bytes.
	maxSaid = 4 << 10
)

// run starts the program and waits for it. It returns the streams' own errors as they are.
func (c *Command) run(ctx context.Context, stdin *measured, stdout *sink, args ...string) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	cmd := exec.CommandContext(ctx, c.argv[0], append(c.argv[1:len(c.argv):len(c.argv)], args...)...) //nolint:gosec // the user's own program
	cmd.Dir = c.dir
	// What it starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = ending
	said := &said{}
	cmd.Stderr = said
	if stdout != nil {
		cmd.Stdout = failing{stdout, giveUp}
	}
	var in io.WriteCloser
	if stdin != nil {
		var err error
		if in, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if stdin != nil {
		go func() {
			_, _ = io.CopyBuffer(in, struct{ io.Reader }{stdin}, make([]byte, 64<<10)) // what it did not take, its status tells
			if err := stdin.err(); err != nil {
				giveUp(err)
				return // it must not look like the end
			}
			_ = in.Close()
		}()
	}
	err := cmd.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case !ok:
		return err
	case exit.ExitCode() == statusMissing && args[0] == "get":
		return fs.ErrNotExist
	case said.String() != "":
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// said keeps the beginning of what a program says.
type said struct{ text strings.Builder }

func (s *said) Write(b []byte) (int, error) {
	s.text.Write(b[:min(len(b), maxSaid-s.text.Len())])
	return len(b), nil
}

func (s *said) String() string {
	return strings.ReplaceAll(strings.TrimSpace(s.text.String()), "\n", "; ")
}

// A failing writer gives up the program when what it writes to fails.
type failing struct {
	w      io.Writer
	giveUp context.CancelCauseFunc
}

func (f failing) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err != nil {
		f.giveUp(err)
	}
	return n, err
}

// Put implements [backup.Target].
func (c *Command) Put(ctx context.Context, name string, r io.Reader) (int64, string, error) {
	if err := backup.CheckStored(name); err != nil {
		return 0, "", err
	}
	m := measure(ctx, r)
	return m.result(c, name, c.run(ctx, m, nil, "put", name))
}

// Get implements [backup.Target].
func (c *Command) Get(ctx context.Context, name string, w io.Writer) error {
	if err := backup.CheckStored(name); err != nil {
		return err
	}
	to := &sink{w: w}
	return to.result(c, name, c.run(ctx, nil, to, "get", name))
}

// List implements [backup.Target].
func (c *Command) List(ctx context.Context, folder string) ([]backup.Object, error) {
	if err := checkFolder(folder); err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	listed := make(chan error, 1)
	go func() {
		err := c.run(ctx, nil, &sink{w: w}, "list", folder)
		w.CloseWithError(err) // nil is the end
		listed <- err
	}()
	all, err := readObjects(r, folder)
	r.CloseWithError(err)
	if ran := <-listed; ran != nil {
		err = ran
	}
	if err != nil {
		return nil, fail("list", c, folder, err)
	}
	sortObjects(all)
	return all, nil
}

// readObjects reads lines of JSON, and leaves out what is in other folders.
func readObjects(r io.Reader, folder string) ([]backup.Object, error) {
	var all []backup.Object
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var o backup.Object
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return nil, fmt.Errorf("line %d of its answer is not an object in JSON: %w", n, err)
		}
		if err := backup.CheckName(o.Name); err != nil {
			return nil, fmt.Errorf("line %d of its answer: %w", n, err)
		}
		if folder == "" || strings.HasPrefix(o.Name, folder+"/") {
			o.Modified = o.Modified.UTC()
			all = append(all, o)
		}
	}
	return all, lines.Err()
}

// Remove implements [backup.Target].
func (c *Command) Remove(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := backup.CheckName(name); err != nil {
			return err
		}
	}
	// A command line's length is limited (execve(2)).
	const most = 100
	for len(names) > 0 {
		n := min(most, len(names))
		if err := c.run(ctx, nil, nil, append([]string{"remove"}, names[:n]...)...); err != nil {
			return fail("remove files", c, "", err)
		}
		names = names[n:]
	}
	return nil
}
