package tasks

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// HistoryDir is the folder on a host in which the copies are kept of files that a
// run has replaced on an instance: a folder for each step, with N.path, N.old
// unless there was no such file, and N.after, the SHA-256 of what the step left
// or "absent".
func HistoryDir(in inventory.Instance, run string) string {
	return "/var/lib/pgfleet/history/" + run + "/" + in.Unit()
}

// Revert makes the files that a run changed on an instance what they were before
// it. It is no kind of fleet.toml: nobody declares it. A file that somebody has
// changed since is refused.
type Revert struct {
	Common
	Run string
	// Configuration says which of them: those of the server's configuration, or
	// all others. A step is verified by planning its tasks again.
	Configuration bool
}

// NewReverts returns the tasks for an instance. The error is a mistake in a
// declared client, who may lose access by them.
func NewReverts(fleet *inventory.Fleet, in inventory.Instance, run string) ([]*Bound, error) {
	clients, errs := clientsOf(fleet, in)
	if len(errs) > 0 {
		return nil, errs.Err()
	}
	var list []*Bound
	for _, configuration := range []bool{true, false} {
		name := "Undo of run " + run
		if !configuration {
			name += ", other files"
		}
		t := &Revert{Common: Common{Name: name, fleet: fleet, clients: clients}, Run: run, Configuration: configuration}
		list = append(list, &Bound{Name: name, Kind: "revert", On: "all", Instance: in, Task: t, Selected: true})
	}
	for _, b := range list {
		b.Task.(*Revert).list = list
	}
	return list, nil
}

// Check has nothing to find.
func (t *Revert) Check(inventory.Instance) inventory.Errors { return nil }

// Reads asks for the copies, and then for the files.
func (t *Revert) Reads(in inventory.Instance, s *State) []facts.Read {
	reads := []facts.Read{t.copies(in)}
	kept, err := t.kept(in, s)
	if err != nil {
		return reads
	}
	for _, k := range kept {
		reads = append(reads, facts.File{Path: k.path})
	}
	return reads
}

func (t *Revert) copies(in inventory.Instance) facts.Files {
	return facts.Files{Glob: HistoryDir(in, t.Run) + "/*/*"}
}

// A keptFile is a file as it was before the run, and what the run has left.
type keptFile struct {
	path  string
	old   facts.FileInfo // that does not exist where there was none
	after string
	verb  string // of its last step: "reload", "restart", "try-restart" or ""
}

// kept returns the files that the run has changed, in the order of their paths.
func (t *Revert) kept(in inventory.Instance, s *State) ([]keptFile, error) {
	found, err := ask[[]facts.FileInfo](s, t.copies(in))
	if err != nil {
		return nil, err
	}
	at := map[string]facts.FileInfo{}
	for _, f := range found {
		at[f.Path] = f
	}
	var list []keptFile
	for _, f := range found { // sorted, so that the first step comes first
		name, ok := strings.CutSuffix(f.Path, ".path")
		file := string(f.Content)
		if !ok || file == OwnedFiles(in) {
			continue
		}
		k := keptFile{path: file, old: at[name+".old"], after: strings.TrimSpace(string(at[name+".after"].Content)), verb: string(at[path.Dir(name)+"/verb"].Content)}
		i := slices.IndexFunc(list, func(x keptFile) bool { return x.path == file })
		if i < 0 {
			list = append(list, k)
			continue
		}
		list[i].after = k.after
		if list[i].verb != "restart" {
			list[i].verb = k.verb
		}
	}
	slices.SortFunc(list, func(a, b keptFile) int { return strings.Compare(a.path, b.path) })
	return list, nil
}

