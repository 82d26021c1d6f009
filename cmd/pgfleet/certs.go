package main

import "github.com/spf13/cobra"

func (a *app) certsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "The fleet's CA and certificates: list, renew, revoke, and go over to a new CA",
		Args:  a.noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.certsListCommand(), a.certsRenewCommand(), a.certsRotateCACommand(), a.certsRevokeCommand())
	return cmd
}
