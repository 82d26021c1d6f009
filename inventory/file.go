package inventory

import "time"

// includedFile is what any file of a fleet may hold.
type includedFile struct {
	Include   []Positioned[string] `toml:"include" doc:"Further files, as globs relative to this one. Their tasks come before this file's."`
	Vars      Entries[*Node]       `toml:"vars" doc:"Variables of every host."`
	Hosts     Entries[hostTable]   `toml:"hosts" doc:"The hosts by name."`
	Groups    Entries[groupTable]  `toml:"groups" doc:"Named sets of hosts."`
	Clients   []*Node              `toml:"client" doc:"Who must be able to connect; a table each."`
	Rotations []*Node              `toml:"rotation" doc:"Passwords that are rotated; a table each."`
	Tasks     []*Node              `toml:"task"`

	Backups []Positioned[backupTable] `toml:"backup" doc:"Backups of databases; a table each."`
}

// mainFile is what fleet.toml may hold.
type mainFile struct {
	Version  Positioned[int] `toml:"version" doc:"The version of this file's format: 1."`
	Fleet    *fleetTable     `toml:"fleet" required:"true" doc:"What the fleet is called."`
	SSH      sshTable        `toml:"ssh" doc:"How to log in. ~/.ssh/config is honoured; what is said here wins over it."`
	Postgres postgresTable   `toml:"postgres" doc:"Defaults for every host."`
	Secrets  Secrets         `toml:"secrets" doc:"Where secrets are kept."`
	CA       *CA             `toml:"ca" doc:"Who signs the fleet's certificates."`
	Rollout  rolloutTable    `toml:"rollout" doc:"How apply goes from host to host."`
	includedFile
}

type fleetTable struct {
	Name Positioned[string] `toml:"name" required:"true" doc:"The fleet's name: letters, digits, dots, dashes and underscores."`
}

type sshTable struct {
	User           Positioned[string]  `toml:"user" doc:"The login on the hosts."`
	Port           int                 `toml:"port" min:"1" max:"65535" doc:"sshd's port."`
	Identity       string              `toml:"identity" doc:"A private key file; else the agent and ssh_config decide."`
	KnownHosts     string              `toml:"known_hosts" doc:"The file of known host keys, beside this file; else ~/.ssh/known_hosts."`
	Config         string              `toml:"config" doc:"An ssh_config(5) beside this file, read instead of ~/.ssh/config (ssh -F)."`
	ConnectTimeout time.Duration       `toml:"connect_timeout" doc:"How long connecting, handshake and login may take together, such as 10s."`
	Jump           Positioned[Strings] `toml:"jump" doc:"Jump hosts, [user@]host[:port], the first one is dialled first (ProxyJump)."`
	Become         string              `toml:"become" enum:"sudo,none" doc:"How to become root and postgres; by default none if the user is root, sudo otherwise."`
}

type hostTable struct {
	Address     Positioned[string]     `toml:"address" doc:"An IP address, a name, or a Host of ~/.ssh/config; by default the host's name here."`
	Port        Positioned[int]        `toml:"port" min:"1" max:"65535" doc:"sshd's port."`
	User        Positioned[string]     `toml:"user" doc:"The login on this host."`
	Identity    string                 `toml:"identity" doc:"A private key file for this host."`
	Jump        Positioned[Strings]    `toml:"jump" doc:"Jump hosts for this host; [] for none."`
	Become      string                 `toml:"become" enum:"sudo,none" doc:"How to become root and postgres on this host."`
	Postgres    postgresTable          `toml:"postgres" doc:"What differs from [postgres] on this host."`
	Replication Positioned[string]     `toml:"replication" doc:"The name that a primary and its standbys share."`
	Vars        Entries[*Node]         `toml:"vars" doc:"Variables of this host."`
	Instances   Entries[instanceTable] `toml:"instances" doc:"The instances by name, if there is more than one. {} is a host without PostgreSQL: no task is for it, and logins can be made from it, and services reloaded there."`
}

// postgresTable is the table [postgres] and a host's own.
type postgresTable struct {
	Version int                `toml:"version" min:"10" max:"99" doc:"The major version, such as 15."`
	Cluster Positioned[string] `toml:"cluster" doc:"Debian's cluster name."`
	Port    Positioned[int]    `toml:"port" min:"1" max:"65535" doc:"The server's port."`
}

type instanceTable struct {
	postgresTable
	Replication Positioned[string] `toml:"replication" doc:"The name that a primary and its standbys share; the host's by default."`
	Vars        Entries[*Node]     `toml:"vars" doc:"Variables of this instance."`
}

type groupTable struct {
	Hosts []Positioned[string] `toml:"hosts" doc:"Hosts, globs of hosts, and other groups."`
	Vars  Entries[*Node]       `toml:"vars" doc:"Variables of the group's hosts."`
}

// taskKeys are the keys of every task; the others belong to its kind.
type taskKeys struct {
	Name    Positioned[string]   `toml:"name" required:"true" doc:"What the task is for; unique in the fleet."`
	Kind    Positioned[string]   `toml:"kind" required:"true" doc:"What kind of task it is."`
	On      string               `toml:"on" enum:"all,primary,standby,one,operator" doc:"Which instances it is for: all, those whose server is a primary or a standby now, one (a single one of the fleet), or operator (a command or verify task on the operator's machine)."`
	When    Positioned[string]   `toml:"when" doc:"An expression without braces; the task concerns those instances for which it is true."`
	ForEach *Node                `toml:"for_each" doc:"A list, or the name of a variable that is one; the task is done for each of its elements, .Each."`
	Tags    []Positioned[string] `toml:"tags" doc:"Words to choose tasks by with --tags."`
	Limit   Positioned[string]   `toml:"limit" doc:"A selector: which hosts the task concerns."`
}
