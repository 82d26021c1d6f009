package tasks

import (
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// An Action is how a Change is carried out. The set is closed: package rollout
// has exactly one case for each.
type Action interface{ action() }

// WriteFile replaces a whole file. Content may hold placeholders of secrets;
// their values go in only while the file is being sent.
type WriteFile struct {
	Path         string
	Content      string
	Owner, Group string
	Mode         fs.FileMode
	// Check is run with sh before the file is put in place; %s in it stands
	// for the staged copy's path. It must exit with 0.
	Check string
}

// RemoveFile deletes a file.
type RemoveFile struct{ Path string }

// RemoveStaging deletes folders in which a run that was cut off had staged
// something.
type RemoveStaging struct {
	Dirs  []string
	Owner string // whose rights
}

// IssueCertificate makes a key and a signing request on the host, has the
// request signed by the fleet's CA here, and puts key and certificate into one
// PEM file on the host. The key never leaves the host.
type IssueCertificate struct {
	Path       string
	Owner      string
	Mode       fs.FileMode
	Usage      pki.Usage
	CommonName string
	DNSNames   []string
	Addresses  []netip.Addr
	Lifetime   time.Duration
	Issuer     Issuer
}

// WriteRevocationLists signs a revocation list for each of some CAs, and replaces
// the file that holds them.
type WriteRevocationLists struct {
	Path         string
	Owner, Group string
	Mode         fs.FileMode
	Lists        []RevocationList
	Lifetime     time.Duration
	With         []byte // PEM: lists of other CAs, which follow
}

// A RevocationList is what the list of a CA is to hold.
type RevocationList struct {
	CA      []byte // PEM: its certificate and those above it
	Name    string
	Key     secrets.Ref
	Revoked []pki.Revocation
	// Restored are serial numbers whose revocation was taken back. What the list on the
	// host holds beyond both stays in it.
	Restored []*big.Int
	// Expired: the CA's time is over, so that nothing is signed, and what the host has stays.
	Expired bool
	// Older: an intermediate that another one has followed. If there is no key of it any
	// more, the host's list stays as long as it is valid.
	Older bool
}

// SetPackages installs or removes packages by the host's package manager.
type SetPackages struct {
	Manager string // "apt" or "dnf"
	Install []string
	Remove  []string
}

// Reload makes the running server read its configuration again.
type Reload struct{ Server }

// Restart restarts the server, or starts it where it is down.
type Restart struct{ Server }

// A Server is the PostgreSQL server that a configuration step is about, with
// what its checks need.
type Server struct {
	Unit      string // systemd's: postgresql@15-main.service
	Port      int
	SocketDir string
	BinDir    string // of the server's major version
	ConfDir   string // the folder of postgresql.conf
	DataDir   string
}

// DaemonReload makes systemd read its unit files again.
type DaemonReload struct{}

// SetUnit changes the state of a systemd unit. Nil leaves a state as it is.
type SetUnit struct {
	Name    string
	Enabled *bool
	Running *bool
	Reload  bool
	Restart bool
}

// RunCommand runs a user's command on the host, or on the operator's machine.
type RunCommand struct {
	Here    bool
	Script  string
	User    string
	Dir     string
	Timeout time.Duration
	Always  bool // runs at every apply and is not counted as a change
	// Probes are asked again just before: the command runs only where they still
	// say that it is due. With Maybe they said otherwise while planning, and an
	// earlier change may make it due.
	Probes []Probe
	Maybe  bool
}

// A Probe is a command that only looks, and what it means.
type Probe struct {
	Script string
	Done   bool // whether exit code 0 means that there is nothing to do
}

// key tells commands apart.
func (a RunCommand) key() string {
	return fmt.Sprintf("%v\x00%s\x00%s\x00%s", a.Here, a.User, a.Dir, a.Script)
}

// RunScript runs SQL through psql on the host, on stdin, with ON_ERROR_STOP.
type RunScript struct {
	Server
	Name     string // for errors: the file's name
	Database string
	SQL      string // may hold placeholders
	Single   bool   // in one transaction
	Unless   string // a query that must be true afterwards; "" for none
	Maybe    bool   // it was true while planning, and an earlier change may make it false
	Always   bool   // runs at every apply and is not counted as a change
	Timeout  time.Duration
	As       string             // the role that the script runs as; "" is the superuser
	Creates  []catalog.Relation // what it is declared to make
	// Rehearsed is what the server held inside a rehearsal of the script.
	Rehearsed *catalog.Cluster `json:"-"`
}

// Execute runs one statement as the superuser. The adjacent ones of a Part are
// one transaction; a statement that cannot be in one has no Part.
type Execute struct {
	Server
	Database  string
	Statement catalog.Statement
}

// Replan stands for what is due after a script whose doing cannot be foreseen:
// the step's task is planned again when its turn comes, and what it then finds
// is carried out.
type Replan struct{ Why string }

// Replicated is a statement that is run on the primary and comes to this standby
// by replication. It is no change here: apply waits for it, and verifies.
type Replicated struct {
	Server
	From      string // the instance that it comes from; "" where it is not known
	Database  string
	Statement catalog.Statement
}

// ProveLog writes a record with a random word through pgaudit and finds it again
// in every place that log_destination names.
type ProveLog struct {
	Server
	Timeout time.Duration
}

// Login proves that a role can log in over TLS, and optionally that a query
// answers as expected. It is a check and no change.
type Login struct {
	From     string // a host's name, or "here"
	Address  string
	Port     int
	Role     string
	Database string
	Password secrets.Ref
	CA       []byte // PEM; verified in full
	Query    string
	Expect   *string
	Refused  bool // the login must be refused
	Timeout  time.Duration
}

// Port proves that a TCP port answers, or that it does not.
type Port struct {
	From    string
	Address string
	Port    int
	Closed  bool
	Timeout time.Duration
}

// Ask proves that a query, run as the superuser over the server's socket,
// answers as expected.
type Ask struct {
	Server
	Database string
	Query    string
	Expect   *string
	Timeout  time.Duration
}

func (WriteFile) action()            {}
func (RemoveFile) action()           {}
func (RemoveStaging) action()        {}
func (IssueCertificate) action()     {}
func (SetPackages) action()          {}
func (WriteRevocationLists) action() {}
func (Reload) action()               {}
func (Restart) action()              {}
func (DaemonReload) action()         {}
func (SetUnit) action()              {}
func (RunCommand) action()           {}
func (RunScript) action()            {}
func (Execute) action()              {}
func (Replan) action()               {}
func (Replicated) action()           {}
func (ProveLog) action()             {}
func (Login) action()                {}
func (Port) action()                 {}
func (Ask) action()                  {}

// Writes reports whether carrying the action out is a change: what verifies is
// none, and what runs always, whatever it does, is not counted as one.
func Writes(a Action) bool {
	switch a := a.(type) {
	case Login, Port, Ask, Replan, Replicated, ProveLog, ProvePassword:
		return false
	case RunCommand:
		return !a.Always && !a.Maybe
	case RunScript:
		return !a.Always && !a.Maybe
	}
	return true
}
