package postgres

import (
	"cmp"
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

// Servers returns the servers that it names, as a password file names them: by host, or else hostaddr, each of which may be a
// list with commas, and port, 5432 by default. A server whose socket is meant is localhost too (manual, 34.16 The Password File).
func (c Conninfo) Servers() []PassfileServer {
	hosts, addresses, ports := strings.Split(c.Get("host"), ","), strings.Split(c.Get("hostaddr"), ","), strings.Split(c.Get("port"), ",")
	at := func(list []string, i int) string {
		if i < len(list) {
			return list[i]
		}
		return ""
	}
	var list []PassfileServer
	for i := range max(len(hosts), len(addresses)) {
		host, port := cmp.Or(at(hosts, i), at(addresses, i)), at(ports, i)
		if len(ports) == 1 {
			port = ports[0]
		}
		port = cmp.Or(port, "5432")
		if host == "" || host[0] == '/' || host[0] == '@' {
			list = append(list, PassfileServer{"localhost", port})
		}
		if host != "" {
			list = append(list, PassfileServer{host, port})
		}
	}
	return list
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
