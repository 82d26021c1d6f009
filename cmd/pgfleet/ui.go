package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// This file is the only place that prints. Everything goes through one
// Redactor, in whole texts, so that no secret that a host sends back is seen.

// A terminal is where a command runs.
type terminal struct {
	In, Out, Err *os.File
	LookupEnv    func(string) (string, bool)
}

// A ui prints. Its methods may be called concurrently.
type ui struct {
	term     terminal
	redactor *secrets.Redactor
	style    style
	verbose  bool
	outTTY   bool
	errTTY   bool

	mu   sync.Mutex
	area []string // lines at the bottom of the terminal that are drawn over and over
}

func newUI(t terminal) *ui {
	u := &ui{term: t, redactor: secrets.NewRedactor()}
	u.outTTY = t.Out != nil && term.IsTerminal(int(t.Out.Fd()))
	u.errTTY = t.Err != nil && term.IsTerminal(int(t.Err.Fd()))
	u.Configure(false, false)
	return u
}

// Configure takes the flags over.
func (u *ui) Configure(verbose, noColor bool) {
	u.verbose = verbose
	no, _ := u.term.LookupEnv("NO_COLOR")
	kind, _ := u.term.LookupEnv("TERM")
	u.style = newStyle(u.outTTY && !noColor && no == "" && kind != "dumb")
}

// Interactive reports whether somebody can be asked.
func (u *ui) Interactive() bool {
	return u.term.In != nil && term.IsTerminal(int(u.term.In.Fd())) && u.errTTY
}

// Live reports whether progress can be drawn over and over.
func (u *ui) Live() bool {
	kind, _ := u.term.LookupEnv("TERM")
	return u.errTTY && kind != "dumb"
}

// Print writes a text to standard output, with a newline at its end.
func (u *ui) Print(text string) { u.write(u.term.Out, text) }

// Note writes a remark to standard error.
func (u *ui) Note(text string) { u.write(u.term.Err, text) }

// Error writes an error to standard error, unless it was reported already.
func (u *ui) Error(err error) {
	if err == nil || errors.Is(err, errHostFailed) || errors.Is(err, errChangesDue) {
		return
	}
	var many inventory.Errors
	if errors.As(err, &many) {
		// Each begins with its place, as editors expect it.
		u.Note(clean(many.Error()) + "\npgfleet: " + count(len(many), "mistake", "mistakes"))
		return
	}
	u.Note("pgfleet: " + clean(err.Error()))
}

