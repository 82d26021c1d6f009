package postgres

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// A Catalog is what one server knows of its parameters: its version and the rows of its pg_settings. It is immutable and
// safe for concurrent use.
type Catalog struct {
	version  Version
	settings map[string]Setting // by lower-case name
}

// NewCatalog returns the catalog of a server.
func NewCatalog(version Version, settings []Setting) *Catalog {
	c := &Catalog{version: version, settings: make(map[string]Setting, len(settings))}
	for _, s := range settings {
		c.settings[strings.ToLower(s.Name)] = s
	}
	return c
}

// Names returns the names of all parameters, in the server's spelling, sorted without regard to case.
func (c *Catalog) Names() []string {
	names := make([]string, 0, len(c.settings))
	for _, key := range slices.Sorted(maps.Keys(c.settings)) {
		names = append(names, c.settings[key].Name)
	}
	return names
}

// All returns all parameters with their names in lower case, in no order.
func (c *Catalog) All() iter.Seq2[string, Setting] { return maps.All(c.settings) }

// Lookup finds a parameter by its name without regard to case, or by an old name that the server still takes
// (ssl_ecdh_curve is ssl_groups from 18 on).
func (c *Catalog) Lookup(name string) (Setting, bool) {
	key := strings.ToLower(name)
	if s, ok := c.settings[key]; ok {
		return s, true
	}
	if alias, ok := oldNames[key]; ok {
		s, ok := c.settings[alias]
		return s, ok
	}
	return Setting{}, false
}

// CanonicalName returns the name, in lower case, under which a server of this version lists a parameter: for an old name that
// it still takes, the new one.
func CanonicalName(name string, version Version) string {
	key := strings.ToLower(name)
	now, ok := oldNames[key]
	if !ok || slices.ContainsFunc(history, func(h settingHistory) bool { return h.name == now && h.added > version.Major() }) {
		return key
	}
	return now
}

// An UnknownSettingError says that a server has no such parameter. One such line makes it refuse the whole configuration.
type UnknownSettingError struct {
	Name string
	Hint string // the nearest name, or the version that has it; may be empty
}

// Error returns the server's words, with the hint in brackets.
func (e *UnknownSettingError) Error() string {
	msg := fmt.Sprintf("unrecognized configuration parameter %q", e.Name)
	if e.Hint != "" {
		msg += " (" + e.Hint + ")"
	}
	return msg
}

// Check returns nil if the server would take the value for the parameter in a configuration file. The errors are
// [*UnknownSettingError] and [*ValueError]. A qualified name such as "myapp.tenant" that the server does not know is taken,
// as the server takes it; the values of pgaudit's own are judged even when the library is not loaded yet.
func (c *Catalog) Check(name, value string) error {
	s, err := c.resolve(name)
	if err != nil {
		return err
	}
	if s.Context == "internal" || inList(notInFiles, s.Name) {
		return &ValueError{Name: s.Name, Value: value, Msg: fmt.Sprintf("parameter %q cannot be changed", s.Name)}
	}
	if err := s.Check(value); err != nil {
		return err
	}
	return c.checkDestinations(s, value)
}

// resolve returns the row of a parameter, or one made up for an extension's.
func (c *Catalog) resolve(name string) (Setting, error) {
	if s, ok := c.Lookup(name); ok {
		return s, nil
	}
	if s, ok := pgauditSetting(name); ok {
		return s, nil
	}
	if prefix, _, qualified := strings.Cut(name, "."); qualified {
		if strings.EqualFold(prefix, "pgaudit") {
			return Setting{}, &UnknownSettingError{Name: name, Hint: didYouMean(nearest(name, pgauditNames()))}
		}
		if CheckConfName(name) != nil {
			return Setting{}, &UnknownSettingError{Name: name, Hint: "a custom parameter is two or more names joined by dots"}
		}
		return Setting{Name: name, VarType: "string", Context: "user"}, nil
	}
	return Setting{}, &UnknownSettingError{Name: name, Hint: c.hint(name)}
}

// hint says what to write instead of an unknown name.
func (c *Catalog) hint(name string) string {
	key := strings.ToLower(name)
	if wrong, ok := wrongNames[key]; ok {
		return wrong
	}
	for _, h := range history {
		if h.name != key {
			continue
		}
		switch {
		case h.added > c.version.Major():
			return withInstead(fmt.Sprintf("%s exists from PostgreSQL %d on; this server is %d", h.name, h.added, c.version.Major()), h.before)
		case h.removed > 0 && h.removed <= c.version.Major():
			return withInstead(fmt.Sprintf("%s is gone since PostgreSQL %d; this server is %d", h.name, h.removed, c.version.Major()), h.after)
		}
	}
	return didYouMean(nearest(name, c.Names()))
}

func withInstead(sentence, instead string) string {
	if instead == "" {
		return sentence
	}
	return sentence + "; " + instead
}

// checkDestinations judges log_destination, whose words depend on the version.
func (c *Catalog) checkDestinations(s Setting, value string) error {
	if s.Name != "log_destination" {
		return nil
	}
	known := []string{"stderr", "csvlog", "syslog"}
	if c.version.Major() >= 15 {
		known = []string{"stderr", "csvlog", "jsonlog", "syslog"}
	}
	list, err := ParseList(s.Name, value)
	if err != nil {
		return err
	}
	for _, word := range list {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, word) }) {
			return s.invalid(value, fmt.Sprintf("Unrecognized key word: %q. Available: %s.", word, strings.Join(known, ", ")))
		}
	}
	return nil
}

// checkString judges a list's syntax, and pgaudit's words.
func (s Setting) checkString(value string) error {
	if strings.EqualFold(s.Name, "pgaudit.log") {
		return checkPgauditLog(s, value)
	}
	if s.VarType != "string" || !IsList(s.Name) {
		return nil
	}
	if _, err := ParseList(s.Name, value); err != nil {
		return s.invalid(value, "List syntax is invalid.")
	}
	return nil
}

func inList(words, word string) bool { return strings.Contains(words, " "+word+" ") }
