package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// Diff returns what differs between two states of one server, sorted lines for
// people: "view app.orders_v is made, owner appowner", "table public.orders:
// readuser gains SELECT". Privileges are compared by what they come to, NULL by
// what it stands for; expressions of policies that are only foreseen are not
// compared, nor is what an extension brings, nor a database's contents where one
// side does not know them.
func Diff(a, b *Cluster) []string {
	d := &differ{a: a, b: b}
	d.roles()
	d.members()
	d.settings()
	d.databases()
	var both []string
	for name, held := range a.Contents {
		if held != nil && b.Contents[name] != nil {
			both = append(both, name)
		}
	}
	slices.Sort(both)
	for _, name := range both {
		if len(both) > 1 {
			d.prefix = "database " + postgres.QuoteIdent(name) + ": "
		}
		d.contents(name, a.Contents[name], b.Contents[name])
	}
	slices.Sort(d.lines)
	return d.lines
}

type differ struct {
	a, b   *Cluster
	prefix string
	lines  []string
}

func (d *differ) say(format string, args ...any) {
	d.lines = append(d.lines, d.prefix+fmt.Sprintf(format, args...))
}

// field says that a value of a subject changed.
func (d *differ) field(subject, name, was, now string) {
	switch {
	case was == now:
	case now == "":
		d.say("%s: no %s any more, it was %s", subject, name, was)
	default:
		d.say("%s: %s %s", subject, name, now)
	}
}

