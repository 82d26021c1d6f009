package adopt

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// A Host is the host that is adopted, and how to log in there.
type Host struct {
	Fleet      string // the fleet's name
	Name       string // the host's name in the fleet
	Address    string
	User       string // empty, like the following, where ssh_config decides
	Port       int
	Identity   string
	KnownHosts string
}

// A Cluster is one PostgreSQL server of a host, by Debian's convention.
type Cluster struct {
	Version int
	Name    string
	Port    int
}

// FindClusters asks for the configuration of all clusters.
func FindClusters() []facts.Read {
	return []facts.Read{
		facts.Files{Glob: "/etc/postgresql/*/*/postgresql.conf"},
		facts.Files{Glob: "/etc/postgresql/*/*/conf.d/*.conf"},
	}
}

var clusterPath = regexp.MustCompile(`^/etc/postgresql/([0-9]{2})/([^/]+)/(conf\.d/[^/]+|postgresql\.conf)$`)

// Clusters reads the answers, in the order of versions and names. Versions that
// pgfleet does not know (9.6) are left out.
func Clusters(answers map[facts.Read]facts.Answer) []Cluster {
	var clusters []Cluster
	for _, r := range FindClusters() {
		found, _ := answers[r].Value.([]facts.FileInfo)
		for _, f := range found {
			m := clusterPath.FindStringSubmatch(f.Path)
			if m == nil {
				continue
			}
			version, _ := strconv.Atoi(m[1]) // two digits
			i := slices.IndexFunc(clusters, func(c Cluster) bool { return c.Version == version && c.Name == m[2] })
			if i < 0 && m[3] != "postgresql.conf" {
				continue
			}
			if i < 0 {
				clusters = append(clusters, Cluster{Version: version, Name: m[2], Port: 5432})
				i = len(clusters) - 1
			}
			entries, _ := postgres.ParseConf(string(f.Content)) // what can be read is enough
			for _, e := range entries {
				if p, err := strconv.Atoi(e.Value); err == nil && strings.EqualFold(e.Name, "port") {
					clusters[i].Port = p
				}
			}
		}
	}
	slices.SortFunc(clusters, func(a, b Cluster) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.Name, b.Name))
	})
	return clusters
}

// Inventory returns the first part of a fleet.toml: the fleet, how to log in,
// the host and its clusters.
func Inventory(h Host, clusters []Cluster) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version = 1 # of this file's format\n\n[fleet]\nname = %s\n\n[ssh]\n", String(h.Fleet))
	for _, p := range []pair{{"user", h.User}, {"identity", h.Identity}, {"known_hosts", h.KnownHosts}} {
		if p.value != "" {
			fmt.Fprintf(&b, "%s = %s\n", p.key, String(p.value))
		}
	}
	if h.Port != 0 {
		fmt.Fprintf(&b, "port = %d\n", h.Port)
	}
	if len(clusters) == 1 {
		c := clusters[0]
		fmt.Fprintf(&b, "\n[postgres]\nversion = %d\ncluster = %s\n", c.Version, String(c.Name))
		if c.Port != 5432 {
			fmt.Fprintf(&b, "port = %d\n", c.Port)
		}
	}
	fmt.Fprintf(&b, "\n[hosts.%s]\naddress = %s\n", Key(h.Name), String(h.Address))
	if len(clusters) < 2 {
		return b.String()
	}
	for _, c := range clusters {
		name := c.Name
		if slices.ContainsFunc(clusters, func(d Cluster) bool { return d != c && d.Name == c.Name }) {
			name = strconv.Itoa(c.Version) + "-" + c.Name
		}
		fmt.Fprintf(&b, "\n[hosts.%s.instances.%s]\nversion = %d\ncluster = %s\nport = %d\n", Key(h.Name), Key(name), c.Version, String(c.Name), c.Port)
	}
	return b.String()
}

// copyPath is where a copy of a host's file goes, beside fleet.toml; "" for a
// name that is better not used.
func copyPath(id, file string) string {
	name := strings.TrimPrefix(file, "/")
	if !plainPath.MatchString(name) || slices.Contains(strings.Split(name, "/"), "..") {
		return ""
	}
	return path.Join("adopted", id, name)
}

var plainPath = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)
