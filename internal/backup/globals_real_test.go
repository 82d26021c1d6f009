package backup_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
	"github.com/pgfleet/pgfleet/transport"
)

// A serverConn reaches a test's server, and nothing else.
type serverConn struct {
	transport.Conn
	server *postgrestest.Server
}

func (c serverConn) Postgres(ctx context.Context, at transport.Endpoint) (*pgx.Conn, error) {
	return pgx.Connect(ctx, c.server.URL(at.Database, at.User))
}

// Roles are restored without a trace of their verifiers on a server that logs all it can; the same search finds a canary.
func TestRestoreGlobalsLeavesNoTrace(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		s.Append(t, "postgresql.conf", strings.Join([]string{
			"log_statement = all", "log_duration = on", "log_min_duration_statement = 0", "log_min_duration_sample = 0", "log_statement_sample_rate = 1",
			"log_transaction_sample_rate = 1", "log_min_error_statement = debug5", "debug_print_parse = on", "debug_print_rewritten = on", "debug_print_plan = on",
			"session_preload_libraries = 'auto_explain'", "auto_explain.log_min_duration = 0",
		}, "\n")+"\n")
		s.Reload(t)
		const verifier = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$c3RvcmVkc3RvcmVkc3RvcmVkc3RvcmVkc3RvcmVkMTI=:c2VydmVyc2VydmVyc2VydmVyc2VydmVyc2VydmVyMTI="
		g, err := backup.ParseGlobals("CREATE ROLE app;\nALTER ROLE app WITH LOGIN PASSWORD '" + verifier + "';\nCREATE TABLESPACE nowhere OWNER app LOCATION '/no/such/folder';\n")
		if err != nil {
			t.Fatal(err)
		}
		made, _, failed, err := backup.RestoreGlobals(t.Context(), g, serverConn{server: s}, transport.Endpoint{User: "postgres"})
		if err != nil || len(made) != 1 || len(failed) != 1 {
			t.Fatalf("%q, %q, %v", made, failed, err)
		}
		s.Exec(t, "ALTER ROLE app PASSWORD 'SCRAM-SHA-256$canary'")
		log, err := os.ReadFile(filepath.Join(s.Sockets, "log"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(log), "SCRAM-SHA-256$canary") {
			t.Error("the canary is not found, so this proves nothing")
		}
		if i := strings.Index(string(log), "SCRAM-SHA-256$4096"); i >= 0 {
			t.Errorf("the verifier is in the server's log: %s", log[max(0, i-300):i])
		}
	})
}
