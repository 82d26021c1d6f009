package inventory

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Selector says which instances are meant, as in --limit and a task's limit:
//
//	orders               what is called so: a host, an instance, a group or a replication cluster
//	pg0*                 hosts by a glob (path.Match); pg01/* the instances of a host
//	all                  every instance
//	role=standby         by what the server is at the moment: primary or standby, or either: role=primary|standby
//	eu,us                a comma adds: whoever is in one or the other
//	eu:role=primary      a colon narrows: whoever is in both
//	eu:!pg02             an exclamation mark excludes: eu but for pg02
//	eu,us,!pg02          standing alone between commas, it excludes from the whole: eu and us but for pg02
//	!pg02                all but for pg02
//
// The zero Selector means every instance.
type Selector struct {
	text         string
	alternatives []alternative
}

// An alternative is what stands between commas. If each of its terms is negated, it excludes from the whole.
type alternative struct {
	terms    []term
	excludes bool
}

// A term is what stands between colons.
type term struct {
	not    bool
	text   string   // without the !
	offset int      // of the text
	glob   bool     // the text is a glob
	roles  []string // of role=...
}

// A SelectorError is a mistake in a selector.
type SelectorError struct {
	Offset int // in bytes from the selector's start
	Column int // in characters, from 1
	Msg    string
}

// Error returns the mistake and its column.
func (e *SelectorError) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.Msg) }

// ParseSelector reads a selector. Its error is a [*SelectorError]. White space around names does not count, and an empty
// selector means every instance.
func ParseSelector(s string) (Selector, error) {
	sel := Selector{text: s}
	if strings.TrimSpace(s) == "" {
		return sel, nil
	}
	offset := 0
	for part := range strings.SplitSeq(s, ",") {
		alt := alternative{excludes: true}
		for text := range strings.SplitSeq(part, ":") {
			t, err := parseTerm(s, offset, text)
			if err != nil {
				return Selector{}, err
			}
			alt.terms = append(alt.terms, t)
			alt.excludes = alt.excludes && t.not
			offset += len(text) + 1
		}
		sel.alternatives = append(sel.alternatives, alt)
	}
	return sel, nil
}

// parseTerm reads the term at offset of the selector s.
func parseTerm(s string, offset int, text string) (term, error) {
	fail := func(at int, format string, args ...any) (term, error) { //nolint:unparam // so that a caller returns it in one word
		return term{}, newSelectorError(s, at, fmt.Sprintf(format, args...))
	}
	trimmed := strings.TrimLeft(text, " \t\r\n")
	t := term{offset: offset + len(text) - len(trimmed), text: strings.TrimRight(trimmed, " \t\r\n")}
	if rest, ok := strings.CutPrefix(t.text, "!"); ok {
		t.not, t.text = true, strings.TrimLeft(rest, " \t\r\n")
		t.offset += 1 + len(rest) - len(t.text)
	}
	if t.text == "" {
		return fail(t.offset, "a name is missing here")
	}
	if key, value, ok := strings.Cut(t.text, "="); ok {
		if key != "role" {
			return fail(t.offset, "%q cannot be asked for; only role=primary and role=standby can", key)
		}
		at := t.offset + len("role=")
		for role := range strings.SplitSeq(value, "|") {
			if role != "primary" && role != "standby" {
				return fail(at, "there is no role %q%s; a server is primary or standby", role, DidYouMean(role, []string{"primary", "standby"}))
			}
			t.roles = append(t.roles, role)
			at += len(role) + 1
		}
		return t, nil
	}
	for i, r := range t.text {
		switch {
		case isNameChar(r) || r == '/':
		case strings.ContainsRune("*?[]^", r):
			t.glob = true
		default:
			return fail(t.offset+i, "%q is not part of a name", r)
		}
	}
	if _, err := path.Match(t.text, ""); err != nil {
		return fail(t.offset, "%q is no valid glob", t.text)
	}
	return t, nil
}

func newSelectorError(s string, offset int, msg string) *SelectorError {
	return &SelectorError{Offset: offset, Column: 1 + utf8.RuneCountInString(s[:offset]), Msg: msg}
}

// isNameChar reports whether names may hold r.
func isNameChar(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_'
}

// String returns the selector as it was written.
func (s Selector) String() string { return s.text }

// NeedsRole reports whether it depends on which servers are primaries and standbys.
func (s Selector) NeedsRole() bool {
	for _, a := range s.alternatives {
		for _, t := range a.terms {
			if t.roles != nil {
				return true
			}
		}
	}
	return false
}

