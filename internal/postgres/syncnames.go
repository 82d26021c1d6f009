package postgres

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// SynchronousStandbyNames is a value of synchronous_standby_names (manual, 20.6.2 Primary Server): how many standbys a commit
// waits for, and which count.
type SynchronousStandbyNames struct {
	Number int // 0: no commit waits
	Any    bool
	Names  []string // "*" matches any
}

var syncForm = regexp.MustCompile(`(?is)^(?:(?:(FIRST|ANY)\s+)?([0-9]+)\s*\((.*)\)|(.*))$`)

// ParseSynchronousStandbyNames reads one. The error says what is malformed.
func ParseSynchronousStandbyNames(value string) (SynchronousStandbyNames, error) {
	value = strings.TrimSpace(value)
	if value == "" {
		return SynchronousStandbyNames{}, nil
	}
	m := syncForm.FindStringSubmatch(value)
	s := SynchronousStandbyNames{Number: 1, Any: strings.EqualFold(m[1], "ANY")}
	list := m[4]
	if m[2] != "" {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return s, fmt.Errorf("%q is no number of standbys", m[2])
		}
		s.Number, list = n, m[3]
	}
	rest := strings.TrimSpace(list)
	for {
		name, after, err := syncName(rest)
		if err != nil {
			return s, err
		}
		s.Names = append(s.Names, name)
		after = strings.TrimSpace(after)
		if after == "" {
			return s, nil
		}
		if after[0] != ',' {
			return s, fmt.Errorf("a comma is missing before %q", after)
		}
		rest = strings.TrimSpace(after[1:])
	}
}

// syncName takes one name off a list: a word, or one between double quotes.
func syncName(s string) (name, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ", \t\n")
		if end < 0 {
			end = len(s)
		}
		if end == 0 {
			return "", "", fmt.Errorf("a name is missing before %q", s)
		}
		return s[:end], s[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			b.WriteByte(s[i])
			continue
		}
		if strings.HasPrefix(s[i+1:], `"`) {
			b.WriteByte('"')
			i++
			continue
		}
		return b.String(), s[i+1:], nil
	}
	return "", "", fmt.Errorf("a quote is not closed in %q", s)
}

// Match reports whether a standby of that application_name counts. Names are compared without regard to case.
func (s SynchronousStandbyNames) Match(applicationName string) bool {
	for _, n := range s.Names {
		if n == "*" || strings.EqualFold(n, applicationName) {
			return true
		}
	}
	return false
}
