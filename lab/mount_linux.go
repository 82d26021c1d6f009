package lab

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Mount mounts a folder of this machine on a folder of the host, until the host is off: for what has to be on a disk, because a host's own files are
// in memory, where fsync does nothing. See open_tree(2) and move_mount(2).
func (h *Running) Mount(ctx context.Context, dir, at string) error {
	s, err := h.Status(ctx)
	if err != nil {
		return err
	}
	if s.Leader == 0 {
		return fmt.Errorf("lab: host %s is off", h.Name)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("lab: open_tree %s: %w", dir, err)
	}
	defer unix.Close(tree) //nolint:errcheck // nothing was written
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", s.Leader), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lab: the mount namespace of %s: %w", h.Name, err)
	}
	defer unix.Close(ns) //nolint:errcheck // nothing was written
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread, which is in the host's namespace, ends with this function
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(ns, unix.CLONE_NEWNS)
		}
		if err == nil {
			err = unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("lab: mount %s on %s of %s: %w", dir, at, h.Name, err)
	}
	return nil
}
