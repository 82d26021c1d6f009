package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/inventory"
)

func (a *app) hostsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "hosts",
		Short: "List hosts and their instances",
		Long: `Hosts lists the instances that --limit means. Nobody is dialled, unless --limit
asks for a role.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.hosts(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

type hostDocument struct {
	Instance    inventory.InstanceID `json:"instance"`
	Host        string               `json:"host"`
	Address     string               `json:"address"`
	Version     int                  `json:"version"`
	Cluster     string               `json:"cluster"`
	Port        int                  `json:"port"`
	Replication string               `json:"replication,omitempty"`
	Groups      []string             `json:"groups,omitempty"`
}

func (a *app) hosts(ctx context.Context, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	var failed []failure
	rows := [][]string{{"INSTANCE", "ADDRESS", "VERSION", "CLUSTER", "PORT", "REPLICATION", "GROUPS"}}
	list := []hostDocument{}
	for _, in := range s.instances {
		if err := s.undecided[in.ID()]; err != nil {
			failed = append(failed, failure{in.ID(), err})
			continue
		}
		rows = append(rows, []string{
			string(in.ID()), in.Host.Address, strconv.Itoa(in.Version), in.Cluster, strconv.Itoa(in.Port),
			in.Replication, strings.Join(in.Host.Groups, ", "),
		})
		list = append(list, hostDocument{
			in.ID(), in.Host.Name, in.Host.Address, in.Version, in.Cluster, in.Port, in.Replication, in.Host.Groups,
		})
	}
	if asJSON {
		if err := a.ui.JSON(struct {
			Format    int            `json:"format"`
			Instances []hostDocument `json:"instances"`
		}{jsonFormat, list}); err != nil {
			return err
		}
	} else {
		a.ui.Print(columns(rows))
	}
	return a.failures(failed)
}

// failures reports what went wrong on hosts.
func (a *app) failures(failed []failure) error {
	if len(failed) == 0 {
		return nil
	}
	a.ui.Note(renderFailures(failed, a.ui.style))
	return errHostFailed
}
