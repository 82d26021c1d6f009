package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			a.ui.Print("pgfleet " + version() + ", " + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH)
		},
	}
}

// version is what the Go toolchain recorded: the module's version, or the
// commit of a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of fleet.toml, with which editors complete and check it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.ui.JSON(inventory.FleetSchema(tasks.Schemas(), tasks.Rotation{}))
		},
	}
}
