package tasks

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// A State is what is known of one instance: the answers of its host, moved on
// by the changes that were foreseen since. A State is never modified; Foresee
// returns a new one. What was not asked, or could not be answered, is unknown,
// and every accessor says so rather than guess.
type State struct {
	instance inventory.Instance
	answers  map[facts.Read]facts.Answer
	reveal   Reveal
	server   *facts.Server // nil where it was not reached
	catalog  *postgres.Catalog

	// What the foreseen changes did. Maps are copied on write.
	files     map[string]facts.FileInfo
	certs     map[string]issued
	packages  map[string]bool
	units     map[string]facts.UnitInfo
	ran       map[string]bool   // commands, by RunCommand.key
	ranBefore map[string]bool   // likewise, for other instances of the host
	running   map[string]string // settings that the server runs with
	activated bool              // the files as foreseen were loaded
	restarted bool
	moved     bool              // something changed that a user's own unless or onlyif may look at
	installed bool              // packages were installed: what programs and libraries there are is unknown
	cluster   *catalog.Cluster  // nil where it is not known
	uncertain map[string]string // databases whose contents a script made unknowable, with its name
}

// A Reveal looks the value of a secret up that was read before planning began.
type Reveal func(secrets.Ref) (secrets.Secret, bool)

// issued is a certificate that will have been made.
type issued struct{ change IssueCertificate }

// NewState returns the State of an instance before any change. Reveal may be
// nil where no task uses secrets.
func NewState(in inventory.Instance, answers map[facts.Read]facts.Answer, reveal Reveal) *State {
	if reveal == nil {
		reveal = func(secrets.Ref) (secrets.Secret, bool) { return secrets.Secret{}, false }
	}
	s := &State{instance: in, answers: answers, reveal: reveal, catalog: postgres.NewCatalog(majorVersion(in), nil)}
	if srv, err := ask[facts.Server](s, ServerRead(in)); err == nil && srv.Reached {
		s.server = &srv
		s.catalog = postgres.NewCatalog(srv.Version, srv.Settings)
	}
	s.readCatalogs()
	return s
}

// errUnasked is the reason for what no Read asked. A kind that gets it forgot
// to name the question in its Reads.
var errUnasked = errors.New("not asked of the host")

func ask[T any](s *State, r facts.Read) (T, error) {
	var zero T
	a, ok := s.answers[r]
	if !ok {
		return zero, errUnasked
	}
	if a.Err != nil {
		return zero, a.Err
	}
	v, ok := a.Value.(T)
	if !ok {
		return zero, errUnasked
	}
	return v, nil
}

// Known reports whether the question was answered, with or without an error.
func (s *State) Known(r facts.Read) bool {
	_, ok := s.answers[r]
	return ok
}

// OS returns what the host is.
func (s *State) OS() (facts.OSInfo, error) { return ask[facts.OSInfo](s, facts.OS{}) }

// Clock returns the host's clock when it answered, and zero where it is not
// known.
func (s *State) Clock() time.Time {
	os, err := s.OS()
	if err != nil {
		return time.Time{}
	}
	return os.Clock
}

// File returns what is, or will be, at a path.
func (s *State) File(path string) (facts.FileInfo, error) {
	if f, ok := s.files[path]; ok {
		return f, nil
	}
	if f, err := ask[facts.FileInfo](s, facts.File{Path: path}); !errors.Is(err, errUnasked) {
		return f, err
	}
	for r, a := range s.answers {
		g, ok := r.(facts.Files)
		if !ok || !globMatches(g.Glob, path) {
			continue
		}
		if a.Err != nil {
			return facts.FileInfo{}, a.Err
		}
		for _, f := range a.Value.([]facts.FileInfo) {
			if f.Path == path {
				return f, nil
			}
		}
		return facts.FileInfo{Path: path}, nil // the glob would have found it
	}
	return facts.FileInfo{}, errUnasked
}

// Files returns the files that exist, or will, and match a glob that was
// asked, sorted by path.
func (s *State) Files(glob string) ([]facts.FileInfo, error) {
	found, err := ask[[]facts.FileInfo](s, facts.Files{Glob: glob})
	if err != nil {
		return nil, err
	}
	byPath := map[string]facts.FileInfo{}
	for _, f := range found {
		byPath[f.Path] = f
	}
	for path, f := range s.files {
		if globMatches(glob, path) {
			byPath[path] = f
		}
	}
	var list []facts.FileInfo
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		if byPath[path].Exists {
			list = append(list, byPath[path])
		}
	}
	return list, nil
}

// CertificateFile returns the certificates of a PEM file as found. Will reports
// a certificate that an earlier change will have put there instead.
func (s *State) CertificateFile(path string) (info facts.CertificateFileInfo, will bool, err error) {
	if _, ok := s.certs[path]; ok {
		return facts.CertificateFileInfo{}, true, nil
	}
	info, err = ask[facts.CertificateFileInfo](s, facts.CertificateFile{Path: path})
	return info, false, err
}

// Unit returns the state of a systemd unit.
func (s *State) Unit(name string) (facts.UnitInfo, error) {
	if u, ok := s.units[name]; ok {
		return u, nil
	}
	return ask[facts.UnitInfo](s, facts.Unit{Name: name})
}

// Package returns what is known of a package.
func (s *State) Package(name string) (facts.PackageInfo, error) {
	p, err := ask[facts.PackageInfo](s, facts.Package{Name: name})
	if installed, ok := s.packages[name]; ok {
		p.Name, p.Installed = name, installed
		return p, nil
	}
	return p, err
}

// Server returns what the PostgreSQL server said of itself before any change,
// or nil where it could not be reached.
func (s *State) Server() *facts.Server { return s.server }

// ServerProblem says why Server is nil.
func (s *State) ServerProblem() string {
	srv, err := ask[facts.Server](s, ServerRead(s.instance))
	if err != nil {
		return err.Error()
	}
	return srv.Problem
}

// Role returns "primary" or "standby", and "" where the server could not be
// asked.
func (s *State) Role() string {
	switch srv := s.Server(); {
	case srv == nil:
		return ""
	case srv.InRecovery:
		return "standby"
	default:
		return "primary"
	}
}

// Catalog returns the parameters that the server knows; none where it could not
// be asked.
func (s *State) Catalog() *postgres.Catalog { return s.catalog }

// Secret returns the value of a secret that was read before planning.
func (s *State) Secret(ref secrets.Ref) (secrets.Secret, bool) { return s.reveal(ref) }
