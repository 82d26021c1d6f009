package tasks

import (
	"crypto/x509"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/templates"
)

// The strategies of a rotation.
const (
	// Alternate has two login roles, of which one is in use. The other one gets the
	// new password and is published, and so no login ever fails.
	Alternate = "alternate"
	// InPlace gives the one role a new password. Who still has the old one is
	// refused from then on, until the new one is published.
	InPlace = "in-place"
)

// Rotation changes the password of a role on one cluster, together with the secret
// that holds it. It is no kind of task: [[rotation]] of fleet.toml declares it, and
// it is planned and carried out on the cluster's primary when somebody asks for it.
//
// What the secret's store holds has to be given to Hold before planning. Everything
// else that a rotation has to know is what the server holds: so a rotation that was
// cut off goes on from there, on any machine.
type Rotation struct {
	Common
	Secret      inventory.Positioned[string]   `toml:"secret" required:"true" doc:"Where the password is, such as \"age:prod/{{ .Cluster }}/appuser\": one secret for each cluster. #KEY names the password's key in it, \"password\" by default."`
	Strategy    string                         `toml:"strategy" enum:"alternate,in-place" doc:"alternate, the default: two login roles, so that no login fails; the secret's key username says which one is in use. in-place: the role itself gets a new password."`
	Roles       []inventory.Positioned[string] `toml:"roles" doc:"With alternate: the two login roles, members of role; by default its name with _a and _b."`
	VerifyFrom  inventory.Positioned[string]   `toml:"verify_from" doc:"Where the login comes from that proves a new password: a host of the fleet, \"here\" (the default), or \"none\": only the stored verifier is compared."`
	Address     inventory.Positioned[string]   `toml:"address" doc:"The address that it connects to; the host's own by default. The certificate must name it."`
	Database    string                         `toml:"database" doc:"The database that it connects to; postgres by default."`
	CA          inventory.Positioned[string]   `toml:"ca" doc:"The CA that the server's certificate must come from, a file beside fleet.toml. Needed unless verify_from is \"none\"."`
	Length      inventory.Positioned[int]      `toml:"length" doc:"How many characters a new password has; 43 by default, which is 256 bits."`
	Alphabet    inventory.Positioned[string]   `toml:"alphabet" doc:"What characters a new password has: \"url-safe\" (the default), \"alphanumeric\", or the characters themselves, ASCII."`
	RetireAfter *time.Duration                 `toml:"retire_after" doc:"With alternate: how long the old password goes on at least after the new one was published, for clients that have read it just before; \"1m\" by default."`
	RetireWait  *time.Duration                 `toml:"retire_wait" doc:"With alternate: how long to wait for the last session of the old role to end. After that its password stays, which is said. \"10m\" by default."`
	MaxAge      inventory.Age                  `toml:"max_age" doc:"How old the password may become, such as \"90d\": after that, plan says that a rotation is due."`
	Tell        []Tell                         `toml:"tell" doc:"What is done once the new password is published, in this order; a table each."`

	raw     *inventory.Rotation
	role    string
	ref     secrets.Ref // of the password: with its key, without a version
	ca      []byte
	members []*Rotation // the same rotation on all members of the cluster, this one too
	on      inventory.Instance
	held    Held
	asked   Asked
	others  []*State               // of the other members
	missing []inventory.InstanceID // members that could not be asked
}

// Tell is one entry of tell: somebody who needs to know of a new password.
type Tell struct {
	Command  inventory.Positioned[string]   `toml:"command" doc:"A command on this machine, given to sh."`
	Timeout  time.Duration                  `toml:"timeout" doc:"How long the command may take; 1m by default."`
	Service  inventory.Positioned[string]   `toml:"service" doc:"A systemd unit that is reloaded."`
	Restart  bool                           `toml:"restart" doc:"Restart the service rather than reload it."`
	Userlist inventory.Positioned[string]   `toml:"userlist" doc:"PgBouncer's auth_file: the role's line gets the verifier that the server has."`
	Passfile inventory.Positioned[string]   `toml:"passfile" doc:"A password file (libpq's .pgpass): the lines of the role get the new password. The file must be there."`
	Hosts    []inventory.Positioned[string] `toml:"hosts" doc:"The hosts on which a service, userlist or passfile is; by default those of the cluster."`
}

