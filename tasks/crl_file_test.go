package tasks

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/records"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// A desk is the operator's folder.
type desk map[string]string

func (d desk) local(name string) ([]byte, error) {
	if text, ok := d[name]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

// expandAt expands the tasks of a fleet with one host and a CA.
func (d desk) expandAt(t *testing.T, ca, tasks string, o Options) (inventory.Instance, []*Bound, inventory.Errors) {
	t.Helper()
	fleet := loadFleet(t, "[ca]\n"+ca+"\n"+tasks)
	in := fleet.Instances()[0]
	o.Local = d.local
	bound, errs := Expand(fleet, fleet.Instances(), o)
	return in, bound[in.ID()], errs
}

func (d desk) plan(t *testing.T, w world, tasks string, o Options) *Plan {
	t.Helper()
	in, bound, errs := d.expandAt(t, usual, tasks, o)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	p, err := PlanInstance(in, NewState(in, w, nil), bound)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newAuthority(t *testing.T, name string) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(pki.CAOptions{CommonName: name, Now: longAgo})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func listOf(t *testing.T, ca *pki.CA, at time.Time, life time.Duration, revoked ...pki.Revocation) string {
	t.Helper()
	text, err := ca.RevocationList(revoked, at, life)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const (
	usual   = "certificate = \"ca.pem\"\nkey = \"age:ca#key\"\ncrl_lifetime = \"10d\""
	caFile  = "\n[[task]]\nname = \"CA\"\nkind = \"ca_file\"\nfile = \"root.pem\"\n"
	crlFile = "\n[[task]]\nname = \"CRL\"\nkind = \"crl_file\"\nfile = \"root.crl\"\n"
	tlsOn   = "ssl = 'on'\nssl_ca_file = '" + conf + "/root.pem'\nssl_crl_file = '" + conf + "/root.crl'\n"
)

// world answers with the files, and with a server that runs with them if it says so.
func (d desk) world(t *testing.T, files map[string]string, running bool, clientCAs ...*pki.CA) world {
	t.Helper()
	w := newWorld()
	for _, name := range []string{"root.pem", "root.crl"} {
		p := conf + "/" + name
		f := facts.FileInfo{Path: p}
		if text, ok := files[name]; ok {
			f = file(p, text)
			f.Mode = 0o644
		}
		w[facts.File{Path: p}] = facts.Answer{Value: f}
		shown := f
		shown.Content = nil
		w[facts.CertificateFile{Path: p}] = facts.Answer{Value: facts.CertificateFileInfo{File: shown, Certificates: []byte(files[name])}}
	}
	if !running {
		return w
	}
	w.fragment("20-tls.conf", tlsOn)
	w.server(func(s *facts.Server) {
		for _, name := range []string{"ssl_ca_file", "ssl_crl_file", "ssl_cert_file"} {
			s.Settings = append(s.Settings, postgres.Setting{Name: name, Context: "sighup", VarType: "string", Source: "configuration file"})
		}
		for i, x := range s.Settings {
			switch x.Name {
			case "ssl":
				s.Settings[i].Setting, s.Settings[i].Source = "on", "configuration file"
			case "ssl_ca_file":
				s.Settings[i].Setting = conf + "/root.pem"
			case "ssl_crl_file":
				s.Settings[i].Setting = conf + "/root.crl"
			}
		}
	})
	served := facts.Served{Reached: true, TLS: true, Chain: [][]byte{clientCAs[0].Certificate().Raw}}
	for _, ca := range clientCAs {
		served.ClientCAs = append(served.ClientCAs, ca.Certificate().RawSubject)
	}
	w[facts.Certificate{Port: 5432, Addresses: "127.0.0.1,::1,10.77.0.11"}] = facts.Answer{Value: served}
	w[facts.CertificateFile{Path: "/var/lib/postgresql/15/main"}] = facts.Answer{Value: facts.CertificateFileInfo{}}
	return w
}

func TestCAFileAndCRLFile(t *testing.T) {
	ca, other := newAuthority(t, "CA one"), newAuthority(t, "CA two")
	bundle := string(ca.CertificatePEM())
	revoked := pki.Revocation{Serial: newSerial("badcafe"), At: longAgo}
	entry := fmt.Sprintf("[[revoked]]\nserial = \"badcafe\"\nissuer = %q\nat = 2026-01-01T00:00:00Z\n", records.Issuer(ca.Certificate()))
	fresh := listOf(t, ca, now.Add(-time.Minute), 10*24*time.Hour)
	for name, test := range map[string]struct {
		desk    desk
		files   map[string]string
		running bool
		serves  []*pki.CA
		want    []string
		warns   string
	}{
		"nothing is there": {desk: desk{"ca.pem": bundle}, want: []string{"create " + conf + "/root.pem", "write the revocation lists of CA one into " + conf + "/root.crl (there is none)", "reload"}},
		"fine":             {desk: desk{"ca.pem": bundle}, files: map[string]string{"root.pem": bundle, "root.crl": fresh}, running: true, serves: []*pki.CA{ca}},
		"not loaded by the server yet": {
			desk: desk{"ca.pem": bundle}, files: map[string]string{"root.pem": bundle, "root.crl": fresh}, running: true, serves: []*pki.CA{other},
			want: []string{"the server asks clients for certificates of other CAs than those in " + conf + "/root.pem"},
		},
		"garbage": {desk: desk{"ca.pem": bundle}, files: map[string]string{"root.pem": bundle, "root.crl": "x"}, want: []string{"(the file holds no list)", "reload"}},
		"old": {
			desk: desk{"ca.pem": bundle}, files: map[string]string{"root.pem": bundle, "root.crl": listOf(t, ca, longAgo, 3*time.Hour)},
			want: []string{"the list of CA one expires on", "reload"},
		},
		"revoked since": {
			desk: desk{"ca.pem": bundle, "certs/revoked.toml": entry}, files: map[string]string{"root.pem": bundle, "root.crl": fresh},
			want: []string{"badcafe is not in the list of CA one", "reload"},
		},
		"revoked and listed": {
			desk: desk{"ca.pem": bundle, "certs/revoked.toml": entry}, files: map[string]string{"root.pem": bundle, "root.crl": listOf(t, ca, now, 10*24*time.Hour, revoked)},
		},
		"listed, and revoked by somebody else": {
			desk: desk{"ca.pem": bundle}, files: map[string]string{"root.pem": bundle, "root.crl": listOf(t, ca, now, 10*24*time.Hour, revoked)},
			warns: "pg01: the certificate of CA one with the serial number badcafe is revoked there and not in certs/revoked.toml: pull the newest, or pgfleet certs revoke badcafe writes it down",
		},
		"taken back": {
			desk:  desk{"ca.pem": bundle, "certs/revoked.toml": entry + "reason = \"removeFromCRL\"\n"},
			files: map[string]string{"root.pem": bundle, "root.crl": listOf(t, ca, now, 10*24*time.Hour, revoked)},
			want:  []string{"badcafe is in the list of CA one, and its revocation was taken back", "reload"},
		},
		"a second CA": {
			desk: desk{"ca.pem": bundle + string(other.CertificatePEM())}, files: map[string]string{"root.pem": bundle, "root.crl": fresh},
			want: []string{"change " + conf + "/root.pem", "the revocation lists of CA one, CA two into " + conf + "/root.crl (there is no list of CA two)", "reload"},
		},
		"a CA less": {
			desk: desk{"ca.pem": bundle}, files: map[string]string{"root.pem": bundle, "root.crl": fresh + listOf(t, other, now, 0)},
			want: []string{"(there are lists of CAs that are not trusted any more)", "reload"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := test.desk.world(t, test.files, test.running, test.serves...)
			p := test.desk.plan(t, w, caFile+crlFile, Options{})
			var got []string
			for _, s := range intents(p) {
				got = append(got, s...)
			}
			if len(got) != len(test.want) {
				t.Fatalf("due are %q, want %q", got, test.want)
			}
			for i := range got {
				if !strings.Contains(got[i], test.want[i]) {
					t.Errorf("due is %q, want %q", got[i], test.want[i])
				}
			}
			if warned := fmt.Sprint(p.Warnings); test.warns != "" && !strings.Contains(warned, test.warns) || test.warns == "" && strings.Contains(warned, "certs revoke") {
				t.Errorf("warned: %s", warned)
			}
			if len(p.Steps) > 1 {
				t.Errorf("%d steps", len(p.Steps))
			}
		})
	}
}

// Files that are newer than what the server has loaded are loaded, also for a service
// task alone.
func TestTLSFilesOweAReload(t *testing.T) {
	ca := newAuthority(t, "CA one")
	d := desk{"ca.pem": string(ca.CertificatePEM())}
	for _, name := range []string{"root.pem", "root.crl"} {
		w := d.world(t, map[string]string{"root.pem": d["ca.pem"], "root.crl": listOf(t, ca, now, 0)}, true, ca)
		for _, q := range []facts.Read{facts.File{Path: conf + "/" + name}, facts.CertificateFile{Path: conf + "/" + name}} {
			switch v := w[q].Value.(type) {
			case facts.FileInfo:
				v.Changed = loaded.Add(time.Second)
				w[q] = facts.Answer{Value: v}
			case facts.CertificateFileInfo:
				v.File.Changed = loaded.Add(time.Second)
				w[q] = facts.Answer{Value: v}
			}
		}
		for _, tasks := range []string{caFile + crlFile, service} {
			got := intents(d.plan(t, w, tasks, Options{}))
			if len(got) != 1 || len(got[0]) != 1 || !strings.Contains(got[0][0], "reload: ") || !strings.Contains(got[0][0], name+" is newer than what the server has loaded") {
				t.Errorf("%s: due are %v", name, got)
			}
		}
	}
}

func TestCRLFileMistakes(t *testing.T) {
	root, other := newAuthority(t, "root"), newAuthority(t, "other")
	d := desk{
		"ca.pem": string(root.CertificatePEM()), "two.pem": string(root.CertificatePEM()) + string(other.CertificatePEM()), "i.pem": string(other.CertificatePEM()),
		"root.crl": listOf(t, root, now, 0), "other.crl": listOf(t, other, now, 0), "key.pem": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	}
	permits, err := pki.NewCA(pki.CAOptions{CommonName: "permits", Now: longAgo, PermittedDomains: []string{"example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	d["permits.pem"] = string(permits.CertificatePEM())
	d["two-intermediates.pem"] = intermediate(t, root, "issuing 2") + intermediate(t, root, "issuing 1")
	named := "certificate = \"permits.pem\"\nkey = \"age:ca#key\""
	below := usual + "\nintermediate = \"two-intermediates.pem\""
	client := "usage = \"client\"\nowner = \"app\"\n"
	program := "certificate = \"two.pem\"\nsign = [\"./sign\"]"
	for text, want := range map[string]string{
		program + "|" + crlFile:                                                                               `file: the key of "CN=root" is with the program`,
		program + "|" + crlFile + `with = ["root.crl"]`:                                                       `the key of "CN=other" is with the program`,
		program + "|" + crlFile + `with = ["root.crl", "other.crl"]`:                                          "",
		usual + "|" + crlFile + `with = ["other.crl"]`:                                                        "with: other.crl is the list of CN=other, which is not among the certificates of [ca]",
		usual + "|" + crlFile + `with = ["gone.crl"]`:                                                         "with: file does not exist",
		usual + "|" + crlFile + `with = ["ca.pem"]`:                                                           "with: ca.pem: there is no PEM block",
		usual + "\nintermediate = \"i.pem\"|" + crlFile:                                                       `intermediate: i.pem: "CN=other" was signed by "CN=other", which is not among`,
		"certificate = \"key.pem\"\nkey = \"age:ca#key\"|" + caFile:                                           "certificate: key.pem: it holds a private key",
		"certificate = \"gone.pem\"\nkey = \"age:ca#key\"|" + caFile:                                          `certificate: file does not exist; "pgfleet certs init" makes a CA`,
		"certificate = \"ca.pem\"\nkey = \"nothing\"|" + caFile:                                               `key: secret "nothing": no store is named`,
		usual + "|" + certificate(`usage = "client"`):                                                         "needs role",
		usual + "|" + certificate(`usage = "client"`+"\nrole = \"app\""):                                      "needs owner",
		usual + "|" + certificate("usage = \"client\"\nrole = \"app\"\nowner = \"app\""):                      "want an absolute path",
		usual + "|" + certificate(`role = "app"`):                                                             `role: it is for usage = "client"`,
		usual + "|" + certificate(`lifetime = "1s"`):                                                          "lifetime: want between 1m0s and 825d, found 1s",
		usual + "|" + certificate(`names = ["db", "-x"]`):                                                     `:16:16: names: "-x" is not a host name`,
		usual + "|" + certificate(`addresses = ["fe80::1%eth0"]`):                                             `addresses: "fe80::1%eth0" is not an address that a certificate can hold`,
		named + "|" + certificate(""):                                                                         "names: the host's is taken, as none are given: the CA permits may not sign for the name pg01: its name constraints permit example.org",
		named + "|" + certificate(`names = ["db.example.org"]`):                                               "say addresses = []",
		named + "|" + certificate("names = [\"db.example.org\"]\naddresses = []"):                             "",
		named + "|" + certificate("names = [\"db.example.org\", \"db\"]\naddresses = []"):                     "may not sign for the name db:",
		named + "|" + strings.Replace(certificate(client+`role = "app.reader"`), "server.pem", "/app.pem", 1): "role: a common name with a dot counts as a host name: the CA permits may not sign for",
		named + "|" + strings.Replace(certificate(client+`role = "app"`), "server.pem", "/app.pem", 1):        "",
		below + "|" + crlFile + `with = ["root.crl"]`:                                                         "",
		below + "|" + crlFile: `OpenSSL wants a list of "CN=root" too`,
		usual + "|" + caFile + strings.Replace(crlFile, "root.crl", "root.pem", 1): "is about the file root.pem as well",
		usual + "|" + certificate(`days = 90`):                                     `unknown key "days"`,
	} {
		ca, tasks, _ := strings.Cut(text, "|")
		_, _, errs := d.expandAt(t, ca, tasks, Options{})
		if want == "" && len(errs) > 0 || want != "" && (len(errs) == 0 || !strings.Contains(errs.Error(), want)) {
			t.Errorf("%s:\n%v, want %q", text, errs, want)
		}
		for _, e := range errs {
			if e.Pos.Line == 0 {
				t.Errorf("%s: a mistake has no position: %v", text, e)
			}
		}
	}
	for _, tasks := range []string{certificate(""), caFile, crlFile} {
		fleet := loadFleet(t, tasks)
		if _, errs := Expand(fleet, fleet.Instances(), Options{Local: d.local}); len(errs) != 1 || !strings.Contains(errs.Error(), needsCA) || errs[0].Pos.Line == 0 {
			t.Errorf("without [ca]: %v", errs)
		}
	}
	d["certs/revoked.toml"] = "[[revoked]]\nserial = \"x\"\n"
	if _, _, errs := d.expandAt(t, usual, caFile, Options{}); len(errs) == 0 || !strings.Contains(errs.Error(), "revoked.toml:2:10") {
		t.Errorf("a mistake in revoked.toml: %v", errs)
	}
}

// intermediate makes the certificate of a CA below a root.
func intermediate(t *testing.T, root *pki.CA, name string) string {
	t.Helper()
	text, err := root.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text.Expose())
	rootKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(name))), Subject: pkix.Name{CommonName: name}, NotBefore: longAgo, NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root.Certificate(), key.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func certificate(keys string) string {
	return "\n[[task]]\nname = \"Certificate\"\nkind = \"certificate\"\nfile = \"server.pem\"\n" + keys + "\n"
}

// A list of with that has expired would refuse every client: it is not written.
func TestCRLFileWithAnExpiredList(t *testing.T) {
	ca := newAuthority(t, "CA one")
	d := desk{"ca.pem": string(ca.CertificatePEM()), "root.crl": listOf(t, ca, longAgo, time.Hour)}
	in, bound, errs := d.expandAt(t, usual, crlFile+`with = ["root.crl"]`, Options{})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	w := d.world(t, nil, false)
	if _, err := PlanInstance(in, NewState(in, w, nil), bound); err == nil || !strings.Contains(err.Error(), "has expired on 2026-01-01") {
		t.Errorf("%v", err)
	}
	d["root.crl"] = listOf(t, ca, longAgo, 140*time.Minute)
	if in, bound, errs = d.expandAt(t, usual, crlFile+`with = ["root.crl"]`, Options{}); len(errs) > 0 {
		t.Fatal(errs)
	}
	p, err := PlanInstance(in, NewState(in, w, nil), bound)
	if err != nil || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0].Text, "expires on 2026-01-01") {
		t.Errorf("%v, %v", p, err)
	}
	a := p.Steps[0].Changes[0].Action.(WriteRevocationLists)
	if len(a.Lists) != 0 || !bytes.Equal(bytes.TrimSpace(a.With), bytes.TrimSpace([]byte(d["root.crl"]))) {
		t.Errorf("%+v", a)
	}
}

// Of a CA that has expired no list is due, and none is made; the one that is there stays.
func TestCRLFileOfAnExpiredCA(t *testing.T) {
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "CA one", Now: longAgo, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	d := desk{"ca.pem": string(ca.CertificatePEM())}
	there := map[string]string{"root.crl": listOf(t, ca, longAgo, time.Minute)}
	if got := intents(d.plan(t, d.world(t, there, false), crlFile, Options{})); len(got) != 0 {
		t.Errorf("due are %q", got)
	}
	in, bound, errs := d.expandAt(t, usual, crlFile, Options{})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, files := range []map[string]string{nil, {"root.crl": listOf(t, newAuthority(t, "CA three"), now, 0)}} {
		if _, err := PlanInstance(in, NewState(in, d.world(t, files, false), nil), bound); err == nil || !strings.Contains(err.Error(), "the CA CA one has expired on 2026-01-01: pgfleet certs rotate-ca") {
			t.Errorf("without a list of it: %v", err)
		}
	}
	d["ca.pem"] += string(newAuthority(t, "CA two").CertificatePEM())
	p := d.plan(t, d.world(t, there, false), crlFile, Options{})
	a := p.Steps[0].Changes[0].Action.(WriteRevocationLists)
	if len(a.Lists) != 2 || !a.Lists[0].Expired || a.Lists[1].Expired {
		t.Errorf("%+v", a.Lists)
	}
}

// Renewal that is asked for is due for the certificate that is found first, and not
// for the one that takes its place.
func TestRenewCertificates(t *testing.T) {
	ca := newAuthority(t, "CA one")
	d := desk{"ca.pem": string(ca.CertificatePEM())}
	key := newKeyPair(t)
	tasks := certificate(`tags = ["tls"]`) + settings("other", "10-other.conf", "work_mem = \"8MB\"")
	in, bound, errs := d.expandAt(t, usual, tasks, Options{Renew: true, Kinds: []string{"certificate", "ca_file", "crl_file"}})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	due := func(bound []*Bound, found string) []string {
		t.Helper()
		w := newWorld()
		w[facts.CertificateFile{Path: conf + "/server.pem"}] = facts.Answer{Value: facts.CertificateFileInfo{
			File: facts.FileInfo{Path: conf + "/server.pem", Exists: true, Regular: true, Owner: "postgres", Group: "postgres", Mode: 0o600}, Certificates: []byte(found), PublicKey: key.public,
		}}
		w[facts.Certificate{Port: 5432, Addresses: "127.0.0.1,::1,10.77.0.11"}] = facts.Answer{Value: facts.Served{}}
		p, err := PlanInstance(in, NewState(in, w, nil), bound)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat(intents(p)...)
	}
	first, second := key.certificate(t, ca), key.certificate(t, ca)
	for range 2 {
		if got := due(bound, first); len(got) != 2 || !strings.Contains(got[0], "(its renewal was asked for)") {
			t.Errorf("due are %q", got)
		}
	}
	if got := due(bound, second); len(got) > 0 {
		t.Errorf("after the renewal: %q", got)
	}

	// Only tasks of some kinds, or names, are planned; without Renew nothing is due.
	for _, o := range []Options{{Kinds: []string{"certificate"}}, {Names: []string{"Certificate"}}} {
		_, bound, errs = d.expandAt(t, usual, tasks, o)
		if got := due(bound, first); len(errs) > 0 || len(got) > 0 {
			t.Errorf("%+v: %v, due are %q", o, errs, got)
		}
	}
	leaf, err := pki.Inspect([]byte(first))
	if err != nil {
		t.Fatal(err)
	}
	d["certs/revoked.toml"] = fmt.Sprintf("[[revoked]]\nserial = %q\nissuer = %q\nat = 2026-01-01T00:00:00Z\n", leaf.Serial, records.Issuer(ca.Certificate()))
	_, bound, errs = d.expandAt(t, usual, certificate(""), Options{})
	if got := due(bound, first); len(errs) > 0 || len(got) != 2 || !strings.Contains(got[0], "(it is revoked)") {
		t.Errorf("%v, due are %q", errs, got)
	}
	if got := due(bound, second); len(got) > 0 {
		t.Errorf("another one: %q", got)
	}
}

// A keyPair is a key on a host.
type keyPair struct{ csr, public []byte }

func newKeyPair(t *testing.T) keyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})}
}

func (k keyPair) certificate(t *testing.T, ca *pki.CA) string {
	t.Helper()
	text, err := ca.Sign(k.csr, pki.Options{CommonName: "pg01", DNSNames: []string{"pg01"}, IPs: []netip.Addr{netip.MustParseAddr("10.77.0.11")}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func newSerial(hex string) *big.Int {
	n, _ := new(big.Int).SetString(hex, 16)
	return n
}
