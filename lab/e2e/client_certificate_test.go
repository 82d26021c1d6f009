//go:build lab

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/records"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// clientTasks let a role in by its certificate alone, from the host itself.
const clientTasks = `
[[task]]
name = "Server certificate"
kind = "certificate"
file = "server.pem"

[[task]]
name = "Whom the server trusts"
kind = "ca_file"
file = "root.pem"

[[task]]
name = "What is revoked"
kind = "crl_file"
file = "root.crl"
WITH

[[task]]
name = "TLS"
kind = "settings"
file = "20-tls.conf"
[task.settings]
listen_addresses = "*"
ssl = true
ssl_cert_file = "{{ .Instance.ConfDir }}/server.pem"
ssl_key_file = "{{ .Instance.ConfDir }}/server.pem"
ssl_ca_file = "{{ .Instance.ConfDir }}/root.pem"
ssl_crl_file = "{{ .Instance.ConfDir }}/root.crl"

[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "hostssl postgres app samehost cert"]

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "Role"
kind = "role"
role = "app"
login = true

[[task]]
name = "The application's certificate"
kind = "certificate"
usage = "client"
role = "app"
owner = "daemon"
file = "/var/tmp/app/app.pem"
lifetime = "36h"
`

// withIntermediate makes a root whose key is nowhere, with its list, and an
// intermediate below it that signs. It returns what puts another one in its place, and
// keeps the old one behind it, but not its key.
func (b *bench) withIntermediate() (follow func()) {
	b.T.Helper()
	check := func(err error) {
		b.T.Helper()
		if err != nil {
			b.T.Fatal(err)
		}
	}
	now := time.Now()
	make := func(name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(err)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(48 * time.Hour),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		check(err)
		cert, err := x509.ParseCertificate(der)
		check(err)
		return cert, key
	}
	keyPEM := func(key *ecdsa.PrivateKey) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		check(err)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	root, rootKey := make("lab root", nil, nil)
	intermediate, key := make("lab issuing CA", root, rootKey)
	rootPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	ca, err := pki.ParseCA(rootPEM, secrets.New(keyPEM(rootKey)))
	check(err)
	list, err := ca.RevocationList(nil, now, 24*time.Hour)
	check(err)
	b.Write("ca.pem", string(rootPEM))
	b.Write("root.crl", string(list))
	b.Write("intermediate.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: intermediate.Raw})))
	b.Write("ca.key", string(keyPEM(key)))
	return func() {
		next, nextKey := make("lab issuing CA 2", root, rootKey)
		b.Write("intermediate.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: next.Raw}))+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: intermediate.Raw})))
		b.Write("ca.key", string(keyPEM(nextKey)))
	}
}

// A client proves itself by a certificate that is made on its host, until that is
// revoked: with the fleet's own root, and with an intermediate of somebody else's.
func TestLabClientCertificates(t *testing.T) {
	for v, signing := range map[int]string{13: "ca.pem", 17: "intermediate.pem"} {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			look(t, host, "rm -rf /var/tmp/app; install -d -o daemon /var/tmp/app")
			with, table := "", "\n[ca]\ncertificate = \"ca.pem\"\nkey = \"file:ca.key\"\n"
			if signing != "ca.pem" {
				with, table = `with = ["root.crl"]`, table+"intermediate = \"intermediate.pem\"\n"
			}
			b := newBench(t, table+strings.Replace(clientTasks, "WITH", with, 1), host)
			follow := func() {}
			if signing == "ca.pem" {
				b.withCA()
			} else {
				follow = b.withIntermediate()
			}
			conf := fmt.Sprintf("/etc/postgresql/%d/main", v)
			connects := func(file string) string {
				return look(t, host, fmt.Sprintf(`cd /; runuser -u daemon -- psql 'host=%s hostaddr=%s dbname=postgres user=app sslmode=verify-full sslrootcert=%s/root.pem sslcert=%[4]s sslkey=%[4]s' -XAtqc 'SELECT session_user' 2>&1 || true`,
					host, fleet.Lab.Host(host).Address, conf, file))
			}

			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
			if out := connects("/var/tmp/app/app.pem"); strings.TrimSpace(out) != "app" {
				t.Fatalf("with its certificate: %s", out)
			}
			verifyServed(t, b, host)

			// Its serial number among those that are revoked: refused, and another is made.
			look(t, host, "cp -p /var/tmp/app/app.pem /var/tmp/app/old.pem")
			leaf, err := pki.Inspect([]byte(look(t, host, "openssl x509 -in /var/tmp/app/app.pem")))
			if err != nil {
				t.Fatal(err)
			}
			issuer, err := os.ReadFile(filepath.Join(b.Dir, signing))
			if err != nil {
				t.Fatal(err)
			}
			cas, err := pki.ParseBundle(issuer)
			if err != nil || !leaf.SignedBy(cas[0]) {
				t.Fatalf("the certificate is %s's (%v)", leaf.Issuer, err)
			}
			b.Write("certs/revoked.toml", fmt.Sprintf("[[revoked]]\nserial = %q\nissuer = %q\nsubject = \"CN=app\"\nat = 2026-01-02T03:04:05Z\nreason = \"keyCompromise\"\n", leaf.Serial, records.Issuer(cas[0])))
			s := b.Want(2, "plan", "--detailed-exitcode")
			for _, want := range []string{leaf.Serial + " is not in the list of", "it is revoked", "known after apply"} {
				if !strings.Contains(s.Stdout, want) {
					t.Errorf("the plan does not say %q:\n%s", want, s.Stdout)
				}
			}
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
			if out := connects("/var/tmp/app/old.pem"); !strings.Contains(out, "revoked") {
				t.Errorf("with the revoked certificate: %s", out)
			}
			if out := connects("/var/tmp/app/app.pem"); strings.TrimSpace(out) != "app" {
				t.Errorf("with the new certificate: %s", out)
			}

			// A file that the server has not loaded since it changed is loaded.
			look(t, host, "sleep 1; touch "+conf+"/root.crl")
			if s := b.Want(2, "plan", "--detailed-exitcode"); !strings.Contains(s.Stdout, "root.crl is newer than what the server has loaded") {
				t.Errorf("the plan does not want the list loaded:\n%s", s.Stdout)
			}
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")

			// A CA of which there is no key, so that no list can be made: nothing is touched.
			other, err := pki.NewCA(pki.CAOptions{CommonName: "another CA", Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			bundle, err := os.ReadFile(filepath.Join(b.Dir, "ca.pem"))
			if err != nil {
				t.Fatal(err)
			}
			b.Write("ca.pem", string(bundle)+string(other.CertificatePEM()))
			if signing == "ca.pem" {
				s := b.Run("apply", "--yes")
				if s.Code != 1 || !strings.Contains(s.All(), "a revocation list of another CA cannot be signed") {
					t.Errorf("without a key for a list, apply exits with %d:\n%s", s.Code, s.All())
				}
			} else if s := b.Want(2, "check"); !strings.Contains(s.All(), `OpenSSL wants a list of "CN=another CA" too`) {
				t.Errorf("without a list, check says:\n%s", s.All())
			}
			b.Write("ca.pem", string(bundle))
			b.Want(0, "plan", "--detailed-exitcode")
			if out := connects("/var/tmp/app/app.pem"); strings.TrimSpace(out) != "app" {
				t.Errorf("at the end: %s", out)
			}
			if signing == "ca.pem" {
				return
			}
			// Another intermediate signs, and clients of the old one are let in still, by the list
			// that the host has of it.
			look(t, host, "cp -p /var/tmp/app/app.pem /var/tmp/app/earlier.pem")
			follow()
			b.Want(0, "apply", "--yes")
			b.Want(0, "plan", "--detailed-exitcode")
			for _, file := range []string{"app", "earlier"} {
				if out := connects("/var/tmp/app/" + file + ".pem"); strings.TrimSpace(out) != "app" {
					t.Errorf("%s.pem after the intermediate was changed: %s", file, out)
				}
			}
			if issuer := look(t, host, "openssl x509 -noout -issuer -in /var/tmp/app/app.pem"); !strings.Contains(issuer, "lab issuing CA 2") {
				t.Errorf("the certificate was signed by %s", issuer)
			}
		})
	}
}
