package postgres

import (
	"fmt"
	"strings"
)

// A Conninfo is a connection string of keywords and values, in their order (manual, 34.1.1.1 Keyword/Value Connection Strings).
type Conninfo []ConninfoParameter

// A ConninfoParameter is one keyword with its value.
type ConninfoParameter struct{ Name, Value string }

// ParseConninfo reads a connection string. The error does not hold it, because it may hold a password. The other form, a URI,
// is an error.
func ParseConninfo(s string) (Conninfo, error) {
	var list Conninfo
	rest := strings.TrimLeft(s, whiteSpace)
	if strings.HasPrefix(rest, "postgresql://") || strings.HasPrefix(rest, "postgres://") {
		return nil, fmt.Errorf("it is a URI, and not keywords and values")
	}
	for rest != "" {
		name, after, ok := strings.Cut(rest, "=")
		name = strings.TrimRight(name, whiteSpace)
		if !ok || name == "" || strings.ContainsAny(name, whiteSpace) {
			return nil, fmt.Errorf("a keyword without = stands behind the %d. parameter", len(list))
		}
		value, after, err := conninfoValue(strings.TrimLeft(after, whiteSpace))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, ConninfoParameter{name, value})
		rest = strings.TrimLeft(after, whiteSpace)
	}
	return list, nil
}

const whiteSpace = " \t\n\r\v\f"

func conninfoValue(s string) (value, rest string, err error) {
	var b strings.Builder
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
		case quoted && s[i] == '\'':
			return b.String(), s[i+1:], nil
		case !quoted && strings.IndexByte(whiteSpace, s[i]) >= 0:
			return b.String(), s[i:], nil
		}
		b.WriteByte(s[i])
	}
	if quoted {
		return "", "", fmt.Errorf("the quote is not closed")
	}
	return b.String(), "", nil
}

// Get returns the value of a keyword, the last one where it stands twice, as libpq takes it; "" where it does not.
func (c Conninfo) Get(name string) string {
	for i := len(c) - 1; i >= 0; i-- {
		if c[i].Name == name {
			return c[i].Value
		}
	}
	return ""
}

// With returns a copy in which the keyword has the value, at the end, and stands nowhere else; one without it if the value is "".
func (c Conninfo) With(name, value string) Conninfo {
	var n Conninfo
	for _, p := range c {
		if p.Name != name {
			n = append(n, p)
		}
	}
	if value != "" {
		n = append(n, ConninfoParameter{name, value})
	}
	return n
}

// String writes the connection string, every value quoted.
func (c Conninfo) String() string {
	var parts []string
	for _, p := range c {
		parts = append(parts, p.Name+"='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(p.Value)+"'")
	}
	return strings.Join(parts, " ")
}
