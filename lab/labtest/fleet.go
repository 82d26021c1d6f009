//go:build lab

package labtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// A Fleet is the program and the hosts that the tests of a package run it on. It
// may be used by several tests at once.
type Fleet struct {
	Program string // its path
	Lab     *lab.Lab
}

// bootTimeout is how long building the program, the bases and booting the hosts
// may take together.
const bootTimeout = 20 * time.Minute

// Main builds the program, boots the hosts, runs the tests and ends the process:
// a package's TestMain.
func (f *Fleet) Main(m *testing.M, hosts []lab.Host) {
	code, err := f.main(m, hosts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the lab cannot start:", err)
		code = 1
	}
	os.Exit(code)
}

func (f *Fleet) main(m *testing.M, hosts []lab.Host) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	dir, err := os.MkdirTemp("", "pgfleet-labtest")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	f.Program = filepath.Join(dir, "pgfleet")
	build := exec.CommandContext(ctx, "go", "build", "-o", f.Program, "github.com/pgfleet/pgfleet/cmd/pgfleet")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	if f.Lab, err = lab.Up(ctx, lab.Options{Hosts: hosts, Log: os.Stderr}); err != nil {
		return 1, err
	}
	defer f.Lab.Down() //nolint:errcheck // what is left is removed by the next lab
	return m.Run(), nil
}

// Look runs a script inside a host as root, past ssh and pgfleet, and returns what
// it prints. The script must succeed.
func (f *Fleet) Look(t *testing.T, host, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := f.Lab.Host(host).Exec(ctx, script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", host, err, out)
	}
	return out
}

// SQL asks a host's server as postgres, and returns the rows without what
// surrounds them.
func (f *Fleet) SQL(t *testing.T, host, query string) string {
	t.Helper()
	return strings.TrimSpace(f.Look(t, host, "cd /; runuser -u postgres -- psql -XAtqc "+Quote(query)))
}

// Quote quotes a word for a shell.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