// Value writes a secret to standard output, past the Redactor: for the one command
// that is asked for it. Every byte is the secret's; where a person looks at it, a
// newline follows, and what the terminal would obey is refused.
func (u *ui) Value(value secrets.Secret) error {
	b := value.Expose()
	if u.outTTY {
		if !utf8.Valid(b) || bytes.ContainsFunc(b, isControl) {
			return errors.New("the value holds characters that a terminal would obey instead of showing them; send it to a file or a program")
		}
		b = append(bytes.TrimSuffix(b, []byte("\n")), '\n')
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	_, err := u.term.Out.Write(b)
	u.redraw()
	return err
}

// JSON writes a value to standard output.
func (u *ui) JSON(v any) error {
	text, err := encode(v)
	if err != nil {
		return err
	}
	// Strings are redacted one by one: a mask must not swallow a quote.
	text = jsonString.ReplaceAllFunc(text, func(quoted []byte) []byte {
		var s string
		if json.Unmarshal(quoted, &s) != nil {
			return quoted
		}
		masked := u.redactor.String(s)
		if masked == s {
			return quoted
		}
		quoted, _ = encode(masked) // a string can always be encoded
		return bytes.TrimSpace(quoted)
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	_, err = u.term.Out.Write(text)
	u.redraw()
	return err
}

// encode returns JSON for people and programs: indented, with <, > and & as they
// are, and with escapes for what a terminal would obey.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return escapeControls(b.Bytes()), err
}

// escapeControls writes the control characters that encoding/json leaves as they
// are in the form \uXXXX. They stand in strings only. A byte that is no UTF-8,
// which a json.RawMessage may hold, becomes U+FFFD as elsewhere.
func escapeControls(text []byte) []byte {
	if utf8.Valid(text) && !bytes.ContainsFunc(text, isControl) {
		return text
	}
	var b bytes.Buffer
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\ufffd`)
		case !isControl(r):
			b.Write(text[:n])
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		}
		text = text[n:]
	}
	return b.Bytes()
}

var jsonString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// Out returns a writer for whole lines on standard output.
func (u *ui) Out() io.Writer { return &lineWriter{print: u.Print} }

// Err returns a writer for whole lines on standard error.
func (u *ui) Err() io.Writer { return &lineWriter{print: u.Note} }

// A lineWriter prints once a line is whole, because a template is written in
// pieces.
type lineWriter struct {
	print   func(string)
	pending strings.Builder
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.pending.Write(b)
	if strings.HasSuffix(w.pending.String(), "\n") {
		w.print(w.pending.String())
		w.pending.Reset()
	}
	return len(b), nil
}

func (u *ui) write(f *os.File, text string) {
	if text == "" {
		return
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	io.WriteString(f, u.redactor.String(text)) //nolint:errcheck // nobody is left to tell
	u.redraw()
}

// Draw replaces the lines at the bottom of the terminal.
func (u *ui) Draw(lines []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.erase()
	width, height := u.size()
	if len(lines) > height-1 {
		lines = lines[:height-1]
	}
	u.area = nil
	for _, line := range lines {
		u.area = append(u.area, ansi.Truncate(u.redactor.String(line), width-1, "…"))
	}
	u.redraw()
}

// Height returns how many lines the terminal has.
func (u *ui) Height() int {
	_, height := u.size()
	return height
}

func (u *ui) size() (width, height int) {
	width, height, err := term.GetSize(int(u.term.Err.Fd()))
	if err != nil || width < 20 || height < 4 {
		return 80, 24
	}
	return width, height
}

func (u *ui) erase() {
	if len(u.area) > 0 {
		fmt.Fprint(u.term.Err, ansi.CursorUp(len(u.area))+"\r"+ansi.EraseScreenBelow)
	}
}

func (u *ui) redraw() {
	if len(u.area) > 0 {
		fmt.Fprint(u.term.Err, strings.Join(u.area, "\n")+"\n")
	}
}

// Close takes the drawn lines away.
func (u *ui) Close() { u.Draw(nil) }

// Ask asks a question and returns the answer.
func (u *ui) Ask(ctx context.Context, question string) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fmt.Fprint(u.term.Err, u.redactor.String(question))
	type answer struct {
		text string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(u.term.In).ReadString('\n')
		got <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-got:
		if a.err != nil && !errors.Is(a.err, io.EOF) {
			return "", a.err
		}
		return a.text, nil
	case <-ctx.Done():
		fmt.Fprintln(u.term.Err)
		return "", errors.New("interrupted; nothing was changed")
	}
}

// Secret asks for a secret on the terminal, whatever standard input is.
func (u *ui) Secret(ctx context.Context, prompt string) (secrets.Secret, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return secrets.Secret{}, errors.New("there is no terminal to ask on")
	}
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		tty.Close()
		return secrets.Secret{}, err
	}
	u.erase()
	fmt.Fprint(tty, prompt+": ")
	type answer struct {
		value []byte
		err   error
	}
	got := make(chan answer, 1)
	go func() {
		value, err := term.ReadPassword(fd)
		got <- answer{value, err}
	}()
	select {
	case a := <-got:
		fmt.Fprintln(tty)
		tty.Close()
		u.redraw()
		if a.err != nil {
			return secrets.Secret{}, a.err
		}
		s := secrets.New(a.value)
		clear(a.value)
		return s, nil
	case <-ctx.Done():
		// The reader cannot be interrupted; the terminal must show again what
		// is typed.
		_ = term.Restore(fd, before)
		fmt.Fprintln(tty)
		return secrets.Secret{}, ctx.Err()
	}
}

// Clean makes a text that came from elsewhere fit for a terminal: placeholders
// are masked, and control characters are shown and not obeyed, as strconv.Quote
// writes them.
func clean(text string) string {
	text = secrets.MaskPlaceholders(text)
	if utf8.ValidString(text) && !strings.ContainsFunc(text, isControl) {
		return text
	}
	var b strings.Builder
	for text != "" {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1: // a byte alone; 0x9b is CSI to some terminals
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case !isControl(r):
			b.WriteRune(r)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		text = text[n:]
	}
	return b.String()
}

// isControl reports whether a terminal may do something else with a character
// than show it: C0 and C1 controls, and what is unseen or changes the direction
// of the text around it, with which a line can look like another one.
func isControl(r rune) bool {
	return r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}
