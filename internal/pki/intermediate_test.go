package pki_test

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
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// An issued is a certificate as a file holds it, and its key.
type issued struct{ cert, key []byte }

// chainOf returns a root, somebody else's, and a CA two levels below it, as files give
// them: root.pem, and intermediate.pem with a shuffled order above the first.
func chainOf(t *testing.T) (root, intermediate []byte, ca *pki.CA) {
	t.Helper()
	var certs []*x509.Certificate
	var parent *x509.Certificate
	var parentKey, key *ecdsa.PrivateKey
	for i, name := range []string{"root", "policy", "issuing"} {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		certs, parent, parentKey = append(certs, cert), cert, key
	}
	encode := func(cert *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	root, intermediate = encode(certs[0]), slices.Concat(encode(certs[2]), encode(certs[0]), encode(certs[1]))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err = pki.ParseCA(intermediate, secrets.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	if err != nil {
		t.Fatal(err)
	}
	return root, intermediate, ca
}

func issue(t *testing.T, ca *pki.CA, o pki.Options) issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	o.Now = time.Now()
	cert, err := ca.Issue(t.Context(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), o)
	if err != nil {
		t.Fatal(err)
	}
	return issued{cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
}

// TestIntermediate has a CA below somebody else's root sign for a server and a client
// that know the root alone, and OpenSSL, a PostgreSQL server, libpq and pgx verify.
func TestIntermediate(t *testing.T) {
	root, _, ca := chainOf(t)
	server := issue(t, ca, pki.Options{DNSNames: []string{"localhost"}, Usage: pki.Server})
	client := issue(t, ca, pki.Options{CommonName: "app", Usage: pki.Client})
	for _, i := range []issued{server, client} {
		if n := strings.Count(string(i.cert), "BEGIN CERTIFICATE"); n != 3 || strings.Contains(string(i.cert), string(root)) {
			t.Errorf("%d certificates, want the leaf and the two between it and the root:\n%s", n, i.cert)
		}
		if leaf, err := pki.Inspect(i.cert); err != nil || leaf.NotAfter.After(time.Now().Add(time.Hour)) {
			t.Errorf("it outlives those above it: %v, %v", leaf.NotAfter, err)
		}
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string][]byte{"root.pem": root, "server.pem": server.cert, "client.pem": client.cert, "client.key": client.key} {
		if err := os.WriteFile(path(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("openssl", func(t *testing.T) {
		if _, err := exec.LookPath("openssl"); err != nil {
			t.Skip("there is no openssl")
		}
		for name, purpose := range map[string]string{"server.pem": "sslserver", "client.pem": "sslclient"} {
			cmd := exec.Command("openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem", "-untrusted", name, name)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	})
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		s.Exec(t, "CREATE ROLE app LOGIN")
		s.Write(t, "both.pem", string(server.key)+string(server.cert))
		s.Write(t, "root.pem", string(root))
		s.Append(t, "postgresql.conf", "ssl_cert_file = 'both.pem'\nssl_key_file = 'both.pem'\nssl_ca_file = 'root.pem'\n")
		s.Write(t, "pg_hba.conf", postgrestest.AdminRule+"hostssl all app 127.0.0.1/32 cert\n")
		s.Reload(t)
		conninfo := fmt.Sprintf("host=localhost hostaddr=127.0.0.1 port=%d dbname=postgres user=app sslmode=verify-full sslrootcert=%s", s.Port, path("root.pem"))
		proof := fmt.Sprintf(" sslcert=%s sslkey=%s", path("client.pem"), path("client.key"))
		if _, err := exec.LookPath("psql"); err == nil {
			cmd := exec.Command("psql", "-XAtc", "SELECT current_user", conninfo+proof)
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != "app\n" {
				t.Errorf("libpq: %v\n%s", err, out)
			}
			cmd = exec.Command("psql", "-XAtc", "SELECT 1", conninfo+" sslcert=/none sslkey=/none")
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "valid client certificate") {
				t.Errorf("libpq without a certificate: %v\n%s", err, out)
			}
		}
		// pgx has no hostaddr.
		conn, err := pgx.Connect(t.Context(), strings.Replace(conninfo, " hostaddr=127.0.0.1", "", 1)+proof)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close(t.Context())
	})
}
