package transport

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path"
	"strings"
)

// A Fence is a lease that a run holds on a host: the first line of a file there,
// which stays as it is for as long as the lease is the run's.
type Fence struct {
	Dir  string // root's folder on the host with the files lease and lock, which everybody may read
	Line string // the first line of lease
}

// fenceStatus is the exit status of a script that the fence kept from running.
// What it prints then begins with fenceLost or fenceBusy.
const (
	fenceStatus = 118
	fenceLost   = "pgfleet-fence: lost"
	fenceBusy   = "pgfleet-fence: busy"
)

// fenceWait is how many seconds a write waits for somebody who is taking the
// lease, which takes a moment.
const fenceWait = 30

// functions defines the sh functions ours, which ends a script that has lost its
// lease, and fence, which does so too, and keeps everybody from taking the lease
// until the script ends: who takes it holds an exclusive lock (flock(1)) on the
// file on which fence takes a shared one, as file descriptor 9.
func (f Fence) functions() string {
	return fmt.Sprintf(`
ours() {
	line=
	[ ! -r %[1]s ] || IFS= read -r line <%[1]s
	[ "$line" = %[2]s ] || { echo '%[3]s' >&2; exit %[5]d; }
}
fence() {
	[ -r %[6]s ] || { echo '%[3]s' >&2; exit %[5]d; }
	exec 9<%[6]s
	flock -s -w %[7]d 9 || { echo '%[4]s' >&2; exit %[5]d; }
	ours
}
`, Quote(path.Join(f.Dir, "lease")), Quote(f.Line), fenceLost, fenceBusy, fenceStatus, Quote(path.Join(f.Dir, "lock")), fenceWait)
}

// command wraps a script so that it runs only behind the fence. Its input, of
// stdin bytes, is read to its end before the lock is taken, because a connection
// that is stuck must not hold the lock; what has not arrived whole runs nothing.
// The shell that holds the lock waits for the script also when both are told to
// end. What the script leaves running has no part of the lock.
func (f Fence) command(script string, stdin int) string {
	before, input := "", ""
	if stdin > 0 {
		before = fmt.Sprintf("in=$(base64 -w 0); [ ${#in} -eq %d ] || exit 125\n", base64.StdEncoding.EncodedLen(stdin))
		input = `{ printf %s "$in" | base64 -d; } 9<&- 2>/dev/null | `
	}
	return f.functions() + before + "fence\nunset line\nunset -f ours fence\ntrap : HUP INT TERM\n" + input + "(unset in; eval " + Quote(script) + ") 9<&-\nexit $?\n"
}

// before puts a look at the lease in front of a script, which then gets the standard input. It
// waits for whoever is just taking the lease, but a stream may last for hours: the lock is not kept.
func (f Fence) before(script string) string {
	return f.functions() + "fence\nexec 9<&-\nunset line\nunset -f ours fence\n" + script
}

// refused returns the error of a script that the fence has kept from running,
// and nil if it has not.
func (f Fence) refused(op string, out Output) error {
	if out.ExitCode != fenceStatus {
		return nil
	}
	switch said := string(out.Stderr); {
	case strings.Contains(said, fenceLost):
		return &Error{Kind: KindFenced, Op: op, Err: errors.New("this run's lease on the host is not its own any more")}
	case strings.Contains(said, fenceBusy):
		return &Error{Kind: KindRefused, Op: op, Err: fmt.Errorf("somebody has locked %s for longer than %d s", path.Join(f.Dir, "lock"), fenceWait)}
	}
	return nil
}

// A fenced is a host on which nothing is changed without the lease.
type fenced struct {
	*host
	fence Fence
}

// Fenced implements [Conn].
func (h *host) Fenced(f Fence) Conn { return &fenced{h, f} }

// WriteFiles implements [Conn].
func (f *fenced) WriteFiles(ctx context.Context, files []File) error {
	return f.writeFiles(ctx, files, &f.fence)
}

// Remove implements [Conn].
func (f *fenced) Remove(ctx context.Context, paths ...string) error {
	return f.remove(ctx, paths, &f.fence)
}

// Run implements [Conn].
func (f *fenced) Run(ctx context.Context, c Command) (Output, error) {
	if c.Unfenced {
		return f.host.Run(ctx, c)
	}
	c.Script = f.fence.command(c.Script, len(c.Stdin))
	out, err := f.host.Run(ctx, c)
	if err != nil {
		return out, err
	}
	if err := f.fence.refused("run a command", out); err != nil {
		return Output{}, err
	}
	return out, nil
}
