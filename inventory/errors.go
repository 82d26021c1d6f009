package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Position is a place in a file. The zero Position is no place.
type Position struct {
	File   string
	Line   int // from 1
	Column int // in characters, from 1
}

// String returns file:line:column, which editors and terminals turn into a link.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// After returns the position after a text that begins at p.
func (p Position) After(text string) Position {
	if n := strings.Count(text, "\n"); n > 0 {
		p.Line += n
		p.Column = 1
		text = text[strings.LastIndexByte(text, '\n')+1:]
	}
	p.Column += utf8.RuneCountInString(text)
	return p
}

func (p Position) compare(q Position) int {
	return cmp.Or(cmp.Compare(p.File, q.File), cmp.Compare(p.Line, q.Line), cmp.Compare(p.Column, q.Column))
}

// An Error is one mistake in a file.
type Error struct {
	Pos Position
	Msg string
}

// Error returns file:line:column: message.
func (e Error) Error() string {
	if e.Pos == (Position{}) {
		return e.Msg
	}
	return e.Pos.String() + ": " + e.Msg
}

// Errors are the mistakes found in one go.
type Errors []Error

// Error returns one mistake per line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find each Error.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// Err returns es sorted by position and without repetitions, or nil when there is no mistake.
func (es Errors) Err() error {
	if len(es) == 0 {
		return nil
	}
	return es.Sorted()
}

// Sorted returns the mistakes by file, line and column, each once. es itself stays as it is.
func (es Errors) Sorted() Errors {
	s := slices.Clone(es)
	slices.SortStableFunc(s, func(a, b Error) int { return cmp.Or(a.Pos.compare(b.Pos), strings.Compare(a.Msg, b.Msg)) })
	return slices.Compact(s)
}

// Add appends a mistake at pos.
func (es *Errors) Add(pos Position, format string, args ...any) {
	*es = append(*es, Error{pos, fmt.Sprintf(format, args...)})
}
