// Package execstore asks a program for secrets, one process for each request. The
// protocol is documented for those who write such programs in docs/exec-stores.md.
package execstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

const (
	protocol       = 1
	defaultName    = "exec"
	defaultTimeout = 30 * time.Second
	// maxAnswer is the most that a program may answer.
	maxAnswer = 1 << 20
	// maxSaid is how much of the end of its standard error is kept, and maxShown how
	// much of that is shown: little enough that no value begins before what is kept,
	// and so is not known for one.
	maxSaid  = 64 << 10
	maxShown = 1 << 10
	// waitDelay is how long is waited for children of a program that has ended and
	// that hold its output open.
	waitDelay = 2 * time.Second
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
	config Config
}

// New returns the store. Nothing is run yet.
func New(c Config) (*Store, error) {
	if c.Name == "" {
		c.Name = defaultName
	}
	if len(c.Command) == 0 || c.Command[0] == "" {
		return nil, fmt.Errorf("secret store %s: no command is named", c.Name)
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Redactor == nil {
		c.Redactor = secrets.NewRedactor()
	}
	return &Store{config: c}, nil
}

// Name returns the store's name.
func (s *Store) Name() string { return s.config.Name }

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
	version
	Keys     secrets.JSONKeys `json:"keys"`
	Versions []version        `json:"versions"`
	Error    *failure         `json:"error"`
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

type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
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
		s.config.Redactor.Add(value)
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
	if h, ok := errors.AsType[*hintedError](err); ok && error(h) == err { //nolint:errorlint // the outermost error itself
		e.Err, e.Hint = h.err, h.hint
	}
	return e
}

// A hintedError carries a hint up to the store's error.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() + "; " + e.hint }
func (e *hintedError) Unwrap() error { return e.err }

// run asks the program.
func (s *Store) run(ctx context.Context, r request) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, err
	}
	r.Version = protocol
	in, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	limited, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	program := s.config.Command[0]
	if strings.Contains(program, "/") && !filepath.IsAbs(program) {
		if program, err = filepath.Abs(filepath.Join(s.config.Dir, program)); err != nil {
			return answer{}, err
		}
	}
	cmd := exec.CommandContext(limited, program, s.config.Command[1:]...)
	cmd.Dir = s.config.Dir
	cmd.Stdin = bytes.NewReader(append(in, '\n'))
	out, said := &limitedBuffer{max: maxAnswer}, &tail{max: maxSaid}
	cmd.Stdout, cmd.Stderr = out, said
	// What it has started goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = waitDelay
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return answer{}, ctx.Err()
	case limited.Err() != nil:
		return answer{}, fmt.Errorf("%s did not answer within %v and was ended%s", s.config.Command[0], s.config.Timeout, s.quote(said))
	case out.full:
		return answer{}, fmt.Errorf("%s answers with more than %d bytes", s.config.Command[0], maxAnswer)
	case cmd.Process == nil:
		return answer{}, &hintedError{fmt.Errorf("%s cannot be run: %w", s.config.Command[0], err), "correct command in [secrets." + s.Name() + "]"}
	}
	a, decodeErr := decode(out.kept)
	switch {
	case decodeErr == nil && a.Error != nil:
		return answer{}, s.refusal(a.Error)
	case err != nil:
		return answer{}, fmt.Errorf("%s: %w%s", s.config.Command[0], err, s.quote(said))
	case decodeErr != nil:
		return answer{}, fmt.Errorf("%s: %w%s", s.config.Command[0], decodeErr, s.quote(said))
	}
	return a, nil
}

// decode reads an answer. Its errors quote nothing of it.
func decode(text []byte) (answer, error) {
	var a answer
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		var wrongType *json.UnmarshalTypeError
		switch {
		case errors.Is(err, io.EOF):
			return answer{}, errors.New("it answers nothing")
		case errors.As(err, &wrongType):
			return answer{}, fmt.Errorf("its answer has something of a wrong type at %q", wrongType.Field)
		}
		return answer{}, errors.New("its answer is not JSON of the protocol's form")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return answer{}, errors.New("something follows its answer")
	}
	return a, nil
}

// refusal is the error that the program has answered with.
func (s *Store) refusal(f *failure) error {
	message := s.clean(f.Message)
	kinds := map[string]error{
		"not_found": secrets.ErrNotFound, "conflict": secrets.ErrConflict, "pending": secrets.ErrPending, "read_only": secrets.ErrReadOnly,
	}
	kind, known := kinds[f.Code]
	var err error
	switch {
	case known && message == "":
		err = kind
	case known:
		err = fmt.Errorf("%w: %s", kind, message)
	case f.Code == "unavailable":
		err = fmt.Errorf("%s cannot reach its store: %s", s.config.Command[0], message)
	default:
		err = fmt.Errorf("%s: %s", s.config.Command[0], message)
	}
	if f.Hint != "" {
		err = &hintedError{err, s.clean(f.Hint)}
	}
	return err
}

// quote returns what was said on standard error, for the end of an error.
func (s *Store) quote(t *tail) string {
	text := s.clean(string(t.kept))
	if text == "" {
		return ""
	}
	return ": " + text
}

// clean makes one line of a text that a program wrote, with secrets masked.
func (s *Store) clean(text string) string {
	text = s.config.Redactor.String(strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.FieldsFunc(text, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }), " ")
	if over := len(text) - maxShown; over > 0 {
		text = "…" + strings.ToValidUTF8(text[over:], "")
	}
	return text
}

// A limitedBuffer takes so much and no more.
type limitedBuffer struct {
	max  int
	kept []byte
	full bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(b.kept)+len(p) > b.max {
		b.full = true
		return 0, errors.New("too much output")
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}

// A tail keeps the end of what is written to it.
type tail struct {
	max  int
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - t.max; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}
