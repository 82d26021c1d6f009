package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A PassfileServer is a server as a client names it, and so as a password file does.
type PassfileServer struct{ Host, Port string }

// SetPassfile gives the lines of some roles of some servers in a password file another role and password, and returns the new
// text and how many lines it has changed. The fields of a line are host, port, database, user and password, with \ before a :
// or \ in them; lines that begin with # are comments (manual, 34.16 The Password File). A line for any role, *, is left alone:
// it is not known whose it is. Lines that are no such lines are kept as they are.
//
// A line for any host or port, *, is one of these servers' if no line of these roles is for another server that it would
// match too; otherwise it is an error, which names the lines by their numbers.
func SetPassfile(text string, servers []PassfileServer, users []string, user, password string) (string, int, error) {
	lines := strings.SplitAfter(text, "\n")
	var mine, wild, others []int
	named := map[int]PassfileServer{}
	for i, line := range lines {
		body := strings.TrimRight(line, "\r\n")
		fields := passfileFields(body)
		if len(fields) != 5 || strings.HasPrefix(body, "#") || !contains(users, unescapePassfile(fields[3])) {
			continue
		}
		s := PassfileServer{unescapePassfile(fields[0]), unescapePassfile(fields[1])}
		named[i] = s
		switch isWild := s.Host == "*" || s.Port == "*"; {
		case !slices.ContainsFunc(servers, s.covers):
			others = append(others, i)
			continue
		case isWild:
			wild = append(wild, i)
		}
		mine = append(mine, i)
		fields[3], fields[4] = EscapePassfile(user), EscapePassfile(password)
		lines[i] = strings.Join(fields, ":") + line[len(body):]
	}
	for _, w := range wild {
		for _, o := range others {
			if h := named[w].Host; h == "*" || h == named[o].Host {
				return text, 0, fmt.Errorf("line %d is for %s:%s, and it cannot be told whether for another server too, because line %d is for %s:%s; write in its place a line for each server, such as %s:%s:*:%s:password",
					w+1, h, named[w].Port, o+1, named[o].Host, named[o].Port, EscapePassfile(servers[0].Host), servers[0].Port, EscapePassfile(user))
			}
		}
	}
	return strings.Join(lines, ""), len(mine), nil
}

// covers reports whether a line for s, which may have *, is one for the server too.
func (s PassfileServer) covers(server PassfileServer) bool {
	return (s.Host == "*" || s.Host == server.Host) && (s.Port == "*" || s.Port == server.Port)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// EscapePassfile escapes a field of a password file.
func EscapePassfile(field string) string {
	return strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(field)
}

// passfileFields splits a line at its colons, and leaves the fields escaped. What follows the fourth is the password, whose
// colons libpq takes as they are.
func passfileFields(line string) []string {
	var fields []string
	start := 0
	for i := 0; i < len(line) && len(fields) < 4; i++ {
		switch line[i] {
		case '\\':
			i++
		case ':':
			fields = append(fields, line[start:i])
			start = i + 1
		}
	}
	return append(fields, line[start:])
}

func unescapePassfile(field string) string {
	var b strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] == '\\' && i+1 < len(field) {
			i++
		}
		b.WriteByte(field[i])
	}
	return b.String()
}

// SetUserlist gives a role its line in PgBouncer's auth_file: "name" "secret", with "" for a " in either (pgbouncer
// documentation, Authentication file format). A role that has no line gets one at the end; others stay as they are.
func SetUserlist(text, user, secret string) (string, error) {
	if strings.ContainsAny(user+secret, "\r\n\x00") {
		return "", errors.New("a name with a line break cannot be in an auth_file")
	}
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	wanted := quote(user) + " " + quote(secret)
	lines := strings.SplitAfter(text, "\n")
	found := false
	for i, line := range lines {
		body := strings.TrimRight(line, "\r\n")
		if !strings.HasPrefix(strings.TrimLeft(body, " \t"), quote(user)) {
			continue
		}
		if rest := strings.TrimLeft(body, " \t")[len(quote(user)):]; rest != "" && rest[0] == '"' {
			continue // a longer name, that begins with this one and a quote
		}
		lines[i], found = wanted+line[len(body):], true
	}
	text = strings.Join(lines, "")
	if found {
		return text, nil
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + wanted + "\n", nil
}