// Held is what a store holds of a rotation's secret.
type Held struct {
	Current, Pending, Previous *secrets.Entry // nil where there is none
}

// Asked is what a rotation is asked to do.
type Asked struct {
	Back        bool // go back to the previous password
	Force       bool // also where somebody has changed something by hand
	EndSessions bool // end sessions of a role that is retired
	// DueAt, if not zero, leaves out what is not older than its max_age then, unless
	// it was begun.
	DueAt time.Time `json:",omitzero"`
}

// NewRotations returns the fleet's rotations for the instances: one for each
// declared rotation and instance that it is for, in the order of fleet.toml, and
// only of the given roles unless there are none. All but the primary's of each
// cluster plan nothing. Every mistake is returned, each once.
func NewRotations(fleet *inventory.Fleet, instances []inventory.Instance, roles []string, asked Asked, o Options) (map[inventory.InstanceID][]*Bound, inventory.Errors) {
	all := map[inventory.InstanceID][]*Bound{}
	var errs inventory.Errors
	var every []*Rotation
	for i := range fleet.Rotations {
		raw := &fleet.Rotations[i]
		errs = append(errs, wholeClusters(fleet, raw)...)
		for _, in := range fleet.Instances() {
			if raw.Limit.Match(in, nil) == inventory.No {
				continue
			}
			t, found := newRotation(fleet, raw, in, o)
			errs = append(errs, found...)
			if t != nil {
				t.asked = asked
				every = append(every, t)
			}
		}
	}
	errs = append(errs, joinMembers(every)...)
	for _, t := range every {
		if len(roles) > 0 && !slices.Contains(roles, t.role) || !slices.ContainsFunc(instances, func(in inventory.Instance) bool { return in.ID() == t.on.ID() }) {
			continue
		}
		all[t.on.ID()] = append(all[t.on.ID()], &Bound{
			Name: t.Name, Kind: "rotation", Pos: t.raw.Pos, On: "primary", Limit: t.raw.Limit, Instance: t.on, Task: t, Selected: true,
		})
	}
	return all, errs.Sorted()
}

// wholeClusters finds a limit that means a part of a cluster: nobody would look at
// what happens on the others.
func wholeClusters(fleet *inventory.Fleet, raw *inventory.Rotation) inventory.Errors {
	var errs inventory.Errors
	for _, in := range fleet.Instances() {
		if in.Replication == "" || raw.Limit.Match(in, nil) == inventory.No {
			continue
		}
		for _, other := range fleet.Replication(in.Replication) {
			if raw.Limit.Match(other, nil) == inventory.No {
				errs.Add(raw.Pos, "limit: it means %s and not %s of the same cluster; let it name the cluster: limit = %q", in.ID(), other.ID(), in.Replication)
				return errs
			}
		}
	}
	return errs
}

func newRotation(fleet *inventory.Fleet, raw *inventory.Rotation, in inventory.Instance, o Options) (*Rotation, inventory.Errors) {
	node, errs := templates.RenderNode(raw.Body, templates.NewData(fleet, in))
	if len(errs) > 0 {
		return nil, errs
	}
	if n := secretIn(node); n != nil {
		return nil, inventory.Errors{{Pos: n.Pos, Msg: "the values of a rotation are shown in plans, and cannot be secrets"}}
	}
	t := &Rotation{}
	if errs := inventory.Decode(node, t); len(errs) > 0 {
		return nil, errs
	}
	t.Name, t.node, t.fleet = "Rotation of "+raw.Role, node, fleet
	t.raw, t.role, t.on = raw, raw.Role, in
	t.members = []*Rotation{t}
	if t.Strategy == "" {
		t.Strategy = Alternate
	}
	if len(t.Roles) == 0 && t.Strategy == Alternate {
		for _, suffix := range []string{"_a", "_b"} {
			t.Roles = append(t.Roles, inventory.Positioned[string]{Value: raw.Role + suffix})
		}
	}
	if errs := t.Load(o.Local); len(errs) > 0 {
		return nil, errs
	}
	if errs := t.Check(in); len(errs) > 0 {
		return nil, errs
	}
	if o.CheckSecret != nil {
		if err := o.CheckSecret(t.ref); err != nil {
			errs.Add(t.Secret.Pos(), "secret: %v", err)
			return nil, errs
		}
	}
	return t, nil
}

