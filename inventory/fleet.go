package inventory

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Fleet is what fleet.toml and the files that it includes say.
type Fleet struct {
	Name      string
	Path      string   // of fleet.toml, as given to Load
	Files     []string // that were read: fleet.toml and what it includes, in the order of reading
	SSH       SSH
	Postgres  Postgres
	Secrets   Secrets
	CA        *CA // nil without the table [ca]
	Rollout   Rollout
	Vars      map[string]*Node // [vars] alone, before groups and hosts
	Hosts     []*Host          // in the order of the files
	Groups    []*Group         // likewise
	Clients   []Client         // in the order of the files
	Rotations []Rotation       // likewise
	Backups   []Backup         // likewise
	Tasks     []Task           // in the order in which they are planned

	hosts map[string]*Host
}

// Host returns the host of that name, or nil.
func (f *Fleet) Host(name string) *Host { return f.hosts[name] }

// Instances returns all instances, host by host.
func (f *Fleet) Instances() []Instance {
	var all []Instance
	for _, h := range f.Hosts {
		all = append(all, h.Instances...)
	}
	return all
}

// Instance returns the instance with that ID.
func (f *Fleet) Instance(id InstanceID) (Instance, bool) {
	if h := f.hosts[id.Host()]; h != nil {
		for _, i := range h.Instances {
			if i.ID() == id {
				return i, true
			}
		}
	}
	return Instance{}, false
}

// Replication returns the instances of the replication cluster of that name: a primary and its standbys.
func (f *Fleet) Replication(name string) []Instance {
	if name == "" {
		return nil
	}
	return slices.DeleteFunc(f.Instances(), func(i Instance) bool { return i.Replication != name })
}

// File returns the path of a file that fleet.toml or an included file names: relative to the folder of fleet.toml.
// A path that begins with ~/ is returned as it is.
func (f *Fleet) File(name string) string {
	if filepath.IsAbs(name) || name == "~" || strings.HasPrefix(name, "~/") {
		return name
	}
	return filepath.Join(filepath.Dir(f.Path), name)
}

// SSH is the table [ssh]. What is empty is left to ~/.ssh/config and then to OpenSSH's defaults.
type SSH struct {
	User           string
	Port           int
	Identity       string        // a private key file
	KnownHosts     string        // a file, see Fleet.File
	Config         string        // an ssh_config(5), see Fleet.File
	ConnectTimeout time.Duration // for connection, handshake and login together; 0 when not said
	Jump           []string      // [user@]host[:port], the first one is dialled first
	Become         string        // "sudo", "none", or empty: none if the user is root
}

// Postgres is the table [postgres], the defaults for every host.
type Postgres struct {
	Version int    // major version; 0 when not said
	Cluster string // Debian's cluster name
	Port    int
}

// A Host is one machine. What [ssh] says is already merged in.
type Host struct {
	Name      string
	Pos       Position // of the name
	Address   string   // as written, the name if nothing is written
	Port      int      // sshd's; 0 when ssh_config decides
	User      string   // empty when ssh_config decides
	Identity  string   // likewise
	Jump      []string // nil when ssh_config decides, empty for none
	Become    string   // "sudo", "none", or empty: none if the user is root
	Groups    []string // that it is a member of, directly or not, from the weakest to the strongest
	Vars      map[string]*Node
	Instances []Instance // none for a host without PostgreSQL
}

// A Group is a named set of hosts.
type Group struct {
	Name  string
	Pos   Position // of the name
	Hosts []*Host  // members, directly or not, in the order of the files
}

// An Instance is one PostgreSQL server.
type Instance struct {
	Host        *Host
	Name        string   // within the host
	Pos         Position // of the name
	Version     int      // major version
	Cluster     string   // Debian's cluster name
	Port        int
	Replication string // the name that a primary and its standbys share, empty when it stands alone
	Vars        map[string]*Node
}

// An InstanceID names an instance in the fleet: "pg01" if it is the only one of its host, "pg01/second" otherwise.
type InstanceID string

// Host returns the name of the instance's host.
func (id InstanceID) Host() string {
	host, _, _ := strings.Cut(string(id), "/")
	return host
}

// ID returns the instance's name in the fleet.
func (i Instance) ID() InstanceID {
	if len(i.Host.Instances) == 1 {
		return InstanceID(i.Host.Name)
	}
	return InstanceID(i.Host.Name + "/" + i.Name)
}

// Unit returns the systemd unit, without .service: postgresql@15-main (README.Debian of postgresql-common).
func (i Instance) Unit() string { return fmt.Sprintf("postgresql@%d-%s", i.Version, i.Cluster) }

// ConfDir returns the folder of postgresql.conf and pg_hba.conf (pg_createcluster(1)).
func (i Instance) ConfDir() string { return fmt.Sprintf("/etc/postgresql/%d/%s", i.Version, i.Cluster) }

// DataDir returns the data directory as pg_createcluster(1) makes it by default.
func (i Instance) DataDir() string {
	return fmt.Sprintf("/var/lib/postgresql/%d/%s", i.Version, i.Cluster)
}

// A Task is one entry of the list [[task]]. Its kind's own keys are raw, templates and all.
type Task struct {
	Name    string
	NamePos Position // of the name's first character
	Kind    string
	Pos     Position           // of the entry
	On      string             // "all", "primary", "standby", "one", "operator", or empty: the kind decides
	When    Positioned[string] // an expression; empty for always
	ForEach *Node              // a list, or a string: a template or a variable's name; nil for once
	Tags    []string
	Limit   Selector // everything when not given
	Body    *Node    // the keys of the kind
}
