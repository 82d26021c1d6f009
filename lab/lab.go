package lab

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// DefaultPostgres is the major version of hosts that name none.
const DefaultPostgres = 15

// Host describes one wanted host. Only Name is required.
type Host struct {
	Name     string     // letters, digits and hyphens: "pg01"
	Postgres int        // major version: 13, 15, 17 or 18; 0 is DefaultPostgres
	Address  netip.Addr // 0 is the next free one of the network, from .11

	// Instances are PostgreSQL clusters beside "main" on port 5432.
	Instances []Instance
	// StandbyOf names the host of the list whose main cluster this host's
	// main cluster follows by streaming replication, through a slot.
	StandbyOf string

	// SudoPassword is ops's password; with it, sudo asks. Without it, ops
	// has no password and sudo asks for none.
	SudoPassword string
	// RootLogin: there is no ops; root logs in with the key.
	RootLogin bool
	// DisableForwarding is sshd_config's keyword of that name.
	DisableForwarding bool
	// MaxSessions is sshd_config's keyword of that name; 0 leaves the default.
	MaxSessions int

	// Down: the host has a name, an address and a host key, and is not booted.
	// Start boots it.
	Down bool
	// NoPgaudit: pgaudit is not installed; the host's only apt source is a
	// repository on the bridge, which has it.
	NoPgaudit bool
}

// Instance is a further PostgreSQL cluster of a host.
type Instance struct {
	Cluster string // Debian's cluster name: "second"
	Port    int
}

// Options say which lab Up boots.
type Options struct {
	Hosts []Host

	// Bridge is the network bridge's name, "pglabN"; by default
	// PGFLEET_LAB_BRIDGE, else "pglab0". N decides the default networks.
	Bridge string
	// Network is the database hosts' network, a /24. This machine, the
	// operator's, is its .1.
	Network netip.Prefix
	// Applications is the network that stands for applications, a /24. This
	// machine is its .1 and its .10.
	Applications netip.Prefix

	// Detach leaves the lab running when the calling process ends.
	Detach bool
	// Command is the path of the lab command, whose `supervise` holds the
	// containers; by default PGFLEET_LAB_COMMAND, else it is built with `go build`,
	// which works in tests of this module.
	Command string
	// Log gets progress, a line at a time; nil discards it.
	Log io.Writer `json:"-"`
}

// A Lab is a running fleet. Its methods may be called concurrently.
type Lab struct {
	Bridge       string       // the bridge's name
	Network      netip.Prefix // the database hosts' network
	Applications netip.Prefix // the applications' network; hosts have a route to it
	Operator     netip.Addr   // this machine in Network
	Application  netip.Addr   // this machine in Applications: bind to it to log in "from an application"

	User       string // who logs in: "ops", but root on hosts with RootLogin
	Key        string // path of the private key, OpenSSH format, no passphrase
	KnownHosts string // path of a known_hosts file with every host's key, by name and address
	SSHConfig  string // path of an ssh_config with every host: ssh -F PATH pg01

	dir    string // /run/pgfleet-lab/BRIDGE
	pid    int    // the supervisor's
	hosts  []*Running
	owner  *os.File      // held open: when it closes, the supervisor stops the lab; nil if attached
	exited chan struct{} // closed when the supervisor, our child, has ended; nil if attached
}

// Host returns the host of that name, or nil.
func (l *Lab) Host(name string) *Running {
	for _, h := range l.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Hosts returns all hosts, in the order of Options.Hosts.
func (l *Lab) Hosts() []*Running { return append([]*Running(nil), l.hosts...) }

// FromApplication returns a dialer whose connections come from Application, as
// an application's would.
func (l *Lab) FromApplication() *net.Dialer {
	return &net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.Application, 0)),
		Timeout:   10 * time.Second,
	}
}

// Running is a host of a running lab.
type Running struct {
	Host        // as wanted, with Postgres and Address filled in
	User string // who logs in: "ops" or "root"
	lab  *Lab
}

// State says how a host is.
type State string

// The states of a host.
const (
	Booting State = "booting" // its container runs; sshd or a cluster does not answer yet
	On      State = "on"      // sshd and every cluster answer
	Off     State = "off"
)

// Status is a host's state at one moment.
type Status struct {
	Name    string
	Address netip.Addr
	State   State
	Leader  int    // the process id, on this machine, of the host's PID 1; 0 if off
	Boots   int    // how many times it was booted
	Error   string // why it is not up, if something went wrong
}

var hostName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
var bridgeName = regexp.MustCompile(`^pglab([0-9]{1,2})$`)

