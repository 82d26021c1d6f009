package tasks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// An access compares what rules will make of connections with what those in
// force make of them.
type access struct {
	task    *HBA
	state   *State
	rules   []postgres.HBARule // that will be in force
	now     []postgres.HBARule // that the server has loaded
	loaded  bool               // that is known
	inForce bool               // both are the same
	noTLS   bool               // the server will have ssl off
	clients []client
	out     *Outcome
}

// lockouts finds out who would lose access by the rules: every standby and
// client that is connected now, and every declared client. What somebody would
// need beyond what they have shown to have is a warning where nobody can tell
// whether they have it, and so is what is in force already.
func (t *HBA) lockouts(s *State, rules []postgres.HBARule, out *Outcome) {
	a := access{task: t, state: s, rules: rules, clients: t.declaredClients(s), out: out}
	on, known := t.offersTLS(s)
	a.noTLS = known && !on
	if srv := s.Server(); srv != nil {
		a.now, a.loaded = s.hbaRules()
		a.loaded = a.loaded && !s.hbaDue()
		a.inForce = a.loaded && slices.Equal(texts(a.now), texts(rules))
		for _, standby := range srv.Standbys {
			if standby.Database == "" {
				a.standby(standby)
			}
		}
		for _, session := range clientSessions(srv) {
			a.session(session)
		}
	}
	for _, c := range a.clients {
		for _, login := range c.logins {
			a.declared(c, login)
		}
	}
}

// clientSessions returns the sessions of clients. Logical replication is an
// ordinary connection to its database.
func clientSessions(srv *facts.Server) []facts.Session {
	list := slices.Clone(srv.Sessions)
	for _, s := range srv.Standbys {
		if s.Database != "" {
			list = append(list, facts.Session{Database: s.Database, User: s.User, Addr: s.Addr, TLS: s.TLS, Application: s.Name, Count: 1})
		}
	}
	return list
}

func (a *access) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(a.out.Warnings, w) {
		a.out.Warnings = append(a.out.Warnings, w)
	}
}

// lose notes a lock-out, or that it is there already.
func (a *access) lose(l Lockout, already bool) {
	if already {
		a.warn("%s is not let in by the rules in force: %s", l.Subject, l.Why)
		return
	}
	l.Pos = a.task.at("rules")
	a.out.Lockouts = addLockout(a.out.Lockouts, l)
}

// A loss is why a connection that is there now could not be made again.
type loss struct {
	why     string
	already bool // it is so by the rules in force
}

// again compares what the rules make of a connection with what they made of it.
// What is not sure is warned of.
func (a *access) again(who string, conn postgres.HBAConn) (then verdict, lost *loss) {
	then = judge(a.rules, conn)
	now := verdict{doubt: "the rules in force are not known"}
	if a.loaded {
		now = judge(a.now, conn)
	}
	switch {
	case then.out && !conn.Local && !conn.TLS && judge(a.rules, withTLS(conn)).in:
		rule := matchesFirst(judge(a.rules, withTLS(conn)).rule)
		if running, ok := a.state.ranWith("ssl"); ok && running == "on" {
			return then, &loss{"it connects without TLS, and only with it " + rule, now.out}
		}
		// It could not have used TLS so far, and libpq does where it can.
		a.warn("%s is connected without TLS, and only with it %s: it comes back unless it says sslmode=disable", who, rule)
	case then.out:
		return then, &loss{then.matches(), now.out}
	case !then.in && !a.inForce:
		a.warn("whether %s could connect again cannot be told: %s", who, then.doubt)
	}
	return then, nil
}

