package tasks

import (
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// The actions of a rotation. Those of one plan hand on to each other which version
// they are about: a Password whose version is "pending" is the one that the plan's
// PutPassword wrote.

// PutPassword writes a new password to its store, as a pending version. The other
// keys of the secret stay.
type PutPassword struct {
	Secret   secrets.Ref // of the password, without a version
	User     string      // for the key username; "" leaves that alone
	Length   int
	Alphabet string
	// IfCurrent is the version that was current while planning.
	IfCurrent string
	Replace   bool // what is pending
}

// SetVerifier gives a role the SCRAM verifier of a password.
type SetVerifier struct {
	Server
	Role     string
	Password secrets.Ref
	// Was is what the server had stored while planning; if it has something else
	// now, nothing is done. The zero Secret is no password.
	Was secrets.Secret `json:"-"`
	// PutBack says that Was comes back when a later step, up to Promote, fails.
	PutBack bool
	// Back says that the password is one that was in use before.
	Back bool
	// Force changes it also where somebody streams as the role who does not get the
	// new password.
	Force bool
}

// GiveStandbys gives those standbys that stream as a role its new password, in
// their password files or their primary_conninfo, has them connect anew, and waits
// until they stream. Which of them do is asked of each; where none does, nothing is
// done.
type GiveStandbys struct {
	Server
	Hosts    []string // of the cluster
	Role     string
	Password secrets.Ref
	Old      secrets.Ref `json:",omitzero"` // what they get back when a later step fails; the zero Ref is nothing
}

// ProvePassword logs in with a password on the primary, and then on each standby
// once it has replayed what the primary had written.
type ProvePassword struct {
	Server
	Role   string
	Logins map[inventory.InstanceID]Login // of all members that may be in the cluster
}

// Promote makes a version of a secret the current one.
type Promote struct {
	Secret secrets.Ref // its version is the ID, or "pending" for what PutPassword wrote
	// IfCurrent is the version that was current while planning.
	IfCurrent string
	// Owed are files on the host that say, while they are there, what has still to be
	// done: that somebody has to be told, that the old password has to end.
	Owed []string
}

// Told removes the file that Promote has left about those who are told.
type Told struct{ Owed string }

// TellUnit reloads or restarts a systemd unit on hosts of the fleet.
type TellUnit struct {
	Hosts []string
	Unit  string
	Verb  string // "reload" or "restart"
}

// TellUserlist gives a role its line in PgBouncer's auth_file, with the verifier
// that the server has stored.
type TellUserlist struct {
	Server
	Hosts []string
	Path  string
	User  string
}

// TellPassfile gives the lines of a role in a password file (libpq's .pgpass) the
// new password, and the name of the role that is in use now. Lines for other servers
// stay as they are.
type TellPassfile struct {
	Hosts    []string
	Members  []Member // the servers whose lines are meant
	Path     string
	User     string
	Others   []string // names whose lines become User's
	Password secrets.Ref
}

// A Member is a server of a cluster as its clients may name it.
type Member struct {
	Host      string // of fleet.toml
	Addresses []string
	Port      int
}

// named returns the members of the rotation's cluster as clients may name them.
func (t *Rotation) named() []Member {
	var list []Member
	for _, m := range t.members {
		h := m.on.Host
		list = append(list, Member{Host: h.Name, Addresses: []string{orElse(m.Address.Value, h.Address), h.Address, h.Name}, Port: m.on.Port})
	}
	return list
}

// Retire takes the password of a role that is not in use any more, once nobody has
// a session of it.
type Retire struct {
	Server
	Role string
	// Secret is where the role must not be in use again by then, without a version.
	Secret secrets.Ref
	Owed   string // the file that Promote has left about this
	// After is how long it is left alone at least, and Wait how long its sessions
	// are waited for beyond that; then it is left as it is.
	After, Wait time.Duration
	EndSessions bool
}

func (PutPassword) action()   {}
func (SetVerifier) action()   {}
func (GiveStandbys) action()  {}
func (ProvePassword) action() {}
func (Promote) action()       {}
func (Told) action()          {}
func (TellUnit) action()      {}
func (TellUserlist) action()  {}
func (TellPassfile) action()  {}
func (Retire) action()        {}

// rotationStep names what a step of a rotation does, in a few words; "" for one of
// anything else.
func rotationStep(a Action) string {
	switch a.(type) {
	case PutPassword:
		return "new password"
	case SetVerifier:
		return "verifier"
	case GiveStandbys:
		return "standbys"
	case ProvePassword:
		return "login"
	case Promote:
		return "publish"
	case TellUnit, TellUserlist, TellPassfile:
		return "tell"
	case Told:
		return "told"
	case Retire:
		return "old password"
	}
	return ""
}

// Elsewhere returns the hosts that an action changes beside the one whose plan it
// is in.
func Elsewhere(a Action) []string {
	switch a := a.(type) {
	case GiveStandbys:
		return a.Hosts
	case TellUnit:
		return a.Hosts
	case TellUserlist:
		return a.Hosts
	case TellPassfile:
		return a.Hosts
	}
	return nil
}
