//go:build lab

package labtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runTimeout is more than any one run takes.
const runTimeout = 6 * time.Minute

// A Bench is a folder with a fleet.toml, and the user who runs pgfleet in it.
type Bench struct {
	T       *testing.T
	Program string
	Dir     string
	Home    string
	Env     []string // more variables, NAME=value
}

// NewBench returns a Bench with an empty folder, for the length of a test.
func (f *Fleet) NewBench(t *testing.T) *Bench {
	t.Helper()
	return &Bench{T: t, Program: f.Program, Dir: t.TempDir(), Home: t.TempDir()}
}

// Write writes a file of the folder.
func (b *Bench) Write(name, content string) {
	b.T.Helper()
	path := filepath.Join(b.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		b.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.T.Fatal(err)
	}
}

// A Said is what a run of pgfleet printed and how it ended.
type Said struct {
	Stdout, Stderr string
	Code           int
	Took           time.Duration
}

// All returns both streams.
func (s Said) All() string { return s.Stdout + s.Stderr }

// Command returns a run of pgfleet that has not begun, in a process group of its
// own.
func (b *Bench) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.Program, args...)
	cmd.Dir = b.Dir
	cmd.Env = append([]string{"HOME=" + b.Home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}, b.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Run runs pgfleet; any exit code is fine.
func (b *Bench) Run(args ...string) Said {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := b.Command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.T.Fatal(err)
	}
	return Said{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(start)}
}

// Want runs pgfleet and demands an exit code.
func (b *Bench) Want(code int, args ...string) Said {
	b.T.Helper()
	s := b.Run(args...)
	if s.Code != code {
		b.T.Fatalf("pgfleet %s exited with %d, want %d\n%s\n%s", strings.Join(args, " "), s.Code, code, s.Stdout, s.Stderr)
	}
	return s
}
