package catalog

import "slices"

// An ACL is a column of type aclitem[]. Nil is NULL: PostgreSQL's own defaults
// apply. An ACL is never modified in place.
type ACL []Item

// An Item is one aclitem: what Grantor gave to Grantee. An empty Grantee is
// PUBLIC.
type Item struct {
	Grantee, Grantor string
	Privileges       Privileges
	Grantable        Privileges // those of them WITH GRANT OPTION
}

// Privileges is a set of privileges.
type Privileges uint32

// The privileges, as GRANT calls them.
const (
	Insert Privileges = 1 << iota
	Select
	Update
	Delete
	Truncate
	References
	Trigger
	Execute
	Usage
	Create
	Temporary
	Connect
	Maintain // tables, from 17 on
)

// DefaultACLFor returns what PostgreSQL's acldefault() gives for a new object of
// a kind: what NULL stands for.
func DefaultACLFor(kind Kind, owner string, major int) ACL {
	var public Privileges
	switch kind {
	case DatabaseKind:
		public = Temporary | Connect
	case Routine:
		public = Execute
	case Type:
		public = Usage
	case Column:
		return ACL{}
	}
	acl := ACL{}
	if public != 0 {
		acl = acl.With("", owner, public, false)
	}
	return acl.With(owner, owner, AllPrivileges(kind, major), false)
}

// Of returns what a grantee holds, whoever gave it, and which of it WITH GRANT
// OPTION. What it holds as a member of others, through PUBLIC or as the owner is
// not counted.
func (a ACL) Of(grantee string) (privileges, grantable Privileges) {
	for _, i := range a {
		if i.Grantee == grantee {
			privileges |= i.Privileges
			grantable |= i.Grantable
		}
	}
	return privileges, grantable
}

// From returns what one grantor gave to a grantee, and which of it WITH GRANT
// OPTION.
func (a ACL) From(grantee, grantor string) (privileges, grantable Privileges) {
	if at := a.find(grantee, grantor); at >= 0 {
		return a[at].Privileges, a[at].Grantable
	}
	return 0, 0
}

// Grantees returns all that hold something, sorted; "" is PUBLIC.
func (a ACL) Grantees() []string {
	var names []string
	for _, i := range a {
		names = append(names, i.Grantee)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Equal reports whether two ACLs hold the same, in any order. NULL is not equal
// to an empty one.
func (a ACL) Equal(b ACL) bool {
	if (a == nil) != (b == nil) || len(a) != len(b) {
		return false
	}
	for _, i := range a {
		if at := b.find(i.Grantee, i.Grantor); at < 0 || b[at] != i {
			return false
		}
	}
	return true
}

// With returns the ACL after a grantor gave privileges to a grantee.
func (a ACL) With(grantee, grantor string, p Privileges, grantable bool) ACL {
	item := Item{Grantee: grantee, Grantor: grantor}
	at := a.find(grantee, grantor)
	if at >= 0 {
		item = a[at]
	}
	item.Privileges |= p
	if grantable {
		item.Grantable |= p
	}
	return a.put(at, item)
}

// A revocation takes privileges, or only the grant option for them, from a
// grantee, as the gift of one grantor.
type revocation struct {
	from, by   string
	privileges Privileges
	optionOnly bool
	owner      string                     // of the object
	has        func(role, of string) bool // whether a role has the privileges of another
}

// without returns the ACL after a revocation. What the grantee gave others by an
// option that it then lacks is taken from them too, as REVOKE CASCADE does;
// without CASCADE the server refuses to revoke where there is such.
func (a ACL) without(r revocation) ACL {
	at := a.find(r.from, r.by)
	if at < 0 {
		return a.put(-1, Item{})
	}
	item := a[at]
	lost := item.Grantable & r.privileges
	item.Grantable &^= r.privileges
	if !r.optionOnly {
		item.Privileges &^= r.privileges
	}
	a = a.put(at, item)
	if lost == 0 || r.has(r.from, r.owner) {
		return a // who acts as the owner has all grant options, whatever the ACL says
	}
	for _, i := range a {
		if i.Grantee != "" && r.has(r.from, i.Grantee) {
			lost &^= i.Grantable
		}
	}
	for {
		next := slices.IndexFunc(a, func(i Item) bool { return i.Grantor == r.from && i.Privileges&lost != 0 })
		if next < 0 {
			return a
		}
		a = a.without(revocation{from: a[next].Grantee, by: r.from, privileges: lost, owner: r.owner, has: r.has})
	}
}

// owned returns the ACL after its object was given to another owner: the new one
// stands for the old one, as grantee and as grantor.
func (a ACL) owned(was, now string) ACL {
	if a == nil || was == now {
		return a
	}
	result := ACL{}
	for _, i := range a {
		if i.Grantee == was {
			i.Grantee = now
		}
		if i.Grantor == was {
			i.Grantor = now
		}
		at := result.find(i.Grantee, i.Grantor)
		if at >= 0 {
			i.Privileges |= result[at].Privileges
			i.Grantable |= result[at].Grantable
		}
		result = result.put(at, i)
	}
	return result
}

// names reports whether a role is a grantee or a grantor.
func (a ACL) names(role string) bool {
	return slices.ContainsFunc(a, func(i Item) bool { return i.Grantee == role || i.Grantor == role })
}

func (a ACL) find(grantee, grantor string) int {
	return slices.IndexFunc(a, func(i Item) bool { return i.Grantee == grantee && i.Grantor == grantor })
}

// put returns a copy, never nil, in which an item stands at a place, or at the
// end where that is negative. One without privileges is left out.
func (a ACL) put(at int, item Item) ACL {
	result := append(ACL{}, a...)
	switch {
	case item.Privileges == 0 && at >= 0:
		return slices.Delete(result, at, at+1)
	case item.Privileges == 0:
		return result
	case at >= 0:
		result[at] = item
		return result
	}
	return append(result, item)
}
