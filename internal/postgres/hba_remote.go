package postgres

import "net/netip"

// RemoteRule returns the first rule by which a role may be let in over TCP, from anywhere and to any database, and false if
// there is none. Only conn's User, MemberOf and Version count. A rule that earlier ones reject whole does not; one that only
// part of is rejected does.
func RemoteRule(rules []HBARule, conn HBAConn) (HBARule, bool) {
	var rejects []HBARule
	for _, r := range rules {
		about := matchUser(&r, conn).is
		switch {
		case r.Type == "local" || about == no:
		case r.Method != "reject":
			if !rejected(rejects, r) {
				return r, true
			}
		case about == yes:
			rejects = append(rejects, r)
		}
	}
	return HBARule{}, false
}

// rejected reports whether all that a rule matches is rejected by single earlier ones, each family of addresses on its own.
// The users of both are known to match.
func rejected(rejects []HBARule, r HBARule) bool {
	addresses := []HBAAddress{r.Address}
	if !r.Address.Addr.IsValid() {
		addresses = []HBAAddress{HBAPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), HBAPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0))}
	}
	for _, a := range addresses {
		covered := false
		for _, reject := range rejects {
			covered = covered || coversType(reject.Type, r.Type) && coversAddress(reject.Address, a) && coversTokens(reject.Databases, r.Databases, databaseCovers)
		}
		if !covered {
			return false
		}
	}
	return true
}
