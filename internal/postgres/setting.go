package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// A Setting is a row of the view pg_settings of one server. Empty strings stand for NULL.
type Setting struct {
	Name           string
	Setting        string   // the running value, in base units
	Unit           string   // "kB", "8kB", "MB", "B", "ms", "s", "min" or ""
	Category       string   // may be empty
	Context        string   // "internal", "postmaster", "sighup", "superuser-backend", "backend", "superuser", "user"
	VarType        string   // "bool", "integer", "real", "string", "enum"
	Source         string   // "default", "configuration file", "command line", ...
	MinVal         string   // of a number
	MaxVal         string   // of a number
	EnumVals       []string // of an enum, without the hidden spellings
	BootVal        string
	ResetVal       string
	SourceFile     string
	SourceLine     int
	PendingRestart bool // sticky: stays true when the line that caused it is gone again
}

// A ValueError says why the server would refuse a value.
type ValueError struct {
	Name  string
	Value string
	Msg   string // in the server's words
	Hint  string // may be empty
}

// Error returns the message, with the hint in brackets.
func (e *ValueError) Error() string {
	if e.Hint == "" {
		return e.Msg
	}
	return e.Msg + " (" + e.Hint + ")"
}

// NeedsRestart reports whether a change takes effect only when the server starts.
func (s Setting) NeedsRestart() bool { return s.Context == "postmaster" }

// Running returns the value to compare a file with: [Setting.Setting], but for the tcp_ parameters, whose shown value is that of
// the asking session's own socket (always 0 on a Unix socket), the session's default.
func (s Setting) Running() string {
	if strings.HasPrefix(s.Name, "tcp_keepalives_") || s.Name == "tcp_user_timeout" {
		return s.ResetVal
	}
	return s.Setting
}

// Check returns nil if the server would take value for the parameter in a configuration file, and a [*ValueError] with its
// message if not. What only the server itself can find out is not judged: whether a file exists, a time zone is known, or two
// parameters go together.
func (s Setting) Check(value string) error {
	_, err := s.Normalize(value)
	return err
}

// Normalize returns value as pg_settings.setting shows it: a number in base units without its unit, on or off, an enum's own spelling.
// Strings come back unchanged. The error is that of [Setting.Check].
func (s Setting) Normalize(value string) (string, error) {
	if strings.IndexByte(value, 0) >= 0 {
		return "", s.invalid(value, "a value cannot hold a zero byte")
	}
	switch s.VarType {
	case "bool":
		b, ok := parseBool(value)
		if !ok {
			return "", s.refuse(value, fmt.Sprintf("parameter %q requires a Boolean value", s.Name), "on or off")
		}
		return onOff(b), nil
	case "integer":
		return s.normalizeInteger(value)
	case "real":
		return s.normalizeReal(value)
	case "enum":
		return s.normalizeEnum(value)
	}
	return value, s.checkString(value)
}

// Equal reports whether a value from a file means the running one, as [Setting.Running] gives it. Where the server replaces what was written with
// something it works out itself (wal_buffers = -1, archive_command while archiving is off), any running value is taken as equal.
func (s Setting) Equal(fileValue, running string) bool {
	if fileValue == running {
		return true
	}
	want, err := s.Normalize(fileValue)
	if err != nil {
		return false
	}
	if s.serverDecides(want, running) {
		return true
	}
	have, err := s.Normalize(running)
	if err != nil {
		return want == running
	}
	if s.VarType == "string" {
		return equalStrings(s.Name, want, have)
	}
	return want == have
}

// serverDecides reports whether the server shows something else than what is written, by design.
func (s Setting) serverDecides(want, running string) bool {
	switch s.Name {
	case "wal_buffers", "io_max_concurrency":
		return want == "-1"
	case "commit_timestamp_buffers", "subtransaction_buffers", "transaction_buffers":
		return want == "0"
	case "archive_command":
		return running == "(disabled)"
	}
	return false
}

