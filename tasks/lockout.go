package tasks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/templates"
)

// Ourselves is how a lock-out of pgfleet's own connection is named.
const Ourselves = "pgfleet"

// A Lockout is somebody who has access, or is declared to need it, and would
// lose it by what a plan does.
type Lockout struct {
	Task string
	// Who is the name by which the operator says that it is meant so: a
	// client's, USER@ADDRESS, "standby:NAME" or Ourselves.
	Who      string
	Subject  string // for the reader: "appuser in appdb from 10.78.0.10"
	Sessions int    // that are connected now; 0 for what is declared
	Why      string
	Pos      inventory.Position // of what brings it about; may be zero

	also []string // further names
}

// Named reports whether a name that the operator gave means the lock-out: its
// own, "all", or the user's alone, whatever the address. An address may be
// written in any form.
func (l Lockout) Named(name string) bool {
	return name == "all" || name == l.Who || slices.Contains(l.also, name) || slices.Contains(l.also, canonicalName(name))
}

// String returns the subject and why, in one line.
func (l Lockout) String() string { return l.Subject + l.sessions() + ": " + l.Why }

func (l Lockout) sessions() string {
	switch l.Sessions {
	case 0:
		return ""
	case 1:
		return " (1 session now)"
	}
	return fmt.Sprintf(" (%d sessions now)", l.Sessions)
}

// sessionName is USER@ADDRESS.
func sessionName(user string, addr netip.Addr) string {
	if !addr.IsValid() {
		return user + "@local"
	}
	return user + "@" + addr.String()
}

// canonicalName writes the address of USER@ADDRESS as sessionName does.
func canonicalName(name string) string {
	at := strings.LastIndexByte(name, '@')
	if at < 0 {
		return name
	}
	a, err := netip.ParseAddr(name[at+1:])
	if err != nil {
		return name
	}
	return sessionName(name[:at], a)
}

// userNames are the names of a user's session: with the address, and without it
// unless that means something else.
func userNames(user string, addr netip.Addr) []string {
	names := []string{sessionName(user, addr)}
	if user != "all" && user != Ourselves && !strings.HasPrefix(user, "standby:") {
		names = append(names, user)
	}
	return names
}

// addLockout adds a lock-out, or the sessions of one that is there already.
func addLockout(list []Lockout, l Lockout) []Lockout {
	i := slices.IndexFunc(list, func(x Lockout) bool { return x.Who == l.Who && x.Subject == l.Subject && x.Why == l.Why })
	if i < 0 {
		return append(list, l)
	}
	list[i].Sessions += l.Sessions
	return list
}

// A client is a declared one, rendered for an instance.
type client struct {
	name   string
	limit  inventory.Selector
	logins []inventory.Login
}

// clientsOf renders the declared clients for an instance. Every mistake is
// returned, with its position.
func clientsOf(fleet *inventory.Fleet, in inventory.Instance) ([]client, inventory.Errors) {
	var clients []client
	var errs inventory.Errors
	for _, c := range fleet.Clients {
		if c.Limit.Match(in, nil) == inventory.No {
			continue
		}
		body, bad := templates.RenderNode(c.Body, templates.NewData(fleet, in))
		if len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		if n := secretIn(body); n != nil {
			errs.Add(n.Pos, "a client's values are shown in plans, and cannot be secrets")
			continue
		}
		logins, bad := c.Logins(body)
		errs = append(errs, bad...)
		clients = append(clients, client{c.Name, c.Limit, logins})
	}
	return clients, errs
}

// secretIn returns a value that holds a secret's placeholder, or nil.
func secretIn(n *inventory.Node) *inventory.Node {
	if refs, err := secrets.Find(n.Str); err != nil || len(refs) > 0 {
		return n
	}
	for _, item := range n.Items {
		if found := secretIn(item); found != nil {
			return found
		}
	}
	for _, k := range n.Keys {
		if found := secretIn(k.Value); found != nil {
			return found
		}
	}
	return nil
}

// declaredClients returns the clients of an instance whose server has its role.
func (c *Common) declaredClients(s *State) []client {
	of := func(inventory.InstanceID) (string, bool) { r := s.Role(); return r, r != "" }
	return slices.DeleteFunc(slices.Clone(c.clients), func(x client) bool { return x.limit.Match(s.instance, of) == inventory.No })
}

// clientsWith names the declared clients that a connection is one of.
func clientsWith(clients []client, user, database string, addr netip.Addr, replication bool) []string {
	var names []string
	for _, c := range clients {
		if slices.ContainsFunc(c.logins, func(l inventory.Login) bool {
			if l.User != user || l.Replication != replication || !replication && l.Database != database {
				return false
			}
			return l.From.IsValid() && l.From.Contains(addr.WithZone("")) || !l.From.IsValid() && !addr.IsValid()
		}) {
			names = append(names, c.name)
		}
	}
	return names
}
