package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/records"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

func (a *app) certsExportCommand() *cobra.Command {
	var dir, lifetime string
	cmd := &cobra.Command{
		Use:   "export [ROLE]",
		Short: "Write what a client needs: the CA's certificate, and a certificate and key of its own",
		Long: `Export writes ca.pem, what clients trust (sslrootcert). With ROLE it also makes a key,
ECDSA P-256, and a certificate with that name, for the rules of pg_hba.conf that ask
for one (cert, clientcert=verify-full): ROLE.key, which only its owner can read, and
ROLE.crt, with the intermediate certificates if there are any.

The key is kept nowhere else: give it to the client and delete it here. The certificate
is public and is kept in the folder of records (records in [ca]; "certs" beside
fleet.toml): commit that, so that others can revoke it, and are told when it ends. An
existing key or certificate is not overwritten; a ca.pem of this fleet is brought up to
date.`,
		Example: `  pgfleet certs export
  pgfleet certs export appuser --out appuser-tls
  pgfleet certs export appuser --out appuser-tls --lifetime 7d`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && lifetime != "" {
				return &inputError{errors.New("--lifetime is that of a client's certificate: name its ROLE")}
			}
			e, err := a.newExport(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return e.bundle(cmd.Context())
			}
			return e.client(cmd.Context(), args[0], lifetime)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "out", ".", "the `folder` to write to; it is made if it is not there")
	f.StringVar(&lifetime, "lifetime", "", "how `long` the certificate is valid, such as 7d; that of [ca] otherwise")
	return cmd
}

// An export is what certs export works on.
type export struct {
	app       *app
	fleet     *inventory.Fleet
	authority *tasks.Authority
	resolver  *secrets.Resolver
	dir       string
	report    strings.Builder
}

func (a *app) newExport(ctx context.Context, dir string) (*export, error) {
	fleet, err := a.load()
	if err != nil {
		return nil, err
	}
	if fleet.CA == nil {
		return nil, &inputError{fmt.Errorf(`%s has no table [ca], which says who signs; "pgfleet certs init" makes a CA and writes it`, fleet.Path)}
	}
	e := &export{app: a, fleet: fleet, dir: dir}
	var errs inventory.Errors
	if e.authority, errs = tasks.LoadAuthority(fleet, local(fleet, a.term.LookupEnv)); len(errs) > 0 {
		return nil, &inputError{errs.Sorted()}
	}
	if e.resolver, err = a.newResolver(ctx, fleet, nil); err != nil {
		return nil, &inputError{err}
	}
	return e, nil
}

// bundle writes ca.pem alone.
func (e *export) bundle(ctx context.Context) error {
	write, err := e.judgeBundle(ctx)
	if err == nil {
		err = write()
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(&e.report, "\nFor psql and other programs that use libpq, for pgx, and as properties for JDBC:\n  %s\n", postgres.Conninfo{
		{Name: "sslmode", Value: "verify-full"}, {Name: "sslrootcert", Value: filepath.Join(e.dir, caFile)},
	})
	e.report.WriteString("sslmode=require verifies nothing.\n")
	e.app.ui.Print(e.report.String())
	return nil
}

// judgeBundle finds out whether ca.pem can be brought up to date, and returns what does it.
func (e *export) judgeBundle(ctx context.Context) (write func() error, err error) {
	if err := creatable(e.dir); err != nil {
		return nil, &inputError{err}
	}
	path, text := filepath.Join(e.dir, caFile), e.authority.BundlePEM
	put, said := createFile, ""
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, &inputError{err}
	case bytes.Equal(old, text):
		put, said = func(string, []byte, fs.FileMode) error { return nil }, ", as it was there"
	default:
		certs, err := pki.ParseBundle(old)
		if err == nil && !e.ours(ctx, certs) {
			err = errors.New("it trusts other CAs than this fleet's")
		}
		if err != nil {
			return nil, &inputError{fmt.Errorf("%s is there already, and is not what an earlier export has written (%w); choose another folder with --out", clean(path), err)}
		}
		put = func(path string, text []byte, _ fs.FileMode) error { return replaceFile(path, text) }
	}
	return func() error {
		if err := os.MkdirAll(e.dir, 0o755); err != nil {
			return err
		}
		if err := put(path, text, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&e.report, "%s: what to trust%s\n", clean(path), said)
		return nil
	}, nil
}

// ours reports whether one of the certificates is this fleet's, or was: the CA before the
// last rotation is known by its key, the previous one in the store.
func (e *export) ours(ctx context.Context, certs []*x509.Certificate) bool {
	if slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return slices.ContainsFunc(e.authority.Bundle, c.Equal) }) {
		return true
	}
	if e.authority.Issuer.Sign != nil {
		return false
	}
	key, _, err := e.resolver.Resolve(ctx, e.authority.Issuer.Key.At(string(secrets.Previous)))
	if err != nil {
		return false
	}
	e.app.ui.redactor.Add(key)
	earlier, err := pki.PublicKeyOf(key)
	return err == nil && slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return pki.KeyOf(c) == earlier })
}

