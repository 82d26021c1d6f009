package tasks

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// UndoDir is the folder on a host in which copies wait of the files that a step
// is changing on the instance, and in which a note says what became of them.
func UndoDir(in inventory.Instance) string { return "/var/lib/pgfleet/undo/" + in.Unit() }

func undoRead(in inventory.Instance) facts.Files { return facts.Files{Glob: UndoDir(in) + "/*.note"} }

// An Undo is what a host has put back by itself, or will, because a step was not
// ended.
type Undo struct {
	Armed    bool          // a step is not ended: the files come back at Due at the latest
	Due      time.Time     // by the host's clock
	Fired    time.Time     // when it last put files back; zero if it has not
	By       string        // what had it done: "timer", "boot" or "run"
	After    time.Duration // how long the host waits for pgfleet
	Files    []string      // what was put back
	Problems []string      // what could not be, and why
	Did      []string      // what systemd was told then
}

// ParseUndo reads the note that a host leaves when it has put files back.
func ParseUndo(note string) Undo {
	var u Undo
	for line := range strings.Lines(note) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch key {
		case "at":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				u.Fired = time.Unix(n, 0)
			}
		case "seconds":
			n, _ := strconv.Atoi(value)
			u.After = time.Duration(n) * time.Second
		case "by":
			u.By = value
		case "back":
			u.Files = append(u.Files, value)
		case "did":
			u.Did = append(u.Did, value)
		case "failed", "problem":
			u.Problems = append(u.Problems, strings.TrimSpace(value))
		}
	}
	return u
}

// String says what was put back, when and why.
func (u Undo) String() string {
	why := map[string]string{
		"timer": fmt.Sprintf("because no word came from pgfleet for %v", u.After),
		"boot":  "because the host was booted in the middle of a step",
		"run":   "because the next run found a step that was not ended",
	}[u.By]
	itself := " by itself"
	if u.By == "run" {
		itself = ""
	}
	text := fmt.Sprintf("the host put the old files back%s at %s, %s (%s)", itself, clock(u.Fired), why, strings.Join(u.Files, ", "))
	if len(u.Files) == 0 {
		text = fmt.Sprintf("the host ended a step%s at %s, %s; no file had been changed", itself, clock(u.Fired), why)
	}
	if len(u.Did) > 0 {
		text += "; it ran " + strings.Join(u.Did, ", ")
	}
	if len(u.Problems) > 0 {
		text += "; it could not do all of it: " + strings.Join(u.Problems, "; ")
	}
	return text
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// Undo returns what the host has put back by itself, or will; zero if nothing.
func (s *State) Undo() (Undo, error) {
	notes, err := ask[[]facts.FileInfo](s, undoRead(s.instance))
	if errors.Is(err, errUnasked) {
		return Undo{}, nil
	}
	if err != nil {
		return Undo{}, err
	}
	var u Undo
	for _, n := range notes {
		if strings.HasSuffix(n.Path, "/fired.note") {
			u = ParseUndo(string(n.Content))
		}
	}
	for _, n := range notes {
		if strings.HasSuffix(n.Path, "/armed.note") {
			u.Armed, u.Due = true, n.Modified.Add(ParseUndo(string(n.Content)).After)
		}
	}
	return u, nil
}

// undoWarning says what the user has to know of an Undo; "" if nothing.
func undoWarning(s *State) string {
	u, err := s.Undo()
	switch {
	case err != nil:
		return "whether a step of an earlier run is still open is not known: " + err.Error()
	case u.Armed && !u.Fired.IsZero():
		return u.String() + "; the next apply tries again"
	case u.Armed:
		return fmt.Sprintf("a step of another run is open on the host, or of one that died: the host puts the old files back at %s by itself, or at the next apply", clock(u.Due))
	case !u.Fired.IsZero():
		return u.String()
	}
	return ""
}
