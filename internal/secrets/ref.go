package secrets

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// refForm is shown with every error about a reference.
const refForm = `a secret is named as STORE:PATH, STORE:PATH#KEY or STORE:PATH#KEY@VERSION, such as "age:prod/appuser#password" or "env:APPUSER_PASSWORD"`

// A Ref names a secret: where it is, never what it is. It is written as
//
//	STORE:PATH#KEY@VERSION
//
// where #KEY and @VERSION may be left out. In PATH and KEY the characters #, @ and
// % are written as %23, %40 and %25. A Ref can be compared with == and may be
// printed, logged and saved.
type Ref struct {
	Store   string // "age", "env", "file"
	Path    string // where in the store, unescaped
	Key     string // which of the entry's values; "" means its only one
	Version string // a version's ID or a [Stage]; "" means the current one
}

// ParseRef reads the written form of a reference.
func ParseRef(s string) (Ref, error) {
	r, err := parseRef(s)
	if err != nil {
		return Ref{}, malformed(s, err)
	}
	return r, nil
}

// malformed says which reference is wrong, and of one whose form is wrong what it is
// to be.
func malformed(s string, err error) error {
	if _, ok := errors.AsType[pathError](err); ok {
		// Not with a colon: behind "#password": a Redactor takes the next word for a
		// password.
		return fmt.Errorf("secret %q cannot be, because %w", s, err)
	}
	return fmt.Errorf("secret %q: %w; %s", s, err, refForm)
}

// A pathError is a path that its store does not take.
type pathError struct{ error }

func parseRef(s string) (Ref, error) {
	store, rest, found := strings.Cut(s, ":")
	if !found {
		return Ref{}, errors.New("no store is named before a colon")
	}
	rest, version, hasVersion := strings.Cut(rest, "@")
	if hasVersion && version == "" {
		return Ref{}, errors.New("nothing follows the @")
	}
	path, key, hasKey := strings.Cut(rest, "#")
	if hasKey && key == "" {
		return Ref{}, errors.New("nothing follows the #")
	}
	r := Ref{Store: store, Version: version}
	var err error
	if r.Path, err = unescapeRef(path); err != nil {
		return Ref{}, err
	}
	if r.Key, err = unescapeRef(key); err != nil {
		return Ref{}, err
	}
	return r, r.check()
}

// Check returns an error if r is not what ParseRef could have returned.
func (r Ref) Check() error {
	if err := r.check(); err != nil {
		return malformed(r.String(), err)
	}
	return nil
}

func (r Ref) check() error {
	switch {
	case r.Store == "":
		return errors.New("no store is named before the colon")
	case !isStoreName(r.Store):
		return fmt.Errorf("the store %q is not a lower-case word", r.Store)
	case r.Path == "":
		return errors.New("no path follows the store")
	}
	if err := checkRefPart("path", r.Path); err != nil {
		return err
	}
	if err := checkRefPart("key", r.Key); err != nil {
		return err
	}
	// A template in a path may have left a part of it empty.
	if r.Store == ageName {
		if _, err := fileName(r.Path); err != nil {
			return pathError{err}
		}
	}
	for _, c := range []byte(r.Version) {
		if !isVersionByte(c) {
			return fmt.Errorf("the version %q holds other characters than letters, digits, '.', '_' and '-'", r.Version)
		}
	}
	return nil
}

func isStoreName(s string) bool {
	for i, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '-'):
		default:
			return false
		}
	}
	return s != ""
}

func isVersionByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._-", c) >= 0
}

func checkRefPart(what, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("the %s is not UTF-8", what)
	}
	if s != strings.TrimSpace(s) {
		return fmt.Errorf("the %s begins or ends with a space", what)
	}
	for _, c := range s {
		if unicode.IsControl(c) || c == tokenStart || c == tokenEnd {
			return fmt.Errorf("the %s holds the character %U", what, c)
		}
	}
	return nil
}

// unescapeRef undoes escapeRef.
func unescapeRef(s string) (string, error) {
	if i := strings.IndexAny(s, "#@"); i >= 0 {
		return "", fmt.Errorf("a second %q stands in it (write it as %%%02X)", s[i:i+1], s[i])
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "%")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		switch {
		case strings.HasPrefix(after, "23"):
			b.WriteByte('#')
		case strings.HasPrefix(after, "25"):
			b.WriteByte('%')
		case strings.HasPrefix(after, "40"):
			b.WriteByte('@')
		default:
			return "", errors.New("a % is followed by something else than 23 (#), 40 (@) or 25 (%)")
		}
		s = after[2:]
	}
}

func escapeRef(s string) string {
	return strings.NewReplacer("%", "%25", "#", "%23", "@", "%40").Replace(s)
}

// String returns the written form, which ParseRef reads.
func (r Ref) String() string {
	s := r.Store + ":" + escapeRef(r.Path)
	if r.Key != "" {
		s += "#" + escapeRef(r.Key)
	}
	if r.Version != "" {
		s += "@" + r.Version
	}
	return s
}

// At returns the same reference with its version set.
func (r Ref) At(version string) Ref {
	r.Version = version
	return r
}

// MarshalText returns the written form, for JSON and TOML.
func (r Ref) MarshalText() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads the written form.
func (r *Ref) UnmarshalText(text []byte) error {
	parsed, err := ParseRef(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}
