package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgfleet/pgfleet/inventory"
)

// An app is one invocation of pgfleet.
type app struct {
	ui      *ui
	term    terminal
	signals *interrupts

	fleet          string
	limit          string
	tags           []string
	forks          int
	verbose        bool
	noColor        bool
	askBecomePass  bool
	connectTimeout time.Duration

	detailed bool // plan --detailed-exitcode
	started  bool // the command line could be parsed
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "pgfleet",
		Short: "Plan and apply the configuration of a fleet of PostgreSQL servers over SSH",
		Long: `Pgfleet reads fleet.toml, logs in to every host over SSH, shows what differs from
what the file asks for, and makes it so. Nothing is installed on the hosts.

Exit codes: 0 all is well, 1 a host failed, 2 the input was wrong.`,
		Example: `  pgfleet check                 find mistakes in fleet.toml; nobody is dialled
  pgfleet plan                  show what would change
  pgfleet apply -l 'eu:!pg02'   show, ask, and change it, on a part of the fleet`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          a.noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
			a.ui.Configure(a.verbose, a.noColor)
		},
		Version: version(),
	}
	root.SetOut(a.ui.Out())
	root.SetErr(a.ui.Err())
	root.SetVersionTemplate("pgfleet {{ .Version }}\n")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = false

	fleet := "fleet.toml"
	if f, ok := a.term.LookupEnv("PGFLEET_FLEET"); ok && f != "" {
		fleet = f
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.fleet, "fleet", "f", fleet, "the `file` that describes the fleet (PGFLEET_FLEET)")
	f.StringVarP(&a.limit, "limit", "l", "", "only these instances: a `selector` such as orders, pg0*, eu:!pg02, role=standby")
	f.StringSliceVar(&a.tags, "tags", nil, "only tasks with one of these `tags`")
	f.IntVar(&a.forks, "forks", 32, "how `many` hosts are worked on at the same time")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "show more")
	f.BoolVar(&a.noColor, "no-color", false, "no colours (NO_COLOR)")
	f.BoolVarP(&a.askBecomePass, "ask-become-pass", "K", false, "ask for the password that sudo wants")
	f.DurationVar(&a.connectTimeout, "connect-timeout", 0, "how `long` connecting and logging in to a host may take")
	a.completeFlags(root)
	root.SetHelpCommand(a.helpCommand())

	root.AddCommand(
		a.checkCommand(), a.hostsCommand(), a.factsCommand(),
		a.planCommand(), a.applyCommand(), a.rotateCommand(), a.runsCommand(),
		a.execCommand(), a.sqlCommand(),
		a.logCommand(), a.unlockCommand(),
		a.schemaCommand(), a.versionCommand(),
		a.initCommand(), a.secretsCommand(), a.backupCommand(),
	)
	return root
}

// noSuchCommand refuses what is no command, and says which one was meant.
func (a *app) noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if names == nil {
		return fmt.Errorf("pgfleet %s has no command %q", cmd.Name(), args[0])
	}
	if near := inventory.DidYouMean(args[0], names); near != "" {
		return fmt.Errorf("unknown command %q%s", args[0], near)
	}
	return fmt.Errorf("unknown command %q; there are %s", args[0], strings.Join(names, ", "))
}

// helpCommand is cobra's, but refuses what is no command.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Say more about a command",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			if of, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
				for _, c := range of.Commands() {
					if c.IsAvailableCommand() {
						names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = a.noSuchCommand(of, rest)
			}
			if err != nil {
				return &inputError{err}
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// flagError says which flag was meant.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) || missing.GetSpecifiedShortnames() != "" {
		return fmt.Errorf("%w; see pgfleet %s --help", err, cmd.Name())
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	name := "--" + missing.GetSpecifiedName()
	if near := inventory.DidYouMean(name, names); near != "" {
		return fmt.Errorf("unknown flag %s%s", name, near)
	}
	return fmt.Errorf("unknown flag %s; see pgfleet %s --help", name, cmd.Name())
}
