package transporttest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/transport"
)

// testFenced tries what a lease does to writes: as long as it is there they work
// as they do without a fence, and when it is another's they change nothing.
func testFenced(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	fence := transport.Fence{Dir: dir, Line: "pgfleet lease 7 it's"}
	take := func(line string) {
		t.Helper()
		sh(t, c, "umask 022; cd "+dir+"; : >>lock; printf '%s\\nuntil 0\\n' "+transport.Quote(line)+" >lease.new; exec 9<lock; flock -x -w 10 9 || exit; mv lease.new lease")
	}
	f := c.Fenced(fence)
	refused := func(what string, err error) {
		t.Helper()
		var e *transport.Error
		if !errors.As(err, &e) || e.Kind != transport.KindFenced {
			t.Errorf("%s: %v", what, err)
		}
	}
	write := func(content string) error {
		return f.WriteFiles(deadline(t), []transport.File{{Path: dir + "/file", Content: []byte(content)}})
	}
	_, err := f.Run(deadline(t), transport.Command{Script: "touch " + dir + "/never"})
	refused("before there is a lease", err)

	take(fence.Line)
	users := []string{"", "root"}
	if h.Users {
		users = append(users, "postgres")
	}
	for _, user := range users {
		out, err := f.Run(deadline(t), transport.Command{User: user, Stdin: []byte("in"), Script: "cat; echo \"'$0 $# ${line-unset}\"; ours 2>/dev/null; (exit 3); exit $? # it's"})
		if err != nil || out.ExitCode != 3 || !strings.HasPrefix(string(out.Stdout), "in'") || !strings.HasSuffix(string(out.Stdout), " 0 unset\n") {
			t.Errorf("as %q: %q %q, %d, %v", user, out.Stdout, out.Stderr, out.ExitCode, err)
		}
	}
	if out, err := f.Run(deadline(t), transport.Command{Script: "sh -c 'kill -TERM $$'", User: "root"}); err != nil || out.ExitCode != 128+15 {
		t.Errorf("a signal: %d, %v", out.ExitCode, err)
	}
	if out, err := f.Run(deadline(t), transport.Command{Script: "exit 118", User: "root"}); err != nil || out.ExitCode != 118 {
		t.Errorf("a command's own 118: %d, %v", out.ExitCode, err)
	}
	for _, n := range []int{1, 3 << 20} {
		in := noise(n)
		out, err := f.Run(deadline(t), transport.Command{Script: "cat", Stdin: in, MaxOutput: 4 << 20, User: "root"})
		if err != nil || !bytes.Equal(out.Stdout, in) || len(out.Stderr) > 0 {
			t.Errorf("%d bytes: %d came back, %q, %v", n, len(out.Stdout), out.Stderr, err)
		}
		if out, err := f.Run(deadline(t), transport.Command{Script: "exit 3", Stdin: in, User: "root"}); err != nil || out.ExitCode != 3 || len(out.Stderr) > 0 {
			t.Errorf("input not read: %+v, %v", out, err)
		}
	}
	piped := func(script string) (transport.Output, string, error) {
		var got bytes.Buffer
		out, err := f.Pipe(deadline(t), transport.Command{Script: script}, strings.NewReader("in"), &got)
		return out, got.String(), err
	}
	if out, got, err := piped("cat; echo \"'$0 $# ${line-unset}\"; exit 3"); err != nil || out.ExitCode != 3 || !strings.HasPrefix(got, "in'") || !strings.HasSuffix(got, " 0 unset\n") {
		t.Errorf("Pipe: %+v, %q, %v", out, got, err)
	}
	if err := write("one"); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(deadline(t), dir+"/nothing"); err != nil {
		t.Fatal(err)
	}
	// Who takes the lease waits for a write that is in progress, also for one that
	// nobody listens to any more, and not for what it has left running.
	sh(t, c, ": >"+dir+"/began")
	ctx, cancel := context.WithTimeout(deadline(t), 300*time.Millisecond)
	defer cancel()
	if _, err := f.Run(ctx, transport.Command{User: "root", Script: "trap 'echo ending >" + dir + "/began; sleep 1; echo ended >" + dir + "/began; exit' TERM; sleep 20 >/dev/null 2>&1 & wait"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	for sh(t, c, "cat "+dir+"/began") == "" {
		time.Sleep(20 * time.Millisecond)
	}
	take("pgfleet lease 8 other")
	if got := sh(t, c, "cat "+dir+"/began"); got != "ended" {
		t.Errorf("the lease was taken while a write was in progress")
	}

	refused("WriteFiles", write("two"))
	_, _, err = piped("touch " + dir + "/never")
	refused("Pipe", err)
	refused("Remove", f.Remove(deadline(t), dir+"/file"))
	for _, user := range users {
		_, err := f.Run(deadline(t), transport.Command{User: user, Script: "touch " + dir + "/never"})
		refused("Run as "+user, err)
	}
	if out, err := f.Run(deadline(t), transport.Command{Script: "echo read", Unfenced: true}); err != nil || string(out.Stdout) != "read\n" {
		t.Errorf("Unfenced: %q, %v", out.Stdout, err)
	}
	if got := sh(t, c, "cd "+dir+"; ls -A; cat file"); got != "began\nfile\nlease\nlock\none" {
		t.Errorf("found %q", got)
	}
	// A write that has begun waits for who is taking the lease, and then looks.
	sh(t, c, "cd "+dir+"; flock -x lock sh -c 'touch taking; sleep 1; echo \"pgfleet lease 9 x\" >lease' >/dev/null 2>&1 & until [ -e "+dir+"/taking ]; do sleep 0.02; done")
	took := c.Fenced(transport.Fence{Dir: dir, Line: "pgfleet lease 8 other"})
	_, err = took.Run(deadline(t), transport.Command{User: "root", Script: "touch " + dir + "/never"})
	refused("while the lease is being taken", err)
	if err := c.Fenced(transport.Fence{Dir: dir, Line: "pgfleet lease 9 x"}).Remove(deadline(t), dir+"/file"); err != nil {
		t.Error(err)
	}
}
