//go:build lab

package rotations

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// An application reads the secret and logs in with it, twenty times a second, over
// TLS with the server verified in full. It keeps nothing and never tries again.
type application struct {
	b        *bench
	host     string // whose server it logs in to
	path     string // of the secret
	user     string // "" reads it from the secret
	database string
	every    time.Duration // between logins; interval if it is 0

	attempts int
	failures []string
	first    time.Time // of the failures
	last     time.Time
}

// interval is how often an application logs in.
const interval = 50 * time.Millisecond

// run logs in until ctx ends.
func (a *application) run(ctx context.Context) {
	every := a.every
	if every == 0 {
		every = interval
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.attempts++
		if err := a.once(ctx); err != nil && ctx.Err() == nil {
			now := time.Now()
			if a.failures == nil {
				a.first = now
			}
			a.last = now
			a.failures = append(a.failures, fmt.Sprintf("%s: %v", now.Format("15:04:05.000"), err))
		}
	}
}

func (a *application) once(ctx context.Context) error {
	entry, err := a.b.entry(ctx, a.path)
	if err != nil {
		return err
	}
	user := a.user
	if user == "" {
		user = string(entry.Keys["username"].Expose())
	}
	return a.b.login(ctx, a.host, user, string(entry.Keys["password"].Expose()), a.database)
}

// login logs in over TLS, verify-full, and asks who it is.
func (b *bench) login(ctx context.Context, host, user, password, database string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := b.connect(ctx, host, user, password, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var who string
	return conn.QueryRow(ctx, "SELECT session_user").Scan(&who)
}

func (b *bench) connect(ctx context.Context, host, user, password, database string) (*pgx.Conn, error) {
	pem, err := os.ReadFile(filepath.Join(b.Dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	address := fleet.Lab.Host(host).Address.String()
	config, err := pgx.ParseConfig("host=" + address + " port=5432 user=x dbname=x sslmode=disable passfile=/dev/null")
	if err != nil {
		return nil, err
	}
	config.User, config.Password, config.Database = user, password, database
	config.TLSConfig = &tls.Config{RootCAs: roots, ServerName: address}
	config.Fallbacks = nil
	return pgx.ConnectConfig(ctx, config)
}

// applications run together until stop is called.
func applications(list ...*application) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, a := range list {
		group.Go(func() { a.run(ctx) })
	}
	return func() {
		cancel()
		group.Wait()
	}
}