// flag says that what a subject has or has not changed.
func (d *differ) flag(subject, name string, was, now bool) {
	if was != now {
		d.say("%s: %s %s", subject, name, onOff(now))
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (d *differ) roles() {
	for _, name := range eitherKey(d.a.Roles, d.b.Roles) {
		a, b, subject := d.a.Roles[name], d.b.Roles[name], subjectRole(name)
		switch {
		case a == nil:
			d.say("%s is made%s", subject, attributes(Role{Inherit: true, ConnLimit: -1}, *b))
			a = &Role{}
		case b == nil:
			d.say("%s is dropped", subject)
			continue
		default:
			if changed := attributes(*a, *b); changed != "" {
				d.say("%s:%s", subject, changed)
			}
		}
		if a.HasPassword != b.HasPassword {
			d.say("%s: password %s", subject, map[bool]string{true: "set", false: "removed"}[b.HasPassword])
		} else if !a.Password.IsEmpty() && !b.Password.IsEmpty() && !a.Password.Equal(b.Password) {
			d.say("%s: password changed", subject)
		}
		d.comment(subject, a.Comment, b.Comment)
	}
}

func (d *differ) comment(subject, was, now string) {
	if was != now {
		d.field(subject, "comment", quoteText(was), quoteText(now))
	}
}

func quoteText(s string) string {
	if s == "" {
		return ""
	}
	return postgres.QuoteLiteral(s)
}

func (d *differ) members() {
	type key struct{ role, member, grantor string }
	index := func(c *Cluster) map[key]Membership {
		m := map[key]Membership{}
		for _, x := range c.Members {
			k := key{x.Role, x.Member, x.Grantor}
			if c.Version.Major() < 16 {
				k.grantor, x.Inherit, x.Set = "", true, true // not the membership's own there
			}
			m[k] = x
		}
		return m
	}
	a, b := index(d.a), index(d.b)
	all := maps.Clone(a)
	maps.Copy(all, b)
	for k := range all {
		was, had := a[k]
		now, has := b[k]
		subject := fmt.Sprintf("%s as a member of %s", subjectRole(k.member), postgres.QuoteIdent(k.role))
		if k.grantor != "" && k.grantor != d.b.Bootstrap {
			subject += ", by " + postgres.QuoteIdent(k.grantor)
		}
		switch {
		case !has:
			d.say("%s: not any more", subject)
			continue
		case !had:
			d.say("%s: is made", subject)
			was = Membership{Inherit: true, Set: true}
		}
		d.flag(subject, "ADMIN", was.Admin, now.Admin)
		d.flag(subject, "INHERIT", was.Inherit, now.Inherit)
		d.flag(subject, "SET", was.Set, now.Set)
	}
}

func (d *differ) settings() {
	index := func(c *Cluster) map[string]string {
		m := map[string]string{}
		for _, s := range c.Settings {
			m[strings.ToLower(s.target())+": "+strings.ToLower(s.Name)] = s.Value
		}
		return m
	}
	a, b := index(d.a), index(d.b)
	for _, key := range eitherKey(a, b) {
		was, had := a[key]
		now, has := b[key]
		_, name, _ := strings.Cut(key, ": ")
		switch {
		case had && has && (was == now || postgres.IsList(name) && postgres.EqualLists(name, was, now)):
		case has:
			d.say("%s = %s", key, postgres.QuoteLiteral(now))
		default:
			d.say("%s is reset, it was %s", key, postgres.QuoteLiteral(was))
		}
	}
}

func (d *differ) databases() {
	for _, name := range eitherKey(d.a.Databases, d.b.Databases) {
		a, b, subject := d.a.Databases[name], d.b.Databases[name], "database "+postgres.QuoteIdent(name)
		switch {
		case a == nil:
			d.say("%s is made, owner %s", subject, postgres.QuoteIdent(b.Owner))
			a = &Database{}
			*a = *b
			a.ACL, a.Comment = nil, ""
		case b == nil:
			d.say("%s is dropped", subject)
			continue
		}
		d.owner(subject, a.Owner, b.Owner)
		d.field(subject, "encoding", a.Encoding, b.Encoding)
		d.field(subject, "lc_collate", a.Collate, b.Collate)
		d.field(subject, "lc_ctype", a.Ctype, b.Ctype)
		d.field(subject, "locale provider", a.Provider, b.Provider)
		d.field(subject, "locale", a.Locale, b.Locale)
		d.field(subject, "tablespace", a.Tablespace, b.Tablespace)
		d.field(subject, "connection limit", strconv.Itoa(a.ConnLimit), strconv.Itoa(b.ConnLimit))
		d.flag(subject, "is_template", a.Template, b.Template)
		d.flag(subject, "allow_connections", a.AllowConn, b.AllowConn)
		d.comment(subject, a.Comment, b.Comment)
		d.acl(subject, DatabaseKind, a.Owner, a.ACL, b.Owner, b.ACL)
	}
}

func (d *differ) owner(subject, was, now string) {
	if was != now {
		d.say("%s: owner %s, it was %s", subject, postgres.QuoteIdent(now), postgres.QuoteIdent(was))
	}
}

// acl compares the privileges on an object that both sides have.
func (d *differ) acl(subject string, kind Kind, ownerA string, a ACL, ownerB string, b ACL) {
	major := d.b.Version.Major()
	if a == nil {
		a = DefaultACLFor(kind, ownerA, major)
	}
	if b == nil {
		b = DefaultACLFor(kind, ownerB, major)
	}
	// A new owner stands in the old one's place, which is no change of privileges.
	a = a.owned(ownerA, ownerB)
	type key struct{ grantee, grantor string }
	keys := map[key]bool{}
	for _, i := range slices.Concat(a, b) {
		keys[key{i.Grantee, i.Grantor}] = true
	}
	for k := range keys {
		was, wasOption := a.From(k.grantee, k.grantor)
		now, nowOption := b.From(k.grantee, k.grantor)
		by := ""
		if k.grantor != ownerB {
			by = ", granted by " + postgres.QuoteIdent(k.grantor)
		}
		for _, c := range []struct {
			words string
			p     Privileges
			with  string
		}{
			{"gains", now &^ was &^ nowOption, ""},
			{"gains", now &^ was & nowOption, " WITH GRANT OPTION"},
			{"gains GRANT OPTION FOR", nowOption &^ wasOption & was, ""},
			{"loses", was &^ now, ""},
			{"loses GRANT OPTION FOR", wasOption &^ nowOption & now, ""},
		} {
			if c.p != 0 {
				d.say("%s: %s %s %s%s%s", subject, grantee(k.grantee), c.words, wordList(c.p, kind), c.with, by)
			}
		}
	}
}

// eitherKey returns the keys of two maps, sorted.
func eitherKey[V any](a, b map[string]V) []string {
	all := sortedKeys(a)
	for key := range b {
		if _, ok := a[key]; !ok {
			all = append(all, key)
		}
	}
	slices.Sort(all)
	return all
}
