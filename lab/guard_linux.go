package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// startGuard starts the process that cleans up if this one, the supervisor, is
// killed: the pipe to its standard input ends then. It shares the bridge's
// lock, so that nobody starts a lab meanwhile. The returned function ends it.
func startGuard(bridge string, lock *os.File) (end func() error, err error) {
	cmd := exec.Command("/proc/self/exe", "guard", "--bridge", bridge)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{lock}
	// Its mount namespace lacks what the supervisor is going to mount in its own,
	// and so does not keep that from being removed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return func() error {
		pipe.Close()
		return cmd.Wait()
	}, nil
}

// Guard waits for the end of in and removes what is then left of a bridge's
// lab. It is the whole of `lab guard`, which the supervisor starts.
func Guard(in io.Reader, bridge string) error {
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return removeRemains(ctx, bridge)
}
