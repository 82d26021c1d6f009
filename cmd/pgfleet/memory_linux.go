package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// File systems in memory, from linux/magic.h.
const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
)

// memoryName begins the names of the folders.
const memoryName = "pgfleet-edit-"

// A lockedFolder is a folder in memory that is locked as long as it is in use.
type lockedFolder struct {
	path string
	lock *os.File
}

func (f lockedFolder) unlock() { f.lock.Close() }

// memoryFolder makes a folder that only this user can read, on a file system in
// memory. Folders of processes that were killed are removed.
func memoryFolder(lookupEnv func(string) (string, bool)) (lockedFolder, error) {
	var tried []string
	runtime, _ := lookupEnv("XDG_RUNTIME_DIR")
	for _, parent := range []string{runtime, "/dev/shm"} {
		if parent == "" {
			continue
		}
		err := checkMemory(parent)
		if err == nil {
			removeAbandoned(parent)
			var f lockedFolder
			if f, err = makeLocked(parent); err == nil {
				return f, nil
			}
		}
		tried = append(tried, err.Error())
	}
	return lockedFolder{}, errors.New("there is no file system in memory to edit it on, and a disk keeps what was once written to it (" +
		strings.Join(tried, "; ") + "); use pgfleet secrets get and set")
}

// checkMemory wants a folder on a file system in memory.
func checkMemory(dir string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if kind := uint32(fs.Type); kind != tmpfsMagic && kind != ramfsMagic {
		return fmt.Errorf("%s is not in memory", dir)
	}
	return nil
}

func makeLocked(parent string) (lockedFolder, error) {
	path, err := os.MkdirTemp(parent, memoryName)
	if err != nil {
		return lockedFolder{}, err
	}
	lock, err := lockFolder(path)
	if err != nil {
		os.RemoveAll(path)
		return lockedFolder{}, err
	}
	return lockedFolder{path, lock}, nil
}

// lockFolder fails if another process has the lock.
func lockFolder(path string) (*os.File, error) {
	// A symbolic link that another user has put there is not followed.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// removeAbandoned removes what processes have left that were killed. It does what it
// can: another user's folder cannot be opened.
func removeAbandoned(parent string) {
	left, _ := filepath.Glob(filepath.Join(parent, memoryName+"*"))
	for _, path := range left {
		if lock, err := lockFolder(path); err == nil {
			os.RemoveAll(path)
			lock.Close()
		}
	}
}
