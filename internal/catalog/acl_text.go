package catalog

import (
	"fmt"
	"strings"
)

// ParseACL reads an ACL from the texts of its items, as the server prints them:
// GRANTEE=LETTERS/GRANTOR, where the grantee is empty for PUBLIC and a star
// behind a letter is its grant option. (PostgreSQL's manual, 5.8 Privileges,
// table "ACL Privilege Abbreviations".) The error says what is malformed, or
// which privilege this package does not know.
func ParseACL(items []string) (ACL, error) {
	acl := ACL{}
	for _, item := range items {
		grantee, rest := itemName(item)
		letters, grantor, ok := strings.Cut(strings.TrimPrefix(rest, "="), "/")
		if !ok || !strings.HasPrefix(rest, "=") {
			return nil, fmt.Errorf("%q is no item of an ACL", item)
		}
		by, rest := itemName(grantor)
		if rest != "" || by == "" {
			return nil, fmt.Errorf("%q has no role that granted it", item)
		}
		for i := 0; i < len(letters); i++ {
			p, ok := privilegeOfLetter(letters[i])
			if !ok {
				return nil, fmt.Errorf("%q has a privilege %c, which this version of pgfleet does not know", item, letters[i])
			}
			option := strings.HasPrefix(letters[i+1:], "*")
			if option {
				i++
			}
			acl = acl.With(grantee, by, p, option)
		}
	}
	return acl, nil
}

// itemName takes a role's name off the front of an item. The server puts what is
// more than letters, digits and underscores between double quotes, and doubles
// those in it (putid in acl.c).
func itemName(s string) (name, rest string) {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '"' && (quoted || s[i] != '='):
			b.WriteByte(s[i])
		case s[i] != '"':
			return b.String(), s[i:]
		case quoted && strings.HasPrefix(s[i+1:], `"`):
			b.WriteByte('"')
			i++
		default:
			quoted = !quoted
		}
	}
	return b.String(), ""
}

func privilegeOfLetter(letter byte) (Privileges, bool) {
	for _, n := range privilegeNames() {
		if n.letter == letter {
			return n.is, true
		}
	}
	return 0, false
}
