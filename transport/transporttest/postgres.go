package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/transport"
)

// open opens a session that is closed with the test.
func open(t *testing.T, h Host, c transport.Conn) *pgx.Conn {
	t.Helper()
	conn, err := c.Postgres(deadline(t), *h.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func testPostgres(t *testing.T, h Host, c transport.Conn) {
	conn := open(t, h, c)
	var user, app string
	if err := conn.QueryRow(deadline(t), "SELECT current_user, current_setting('application_name')").Scan(&user, &app); err != nil {
		t.Fatal(err)
	}
	if user != "postgres" || app != "pgfleet" {
		t.Errorf("user %q, application_name %q", user, app)
	}
	at := *h.Postgres
	at.Database = "no_such_database"
	var pg *pgconn.PgError
	if _, err := c.Postgres(deadline(t), at); !errors.As(err, &pg) || pg.Code != "3D000" {
		t.Errorf("no such database: %v", err)
	}
}

func testPostgresLarge(t *testing.T, h Host, c transport.Conn) {
	conn := open(t, h, c)
	in := noise(3 << 20)
	var out []byte
	if err := conn.QueryRow(deadline(t), "SELECT $1::bytea", in).Scan(&out); err != nil || !bytes.Equal(in, out) {
		t.Errorf("%d bytes came back of %d: %v", len(out), len(in), err)
	}
	// Both sides send at once: neither may wait for the other.
	batch := &pgx.Batch{}
	big := strings.Repeat("x", 200_000)
	for range 40 {
		batch.Queue("SELECT $1::text", big)
	}
	results := conn.SendBatch(deadline(t), batch)
	for range 40 {
		var s string
		if err := results.QueryRow().Scan(&s); err != nil || s != big {
			t.Fatalf("%d bytes: %v", len(s), err)
		}
	}
	if err := results.Close(); err != nil {
		t.Error(err)
	}
}

func testPostgresCancel(t *testing.T, h Host, c transport.Conn) {
	conn := open(t, h, c)
	// A cancel request takes a way of its own.
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(deadline(t), "SELECT pg_sleep(30)")
		done <- err
	}()
	time.Sleep(300 * time.Millisecond)
	if err := conn.PgConn().CancelRequest(deadline(t)); err != nil {
		t.Fatal(err)
	}
	var pg *pgconn.PgError
	if err := <-done; !errors.As(err, &pg) || pg.Code != "57014" {
		t.Errorf("cancelled: %v", err)
	}
	// Without one, an ended context still ends the wait.
	ctx, cancel := context.WithTimeout(deadline(t), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := conn.Exec(ctx, "SELECT pg_sleep(30)")
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
		t.Errorf("%v after %s", err, took)
	}
}

func testReadServer(t *testing.T, h Host, c transport.Conn) {
	conn := open(t, h, c)
	if _, err := conn.Exec(deadline(t), "SET application_name = 'somebody'"); err != nil {
		t.Fatal(err)
	}
	r := facts.Postgres{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir}
	for range 2 {
		s := read[facts.Server](t, c, r)
		if !s.Reached || s.Problem != "" || s.Version.Major() < 10 || s.SystemIdentifier == "" || s.Started.IsZero() || s.Loaded.IsZero() || time.Since(s.Clock).Abs() > time.Minute ||
			s.DataDirectory == "" || s.ConfigFile == "" || s.HBAFile == "" || s.IdentFile == "" || len(s.Settings) < 200 || len(s.FileSettings) == 0 || len(s.HBA) == 0 {
			s.Settings = nil
			t.Errorf("%+v", s)
		}
		for _, name := range []string{"application_name", "search_path", "statement_timeout", "lock_timeout", "client_encoding"} {
			if st, ok := s.Setting(name); !ok || st.Source != "default" || st.Setting != st.BootVal {
				t.Errorf("our own session shows: %+v", st)
			}
		}
		if st, ok := s.Setting("wal_level"); !ok || len(st.EnumVals) != 3 || st.Context != "postmaster" {
			t.Errorf("%+v", st)
		}
		for i, row := range s.HBA {
			if row.Line == 0 || row.Method == "" || len(row.Database) == 0 || s.Version.Major() >= 16 && (row.File == "" || row.RuleNumber != i+1) {
				t.Errorf("%+v", row)
			}
		}
		found := false
		for _, session := range s.Sessions {
			found = found || session.Application == "somebody" && session.User == "postgres" && session.Count == 1
			if session.Application == "pgfleet" {
				t.Errorf("our own session is listed: %+v", session)
			}
		}
		if !found {
			t.Errorf("sessions: %+v", s.Sessions)
		}
	}
}

func testQuery(t *testing.T, h Host, c transport.Conn) {
	conn := open(t, h, c)
	if _, err := conn.Exec(deadline(t), "DROP TABLE IF EXISTS transporttest"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		database, sql string
		want          bool
		problem       string
	}{
		{"", "SELECT true", true, ""},
		{"", "SELECT false", false, ""},
		{"", "SELECT NULL::bool", false, ""},
		{"", "SELECT 1 = 1, 'x'", true, ""},
		{"", "SELECT true WHERE false", false, ""},
		{"", "SELECT nothing", false, "nothing"},
		{"", "CREATE TABLE transporttest (a int)", false, "read-only"},
		{"", "COMMIT; CREATE TABLE transporttest (a int)", false, "multiple commands"},
		{"no_such_database", "SELECT true", false, "no_such_database"},
	} {
		q := facts.Query{Port: h.Postgres.Port, SocketDir: h.Postgres.SocketDir, Database: test.database, SQL: test.sql}
		got := read[facts.QueryResult](t, c, q)
		if got.True != test.want || (got.Problem == "") != (test.problem == "") || !strings.Contains(got.Problem, test.problem) {
			t.Errorf("%s: %+v", test.sql, got)
		}
	}
	var there bool
	if err := conn.QueryRow(deadline(t), "SELECT to_regclass('transporttest') IS NOT NULL").Scan(&there); err != nil || there {
		t.Errorf("a Query has written: %t, %v", there, err)
	}
}

func testNoServer(t *testing.T, h Host, c transport.Conn) {
	if s := read[facts.Server](t, c, facts.Postgres{Port: 1}); s.Reached || !strings.Contains(s.Problem, ".s.PGSQL.1") {
		t.Errorf("%+v", s)
	}
	if s := read[facts.Served](t, c, facts.Certificate{Port: 1, Addresses: "127.0.0.1, ::1"}); s.Reached || s.Problem == "" {
		t.Errorf("%+v", s)
	}
	if s := read[facts.QueryResult](t, c, facts.Query{Port: 1, SQL: "SELECT true"}); s.True || s.Problem == "" {
		t.Errorf("%+v", s)
	}
	if _, err := c.Postgres(deadline(t), transport.Endpoint{Port: 1}); err == nil || !strings.Contains(err.Error(), "No such file or directory") {
		t.Errorf("Postgres: %v", err)
	}
}

func testDialPostgres(t *testing.T, h Host, c transport.Conn) {
	if _, err := c.DialPostgres(deadline(t), "127.0.0.1", 1); err == nil || !strings.Contains(err.Error(), "efused") {
		t.Errorf("a port where nobody listens: %v", err)
	}
	s, err := c.DialPostgres(deadline(t), "127.0.0.1", h.Postgres.Port)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	var timeout interface{ Timeout() bool }
	if _, err := s.Read(b[:]); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a deadline: %v", err)
	}
	_ = s.SetReadDeadline(time.Time{})
	if _, err := s.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, b[:]); err != nil || b[0] != 'S' && b[0] != 'N' {
		t.Errorf("the answer to an SSLRequest: %q, %v", b, err)
	}
	if served := read[facts.Served](t, c, facts.Certificate{Port: h.Postgres.Port, Addresses: "127.0.0.1"}); !served.Reached || served.TLS != (b[0] == 'S') || served.TLS == (len(served.Chain) == 0) {
		t.Errorf("%+v, although the server says %q", served, b)
	}
}