// creatable says why no file can be made in a folder, which need not be there. It leaves
// nothing behind.
func creatable(dir string) error {
	for {
		_, err := os.Stat(dir)
		if err == nil {
			break
		}
		above := filepath.Dir(dir)
		if !errors.Is(err, fs.ErrNotExist) || above == dir {
			return err
		}
		dir = above
	}
	f, err := os.CreateTemp(dir, ".pgfleet-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// checkRole says why there is no role of that name.
func checkRole(role string) error {
	switch {
	case role == "":
		return errors.New("the role's name is empty")
	case !utf8.ValidString(role):
		return fmt.Errorf("the role's name %q is not valid UTF-8", role)
	case len(role) > 63:
		return fmt.Errorf("the role's name %q is longer than 63 bytes, after which PostgreSQL cuts names off", role)
	}
	return nil
}

// client makes a key and a certificate for a role.
func (e *export) client(ctx context.Context, role, lifetime string) error {
	if err := checkRole(role); err != nil {
		return &inputError{err}
	}
	validity := e.authority.Lifetime.Value
	if lifetime != "" {
		n, _ := inventory.NewNode(inventory.Position{}, lifetime)
		if errs := validity.UnmarshalNode(n); len(errs) > 0 || validity < inventory.MinLifetime || validity > inventory.MaxLifetime {
			return &inputError{fmt.Errorf("--lifetime %q: want a length of time such as 7d, from %v to %v", lifetime, inventory.MinLifetime, inventory.MaxLifetime)}
		}
	}
	o, err := pki.Options{CommonName: role, Usage: pki.Client, Validity: time.Duration(validity), Now: time.Now()}.Complete()
	if err == nil {
		err = pki.CheckCommonName(role, e.authority.Signers())
	}
	if err != nil {
		return &inputError{fmt.Errorf("%q: %w", role, err)}
	}
	base := filepath.Join(e.dir, records.Name(role))
	keyFile, certFile := base+".key", base+".crt"
	for _, path := range []string{keyFile, certFile} {
		if _, err := os.Lstat(path); err == nil {
			return &inputError{fmt.Errorf("%s is there already, and is not overwritten; move it away, or choose another folder with --out", path)}
		}
	}
	folder := records.Open(e.fleet.File(e.fleet.CA.Records))
	earlier, err := folder.List()
	if err == nil {
		err = creatable(folder.Path())
	}
	if err != nil {
		return &inputError{err}
	}
	writeBundle, err := e.judgeBundle(ctx)
	if err != nil {
		return err
	}
	key, cert, err := e.issue(ctx, role, o)
	if err != nil {
		return err
	}
	// The record first: a certificate that nobody knows of cannot be revoked, and a
	// record without its key does no harm.
	record, err := folder.Add(cert)
	if err != nil {
		return err
	}
	err = writeBundle()
	if err == nil {
		err = createFile(keyFile, key.Expose(), 0o600)
	}
	if err != nil {
		return fmt.Errorf("%w; the key is lost, and %s is the record of a certificate that nobody can use: take it away", err, filepath.Join(folder.Path(), record))
	}
	if err := createFile(certFile, cert, 0o644); err != nil {
		return err
	}
	leaf, err := pki.Inspect(cert)
	if err != nil {
		return err
	}
	fmt.Fprintf(&e.report, "%s: the certificate of %s, valid until %s\n", clean(certFile), clean(role), leaf.NotAfter.Local().Format(time.DateTime))
	fmt.Fprintf(&e.report, "%s: its key; it is kept nowhere else\n", clean(keyFile))
	fmt.Fprintf(&e.report, "%s: the record of the certificate; commit it\n", filepath.Join(folder.Path(), record))
	for _, c := range records.Of(earlier, role) {
		if c.Leaf.Left(o.Now) > 0 {
			fmt.Fprintf(&e.report, "\nAnother certificate of %s is valid until %s: %s. Once nobody uses it, pgfleet certs revoke %s.\n",
				clean(role), c.Leaf.NotAfter.Local().Format(time.DateTime), filepath.Join(folder.Path(), c.File), c.Leaf.Serial)
		}
	}
	e.connect(role, base)
	e.app.ui.Print(e.report.String())
	return nil
}

// issue makes the key here and has its request signed. The certificate comes with the
// intermediate ones.
func (e *export) issue(ctx context.Context, role string, o pki.Options) (secrets.Secret, []byte, error) {
	run := &rollout.Run{Fleet: e.fleet, Resolver: e.resolver, Redactor: e.app.ui.redactor}
	signer, err := run.Signer(ctx, e.authority.Issuer)
	if err != nil {
		return secrets.Secret{}, nil, &inputError{err}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return secrets.Secret{}, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: role}}, key)
	if err != nil {
		return secrets.Secret{}, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return secrets.Secret{}, nil, err
	}
	cert, err := signer.Issue(ctx, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), o)
	if err != nil {
		return secrets.Secret{}, nil, err
	}
	return secrets.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), cert, nil
}

// connect says how to connect with the files.
func (e *export) connect(role, base string) {
	fmt.Fprintf(&e.report, "\nFor psql and other programs that use libpq, and for pgx:\n  %s\n", clean(postgres.Conninfo{
		{Name: "user", Value: role}, {Name: "sslmode", Value: "verify-full"}, {Name: "sslrootcert", Value: filepath.Join(e.dir, caFile)},
		{Name: "sslcert", Value: base + ".crt"}, {Name: "sslkey", Value: base + ".key"},
	}.String()))
	fmt.Fprintf(&e.report, "JDBC has properties of the same names, and wants the key in another form (sslkey is then the .pk8):\n  openssl pkcs8 -topk8 -nocrypt -in %s -outform DER -out %s\n",
		transport.Word(base+".key"), transport.Word(base+".pk8"))
	e.report.WriteString("In pg_hba.conf the rule is of the type hostssl, with the method cert, or with clientcert=verify-full.\n")
}
