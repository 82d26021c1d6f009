package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/adopt"
	"github.com/pgfleet/pgfleet/templates/files"
)

// initOptions are the flags of init.
type initOptions struct {
	name       string
	hosts      []string // NAME=ADDRESS[,KEY=VALUE...]
	appNetwork string
	appHost    string // NAME=ADDRESS
	version    int
	user       string
	port       int
	identity   string
	knownHosts string
	recipients []string // age public keys beside the operator's own
	from       string   // adopt this server instead of writing the example
}

func (a *app) initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a commented fleet.toml, or one that describes a live server",
		Long: `Init makes a folder with a commented fleet.toml: network, TLS with a CA of the
fleet's own, roles, a database and its privileges, audit logging, row-level
security, and rotations of the roles' passwords, of which the first makes them.
The CA's key is made and encrypted beside it, for an age identity of yours that
init makes where you have none.

With --from it logs in to a host, changes nothing there, and writes the tasks
that describe what its PostgreSQL servers are like now, what their databases
hold included, so that the first plan is empty.

A host is NAME=ADDRESS, and behind commas what differs from the other hosts:
version=17, PostgreSQL's port=5433, or replication=orders, a name that a primary
and its standbys share. --app-host names a host inside the applications' network,
from which a rotation logs in with a new password to prove it.

Init overwrites nothing.`,
		Example: `  pgfleet init prod --host pg01=10.0.0.11 --host pg02=10.0.0.12,version=17 \
    --app-network 10.0.8.0/24 --app-host app1=10.0.8.21
  pgfleet init prod --host pg01=10.0.0.11,replication=orders --host pg02=10.0.0.12,replication=orders
  pgfleet init prod --from ops@pg01.example.org`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			if o.from != "" {
				return a.initFrom(cmd.Context(), dir, o)
			}
			return a.initExample(cmd.Context(), dir, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "prod", "the fleet's `name`")
	f.StringArrayVar(&o.hosts, "host", nil, "a host as `NAME=ADDRESS`[,version=17][,replication=orders][,port=5433]; for several, give it several times")
	f.StringVar(&o.appNetwork, "app-network", "", "the `network` that applications connect from, such as 10.0.8.0/24")
	f.StringVar(&o.appHost, "app-host", "", "a host inside that network as `NAME=ADDRESS`; new passwords are proven by a login from there")
	f.IntVar(&o.version, "version", 15, "PostgreSQL's `major` version, where a host has no other")
	f.StringVar(&o.user, "user", "", "the login on the hosts; ssh_config decides otherwise")
	f.IntVar(&o.port, "port", 0, "sshd's port; ssh_config decides otherwise")
	f.StringVar(&o.identity, "identity", "", "a private key `file`; the agent and ssh_config decide otherwise")
	f.StringVar(&o.knownHosts, "known-hosts", "", "a `file` of host keys; ~/.ssh/known_hosts otherwise")
	f.StringArrayVar(&o.recipients, "recipient", nil, "an age public `key` beside your own that can read secrets and backups: a colleague's, or one\nwhose identity lies in a safe; for several, give it several times")
	f.StringVar(&o.from, "from", "", "log in to this `host`, named as for ssh, and describe what is there")
	cmd.MarkFlagsMutuallyExclusive("from", "host")
	cmd.MarkFlagsMutuallyExclusive("from", "app-network")
	cmd.MarkFlagsMutuallyExclusive("from", "app-host")
	cmd.MarkFlagsMutuallyExclusive("from", "recipient")
	cmd.MarkFlagsMutuallyExclusive("from", "version")
	return cmd
}

// The files that init writes, relative to the fleet's folder.
const (
	fleetFile  = "fleet.toml"
	caFile     = "ca.pem"
	syslogFile = "files/rsyslog.conf"
	ordersFile = "sql/orders.sql"
	ignoreFile = ".gitignore"
	secretsDir = "secrets"
	caSecret   = "ca"
)

// initExample writes the example fleet.
func (a *app) initExample(ctx context.Context, dir string, o initOptions) error {
	fleet, err := o.example()
	if err != nil {
		return &inputError{err}
	}
	staged, err := newStaging(dir, fleetFile, caFile, syslogFile, ordersFile, secretFile(caSecret))
	if err != nil {
		return err
	}
	defer staged.discard()

	identity, made, err := ageIdentity(a.term.LookupEnv)
	if err != nil {
		return &inputError{err}
	}
	fleet.AgeIdentity, fleet.Recipients = identity.name, append([]string{identity.recipient}, o.recipients...)
	if err := staged.makeCA(ctx, o.name, identity.path, fleet.Recipients); err != nil {
		return err
	}
	text, err := fleet.render()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{fleetFile: text, syslogFile: files.Syslog, ordersFile: files.Orders} {
		if err := staged.write(name, content); err != nil {
			return err
		}
	}
	if err := staged.ignore(); err != nil {
		return err
	}
	if err := staged.check(); err != nil {
		return &inputError{err}
	}
	placed, err := staged.place()
	if err != nil {
		return err
	}
	a.ui.Print(fleet.report(dir, placed, identity, made))
	return nil
}

// An exampleFleet is what the template of fleet.toml is rendered with.
type exampleFleet struct {
	Name           string
	User           string
	Port           int
	Identity       string
	KnownHosts     string
	Version        int
	Hosts          []exampleHost
	ExampleHosts   bool // nobody said which hosts there are
	AppNetwork     string
	ExampleNetwork bool
	AppHost        *exampleHost // nil where nobody said one
	AgeIdentity    string
	Recipients     []string // age public keys, the operator's own first
}

// The networks of the documentation, which reach nobody (RFC 5737).
const exampleNetwork = "198.51.100.0/24"

