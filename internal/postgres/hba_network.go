package postgres

import (
	"net/netip"
	"slices"
)

// An HBAReach is what rules make of connections from a range of addresses, which they treat alike.
type HBAReach struct {
	From HBAAddress // the range; zero over the Unix socket
	// First is the first rule that matches for sure, nil where none does.
	First *HBARule
	// Maybe are the rules ahead of it that cannot be decided here, as in [Evaluate].
	Maybe []*HBARule
}

// EvaluateNetwork evaluates rules for connections from every address of a network, as [Evaluate] does for one: it divides
// the network where a rule that may concern the connection begins or ends, so that its answer is exact for each address.
// The ranges cover the network and do not overlap; halves that are treated alike are one range. The connection's Addr is
// not used, and neither is the network where it is Local.
func EvaluateNetwork(rules []HBARule, conn HBAConn, network netip.Prefix) []HBAReach {
	if conn.Local {
		return reaches(rules, 0, nil, conn, HBAAddress{})
	}
	return reaches(rules, 0, nil, conn, HBAPrefix(network.Masked()))
}

// reaches evaluates the rules from the one at i on for a range of addresses.
func reaches(rules []HBARule, i int, maybe []*HBARule, conn HBAConn, from HBAAddress) []HBAReach {
	for ; i < len(rules); i++ {
		r := &rules[i]
		answer := matchType(r.Type, conn).and(matchDatabase(r, conn)).and(matchUser(r, conn))
		if answer.is == no {
			continue
		}
		at, bit := matchRange(r, conn, from)
		if bit >= 0 {
			zero, one := from.halves(bit)
			return joined(reaches(rules, i, maybe, conn, zero), reaches(rules, i, slices.Clone(maybe), conn, one))
		}
		switch answer.and(at).is {
		case yes:
			return []HBAReach{{from, r, maybe}}
		case unknown:
			maybe = append(slices.Clone(maybe), r)
		}
	}
	return []HBAReach{{from, nil, maybe}}
}

// matchRange compares a rule's address with a range. Where that differs within the range, bit is one that decides; else it
// is -1.
func matchRange(r *HBARule, conn HBAConn, from HBAAddress) (answer answer3, bit int) {
	if conn.Local || r.Address.Host != "" || r.Address.Keyword == "all" {
		return matchAddress(r, conn), -1
	}
	own := []HBAAddress{r.Address}
	if r.Address.Keyword != "" {
		if len(conn.ServerAddrs) == 0 {
			return matchAddress(r, conn), -1
		}
		own = nil
		for _, p := range conn.ServerAddrs {
			if r.Address.Keyword == "samehost" {
				p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			}
			own = append(own, HBAPrefix(p))
		}
	}
	bit = -1
	for _, a := range own {
		switch all, differs := a.holds(from); {
		case all:
			return sure(true), -1
		case differs >= 0 && bit < 0:
			bit = differs
		}
	}
	return sure(false), bit
}

// holds reports whether all addresses of a range are in a. Where only some are, differs is the first bit that decides; else
// it is -1.
func (a HBAAddress) holds(from HBAAddress) (all bool, differs int) {
	if a.Addr.BitLen() != from.Addr.BitLen() {
		return false, -1
	}
	want, mask, have, fixed := a.Addr.AsSlice(), a.Mask.AsSlice(), from.Addr.AsSlice(), from.Mask.AsSlice()
	differs = -1
	for i := range mask {
		if (want[i]^have[i])&mask[i]&fixed[i] != 0 {
			return false, -1
		}
		if open := mask[i] &^ fixed[i]; open != 0 && differs < 0 {
			for differs = 8 * i; open&0x80 == 0; open <<= 1 {
				differs++
			}
		}
	}
	return differs < 0, differs
}

// halves returns the addresses of a range whose bit is 0, and those whose bit is 1.
func (a HBAAddress) halves(bit int) (zero, one HBAAddress) {
	addr, mask := a.Addr.AsSlice(), a.Mask.AsSlice()
	mask[bit/8] |= 0x80 >> (bit % 8)
	fixed, _ := netip.AddrFromSlice(mask)
	low, _ := netip.AddrFromSlice(addr)
	addr[bit/8] |= 0x80 >> (bit % 8)
	high, _ := netip.AddrFromSlice(addr)
	return HBAAddress{Addr: low, Mask: fixed}, HBAAddress{Addr: high, Mask: fixed}
}

// joined puts the ranges of two halves together, as one where they are whole and treated alike.
func joined(zero, one []HBAReach) []HBAReach {
	if len(zero) == 1 && len(one) == 1 && zero[0].First == one[0].First && slices.Equal(zero[0].Maybe, one[0].Maybe) {
		whole := zero[0]
		mask, high := whole.From.Mask.AsSlice(), one[0].From.Addr.AsSlice()
		for i, b := range whole.From.Addr.AsSlice() {
			mask[i] &^= b ^ high[i]
		}
		whole.From.Mask, _ = netip.AddrFromSlice(mask)
		return []HBAReach{whole}
	}
	return append(zero, one...)
}
