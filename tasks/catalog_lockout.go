package tasks

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// A leftBy is the State that a task leaves.
type leftBy struct {
	task  *Bound
	state *State
}

// lockouts adds those who are connected before the plan and whom the State that
// it leaves would not let in again, other than by the rules of an hba task. Only
// the end counts: what one task takes away, a later one may give back.
func (p *planner) lockouts(before *State) {
	srv := before.Server()
	if srv == nil {
		return
	}
	var clients []client
	if len(p.left) > 0 {
		clients = commonOf(p.left[0].task.Task).declaredClients(before)
	}
	var sessions []Lockout
	var whose []facts.Session
	for _, s := range clientSessions(srv) {
		sessions, whose = append(sessions, sessionLockout(s, clients)), append(whose, s)
	}
	for _, s := range srv.Standbys {
		if s.Database == "" {
			sessions = append(sessions, Lockout{
				Who: "standby:" + s.Name, Subject: fmt.Sprintf("the standby %s (%s from %s)", s.Name, s.User, address(s.Addr)),
				also: clientsWith(clients, s.User, "", s.Addr, true),
			})
			whose = append(whose, facts.Session{User: s.User, Addr: s.Addr, TLS: s.TLS})
		}
	}
	sessions = append(sessions, Lockout{Who: Ourselves, Subject: oursSubject})
	whose = append(whose, facts.Session{User: "postgres", Database: "postgres"})
	for i, l := range sessions {
		if why := barred(before, p.state, whose[i]); why != "" {
			l.Task, l.Why = p.blamed(before, whose[i]), why
			p.plan.Lockouts = addLockout(p.plan.Lockouts, l)
		}
	}
}

// blamed names the task since which a session is barred.
func (p *planner) blamed(before *State, s facts.Session) string {
	name := ""
	for _, l := range slices.Backward(p.left) {
		if barred(before, l.state, s) == "" {
			break
		}
		name = l.task.Name
	}
	return name
}

// barred says why the server would not let a session in again whom it lets in
// now, whatever pg_hba.conf says of it; "" where it would. Database is empty for
// a standby.
func barred(before, after *State, s facts.Session) string {
	if why := withoutTLS(before, after, s); why != "" {
		return why
	}
	was, err := before.Cluster()
	if err != nil {
		return ""
	}
	is, err := after.Cluster()
	if err != nil || was == is {
		return ""
	}
	for _, why := range []func(*catalog.Cluster) string{
		func(c *catalog.Cluster) string { return barredRole(c, s) },
		func(c *catalog.Cluster) string { return expired(c, before, after, s) },
		func(c *catalog.Cluster) string { return barredDatabase(c, s) },
		func(c *catalog.Cluster) string { return limited(c, before.Server(), s) },
	} {
		if now := why(is); now != "" && why(was) == "" {
			return now
		}
	}
	return byMembership(was, is, after, s)
}

// byMembership says that rules about a role's memberships let it in no more, because
// these change.
func byMembership(was, is *catalog.Cluster, after *State, s facts.Session) string {
	rules, ok := after.hbaRules()
	if !ok {
		return ""
	}
	conn := after.connection(s)
	conn.MemberOf = func(role string) bool { return was.MemberOf(s.User, role) }
	had := judge(rules, conn)
	conn.MemberOf = func(role string) bool { return is.MemberOf(s.User, role) }
	if has := judge(rules, conn); had.in && had.rule != nil && has.out {
		return fmt.Sprintf("its memberships change: it gets in by %q now, and then %s", had.rule.Summary(), has.matches())
	}
	return ""
}

// barredRole says why a role cannot log in (InitPostgres in postinit.c).
func barredRole(c *catalog.Cluster, s facts.Session) string {
	role := c.Roles[s.User]
	switch {
	case role == nil:
		return "there is no such role any more"
	case !role.Login:
		return "the role becomes NOLOGIN"
	case s.Database == "" && !role.Replication && !role.Superuser:
		return "the role loses REPLICATION"
	}
	return ""
}

// expired says that a role's password has ended, where it needs one
// (get_role_password in crypt.c).
func expired(c *catalog.Cluster, before, after *State, s facts.Session) string {
	role := c.Roles[s.User]
	if role == nil || role.ValidUntil == "" || role.ValidUntil == "infinity" {
		return ""
	}
	until, err := time.Parse(time.RFC3339, role.ValidUntil)
	if err != nil || before.Server().Clock.IsZero() || !until.Before(before.Server().Clock) {
		return ""
	}
	if rules, ok := after.hbaRules(); ok {
		v := judge(rules, after.connection(s))
		if v.in && v.doubt == "" && !slices.Contains(v.needs, password) {
			return ""
		}
	}
	return "its password ends: VALID UNTIL " + role.ValidUntil
}

// barredDatabase says why a role cannot connect to a database
// (CheckMyDatabase in postinit.c).
func barredDatabase(c *catalog.Cluster, s facts.Session) string {
	d := c.Databases[s.Database]
	role := c.Roles[s.User]
	switch {
	case s.Database == "" || d == nil || role == nil: // that a database goes is what the plan says
		return ""
	case !d.AllowConn:
		return "the database allows no connections"
	case !c.CanConnect(s.User, s.Database):
		return "the role loses CONNECT on the database"
	}
	return ""
}

// limited says that more sessions are there than a limit allows. Those who are
// connected stay, but not all of them could come back.
func limited(c *catalog.Cluster, srv *facts.Server, s facts.Session) string {
	role := c.Roles[s.User]
	if role == nil || role.Superuser || s.Database == "" {
		return ""
	}
	ofRole, ofDatabase := 0, 0
	for _, other := range clientSessions(srv) {
		if other.User == s.User {
			ofRole += other.Count
		}
		if other.Database == s.Database {
			ofDatabase += other.Count
		}
	}
	if role.ConnLimit >= 0 && ofRole > role.ConnLimit {
		return fmt.Sprintf("the role's connection limit is %d, and %d sessions are there", role.ConnLimit, ofRole)
	}
	if d := c.Databases[s.Database]; d != nil && d.ConnLimit >= 0 && ofDatabase > d.ConnLimit {
		return fmt.Sprintf("the database's connection limit is %d, and %d sessions are there", d.ConnLimit, ofDatabase)
	}
	return ""
}

// withoutTLS says that ssl is turned off, and that the rules let a session in
// with TLS alone.
func withoutTLS(before, after *State, s facts.Session) string {
	was, ok := before.Running("ssl")
	is, okToo := after.Running("ssl")
	if !s.TLS || !ok || !okToo || was != "on" || is == "on" {
		return ""
	}
	rules, ok := after.hbaRules()
	if !ok {
		return ""
	}
	conn := after.connection(s)
	with := judge(rules, conn)
	conn.TLS = false
	if without := judge(rules, conn); with.in && without.out {
		return "ssl is turned off, and without TLS " + without.matches()
	}
	return ""
}

// connection is a session as pg_hba.conf sees it.
func (s *State) connection(of facts.Session) postgres.HBAConn {
	conn := postgres.HBAConn{
		Local: !of.Addr.IsValid(), TLS: of.TLS, Database: of.Database, User: of.User, Addr: of.Addr,
		Replication: of.Database == "", Version: s.version(),
	}
	if known, err := s.Cluster(); err == nil {
		conn.MemberOf = func(role string) bool { return known.MemberOf(of.User, role) }
	}
	return conn
}