// joinMembers tells the members of each cluster of each other, and finds secrets
// that several clusters or roles share: a version of a secret is pending as a whole,
// so they would publish each other's passwords.
func joinMembers(of []*Rotation) inventory.Errors {
	var errs inventory.Errors
	for i, t := range of {
		for _, other := range of[i+1:] {
			members := t.raw == other.raw && t.on.Replication != "" && t.on.Replication == other.on.Replication
			shared := t.ref.Store == other.ref.Store && t.ref.Path == other.ref.Path
			switch {
			case members && t.ref != other.ref:
				errs.Add(t.Secret.Pos(), "secret: it is %s for %s and %s for %s of the same cluster; replication brings both the same password", t.ref, t.on.ID(), other.ref, other.on.ID())
			case members && t.address() == other.address() && t.on.Port == other.on.Port && t.VerifyFrom.Value != "none":
				errs.Add(t.Address.Pos(), "address: it is %s for %s and for %s, so a login would prove only one of them; leave it out, or let it name the host", t.address(), t.on.ID(), other.on.ID())
			case members:
				t.members = append(t.members, other)
				other.members = append(other.members, t)
			case shared && t.raw != other.raw:
				errs.Add(other.Secret.Pos(), "secret: %s:%s is that of the role %q too; each needs one of its own, because a version is pending as a whole", t.ref.Store, t.ref.Path, t.role)
			case shared:
				errs.Add(t.Secret.Pos(), "secret: %s:%s would be the secret of %s and of %s, which are different clusters unless both say the same replication; let its path name the cluster, such as \"%s:{{ .Cluster }}/%s\", or set limit",
					t.ref.Store, t.ref.Path, t.cluster(), other.cluster(), t.ref.Store, t.ref.Path)
				return errs
			}
		}
	}
	return errs
}

// address is where a login connects to.
func (t *Rotation) address() string { return orElse(t.Address.Value, t.on.Host.Address) }

// cluster names the cluster for the reader.
func (t *Rotation) cluster() string { return orElse(t.on.Replication, string(t.on.ID())) }

// Load reads the CA's certificate.
func (t *Rotation) Load(local Local) inventory.Errors {
	if t.CA.Value == "" {
		return nil
	}
	b, err := local(t.CA.Value)
	if err != nil {
		var errs inventory.Errors
		errs.Add(t.CA.Pos(), "ca: %v", err)
		return errs
	}
	t.ca = b
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		var errs inventory.Errors
		errs.Add(t.CA.Pos(), "ca: %s holds no certificate", t.CA.Value)
		return errs
	}
	return nil
}

