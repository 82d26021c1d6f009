package tasks

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// Plan returns what is left of a rotation that was cut off, or else a whole one.
func (t *Rotation) Plan(_ inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	st, err := t.Find(s)
	if err != nil {
		return out, err
	}
	p := &rotationPlan{t: t, s: s, st: st, out: &out}
	for _, id := range t.missing {
		p.warn("%s cannot be asked: no login is made there, and its sessions are not seen", id)
	}
	if t.asked.Back {
		return out, p.back()
	}
	return out, p.forward()
}

// A rotationPlan is the changes of one rotation as they are put together.
type rotationPlan struct {
	t   *Rotation
	s   *State
	st  RotationState
	out *Outcome
}

// add adds a change that is a step of its own, so that each has its record in the
// journal.
func (p *rotationPlan) add(key, intent string, a Action) {
	p.out.Changes = append(p.out.Changes, Change{Key: key, Intent: intent, Action: a})
}

func (p *rotationPlan) warn(format string, args ...any) {
	p.out.Warnings = append(p.out.Warnings, fmt.Sprintf(format, args...))
}

// forward plans to go on from the stage that was found.
func (p *rotationPlan) forward() error {
	t, st := p.t, p.st
	begun := st.Stage == Written || st.Stage == Stored || st.Stage == Published
	if at := t.asked.DueAt; !at.IsZero() && !begun && t.Due(at) == "" {
		return nil
	}
	if st.Stage == Drifted && !t.asked.Force {
		return fmt.Errorf("%s; put it right (pgfleet plan shows whether a task does that), or go on with --force, which gives %s a new password all the same", st.Why, st.Next)
	}
	if t.asked.EndSessions && st.Stage == Settled && st.Lingers && st.NextSessions > 0 {
		st.Stage = Published // what an earlier rotation has left of it
	}
	if t.Strategy == Alternate && st.NextSessions > 0 && st.Stage != Published {
		if !t.asked.Force {
			return fmt.Errorf("%s, which is next, has %s, though %s; when they log in again, their password will not be right: let them end, or go on with --force",
				st.Next, sessionCount(st.NextSessions), p.inUse())
		}
		p.warn("%s, which is next, has %s", st.Next, sessionCount(st.NextSessions))
	}
	if t.Strategy == Alternate && len(standbysAs(p.s, st.Next))+len(standbysAs(p.s, st.User)) > 0 {
		return fmt.Errorf("standbys stream as %s: strategy = \"in-place\" is for them", orElse(st.User, st.Next))
	}
	password := t.ref.At("pending")
	switch st.Stage {
	case Written, Stored:
		password = t.ref.At(t.held.Pending.ID)
		p.warn("goes on with a rotation that was begun before: version %s of %s is pending%s", t.held.Pending.ID, p.path(), map[bool]string{true: ", and the server has it"}[st.Stage == Stored])
	case Published:
		password = t.ref.At(t.held.Current.ID)
		p.warn("goes on with a rotation that was begun before: version %s of %s is published", password.Version, p.path())
	default:
		p.put()
	}
	switch st.Stage {
	case Published:
		if st.untold {
			p.tell(st.User, password, nil)
			p.told()
		}
		p.retire(st.Next)
		return nil
	case Stored:
	default:
		p.set(st.Next, password)
	}
	p.standbys(st.Next, password)
	p.prove(st.Next, password)
	p.tell(st.Next, password, early)
	p.promote(password, st.User, "publish the new password: make it the current version of "+p.path())
	p.tell(st.Next, password, late)
	p.told()
	p.retire(st.User)
	return nil
}

// back plans to return to the previous password.
func (p *rotationPlan) back() error {
	t, st := p.t, p.st
	previous, err := t.password(t.held.Previous)
	switch {
	case err != nil:
		return err
	case st.Stage == Drifted && !st.back && !t.asked.Force:
		return fmt.Errorf("%s; --force goes back to the previous password all the same", st.Why)
	case t.held.Pending != nil && t.Strategy == InPlace && st.Stage == Stored && t.held.Current != nil:
		// What was begun is taken back on the server: the store never published it.
		p.warn("version %s of %s stays pending, and the next rotation goes on with it", t.held.Pending.ID, p.path())
		current := t.ref.At(t.held.Current.ID)
		p.set(st.User, current)
		p.standbys(st.User, current)
		p.prove(st.User, current)
		return nil
	case t.held.Pending != nil:
		return fmt.Errorf("a rotation was begun and nothing of it published, so there is nothing to go back from: version %s of %s is pending, and pgfleet rotate %s goes on with it", t.held.Pending.ID, p.path(), t.role)
	case t.held.Previous == nil:
		return fmt.Errorf("%s has no previous version to go back to", p.path())
	}
	password := t.ref.At(t.held.Previous.ID)
	user := t.role
	if t.Strategy == Alternate {
		if user, err = t.username(t.held.Previous); err != nil {
			return err
		}
		if user == st.User {
			return fmt.Errorf("the previous version %s of %s is of the same role %s as the current one, and a role has one password; rotate forward: pgfleet rotate %s", password.Version, p.path(), user, t.role)
		}
	}
	c, err := p.s.Cluster()
	if err != nil {
		return err
	}
	role := c.Roles[user]
	if role == nil {
		return t.noRole(user)
	}
	p.st.next = role
	if !role.HasPassword || !postgres.Matches(string(role.Password.Expose()), previous) {
		p.set(user, password)
	}
	p.standbys(user, password)
	p.prove(user, password)
	p.tell(user, password, early)
	p.promote(password, st.User, fmt.Sprintf("publish the previous password again: make version %s the current one of %s", password.Version, p.path()))
	p.tell(user, password, late)
	p.told()
	p.retire(st.User)
	return nil
}

