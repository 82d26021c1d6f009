package tasks

import (
	"fmt"
	"net/netip"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// ours is the lock-out of pgfleet itself by rules with which it could not reach
// the server; nil where it can.
func (t *HBA) ours(s *State, rules []postgres.HBARule) *Lockout {
	m, ok, _ := postgres.Evaluate(rules, ourselves(s))
	which := "no rule matches"
	if ok {
		which = matchesFirst(m)
		usermap, mapped := m.Option("map")
		switch {
		case m.Method == "trust", m.Method == "peer" && !mapped:
			return nil
		case m.Method == "peer":
			why := t.mapped(s, usermap)
			if why == "" {
				return nil
			}
			which += ", and " + why
		}
	}
	return &Lockout{Who: Ourselves, Subject: oursSubject, Why: which + "; begin with \"local all postgres peer\"", Pos: t.at("rules")}
}

// oursSubject is pgfleet for the reader.
const oursSubject = "pgfleet itself, as postgres over the local socket"

// ourselves is pgfleet's own connection.
func ourselves(s *State) postgres.HBAConn {
	return postgres.HBAConn{Local: true, Database: "postgres", User: "postgres", Version: s.version()}
}

// mapped says why a map would not let the account postgres be the role postgres
// at every moment of the run: what an ident task before this one leaves has to,
// and what one after it does. The latter is enough where nothing that stands
// between the two would have the server load the one without the other.
func (t *HBA) mapped(s *State, usermap string) string {
	lets := func(rules []postgres.IdentRule) bool {
		ok, _ := postgres.MatchIdent(rules, usermap, "postgres", "postgres", s.version(), nil)
		return ok
	}
	found := s.identRules()
	together := true
	for _, b := range t.upcoming(s) {
		switch x := b.Task.(type) {
		case *Ident:
			switch {
			case !lets(x.maps):
				return fmt.Sprintf("the map %s that the task %q declares does not let the account postgres be the role postgres", usermap, b.Name)
			case !together && !lets(found):
				return fmt.Sprintf("its map is written only later, by the task %q: put that one before these rules", b.Name)
			}
			return ""
		case *Settings, *AuditLogging, *Certificate:
		default:
			together = false
		}
	}
	if !lets(found) {
		return "its map does not let the account postgres be the role postgres"
	}
	return ""
}

// identRules returns the maps of pg_ident.conf as it is, or will be; none where
// they cannot be told.
func (s *State) identRules() []postgres.IdentRule {
	file, err := s.File(s.paths().ident)
	if err != nil {
		return nil
	}
	lines, err := postgres.ParseIdent(string(file.Content), s.version())
	if err != nil {
		return nil
	}
	rules, err := postgres.IdentRules(lines)
	if err != nil {
		return nil
	}
	return rules
}

// hbaRules returns the rules of pg_hba.conf as it is, or will be. False where
// they cannot be told.
func (s *State) hbaRules() ([]postgres.HBARule, bool) {
	file, err := s.File(s.paths().hba)
	if err != nil || !file.Exists {
		return nil, false
	}
	lines, err := postgres.ParseHBA(string(file.Content), s.version())
	if err != nil {
		return nil, false
	}
	rules, err := postgres.HBARules(lines)
	return rules, err == nil
}

// ours is the lock-out of pgfleet itself by maps without which the rules in
// force, or those that an hba task before this one leaves, would stop it from
// reaching the server; nil where they do not. An hba task after this one sees to
// itself.
func (t *Ident) ours(s *State) *Lockout {
	rules, ok := s.hbaRules()
	if !ok {
		return nil
	}
	m, ok, _ := postgres.Evaluate(rules, ourselves(s))
	if !ok || m.Method != "peer" {
		return nil
	}
	usermap, mapped := m.Option("map")
	if lets, _ := postgres.MatchIdent(t.maps, usermap, "postgres", "postgres", s.version(), nil); !mapped || lets {
		return nil
	}
	return &Lockout{Who: Ourselves, Subject: oursSubject, Pos: t.at("maps"), Why: fmt.Sprintf(
		"%q in pg_hba.conf is for it, and its map does not let the account postgres be the role postgres; add \"%s postgres postgres\", or begin the rules with \"local all postgres peer\"", m.Summary(), usermap)}
}

// hbaDue reports whether pg_hba.conf is newer than what the server has loaded.
func (s *State) hbaDue() bool {
	f, err := s.File(s.paths().hba)
	return err == nil && !s.activated && f.Changed.After(s.Server().Loaded)
}

// ranWith returns the value that the server ran with before any change.
func (s *State) ranWith(name string) (string, bool) {
	x, ok := s.Catalog().Lookup(name)
	if !ok || ofSession(x.Source) {
		return "", false
	}
	return x.Running(), true
}

func withTLS(c postgres.HBAConn) postgres.HBAConn {
	c.TLS = true
	return c
}

const password = "a password"

// credentials returns what a client must have to get in by a rule
// (auth-methods in the manual's chapter on client authentication).
func credentials(r postgres.HBARule) []string {
	var list []string
	switch r.Method {
	case "trust":
	case "password", "md5", "scram-sha-256":
		list = append(list, password)
	case "ldap", "radius", "pam", "bsd":
		list = append(list, "a password that "+r.Method+" takes")
	case "cert":
		list = append(list, "a client certificate")
	default: // peer, ident, gss, sspi, oauth
		need := "the method " + r.Method
		if m, ok := r.Option("map"); ok {
			need += " with the map " + m
		}
		list = append(list, need)
	}
	if v, ok := r.Option("clientcert"); ok && v != "no-verify" && v != "0" && r.Method != "cert" {
		list = append(list, "a client certificate")
	}
	return list
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return "the local socket"
	}
	return a.String()
}
