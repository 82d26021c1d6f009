package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/inventory"
)

// An exampleHost is a host as --host describes it.
type exampleHost struct {
	Name, Address string
	Version, Port int    // PostgreSQL's; 0 as for the fleet
	Replication   string // the name of its cluster
}

func isMajor(version int) bool { return version >= 10 && version <= 99 }

// parseHost reads the value of --host.
func parseHost(text string) (exampleHost, error) {
	const want = "want NAME=ADDRESS, such as pg01=10.0.0.11"
	parts := strings.Split(text, ",")
	name, address, ok := strings.Cut(parts[0], "=")
	if !ok || !validName.MatchString(name) || address == "" || strings.ContainsAny(address, " \t\"'/=") {
		return exampleHost{}, errors.New(want)
	}
	h := exampleHost{Name: name, Address: address}
	var seen []string
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(part, "=")
		if slices.Contains(seen, key) {
			return h, fmt.Errorf("%s is there twice", key)
		}
		seen = append(seen, key)
		number, err := strconv.Atoi(value)
		switch key {
		case "version":
			if h.Version = number; err != nil || !isMajor(number) {
				return h, fmt.Errorf("version=%s: want PostgreSQL's major version, such as version=17", value)
			}
		case "port":
			if h.Port = number; err != nil || number < 1 || number > 65535 {
				return h, fmt.Errorf("port=%s: want the port of PostgreSQL, such as port=5433", value)
			}
		case "replication":
			if h.Replication = value; !validName.MatchString(value) {
				return h, fmt.Errorf("replication=%s: want a name that a primary and its standbys share, such as replication=orders", value)
			}
		default:
			keys := []string{"version", "replication", "port"}
			if near := inventory.DidYouMean(key, keys); near != "" {
				return h, fmt.Errorf("unknown key %q%s", key, near)
			}
			return h, fmt.Errorf("unknown key %q behind the address; there are %s", key, strings.Join(keys, ", "))
		}
	}
	return h, nil
}

// validName is what the inventory takes for names of fleets and hosts.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