// An Answer says whether an instance is meant.
type Answer int

// Unknown is the answer when it depends on a role that is not known.
const (
	No Answer = iota
	Unknown
	Yes
)

// String returns no, unknown or yes.
func (a Answer) String() string { return [...]string{"no", "unknown", "yes"}[a] }

func (a Answer) not() Answer { return Yes - a }

func answer(b bool) Answer {
	if b {
		return Yes
	}
	return No
}

// Match reports whether the instance is meant. roleOf returns "primary" or "standby", or false when that is not known; it
// may be nil when no role is known.
func (s Selector) Match(i Instance, roleOf func(InstanceID) (string, bool)) Answer {
	in, out, onlyExcludes := No, No, true
	for _, a := range s.alternatives {
		if a.excludes {
			for _, t := range a.terms {
				out = max(out, t.match(i, roleOf))
			}
			continue
		}
		onlyExcludes = false
		all := Yes
		for _, t := range a.terms {
			m := t.match(i, roleOf)
			if t.not {
				m = m.not()
			}
			all = min(all, m)
		}
		in = max(in, all)
	}
	if onlyExcludes {
		in = Yes
	}
	return min(in, out.not())
}

// match answers for the term without its negation.
func (t term) match(i Instance, roleOf func(InstanceID) (string, bool)) Answer {
	switch {
	case t.roles != nil:
		if roleOf != nil {
			if role, ok := roleOf(i.ID()); ok {
				return answer(slices.Contains(t.roles, role))
			}
		}
		if slices.Contains(t.roles, "primary") && slices.Contains(t.roles, "standby") {
			return Yes
		}
		return Unknown
	case t.glob:
		name := i.Host.Name
		if strings.Contains(t.text, "/") {
			name += "/" + i.Name
		}
		ok, _ := path.Match(t.text, name)
		return answer(ok)
	}
	return answer(t.text == "all" || t.text == i.Host.Name || t.text == i.Host.Name+"/"+i.Name ||
		t.text == i.Replication || slices.Contains(i.Host.Groups, t.text))
}

// Select returns the fleet's instances that are meant, and those that may be, depending on their role.
func (s Selector) Select(f *Fleet, roleOf func(InstanceID) (string, bool)) (yes, unknown []Instance) {
	for _, i := range f.Instances() {
		switch s.Match(i, roleOf) {
		case Yes:
			yes = append(yes, i)
		case Unknown:
			unknown = append(unknown, i)
		}
	}
	return yes, unknown
}

// Check reports names that the fleet does not have and globs that match none of its hosts, each as a [*SelectorError].
func (s Selector) Check(f *Fleet) error {
	var errs []error
	for _, e := range s.check(f) {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

func (s Selector) check(f *Fleet) []*SelectorError {
	if len(s.alternatives) == 0 {
		return nil
	}
	var errs []*SelectorError
	known := f.names()
	for _, a := range s.alternatives {
		for _, t := range a.terms {
			switch {
			case t.roles != nil || t.text == "all":
			case t.glob:
				if !slices.ContainsFunc(f.Instances(), func(i Instance) bool { return t.match(i, nil) == Yes }) {
					errs = append(errs, newSelectorError(s.text, t.offset, fmt.Sprintf("%q matches no host", t.text)))
				}
			case !known.has(t.text):
				errs = append(errs, newSelectorError(s.text, t.offset,
					fmt.Sprintf("there is no host, group or replication cluster %q%s", t.text, DidYouMean(t.text, known.list))))
			}
		}
	}
	return errs
}

// names are what a selector may call.
type names struct {
	list []string
	set  map[string]bool
}

func (n *names) add(name string) {
	if name != "" && !n.set[name] {
		n.set[name] = true
		n.list = append(n.list, name)
	}
}

func (n *names) has(name string) bool { return n.set[name] }

// names returns the names of hosts, groups, replication clusters and instances.
func (f *Fleet) names() *names {
	n := &names{set: map[string]bool{}}
	for _, h := range f.Hosts {
		n.add(h.Name)
	}
	for _, g := range f.Groups {
		n.add(g.Name)
	}
	for _, i := range f.Instances() {
		n.add(i.Replication)
	}
	for _, i := range f.Instances() {
		n.add(i.Host.Name + "/" + i.Name)
	}
	n.add("all")
	return n
}
