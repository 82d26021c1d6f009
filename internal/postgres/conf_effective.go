package postgres

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// maxIncludeDepth is CONF_FILE_MAX_DEPTH: how deep includes may nest.
const maxIncludeDepth = 10

// A ConfPosition is where a value stands in the configuration files.
type ConfPosition struct {
	File  string
	Line  int
	Value string
}

// An EffectiveSetting is a parameter with the value that the configuration files give it. Command line, role and database
// settings are not known here; they win over it.
type EffectiveSetting struct {
	Name    string // as written where it is set
	Value   string
	File    string
	Line    int
	Shadows []ConfPosition // other places that set it and lose, in the order they are read
}

// Effective returns what the configuration files set, as the server reads them: the main file with its includes in place,
// then postgresql.auto.conf, the last one wins. main and auto are paths; auto may be "" or not exist. read returns a file's text, or false when it
// cannot be read; glob returns the names in a directory, nil when that cannot be read. Both get paths as the server would open
// them: absolute, or relative to the folder of the file that names them.
//
// The settings are sorted by name without regard to case. Every error names the file and the line; a server refuses the files
// as a whole when there is one.
func Effective(main string, read func(path string) (text string, ok bool), glob func(dir string) []string, auto string) ([]EffectiveSetting, []error) {
	w := confWalk{read: read, glob: glob, byName: make(map[string]*EffectiveSetting)}
	w.file(main, "", 0, 0, true)
	if auto != "" {
		w.file(auto, "", 0, 0, false)
	}
	settings := make([]EffectiveSetting, 0, len(w.byName))
	for _, s := range w.byName {
		settings = append(settings, *s)
	}
	slices.SortFunc(settings, func(a, b EffectiveSetting) int {
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return settings, w.errs
}

type confWalk struct {
	read   func(string) (string, bool)
	glob   func(string) []string
	byName map[string]*EffectiveSetting
	errs   []error
}

// fail records a mistake at the line that names a file, or at no line for the main file.
func (w *confWalk) fail(from string, line int, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if from != "" {
		msg = fmt.Sprintf("%s: line %d: %s", from, line, msg)
	}
	w.errs = append(w.errs, fmt.Errorf("%s", msg))
}

func (w *confWalk) file(name, from string, line, depth int, strict bool) {
	if name == "" || strings.Trim(name, " \t\r\n") == "" {
		w.fail(from, line, "empty configuration file name: %q", name)
		return
	}
	if depth > maxIncludeDepth {
		w.fail(from, line, "could not open configuration file %q: maximum nesting depth exceeded", name)
		return
	}
	name = relativeTo(name, from)
	if from != "" && name == path.Clean(from) {
		w.fail(from, line, "configuration file recursion in %q", from)
		return
	}
	text, ok := w.read(name)
	if !ok {
		if strict {
			w.fail(from, line, "could not open configuration file %q", name)
		}
		return
	}
	entries, err := ParseConf(text)
	for _, e := range ParseErrors(err) {
		w.errs = append(w.errs, fmt.Errorf("%s: %w", name, e))
	}
	for _, e := range entries {
		switch e.Include() {
		case "include":
			w.file(e.Value, name, e.Line, depth+1, true)
		case "include_if_exists":
			w.file(e.Value, name, e.Line, depth+1, false)
		case "include_dir":
			w.dir(e.Value, name, e.Line, depth+1)
		default:
			w.set(e, name)
		}
	}
}

func (w *confWalk) dir(name, from string, line, depth int) {
	if strings.Trim(name, " \t\r\n") == "" {
		w.fail(from, line, "empty configuration directory name: %q", name)
		return
	}
	name = relativeTo(name, from)
	files := w.glob(name)
	if files == nil {
		w.fail(from, line, "could not open configuration directory %q", name)
		return
	}
	var bases []string
	for _, f := range files {
		if base := path.Base(f); IncludedInDir(base) {
			bases = append(bases, base)
		}
	}
	slices.Sort(bases)
	for _, base := range slices.Compact(bases) {
		w.file(path.Join(name, base), from, line, depth, true)
	}
}

// IncludedInDir reports whether include_dir reads a file of this name: it ends in .conf and does not start with a dot.
func IncludedInDir(base string) bool {
	return strings.HasSuffix(base, ".conf") && !strings.HasPrefix(base, ".")
}

func (w *confWalk) set(e ConfEntry, file string) {
	key := strings.ToLower(e.Name)
	if now, ok := oldNames[key]; ok {
		key = now // a server that does not know the new name has no line with it
	}
	next := &EffectiveSetting{Name: e.Name, Value: e.Value, File: file, Line: e.Line}
	if old := w.byName[key]; old != nil {
		next.Shadows = append(slices.Clone(old.Shadows), ConfPosition{File: old.File, Line: old.Line, Value: old.Value})
	}
	w.byName[key] = next
}

// relativeTo makes the name of an included file one that can be opened.
func relativeTo(name, from string) string {
	if path.IsAbs(name) || from == "" {
		return path.Clean(name)
	}
	return path.Join(path.Dir(from), name)
}