func (p *rotationPlan) inUse() string {
	if p.st.User == "" {
		return p.path() + " does not exist"
	}
	return p.path() + " says that " + p.st.User + " is in use"
}

// path is the secret without its key, for the reader.
func (p *rotationPlan) path() string {
	ref := p.t.ref
	ref.Key = ""
	return ref.String()
}

func sessionCount(n int) string {
	if n == 1 {
		return "1 session"
	}
	return fmt.Sprintf("%d sessions", n)
}

func (p *rotationPlan) put() {
	t := p.t
	a := PutPassword{Secret: t.ref, Length: t.length(), Alphabet: t.alphabet(), IfCurrent: p.current(), Replace: t.held.Pending != nil}
	if t.Strategy == Alternate {
		a.User = p.st.Next
	}
	p.add("secret:"+p.path(), fmt.Sprintf("write a new password for %s to %s, as a pending version", p.st.Next, p.path()), a)
}

// current is the version that the store has as current.
func (p *rotationPlan) current() string {
	if p.t.held.Current == nil {
		return secrets.NoVersion
	}
	return p.t.held.Current.ID
}

func (p *rotationPlan) set(role string, password secrets.Ref) {
	a := SetVerifier{Server: p.s.serverOf(), Role: role, Password: password, PutBack: p.t.Strategy == InPlace, Back: p.t.asked.Back, Force: p.t.asked.Force}
	if p.st.next.HasPassword {
		a.Was = p.st.next.Password
	}
	text := "ALTER ROLE " + postgres.QuoteIdent(role) + " PASSWORD '••••'"
	if p.t.Strategy == InPlace && p.st.next.HasPassword {
		text += ": from here on the old password is refused"
	}
	p.add("sql:postgres:role "+role, text, a)
}

// standbys plans for those who stream as the role, or may: one that is not connected
// at the moment needs the password all the same.
func (p *rotationPlan) standbys(role string, password secrets.Ref) {
	names := standbysAs(p.s, role)
	if p.t.Strategy != InPlace || len(names) == 0 && (!p.st.next.Replication || len(p.t.members) < 2) {
		return
	}
	a := GiveStandbys{Server: p.s.serverOf(), Role: role, Password: password}
	for _, m := range p.t.members {
		a.Hosts = append(a.Hosts, m.on.Host.Name)
	}
	if p.t.held.Current != nil {
		a.Old = p.t.ref.At(p.t.held.Current.ID)
	}
	if a.Old == password && p.t.held.Pending != nil { // what was begun is taken back
		a.Old = p.t.ref.At(p.t.held.Pending.ID)
	}
	p.add("standbys:"+role, "give the new password to the standbys that stream as "+role+", and see them stream with it: "+orElse(strings.Join(names, ", "), "none does at the moment"), a)
}

func (p *rotationPlan) prove(role string, password secrets.Ref) {
	t := p.t
	if t.VerifyFrom.Value == "none" {
		return
	}
	a := ProvePassword{Server: p.s.serverOf(), Role: role, Logins: map[inventory.InstanceID]Login{}}
	for _, m := range t.members {
		a.Logins[m.on.ID()] = Login{
			From: orElse(m.VerifyFrom.Value, "here"), Address: m.address(), Port: m.on.Port, Role: role,
			Database: orElse(m.Database, "postgres"), Password: password, CA: m.ca, Timeout: 15 * time.Second,
		}
	}
	where := "the primary"
	if len(t.members) > 1 {
		where = "the primary, and on each standby after replay"
	}
	p.add("verify:"+role, fmt.Sprintf("log in as %s with it, from %s, on %s", role, orElse(t.VerifyFrom.Value, "here"), where), a)
}