// standby looks after one that streams now. A rule that the task names itself is
// taken as the word that the standby has the credential that it wants; one that
// pgfleet adds is not.
func (a *access) standby(s facts.Standby) {
	who := fmt.Sprintf("the standby %s (%s from %s)", s.Name, s.User, address(s.Addr))
	name := s.Name
	if host := a.hostAt(s.Addr); host != "" {
		name = host
	}
	l := Lockout{Who: "standby:" + name, Subject: who, also: []string{"standby:" + s.Name}}
	l.also = append(l.also, clientsWith(a.clients, s.User, "", s.Addr, true)...)
	conn := postgres.HBAConn{
		Local: !s.Addr.IsValid(), TLS: s.TLS, User: s.User, Addr: s.Addr, Replication: true,
		Version: a.state.version(), MemberOf: a.memberOf(s.User),
	}
	then, lost := a.again(who, conn)
	if lost != nil {
		l.Why = lost.why + "; give its host the same replication = \"…\" as this one, or add a rule for it"
		if strings.Contains(lost.why, "without TLS") {
			l.Why = lost.why + "; let its primary_conninfo say sslmode=require and restart it, or add a host rule for it"
		}
		a.lose(l, lost.already)
		return
	}
	if !a.loaded {
		return
	}
	why, sure := changedMethod(judge(a.now, conn), then)
	switch {
	case why == "":
	case then.rule.Line == 0 && sure:
		l.Why = fmt.Sprintf("it %s, which pgfleet adds; give its primary_conninfo what it needs and write that rule yourself to say so, or write one with the method that it uses now", why)
		a.lose(l, false)
	default:
		a.warn("%s %s", who, why)
	}
}

// hostAt names the host of the fleet with an address; "" where there is none.
func (a *access) hostAt(addr netip.Addr) string {
	for _, h := range a.task.fleet.Hosts {
		if own, err := netip.ParseAddr(h.Address); err == nil && addr.IsValid() && own.Unmap() == addr.Unmap().WithZone("") {
			return h.Name
		}
	}
	return ""
}

// session looks after a client that is connected now.
func (a *access) session(s facts.Session) {
	who := fmt.Sprintf("%s in %s from %s", s.User, s.Database, address(s.Addr))
	conn := postgres.HBAConn{
		Local: !s.Addr.IsValid(), TLS: s.TLS, Database: s.Database, User: s.User, Addr: s.Addr,
		Version: a.state.version(), MemberOf: a.memberOf(s.User),
	}
	then, lost := a.again(who, conn)
	if lost != nil {
		l := sessionLockout(s, a.clients)
		l.Why = lost.why
		a.lose(l, lost.already)
		return
	}
	if !a.loaded {
		return
	}
	if why, _ := changedMethod(judge(a.now, conn), then); why != "" {
		a.warn("%s %s", who, why)
	}
}

// sessionLockout names those who are connected so; of a declared client, by the
// client.
func sessionLockout(s facts.Session, clients []client) Lockout {
	l := Lockout{
		Subject:  fmt.Sprintf("%s in %s from %s", s.User, s.Database, address(s.Addr)),
		Sessions: s.Count, Who: sessionName(s.User, s.Addr), also: userNames(s.User, s.Addr),
	}
	if names := clientsWith(clients, s.User, s.Database, s.Addr, false); len(names) > 0 {
		l.Who, l.also = names[0], append(l.also, names...)
	}
	return l
}

// declared looks after one login of a declared client, from every address of its
// network. Whether it could connect before does not count, unless nothing
// changes for it.
func (a *access) declared(c client, login inventory.Login) {
	conn := postgres.HBAConn{
		Local: !login.From.IsValid(), TLS: login.TLS, Database: login.Database, User: login.User,
		Replication: login.Replication, Version: a.state.version(), MemberOf: a.memberOf(login.User),
	}
	where := login.Database
	if login.Replication {
		where = "replication"
	}
	subject := func(from string) string {
		return fmt.Sprintf("client %s (%s in %s from %s)", c.name, login.User, where, from)
	}
	whole := "the local socket"
	if login.From.IsValid() {
		whole = networkName(login.From)
	}
	if login.TLS && a.noTLS {
		running, ok := a.state.ranWith("ssl")
		a.lose(Lockout{Who: c.name, Subject: subject(whole), Why: "it connects with TLS, and ssl is off; say tls = false if it need not"}, a.inForce && ok && running != "on")
		return
	}
	// Ranges that are lost for the same reason are said together.
	type lost struct {
		why  string
		from []string
	}
	var all []lost
	ranges := postgres.EvaluateNetwork(a.rules, conn, login.From)
	for _, r := range ranges {
		conn.Addr = r.From.Addr
		from := whole
		if len(ranges) > 1 {
			from = rangeName(r.From)
		}
		v := verdictOf(r, a.rules, conn)
		switch {
		case v.in:
			continue
		case !v.out:
			if !a.inForce {
				a.warn("whether %s could connect cannot be told: %s", subject(from), v.doubt)
			}
			continue
		}
		why := v.matches() + otherTLS(a.rules, conn)
		i := slices.IndexFunc(all, func(l lost) bool { return l.why == why })
		if i < 0 {
			i = len(all)
			all = append(all, lost{why: why})
		}
		all[i].from = append(all[i].from, from)
	}
	for _, l := range all {
		a.lose(Lockout{Who: c.name, Subject: subject(some(l.from)), Why: l.why}, a.inForce)
	}
}

