package tasks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// notBound warns of the addresses of listen_addresses on which the server does
// not listen: it starts as long as one of them is the host's, and says the rest
// in its log alone. Only a task that sets the parameter warns, and only once the
// server runs with that.
func (t *Settings) notBound(in inventory.Instance, s *State) []string {
	const name = "listen_addresses"
	own := slices.ContainsFunc(t.Settings, func(p parameter) bool { return strings.EqualFold(p.name, name) })
	pending := slices.ContainsFunc(s.pending(), func(p pending) bool { return p.Name == name || p.Name == "port" })
	running, known := s.Running(name)
	sockets, err := ask[[]netip.AddrPort](s, facts.Sockets{})
	if !own || pending || !known || err != nil || s.restarted {
		return nil
	}
	list, err := postgres.ParseList(name, running)
	if err != nil {
		return nil
	}
	var warnings []string
	for _, a := range list {
		addresses := listens(a)
		if len(addresses) == 0 || slices.ContainsFunc(addresses, func(x netip.Addr) bool {
			return facts.Listening(sockets, netip.AddrPortFrom(x, uint16(in.Port)))
		}) {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("the server does not listen on %s, port %d, though listen_addresses has it: the host had no such address when the server started, or the port was taken; its log says which", a, in.Port))
	}
	return warnings
}

// listens returns the addresses of which one is enough for an element of
// listen_addresses; none for a name that only the host resolves.
func listens(element string) []netip.Addr {
	switch strings.ToLower(element) {
	case "*":
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	case "localhost":
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	a, err := netip.ParseAddr(element)
	if err != nil {
		return nil
	}
	return []netip.Addr{a.WithZone("")}
}
