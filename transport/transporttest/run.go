package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/transport"
)

func testRun(t *testing.T, h Host, c transport.Conn) {
	for _, test := range []struct {
		script string
		want   transport.Output
	}{
		{"true", transport.Output{}},
		{"exit 7", transport.Output{ExitCode: 7}},
		{"echo out; echo err >&2; false", transport.Output{Stdout: []byte("out\n"), Stderr: []byte("err\n"), ExitCode: 1}},
		{"kill -TERM $$", transport.Output{ExitCode: 128 + 15}},
		{`printf '%s|' "a  b" 'c'\''d' "\$e" é; : # %b \n`, transport.Output{Stdout: []byte("a  b|c'd|$e|é|")}},
		{"cat", transport.Output{}},
		{"printf 'a\\0b'", transport.Output{Stdout: []byte("a\x00b")}},
		{"echo no newline \\\n at the end", transport.Output{Stdout: []byte("no newline at the end\n")}},
		{`echo "${LC_PGFLEET-unset} ${LC_ALL-unset}"`, transport.Output{Stdout: []byte("unset unset\n")}},
	} {
		for _, user := range []string{"", "root"} {
			got, err := c.Run(deadline(t), transport.Command{Script: test.script, User: user})
			if err != nil {
				t.Errorf("%s: %v", test.script, err)
				continue
			}
			if d := cmp.Diff(test.want, got, cmp.Transformer("string", func(b []byte) string { return string(b) })); d != "" {
				t.Errorf("%s as %q (-want +got):\n%s", test.script, user, d)
			}
		}
	}
	dir := folder(t, h, c)
	odd := dir + "/a 'b'"
	sh(t, c, "mkdir "+transport.Quote(odd))
	if out, err := c.Run(deadline(t), transport.Command{Script: "pwd", Dir: odd, User: "root"}); err != nil || string(out.Stdout) != odd+"\n" {
		t.Errorf("Dir: %q, %v", out.Stdout, err)
	}
	if out, err := c.Run(deadline(t), transport.Command{Script: "echo ran", Dir: dir + "/gone", User: "root"}); err != nil || out.ExitCode == 0 || len(out.Stdout) > 0 {
		t.Errorf("a Dir that is missing: %+v, %v", out, err)
	}
	// Longer than what fits in a command line.
	long := "echo begin; : " + strings.Repeat("x", 300_000) + "; echo end"
	if out, err := c.Run(deadline(t), transport.Command{Script: long, User: "root", Stdin: []byte("ignored")}); err != nil || string(out.Stdout) != "begin\nend\n" {
		t.Errorf("a long script: %q, %v", out.Stdout, err)
	}
}

func testRunInput(t *testing.T, h Host, c transport.Conn) {
	for _, n := range []int{0, 1, 100, 3 << 20} {
		in := noise(n)
		out, err := c.Run(deadline(t), transport.Command{Script: "cat", Stdin: in, MaxOutput: 4 << 20, User: "root"})
		if err != nil || !bytes.Equal(out.Stdout, in) || out.Truncated {
			t.Errorf("%d bytes: %d came back, %v", n, len(out.Stdout), err)
		}
	}
	// What a command does not read is nobody's fault.
	if out, err := c.Run(deadline(t), transport.Command{Script: "exit 3", Stdin: noise(3 << 20), User: "root"}); err != nil || out.ExitCode != 3 {
		t.Errorf("input not read: %+v, %v", out.ExitCode, err)
	}
}

func testRunOutput(t *testing.T, h Host, c transport.Conn) {
	out, err := c.Run(deadline(t), transport.Command{Script: "head -c 3000000 /dev/zero; head -c 2000 /dev/zero >&2", MaxOutput: 1000})
	if err != nil || len(out.Stdout) != 1000 || len(out.Stderr) != 1000 || !out.Truncated {
		t.Errorf("%d and %d bytes, truncated: %t, %v", len(out.Stdout), len(out.Stderr), out.Truncated, err)
	}
	out, err = c.Run(deadline(t), transport.Command{Script: "head -c 3000000 /dev/zero"})
	if err != nil || len(out.Stdout) != 1<<20 || !out.Truncated {
		t.Errorf("default: %d bytes, truncated: %t, %v", len(out.Stdout), out.Truncated, err)
	}
}

