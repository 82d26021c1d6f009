package tasks

import (
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// StagingPrefix begins the name of every folder in which something waits on a
// host before it is put in place. It begins with a dot, so that the server does
// not read it as a part of its configuration.
const StagingPrefix = ".pgfleet."

// stagingRead asks for the staging folders beside the configuration.
func stagingRead(s *State) facts.Names {
	return facts.Names{Glob: s.paths().confDir + "/" + StagingPrefix + "*"}
}

func (s *State) staging() ([]string, error) { return ask[[]string](s, stagingRead(s)) }

// abandonedRead asks which of the folders nobody uses any more. Each names its
// holder, the sshd process of the connection that made it, with the time that
// the process started: when that is gone, the run was cut off.
func abandonedRead(dirs []string) facts.Probe {
	var words []string
	for _, d := range dirs {
		if w, err := secrets.Quote(d, secrets.Shell); err == nil {
			words = append(words, w)
		}
	}
	return facts.Probe{User: "root", Script: `for d in ` + strings.Join(words, " ") + `; do
	pid= start=
	[ -f "$d/holder" ] && read -r pid start 2>/dev/null <"$d/holder"
	if [ -n "$pid" ]; then
		set -- $(sed 's/(.*)/x/' "/proc/$pid/stat" 2>/dev/null)
		[ "${22:-}" = "$start" ] && continue
	fi
	printf '%s\n' "$d"
done`}
}

// leftovers returns the change that removes what a run that was cut off left in
// its staging folders, which may be a key; nil where there is nothing.
func leftovers(s *State) *Change {
	staged, err := s.staging()
	if err != nil || len(staged) == 0 {
		return nil
	}
	r, err := ask[facts.ProbeResult](s, abandonedRead(staged))
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(r.Output) {
		if dir := strings.TrimSpace(line); slices.Contains(staged, dir) {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	return &Change{
		Key: "staging:" + s.paths().confDir, Before: digestOf([]byte(strings.Join(dirs, "\n"))), After: Absent,
		Intent: "remove " + strings.Join(dirs, ", ") + ", left by a run that was cut off",
		Action: RemoveStaging{Dirs: dirs, Owner: "postgres"},
	}
}
