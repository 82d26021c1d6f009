package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// cgroupRoot is where the unified hierarchy (cgroups(7), version 2) is mounted.
func cgroupRoot() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 {
			return f[4], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted; mount one on /sys/fs/cgroup")
}

// makeCgroup makes a control group of the lab: of one host, if it is named.
func makeCgroup(bridge, host string) (string, error) {
	root, err := cgroupRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "pgfleet-lab", bridge, host)
	return dir, os.MkdirAll(dir, 0o755)
}

// removeCgroup kills every process in a control group and below, waits until
// they are gone, and removes it. One that is not there is fine.
func removeCgroup(dir string) error {
	kill := filepath.Join(dir, "cgroup.kill")
	if err := os.WriteFile(kill, []byte("1"), 0); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return fmt.Errorf("%s is missing: the lab needs Linux 5.14", kill)
		}
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := removeTree(dir)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes of the lab do not end: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// removeTree removes a control group and those in it. Their files go with them.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
