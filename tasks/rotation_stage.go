package tasks

import (
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// A Stage is how far a rotation is, as the store and the server have it.
type Stage string

// The stages, in the order in which a rotation goes through them.
const (
	Settled   Stage = "settled"   // the current password logs in, and nothing is pending
	Unset     Stage = "unset"     // there is no password yet
	Written   Stage = "pending"   // the store has a pending password, and the server does not have it yet
	Stored    Stage = "unproven"  // the server has the pending password
	Published Stage = "published" // it is current, and somebody has still to be told, or the old password to end
	Drifted   Stage = "drifted"   // the server has a password that the store does not know
)

// UsernameKey is the key of a secret that says which of the two roles is in use.
const UsernameKey = "username"

// RotationState is where a rotation stands on a cluster, as it was found.
type RotationState struct {
	Stage Stage
	// User is who applications log in as; "" where the store has no current
	// password. Next is who gets the next one: the same with InPlace.
	User, Next string
	// Why says what is wrong when Drifted.
	Why string
	// NextSessions is how many sessions Next has, which is not in use with Alternate.
	NextSessions int
	// Lingers is set while Next still has the password that it had when it was in use.
	Lingers bool

	next    *catalog.Role
	current string // the current password; "" for none
	foreign bool   // no rotation wrote what is pending, and Force says to go on
	untold  bool   // somebody has still to be told, with Published
	back    bool   // Drifted, because the server has the previous password
}

// Find compares what the store holds with what the server has stored. The error is
// the user's to mend: a role that is not there, a secret that is not as it has to
// be.
func (t *Rotation) Find(s *State) (RotationState, error) {
	c, err := s.Cluster()
	if err != nil {
		return RotationState{}, err
	}
	st := RotationState{Stage: Settled, User: t.role, Next: t.role}
	if st.current, err = t.password(t.held.Current); err != nil {
		return st, err
	}
	pending, err := t.password(t.held.Pending)
	if err != nil {
		return st, err
	}
	if t.Strategy == Alternate {
		if err := t.checkPair(c); err != nil {
			return st, err
		}
		if err := t.turn(&st); err != nil {
			return st, err
		}
		if st.foreign {
			pending = ""
		}
	}
	if t.held.Current == nil {
		st.User = ""
	}
	if st.next = c.Roles[st.Next]; st.next == nil {
		return st, t.noRole(st.Next)
	}
	for _, member := range append([]*State{s}, t.others...) {
		st.NextSessions += sessionsOf(member, st.Next)
	}
	tell, err := s.File(t.owedFile())
	if err != nil {
		return st, err
	}
	retire, err := s.File(t.retireFile())
	if err != nil {
		return st, err
	}
	st.untold = tell.Exists
	t.stage(c, &st, pending, tell.Exists || t.Strategy == Alternate && retire.Exists && st.next.HasPassword)
	return st, nil
}

// stage finds out how far the rotation is.
func (t *Rotation) stage(c *catalog.Cluster, st *RotationState, pending string, owed bool) {
	has := func(role *catalog.Role, password string) bool {
		return role != nil && role.HasPassword && password != "" && postgres.Matches(string(role.Password.Expose()), password)
	}
	previous, _ := t.password(t.held.Previous)
	user := c.Roles[st.User]
	inUse := t.held.Current == nil || has(user, st.current)
	switch {
	case has(st.next, pending):
		st.Stage = Stored
		if t.Strategy == Alternate && !inUse {
			st.Stage, st.Why = Drifted, t.drift(user, st.User)
		}
	case !inUse || t.Strategy == InPlace && t.held.Current == nil && st.next.HasPassword:
		if user == nil {
			user = st.next
		}
		st.Stage, st.Why = Drifted, t.drift(user, user.Name)
		st.back = t.held.Pending == nil && has(user, previous)
	case t.Strategy == Alternate && st.next.HasPassword && !has(st.next, previous):
		st.Stage, st.Why = Drifted, fmt.Sprintf("%s, which is next, has a password that %s never held: somebody set it by hand", st.Next, t.ref)
	case t.held.Pending != nil && !st.foreign:
		st.Stage = Written
	case owed && t.held.Current != nil:
		st.Stage = Published
	case t.held.Current == nil:
		st.Stage = Unset
	}
	st.Lingers = t.Strategy == Alternate && st.Stage != Stored && st.next.HasPassword
}

// drift says in what way a role's password is not the one that the store has.
func (t *Rotation) drift(role *catalog.Role, name string) string {
	held := "is not what " + t.ref.String() + " has"
	switch previous, _ := t.password(t.held.Previous); {
	case role == nil:
		return fmt.Sprintf("the secret %s says that %s is in use, and there is no such role", t.ref, name)
	case t.held.Current == nil:
		return fmt.Sprintf("%s has a password, and %s does not exist, so nobody here knows it", name, t.ref)
	case !role.HasPassword:
		return fmt.Sprintf("%s has no password, and %s has one", name, t.ref)
	case previous != "" && postgres.Matches(string(role.Password.Expose()), previous):
		return fmt.Sprintf("the password of %s %s as current, but as previous: a rollback was cut off (pgfleet rotate %s --rollback goes on with it), or somebody changed it by hand, or restored the server or the store", name, held, t.role)
	}
	return fmt.Sprintf("the password of %s %s: somebody changed it by hand, or restored the server or the store", name, held)
}

// password returns the value of the rotation's key; "" for no entry.
func (t *Rotation) password(e *secrets.Entry) (string, error) {
	if e == nil {
		return "", nil
	}
	value, err := e.Value(t.ref.Key)
	if err != nil {
		return "", inventory.Error{Pos: t.Secret.Pos(), Msg: fmt.Sprintf("secret %s: %v", t.ref, err)}
	}
	if err := postgres.CheckPassword(string(value.Expose())); err != nil {
		return "", inventory.Error{Pos: t.Secret.Pos(), Msg: fmt.Sprintf("secret %s: %v", t.ref, err)}
	}
	return string(value.Expose()), nil
}

// turn finds which of the two roles is in use, by the secret's username, and which
// one is next.
func (t *Rotation) turn(st *RotationState) error {
	a, b := t.Roles[0].Value, t.Roles[1].Value
	var err error
	st.User = ""
	if t.held.Current != nil {
		if st.User, err = t.username(t.held.Current); err != nil {
			return err
		}
	}
	if st.Next = a; st.User == a {
		st.Next = b
	}
	if t.held.Pending == nil {
		return nil
	}
	pending, err := t.username(t.held.Pending)
	switch {
	case err == nil && pending != st.User && (pending == a || pending == b):
		st.Next = pending
	case t.asked.Force:
		st.foreign = true
	case err != nil:
		return err
	default:
		return inventory.Error{Pos: t.Secret.Pos(), Msg: fmt.Sprintf("secret %s: its pending version %s is for the user %q, and %s is next: no rotation wrote it; --force puts another one in its place",
			t.ref, t.held.Pending.ID, pending, st.Next)}
	}
	return nil
}

// username returns who a version of the secret is for.
func (t *Rotation) username(e *secrets.Entry) (string, error) {
	v, ok := e.Keys[UsernameKey]
	if !ok {
		return "", inventory.Error{Pos: t.Secret.Pos(), Msg: fmt.Sprintf("secret %s: it has no key %s, so applications take the role's name from elsewhere, and would go on with the old one; let them read it from there and set it (pgfleet secrets set '%s:%s#%s'), or use strategy = \"in-place\"",
			t.ref, UsernameKey, t.ref.Store, t.ref.Path, UsernameKey)}
	}
	return string(v.Expose()), nil
}

// checkPair wants the group and its two members.
func (t *Rotation) checkPair(c *catalog.Cluster) error {
	if c.Roles[t.role] == nil {
		return t.noRole(t.role)
	}
	for _, r := range t.Roles {
		role := c.Roles[r.Value]
		switch {
		case role == nil:
			return t.noRole(r.Value)
		case !role.Login:
			return inventory.Error{Pos: t.node.Pos, Msg: fmt.Sprintf("%s cannot log in (NOLOGIN): a task of kind \"role\" with login = true makes it so", r.Value)}
		case !c.MemberOf(r.Value, t.role):
			return inventory.Error{Pos: t.node.Pos, Msg: fmt.Sprintf("%s is no member of %s, whose grants it is to use: a task of kind \"role\" with member_of = [%q] makes it one", r.Value, t.role, t.role)}
		}
	}
	return nil
}

func (t *Rotation) noRole(name string) error {
	hint := fmt.Sprintf("role = %q and login = true", name)
	if t.Strategy == Alternate && name == t.role {
		hint = fmt.Sprintf("role = %q", name)
	} else if t.Strategy == Alternate {
		hint += fmt.Sprintf(", member_of = [%q], settings = { role = %q }", t.role, t.role)
	}
	return inventory.Error{Pos: t.node.Pos, Msg: fmt.Sprintf("there is no role %q: a task of kind \"role\" with %s makes it", name, hint)}
}

// sessionsOf counts a role's sessions.
func sessionsOf(s *State, role string) int {
	n := 0
	if srv := s.Server(); srv != nil {
		for _, x := range srv.Sessions {
			if x.User == role {
				n += x.Count
			}
		}
	}
	return n
}

// standbysAs names the standbys that stream as a role.
func standbysAs(s *State, role string) []string {
	var names []string
	if srv := s.Server(); srv != nil {
		for _, x := range srv.Standbys {
			if x.User == role && x.Database == "" {
				names = append(names, strings.TrimSpace(x.Name+" ("+x.Addr.String()+")"))
			}
		}
	}
	return names
}
