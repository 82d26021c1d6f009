package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

func (a *app) certsRenewCommand() *cobra.Command {
	x := applying{app: a}
	var force bool
	cmd := &cobra.Command{
		Use:   "renew [NAME...]",
		Short: "Renew the certificates and revocation lists that are due",
		Long: `Renew is an apply of the tasks about certificates alone: those of the kinds
certificate, ca_file and crl_file. Certificates are due when a third of their lifetime
is left, revocation lists when half of it is; both when they are not what fleet.toml
asks for. With NAMEs it is for the certificates with that name, address, role or file, or of
the task that is called so.

It is what a timer runs, once a day or more often than a third of the shortest
lifetime:

  pgfleet certs renew --yes

Clients' certificates that were exported cannot be renewed from here; those that are
due are named.`,
		Example: `  pgfleet certs renew --yes
  pgfleet certs renew --force db1.example.com`,
		RunE: func(cmd *cobra.Command, args []string) error {
			x.lock.Why = commandLine(cmd, args)
			if len(a.tags) > 0 {
				return &inputError{errors.New("--tags: give the NAMEs of certificates instead")}
			}
			x.certs = &certsRun{command: "certs renew", force: force, names: args}
			return x.apply(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "issue certificates that are not due as well")
	x.flags(cmd, "--yes")
	return cmd
}

// named leaves those certificates out that none of the names means, and everything that
// is no certificate. The error says which name means nothing.
func (c *certsRun) named(bound map[inventory.InstanceID][]*tasks.Bound) error {
	if len(c.names) == 0 {
		return nil
	}
	meant := map[string]bool{}
	var all []string
	for _, list := range bound {
		for _, b := range list {
			t, ok := b.Task.(*tasks.Certificate)
			if !ok {
				b.Selected = false
				continue
			}
			names := append(t.KnownAs(), b.Name)
			all = append(all, names...)
			b.Selected = b.Selected && slices.ContainsFunc(c.names, func(n string) bool { return slices.Contains(names, n) })
			for _, n := range names {
				meant[n] = true
			}
		}
	}
	var unknown []string
	for _, n := range c.names {
		if !meant[n] {
			unknown = append(unknown, fmt.Sprintf("no certificate has the name, address, role, file or task %q%s", n, inventory.DidYouMean(n, all)))
		}
	}
	if len(unknown) > 0 {
		return &inputError{errors.New(strings.Join(unknown, "\n"))}
	}
	return nil
}