// equalStrings compares two values of a string parameter, each in the way that its own reader does.
func equalStrings(name, a, b string) bool {
	switch strings.ToLower(name) {
	case "datestyle":
		return strings.EqualFold(withoutSpaces(a), withoutSpaces(b))
	case "timezone", "log_timezone":
		return strings.EqualFold(a, b)
	case "client_encoding":
		return encodingKey(a) == encodingKey(b)
	case "synchronous_standby_names":
		return tight(a) == tight(b)
	}
	if !IsList(name) {
		return a == b
	}
	return EqualLists(name, a, b)
}

// encodingKey drops what pg_char_to_encoding ignores in an encoding's name.
func encodingKey(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, s)
}

func withoutSpaces(s string) string { return strings.Join(strings.Fields(s), "") }

// tight returns s with one blank between words and none around punctuation, outside of double quotes.
func tight(s string) string {
	var b strings.Builder
	quoted, gap := false, false
	for _, c := range []byte(s) {
		if c == '"' {
			quoted = !quoted
		}
		if !quoted && strings.IndexByte(" \t\r\n", c) >= 0 {
			gap = true
			continue
		}
		last := byte('(')
		if b.Len() > 0 {
			last = b.String()[b.Len()-1]
		}
		if gap && !quoted && strings.IndexByte("(),", c) < 0 && strings.IndexByte("(),", last) < 0 {
			b.WriteByte(' ')
		}
		gap = false
		b.WriteByte(c)
	}
	return b.String()
}

func (s Setting) refuse(value, msg, hint string) *ValueError {
	return &ValueError{Name: s.Name, Value: value, Msg: msg, Hint: hint}
}

func (s Setting) invalid(value, hint string) *ValueError {
	return s.refuse(value, fmt.Sprintf("invalid value for parameter %q: %q", s.Name, value), hint)
}

// parseBool takes the spellings of parse_bool: unique prefixes of true, false, yes, no, on, off, and 1 and 0.
func parseBool(value string) (b, ok bool) {
	v := strings.ToLower(value)
	switch {
	case v == "" || v == "o":
		return false, false
	case v == "1", strings.HasPrefix("true", v), strings.HasPrefix("yes", v), v == "on":
		return true, true
	case v == "0", strings.HasPrefix("false", v), strings.HasPrefix("no", v), strings.HasPrefix("off", v):
		return false, true
	}
	return false, false
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// normalizeEnum compares without regard to case and knows the spellings that pg_settings.enumvals hides.
func (s Setting) normalizeEnum(value string) (string, error) {
	if s.Name == "wal_compression" && slices.Contains(s.EnumVals, "pglz") {
		switch strings.ToLower(value) {
		case "on", "true", "yes", "1": // from 15 on other words for it
			return "pglz", nil
		}
	}
	for _, e := range s.EnumVals {
		if strings.EqualFold(e, value) {
			return e, nil
		}
	}
	if hidden := s.hiddenEnum(strings.ToLower(value)); hidden != "" {
		return hidden, nil
	}
	hint := "Available values: " + strings.Join(s.EnumVals, ", ") + "."
	if near := nearest(value, s.EnumVals); near != "" {
		hint += fmt.Sprintf(" Did you mean %q?", near)
	}
	return "", s.invalid(value, hint)
}

// hiddenEnum returns what a hidden spelling stands for.
func (s Setting) hiddenEnum(value string) string {
	listed := func(name string) bool { return slices.Contains(s.EnumVals, name) }
	switch {
	case listed("on") && (value == "true" || value == "yes" || value == "1"):
		return "on"
	case listed("off") && (value == "false" || value == "no" || value == "0"):
		return "off"
	case listed("debug2") && value == "debug":
		return "debug2"
	case value == "info" && (s.Name == "client_min_messages" || s.Name == "trace_recovery_messages" || s.Name == "icu_validation_level"):
		return "info"
	case s.Name == "wal_level" && (value == "archive" || value == "hot_standby"):
		return "replica"
	}
	return ""
}
