package templates

import (
	"cmp"
	"fmt"

	"github.com/pgfleet/pgfleet/inventory"
)

// Data is what a template sees: one instance of the fleet. It is made by [NewData] and not changed.
type Data struct {
	// Cluster names the replication cluster: what replication says, or the
	// instance's ID where it says nothing.
	Cluster  string
	Fleet    Fleet
	Host     Host
	Instance Instance
	Vars     map[string]any
	Each     any // the element of for_each, nil without

	fleet *inventory.Fleet
	each  string
}

// Fleet is .Fleet in a template.
type Fleet struct {
	Name string
}

// Host is .Host in a template.
type Host struct {
	Name        string
	Address     string
	Port        int    // sshd's; 0 when ssh_config decides
	User        string // the login; empty when ssh_config decides
	Replication string // of its first instance
	Groups      []string

	host *inventory.Host
}

// Vars returns the host's variables.
func (h Host) Vars() map[string]any { return values(h.host.Vars) }

// Instance is .Instance in a template.
type Instance struct {
	ID          string
	Name        string
	Version     int
	Cluster     string
	Port        int
	Replication string
	ConfDir     string
	DataDir     string
	Unit        string
}

// NewData returns what templates see of an instance.
func NewData(fleet *inventory.Fleet, in inventory.Instance) Data {
	return Data{
		Cluster: cmp.Or(in.Replication, string(in.ID())),
		Fleet:   Fleet{fleet.Name},
		Host:    newHost(in.Host),
		Instance: Instance{
			ID: string(in.ID()), Name: in.Name, Version: in.Version, Cluster: in.Cluster, Port: in.Port,
			Replication: in.Replication, ConfDir: in.ConfDir(), DataDir: in.DataDir(), Unit: in.Unit(),
		},
		Vars:  values(in.Vars),
		fleet: fleet,
	}
}

func newHost(h *inventory.Host) Host {
	host := Host{Name: h.Name, Address: h.Address, Port: h.Port, User: h.User, Groups: h.Groups, host: h}
	if len(h.Instances) > 0 {
		host.Replication = h.Instances[0].Replication
	}
	return host
}

// Hosts returns every host of the fleet.
func (d Data) Hosts() []Host {
	hosts := make([]Host, len(d.fleet.Hosts))
	for i, h := range d.fleet.Hosts {
		hosts[i] = newHost(h)
	}
	return hosts
}

// EachLabel returns the element of for_each in a form for people: the element itself, its name if it is a table with one,
// or otherwise its number. It is empty without for_each.
func (d Data) EachLabel() string { return d.each }

// withEach returns the data for one element of for_each, the one with that number, from 1.
func (d Data) withEach(element any, number int) Data {
	d.Each = element
	d.each = fmt.Sprintf("#%d", number)
	if table, ok := element.(map[string]any); ok {
		element = table["name"]
	}
	if s, err := scalar(element); err == nil && s != "" {
		d.each = s
	}
	return d
}

func values(vars map[string]*inventory.Node) map[string]any {
	m := make(map[string]any, len(vars))
	for name, n := range vars {
		m[name] = n.Value()
	}
	return m
}