// promote plans the publication. What has to follow it is noted on the host before.
func (p *rotationPlan) promote(password secrets.Ref, old, intent string) {
	a := Promote{Secret: password, IfCurrent: p.current()}
	if len(p.t.Tell) > 0 {
		a.Owed = append(a.Owed, p.t.owedFile())
	}
	if p.retires(old) {
		a.Owed = append(a.Owed, p.t.retireFile())
	}
	p.add("secret:"+p.path()+":current", intent, a)
}

// early and late part those who are told before the publication from the others. A
// PgBouncer has to know the role that is next by then: applications log in with it
// at once.
func early(t *Rotation, i int) bool {
	x := t.Tell[i]
	return t.Strategy == Alternate && (x.Userlist.Value != "" || x.Service.Value != "" && i > 0 && early(t, i-1))
}

func late(t *Rotation, i int) bool { return !early(t, i) }

// tell plans who is told, of those whom which picks or of all, and notes that they
// were.
func (p *rotationPlan) tell(user string, password secrets.Ref, which func(*Rotation, int) bool) {
	t := p.t
	for i, x := range t.Tell {
		if which != nil && !which(t, i) {
			continue
		}
		hosts := t.tellHosts(x)
		on := " on " + strings.Join(hosts, ", ")
		key := fmt.Sprintf("tell:%s:%d", t.role, i+1)
		switch {
		case x.Command.Value != "":
			p.add(key, "run here: "+firstLine(x.Command.Value), RunCommand{Here: true, Script: x.Command.Value, Timeout: orTimeout(x.Timeout, time.Minute)})
		case x.Service.Value != "":
			verb := map[bool]string{false: "reload", true: "restart"}[x.Restart]
			p.add(key, verb+" "+x.Service.Value+on, TellUnit{Hosts: hosts, Unit: x.Service.Value, Verb: verb})
		case x.Userlist.Value != "":
			p.add(key, fmt.Sprintf("give %s its new verifier in %s%s", user, x.Userlist.Value, on), TellUserlist{Server: p.s.serverOf(), Hosts: hosts, Path: x.Userlist.Value, User: user})
		case x.Passfile.Value != "":
			a := TellPassfile{Hosts: hosts, Members: t.named(), Path: x.Passfile.Value, User: user, Password: password}
			for _, r := range t.Roles {
				if r.Value != user {
					a.Others = append(a.Others, r.Value)
				}
			}
			p.add(key, fmt.Sprintf("give %s its new password in %s%s", user, x.Passfile.Value, on), a)
		}
	}
}

// told plans to note that nobody has to be told any more.
func (p *rotationPlan) told() {
	if len(p.t.Tell) > 0 || p.st.untold {
		p.add("told:"+p.t.role, "note that all of them know", Told{Owed: p.t.owedFile()})
	}
}

// tellHosts returns the hosts that are meant.
func (t *Rotation) tellHosts(x Tell) []string {
	var names []string
	for _, h := range x.Hosts {
		names = append(names, h.Value)
	}
	if names == nil && x.Command.Value == "" {
		for _, m := range t.members {
			names = append(names, m.on.Host.Name)
		}
	}
	return names
}

// retires reports whether a role is one of the two, and has a password to take.
func (p *rotationPlan) retires(role string) bool {
	t := p.t
	if t.Strategy != Alternate || role != t.Roles[0].Value && role != t.Roles[1].Value {
		return false
	}
	c, err := p.s.Cluster()
	return err != nil || c.Roles[role] != nil && c.Roles[role].HasPassword
}

// retire plans to take the old role's password.
func (p *rotationPlan) retire(role string) {
	t := p.t
	if !p.retires(role) {
		if t.Strategy == Alternate && role != "" && role != t.Roles[0].Value && role != t.Roles[1].Value {
			p.warn("%s keeps its password: it is none of the two that take turns", role)
		}
		return
	}
	if len(t.missing) > 0 {
		p.warn("%s keeps its old password for now: whether it has sessions on %s is not known", role, t.missing[0])
		return
	}
	text := fmt.Sprintf("ALTER ROLE %s PASSWORD NULL, %v after the publication at the earliest, and once it has no session", postgres.QuoteIdent(role), t.retireAfter())
	if t.asked.EndSessions {
		text = fmt.Sprintf("after %v ALTER ROLE %[2]s PASSWORD NULL, and end its sessions that are left", t.retireAfter(), postgres.QuoteIdent(role))
	}
	p.add("sql:postgres:role "+role+":retire", text, Retire{
		Server: p.s.serverOf(), Role: role, Secret: t.ref, Owed: t.retireFile(), After: t.retireAfter(), Wait: t.retireWait(), EndSessions: t.asked.EndSessions,
	})
}
