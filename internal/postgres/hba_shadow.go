package postgres

import (
	"slices"
	"strings"
)

// A ShadowedRule is a rule that no connection reaches, and the earlier one that takes them all.
type ShadowedRule struct {
	Rule HBARule
	By   HBARule
}

// Unreachable returns the rules that are wholly shadowed by a single earlier one. A rule that several earlier ones shadow
// only together is not found, nor one behind a name that a file, a group or a regular expression may hold.
func Unreachable(rules []HBARule) []ShadowedRule {
	var shadowed []ShadowedRule
	for i, r := range rules {
		for _, earlier := range rules[:i] {
			if covers(earlier, r) {
				shadowed = append(shadowed, ShadowedRule{Rule: r, By: earlier})
				break
			}
		}
	}
	return shadowed
}

// covers reports whether every connection that b matches is matched by a.
func covers(a, b HBARule) bool {
	return coversType(a.Type, b.Type) && coversAddress(a.Address, b.Address) &&
		coversTokens(a.Databases, b.Databases, databaseCovers) && coversTokens(a.Users, b.Users, userCovers)
}

// coversType knows that a connection is not encrypted by both TLS and GSSAPI.
func coversType(a, b string) bool {
	switch {
	case a == b:
		return true
	case a == "host":
		return b != "local"
	}
	return a == "hostnossl" && b == "hostgssenc" || a == "hostnogssenc" && b == "hostssl"
}

func coversAddress(a, b HBAAddress) bool {
	switch {
	case a == b, a.Keyword == "all":
		return true
	case a.Keyword == "samenet":
		return b.Keyword == "samehost"
	case a.Host != "" && b.Host != "":
		return strings.EqualFold(a.Host, b.Host) ||
			strings.HasPrefix(a.Host, ".") && strings.HasSuffix(strings.ToLower(b.Host), strings.ToLower(a.Host))
	}
	outer, okA := a.Prefix()
	inner, okB := b.Prefix()
	return okA && okB && outer.Bits() <= inner.Bits() && outer.Overlaps(inner)
}

func coversTokens(a, b []HBAToken, one func(a, b HBAToken) bool) bool {
	for _, t := range b {
		if !slices.ContainsFunc(a, func(outer HBAToken) bool { return one(outer, t) }) {
			return false
		}
	}
	return len(b) > 0
}

func databaseCovers(a, b HBAToken) bool {
	switch {
	case a == b:
		return true
	case a.Is("all"):
		_, file := b.File() // it may hold the keyword replication
		return !b.Is("replication") && !file
	case a.Is("samerole"), a.Is("samegroup"):
		return b.Is("samerole") || b.Is("samegroup")
	}
	return literalName(a) && literalName(b) && a.Text == b.Text && !databaseKeyword(a) && !databaseKeyword(b)
}

func databaseKeyword(t HBAToken) bool {
	return t.Is("all") || t.Is("sameuser") || t.Is("samerole") || t.Is("samegroup") || t.Is("replication")
}

func userCovers(a, b HBAToken) bool {
	if a == b || a.Is("all") {
		return true
	}
	return literalName(a) && literalName(b) && a.Text == b.Text && !b.Is("all")
}

// literalName reports whether a token is compared as it is, so that quoted and unquoted are the same.
func literalName(t HBAToken) bool {
	_, group := t.Group()
	_, file := t.File()
	return !group && !file
}
