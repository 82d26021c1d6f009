package adopt

import (
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// A described is a task about what databases hold, while it is put together.
type described struct {
	name, kind string
	pairs      []pair
	tables     []string // "[task.settings]" and what follows
	roles      []string // that it names
	why        []string // it must stay a comment

	templateKey bool // a name would be taken for a template where it is a key
}

func (t *described) add(key, value string) { t.pairs = append(t.pairs, pair{key, value}) }

// refuse makes the task a comment and says why. What was found on a host goes
// through oneLine before it gets here.
func (t *described) refuse(format string, args ...any) {
	t.why = append(t.why, fmt.Sprintf(format, args...))
}

// comment adds a COMMENT, unless it looks like a note of a password.
func (t *described) comment(text string) {
	switch {
	case text == "":
	case conninfoPassword.MatchString(text), uriPassword.MatchString(text), assigned.MatchString(text), hasForm(text):
	default:
		t.add("comment", literal(text))
	}
}

// write writes the task, or a comment where it cannot be one.
func (d *describer) write(t described) {
	for _, name := range t.roles {
		if keyword(name) {
			t.refuse("a role is named %s, which is a word of SQL's own here", oneLine(name))
		}
	}
	name := d.name(plain(t.name))
	all := name + strings.Join(t.tables, "")
	for _, p := range t.pairs {
		all += p.value
	}
	if !writable(all) || secrets.HasPlaceholder(all) {
		t.refuse("it holds characters that cannot be written here")
		for i, p := range t.pairs {
			t.pairs[i].value = strings.ToValidUTF8(p.value, "?")
		}
		for i, table := range t.tables {
			t.tables[i] = strings.ToValidUTF8(table, "?")
		}
	}
	if t.templateKey {
		t.refuse("a name with {{ in it cannot be the name of a table here")
	}
	d.blank()
	for _, why := range t.why {
		d.remark("Not taken over, and left as it is: %s.", why)
		d.warn("%s is not taken over: %s", oneLine(t.name), why)
	}
	d.task(len(t.why) > 0, name, t.kind, d.id, t.pairs...)
	for _, table := range t.tables {
		d.block(len(t.why) > 0, table)
	}
}

// keyword reports whether a task would take a role's name for something else.
func keyword(role string) bool {
	switch strings.ToLower(role) {
	case "public", "current_user", "current_role", "session_user":
		return true
	}
	return false
}

// plain returns a name as a part of a task's: on one line.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(name, "?"))
}

// inline returns a list of values of TOML, on one line where that is short.
func inline(values []string) string {
	const most = 90
	line := "[" + strings.Join(values, ", ") + "]"
	if len(line) <= most {
		return line
	}
	return "[\n    " + strings.Join(values, ",\n    ") + ",\n]"
}

// names returns names as a list of TOML.
func names(list []string) string {
	quoted := make([]string, len(list))
	for i, name := range list {
		quoted[i] = literal(name)
	}
	return inline(quoted)
}
