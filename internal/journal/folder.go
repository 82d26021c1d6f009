package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/gofrs/flock"
)

// A Folder is the path of where the journals are.
type Folder string

const suffix = ".jsonl"

// Keep is how many runs [Folder.Prune] is usually told to leave.
const Keep = 200

// In returns the operator's folder: pgfleet/runs in $XDG_STATE_HOME, or in
// ~/.local/state (XDG Base Directory Specification, which has relative paths
// ignored).
func In(lookupEnv func(string) (string, bool)) (Folder, error) {
	if dir, _ := lookupEnv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return Folder(filepath.Join(dir, "pgfleet", "runs")), nil
	}
	home, _ := lookupEnv("HOME")
	if !filepath.IsAbs(home) {
		return "", errors.New("where to keep the journal of runs: neither XDG_STATE_HOME nor HOME is set")
	}
	return Folder(filepath.Join(home, ".local", "state", "pgfleet", "runs")), nil
}

var runID = regexp.MustCompile(`^\d{8}T\d{6}-[0-9a-z]{4}$`)

// Runs returns the IDs of all runs, the newest first.
func (f Folder) Runs() ([]string, error) {
	entries, err := os.ReadDir(string(f))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var runs []string
	for _, e := range entries {
		if run, ok := strings.CutSuffix(e.Name(), suffix); ok && runID.MatchString(run) {
			runs = append(runs, run)
		}
	}
	slices.Sort(runs)
	slices.Reverse(runs)
	return runs, nil
}

// Find returns the ID of the one run whose ID begins so.
func (f Folder) Find(prefix string) (string, error) {
	runs, err := f.Runs()
	if err != nil {
		return "", err
	}
	var found []string
	for _, run := range runs {
		if strings.HasPrefix(run, prefix) {
			found = append(found, run)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return "", fmt.Errorf("there is no run %q in %s; pgfleet runs list shows those that there are", prefix, f)
	case len(found) > 5:
		return "", fmt.Errorf("%d runs begin with %q; give more of the ID", len(found), prefix)
	}
	return "", fmt.Errorf("several runs begin with %q: %s", prefix, strings.Join(found, ", "))
}

func (f Folder) path(run string) string { return filepath.Join(string(f), run+suffix) }

// Read reads the journal of a run and verifies it. With a [ChainError] it
// returns what stands before that line as well.
func (f Folder) Read(run string) (*Journal, error) {
	text, err := os.ReadFile(f.path(run))
	if err != nil {
		return nil, err
	}
	return parse(run, f.path(run), string(text))
}

// Alive reports whether a process carries the run out at this moment, on this
// machine or on another that has the same file.
func (f Folder) Alive(run string) (bool, error) {
	lock := flock.New(f.path(run), flock.SetFlag(os.O_RDONLY)) // not to be made
	free, err := lock.TryRLock()
	if err != nil {
		return false, err
	}
	return !free, lock.Close()
}

// Prune deletes the oldest journals but for so many. One that is not whole, of a
// run that has not come to its end, stays: it is what somebody will look for.
func (f Folder) Prune(keep int) error {
	runs, err := f.Runs()
	if err != nil || len(runs) <= keep {
		return err
	}
	var errs []error
	for _, run := range runs[keep:] {
		if alive, err := f.Alive(run); err != nil || alive {
			continue
		}
		j, err := f.Read(run)
		if err != nil || j.Torn || j.Records[len(j.Records)-1].Kind != RunFinished {
			continue
		}
		errs = append(errs, os.Remove(f.path(run)))
	}
	return errors.Join(errs...)
}
