//go:build lab

package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// A client makes a new connection ten times a second, verifies the server in full, and
// proves itself with its certificate. It reads its files for each connection and never
// tries again.
type client struct {
	host, role string
	roots      string // a file
	cert, key  string // files

	mu       sync.Mutex
	attempts int
	failures []string
	served   []string // serial numbers of the server's certificates, in the order in which they were seen
}

// every is how often a client connects.
const every = 100 * time.Millisecond

// run connects until ctx ends. A connection that takes long delays no other.
func (c *client) run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var group sync.WaitGroup
	defer group.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		group.Go(func() {
			serial, err := c.once()
			c.mu.Lock()
			defer c.mu.Unlock()
			c.attempts++
			if err != nil {
				c.failures = append(c.failures, fmt.Sprintf("%s: %v", time.Now().Format("15:04:05.000"), err))
				return
			}
			if n := len(c.served); n == 0 || c.served[n-1] != serial {
				c.served = append(c.served, serial)
			}
		})
	}
}

// once connects and asks who it is. It returns the serial number of what the server
// presented.
func (c *client) once() (serial string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := c.connect(ctx, func(s tls.ConnectionState) error {
		serial = s.PeerCertificates[0].SerialNumber.Text(16)
		return nil
	})
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var who string
	return serial, conn.QueryRow(ctx, "SELECT session_user").Scan(&who)
}

func (c *client) connect(ctx context.Context, see func(tls.ConnectionState) error) (*pgx.Conn, error) {
	roots, err := pool(c.roots)
	if err != nil {
		return nil, err
	}
	own, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, err
	}
	address := fleet.Lab.Host(c.host).Address.String()
	config, err := pgx.ParseConfig("host=" + address + " port=5432 user=x dbname=postgres sslmode=disable passfile=/dev/null")
	if err != nil {
		return nil, err
	}
	config.User = c.role
	config.TLSConfig = &tls.Config{
		RootCAs: roots, ServerName: address,
		// As libpq: what it has is sent, whatever CAs the server names.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
		VerifyConnection:     see,
	}
	config.Fallbacks = nil
	return pgx.ConnectConfig(ctx, config)
}

// clients run together until stop is called.
func clients(list ...*client) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, c := range list {
		group.Go(func() { c.run(ctx) })
	}
	return sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
}

// place writes a file as an administrator would that clients read all the while.
func (b *bench) place(name, content string) {
	b.T.Helper()
	b.Write(name+".new", content)
	path := filepath.Join(b.Dir, name)
	if err := os.Rename(path+".new", path); err != nil {
		b.T.Fatal(err)
	}
}

func (b *bench) read(name string) string {
	b.T.Helper()
	text, err := os.ReadFile(filepath.Join(b.Dir, name))
	if err != nil {
		b.T.Fatal(err)
	}
	return string(text)
}

// fetchApp brings the application's certificate from its host to where the test's client
// reads it.
func (b *bench) fetchApp() {
	b.T.Helper()
	text := fleet.Look(b.T, "b1", "cat "+labtest.Quote("/home/ops/app.pem"))
	if text != b.app {
		b.place("app.pem", text)
		b.app = text
	}
}