// Check finds mistakes that can be seen without any host.
func (t *Rotation) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	var err error
	switch t.ref, err = secrets.ParseRef(t.Secret.Value); {
	case err != nil:
		errs.Add(t.Secret.Pos(), "secret: %v", err)
	case t.ref.Version != "":
		errs.Add(t.Secret.Pos(), "secret: a rotation makes versions, so it cannot be for the version %s alone", t.ref.Version)
	case t.ref.Key == "":
		t.ref.Key = "password"
	}
	if t.ref.Key == UsernameKey && t.Strategy == Alternate {
		errs.Add(t.Secret.Pos(), "secret: the key %s is where the role's name is kept; the password needs another one", UsernameKey)
	}
	t.checkRoles(&errs)
	if v := t.VerifyFrom; v.Value != "" && v.Value != "here" && v.Value != "none" && t.fleet.Host(v.Value) == nil {
		errs.Add(v.Pos(), "verify_from: no host %q%s; \"here\" is the operator's machine, \"none\" makes no login", v.Value, inventory.DidYouMean(v.Value, t.hostNames()))
	}
	if t.CA.Value == "" && t.VerifyFrom.Value != "none" {
		errs.Add(t.node.Pos, "ca is needed: a new password is proven by a login over TLS, with the server's certificate verified; or verify_from = \"none\"")
	}
	t.checkAlphabet(&errs)
	for i := range t.Tell {
		t.checkTell(i, &errs)
	}
	return errs
}

func (t *Rotation) checkRoles(errs *inventory.Errors) {
	names := []inventory.Positioned[string]{}
	for _, r := range t.Roles {
		checkName("roles", r, errs)
		names = append(names, r)
	}
	switch {
	case t.Strategy == InPlace && len(names) > 0:
		errs.Add(t.at("roles"), "roles: strategy = \"in-place\" has only the role itself")
	case t.Strategy == InPlace:
		for _, key := range []string{"retire_after", "retire_wait"} {
			if t.given(key) {
				errs.Add(t.at(key), "%s: with strategy = \"in-place\" the old password ends at once", key)
			}
		}
	case len(names) != 2:
		errs.Add(t.at("roles"), "roles: want two, which take turns")
	case names[0].Value == names[1].Value || names[0].Value == t.role || names[1].Value == t.role:
		errs.Add(t.at("roles"), "roles: want two others than %q, the group that owns the grants", t.role)
	}
}

// leastBits is what a generated password must have.
const leastBits = 128

func (t *Rotation) checkAlphabet(errs *inventory.Errors) {
	characters := t.alphabet()
	for i, c := range []byte(characters) {
		if c <= ' ' || c > '~' || strings.IndexByte(characters[:i], c) >= 0 {
			errs.Add(t.Alphabet.Pos(), "alphabet: want printable ASCII characters other than space, each once; or \"url-safe\" or \"alphanumeric\"")
			return
		}
	}
	if bits := float64(t.length()) * math.Log2(float64(len(characters))); bits < leastBits || t.length() > 1000 {
		pos := t.Length.Node
		if pos == nil {
			pos = t.Alphabet.Node
		}
		errs.Add(pos.Pos, "length: %d characters of %d have %.0f bits; want at least %d, and at most 1000 characters", t.length(), len(characters), math.Floor(bits), leastBits)
	}
}

const (
	lowerAndDigits = "abcdefghijklmnopqrstuvwxyz0123456789"
	alphanumeric   = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + lowerAndDigits
	urlSafe        = alphanumeric + "-_" // unreserved in RFC 3986
)

// alphabet returns the characters that a new password is made of.
func (t *Rotation) alphabet() string {
	switch t.Alphabet.Value {
	case "", "url-safe":
		return urlSafe
	case "alphanumeric":
		return alphanumeric
	}
	return t.Alphabet.Value
}

// length returns how many characters a new password has. 43 of 64 are 258 bits.
func (t *Rotation) length() int {
	if t.Length.Node == nil {
		return 43
	}
	return t.Length.Value
}

