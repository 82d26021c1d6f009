package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// needs are the commands and files that a lab uses, and their Debian packages.
var needs = []struct{ path, pkg string }{
	{"mmdebstrap", "mmdebstrap"},
	{"systemd-nspawn", "systemd-container"},
	{"ip", "iproute2"},
	{"ssh", "openssh-client"},
	{"nsenter", "util-linux"},
	{"dpkg-deb", "dpkg"},
	{archiveKeyring, "debian-archive-keyring"},
}

// Install installs, with apt-get, what a lab needs and this machine lacks.
func Install(ctx context.Context, log io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("a lab needs root")
	}
	var missing []string
	for _, n := range needs {
		var err error
		if filepath.IsAbs(n.path) {
			_, err = os.Stat(n.path)
		} else {
			_, err = exec.LookPath(n.path)
		}
		if err != nil {
			missing = append(missing, n.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	lock, err := lockFile(ctx, "/run/pgfleet-lab-install.lock", func(bool) error { return nil })
	if err != nil {
		return err
	}
	defer lock.Close()
	fmt.Fprintln(log, "installing", strings.Join(missing, " "))
	install := func() error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"install", "--yes", "--no-install-recommends"}, missing...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		_, err := output(cmd)
		return err
	}
	if install() == nil {
		return nil
	}
	// The package lists are missing or old.
	if _, err := output(exec.CommandContext(ctx, "apt-get", "update")); err != nil {
		return fmt.Errorf("what a lab needs is missing (%s): %w", strings.Join(missing, " "), err)
	}
	if err := install(); err != nil {
		return fmt.Errorf("what a lab needs is missing: %w", err)
	}
	return nil
}
