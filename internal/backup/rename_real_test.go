package backup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
	"github.com/pgfleet/pgfleet/transport"
)

// A sessions connection reaches a test's server, and nothing else.
type sessions struct {
	transport.Conn
	server *postgrestest.Server
}

func (c sessions) Postgres(ctx context.Context, at transport.Endpoint) (*pgx.Conn, error) {
	return pgx.Connect(ctx, c.server.URL(at.Database, at.User))
}

// A database takes the place of one that is in use and that clients come back to, by one transaction alone: whatever a kill
// interrupts leaves the database as it was, open to its clients.
func TestRename(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		s.Append(t, "postgresql.conf", "log_statement = all\n")
		s.Reload(t)
		s.Exec(t, "CREATE DATABASE shop")
		s.Exec(t, "CREATE DATABASE restored")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 4 {
			go func() {
				for ctx.Err() == nil {
					if c, err := pgx.Connect(ctx, s.URL("shop", "postgres")); err == nil {
						_, _ = c.Exec(ctx, "SELECT pg_sleep(600)")
						_ = c.Close(ctx)
					}
				}
			}()
		}
		for s.Number(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'") < 3 {
			time.Sleep(10 * time.Millisecond)
		}
		r := &Restore{At: Place{Conn: sessions{server: s}}, Server: transport.Endpoint{User: "postgres"}, Name: "shop", Overwrite: true}
		session, err := r.session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer closeSession(ctx, session)
		before := s.Number(t, "SELECT oid::bigint FROM pg_database WHERE datname = 'restored'")
		kept, err := r.rename(ctx, session, "restored")
		if err != nil {
			t.Fatal(err)
		}
		if s.Number(t, "SELECT oid::bigint FROM pg_database WHERE datname = 'shop'") != before || s.Number(t, "SELECT count(*) FROM pg_database WHERE datname = '"+kept+"' AND datallowconn") != 1 {
			t.Error("the names were not exchanged")
		}
		log, err := os.ReadFile(filepath.Join(s.Sockets, "log"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(log), "RENAME TO") || strings.Contains(string(log), "ALLOW_CONNECTIONS") {
			t.Error("the database was closed to clients by a statement of its own")
		}
	})
}
