//go:build lab

package certs

import (
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// TestLabExpiredCA has a CA that has expired replaced: an apply says that it has to be, and
// one call lets the next one sign.
func TestLabExpiredCA(t *testing.T) {
	b := declare(t, "")
	for _, h := range hosts() { // what other tests have left is of newer CAs
		fleet.Look(t, h.Name, "rm -f /etc/postgresql/*/main/root.crt /etc/postgresql/*/main/root.crl /etc/postgresql/*/main/server.pem /home/ops/app.pem")
	}
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "lab CA 2020", Now: time.Now().Add(-2 * time.Hour), Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	b.Write("ca.pem", string(ca.CertificatePEM()))
	id, err := b.store().Put(t.Context(), "ca", secrets.Change{Set: map[string]secrets.Secret{"key": key}})
	if err == nil {
		err = b.store().Promote(t.Context(), "ca", id)
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := ca.RevocationList(nil, time.Now().Add(-90*time.Minute), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts() {
		fleet.Look(t, h.Name, "cd /etc/postgresql/*/main && printf %s "+labtest.Quote(string(list))+" >root.crl && chown postgres root.crl")
	}
	has(t, b.Want(1, "certs", "renew", "--yes").All(), "the CA CN=lab CA 2020 has expired on", "rotate it")
	has(t, b.Want(0, "certs", "rotate-ca", "--yes").All(), "Phases 1 and 2: a new CA is trusted, and signs at once, because lab CA 2020 has expired on", "2 changed")
	if got, want := trusted(t), "a1: 2 CAs, 2 lists; b1: 2 CAs, 2 lists"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	b.stage(t, pki.Switched)
	has(t, b.Want(0, "certs", "rotate-ca", "--yes").All(), "Phase 3")
	b.Want(0, "apply", "--yes")
	b.place("trusted.pem", b.read("ca.pem"))
	b.fetchApp()
	for _, h := range hosts() {
		if _, err := b.client(h.Name, "app").once(); err != nil {
			t.Errorf("%s: app is not let in: %v", h.Name, err)
		}
	}
}
