package tasks

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// header is the comment that stands at the top of a file that pgfleet writes.
// It names the task, so that who opens the file knows where to change it.
func header(task string) string {
	return fmt.Sprintf("Written by pgfleet: %q. Changes made here are found and undone.", task)
}

// saysAlready reports whether a file that this task did not write means the same
// as the text that it would write. Such a file was adopted: it keeps its
// comments and its form until something in it is to change, and from then on it
// is the task's, to the letter. The header in the first line tells whose it is.
func (s *State) saysAlready(found facts.FileInfo, wanted string, same func(a, b string) bool) bool {
	if !found.Exists || !found.Regular {
		return false
	}
	own, _, _ := strings.Cut(wanted, "\n")
	if strings.HasPrefix(string(found.Content), own+"\n") {
		return false
	}
	content, err := secrets.Expand(wanted, s.reveal)
	return err == nil && same(string(found.Content), string(content.Expose()))
}

// readable reports whether the server's account can read a file, as the kernel
// decides it: by the first of owner, group and others that applies.
func readable(f facts.FileInfo) bool {
	switch {
	case f.Owner == "postgres":
		return f.Mode.Perm()&0o400 != 0
	case f.Group == "postgres":
		return f.Mode.Perm()&0o040 != 0
	}
	return f.Mode.Perm()&0o004 != 0
}

// adopted returns the text for a file that says already what is wanted but
// cannot stay as it is: its own, with its comments, unless secrets are in it.
func (s *State) adopted(found facts.FileInfo, wanted string) string {
	text := string(found.Content)
	if secrets.HasPlaceholder(wanted) || secrets.HasPlaceholder(text) {
		return wanted
	}
	return text
}

// octal is a file's mode as chmod takes it.
func octal(m fs.FileMode) string {
	return fmt.Sprintf("%04o", facts.ModeBits(m))
}

// keepMode returns the mode of a file that is there, and mode otherwise: what
// the administrator tightened stays tight.
func keepMode(found facts.FileInfo, mode fs.FileMode) fs.FileMode {
	if found.Exists && found.Mode.Perm()&^mode == 0 && found.Mode.Perm()&0o400 != 0 {
		return found.Mode.Perm()
	}
	return mode
}

// writeFile returns the change that makes a file what is wanted; none if it is
// so already. An empty Owner or Group and a zero Mode keep what is there.
func writeFile(s *State, found facts.FileInfo, w WriteFile, part string) []Change {
	if w.Owner == "" {
		w.Owner = orElse(found.Owner, "root")
	}
	if w.Group == "" {
		w.Group = orElse(found.Group, "root")
	}
	if w.Mode == 0 {
		w.Mode = 0o644
		if found.Exists {
			w.Mode = found.Mode
		}
	}
	c := Change{Key: "file:" + w.Path, Before: digestFile(found), Action: w, Part: part}
	content, err := secrets.Expand(w.Content, s.reveal)
	if err == nil {
		c.After = digestOf(content.Expose(), w.Owner, w.Group, octal(w.Mode))
		if c.After == c.Before {
			return nil
		}
	}
	c.Intent, c.Diff = describeWrite(s, found, w)
	return []Change{c}
}

func describeWrite(s *State, found facts.FileInfo, w WriteFile) (string, *Diff) {
	verb := "create"
	var how []string
	if found.Exists {
		verb = "change"
		if found.Owner != w.Owner || found.Group != w.Group {
			how = append(how, fmt.Sprintf("owner %s:%s becomes %s:%s", found.Owner, found.Group, w.Owner, w.Group))
		}
		if octal(found.Mode) != octal(w.Mode) {
			how = append(how, fmt.Sprintf("mode %s becomes %s", octal(found.Mode), octal(w.Mode)))
		}
	} else {
		how = append(how, fmt.Sprintf("%s:%s %s", w.Owner, w.Group, octal(w.Mode)))
	}
	intent := verb + " " + w.Path
	if len(how) > 0 {
		intent += " (" + strings.Join(how, ", ") + ")"
	}
	return intent, s.diff(found, w.Content)
}

// diff masks both sides. Text whose placeholders were changed is refused when
// tasks are expanded, so an error here hides the whole text.
func (s *State) diff(found facts.FileInfo, content string) *Diff {
	old, new, err := secrets.RedactLines(string(found.Content), content, s.reveal, nil)
	if err != nil {
		old, new = secrets.Mask, secrets.Mask
	}
	return &Diff{Path: found.Path, Old: old, New: new}
}

// removeFile returns the change that deletes a file.
func removeFile(s *State, found facts.FileInfo, part string) []Change {
	return []Change{{
		Key: "file:" + found.Path, Before: digestFile(found), After: Absent,
		Intent: "remove " + found.Path, Diff: s.diff(found, ""),
		Action: RemoveFile{found.Path}, Part: part,
	}}
}

// owned returns the paths of the instance's list of files that pgfleet wrote.
func (s *State) owned() []string {
	list, err := s.File(OwnedFiles(s.instance))
	if err != nil || !list.Exists {
		return nil
	}
	var paths []string
	for line := range strings.Lines(string(list.Content)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
			paths = append(paths, line)
		}
	}
	return paths
}

// orphans returns the files of that list which are still there and which no
// task declares.
func orphans(s *State, bound []*Bound) []string {
	var declared []string
	for _, b := range bound {
		if d, ok := b.Task.(declarer); ok {
			declared = append(declared, d.declares(s)...)
		}
	}
	// The server cannot do without these, whoever wrote them last.
	needed := s.paths()
	declared = append(declared, needed.config, needed.hba, needed.ident, s.autoConf())
	return slices.DeleteFunc(s.owned(), func(p string) bool {
		f, err := s.File(p)
		return slices.Contains(declared, p) || err == nil && !f.Exists
	})
}

// declarer is implemented by kinds that own files.
type declarer interface{ declares(*State) []string }

func orElse(a, b string) string {
	if a == "" {
		return b
	}
	return a
}
