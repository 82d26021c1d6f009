package lab

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Status returns every host's state, in the order of Options.Hosts.
func (l *Lab) Status(ctx context.Context) ([]Status, error) {
	var all []Status
	return all, control{l.dir}.call(ctx, "GET", "/status", &all)
}

// Status returns the host's state.
func (h *Running) Status(ctx context.Context) (Status, error) {
	all, err := h.lab.Status(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("lab: %w", err)
	}
	for _, s := range all {
		if s.Name == h.Name {
			return s, nil
		}
	}
	return Status{}, fmt.Errorf("lab: no host %s", h.Name)
}

// Exec runs a bash script as root in the host and returns its standard output;
// the error holds its standard error. It enters the host's namespaces directly:
// what it sees does not depend on sshd, sudo or pgfleet. Its standard input is
// empty. The script is in no argument list.
func (h *Running) Exec(ctx context.Context, script string) (string, error) {
	s, err := h.Status(ctx)
	if err != nil {
		return "", err
	}
	if s.Leader == 0 {
		return "", fmt.Errorf("lab: host %s is off", h.Name)
	}
	out, err := run(ctx, h.lab.Bridge, h.Name, s.Leader, nil, script)
	if err != nil {
		return out, fmt.Errorf("lab: %w", err)
	}
	return out, nil
}

// Shell is a command in the host as root, to be started by the caller, with
// standard streams as the caller sets them; by default a login shell.
func (h *Running) Shell(ctx context.Context, args ...string) (*exec.Cmd, error) {
	s, err := h.Status(ctx)
	if err != nil {
		return nil, err
	}
	if s.Leader == 0 {
		return nil, fmt.Errorf("lab: host %s is off", h.Name)
	}
	if len(args) == 0 {
		args = []string{"/bin/bash", "--login"}
	}
	cmd, done, err := enter(ctx, h.lab.Bridge, h.Name, s.Leader, args...)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	context.AfterFunc(ctx, done)
	return cmd, nil
}

// Root is the path of the host's root directory on this machine, whether the
// host is on or off. It lacks what the host itself mounts: /proc, /run, /tmp.
func (h *Running) Root() string {
	return filepath.Join("/proc", strconv.Itoa(h.lab.pid), "root", h.lab.dir, "hosts", h.Name, "root")
}

// Reboot reboots the host from inside and returns once it is up again.
func (h *Running) Reboot(ctx context.Context) error { return h.do(ctx, "reboot") }

// Stop shuts the host down in order.
func (h *Running) Stop(ctx context.Context) error { return h.do(ctx, "stop") }

// Kill ends every process of the host at once, as a power failure does, except
// that what was written is kept.
func (h *Running) Kill(ctx context.Context) error { return h.do(ctx, "kill") }

// Start boots the host if it is off, and returns once it is up.
func (h *Running) Start(ctx context.Context) error { return h.do(ctx, "start") }

// Wait returns once the host is up and has been booted at least so many times:
// one more than its Status said before something else rebooted it.
func (h *Running) Wait(ctx context.Context, boots int) error {
	return h.do(ctx, "wait?boots="+strconv.Itoa(boots))
}

func (h *Running) do(ctx context.Context, action string) error {
	if err := (control{h.lab.dir}).call(ctx, "POST", "/hosts/"+h.Name+"/"+action, nil); err != nil {
		verb, _, _ := strings.Cut(action, "?")
		return fmt.Errorf("lab: %s host %s: %w", verb, h.Name, err)
	}
	return nil
}
