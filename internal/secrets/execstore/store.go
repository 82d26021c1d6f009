// Package execstore asks a program for secrets, one process for each request. The
// protocol is documented for those who write such programs in docs/exec-stores.md.
package execstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgfleet/pgfleet/internal/program"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

const (
	protocol    = 1
	defaultName = "exec"
)

// A Config says which program is asked.
type Config struct {
	Name    string   // of the store; "exec" if it is empty
	Command []string // the program and its arguments; one with a slash is seen from Dir
	Dir     string   // where it runs: the folder of fleet.toml
	Timeout time.Duration
	// Redactor masks what the program says on standard error; nil for one that knows
	// only what the request sends.
	Redactor *secrets.Redactor
}

// A Store is a program. It may be used by several goroutines at once, and the program
// must bear to run several times at once.
type Store struct {
	name    string
	program program.Program
}

// New returns the store. Nothing is run yet.
func New(c Config) (*Store, error) {
	if c.Name == "" {
		c.Name = defaultName
	}
	if len(c.Command) == 0 || c.Command[0] == "" {
		return nil, fmt.Errorf("secret store %s: no command is named", c.Name)
	}
	if c.Redactor == nil {
		c.Redactor = secrets.NewRedactor()
	}
	return &Store{c.Name, program.Program{
		Command: c.Command, Dir: c.Dir, Timeout: c.Timeout, Named: "command in [secrets." + c.Name + "]", Redactor: c.Redactor,
	}}, nil
}

// Name returns the store's name.
func (s *Store) Name() string { return s.name }

// A request is what the program reads from its standard input.
type request struct {
	Version   int              `json:"version"`
	Op        string           `json:"op"`
	Path      string           `json:"path"`
	ID        string           `json:"id,omitempty"`
	Set       secrets.JSONKeys `json:"set,omitempty"`
	Remove    []string         `json:"remove,omitempty"`
	IfCurrent string           `json:"if_current,omitempty"`
	Replace   bool             `json:"replace,omitempty"`
}

// An answer is what it writes to its standard output.
type answer struct {
	program.Answer
	version
	Keys     secrets.JSONKeys `json:"keys"`
	Versions []version        `json:"versions"`
}

type version struct {
	ID      string        `json:"id"`
	Stage   secrets.Stage `json:"stage"`
	Created time.Time     `json:"created"`
}

func (v version) check() error {
	switch v.Stage {
	case secrets.Current, secrets.Pending, secrets.Previous, secrets.Retired:
	default:
		return fmt.Errorf(`its answer has the stage %q, which is none of "current", "pending", "previous" and ""`, v.Stage)
	}
	switch secrets.Stage(v.ID) {
	case secrets.Current, secrets.Pending, secrets.Previous, secrets.NoVersion:
		return fmt.Errorf("its answer has the ID %q, which stands for something else", v.ID)
	}
	// What may stand behind the @ of a reference.
	return secrets.Ref{Store: "x", Path: "x", Version: v.ID}.Check()
}

func (v version) version() secrets.Version {
	return secrets.Version{ID: v.ID, Stage: v.Stage, Created: v.Created}
}

// Get implements [secrets.Store].
func (s *Store) Get(ctx context.Context, path, id string) (secrets.Entry, error) {
	if id == "" {
		id = string(secrets.Current)
	}
	a, err := s.run(ctx, request{Op: "get", Path: path, ID: id})
	if err == nil && a.Keys == nil {
		err = errors.New(`its answer lacks "keys"`)
	}
	if err == nil {
		err = a.check()
	}
	if err != nil {
		return secrets.Entry{}, s.fail(path, err)
	}
	return secrets.Entry{Version: a.version.version(), Keys: a.Keys.Secrets()}, nil
}

// Versions implements [secrets.Store].
func (s *Store) Versions(ctx context.Context, path string) ([]secrets.Version, error) {
	a, err := s.run(ctx, request{Op: "versions", Path: path})
	var versions []secrets.Version
	for _, v := range a.Versions {
		if err == nil {
			err = v.check()
		}
		if err == nil && v.ID == "" {
			err = errors.New(`its answer has a version without "id"`)
		}
		versions = append(versions, v.version())
	}
	if err != nil {
		return nil, s.fail(path, err)
	}
	return versions, nil
}

// Put implements [secrets.WritableStore]. A program that only reads refuses it.
func (s *Store) Put(ctx context.Context, path string, c secrets.Change) (string, error) {
	r := request{Op: "put", Path: path, Remove: c.Remove, IfCurrent: c.IfCurrent, Replace: c.Replace, Set: secrets.JSONKeys{}}
	for name, value := range c.Set {
		r.Set[name] = secrets.JSONValue(value)
		s.program.Redactor.Add(value)
	}
	a, err := s.run(ctx, r)
	if err == nil && a.ID == "" {
		err = errors.New(`its answer lacks "id"`)
	}
	if err == nil {
		err = a.check()
	}
	if err != nil {
		return "", s.fail(path, err)
	}
	return a.ID, nil
}

// Promote implements [secrets.WritableStore].
func (s *Store) Promote(ctx context.Context, path, id string) error {
	_, err := s.run(ctx, request{Op: "promote", Path: path, ID: id})
	return s.fail(path, err)
}

// fail gives an error the secret's name; nil stays nil.
func (s *Store) fail(path string, err error) error {
	if err == nil {
		return nil
	}
	e := &secrets.Error{Store: s.Name(), Path: path, Err: err}
	if h, ok := errors.AsType[*program.Error](err); ok && error(h) == err { //nolint:errorlint // the outermost error itself
		e.Err, e.Hint = h.Err, h.Hint
	}
	return e
}

// run asks the program.
func (s *Store) run(ctx context.Context, r request) (answer, error) {
	r.Version = protocol
	var a answer
	if err := s.program.Ask(ctx, r, &a); err != nil {
		if f, ok := errors.AsType[*program.AnswerError](err); ok {
			err = s.refusal(f)
		}
		return answer{}, err
	}
	return a, nil
}

// refusal is the error that the program has answered with.
func (s *Store) refusal(f *program.AnswerError) error {
	kinds := map[string]error{
		"not_found": secrets.ErrNotFound, "conflict": secrets.ErrConflict, "pending": secrets.ErrPending, "read_only": secrets.ErrReadOnly,
	}
	kind, known := kinds[f.Code]
	var err error
	switch {
	case known && f.Message == "":
		err = kind
	case known:
		err = fmt.Errorf("%w: %s", kind, f.Message)
	case f.Code == "unavailable":
		err = fmt.Errorf("%s cannot reach its store: %s", s.program.Name(), f.Message)
	default:
		err = fmt.Errorf("%s: %s", s.program.Name(), f.Message)
	}
	if f.Hint != "" {
		err = &program.Error{Err: err, Hint: f.Hint}
	}
	return err
}
