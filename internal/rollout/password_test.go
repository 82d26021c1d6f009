package rollout

import (
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// Everything that could hold the text of a statement.
const talkative = `
shared_preload_libraries = 'pg_stat_statements,auto_explain'
pg_stat_statements.track = all
pg_stat_statements.track_utility = on
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
log_statement = all
log_duration = on
log_min_duration_statement = 0
log_min_duration_sample = 0
log_statement_sample_rate = 1
log_transaction_sample_rate = 1
log_min_error_statement = debug5
log_min_messages = debug5
debug_print_parse = on
debug_print_rewritten = on
debug_print_plan = on
log_statement_stats = on
`

func TestPasswordLeavesNoTrace(t *testing.T) { testPasswordLeavesNoTrace(newBench(t, talkative)) }

// A password is set without any trace of it, or of its verifier, on the server;
// the same search finds a canary. What comes after is logged as before.
func testPasswordLeavesNoTrace(b *bench) {
	t := b.t
	b.sql("CREATE EXTENSION pg_stat_statements; CREATE ROLE canary")
	ref := secrets.Ref{Store: "env", Path: "PASSWORD"}
	password := "correct horse battery"
	b.secrets[ref] = secrets.NewString(password)
	set := line{st: catalog.SetPassword{Role: "app\"user", Secret: ref}, done: `SELECT EXISTS (SELECT FROM pg_authid WHERE rolpassword LIKE 'SCRAM%')`}
	lines := []line{
		{sql: `CREATE ROLE "app""user" LOGIN`, done: `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app"user')`},
		set,
		{sql: "CREATE ROLE afterwards", done: "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'afterwards')"},
	}
	wantError(t, b.applyLines(lines...), Failed, "was not read")
	if err := b.run.Resolve(t.Context(), []secrets.Ref{ref}); err != nil {
		t.Fatal(err)
	}
	if r := b.applyLines(lines...); r.Status != Changed || r.Changes != 3 {
		t.Fatal(r.Err)
	}
	stored := b.sql(`SELECT rolpassword FROM pg_authid WHERE rolname = 'app"user'`)
	if !postgres.Matches(stored, password) {
		t.Error("the server did not store the password's verifier")
	}
	b.sql("ALTER ROLE canary PASSWORD 'SCRAM-SHA-256$canary'")
	traces := b.log() + b.sql("SELECT string_agg(query, ' ') FROM pg_stat_statements")
	if strings.Count(traces, "SCRAM-SHA-256$canary") < 2 {
		t.Error("the canary is not found, so this proves nothing")
	}
	traces = strings.ReplaceAll(traces, "SCRAM-SHA-256$canary", "")
	parts := strings.FieldsFunc(stored, func(r rune) bool { return r == '$' || r == ':' })
	for _, secret := range append(parts[2:], password, "SCRAM-SHA-256$") {
		if i := strings.Index(traces, secret); i >= 0 {
			t.Errorf("%q is in the server's log or statistics: %s", secret, traces[max(0, i-200):i])
		}
	}
	for _, logged := range []string{`CREATE ROLE "app""user" LOGIN`, "CREATE ROLE afterwards"} {
		if !strings.Contains(traces, logged) {
			t.Errorf("%s is not logged", logged)
		}
	}
}

// The error of a password that cannot be set holds nothing of it.
func TestPasswordFails(t *testing.T) {
	b := newBench(t, "")
	ref := secrets.Ref{Store: "env", Path: "PASSWORD"}
	b.secrets[ref] = secrets.NewString("hidden words")
	if err := b.run.Resolve(t.Context(), []secrets.Ref{ref}); err != nil {
		t.Fatal(err)
	}
	r := b.applyLines(line{st: catalog.SetPassword{Role: "nobody", Secret: ref}})
	wantError(t, r, Failed, `role "nobody" does not exist; nothing of the transaction was kept`)
	for _, secret := range []string{"hidden words", "$4096:"} {
		if strings.Contains(r.Err.Error(), secret) {
			t.Errorf("%q is in the error: %v", secret, r.Err)
		}
	}
	bad := secrets.Ref{Store: "env", Path: "BAD"}
	b.secrets[bad] = secrets.NewString("pässword")
	if err := b.run.Resolve(t.Context(), []secrets.Ref{bad}); err != nil {
		t.Fatal(err)
	}
	b.sql("CREATE ROLE app")
	wantError(t, b.applyLines(line{st: catalog.SetPassword{Role: "app", Secret: bad}}), Failed, "not printable ASCII")
}
