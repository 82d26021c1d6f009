package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/inventory"
)

// A ParseError is one mistake in a configuration file. The caller adds the name of the file.
type ParseError struct {
	Line   int    // from 1
	Column int    // from 1, in bytes; 0 when the whole line is meant
	Msg    string // what is wrong, in the server's words where it has some
	Hint   string // what to do; may be empty
}

// Error returns "line 4, column 9: message (hint)".
func (e *ParseError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "line %d", e.Line)
	if e.Column > 0 {
		fmt.Fprintf(&b, ", column %d", e.Column)
	}
	b.WriteString(": ")
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// ParseErrors returns the single mistakes in an error of [ParseConf], [ParseHBA] or [ParseIdent], in the order of the file.
func ParseErrors(err error) []*ParseError {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*ParseError
		for _, one := range many.Unwrap() {
			all = append(all, ParseErrors(one)...)
		}
		return all
	}
	var one *ParseError
	if errors.As(err, &one) {
		return []*ParseError{one}
	}
	return nil
}

// joinParseErrors returns nil when there are none.
func joinParseErrors(list []*ParseError) error {
	slices.SortStableFunc(list, func(a, b *ParseError) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	errs := make([]error, len(list))
	for i, e := range list {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// didYouMean returns `did you mean "x"?`, or nothing when x is empty.
func didYouMean(x string) string {
	if x == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", x)
}

// nearest returns the name closest to a misspelt one, or "" when none is near.
func nearest(name string, known []string) string {
	near, _ := inventory.Nearest(name, known)
	return near
}