func (t *Rotation) checkTell(i int, errs *inventory.Errors) {
	x := t.Tell[i]
	pos := t.atIndex("tell", i)
	var given []string
	for name, v := range map[string]string{"command": x.Command.Value, "service": x.Service.Value, "userlist": x.Userlist.Value, "passfile": x.Passfile.Value} {
		if v != "" {
			given = append(given, name)
		}
	}
	switch {
	case len(given) != 1:
		errs.Add(pos, "tell: want one of command, service, userlist and passfile")
	case x.Command.Value != "" && len(x.Hosts) > 0:
		errs.Add(pos, "tell: a command is run on this machine and goes without hosts")
	case x.Command.Value == "" && x.Timeout != 0:
		errs.Add(pos, "tell: timeout is for a command")
	case x.Service.Value == "" && x.Restart:
		errs.Add(pos, "tell: restart is for a service")
	}
	for _, p := range []inventory.Positioned[string]{x.Userlist, x.Passfile} {
		if p.Value != "" && !strings.HasPrefix(p.Value, "/") {
			errs.Add(p.Pos(), "tell: want a path that begins with /")
		}
	}
	for _, h := range x.Hosts {
		if t.fleet.Host(h.Value) == nil {
			errs.Add(h.Pos(), "hosts: no host %q%s", h.Value, inventory.DidYouMean(h.Value, t.hostNames()))
		}
	}
}

// Role returns what the rotation is called.
func (t *Rotation) Role() string { return t.role }

// Cluster returns the name of the cluster that the secret is for.
func (t *Rotation) Cluster() string { return t.cluster() }

// Users returns who logs in with the passwords: the two roles that take turns, or
// the role itself.
func (t *Rotation) Users() []string {
	if t.Strategy == InPlace {
		return []string{t.role}
	}
	return []string{t.Roles[0].Value, t.Roles[1].Value}
}

// Ref returns where the password is: without a version.
func (t *Rotation) Ref() secrets.Ref { return t.ref }

// Current returns the current version of the secret, nil if there is none. It is
// shared and not to be changed.
func (t *Rotation) Current() *secrets.Entry { return t.held.Current }

// Hold takes over what the store holds of the secret.
func (t *Rotation) Hold(h Held) { t.held = h }

// See takes over what was found of the other members of the cluster: a role may have
// sessions there. Of missing ones nothing is known.
func (t *Rotation) See(others []*State, missing []inventory.InstanceID) {
	t.others, t.missing = others, missing
}

// Holds reports whether the store still holds the versions that the rotation was
// planned with, in the same stages.
func (t *Rotation) Holds(h Held) bool {
	same := func(a, b *secrets.Entry) bool { return a == nil && b == nil || a != nil && b != nil && a.ID == b.ID }
	return same(t.held.Current, h.Current) && same(t.held.Pending, h.Pending) && same(t.held.Previous, h.Previous)
}

// Reads asks for the roles, and for what is left of an earlier rotation.
func (t *Rotation) Reads(in inventory.Instance, _ *State) []facts.Read {
	return append(catalogReads(in), facts.File{Path: t.owedFile()}, facts.File{Path: t.retireFile()})
}

// owedFile is there while somebody has still to be told of a published password.
func (t *Rotation) owedFile() string { return t.note("tell") }

// retireFile is there until the old role's password has been taken, or left because
// the role still had sessions.
func (t *Rotation) retireFile() string { return t.note("retire") }

func (t *Rotation) note(what string) string {
	return "/var/lib/pgfleet/" + t.on.Unit() + "." + what + "." + url.PathEscape(t.role)
}

func (t *Rotation) retireAfter() time.Duration {
	if t.RetireAfter != nil {
		return *t.RetireAfter
	}
	return time.Minute
}

func (t *Rotation) retireWait() time.Duration {
	if t.RetireWait != nil {
		return *t.RetireWait
	}
	return 10 * time.Minute
}

// Due says how old the password is, if it is older than max_age; "" otherwise.
func (t *Rotation) Due(now time.Time) string {
	if t.MaxAge == 0 || t.held.Current == nil || t.held.Current.Created.IsZero() {
		return ""
	}
	age := now.Sub(t.held.Current.Created)
	if age <= time.Duration(t.MaxAge) {
		return ""
	}
	return fmt.Sprintf("the password of %s on %s is %s old, and max_age is %s: pgfleet rotate %s", t.role, t.cluster(), AgeText(age), t.MaxAge, t.role)
}

// AgeText is a length of time for the reader, in its largest unit.
func AgeText(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return d.Round(time.Second).String()
}
