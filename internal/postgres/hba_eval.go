package postgres

import (
	"fmt"
	"net/netip"
	"strings"
)

// An HBAConn is a connection as pg_hba.conf sees it.
type HBAConn struct {
	Local    bool // over the Unix socket
	TLS      bool
	GSS      bool // GSSAPI encryption
	Database string
	User     string
	// MemberOf reports whether User is a direct or indirect member of a role, or that role itself; being superuser does not
	// count. A rule with +role or samerole cannot be decided when it is nil.
	MemberOf func(role string) bool
	Addr     netip.Addr // the client's; not used when Local
	// Replication is a physical replication connection (replication=true). A logical one (replication=database) is an
	// ordinary connection to its database.
	Replication bool
	// ServerAddrs are the server's own addresses with the lengths of their networks, loopback included, for samehost and
	// samenet. A rule with one of these cannot be decided when it is empty.
	ServerAddrs []netip.Prefix
	// Version decides whether a name with a first slash is a regular expression (16 and later). 0 is the newest.
	Version Version
}

// Evaluate returns the first rule that matches a connection, as the server looks for it, and ok true; ok is false when none
// matches, which the server treats as reject. The rule's method still has to be passed: reject is a match too.
//
// Where a rule ahead of the result cannot be decided here (a host name, a file, an unknown membership), uncertain says which
// and why, and the result is what follows if that rule does not match.
func Evaluate(rules []HBARule, conn HBAConn) (matched *HBARule, ok bool, uncertain string) {
	for i := range rules {
		r := &rules[i]
		answer := matchType(r.Type, conn)
		for _, ask := range []func(*HBARule, HBAConn) answer3{matchAddress, matchDatabase, matchUser} {
			if answer.is != no {
				answer = answer.and(ask(r, conn))
			}
		}
		switch answer.is {
		case yes:
			return r, true, uncertain
		case unknown:
			if uncertain == "" {
				uncertain = fmt.Sprintf("the rule %q cannot be decided here: %s", r.Summary(), answer.why)
				if r.Line > 0 {
					uncertain = fmt.Sprintf("line %d: %s", r.Line, uncertain)
				}
			}
		}
	}
	return nil, false, uncertain
}

type truth int

const (
	no truth = iota
	yes
	unknown
)

// An answer3 is yes, no, or unknown with the reason.
type answer3 struct {
	is  truth
	why string
}

func sure(b bool) answer3 {
	if b {
		return answer3{is: yes}
	}
	return answer3{is: no}
}

func (a answer3) and(b answer3) answer3 {
	switch {
	case a.is == no || b.is == no:
		return answer3{is: no}
	case a.is == unknown:
		return a
	}
	return b
}

func (a answer3) or(b answer3) answer3 {
	switch {
	case a.is == yes || b.is == yes:
		return answer3{is: yes}
	case a.is == unknown:
		return a
	}
	return b
}

func matchType(connection string, conn HBAConn) answer3 {
	if conn.Local || connection == "local" {
		return sure(conn.Local && connection == "local")
	}
	switch connection {
	case "host":
		return sure(true)
	case "hostssl":
		return sure(conn.TLS)
	case "hostnossl":
		return sure(!conn.TLS)
	case "hostgssenc":
		return sure(conn.GSS)
	case "hostnogssenc":
		return sure(!conn.GSS)
	}
	return sure(false)
}

func matchAddress(r *HBARule, conn HBAConn) answer3 {
	if conn.Local {
		return sure(true)
	}
	switch {
	case r.Address.Host != "":
		return answer3{unknown, fmt.Sprintf("the server resolves the host name %q", r.Address.Host)}
	case r.Address.Keyword == "all":
		return sure(true)
	case r.Address.Keyword == "":
		return sure(r.Address.contains(conn.Addr))
	case len(conn.ServerAddrs) == 0:
		return answer3{unknown, "the server's own addresses are not known"}
	}
	for _, own := range conn.ServerAddrs {
		if r.Address.Keyword == "samehost" {
			own = netip.PrefixFrom(own.Addr(), own.Addr().BitLen())
		}
		if HBAPrefix(own).contains(conn.Addr) {
			return sure(true)
		}
	}
	return sure(false)
}

func matchDatabase(r *HBARule, conn HBAConn) answer3 {
	result := sure(false)
	for _, t := range r.Databases {
		result = result.or(matchDatabaseToken(t, conn))
	}
	return result
}

func matchDatabaseToken(t HBAToken, conn HBAConn) answer3 {
	if path, ok := t.File(); ok {
		return answer3{unknown, fmt.Sprintf("the file @%s is not read", path)}
	}
	if conn.Replication {
		return sure(t.Is("replication"))
	}
	switch {
	case t.Is("all"):
		return sure(true)
	case t.Is("sameuser"):
		return sure(conn.Database == conn.User)
	case t.Is("samerole"), t.Is("samegroup"):
		return memberOf(conn, conn.Database)
	case t.Is("replication"):
		return sure(false)
	}
	return matchName(t, conn.Database, conn.Version)
}

func matchUser(r *HBARule, conn HBAConn) answer3 {
	result := sure(false)
	for _, t := range r.Users {
		result = result.or(matchUserToken(t, conn))
	}
	return result
}

func matchUserToken(t HBAToken, conn HBAConn) answer3 {
	if path, ok := t.File(); ok {
		return answer3{unknown, fmt.Sprintf("the file @%s is not read", path)}
	}
	if role, ok := t.Group(); ok {
		return memberOf(conn, role)
	}
	if t.Is("all") {
		return sure(true)
	}
	return matchName(t, conn.User, conn.Version)
}

func memberOf(conn HBAConn, role string) answer3 {
	if conn.MemberOf == nil {
		return answer3{unknown, fmt.Sprintf("whether %q is a member of %q is not known", conn.User, role)}
	}
	return sure(conn.MemberOf(role))
}

// matchName compares a name with a token, which is a regular expression from 16 on if it starts with a slash, quoted or not.
func matchName(t HBAToken, name string, version Version) answer3 {
	form, isRegexp := strings.CutPrefix(t.Text, "/")
	if !isRegexp || version != 0 && version.Major() < 16 {
		return sure(t.Text == name)
	}
	re, ok := compileARE(form)
	if !ok {
		return answer3{unknown, fmt.Sprintf("the regular expression %q is the server's own kind", form)}
	}
	return sure(re.MatchString(name))
}
