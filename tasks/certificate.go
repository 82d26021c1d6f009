package tasks

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/inventory"
)

// Certificate keeps a certificate of the fleet's own CA on the host. Key and signing
// request are made there; only the request and the certificate travel. Key and
// certificate are one file, named by both ssl_cert_file and ssl_key_file, so that
// the pair is replaced by one rename.
type Certificate struct {
	Common
	File      inventory.Positioned[string]        `toml:"file" required:"true" doc:"Where key and certificate go, in one PEM file; relative to the folder of postgresql.conf."`
	Names     []inventory.Positioned[string]      `toml:"names" doc:"DNS names that clients connect to; the host's name by default, and none for a client."`
	Addresses []inventory.Positioned[string]      `toml:"addresses" doc:"IP addresses that clients connect to; the host's address by default, and none for a client or with []."`
	Lifetime  inventory.Positioned[inventory.Age] `toml:"lifetime" doc:"How long it is valid, such as \"90d\"; [ca].lifetime by default. It is renewed when a third is left."`
	Usage     string                              `toml:"usage" enum:"server,client" doc:"What it is for: a server, the default, or a client of PostgreSQL that runs on the host."`
	Role      inventory.Positioned[string]        `toml:"role" doc:"For a client, the role that it logs in as: the certificate's common name, which the method cert of pg_hba.conf compares with it."`
	Owner     inventory.Positioned[string]        `toml:"owner" doc:"For a client, the account that the file belongs to; its folder has to be there and belong to it."`

	lifetime  time.Duration
	names     []string
	addresses []netip.Addr
	renew     bool   // the one that is found first is due, whatever it is like
	first     string // its fingerprint, with renew; empty before it was looked for
}

// Check finds bad names, and keys that do not go together.
func (t *Certificate) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	if t.fleet.CA == nil {
		errs.Add(t.at("file"), "certificate: %s", needsCA)
		return errs
	}
	t.lifetime = time.Duration(t.fleet.CA.Lifetime.Value)
	if t.given("lifetime") {
		t.lifetime = time.Duration(t.Lifetime.Value)
		if t.Lifetime.Value < inventory.MinLifetime || t.Lifetime.Value > inventory.MaxLifetime {
			errs.Add(t.Lifetime.Pos(), "lifetime: want between %v and %v, found %v", inventory.MinLifetime, inventory.MaxLifetime, t.Lifetime.Value)
		}
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
	if t.client() {
		t.checkClient(&errs)
		t.checkNames(&errs)
		return errs
	}
	for _, key := range []string{"role", "owner"} {
		if t.given(key) {
			errs.Add(t.at(key), "%s: it is for usage = \"client\"; a server's certificate has the names that clients connect to, and is postgres's", key)
		}
	}
	if len(t.Names) == 0 {
		t.names = []string{in.Host.Name}
	}
	if addr, err := netip.ParseAddr(in.Host.Address); err == nil {
		if !t.given("addresses") {
			t.addresses = []netip.Addr{addr}
		}
	} else if !slices.Contains(t.names, in.Host.Address) && len(t.Names) == 0 {
		t.names = append(t.names, in.Host.Address)
	}
	t.checkNames(&errs)
	return errs
}

// checkNames finds names that no certificate can hold, and those that the CA's name
// constraints do not permit: what it signed for them would be refused by clients.
func (t *Certificate) checkNames(errs *inventory.Errors) {
	signers := t.ca.Signers()
	bad := func(key string, given []inventory.Positioned[string], i int, err error) {
		switch {
		case err == nil:
		case len(given) > 0:
			errs.Add(given[i].Pos(), "%s: %v", key, err)
		case key == "addresses":
			errs.Add(t.at("file"), "addresses: the host's is taken, as none are given: %v; for a certificate without one say addresses = []", err)
		default:
			errs.Add(t.at("file"), "names: the host's is taken, as none are given: %v", err)
		}
	}
	for i, name := range t.names {
		bad("names", t.Names, i, pki.CheckName(name, signers))
	}
	for i, addr := range t.addresses {
		if len(t.addresses) == len(t.Addresses) || len(t.Addresses) == 0 { // or one of them was no address
			bad("addresses", t.Addresses, i, pki.CheckAddress(addr, signers))
		}
	}
	if t.client() && len(t.names) == 0 {
		if err := pki.CheckCommonName(t.Role.Value, signers); err != nil {
			errs.Add(t.Role.Pos(), "role: %v", err)
		}
	}
}

// checkClient checks the keys of a client's certificate.
func (t *Certificate) checkClient(errs *inventory.Errors) {
	switch {
	case !t.given("role"):
		errs.Add(t.at("usage"), "a client's certificate needs role: the role that it logs in as")
	case t.Role.Value == "":
		errs.Add(t.Role.Pos(), "role: it is empty")
	case len(t.Role.Value) > 63:
		errs.Add(t.Role.Pos(), "role: PostgreSQL cuts names off after 63 bytes")
	}
	switch {
	case !t.given("owner"):
		errs.Add(t.at("usage"), "a client's certificate needs owner: the account that the client runs as")
	case t.Owner.Value == "":
		errs.Add(t.Owner.Pos(), "owner: it is empty")
	}
	if !path.IsAbs(t.File.Value) {
		errs.Add(t.File.Pos(), "file: want an absolute path for a client's certificate, found %q", t.File.Value)
	}
}

// client reports whether the certificate is a client's rather than the server's.
func (t *Certificate) client() bool { return t.Usage == pki.Client.String() }

