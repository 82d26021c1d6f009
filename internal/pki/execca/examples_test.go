package execca_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/pki/execca"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/vaultserver"
)

// example returns an example's path.
func example(t *testing.T, name string) string {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "examples", "exec-ca", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func clientOptions(role string) pki.Options {
	return pki.Options{CommonName: role, Usage: pki.Client, Validity: 10 * time.Hour, Now: time.Now()}
}

// TestVault runs the example with the test server, and with a real server of OpenBao or
// Vault that PGFLEET_TEST_VAULT and PGFLEET_TEST_VAULT_TOKEN name.
func TestVault(t *testing.T) {
	program := example(t, "vault")
	t.Run("test server", func(t *testing.T) {
		s := vaultserver.New(t)
		testVault(t, program, s.URL, s.Root)
	})
	if address := os.Getenv("PGFLEET_TEST_VAULT"); address != "" {
		t.Run("real", func(t *testing.T) { testVault(t, program, address, os.Getenv("PGFLEET_TEST_VAULT_TOKEN")) })
	}
}

func testVault(t *testing.T, program, address, token string) {
	for _, name := range []string{"BAO_ADDR", "BAO_TOKEN", "VAULT_NAMESPACE", "BAO_NAMESPACE", "VAULT_CACERT", "BAO_CACERT"} {
		t.Setenv(name, "")
	}
	t.Setenv("VAULT_ADDR", address)
	t.Setenv("VAULT_TOKEN", token)
	call := func(method, path string, body map[string]any) {
		t.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, address+"/v1/"+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Vault-Token", token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if said, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode >= 300 {
			t.Fatalf("%s: status %d, %s, %v", path, resp.StatusCode, said, err)
		}
	}
	a := newAuthority(t)
	key, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	mount := "pki-" + strings.ToLower(rand.Text()[:12])
	call(http.MethodPost, "sys/mounts/"+mount, map[string]any{"type": "pki"})
	call(http.MethodPost, mount+"/config/ca", map[string]any{
		"pem_bundle": encode(a.issuing) + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})) + encode(a.root),
	})
	// The roles of docs/exec-ca.md.
	call(http.MethodPost, mount+"/roles/postgres-server", map[string]any{
		"allowed_domains": "example,db1", "allow_subdomains": true, "allow_bare_domains": true, "use_csr_sans": false, "key_type": "ec", "client_flag": false, "max_ttl": "20h",
	})
	call(http.MethodPost, mount+"/roles/postgres-client", map[string]any{
		"allow_any_name": true, "enforce_hostnames": false, "use_csr_sans": false, "key_type": "ec", "server_flag": false, "max_ttl": "20h",
	})
	call(http.MethodPost, mount+"/roles/defaults", map[string]any{"allow_any_name": true, "key_type": "ec"})
	signer := func(args ...string) *execca.Signer {
		t.Helper()
		s, err := execca.New(execca.Config{Command: append([]string{program}, args...), Dir: t.TempDir(), Roots: []*x509.Certificate{a.root}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := signer(mount, "postgres-server", "postgres-client")
	csr, _ := request(t, "db1.example")
	client, _ := request(t, "App_user")
	for _, test := range []struct {
		csr []byte
		o   pki.Options
	}{{csr, serverOptions()}, {client, clientOptions("App_user")}} {
		cert, err := s.Issue(t.Context(), test.csr, test.o)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := pki.Inspect(cert)
		if err != nil || len(leaf.Usages) != 1 || leaf.Usages[0] != test.o.Usage {
			t.Errorf("a certificate of %v for %v: %v", leaf.Subject, leaf.Usages, err)
		}
		if strings.Count(string(cert), "BEGIN") != 2 || !strings.HasSuffix(string(cert), encode(a.issuing)) {
			t.Errorf("the certificates are\n%s", cert)
		}
	}

	fails := func(s *execca.Signer, csr []byte, o pki.Options, wants ...string) {
		t.Helper()
		_, err := s.Issue(t.Context(), csr, o)
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), token) {
				t.Errorf("error %v, want %q", err, want)
			}
		}
	}
	other := serverOptions()
	other.DNSNames = append(other.DNSNames, "db1.other")
	fails(s, csr, other, "the CA does not sign this: subject alternate name db1.other not allowed by this role; see: bao read "+mount+"/roles/postgres-server")
	fails(signer(mount, "defaults", "defaults"), csr, serverOptions(), "is missing") // those of the request are used, and it has none
	fails(signer(mount, "none", "none"), csr, serverOptions(), "the CA does not sign this: unknown role: none")
	fails(signer("none", "none", "none"), csr, serverOptions(), "cannot reach its CA: 404: no handler for route")
	fails(signer(mount), csr, serverOptions(), "its arguments are", "correct sign in [ca]")
	// What is longer than the role allows is made shorter.
	long := serverOptions()
	long.Validity = 24 * time.Hour
	if cert, err := s.Issue(t.Context(), csr, long); err != nil {
		t.Error(err)
	} else if leaf, err := pki.Inspect(cert); err != nil || leaf.Left(time.Now()) > 20*time.Hour {
		t.Errorf("it lives for %v, %v", leaf.Lifetime(), err)
	}
	t.Setenv("VAULT_TOKEN", "wrong")
	fails(s, csr, serverOptions(), "cannot reach its CA: permission denied", "log in with bao login", `needs "update" at `+mount+"/sign/postgres-server")
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("HOME", t.TempDir())
	fails(s, csr, serverOptions(), "there is no token")
	if err := os.WriteFile(filepath.Join(os.Getenv("HOME"), ".vault-token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Issue(t.Context(), csr, serverOptions()); err != nil {
		t.Errorf("with the file of a login: %v", err)
	}
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	fails(s, csr, serverOptions(), "cannot reach its CA: http://127.0.0.1:1", "refused")
	t.Setenv("VAULT_ADDR", "")
	fails(s, csr, serverOptions(), "VAULT_ADDR is not set")
	call(http.MethodDelete, "sys/mounts/"+mount, nil)
}