// otherTLS says that a connection would be let in if it used TLS, or did not.
func otherTLS(rules []postgres.HBARule, conn postgres.HBAConn) string {
	other := conn
	other.TLS = !conn.TLS
	v := judge(rules, other)
	switch {
	case conn.Local || !v.in || v.rule == nil:
		return ""
	case conn.TLS:
		return fmt.Sprintf(", and without TLS %s", matchesFirst(v.rule))
	}
	return fmt.Sprintf(", and with TLS %s", matchesFirst(v.rule))
}

// some names the first of many ranges.
func some(list []string) string {
	const most = 4
	if len(list) > most {
		return fmt.Sprintf("%s and %d more ranges", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// networkName writes a network of one address as that address.
func networkName(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func rangeName(a postgres.HBAAddress) string {
	if p, ok := a.Prefix(); ok {
		return networkName(p)
	}
	return a.String()
}

// memberOf answers for a user whether it is a member of a role, as far as that is
// known; nil where it is not. What tasks that are still to come make it a member
// of counts for it: the rules are of no use before they are carried out.
func (a *access) memberOf(user string) func(string) bool {
	known, err := a.state.Cluster()
	if err != nil {
		return nil
	}
	coming := &catalog.Cluster{Members: slices.Clone(known.Members)}
	for _, b := range a.task.upcoming(a.state) {
		if t, ok := b.Task.(*Role); ok && t.MemberOf != nil && t.State != "absent" {
			for _, m := range *t.MemberOf {
				coming.Members = append(coming.Members, catalog.Membership{Role: m.role, Member: t.Role.Value})
			}
		}
	}
	return func(role string) bool { return coming.MemberOf(user, role) }
}

// dependsOnMembership reports whether a rule is about the members of a role.
func dependsOnMembership(r postgres.HBARule) bool {
	return slices.ContainsFunc(r.Users, func(t postgres.HBAToken) bool { _, ok := t.Group(); return ok }) ||
		slices.ContainsFunc(r.Databases, func(t postgres.HBAToken) bool { return t.Is("samerole") || t.Is("samegroup") })
}

// A verdict is what rules make of a connection. Where one of them cannot be
// decided it may be neither in nor out.
type verdict struct {
	rule  *postgres.HBARule // the first that matches for sure; nil where none does
	in    bool              // it gets in if it has what the rule needs
	out   bool              // it does not, whatever it has
	doubt string            // why a rule ahead cannot be decided
	needs []string
}

func judge(rules []postgres.HBARule, conn postgres.HBAConn) verdict {
	var network netip.Prefix
	if !conn.Local {
		conn.Addr = conn.Addr.WithZone("")
		network = netip.PrefixFrom(conn.Addr, conn.Addr.BitLen())
	}
	return verdictOf(postgres.EvaluateNetwork(rules, conn, network)[0], rules, conn)
}

// verdictOf judges one range. The connection is from an address of it.
func verdictOf(r postgres.HBAReach, rules []postgres.HBARule, conn postgres.HBAConn) verdict {
	lets := func(r *postgres.HBARule) bool { return r != nil && r.Method != "reject" }
	v := verdict{rule: r.First, in: lets(r.First), out: !lets(r.First)}
	for _, m := range r.Maybe {
		v.in, v.out = v.in && lets(m), v.out && !lets(m)
	}
	switch {
	case len(r.Maybe) > 0:
		_, _, v.doubt = postgres.Evaluate(rules, conn)
	case v.in:
		v.needs = credentials(*r.First)
	}
	return v
}

// matches says which rule decides.
func (v verdict) matches() string {
	if v.rule == nil {
		return "no rule matches"
	}
	return matchesFirst(v.rule)
}

func matchesFirst(r *postgres.HBARule) string { return fmt.Sprintf("%q matches first", r.Summary()) }

// changedMethod says how a client gets in now and what it would need then; ""
// where it needs no more than now, or that cannot be told. It is sure where the
// client has not shown at all that it has what it would need.
func changedMethod(now, then verdict) (why string, sure bool) {
	if !now.in || now.doubt != "" || !then.in || then.doubt != "" {
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