// owner is the account that the file belongs to.
func (t *Certificate) owner() string {
	if t.client() {
		return t.Owner.Value
	}
	return "postgres"
}

// commonName is what the certificate's subject is to say.
func (t *Certificate) commonName() string {
	if t.client() {
		return t.Role.Value
	}
	return pki.FirstCommonName(t.names)
}

func (t *Certificate) path(s *State) string { return s.inConfDir(t.File.Value) }

// Reads asks for the file without its key, and for what is served.
func (t *Certificate) Reads(in inventory.Instance, s *State) []facts.Read {
	reads := []facts.Read{facts.CertificateFile{Path: t.path(s)}}
	if !t.client() {
		reads = append(reads, servedRead(in))
	}
	return reads
}

// Plan says whether a new certificate is due, and whether the one on disk is
// the one that is served.
func (t *Certificate) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	file := t.path(s)
	info, will, err := s.CertificateFile(file)
	if err != nil {
		return out, err
	}
	if will {
		return out, nil
	}
	if leaf, err := pki.Inspect(info.Certificates); err == nil && !t.ca.takesBack {
		if name := t.ca.NewerSigner(leaf); name != "" {
			return out, t.ca.Outdated(string(in.ID()), name)
		}
	}
	reasons := t.due(s, info)
	if len(reasons) > 0 {
		a := IssueCertificate{
			Path: file, Owner: t.owner(), Mode: 0o600, Usage: t.usage(),
			CommonName: t.commonName(), DNSNames: t.names, Addresses: t.addresses, Lifetime: t.lifetime, Issuer: t.ca.Issuer,
		}
		out.Changes = []Change{{
			Key: "certificate:" + file, Before: DigestCertificate(info),
			Intent: fmt.Sprintf("issue a certificate for %s, signed by %s, for %s (%s): known after apply",
				t.holder(), t.signer(), lifetimeText(t.lifetime), strings.Join(reasons, "; ")),
			Action: a,
		}}
		if !t.client() {
			out.Changes[0].Part = ConfigurationPart(in)
			out.Warnings = t.notStarted(s)
		}
		return out, nil
	}
	if t.client() {
		return out, nil
	}
	out.Warnings = t.notStarted(s)
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

// holder names whom the certificate is for.
func (t *Certificate) holder() string {
	if t.client() {
		return "the role " + t.Role.Value
	}
	return strings.Join(append(slices.Clone(t.names), text(t.addresses)...), ", ")
}

// signer names who signs.
func (t *Certificate) signer() string {
	if t.ca.Signing == nil {
		return "the program " + t.ca.Issuer.Sign[0]
	}
	return t.ca.Signing.Subject.CommonName
}

func (t *Certificate) usage() pki.Usage {
	if t.client() {
		return pki.Client
	}
	return pki.Server
}

// lifetimeText says whole days as days.
func lifetimeText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "1 day"
	case d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	return inventory.Age(d).String()
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
	want := pki.Want{DNSNames: t.names, IPs: t.addresses, Usage: t.usage(), CommonName: t.commonName(), CA: t.ca.Signing, Roots: t.ca.roots(), Now: s.Clock()}
	if block, _ := pem.Decode(info.PublicKey); block != nil {
		want.PublicKeySHA256 = fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
	}
	for _, r := range pki.Judge(leaf, want) {
		reasons = append(reasons, r.Text)
	}
	if t.ca.IsRevoked(leaf) {
		reasons = append(reasons, "it is revoked")
	}
	if t.renew && t.first == "" {
		t.first = leaf.Fingerprint
	}
	if t.renew && t.first == leaf.Fingerprint {
		reasons = append(reasons, "its renewal was asked for")
	}
	if info.File.Owner != t.owner() || info.File.Mode.Perm()&0o177 != 0 {
		who := "the server"
		if t.client() {
			who = "a client"
		}
		reasons = append(reasons, fmt.Sprintf("the file is %s's with mode %04o, and %s wants its key to be %s's with 0600", info.File.Owner, info.File.Mode.Perm(), who, t.owner()))
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

// clientCAsDiffer says that the server asks clients for certificates of other CAs than
// those in its ssl_ca_file, by their names; "" where it does not, or it cannot be
// known.
func (s *State) clientCAsDiffer() string {
	v := s.configuration().value("ssl_ca_file")
	if v == "" || !s.tlsRuns() {
		return ""
	}
	if running, ok := s.Running("ssl_ca_file"); !ok || running != v {
		return "" // the reload that it asks for is named already
	}
	file := s.inDataDir(v)
	if _, will := s.files[file]; will {
		return ""
	}
	info, _, err := s.CertificateFile(file)
	served, servedErr := ask[facts.Served](s, servedRead(s.instance))
	if err != nil || servedErr != nil || !served.TLS || len(served.Chain) == 0 {
		return ""
	}
	onDisk, err := pki.Inspect(info.Certificates)
	if err != nil {
		return ""
	}
	var names [][]byte
	for _, c := range append([]*x509.Certificate{onDisk.Certificate()}, onDisk.After()...) {
		names = append(names, c.RawSubject)
	}
	lacks := func(a, b [][]byte) bool {
		return slices.ContainsFunc(a, func(x []byte) bool {
			return !slices.ContainsFunc(b, func(y []byte) bool { return bytes.Equal(x, y) })
		})
	}
	if lacks(names, served.ClientCAs) || lacks(served.ClientCAs, names) {
		return "the server asks clients for certificates of other CAs than those in " + file
	}
	return ""
}

func text(addrs []netip.Addr) []string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}

func (t *Certificate) declares(s *State) []string { return []string{t.path(s)} }
