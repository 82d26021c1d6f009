package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/adopt"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// caOptions are the flags of certs init.
type caOptions struct {
	key      string
	name     string
	domains  []string
	networks []string
	lifetime string
}

// defaultCAKey is where the CA's key goes unless told otherwise.
const defaultCAKey = "age:" + caSecret + "#key"

func (a *app) certsInitCommand() *cobra.Command {
	var o caOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the fleet's CA",
		Long: `Init makes a CA: its key, ECDSA P-256, goes into a secret store and nowhere else, and
its certificate, which signs leaves and no further CA (path length 0), into ca.pem
beside fleet.toml. If fleet.toml has no table [ca], it is added at the end.

--permit-domain and --permit-network limit what the CA can sign for (name constraints):
clients then refuse what somebody who got hold of the key makes for other names. If
only domains are given, addresses are not allowed at all, and the other way round. A
role whose name has a dot counts as a host name then, in its client certificate.

Nothing is overwritten. What was cut off is finished by the next call.`,
		Example: `  pgfleet certs init
  pgfleet certs init --permit-domain db.example.org --permit-network 10.0.0.0/16
  pgfleet certs init --key vault:prod/ca#key --lifetime 1825d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.certsInit(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.key, "key", "", "the `secret` for the key, as STORE:PATH#KEY; that of [ca], or "+defaultCAKey+", otherwise")
	f.StringVar(&o.name, "name", "", "the CA's `name`; the fleet's name and the year otherwise")
	f.StringArrayVar(&o.domains, "permit-domain", nil, "a `domain` that the CA may sign for, with all below it, also for client certificates of\nroles with a dot in their name; for several, give it several times")
	f.StringArrayVar(&o.networks, "permit-network", nil, "a `network` whose addresses the CA may sign for, such as 10.0.0.0/16")
	f.StringVar(&o.lifetime, "lifetime", inventory.Age(pki.DefaultCAValidity).String(), "how `long` the CA is valid, such as 3650d")
	return cmd
}

// newFleetCA makes a CA. What is not given is the fleet's.
func newFleetCA(fleet string, o pki.CAOptions) (*pki.CA, error) {
	if o.CommonName == "" {
		o.CommonName = fleet + " CA " + strconv.Itoa(o.Now.Year())
	}
	return pki.NewCA(o)
}

// pki checks the flags.
func (o caOptions) pki(now time.Time) (pki.CAOptions, error) {
	c := pki.CAOptions{CommonName: o.name, Now: now, PermittedDomains: o.domains}
	var problems []error
	for _, text := range o.networks {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("--permit-network %q: want a network such as 10.0.0.0/16", text))
		case p.Masked() != p:
			problems = append(problems, fmt.Errorf("--permit-network %s has bits set behind its mask: did you mean %s?", p, p.Masked()))
		}
		c.PermittedIPs = append(c.PermittedIPs, p)
	}
	var lifetime inventory.Age
	n, _ := inventory.NewNode(inventory.Position{}, o.lifetime)
	if errs := lifetime.UnmarshalNode(n); len(errs) > 0 || lifetime < inventory.Age(time.Minute) {
		problems = append(problems, fmt.Errorf("--lifetime %q: want a length of time such as 3650d", o.lifetime))
	}
	c.Validity = time.Duration(lifetime)
	return c, errors.Join(problems...)
}

// A newCA is what certs init works on.
type newCA struct {
	target
	file    string // where the certificate goes
	named   string // the same as fleet.toml names it
	append  bool   // fleet.toml has no table [ca]
	current bool   // the key is the secret's current version
	pending *secrets.Entry
}

func (a *app) certsInit(ctx context.Context, o caOptions) error {
	options, err := o.pki(time.Now())
	if err != nil {
		return &inputError{err}
	}
	fleet, err := a.load()
	if err != nil {
		return err
	}
	c, err := a.newCA(ctx, fleet, o)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(c.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		text, err = a.makeCA(ctx, c, fleet.Name, options)
	case err == nil:
		err = a.finishCA(ctx, c, text)
	}
	if err != nil {
		return err
	}
	ca, err := pki.Inspect(text)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: the certificate of the CA %s, valid until %s; clients trust it\n", c.file, ca.Subject, ca.NotAfter.Local().Format(time.DateOnly))
	fmt.Fprintf(&b, "%v: its key\n", c.ref)
	if c.append {
		if err := appendCA(fleet.Path, c.named, c.ref); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s: the table [ca] is added at its end\n", fleet.Path)
	}
	b.WriteString("\nNext:\n")
	b.WriteString("  pgfleet check         a task of the kind certificate gives servers theirs\n")
	b.WriteString("  pgfleet certs export  what clients need\n")
	a.ui.Print(b.String())
	return nil
}

// newCA finds out where the CA goes, and what is there.
func (a *app) newCA(ctx context.Context, fleet *inventory.Fleet, o caOptions) (*newCA, error) {
	c := &newCA{named: caFile, append: fleet.CA == nil}
	key := defaultCAKey
	if ca := fleet.CA; ca != nil {
		switch {
		case ca.Sign.Node != nil:
			return nil, &inputError{fmt.Errorf("%s: a program signs: the CA is made where it asks for one", ca.Sign.Pos())}
		case ca.Intermediate.Node != nil:
			return nil, &inputError{fmt.Errorf("%s: an intermediate certificate is made by whoever has the root's key", ca.Intermediate.Pos())}
		case o.key != "" && o.key != ca.Key.Value:
			return nil, &inputError{fmt.Errorf("--key %s: [ca] names another one, %s, at %s", o.key, ca.Key.Value, ca.Key.Pos())}
		}
		c.named, key = ca.Certificate.Value, ca.Key.Value
	} else if o.key != "" {
		key = o.key
	}
	var err error
	if c.ref, err = secrets.ParseRef(key); err == nil && c.ref.Key == "" {
		err = fmt.Errorf("secret %s: name the key that it is to have, such as %s#key", key, key)
	}
	if err == nil && c.ref.Version != "" {
		err = fmt.Errorf("secret %v: what is written becomes a version of its own: leave @%s out", c.ref, c.ref.Version)
	}
	if err != nil {
		return nil, &inputError{err}
	}
	c.file = fleet.File(c.named)
	if rest, ok := strings.CutPrefix(c.file, "~/"); ok {
		home, _ := a.term.LookupEnv("HOME")
		c.file = filepath.Join(home, rest)
	}
	resolver, err := a.newResolver(ctx, fleet, nil)
	if err != nil {
		return nil, &inputError{err}
	}
	if c.store, err = resolver.WritableStore(c.ref.Store); err != nil {
		return nil, &inputError{fmt.Errorf("where the CA's key goes, %v: %w; name a secret that can be written with --key STORE:PATH#KEY", c.ref, err)}
	}
	return c, c.look(ctx)
}

// look reads what the store holds.
func (c *newCA) look(ctx context.Context) error {
	var err error
	if c.now, err = c.store.Get(ctx, c.ref.Path, ""); err != nil && !errors.Is(err, secrets.ErrNotFound) {
		return &inputError{err}
	}
	_, c.current = c.now.Keys[c.ref.Key]
	pending, err := c.store.Get(ctx, c.ref.Path, string(secrets.Pending))
	if err == nil {
		c.pending = &pending
	} else if !errors.Is(err, secrets.ErrNotFound) {
		return &inputError{err}
	}
	return nil
}

// makeCA makes the CA where there is no certificate. The key is pending until the
// certificate is in its place, so that a call that is cut off leaves no key whose
// certificate is lost.
func (a *app) makeCA(ctx context.Context, c *newCA, fleet string, o pki.CAOptions) ([]byte, error) {
	switch {
	case c.current:
		return nil, &inputError{fmt.Errorf("%v holds a key already, and init overwrites nothing: put its certificate to %s, or name another secret with --key", c.ref, c.file)}
	case c.pending != nil && c.now.Keys != nil:
		return nil, c.pendingError(c.pending.ID)
	}
	ca, err := newFleetCA(fleet, o)
	if err != nil {
		return nil, &inputError{err}
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return nil, err
	}
	a.ui.redactor.Add(key)
	id, err := c.store.Put(ctx, c.ref.Path, secrets.Change{Set: map[string]secrets.Secret{c.ref.Key: key}, IfCurrent: c.ifCurrent(), Replace: c.pending != nil})
	if err != nil {
		return nil, err
	}
	if err := createFile(c.file, ca.CertificatePEM(), 0o644); err != nil {
		return nil, err
	}
	return ca.CertificatePEM(), c.store.Promote(ctx, c.ref.Path, id)
}

// finishCA ends what an earlier call has begun, or refuses.
func (a *app) finishCA(ctx context.Context, c *newCA, text []byte) error {
	belongs := func(e secrets.Entry) bool {
		key, ok := e.Keys[c.ref.Key]
		a.ui.redactor.Add(key)
		if !ok {
			return false
		}
		_, err := pki.ParseCA(text, key)
		return err == nil
	}
	switch {
	case !c.current && c.pending != nil && belongs(*c.pending):
		return c.store.Promote(ctx, c.ref.Path, c.pending.ID)
	case c.append && c.current && belongs(c.now):
		return nil
	case c.current && belongs(c.now):
		return &inputError{fmt.Errorf("the CA is there already: %s and %v", c.file, c.ref)}
	}
	return &inputError{fmt.Errorf("%s is there already, and %v does not hold its key; init overwrites nothing", c.file, c.ref)}
}

// appendCA adds the table [ca] to fleet.toml.
func appendCA(path, certificate string, key secrets.Ref) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	text = fmt.Appendf(text, "\n# Who signs the fleet's certificates. Clients trust %s.\n[ca]\ncertificate = %s\nkey = %s\n", filepath.Base(certificate), adopt.String(certificate), adopt.String(key.String()))
	root, errs := inventory.Parse(path, text)
	if err := errs.Err(); err != nil || root == nil || root.Get("ca") == nil {
		return fmt.Errorf("the table [ca] cannot be added to %s (%w): write it there yourself", path, errors.Join(err))
	}
	return replaceFile(path, text)
}

// replaceFile writes a file that is there, whole or not at all, and durably. A link
// stays one.
func replaceFile(path string, text []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	temp, err := writeTemp(path, text, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// createFile writes a file that must not be there, whole or not at all, and durably.
func createFile(path string, text []byte, mode fs.FileMode) error {
	temp, err := writeTemp(path, text, mode)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &inputError{fmt.Errorf("%s is there already, and is not overwritten", path)}
		}
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// writeTemp writes a file beside path and returns its path.
func writeTemp(path string, text []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".pgfleet-*") // with mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
