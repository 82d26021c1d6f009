package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// bridgeAlias marks a bridge as made by a lab (ip-link(8), alias).
const bridgeAlias = "pgfleet-lab"

// makeBridge makes the bridge with this machine's addresses on it.
func makeBridge(ctx context.Context, name string, addresses []netip.Prefix) error {
	commands := [][]string{
		{"link", "add", name, "type", "bridge"},
		{"link", "set", name, "alias", bridgeAlias},
	}
	for _, a := range addresses {
		commands = append(commands, []string{"address", "add", a.String(), "dev", name})
	}
	commands = append(commands, []string{"link", "set", name, "up"})
	for _, c := range commands {
		if _, err := output(exec.CommandContext(ctx, "ip", c...)); err != nil {
			return fmt.Errorf("bridge %s: %w", name, err)
		}
	}
	return nil
}

// removeBridge removes a bridge that a lab made. One that is not there is fine.
func removeBridge(ctx context.Context, name string) error {
	alias, err := os.ReadFile("/sys/class/net/" + name + "/ifalias")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(alias)) != bridgeAlias {
		return fmt.Errorf("network interface %s is not a lab's; choose another bridge", name)
	}
	_, err = output(exec.CommandContext(ctx, "ip", "link", "delete", name))
	return err
}

// unused complains of a network that this machine already has an address in.
func unused(networks ...netip.Prefix) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addresses {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			for _, n := range networks {
				if n.Overlaps(p.Masked()) {
					return fmt.Errorf("network %s is taken: %s has %s; choose another bridge or network", n, i.Name, p)
				}
			}
		}
	}
	return nil
}
