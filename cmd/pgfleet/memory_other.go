//go:build !linux

package main

import "errors"

// A lockedFolder is a folder in memory that is locked as long as it is in use.
type lockedFolder struct{ path string }

func (lockedFolder) unlock() {}

// memoryFolder refuses: only Linux has a file system in memory everywhere.
func memoryFolder(func(string) (string, bool)) (lockedFolder, error) {
	return lockedFolder{}, errors.New("there is no file system in memory to edit it on, and a disk keeps what was once written to it; use pgfleet secrets get and set")
}
