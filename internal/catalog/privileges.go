package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/inventory"
)

// A privilegeName is one privilege, what GRANT calls it, and its letter in an ACL.
type privilegeName struct {
	is     Privileges
	word   string
	letter byte
}

// privilegeNames returns all privileges, in the order of the manual of GRANT.
func privilegeNames() []privilegeName {
	return []privilegeName{
		{Select, "SELECT", 'r'}, {Insert, "INSERT", 'a'}, {Update, "UPDATE", 'w'}, {Delete, "DELETE", 'd'}, {Truncate, "TRUNCATE", 'D'},
		{References, "REFERENCES", 'x'}, {Trigger, "TRIGGER", 't'}, {Maintain, "MAINTAIN", 'm'},
		{Create, "CREATE", 'C'}, {Connect, "CONNECT", 'c'}, {Temporary, "TEMPORARY", 'T'}, {Execute, "EXECUTE", 'X'}, {Usage, "USAGE", 'U'},
	}
}

// AllPrivileges returns what ALL PRIVILEGES stands for on objects of a kind, in
// a major version.
func AllPrivileges(kind Kind, major int) Privileges {
	switch kind {
	case DatabaseKind:
		return Create | Connect | Temporary
	case SchemaKind:
		return Create | Usage
	case Table:
		all := Select | Insert | Update | Delete | Truncate | References | Trigger
		if major >= 17 {
			all |= Maintain
		}
		return all
	case Column:
		return Select | Insert | Update | References
	case Sequence:
		return Usage | Select | Update
	case Routine:
		return Execute
	case Type:
		return Usage
	}
	return 0
}

// Words returns the privileges as GRANT calls them, in the order of its manual.
func (p Privileges) Words(kind Kind) []string {
	names := privilegeNames()
	if last := len(names) - 1; kind == Sequence {
		names = slices.Concat(names[last:], names[:last]) // USAGE comes first there
	}
	var words []string
	for _, n := range names {
		if p&n.is != 0 {
			words = append(words, n.word)
		}
	}
	return words
}

// String returns the privileges as GRANT lists them.
func (p Privileges) String() string { return strings.Join(p.Words(""), ", ") }

// PrivilegeNamed returns the privilege of a word, in any case. TEMP is TEMPORARY.
func PrivilegeNamed(word string) (Privileges, bool) {
	word = strings.ToUpper(strings.TrimSpace(word))
	if word == "TEMP" {
		return Temporary, true
	}
	for _, n := range privilegeNames() {
		if n.word == word {
			return n.is, true
		}
	}
	return 0, false
}

// ParsePrivileges returns the privileges that words name, in any case, for
// objects of a kind. "ALL" and "ALL PRIVILEGES" are all that the version knows.
// The error names the word and those that would do.
func ParsePrivileges(words []string, kind Kind, major int) (Privileges, error) {
	var p Privileges
	all := AllPrivileges(kind, major)
	for _, word := range words {
		switch strings.ToUpper(strings.Join(strings.Fields(word), " ")) {
		case "ALL", "ALL PRIVILEGES":
			p |= all
			continue
		}
		one, ok := PrivilegeNamed(word)
		switch {
		case ok && one&all != 0:
			p |= one
		case ok && one == Maintain && kind == Table:
			return 0, fmt.Errorf("the privilege MAINTAIN is there from PostgreSQL 17 on; this is %d, which has %s", major, all)
		default:
			valid := all.Words(kind)
			return 0, fmt.Errorf("%q is no privilege of a %s%s; it is %s or ALL", word, strings.ToLower(string(kind)),
				inventory.DidYouMean(word, valid), strings.Join(valid, ", "))
		}
	}
	return p, nil
}
