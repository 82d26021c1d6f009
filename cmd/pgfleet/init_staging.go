package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/templates/files"
)

// A staging is a folder in which files wait until all of them are made, so that
// init leaves everything or nothing.
type staging struct {
	dir     string // where the files go
	tmp     string
	names   []string
	removes bool // dir was made and is to go with a failure
}

// newStaging refuses to begin when one of the files exists.
func newStaging(dir string, names ...string) (*staging, error) {
	var exist []string
	for _, n := range names {
		if _, err := os.Lstat(filepath.Join(dir, n)); err == nil {
			exist = append(exist, filepath.Join(dir, n))
		}
	}
	if len(exist) > 0 {
		return nil, &inputError{fmt.Errorf("%s: there already, and init overwrites nothing; choose another folder", strings.Join(exist, ", "))}
	}
	s := &staging{dir: dir}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		s.removes = true
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		s.tmp, err = os.MkdirTemp(dir, ".pgfleet-init-")
	}
	if err != nil {
		return nil, &inputError{err}
	}
	return s, nil
}

// discard removes what was not placed.
func (s *staging) discard() {
	_ = os.RemoveAll(s.tmp)
	if s.removes {
		_ = os.Remove(s.dir) // fails when it holds something, and should
	}
}

func (s *staging) write(name, content string) error {
	file := filepath.Join(s.tmp, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	s.names = append(s.names, name)
	return os.WriteFile(file, []byte(content), 0o644)
}

// ignore writes .gitignore where there is none.
func (s *staging) ignore() error {
	if _, err := os.Lstat(filepath.Join(s.dir, ignoreFile)); err == nil {
		return nil
	}
	return s.write(ignoreFile, files.Ignore)
}

// check finds mistakes as the command check does, so that what init writes
// never has any.
func (s *staging) check() error {
	_, _, err := s.expand()
	return err
}

func (s *staging) expand() (*inventory.Fleet, map[inventory.InstanceID][]*tasks.Bound, error) {
	fleet, err := inventory.Load(filepath.Join(s.tmp, fleetFile), inventory.Options{Kinds: tasks.Kinds()})
	if err != nil {
		return nil, nil, err
	}
	local := func(name string) ([]byte, error) { return os.ReadFile(fleet.File(name)) }
	options := tasks.Options{Local: local}
	bound, errs := tasks.Expand(fleet, fleet.Instances(), options)
	_, more := tasks.NewRotations(fleet, fleet.Instances(), nil, tasks.Asked{}, options)
	return fleet, bound, append(errs, more...).Sorted().Err()
}

// place moves the files to where they go, fleet.toml last: a folder that has one
// is complete.
func (s *staging) place() ([]string, error) {
	var names []string
	for _, n := range s.names {
		if n != fleetFile {
			names = append(names, n)
		}
	}
	names = append(names, fleetFile)
	for _, n := range names {
		target := filepath.Join(s.dir, n)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return nil, err
		}
		if _, err := os.Lstat(target); err == nil {
			return nil, &inputError{fmt.Errorf("%s was made in the meantime, and init overwrites nothing", target)}
		}
		if err := os.Rename(filepath.Join(s.tmp, n), target); err != nil {
			return nil, err
		}
	}
	s.removes = false
	return names, nil
}
