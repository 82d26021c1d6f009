package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/lab"
)

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "A fleet of real Debian hosts on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	bridge := root.PersistentFlags().String("bridge", "", "the lab's bridge, pglabN (default $PGFLEET_LAB_BRIDGE, else pglab0)")
	root.AddCommand(upCommand(bridge), downCommand(bridge), listCommand(bridge), fleetCommand(bridge),
		sshCommand(bridge), execCommand(bridge), shellCommand(bridge),
		powerCommand(bridge), baseCommand(), installCommand(), cleanCommand(), superviseCommand(), guardCommand(bridge))
	return root
}

func downCommand(bridge *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the lab, or remove what is left of a crashed one",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return lab.Down(c.Context(), *bridge) },
	}
}

func listCommand(bridge *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hosts, how they are, and the files that ssh needs",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := lab.Attach(c.Context(), *bridge)
			if err != nil {
				return err
			}
			all, err := l.Status(c.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "HOST\tADDRESS\tPOSTGRESQL\tUSER\tSTATE\tNOTES")
			for _, s := range all {
				h := l.Host(s.Name)
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", s.Name, s.Address, h.Postgres, h.User, s.State, notes(h, s))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "\nssh -F %s HOST\nkey %s, known_hosts %s\nthis machine: %s, as an application: %s\n",
				l.SSHConfig, l.Key, l.KnownHosts, l.Operator, l.Application)
			return nil
		},
	}
}

func notes(h *lab.Running, s lab.Status) string {
	var n []string
	if h.StandbyOf != "" {
		n = append(n, "standby of "+h.StandbyOf)
	}
	for _, in := range h.Instances {
		n = append(n, fmt.Sprintf("%s on %d", in.Cluster, in.Port))
	}
	if h.SudoPassword != "" {
		n = append(n, "sudo asks for: "+h.SudoPassword)
	}
	if h.DisableForwarding {
		n = append(n, "DisableForwarding")
	}
	if h.NoPgaudit {
		n = append(n, "no pgaudit")
	}
	if s.Error != "" {
		n = append(n, s.Error)
	}
	return strings.Join(n, ", ")
}

func fleetCommand(bridge *string) *cobra.Command {
	return &cobra.Command{
		Use:   "fleet",
		Short: "Print the part of a fleet.toml that describes the running lab",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := lab.Attach(c.Context(), *bridge)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write([]byte(l.Fleet()))
			return err
		},
	}
}

func sshCommand(bridge *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh HOST [COMMAND...]",
		Short: "Log in to a host",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := lab.Attach(c.Context(), *bridge)
			if err != nil {
				return err
			}
			return run(exec.Command("ssh", append([]string{"-F", l.SSHConfig, "--"}, args...)...))
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows HOST is the host's
	return cmd
}

func execCommand(bridge *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec HOST SCRIPT...",
		Short: "Run a shell command in a host as root, past ssh",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return enter(c, *bridge, args[0], "/bin/bash", "-c", strings.Join(args[1:], " "))
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows HOST is the host's
	return cmd
}

func shellCommand(bridge *string) *cobra.Command {
	return &cobra.Command{
		Use:   "shell HOST",
		Short: "A root shell in a host, past ssh",
		Args:  cobra.ExactArgs(1),
		RunE:  func(c *cobra.Command, args []string) error { return enter(c, *bridge, args[0]) },
	}
}

func enter(c *cobra.Command, bridge, host string, args ...string) error {
	h, err := find(c, bridge, host)
	if err != nil {
		return err
	}
	cmd, err := h.Shell(c.Context(), args...)
	if err != nil {
		return err
	}
	return run(cmd)
}

func find(c *cobra.Command, bridge, host string) (*lab.Running, error) {
	l, err := lab.Attach(c.Context(), bridge)
	if err != nil {
		return nil, err
	}
	h := l.Host(host)
	if h == nil {
		return nil, fmt.Errorf("the lab has no host %s", host)
	}
	return h, nil
}

// run gives a command our own standard streams.
func run(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func powerCommand(bridge *string) *cobra.Command {
	return &cobra.Command{
		Use:       "power start|stop|kill|reboot HOST...",
		Short:     "Boot hosts, shut them down, cut their power, or reboot them",
		Args:      cobra.MinimumNArgs(2),
		ValidArgs: []string{"start", "stop", "kill", "reboot"},
		RunE: func(c *cobra.Command, args []string) error {
			for _, name := range args[1:] {
				h, err := find(c, *bridge, name)
				if err != nil {
					return err
				}
				switch args[0] {
				case "start":
					err = h.Start(c.Context())
				case "stop":
					err = h.Stop(c.Context())
				case "kill":
					err = h.Kill(c.Context())
				case "reboot":
					err = h.Reboot(c.Context())
				default:
					err = fmt.Errorf("power %s: want start, stop, kill or reboot", args[0])
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func baseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "base VERSION...",
		Short: "Build the bases with these PostgreSQL versions (13, 15, 17, 18), where missing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, a := range args {
				version, err := strconv.Atoi(a)
				if err != nil {
					return fmt.Errorf("version %q: want 13, 15, 17 or 18", a)
				}
				if err := lab.Base(c.Context(), version, c.ErrOrStderr()); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func installCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Install what a lab needs and this machine lacks",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return lab.Install(c.Context(), c.ErrOrStderr()) },
	}
}

func cleanCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "clean",
		Short: "Remove bases that the present recipe does not make",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return lab.Clean() },
	}
}

func superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "supervise",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return lab.Supervise(c.Context(), c.InOrStdin(), c.ErrOrStderr())
		},
	}
}

func guardCommand(bridge *string) *cobra.Command {
	return &cobra.Command{
		Use:    "guard",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(c *cobra.Command, _ []string) error { return lab.Guard(c.InOrStdin(), *bridge) },
	}
}
