package main

import "github.com/spf13/cobra"

func (a *app) certsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "The fleet's CA, and the certificates it signs",
		Long: `The table [ca] of fleet.toml says who signs the fleet's certificates: a CA of the
fleet's own, whose key is in a secret store, one below somebody else's root, or a
program that asks an authority elsewhere. Servers' certificates are tasks, of the kind
certificate, and renewed by apply; these commands are for the rest.`,
		Example: `  pgfleet certs init`,
		Args:    a.noSuchCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.certsInitCommand(), a.certsExportCommand())
	return cmd
}
