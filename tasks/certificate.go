package tasks

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// Certificate keeps a server certificate of the fleet's own CA on the host. Key
// and signing request are made there; only the request and the certificate
// travel. Key and certificate are one file, named by both ssl_cert_file and
// ssl_key_file, so that the pair is replaced by one rename.
type Certificate struct {
	Common
	File      inventory.Positioned[string]   `toml:"file" required:"true" doc:"Where key and certificate go, in one PEM file; relative to the folder of postgresql.conf."`
	CA        inventory.Positioned[string]   `toml:"ca" required:"true" doc:"The CA's certificate, a file beside fleet.toml."`
	CAKey     inventory.Positioned[string]   `toml:"ca_key" required:"true" doc:"Where the CA's key is: a secret such as \"age:ca#key\"."`
	Names     []inventory.Positioned[string] `toml:"names" doc:"DNS names that clients connect to; the host's name by default."`
	Addresses []inventory.Positioned[string] `toml:"addresses" doc:"IP addresses that clients connect to; the host's address by default."`
	Days      int                            `toml:"days" min:"1" max:"825" doc:"How long it is valid; 90 days by default, renewed when a third is left."`

	ca        *x509.Certificate
	caPEM     []byte
	key       secrets.Ref
	names     []string
	addresses []netip.Addr
}

// Load reads the CA's certificate.
func (t *Certificate) Load(local Local) inventory.Errors {
	var errs inventory.Errors
	b, err := local(t.CA.Value)
	if err != nil {
		errs.Add(t.CA.Pos(), "ca: %v; \"pgfleet init\" makes a CA", err)
		return errs
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		errs.Add(t.CA.Pos(), "ca: %s holds no certificate in PEM form", t.CA.Value)
		return errs
	}
	if t.ca, err = x509.ParseCertificate(block.Bytes); err != nil {
		errs.Add(t.CA.Pos(), "ca: %s: %v", t.CA.Value, err)
	} else if !t.ca.IsCA {
		errs.Add(t.CA.Pos(), "ca: %s is not the certificate of a CA", t.CA.Value)
	}
	t.caPEM = b
	return errs
}

// Check finds bad names and a bad reference.
func (t *Certificate) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	var err error
	if t.key, err = secrets.ParseRef(t.CAKey.Value); err != nil {
		errs.Add(t.CAKey.Pos(), "ca_key: %v", err)
	}
	t.names, t.addresses = nil, nil
	for _, n := range t.Names {
		t.names = append(t.names, n.Value)
	}
	for _, a := range t.Addresses {
		addr, err := netip.ParseAddr(a.Value)
		if err != nil {
			errs.Add(a.Pos(), "addresses: %q is not an IP address", a.Value)
			continue
		}
		t.addresses = append(t.addresses, addr)
	}
	if len(t.Names) == 0 {
		t.names = []string{in.Host.Name}
	}
	if addr, err := netip.ParseAddr(in.Host.Address); err == nil {
		if len(t.Addresses) == 0 {
			t.addresses = []netip.Addr{addr}
		}
	} else if !slices.Contains(t.names, in.Host.Address) && len(t.Names) == 0 {
		t.names = append(t.names, in.Host.Address)
	}
	if t.Days == 0 {
		t.Days = 90
	}
	return errs
}

func (t *Certificate) path(s *State) string {
	if path.IsAbs(t.File.Value) {
		return t.File.Value
	}
	return path.Join(s.paths().confDir, t.File.Value)
}

// Reads asks for the file without its key, and for what is served.
func (t *Certificate) Reads(in inventory.Instance, s *State) []facts.Read {
	return []facts.Read{facts.CertificateFile{Path: t.path(s)}, servedRead(in)}
}

// Plan says whether a new certificate is due, and whether the one on disk is
// the one that is served.
func (t *Certificate) Plan(in inventory.Instance, s *State) (Outcome, error) {
	out := Outcome{Warnings: t.notStarted(s)}
	file := t.path(s)
	info, will, err := s.CertificateFile(file)
	if err != nil {
		return out, err
	}
	if will {
		return out, nil
	}
	reasons := t.due(s, info)
	if len(reasons) > 0 {
		out.Changes = []Change{{
			Key: "certificate:" + file, Before: DigestCertificate(info),
			Intent: fmt.Sprintf("issue a certificate for %s, signed by %s, for %d days (%s): known after apply",
				strings.Join(append(slices.Clone(t.names), text(t.addresses)...), ", "), t.ca.Subject.CommonName, t.Days, strings.Join(reasons, "; ")),
			Action: IssueCertificate{
				Path: file, Owner: "postgres", Group: "postgres", Mode: 0o600,
				CommonName: t.names[0], DNSNames: t.names, Addresses: t.addresses, Days: t.Days, CA: t.caPEM, CAKey: t.key,
			},
			Part: ConfigurationPart(in),
		}}
		return out, nil
	}
	if s.activated {
		return out, nil
	}
	if s.inDataDir(s.configuration().value("ssl_cert_file")) != file {
		return out, nil
	}
	if why := s.servedDiffers(); why != "" {
		out.Changes = []Change{reloadChange(s, []string{why})}
	}
	return out, nil
}

// due says why the file's certificate has to be replaced; nothing if it is fine.
func (t *Certificate) due(s *State, info facts.CertificateFileInfo) []string {
	if !info.File.Exists {
		return []string{"there is none"}
	}
	leaf, err := pki.Inspect(info.Certificates)
	if err != nil {
		return []string{"the file holds no certificate"}
	}
	if info.PublicKey == nil {
		return []string{"the file holds no key"}
	}
	var reasons []string
	want := pki.Want{DNSNames: t.names, IPs: t.addresses, Usage: pki.Server, CommonName: t.names[0], CA: t.ca, Now: s.Clock()}
	if block, _ := pem.Decode(info.PublicKey); block != nil {
		want.PublicKeySHA256 = fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
	}
	for _, r := range pki.Judge(leaf, want) {
		reasons = append(reasons, r.Text)
	}
	if info.File.Owner != "postgres" || info.File.Mode.Perm()&0o177 != 0 {
		reasons = append(reasons, fmt.Sprintf("the file is %s's with mode %04o, and the server wants its key to be postgres's with 0600", info.File.Owner, info.File.Mode.Perm()))
	}
	return reasons
}

// servedDiffers says that the server presents another certificate than the one
// that its files hold; "" where it does not, or it cannot be known.
func (s *State) servedDiffers() string {
	c := s.configuration()
	if c.value("ssl") != "on" {
		return ""
	}
	if running, ok := s.Running("ssl"); !ok || running != "on" {
		return "" // the reload that ssl = on asks for is named already
	}
	file := s.inDataDir(c.value("ssl_cert_file"))
	info, will, err := s.CertificateFile(file)
	if err != nil || will {
		return ""
	}
	served, err := ask[facts.Served](s, servedRead(s.instance))
	if err != nil || !served.Reached {
		return ""
	}
	if !served.TLS {
		return "the server does not offer TLS though ssl is on"
	}
	onDisk, err := pki.Inspect(info.Certificates)
	if err != nil || len(served.Chain) == 0 {
		return ""
	}
	leaf, err := pki.InspectDER(served.Chain[0])
	if err != nil || leaf.Fingerprint == onDisk.Fingerprint {
		return ""
	}
	return "the server presents another certificate than " + file
}

func text(addrs []netip.Addr) []string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}

func (t *Certificate) declares(s *State) []string { return []string{t.path(s)} }
