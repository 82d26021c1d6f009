package tasks

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// keepsUsIn refuses rules that would stop pgfleet from reaching the server.
func (t *HBA) keepsUsIn(s *State, rules []postgres.HBARule) error {
	m, ok, _ := postgres.Evaluate(rules, ourselves(s))
	which := "no rule matches"
	if ok {
		which = fmt.Sprintf("%q matches first", m.Summary())
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
	return inventory.Error{Pos: t.at("rules"), Msg: "these rules would lock pgfleet out: for postgres over the local socket " + which + "; begin with \"local all postgres peer\""}
}

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

// keepsUsIn refuses maps without which the rules in force, or those that an hba
// task before this one leaves, would stop pgfleet from reaching the server. An
// hba task after this one sees to itself.
func (t *Ident) keepsUsIn(s *State) error {
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
	return inventory.Error{Pos: t.at("maps"), Msg: fmt.Sprintf(
		"these maps would lock pgfleet out: %q in pg_hba.conf is for postgres over the local socket; add \"%s postgres postgres\", or begin the rules with \"local all postgres peer\"", m.Summary(), usermap)}
}

// keepsStandbys refuses rules that would cut off a standby that is streaming
// now: none is for it, the one for it wants TLS that it does not use, or
// pgfleet's own rule wants a credential that it has not needed so far. A rule
// that the task names itself is taken as the word that the standby has what it
// wants, and rules that are in force already are as well: both are warnings.
func (t *HBA) keepsStandbys(s *State, rules []postgres.HBARule) (warnings []string, err error) {
	srv := s.Server()
	if srv == nil {
		return nil, nil
	}
	current, known := s.hbaRules()
	inForce := known && slices.Equal(texts(current), texts(rules)) && !s.hbaDue()
	var problems []error
	for _, standby := range srv.Standbys {
		who := fmt.Sprintf("the standby %s (%s from %s)", standby.Name, standby.User, address(standby.Addr))
		conn := postgres.HBAConn{
			Local: !standby.Addr.IsValid(), TLS: standby.TLS, User: standby.User, Addr: standby.Addr, Replication: true, Version: s.version(),
		}
		then := judge(rules, conn)
		if then.unsure {
			continue
		}
		refuse := func(msg string) {
			if inForce {
				warnings = append(warnings, msg)
				return
			}
			problems = append(problems, inventory.Error{Pos: t.at("rules"), Msg: msg})
		}
		if !then.in {
			tls := judge(rules, withTLS(conn))
			switch running, ok := s.ranWith("ssl"); {
			case !tls.in || conn.TLS || conn.Local:
				refuse(fmt.Sprintf("these rules would cut off %s: give its host the same replication = \"…\" as this one, or add a rule for it", who))
			case ok && running == "on":
				refuse(fmt.Sprintf("these rules would cut off %s: it streams without TLS, and the rule for it is hostssl; let its primary_conninfo say sslmode=require and restart it, or add a host rule for it", who))
			default:
				// It could not have used TLS so far, and libpq does where it can.
				warnings = append(warnings, fmt.Sprintf("%s streams without TLS, and the rule for it is hostssl: it comes back unless its primary_conninfo says sslmode=disable", who))
			}
			continue
		}
		why, sure := changedMethod(judge(current, conn), then)
		switch {
		case why == "":
		case then.rule.Line == 0 && sure:
			refuse(fmt.Sprintf("these rules would cut off %s: it %s, which pgfleet adds; give its primary_conninfo what it needs and write that rule yourself to say so, or write one with the method that it uses now", who, why))
		default:
			warnings = append(warnings, who+" "+why)
		}
	}
	return warnings, errors.Join(problems...)
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

// lockedOut says which clients that are connected now could not connect again,
// or only by another method.
func lockedOut(s *State, rules []postgres.HBARule) []string {
	srv := s.Server()
	if srv == nil {
		return nil
	}
	current, _ := s.hbaRules()
	var list []string
	warn := func(c facts.Session, why string) {
		w := fmt.Sprintf("%s in database %s from %s %s", c.User, c.Database, address(c.Addr), why)
		if !slices.Contains(list, w) {
			list = append(list, w)
		}
	}
	for _, c := range srv.Sessions {
		conn := postgres.HBAConn{
			Local: !c.Addr.IsValid(), TLS: c.TLS, Database: c.Database, User: c.User, Addr: c.Addr, Version: s.version(),
			MemberOf: func(string) bool { return false },
		}
		then := judge(rules, conn)
		switch {
		case then.unsure:
		case !then.in && !conn.Local && !conn.TLS && judge(rules, withTLS(conn)).in:
			warn(c, "is connected now without TLS, and the rule for it is hostssl")
		case !then.in:
			warn(c, "is connected now and could not connect again")
		default:
			if why, _ := changedMethod(judge(current, conn), then); why != "" {
				warn(c, why)
			}
		}
	}
	return list
}

// A verdict is what rules make of a connection.
type verdict struct {
	rule   *postgres.HBARule
	in     bool // it gets in if it has what the rule needs
	unsure bool
	needs  []string
}

func judge(rules []postgres.HBARule, conn postgres.HBAConn) verdict {
	m, ok, uncertain := postgres.Evaluate(rules, conn)
	v := verdict{rule: m, in: ok && m.Method != "reject", unsure: uncertain != ""}
	if v.in {
		v.needs = credentials(*m)
	}
	return v
}

// changedMethod says how a client gets in now and what it would need then; ""
// where it needs no more than now, or that cannot be told. It is sure where the
// client has not shown at all that it has what it would need.
func changedMethod(now, then verdict) (why string, sure bool) {
	if !now.in || now.unsure || !then.in || then.unsure {
		return "", false
	}
	for _, need := range then.needs {
		if !slices.Contains(now.needs, need) {
			return fmt.Sprintf("gets in by %q now, and would need %s for %q", now.rule.Summary(), need, then.rule.Summary()), true
		}
	}
	if then.rule.Method == "scram-sha-256" && now.rule.Method != then.rule.Method && slices.Contains(now.needs, password) {
		return fmt.Sprintf("gets in by %q now, and only with a password that is stored as SCRAM and not as MD5 by %q", now.rule.Summary(), then.rule.Summary()), false
	}
	return "", false
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
