package postgres

import (
	"errors"
	"strings"
)

// SetPassfile gives the lines of some roles in a password file another role and password, and returns the new text and how
// many lines it has changed. The fields of a line are host, port, database, user and password, with \ before a : or \ in
// them; lines that begin with # are comments (manual, 34.16 The Password File). A line for any role, *, is left alone: it is
// not known whose it is. Lines that are no such lines are kept as they are.
func SetPassfile(text string, users []string, user, password string) (string, int) {
	lines := strings.SplitAfter(text, "\n")
	changed := 0
	for i, line := range lines {
		body := strings.TrimRight(line, "\r\n")
		fields := passfileFields(body)
		if len(fields) != 5 || strings.HasPrefix(body, "#") || !contains(users, unescapePassfile(fields[3])) {
			continue
		}
		fields[3], fields[4] = EscapePassfile(user), EscapePassfile(password)
		lines[i] = strings.Join(fields, ":") + line[len(body):]
		changed++
	}
	return strings.Join(lines, ""), changed
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
