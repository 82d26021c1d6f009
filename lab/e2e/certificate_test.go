//go:build lab

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
)

// withCA makes a CA with its key in a file.
func (b *bench) withCA() {
	b.T.Helper()
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "lab CA", Now: time.Now(), Validity: 24 * time.Hour})
	if err != nil {
		b.T.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		b.T.Fatal(err)
	}
	b.Write("ca.pem", string(ca.CertificatePEM()))
	b.Write("ca.key", string(key.Expose()))
}

// verifyServed makes a TLS connection as libpq does under verify-full, with
// Go's own verification.
func verifyServed(t *testing.T, b *bench, host string) {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(b.Dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	h := fleet.Lab.Host(host)
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:5432", h.Address), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var request [8]byte
	binary.BigEndian.PutUint32(request[:], 8)
	binary.BigEndian.PutUint32(request[4:], 80877103) // SSLRequest
	if _, err := conn.Write(request[:]); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1)
	if _, err := conn.Read(answer); err != nil || !bytes.Equal(answer, []byte("S")) {
		t.Fatalf("SSLRequest: %q, %v", answer, err)
	}
	c := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: h.Address.String()})
	if err := c.Handshake(); err != nil {
		t.Errorf("verify-full: %v", err)
	}
}
