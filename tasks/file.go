package tasks

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// File puts a whole file on the host: literal text, or a template of the
// operator's machine.
type File struct {
	Common
	Path    inventory.Positioned[string]  `toml:"path" required:"true" doc:"Where the file goes on the host; relative to the folder of postgresql.conf."`
	Content *inventory.Positioned[string] `toml:"content" doc:"The file's text."`
	Source  inventory.Positioned[string]  `toml:"source" doc:"A file beside fleet.toml with the text; it is a template."`
	Literal bool                          `toml:"literal" doc:"source is taken as it is, not as a template."`
	Owner   string                        `toml:"owner" doc:"User that owns the file; root by default, postgres in a folder of PostgreSQL's configuration."`
	Group   string                        `toml:"group" doc:"Group of the file; like owner by default."`
	Mode    inventory.Positioned[string]  `toml:"mode" doc:"Permissions in octal, such as \"0644\" (the default)."`
	Test    string                        `toml:"check" doc:"A command that must exit with 0 before the file is put in place; %s is the staged copy's path."`
	State   string                        `toml:"state" enum:"present,absent" doc:"absent removes the file."`

	text string
	mode fs.FileMode
}

// Load reads source.
func (t *File) Load(local Local) inventory.Errors {
	if t.Content != nil {
		t.text = t.Content.Value
	}
	if t.Source.Value == "" {
		return nil
	}
	var errs inventory.Errors
	b, err := local(t.Source.Value)
	if err != nil {
		errs.Add(t.Source.Pos(), "source: %v", err)
	}
	t.text = string(b)
	return errs
}

// Render renders source, which has its own lines.
func (t *File) Render(render Render) inventory.Errors {
	if t.Source.Value == "" || t.Literal {
		return nil
	}
	var errs inventory.Errors
	text, err := render(t.text, inventory.Position{File: t.Source.Value, Line: 1, Column: 1})
	if err != nil {
		errs = append(errs, asErrors(t.Source.Pos(), err)...)
	}
	t.text = text
	return errs
}

// Check finds a file without text, or with two.
func (t *File) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	given := 0
	if t.Content != nil {
		given++
	}
	if t.Source.Value != "" {
		given++
	}
	switch {
	case t.State == "absent" && given > 0:
		errs.Add(t.at("state"), "state: a file that is to be absent has no content")
	case t.State != "absent" && given != 1:
		errs.Add(t.node.Pos, "one of content and source is needed")
	}
	if t.Mode.Value != "" {
		m, err := strconv.ParseUint(t.Mode.Value, 8, 12)
		if err != nil || m == 0 {
			errs.Add(t.Mode.Pos(), "mode: want permissions in octal such as \"0644\", found %q", t.Mode.Value)
		}
		t.mode = facts.Mode(uint32(m))
	}
	if t.Test != "" && !strings.Contains(t.Test, "%s") {
		errs.Add(t.at("check"), "check: %%s has to stand where the path of the staged copy goes")
	}
	return errs
}

// Reads asks for the file, and for its unit where it is one of systemd's.
func (t *File) Reads(_ inventory.Instance, s *State) []facts.Read {
	file := t.path(s)
	reads := []facts.Read{facts.File{Path: file}, facts.File{Path: path.Dir(file)}}
	if unit, ok := unitOfPath(file); ok {
		reads = append(reads, facts.Unit{Name: unit})
	}
	return reads
}

// Plan compares the file with what is there. systemd is told of a changed unit
// file; whether it was told comes from systemd, so that a run that was cut off
// is made up for.
func (t *File) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	file := t.path(s)
	found, err := s.File(file)
	if err != nil {
		return out, err
	}
	if folder, err := s.File(path.Dir(file)); err == nil && !folder.Exists && !found.Exists && t.State != "absent" {
		missing := fmt.Sprintf("the folder %s is missing", path.Dir(file))
		if len(s.ran) == 0 && !s.installed {
			return out, fmt.Errorf("%s; make it with a command task before this one (creates = %q), or install the package that brings it", missing, path.Dir(file))
		}
		out.Unknown = append(out.Unknown, missing+", unless something earlier makes it")
	}
	if found.Exists && !found.Regular {
		return out, fmt.Errorf("%s is not a regular file", file)
	}
	if t.State == "absent" {
		if found.Exists {
			out.Changes = removeFile(s, found, t.part(in, s, file))
		}
	} else {
		w := WriteFile{Path: file, Content: t.text, Owner: t.Owner, Group: t.Group, Mode: t.mode, Check: t.Test}
		if w.Owner == "" && strings.HasPrefix(file, s.paths().confDir+"/") {
			w.Owner, w.Group = "postgres", orElse(t.Group, "postgres")
		}
		if w.Owner == "" {
			w.Owner = "root"
		}
		if w.Group == "" {
			w.Group = w.Owner
		}
		if w.Mode == 0 {
			w.Mode = 0o644
		}
		out.Changes = writeFile(s, found, w, t.part(in, s, file))
	}
	unit, isUnit := unitOfPath(file)
	if !isUnit {
		return out, nil
	}
	u, err := s.Unit(unit)
	if len(out.Changes) > 0 || err == nil && u.NeedDaemonReload {
		out.Changes = append(out.Changes, Change{Key: "systemd:daemon-reload", Intent: "systemctl daemon-reload, for " + unit, Action: DaemonReload{}, Part: t.part(in, s, file)})
	}
	return out, nil
}

// part puts files of PostgreSQL's own configuration into the step that loads
// them, and a unit's files into one with the daemon-reload that they need.
func (t *File) part(in inventory.Instance, s *State, file string) string {
	if strings.HasPrefix(file, s.paths().confDir+"/") {
		return ConfigurationPart(in)
	}
	if unit, ok := unitOfPath(file); ok {
		return "unit " + unit
	}
	return ""
}

func (t *File) path(s *State) string {
	if path.IsAbs(t.Path.Value) {
		return path.Clean(t.Path.Value)
	}
	return path.Join(s.paths().confDir, t.Path.Value)
}

func (t *File) declares(s *State) []string {
	if t.State == "absent" {
		return nil
	}
	return []string{t.path(s)}
}

// rendered is the text that goes to the host, for the secrets in it.
func (t *File) rendered() string { return t.text }
