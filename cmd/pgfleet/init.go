package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/adopt"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/templates/files"
)

// initOptions are the flags of init.
type initOptions struct {
	name       string
	hosts      []string // NAME=ADDRESS[,KEY=VALUE...]
	appNetwork string
	version    int
	user       string
	port       int
	identity   string
	knownHosts string
	from       string // adopt this server instead of writing the example
}

func (a *app) initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a commented fleet.toml, or one that describes a live server",
		Long: `Init makes a folder with a commented fleet.toml: network, TLS with a CA of the
fleet's own, audit logging. The CA's key is encrypted beside it, for an age
identity of yours that init makes where you have none.

With --from it logs in to a host, changes nothing there, and writes the tasks
that describe what its PostgreSQL servers are like now, so that the first plan
is empty.

A host is NAME=ADDRESS, and behind commas what differs from the other hosts:
version=17, PostgreSQL's port=5433, or replication=orders, a name that a primary
and its standbys share.

Init overwrites nothing.`,
		Example: `  pgfleet init prod --host pg01=10.0.0.11 --host pg02=10.0.0.12,version=17 --app-network 10.0.8.0/24
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
	f.IntVar(&o.version, "version", 15, "PostgreSQL's `major` version, where a host has no other")
	f.StringVar(&o.user, "user", "", "the login on the hosts; ssh_config decides otherwise")
	f.IntVar(&o.port, "port", 0, "sshd's port; ssh_config decides otherwise")
	f.StringVar(&o.identity, "identity", "", "a private key `file`; the agent and ssh_config decide otherwise")
	f.StringVar(&o.knownHosts, "known-hosts", "", "a `file` of host keys; ~/.ssh/known_hosts otherwise")
	f.StringVar(&o.from, "from", "", "log in to this `host`, named as for ssh, and describe what is there")
	cmd.MarkFlagsMutuallyExclusive("from", "host")
	cmd.MarkFlagsMutuallyExclusive("from", "app-network")
	cmd.MarkFlagsMutuallyExclusive("from", "version")
	return cmd
}

// The files that init writes, relative to the fleet's folder.
const (
	fleetFile  = "fleet.toml"
	caFile     = "ca.pem"
	syslogFile = "files/rsyslog.conf"
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
	staged, err := newStaging(dir, fleetFile, caFile, syslogFile, filepath.Join(secretsDir, caSecret+".age"))
	if err != nil {
		return err
	}
	defer staged.discard()

	identity, made, err := ageIdentity(a.term.LookupEnv)
	if err != nil {
		return &inputError{err}
	}
	fleet.AgeIdentity, fleet.Recipient = identity.name, identity.recipient
	if err := staged.makeCA(ctx, o.name, identity); err != nil {
		return err
	}
	text, err := fleet.render()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{fleetFile: text, syslogFile: files.Syslog} {
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
	names, err := staged.place()
	if err != nil {
		return err
	}
	a.ui.Print(fleet.report(dir, names, identity, made))
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
	AgeIdentity    string
	Recipient      string
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
	return f, errors.Join(problems...)
}

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
	for _, n := range names {
		fmt.Fprintf(&b, "  %-20s %s\n", n, map[string]string{
			fleetFile:  "hosts and tasks; read it, it is commented",
			caFile:     "the certificate of the fleet's CA: clients trust it",
			syslogFile: "rsyslog's rule for the server's messages",
			ignoreFile: "what not to commit",
			filepath.Join(secretsDir, caSecret+".age"): "the CA's key, encrypted",
		}[n])
	}
	what := "the age identity that was there"
	if made {
		what = "made now: whoever has it can read the secrets, and without it they are lost. Keep a copy."
	}
	fmt.Fprintf(&b, "opened by %s (%s)\n", identity.path, what)
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
	b.WriteString("  pgfleet check    find mistakes; nobody is dialled\n")
	b.WriteString("  pgfleet plan     show what would change; nothing is changed\n")
	b.WriteString("  pgfleet apply    show it, ask, and change it\n")
	return b.String()
}

// A staging is a folder in which files wait until all of them are made, so that
// init leaves everything or nothing.
type staging struct {
	dir     string // where the files go
	tmp     string
	names   []string
	removes bool // dir was made and is to go with a failure
}

// newStaging refuses to begin when one of the files exists.
func newStaging(dir string, names ...string) (*staging, error) {
	var exist []string
	for _, n := range names {
		if _, err := os.Lstat(filepath.Join(dir, n)); err == nil {
			exist = append(exist, filepath.Join(dir, n))
		}
	}
	if len(exist) > 0 {
		return nil, &inputError{fmt.Errorf("%s: there already, and init overwrites nothing; choose another folder", strings.Join(exist, ", "))}
	}
	s := &staging{dir: dir}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		s.removes = true
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		s.tmp, err = os.MkdirTemp(dir, ".pgfleet-init-")
	}
	if err != nil {
		return nil, &inputError{err}
	}
	return s, nil
}

// discard removes what was not placed.
func (s *staging) discard() {
	_ = os.RemoveAll(s.tmp)
	if s.removes {
		_ = os.Remove(s.dir) // fails when it holds something, and should
	}
}

func (s *staging) write(name, content string) error {
	file := filepath.Join(s.tmp, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	s.names = append(s.names, name)
	return os.WriteFile(file, []byte(content), 0o644)
}

// ignore writes .gitignore where there is none.
func (s *staging) ignore() error {
	if _, err := os.Lstat(filepath.Join(s.dir, ignoreFile)); err == nil {
		return nil
	}
	return s.write(ignoreFile, files.Ignore)
}

// makeCA makes the fleet's CA, its key encrypted for the operator.
func (s *staging) makeCA(ctx context.Context, fleet string, operator ageKey) error {
	now := time.Now()
	ca, err := pki.NewCA(pki.CAOptions{CommonName: fleet + " CA " + strconv.Itoa(now.Year()), Now: now})
	if err != nil {
		return err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	resolver, err := secrets.NewResolver(secrets.Config{Dir: s.tmp, Age: secrets.AgeConfig{
		Dir: secretsDir, Identities: []string{operator.path}, Recipients: []string{operator.recipient},
	}})
	if err != nil {
		return err
	}
	store, err := resolver.WritableStore("age")
	if err != nil {
		return err
	}
	version, err := store.Put(ctx, caSecret, secrets.Change{Set: map[string]secrets.Secret{"key": key}, IfCurrent: secrets.NoVersion})
	if err != nil {
		return err
	}
	if err := store.Promote(ctx, caSecret, version); err != nil {
		return err
	}
	s.names = append(s.names, filepath.Join(secretsDir, caSecret+".age"))
	return s.write(caFile, string(ca.CertificatePEM()))
}

// check finds mistakes as the command check does, so that what init writes
// never has any.
func (s *staging) check() error {
	_, _, err := s.expand()
	return err
}

func (s *staging) expand() (*inventory.Fleet, map[inventory.InstanceID][]*tasks.Bound, error) {
	fleet, err := inventory.Load(filepath.Join(s.tmp, fleetFile), inventory.Options{Kinds: tasks.Kinds()})
	if err != nil {
		return nil, nil, err
	}
	local := func(name string) ([]byte, error) { return os.ReadFile(fleet.File(name)) }
	bound, errs := tasks.Expand(fleet, fleet.Instances(), tasks.Options{Local: local})
	return fleet, bound, errs.Err()
}

// place moves the files to where they go, fleet.toml last: a folder that has one
// is complete.
func (s *staging) place() ([]string, error) {
	var names []string
	for _, n := range s.names {
		if n != fleetFile {
			names = append(names, n)
		}
	}
	names = append(names, fleetFile)
	for _, n := range names {
		target := filepath.Join(s.dir, n)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return nil, err
		}
		if _, err := os.Lstat(target); err == nil {
			return nil, &inputError{fmt.Errorf("%s was made in the meantime, and init overwrites nothing", target)}
		}
		if err := os.Rename(filepath.Join(s.tmp, n), target); err != nil {
			return nil, err
		}
	}
	s.removes = false
	return names, nil
}

// An ageKey is the operator's age identity, without its secret.
type ageKey struct {
	path      string
	name      string // as fleet.toml names it
	recipient string
}

// ageIdentity returns the operator's identity, made now where there is none.
func ageIdentity(lookupEnv func(string) (string, bool)) (key ageKey, made bool, err error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return key, false, fmt.Errorf("where to keep an age identity: %w", err)
	}
	key.path = filepath.Join(config, "pgfleet", "identity.txt")
	key.name = key.path
	if home, _ := lookupEnv("HOME"); home != "" {
		if rest, ok := strings.CutPrefix(key.path, filepath.Clean(home)+"/"); ok {
			key.name = "~/" + rest // every colleague has one there
		}
	}
	f, err := os.Open(key.path)
	if errors.Is(err, fs.ErrNotExist) {
		key.recipient, err = makeIdentity(key.path)
		return key, true, err
	}
	if err != nil {
		return key, false, err
	}
	defer f.Close()
	found, err := age.ParseIdentities(f)
	if err != nil {
		return key, false, fmt.Errorf("%s is no age identity that can be used without a passphrase; move it elsewhere, and init makes one", key.path)
	}
	for _, id := range found {
		switch id := id.(type) {
		case *age.X25519Identity:
			key.recipient = id.Recipient().String()
		case *age.HybridIdentity:
			key.recipient = id.Recipient().String()
		}
	}
	if key.recipient == "" {
		return key, false, fmt.Errorf("%s holds no age identity; move it elsewhere, and init makes one", key.path)
	}
	return key, false, nil
}

// makeIdentity writes a new identity in the form of age-keygen and returns its
// recipient.
func makeIdentity(path string) (string, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(f, "# created: %s\n# public key: %s\n%s\n", time.Now().Format(time.RFC3339), id.Recipient(), id)
	if err == nil {
		err = f.Sync()
	}
	return id.Recipient().String(), errors.Join(err, f.Close())
}
