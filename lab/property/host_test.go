//go:build lab

package property

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A host is a server of the lab with pgfleet's connection to it. The test's own
// sessions go over another, so that they take none of what sshd's MaxSessions
// leaves to pgfleet.
type host struct {
	t        *testing.T
	major    int
	conn     transport.Conn
	own      transport.Conn
	run      *rollout.Run
	open     map[string]*pgx.Conn
	deparsed map[string]string // the expressions of policies, as the server writes them
	tried    map[string]int    // cases, tasks, objects
	ran      map[string]int    // statements, by type
	refused  map[string]int    // plans, by the reason
	failures int
}

func newHost(t *testing.T, major int) *host {
	h := &host{t: t, major: major, open: map[string]*pgx.Conn{}, tried: map[string]int{}, ran: map[string]int{}, refused: map[string]int{}}
	on := hosts.Host(fmt.Sprintf("pg%d", major))
	for _, conn := range []*transport.Conn{&h.conn, &h.own} {
		d := &transport.Dialer{SSHConfig: filepath.Join(t.TempDir(), "none")}
		t.Cleanup(func() { d.Close() })
		var err error
		*conn, err = d.Dial(t.Context(), transport.Target{Name: on.Name, Address: on.Address.String(), User: on.User, Identity: hosts.Key, KnownHosts: hosts.KnownHosts})
		if err != nil {
			t.Fatal(err)
		}
	}
	h.run = &rollout.Run{Connector: h, Resolver: h}
	t.Cleanup(h.run.Close)
	// A server that is worth nothing afterwards need not wait for its disk.
	h.must("postgres", "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()")
	h.deparse()
	return h
}

// Dial implements rollout.Connector.
func (h *host) Dial(context.Context, *inventory.Host) (transport.Conn, error) { return h.conn, nil }

// Resolve implements rollout.Resolver: a secret's value follows from its name.
func (h *host) Resolve(_ context.Context, ref secrets.Ref) (secrets.Secret, string, error) {
	return secrets.New([]byte("pass " + ref.Path)), "1", nil
}

// session returns the superuser's session in a database.
func (h *host) session(database string) *pgx.Conn {
	h.t.Helper()
	if h.open[database] == nil {
		conn, err := h.own.Postgres(h.t.Context(), transport.Endpoint{Database: database})
		if err != nil {
			h.t.Fatalf("database %q: %v", database, err)
		}
		h.open[database] = conn
		// Whatever ALTER DATABASE … SET says.
		h.must(database, "SET search_path = public, pg_catalog", "SET quote_all_identifiers = off", "SET statement_timeout = '1min'")
	}
	return h.open[database]
}

// leave ends all sessions, of which a template or a database that is dropped must
// have none.
func (h *host) leave() {
	for _, conn := range h.open {
		_ = conn.Close(h.t.Context())
		<-conn.PgConn().CleanupDone()
	}
	clear(h.open)
	h.conn.Refresh()
}

func (h *host) exec(database, sql string) error {
	_, err := h.session(database).PgConn().Exec(h.t.Context(), sql).ReadAll()
	return err
}

func (h *host) must(database string, statements ...string) {
	h.t.Helper()
	for _, sql := range statements {
		if err := h.exec(database, sql); err != nil {
			h.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// rows returns a query's answer as text; NULL is "".
func (h *host) rows(database, sql string, args ...any) [][]string {
	h.t.Helper()
	rows, err := h.session(database).Query(h.t.Context(), sql, append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...)
	if err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	var list [][]string
	for rows.Next() {
		var row []string
		for _, v := range rows.RawValues() {
			row = append(row, string(v))
		}
		list = append(list, row)
	}
	if err := rows.Err(); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	return list
}

// expressions are those that policies are made of.
func expressions() []string {
	return []string{
		"true", "id > 0", "id > 0 AND total IS NOT NULL", "who = current_user", "id = NULLIF(current_setting('app.tenant', true), '')::int -- the tenant's",
		"\"Odd Col\" IN (1, 2, 3)", "who IN (SELECT rolname FROM pg_catalog.pg_roles)", "lower(who) LIKE 'a%' OR total BETWEEN 1 AND 10",
	}
}

// deparse makes a policy of each expression and looks what the server makes of
// it.
func (h *host) deparse() {
	h.deparsed = map[string]string{"": ""}
	h.must("postgres", "CREATE TABLE public.scratch "+columns)
	for i, e := range expressions() {
		h.must("postgres", fmt.Sprintf("CREATE POLICY p%d ON public.scratch USING (%s\n)", i, e))
		h.deparsed[e] = h.rows("postgres", "SELECT qual FROM pg_policies WHERE tablename = 'scratch' AND policyname = $1", fmt.Sprintf("p%d", i))[0][0]
	}
	h.must("postgres", "DROP TABLE public.scratch")
}

// report says what was tried.
func (h *host) report(worlds int) {
	refused := 0
	for _, n := range h.refused {
		refused += n
	}
	plans := h.tried["plans"]
	if h.failures > 0 {
		h.t.Logf("%d of %d lists of tasks failed", h.failures, h.tried["cases"])
		return
	}
	h.t.Logf("PROOF: PostgreSQL %d: %d lists of random tasks and %d drifts by hand in %d random worlds came true and left nothing due, the server was as foreseen after all %d plans; tasks: %s; statements: %s; judged: %s; %d plans refused\n",
		h.major, h.tried["cases"], h.tried["drifts"], worlds, plans, counts(h.tried, "task "), counts(h.ran, ""), counts(h.tried, "judged "), refused)
	for _, why := range slices.Sorted(maps.Keys(h.refused)) {
		h.t.Logf("refused %d: %s", h.refused[why], why)
	}
	if worlds > 1 && refused*20 > plans {
		h.t.Errorf("%d of %d plans were refused, which is too many to prove anything", refused, plans)
	}
}

func counts(m map[string]int, prefix string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if what, ok := strings.CutPrefix(name, prefix); ok {
			list = append(list, fmt.Sprintf("%s %d", what, m[name]))
		}
	}
	return strings.Join(list, ", ")
}
