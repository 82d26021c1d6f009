package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hostEnv is the environment of commands in a host.
var hostEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LANG=C.UTF-8",
}

// enter is a command that runs in a host's namespaces as root, neither through
// ssh nor through systemd. It is in the host's control group, and so ends with
// the host at the latest. Close the returned function's files after Start.
func enter(ctx context.Context, bridge, host string, leader int, args ...string) (*exec.Cmd, func(), error) {
	dir, err := makeCgroup(bridge, host)
	if err != nil {
		return nil, nil, err
	}
	group, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}, args...)...)
	cmd.Env = hostEnv
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	return cmd, func() { group.Close() }, nil
}

// run runs a bash script in a host. The script is passed by a pipe: it may hold
// secrets, which must not be in an argument list.
func run(ctx context.Context, bridge, host string, leader int, env []string, script string) (string, error) {
	cmd, done, err := enter(ctx, bridge, host, leader, "/bin/bash", "/dev/fd/3")
	if err != nil {
		return "", err
	}
	defer done()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	var stdout, stderr bytes.Buffer
	cmd.Env = append(append([]string(nil), hostEnv...), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.ExtraFiles = []*os.File{r}
	// nsenter forks to enter the pid namespace; its group is ended with it.
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		w.Close()
		return "", err
	}
	r.Close()
	_, copyErr := io.WriteString(w, script)
	w.Close()
	err = cmd.Wait()
	if err == nil {
		// A script may exit before its end was read.
		_ = copyErr
		return stdout.String(), nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return stdout.String(), fmt.Errorf("in host %s: %w: %s", host, err, strings.TrimSpace(stderr.String()))
}

// leaderOf finds a container's PID 1: the child of its nspawn that is 1 in a
// pid namespace of its own. It returns 0 if there is none yet.
func leaderOf(nspawn int) int {
	children, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(nspawn), "task", strconv.Itoa(nspawn), "children"))
	if err != nil {
		return 0
	}
	for _, child := range strings.Fields(string(children)) {
		status, err := os.ReadFile(filepath.Join("/proc", child, "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			f := strings.Fields(line)
			if len(f) > 2 && f[0] == "NSpid:" && f[len(f)-1] == "1" {
				pid, _ := strconv.Atoi(child)
				return pid
			}
		}
	}
	return 0
}