// Plan puts the old files back: those of the server's configuration as one step.
func (t *Revert) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	kept, err := t.kept(in, s)
	if err != nil {
		return out, err
	}
	if len(kept) == 0 && t.Configuration {
		out.Warnings = append(out.Warnings, "the host has no copies of files of that run: it changed none, or others of the last ten runs have taken their place")
	}
	var problems []string
	restart, units := false, false
	for _, k := range kept {
		if t.Configuration != s.configures(k.path) {
			continue
		}
		changes, problem, err := t.back(in, s, k)
		if err != nil {
			return out, err
		}
		if problem != "" {
			problems = append(problems, problem)
		}
		if len(changes) == 0 {
			continue
		}
		out.Changes = append(out.Changes, changes...)
		restart = restart || k.verb == "restart" || k.verb == "try-restart"
		units = units || strings.HasPrefix(k.path, "/etc/systemd/")
		if k.path == s.paths().hba {
			t.access(s, string(k.old.Content), &out)
		}
	}
	if len(problems) > 0 {
		return out, fmt.Errorf("%s", strings.Join(problems, "\n"))
	}
	if restart && t.Configuration && s.Server() != nil {
		out.Changes = append(out.Changes, restartChange(s, "restart", []string{"the run restarted it for these files"}))
	}
	if units {
		out.Changes = append(out.Changes, Change{Key: "daemon-reload", Intent: "systemd reads its units again", Action: DaemonReload{}, Part: t.part(in)})
	}
	return out, nil
}

// part names the one step that the files are.
func (t *Revert) part(in inventory.Instance) string {
	if t.Configuration {
		return ConfigurationPart(in)
	}
	return "files of run " + t.Run
}

// configures reports whether a file is of the server's configuration.
func (s *State) configures(file string) bool {
	return strings.HasPrefix(file, s.paths().confDir+"/") || file == s.autoConf()
}

// back returns what makes one file what it was. The problem is why that is not to
// be done.
func (t *Revert) back(in inventory.Instance, s *State, k keptFile) (changes []Change, problem string, err error) {
	now, err := s.File(k.path)
	if err != nil {
		return nil, "", err
	}
	part := t.part(in)
	switch {
	case k.old.TooLarge:
		return nil, fmt.Sprintf("%s is too large to be brought back from here; its copy lies in %s on the host", k.path, HistoryDir(in, t.Run)), nil
	case !k.old.Exists && now.Exists:
		changes = removeFile(s, now, part)
	case k.old.Exists:
		changes = writeFile(s, now, WriteFile{Path: k.path, Content: string(k.old.Content), Owner: k.old.Owner, Group: k.old.Group, Mode: k.old.Mode}, part)
	}
	if len(changes) == 0 {
		return nil, "", nil // as before the run already
	}
	if !t.Configuration {
		// The old text may hold the value of a secret, which nothing tells from the
		// rest: copies have no placeholders.
		for i := range changes {
			changes[i].Diff = nil
		}
	}
	if err := noPlaceholder(k.path, string(k.old.Content)); err != nil {
		return nil, "", err
	}
	if left := contentDigest(now); left != k.after {
		return nil, k.path + " has changed since that run; what it was before the run lies in " + HistoryDir(in, t.Run) + " on the host: put it back by hand", nil
	}
	return changes, "", nil
}

// contentDigest is what N.after holds.
func contentDigest(f facts.FileInfo) string {
	if !f.Exists {
		return "absent"
	}
	sum := sha256.Sum256(f.Content)
	return hex.EncodeToString(sum[:])
}

// access finds out who would lose access by the old rules.
func (t *Revert) access(s *State, text string, out *Outcome) {
	lines, err := postgres.ParseHBA(text, s.version())
	if err != nil {
		out.Warnings = append(out.Warnings, "the old pg_hba.conf cannot be read here, so who would lose access by it is not known: "+err.Error())
		return
	}
	rules, err := postgres.HBARules(lines)
	if err != nil {
		out.Warnings = append(out.Warnings, "who would lose access by the old pg_hba.conf is not known: "+err.Error())
		return
	}
	hba := &HBA{Common: t.Common, rules: rules}
	if l := hba.ours(s, rules); l != nil {
		out.Lockouts = append(out.Lockouts, *l)
	}
	hba.lockouts(s, rules, out)
}