// complete fills in the defaults and refuses what cannot be.
func (o *Options) complete() error {
	if o.Bridge == "" {
		o.Bridge = defaultBridge()
	}
	m := bridgeName.FindStringSubmatch(o.Bridge)
	if m == nil {
		return fmt.Errorf("bridge %q: want pglab0 to pglab89", o.Bridge)
	}
	n, _ := strconv.Atoi(m[1])
	if n > 89 {
		return fmt.Errorf("bridge %q: want pglab0 to pglab89", o.Bridge)
	}
	if !o.Network.IsValid() {
		o.Network = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(77 + 2*n), 0, 0}), 24)
	}
	if !o.Applications.IsValid() {
		o.Applications = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(78 + 2*n), 0, 0}), 24)
	}
	for _, p := range []netip.Prefix{o.Network, o.Applications} {
		if !p.Addr().Is4() || p.Bits() != 24 || p != p.Masked() || !p.Addr().IsPrivate() {
			return fmt.Errorf("network %s: want a private IPv4 /24", p)
		}
	}
	if len(o.Hosts) == 0 {
		return fmt.Errorf("no hosts wanted")
	}
	o.Hosts = append([]Host(nil), o.Hosts...)
	names := map[string]int{}
	addresses := map[netip.Addr]string{nth(o.Network, 1): "this machine"}
	for i := range o.Hosts {
		h := &o.Hosts[i]
		if err := h.complete(o.Network); err != nil {
			return fmt.Errorf("host %q: %w", h.Name, err)
		}
		if _, ok := names[h.Name]; ok {
			return fmt.Errorf("two hosts are named %q", h.Name)
		}
		names[h.Name] = i
		if !h.Address.IsValid() {
			continue
		}
		if other, ok := addresses[h.Address]; ok {
			return fmt.Errorf("host %q: address %s is %s's", h.Name, h.Address, other)
		}
		addresses[h.Address] = h.Name
	}
	next := 11
	for i := range o.Hosts {
		h := &o.Hosts[i]
		for ; !h.Address.IsValid(); next++ {
			if next > 254 {
				return fmt.Errorf("network %s has no address left for %q", o.Network, h.Name)
			}
			if a := nth(o.Network, next); addresses[a] == "" {
				h.Address = a
			}
		}
		if h.StandbyOf == "" {
			continue
		}
		p, ok := names[h.StandbyOf]
		primary := o.Hosts[p]
		switch {
		case !ok:
			return fmt.Errorf("host %q: its primary %q is not in the list", h.Name, h.StandbyOf)
		case primary.StandbyOf != "" || primary.Down || h.Down || h.StandbyOf == h.Name:
			return fmt.Errorf("host %q: cannot be a standby of %q: both must boot, and %q be a primary", h.Name, h.StandbyOf, h.StandbyOf)
		case primary.Postgres != h.Postgres:
			return fmt.Errorf("host %q: PostgreSQL %d cannot follow %q's %d", h.Name, h.Postgres, h.StandbyOf, primary.Postgres)
		}
	}
	return nil
}

func (h *Host) complete(network netip.Prefix) error {
	if !hostName.MatchString(h.Name) {
		return fmt.Errorf("a name has lower-case letters, digits and hyphens, at most 31")
	}
	if h.Postgres == 0 {
		h.Postgres = DefaultPostgres
	}
	if _, ok := suites[h.Postgres]; !ok {
		return fmt.Errorf("no base has PostgreSQL %d: there are 13, 15, 17 and 18", h.Postgres)
	}
	if h.Address.IsValid() && !network.Contains(h.Address) {
		return fmt.Errorf("address %s is not in %s", h.Address, network)
	}
	if h.RootLogin && h.SudoPassword != "" {
		return fmt.Errorf("has both RootLogin and SudoPassword")
	}
	if strings.ContainsAny(h.SudoPassword, ":\n") {
		return fmt.Errorf("a SudoPassword has no colon and no newline")
	}
	ports := map[int]bool{5432: true}
	clusters := map[string]bool{"main": true}
	for _, in := range h.Instances {
		if !hostName.MatchString(in.Cluster) || clusters[in.Cluster] || in.Port < 1024 || in.Port > 65535 || ports[in.Port] {
			return fmt.Errorf("instance %s on port %d: name and port must be good and not taken", in.Cluster, in.Port)
		}
		clusters[in.Cluster], ports[in.Port] = true, true
	}
	return nil
}

// user is who logs in.
func (h *Host) user() string {
	if h.RootLogin {
		return "root"
	}
	return "ops"
}

// nth is the address n of a /24.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

func defaultBridge() string {
	if b := os.Getenv("PGFLEET_LAB_BRIDGE"); b != "" {
		return b
	}
	return "pglab0"
}

// suites is the Debian release whose archive has a PostgreSQL major version.
var suites = map[int]string{
	13: "bullseye",
	15: "bookworm",
	17: "trixie",
	18: "forky",
}
