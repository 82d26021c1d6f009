package inventory

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// A Client is one entry of [[client]]: who must be able to connect. Its values are raw, templates and all, and are read by
// Logins once they are rendered for an instance.
type Client struct {
	Name  string
	Pos   Position // of the name
	Limit Selector // everything when not given
	Body  *Node    // the other keys
}

// A Login is one way in which a client connects.
type Login struct {
	User        string
	Database    string       // empty for replication
	From        netip.Prefix // an address is a network of one; not valid over the Unix socket
	TLS         bool
	Replication bool // physical replication
	Pos         Position
}

// clientKeys are the keys of a client that are no templates.
type clientKeys struct {
	Name  Positioned[string] `toml:"name" required:"true" doc:"What the client is called; unique in the fleet. --allow-lockout takes it."`
	Limit Positioned[string] `toml:"limit" doc:"A selector: which instances the client connects to; all by default."`
}

// clientValues are the keys that are rendered for each instance.
type clientValues struct {
	User        Positioned[Strings] `toml:"user" required:"true" doc:"The role that it logs in as, or a list of them."`
	Database    Positioned[Strings] `toml:"database" doc:"The database, or a list of them; by default the one called like the user, as libpq has it."`
	From        Positioned[Strings] `toml:"from" required:"true" doc:"The address or network that it connects from, IPv4 or IPv6, or local for the Unix socket; or a list of these. Every address of a network counts."`
	TLS         Positioned[*bool]   `toml:"tls" doc:"Whether it connects with TLS; true by default, and nothing does over the Unix socket."`
	Replication Positioned[bool]    `toml:"replication" doc:"true: it streams, as a standby does (physical replication), and so is in no database."`
}

// clientTable is all of it.
type clientTable struct {
	clientKeys
	clientValues
}

// checkClients makes the list of clients. Values that are templates are checked when they are rendered.
func (l *loader) checkClients() {
	first := map[string]Position{}
	for _, n := range l.clients {
		if n.Kind != KindTable {
			l.errs.Add(n.Pos, "client: want a table, found %s", n.describe())
			continue
		}
		common := namesOf(reflect.TypeFor[clientKeys]())
		var keys clientKeys
		l.errs = append(l.errs, Decode(n.only(common), &keys)...)
		c := Client{Name: keys.Name.Value, Pos: n.Pos, Body: n.Without(common...)}
		valid := true
		if name := keys.Name.Node; name != nil && name.Kind == KindString {
			c.Pos = name.Pos
			valid = l.name(name.Pos, "client", c.Name)
			if pos, ok := first[c.Name]; ok {
				l.errs.Add(name.Pos, "client %q is here for the second time; the first is at %s", c.Name, pos)
			}
			first[c.Name] = name.Pos
			if c.Name == "all" || c.Name == "pgfleet" {
				l.errs.Add(name.Pos, "a client cannot be called %q, which stands for something else in --allow-lockout", c.Name)
			}
		}
		limit, ok := l.limit(keys.Limit)
		c.Limit = limit
		if !isTemplate(c.Body) {
			_, errs := c.Logins(c.Body)
			l.errs = append(l.errs, errs...)
			valid = valid && len(errs) == 0
		}
		if ok && valid {
			l.fleet.Clients = append(l.fleet.Clients, c)
		}
	}
}

// isTemplate reports whether a value has to be rendered.
func isTemplate(n *Node) bool {
	return strings.Contains(n.Str, "{{") || slices.ContainsFunc(n.Items, isTemplate) ||
		slices.ContainsFunc(n.Keys, func(k Key) bool { return isTemplate(k.Value) })
}

// Logins returns the ways in which the client connects: one for each user, database and address. Body is the client's,
// rendered. Every mistake is returned, with its position.
func (c Client) Logins(body *Node) ([]Login, Errors) {
	var v clientValues
	errs := Decode(body, &v)
	if len(errs) > 0 {
		return nil, errs
	}
	filled := func(key string, p Positioned[Strings]) {
		for i, s := range p.Value {
			if s == "" {
				errs.Add(elementPos(p, i), "%s: a name is missing", key)
			}
		}
		if p.Node != nil && len(p.Value) == 0 {
			errs.Add(p.Pos(), "%s: the list is empty", key)
		}
	}
	filled("user", v.User)
	filled("database", v.Database)
	var from []netip.Prefix
	local := 0
	for i, s := range v.From.Value {
		if s == "local" {
			from = append(from, netip.Prefix{})
			local++
			continue
		}
		network, err := parseNetwork(s)
		if err != nil {
			errs.Add(elementPos(v.From, i), "from: %v", err)
		}
		from = append(from, network)
	}
	if len(v.From.Value) == 0 {
		errs.Add(v.From.Pos(), "from: the list is empty")
	}
	tls := v.TLS.Value == nil || *v.TLS.Value
	switch {
	case v.TLS.Value != nil && tls && local > 0 && local == len(from):
		errs.Add(v.TLS.Pos(), "tls: there is no TLS over the Unix socket; leave it out")
	case v.Replication.Value && v.Database.Node != nil:
		errs.Add(v.Database.Pos(), "database: physical replication is in no database; leave it out, or leave replication out for a logical one")
	}
	if len(errs) > 0 {
		return nil, errs.Sorted()
	}
	var logins []Login
	for _, user := range v.User.Value {
		databases := []string(v.Database.Value)
		switch {
		case v.Replication.Value:
			databases = []string{""}
		case v.Database.Node == nil:
			databases = []string{user}
		}
		for _, database := range databases {
			for _, network := range from {
				logins = append(logins, Login{
					User: user, Database: database, From: network, TLS: tls && network.IsValid(), Replication: v.Replication.Value, Pos: c.Pos,
				})
			}
		}
	}
	return logins, nil
}

// elementPos returns where an element of a list stands, or the string that stands for a list of one.
func elementPos(p Positioned[Strings], i int) Position {
	if p.Node.Kind == KindList && i < len(p.Node.Items) {
		return p.Node.Items[i].Pos
	}
	return p.Pos()
}

// parseNetwork reads an address or a network.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf(`%q is neither an address nor a network such as 10.0.8.0/24 or 2001:db8::/64, nor "local"`, s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%s is an address within the network %s; write one of %s and %s", s, p.Masked(), p.Addr(), p.Masked())
	}
	return p, nil
}
