//go:build lab

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// cas counts the CAs in ca.pem.
func (b *bench) cas() int { return strings.Count(b.read("ca.pem"), "BEGIN CERTIFICATE") }

// trusted are the numbers of CAs and lists on each host.
func trusted(t *testing.T) string {
	t.Helper()
	var all []string
	for _, h := range hosts() {
		n := fleet.Look(t, h.Name, "grep -c 'BEGIN CERT' /etc/postgresql/*/main/root.crt; grep -c 'BEGIN X509' /etc/postgresql/*/main/root.crl")
		all = append(all, h.Name+": "+strings.ReplaceAll(strings.TrimSpace(n), "\n", " CAs, ")+" lists")
	}
	return strings.Join(all, "; ")
}

// TestLabPhases has a rotation refused, taken back, and begun by two at once; and a
// session of a revoked client ended.
func TestLabPhases(t *testing.T) {
	b := newBench(t, `overlap = "7d"`)
	b.place("trusted.pem", b.read("ca.pem"))
	b.fetchApp()
	has(t, b.Want(2, "certs", "rotate-ca", "--yes", "-l", "a1").All(), "--limit")
	has(t, b.Want(2, "certs", "rotate-ca", "--yes", "--abort").All(), "nothing to abort")

	// Phase 1, and back. A ca.pem from before it, as another clone has it, is not rolled out;
	// an --abort that was cut off leaves such a one too.
	before := b.read("ca.pem")
	b.Want(0, "certs", "rotate-ca", "--yes")
	if got, want := trusted(t), "a1: 2 CAs, 2 lists; b1: 2 CAs, 2 lists"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	has(t, b.Want(1, "certs", "rotate-ca", "--yes").All(), "in 6 days", "--clients-ready")
	b.place("ca.pem", before)
	has(t, b.Want(1, "certs", "renew", "--yes").All(), "a1 has a newer CA, ", "pull the newest")
	has(t, b.Want(1, "certs", "rotate-ca", "--yes").All(), "nothing was changed", "b1 has a newer CA, ")
	b.Want(0, "certs", "rotate-ca", "--abort", "--yes")
	if got, want := trusted(t), "a1: 1 CAs, 1 lists; b1: 1 CAs, 1 lists"; got != want || b.cas() != 1 {
		t.Errorf("taken back: %s, want %s; %d in ca.pem", got, want, b.cas())
	}
	b.stage(t, pki.Settled)

	// Two operators at once: there is one new CA, whoever made it.
	var group sync.WaitGroup
	said := make([]labtest.Said, 2)
	for i := range said {
		group.Go(func() { said[i] = b.Run("certs", "rotate-ca", "--yes") })
	}
	group.Wait()
	for _, s := range said {
		if s.Code != 0 && !strings.Contains(s.All(), "somebody else") && !strings.Contains(s.All(), "pending version exists") && !strings.Contains(s.All(), "cannot begin") && !strings.Contains(s.All(), "has a newer CA") && !strings.Contains(s.All(), "applying") {
			t.Errorf("exit code %d\n%s", s.Code, s.All())
		}
	}
	pending := 0
	versions, err := b.store().Versions(t.Context(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		if v.Stage == secrets.Pending {
			pending++
		}
	}
	if b.cas() != 2 || pending != 1 {
		t.Errorf("%d CAs and %d pending keys\n%s\n%s", b.cas(), pending, said[0].All(), said[1].All())
	}
	b.Run("certs", "rotate-ca", "--yes", "--lock-wait", "30s")
	b.stage(t, pki.Introduced)

	// A host that cannot be asked.
	fleet.Look(t, "b1", "systemctl stop ssh.socket ssh 2>/dev/null; true")
	has(t, b.Want(1, "certs", "rotate-ca", "--yes", "--clients-ready").All(), "phase 2 cannot begin; nothing was changed", "b1: what it trusts and has is not known")
	fleet.Look(t, "b1", "systemctl start ssh.socket 2>/dev/null || systemctl start ssh")
	has(t, b.Want(0, "certs", "rotate-ca", "--yes", "--clients-ready").All(), "Phase 2")
	b.fetchApp()
	b.place("trusted.pem", b.read("ca.pem"))
	has(t, b.Want(0, "certs", "rotate-ca", "--yes").All(), "Phase 3")
	b.stage(t, pki.Settled)

	// One certificate alone, which is not due.
	s := b.Want(0, "certs", "renew", "--force", "app", "--yes")
	has(t, s.All(), "its renewal was asked for", "1 changed, 1 unchanged")
	b.fetchApp()
	has(t, b.Want(2, "certs", "renew", "ap", "--yes").All(), `"ap"`, "did you mean")

	for _, h := range hosts() {
		t.Run(fmt.Sprintf("postgres-%d", h.Postgres), func(t *testing.T) {
			if _, err := b.client(h.Name, "app").once(); err != nil {
				t.Errorf("app is not let in: %v", err)
			}
		})
	}
	b.revokedSession(t)
}

// revokedSession revokes a certificate while a session goes on that began with it.
func (b *bench) revokedSession(t *testing.T) {
	t.Helper()
	conn, err := b.client("a1", "app").connect(t.Context(), func(tls.ConnectionState) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	s := b.Want(0, "certs", "revoke", "app", "--yes")
	has(t, s.All(), "/home/ops/app.pem", "1 certificate is added to certs/revoked.toml", "a1: 1 session goes on with a revoked certificate")
	var one int
	if err := conn.QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil {
		t.Errorf("the session has ended: %v", err)
	}
	for _, h := range hosts() {
		if _, err := b.client(h.Name, "app").once(); err == nil {
			t.Errorf("%s lets a revoked client in", h.Name)
		}
	}
	s = b.Want(0, "certs", "revoke", "app", "--end-sessions", "--yes")
	has(t, s.All(), "stand in certs/revoked.toml already", "a1: 1 session ended")
	if err := conn.QueryRow(t.Context(), "SELECT 1").Scan(&one); err == nil {
		t.Error("the session goes on")
	}
	// Another clone, which does not know of it, lets nobody in again.
	if err := os.Rename(filepath.Join(b.Dir, "certs"), filepath.Join(b.Dir, "away")); err != nil {
		t.Fatal(err)
	}
	fleet.Look(t, "b1", "chmod 666 /etc/postgresql/*/main/root.crl")
	has(t, b.Want(0, "certs", "renew", "--yes").All(), "write the revocation lists of", "is revoked there and not in certs/revoked.toml: pull the newest, or pgfleet certs revoke")
	if _, err := b.client("b1", "app").once(); err == nil {
		t.Error("a list without the newest revoked.toml lets the revoked client in")
	}
	if err := os.Rename(filepath.Join(b.Dir, "away"), filepath.Join(b.Dir, "certs")); err != nil {
		t.Fatal(err)
	}
	// The host's own certificate is due now, and its successor is let in.
	has(t, b.Want(0, "certs", "renew", "--yes").All(), "it is revoked")
	b.fetchApp()
	if _, err := b.client("a1", "app").once(); err != nil {
		t.Errorf("the client with a new certificate is not let in: %v", err)
	}
}

// pool are the CAs in a file.
func pool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return roots, nil
}
