// Package program asks a program of the user's: it is started for each request, reads
// a JSON object from its standard input, writes one to its standard output, and ends.
// Stores of secrets and certificate authorities are asked so; what the objects hold is
// theirs (docs/exec-stores.md, docs/exec-ca.md).
package program

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

// DefaultTimeout is how long a program has unless told otherwise.
const DefaultTimeout = 30 * time.Second

const (
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

// A Program is what is run, and how. It may be used by several goroutines at once, and
// the program must bear to run several times at once.
type Program struct {
	Command  []string      // the program and its arguments; one with a slash is seen from Dir
	Dir      string        // where it runs: the folder of fleet.toml
	Timeout  time.Duration // DefaultTimeout if zero
	Named    string        // the key of fleet.toml that names it, such as "command in [secrets.pass]"
	Redactor *secrets.Redactor
}

// Name returns how the program is called in errors.
func (p *Program) Name() string { return p.Command[0] }

// An Answer is what is common to all answers; their types embed it.
type Answer struct {
	Error *AnswerError `json:"error"`
}

func (a *Answer) failure() *AnswerError { return a.Error }

// An AnswerError is an error that the program has answered with. [Program.Ask] returns it
// with its texts made fit to be shown.
type AnswerError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// Error returns the message.
func (f *AnswerError) Error() string { return f.Message }

// An Error has a hint what to do.
type Error struct {
	Err  error
	Hint string
}

// Error returns the error and the hint.
func (e *Error) Error() string { return e.Err.Error() + "; " + e.Hint }

// Unwrap returns the error without the hint.
func (e *Error) Unwrap() error { return e.Err }

// Ask runs the program with a request and decodes its answer, whose type embeds
// [Answer] and has no members but those that there may be. The error is a [*AnswerError]
// if the program has answered with one; no other quotes the answer, and what the
// program has said on standard error stands in them with secrets masked.
func (p *Program) Ask(ctx context.Context, request any, answer interface{ failure() *AnswerError }) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	in, err := json.Marshal(request)
	if err != nil {
		return err
	}
	timeout := p.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	name := p.Name()
	path := name
	if strings.Contains(path, "/") && !filepath.IsAbs(path) {
		if path, err = filepath.Abs(filepath.Join(p.Dir, path)); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(limited, path, p.Command[1:]...)
	cmd.Dir = p.Dir
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
		return ctx.Err()
	case limited.Err() != nil:
		return fmt.Errorf("%s did not answer within %v and was ended%s", name, timeout, p.quote(said))
	case out.full:
		return fmt.Errorf("%s answers with more than %d bytes", name, maxAnswer)
	case cmd.Process == nil:
		return &Error{fmt.Errorf("%s cannot be run: %w", name, err), "correct " + p.Named}
	}
	decodeErr := decode(out.kept, answer)
	switch {
	case decodeErr == nil && answer.failure() != nil:
		f := answer.failure()
		return &AnswerError{f.Code, p.clean(f.Message), p.clean(f.Hint)}
	case err != nil:
		return fmt.Errorf("%s: %w%s", name, err, p.quote(said))
	case decodeErr != nil:
		return fmt.Errorf("%s: %w%s", name, decodeErr, p.quote(said))
	}
	return nil
}

// decode reads an answer. Its errors quote nothing of it.
func decode(text []byte, answer any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(answer); err != nil {
		var wrongType *json.UnmarshalTypeError
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("it answers nothing")
		case errors.As(err, &wrongType):
			return fmt.Errorf("its answer has something of a wrong type at %q", wrongType.Field)
		}
		return errors.New("its answer is not JSON of the protocol's form")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows its answer")
	}
	return nil
}

// quote returns what was said on standard error, for the end of an error.
func (p *Program) quote(t *tail) string {
	text := p.clean(string(t.kept))
	if text == "" {
		return ""
	}
	return ": " + text
}

// clean makes one line of a text that a program wrote, with secrets masked.
func (p *Program) clean(text string) string {
	text = p.Redactor.String(strings.ToValidUTF8(text, "?"))
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