func exampleHosts() []exampleHost {
	return []exampleHost{{Name: "pg01", Address: "192.0.2.11"}, {Name: "pg02", Address: "192.0.2.12"}}
}

// example checks the flags.
func (o initOptions) example() (*exampleFleet, error) {
	f := &exampleFleet{
		Name: o.name, User: o.user, Port: o.port, Identity: o.identity, KnownHosts: o.knownHosts,
		Version: o.version, AppNetwork: o.appNetwork,
	}
	var problems []error
	for _, r := range o.recipients {
		if _, err := age.ParseX25519Recipient(r); err != nil {
			if _, err := age.ParseHybridRecipient(r); err != nil {
				problems = append(problems, fmt.Errorf("--recipient %q: it is no age public key, such as age1…", r))
			}
		}
	}
	if !validName.MatchString(o.name) {
		problems = append(problems, fmt.Errorf("--name %q: a name consists of letters, digits, dots, dashes and underscores", o.name))
	}
	if !isMajor(o.version) {
		problems = append(problems, fmt.Errorf("--version %d: want PostgreSQL's major version, such as 15", o.version))
	}
	if f.AppNetwork == "" {
		f.AppNetwork, f.ExampleNetwork = exampleNetwork, true
	} else if p, err := netip.ParsePrefix(f.AppNetwork); err != nil {
		problems = append(problems, fmt.Errorf("--app-network %q: want a network such as 10.0.8.0/24", f.AppNetwork))
	} else if p.Masked() != p {
		problems = append(problems, fmt.Errorf("--app-network %s has bits set behind its mask: did you mean %s?", p, p.Masked()))
	}
	for _, text := range o.hosts {
		h, err := parseHost(text)
		if err != nil {
			problems = append(problems, fmt.Errorf("--host %q: %w", text, err))
			continue
		}
		if slices.ContainsFunc(f.Hosts, func(other exampleHost) bool { return other.Name == h.Name || other.Address == h.Address }) {
			problems = append(problems, fmt.Errorf("--host %q: the name or the address is there already", text))
			continue
		}
		f.Hosts = append(f.Hosts, h)
	}
	if len(o.hosts) == 0 {
		f.Hosts, f.ExampleHosts = exampleHosts(), true
	}
	if o.appHost != "" {
		h, err := parseHost(o.appHost)
		switch {
		case err != nil:
		case strings.Contains(o.appHost, ","):
			err = errors.New("it has no PostgreSQL that a key could describe; want NAME=ADDRESS, such as app1=10.0.8.21")
		case slices.ContainsFunc(f.Hosts, func(other exampleHost) bool { return other.Name == h.Name || other.Address == h.Address }):
			err = errors.New("the name or the address is that of a --host; want another host, where applications connect from")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("--app-host %q: %w", o.appHost, err))
		}
		f.AppHost = &h
	}
	return f, errors.Join(problems...)
}

// Cluster is the name of a cluster of the fleet, as paths of secrets have it.
func (f *exampleFleet) Cluster() string { return cmp.Or(f.Hosts[0].Replication, f.Hosts[0].Name) }

func (f *exampleFleet) render() (string, error) {
	t, err := template.New(fleetFile).Delims("<<", ">>").Option("missingkey=error").Funcs(template.FuncMap{
		"toml": adopt.String,
		"key":  adopt.Key,
		// Who may be dba: the login, as a first suggestion.
		"admin": func(user string) string {
			if !validName.MatchString(user) || user == "root" {
				return "ops"
			}
			return user
		},
	}).Parse(files.Fleet)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, f)
	return b.String(), err
}

// report says what was made and what to do next.
func (f *exampleFleet) report(dir string, names []string, identity ageKey, made bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "made in %s:\n", dir)
	what := map[string]string{
		fleetFile:            "hosts and tasks; read it, it is commented",
		caFile:               "the certificate of the fleet's CA: clients trust it",
		syslogFile:           "rsyslog's rule for the server's messages",
		ordersFile:           "an example table; put your own in its place",
		ignoreFile:           "what not to commit",
		secretFile(caSecret): "the CA's key, encrypted",
	}
	for _, n := range names {
		fmt.Fprintf(&b, "  %-20s %s\n", n, what[n])
	}
	origin := "the age identity that was there"
	if made {
		origin = "made now: whoever has it can read the secrets, and without it they are lost. Keep a copy."
	}
	fmt.Fprintf(&b, "opened by %s (%s)\n", identity.path, origin)
	if f.ExampleHosts {
		b.WriteString("\nThe hosts are examples: write your own into fleet.toml.\n")
	}
	if f.ExampleNetwork {
		b.WriteString("\napp_network is an example: write the network of your applications into fleet.toml,\nor apply shuts them out.\n")
	}
	b.WriteString("\nNext:\n")
	if filepath.Clean(dir) != "." {
		fmt.Fprintf(&b, "  cd %s\n", dir)
	}
	b.WriteString("  pgfleet check         find mistakes; nobody is dialled\n")
	b.WriteString("  pgfleet plan          show what would change; nothing is changed\n")
	b.WriteString("  pgfleet apply         show it, ask, and change it\n")
	b.WriteString("  pgfleet rotate --all  make the roles' passwords, and prove them by logging in\n")
	b.WriteString("  pgfleet backup run    make the first backups; pgfleet backup verify reads them\n")
	if f.AppHost == nil {
		b.WriteString("\nThe logins come from this machine. Unless it is inside app_network, name a host that is\nas verify_from in fleet.toml.\n")
	}
	fmt.Fprintf(&b, "\npgfleet secrets get age:%s/appuser#password shows a password.\n", f.Cluster())
	return b.String()
}