func testRunUsers(t *testing.T, h Host, c transport.Conn) {
	if out, err := c.Run(deadline(t), transport.Command{Script: "true", User: "a b"}); err == nil {
		t.Errorf("a user that is no name: %+v", out)
	}
	for user, home := range map[string]string{"root": "/root", "postgres": "/var/lib/postgresql"} {
		out, err := c.Run(deadline(t), transport.Command{Script: "id -un; echo $HOME", User: user})
		if err != nil || string(out.Stdout) != user+"\n"+home+"\n" {
			t.Errorf("%s: %q %s, %v", user, out.Stdout, out.Stderr, err)
		}
	}
	if _, err := c.Run(deadline(t), transport.Command{Script: "true", User: "nosuchuser"}); err == nil || !strings.Contains(err.Error(), "nosuchuser") {
		t.Errorf("a user that does not exist: %v", err)
	}
}

// A context that ends makes Run return at once, and the command gets SIGTERM.
func testRunEnds(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	for _, user := range []string{"", "root"} {
		// The login user cannot write in root's folder.
		mark := dir + "/ended-" + user
		sh(t, c, "chmod 1777 "+dir)
		ctx, cancel := context.WithCancel(deadline(t))
		go func() {
			for !file(t, c, mark+".began").Exists {
				time.Sleep(20 * time.Millisecond)
			}
			cancel()
		}()
		_, err := c.Run(ctx, transport.Command{User: user, Script: "trap 'echo bye >" + mark + "; exit' TERM; echo >" + mark + ".began; sleep 30 & wait"})
		ended := time.Now()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("as %q: %v", user, err)
		}
		for !file(t, c, mark).Exists {
			if time.Since(ended) > 10*time.Second {
				t.Fatalf("as %q: the command got no SIGTERM", user)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func testRunMany(t *testing.T, h Host, c transport.Conn) {
	var wg sync.WaitGroup
	for i := range 25 {
		wg.Go(func() {
			out, err := c.Run(deadline(t), transport.Command{Script: fmt.Sprintf("echo %d", i), User: "root"})
			if err != nil || string(out.Stdout) != fmt.Sprintf("%d\n", i) {
				t.Errorf("%d: %q, %v", i, out.Stdout, err)
			}
		})
	}
	wg.Wait()
}

func testContext(t *testing.T, h Host, c transport.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	began := time.Now()
	if _, err := c.Run(ctx, transport.Command{Script: "true"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if _, err := c.Read(ctx, []facts.Read{facts.OS{}}); !errors.Is(err, context.Canceled) {
		t.Errorf("Read: %v", err)
	}
	if err := c.WriteFiles(ctx, []transport.File{{Path: h.Dir + "/never"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteFiles: %v", err)
	}
	if _, err := c.Postgres(ctx, transport.Endpoint{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Postgres: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	began = time.Now()
	_, err := c.Read(ctx, []facts.Read{facts.Probe{Script: "sleep 20"}})
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
		t.Errorf("Read of something slow: %v after %s", err, took)
	}
	if s := sh(t, c, "echo fine"); s != "fine" {
		t.Errorf("afterwards: %q", s)
	}
}

func testClosed(t *testing.T, h Host, c transport.Conn) {
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Run(deadline(t), transport.Command{Script: "true"}); err == nil {
		t.Error("Run works after Close")
	}
	if _, err := c.Read(deadline(t), []facts.Read{facts.OS{}}); err == nil {
		t.Error("Read works after Close")
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
