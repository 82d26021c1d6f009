package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/transport"
)

func testPipe(t *testing.T, h Host, c transport.Conn) {
	for _, user := range []string{"", "root"} {
		in := noise(3 << 20)
		var got bytes.Buffer
		out, err := c.Pipe(deadline(t), transport.Command{Script: "cat; echo said >&2; exit 3", User: user}, bytes.NewReader(in), &got)
		if err != nil || !bytes.Equal(got.Bytes(), in) || out.ExitCode != 3 || string(out.Stderr) != "said\n" || len(out.Stdout) > 0 {
			t.Errorf("as %q: %d bytes came back, %d %q, %v", user, got.Len(), out.ExitCode, out.Stderr, err)
		}
	}
	if out, err := c.Pipe(deadline(t), transport.Command{Script: "cat; kill -TERM $$"}, nil, io.Discard); err != nil || out.ExitCode != 128+15 {
		t.Errorf("no input, and a signal: %d, %v", out.ExitCode, err)
	}
	// What a command does not read is nobody's fault.
	if out, err := c.Pipe(deadline(t), transport.Command{Script: "exit 4"}, bytes.NewReader(noise(3<<20)), io.Discard); err != nil || out.ExitCode != 4 {
		t.Errorf("input not read: %d, %v", out.ExitCode, err)
	}
	if _, err := c.Pipe(deadline(t), transport.Command{Script: "cat", Stdin: []byte("x")}, nil, io.Discard); err == nil {
		t.Error("two inputs are taken")
	}

	// A conversation.
	questions, ask := io.Pipe()
	heard, answers := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := c.Pipe(deadline(t), transport.Command{Script: "while read -r x; do echo \"got $x\"; done; echo end"}, questions, answers)
		answers.Close()
		done <- err
	}()
	for _, word := range []string{"one", "two"} {
		_, _ = io.WriteString(ask, word+"\n")
		line := make([]byte, len("got "+word+"\n"))
		if _, err := io.ReadFull(heard, line); err != nil || string(line) != "got "+word+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	ask.Close()
	if rest, err := io.ReadAll(heard); err != nil || string(rest) != "end\n" {
		t.Errorf("%q, %v", rest, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A failingReader yields some bytes, waits, and fails.
type failingReader struct {
	left int
	wait func()
}

var errStream = errors.New("the stream failed")

func (f *failingReader) Read(b []byte) (int, error) {
	if f.left == 0 {
		f.wait()
		return 0, errStream
	}
	n := min(f.left, len(b))
	f.left -= n
	return n, nil
}

// A fullWriter takes some bytes and then no more.
type fullWriter struct{ left int }

func (f *fullWriter) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errStream
	}
	return len(b), nil
}

// testPipeEnds tries what ends a command early: it gets SIGTERM, and never sees an end of
// its input that is none.
func testPipeEnds(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	sh(t, c, "chmod 1777 "+dir)
	began := time.Now()
	until := func(mark, otherwise string) {
		for !file(t, c, mark).Exists {
			if time.Since(began) > time.Minute {
				t.Errorf("%s: %s", mark, otherwise)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	// Before its trap is set SIGTERM ends the command without a word.
	ready := func(name string) { until(dir+"/"+name+".ready", "the command did not begin") }
	for name, test := range map[string]struct {
		script string
		stdin  io.Reader
		stdout io.Writer
		want   error
	}{
		"input":   {"cat >/dev/null & wait; echo whole >" + dir + "/input.whole", &failingReader{100_000, func() { ready("input") }}, io.Discard, errStream},
		"output":  {"yes & wait", nil, &fullWriter{100_000}, errStream},
		"context": {"sleep 30 & wait", nil, io.Discard, context.Canceled},
	} {
		mark := dir + "/" + name
		ctx, cancel := context.WithCancel(deadline(t))
		if name == "context" {
			go func() {
				ready(name)
				cancel()
			}()
		}
		script := "exec 3<&0; trap 'echo bye >" + mark + "; exit' TERM; echo >" + mark + ".ready; " + strings.ReplaceAll(test.script, " &", " <&3 &")
		_, err := c.Pipe(ctx, transport.Command{Script: script}, test.stdin, test.stdout)
		cancel()
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		until(mark, "the command got no SIGTERM")
		if file(t, c, mark+".whole").Exists {
			t.Errorf("%s: the command saw an end", name)
		}
	}
}
