package tasks

import (
	"fmt"
	"path"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/inventory"
)

// CAFile keeps what is trusted, the file that [ca].certificate names, on the host:
// for ssl_ca_file, by which the server verifies the certificates of clients, and for
// the sslrootcert of clients on the host.
type CAFile struct {
	Common
	File  inventory.Positioned[string] `toml:"file" required:"true" doc:"Where it goes; relative to the folder of postgresql.conf."`
	Owner string                       `toml:"owner" doc:"User that owns the file; postgres by default, and root outside of the folder of postgresql.conf. Its mode is 0644, or what it is where that is tighter."`
}

// Check finds out that there is a CA.
func (t *CAFile) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	if t.fleet.CA == nil {
		errs.Add(t.at("file"), "ca_file: %s", needsCA)
	}
	if t.File.Value == "" {
		errs.Add(t.File.Pos(), "file: it is empty")
	}
	return errs
}

// Reads asks for the file.
func (t *CAFile) Reads(_ inventory.Instance, s *State) []facts.Read {
	return []facts.Read{facts.File{Path: s.inConfDir(t.File.Value)}}
}

// Plan compares the file with the one of here, and with what the server has loaded.
func (t *CAFile) Plan(in inventory.Instance, s *State) (Outcome, error) {
	file := s.inConfDir(t.File.Value)
	part := s.tlsPart(in, file, "ssl_ca_file")
	var out Outcome
	if part != "" {
		out.Warnings = t.notStarted(s)
	}
	found, err := s.File(file)
	if err != nil {
		return out, err
	}
	if found.Exists && !found.Regular {
		return out, fmt.Errorf("%s is not a regular file", file)
	}
	if err := noPlaceholder(t.fleet.CA.Certificate.Value, string(t.ca.BundlePEM)); err != nil {
		return out, err
	}
	// What cannot be read as certificates trusts nobody.
	if trusted, _ := pki.ParseBundle(found.Content); !t.ca.takesBack {
		if c := t.ca.NewerCA(trusted); c != nil {
			return out, t.ca.Outdated(string(in.ID()), c.Subject.CommonName)
		}
	}
	owner := s.ownerOf(file, t.Owner)
	out.Changes = writeFile(s, found, WriteFile{Path: file, Content: string(t.ca.BundlePEM), Owner: owner, Group: owner, Mode: keepMode(found, 0o644)}, part)
	if len(out.Changes) == 0 {
		out.Changes = s.tlsNotLoaded(file, "ssl_ca_file", found)
	}
	return out, nil
}

func (t *CAFile) declares(s *State) []string { return []string{s.inConfDir(t.File.Value)} }

// inConfDir resolves a path of a task: relative to the folder of postgresql.conf.
func (s *State) inConfDir(p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join(s.paths().confDir, p)
}

// ownerOf is the account that a file is to belong to where the task does not say.
func (s *State) ownerOf(file, said string) string {
	if said != "" {
		return said
	}
	if strings.HasPrefix(file, s.paths().confDir+"/") {
		return "postgres"
	}
	return "root"
}

// tlsPart puts a file that a setting of TLS names, or may be about to name, into the
// step that loads it.
func (s *State) tlsPart(in inventory.Instance, file, setting string) string {
	if strings.HasPrefix(file, s.paths().confDir+"/") || s.named(file, setting) {
		return ConfigurationPart(in)
	}
	return ""
}

// named reports whether a setting names the file, now or with the changes so far.
func (s *State) named(file, setting string) bool {
	v := s.configuration().value(setting)
	return v != "" && s.inDataDir(v) == file
}

// tlsNotLoaded returns a reload where the server uses the file and has not loaded it
// since it changed.
func (s *State) tlsNotLoaded(file, setting string, found facts.FileInfo) []Change {
	if s.Server() == nil || s.activated || !s.tlsRuns() || !s.named(file, setting) {
		return nil
	}
	if found.Changed.After(s.Server().Loaded) {
		return []Change{reloadChange(s, []string{file + " is newer than what the server has loaded"})}
	}
	if why := s.clientCAsDiffer(); why != "" && setting == "ssl_ca_file" {
		return []Change{reloadChange(s, []string{why})}
	}
	return nil
}

// tlsRuns reports whether the server runs with TLS and its files still have it.
func (s *State) tlsRuns() bool {
	running, ok := s.Running("ssl")
	return ok && running == "on" && s.configuration().value("ssl") == "on"
}
