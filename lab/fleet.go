package lab

import (
	"fmt"
	"strings"
)

// Fleet is the part of a fleet.toml that describes the lab: [ssh], [postgres]
// and the hosts. What is a string here holds nothing that TOML would escape.
func (l *Lab) Fleet() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[fleet]\nname = \"lab\"\n\n[ssh]\nuser = %q\nidentity = %q\nknown_hosts = %q\n\n", l.User, l.Key, l.KnownHosts)
	fmt.Fprintf(&b, "[postgres]\nversion = %d\ncluster = \"main\"\n", DefaultPostgres)
	for _, h := range l.hosts {
		fmt.Fprintf(&b, "\n[hosts.%s]\naddress = %q\n", h.Name, h.Address)
		if h.User != l.User {
			fmt.Fprintf(&b, "user = %q\n", h.User)
		}
		replication := ""
		if r := l.replication(h); r != "" {
			replication = fmt.Sprintf("replication = %q\n", r)
		}
		if len(h.Instances) == 0 {
			b.WriteString(replication)
		}
		if h.Postgres != DefaultPostgres {
			fmt.Fprintf(&b, "postgres.version = %d\n", h.Postgres)
		}
		if len(h.Instances) == 0 {
			continue
		}
		fmt.Fprintf(&b, "[hosts.%s.instances.main]\n%s", h.Name, replication)
		for _, in := range h.Instances {
			fmt.Fprintf(&b, "[hosts.%s.instances.%s]\nport = %d\n", h.Name, in.Cluster, in.Port)
		}
	}
	return b.String()
}

// replication names the group of a primary and its standbys after the primary:
// a host and a group cannot have one name.
func (l *Lab) replication(h *Running) string {
	if h.StandbyOf != "" {
		return h.StandbyOf + "-cluster"
	}
	for _, other := range l.hosts {
		if other.StandbyOf == h.Name {
			return h.Name + "-cluster"
		}
	}
	return ""
}
