package rollout

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/tasks"
)

func table(name string) line {
	return line{sql: "CREATE TABLE " + name + " (a int)", done: "SELECT to_regclass('" + name + "') IS NOT NULL"}
}

func TestStatements(t *testing.T) {
	b := newBench(t, "")
	hasDatabase := "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'My db')"
	lines := []line{
		table("one"),
		{sql: "COMMENT ON TABLE one IS 'x'", done: "SELECT obj_description(to_regclass('one')) = 'x'"},
		{sql: `CREATE DATABASE "My db"`, done: hasDatabase, alone: true},
		{sql: "CREATE SCHEMA s", database: "My db", done: hasDatabase},
		table("two"),
	}
	// The third part is due only as long as the database is not there, because the
	// list cannot look into it: it must be found again all the same.
	lines[3].done = "SELECT to_regclass('two') IS NOT NULL"
	r := b.applyLines(lines...)
	if r.Status != Changed || r.Err != nil || r.Changes != 5 || r.Done != 4 || r.Steps != 4 {
		t.Fatalf("%+v", r)
	}
	conn, err := b.connect("My db")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var n int
	if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM pg_namespace WHERE nspname = 's'").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if r := b.applyLines(lines...); r.Status != Unchanged || r.Steps != 0 {
		t.Errorf("again: %+v", r)
	}
}

func TestStatementFails(t *testing.T) {
	b := newBench(t, "")
	r := b.applyLines(table("one"), line{sql: "ALTER TABLE one\n  ADD b nonsense"}, table("two"))
	wantError(t, r, Failed, "list: ALTER TABLE one ADD b nonsense: type \"nonsense\" does not exist; nothing of the transaction was kept")
	if r.Changes != 0 || r.Done != 0 {
		t.Errorf("%+v", r)
	}
	if b.sql("SELECT to_regclass('one') IS NULL") != "t" {
		t.Error("the first statement was kept")
	}
	r = b.applyLines(line{sql: "DROP ROLE nobody", alone: true})
	wantError(t, r, Failed, `list: DROP ROLE nobody: role "nobody" does not exist`)
	b.sql("CREATE ROLE owner; CREATE TABLE owned (a int); ALTER TABLE owned OWNER TO owner")
	r = b.applyLines(line{sql: "DROP ROLE owner"})
	wantError(t, r, Failed, "some objects depend on it; owner of table owned; nothing")
}

func TestStatementHasNoEffect(t *testing.T) {
	b := newBench(t, "")
	r := b.applyLines(line{sql: "CREATE TABLE one (a int)", done: "SELECT to_regclass('another') IS NOT NULL"})
	wantError(t, r, Failed, "due again: CREATE TABLE one (a int) (database postgres)")
}

// What is due must be what was planned, or nothing is written.
func TestStatementsDrifted(t *testing.T) {
	b := newBench(t, "")
	l := &list{lines: []line{table("one"), table("two")}}
	p := b.plan(b.bound(l))
	b.sql("CREATE TABLE one (a int)")
	l.lines = append(l.lines, table("three"))
	r := b.apply(context.Background(), p)
	wantError(t, r, Failed, "no longer due: CREATE TABLE one", "now also due: CREATE TABLE three", "plan again")
	if b.sql("SELECT to_regclass('two') IS NULL") != "t" {
		t.Error("something was written")
	}
	l.unknown = "the server answers"
	wantError(t, b.apply(context.Background(), p), Failed, "nothing was written", "the server answers")
}

func TestLockHeld(t *testing.T) {
	b := newBench(t, "")
	b.sql("CREATE TABLE one (a int)")
	other, err := b.connect("postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	if _, err := other.Exec(context.Background(), "BEGIN; LOCK TABLE one IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := b.applyLines(table("two"), line{sql: "ALTER TABLE one ADD b int"})
	wantError(t, r, Failed, "ALTER TABLE one ADD b int: somebody holds a lock on subject", "55P03", "nothing was changed; run it again")
	if took := time.Since(began); took > 2*lockTimeout {
		t.Errorf("it took %v", took)
	}
}

// What another role granted is revoked as that role, and what comes after runs as
// the superuser again.
func TestRunAs(t *testing.T) {
	b := newBench(t, "")
	b.sql(`CREATE ROLE "Grantor"; CREATE ROLE app; CREATE TABLE one (a int); GRANT SELECT ON one TO "Grantor" WITH GRANT OPTION;
		SET ROLE "Grantor"; GRANT SELECT ON one TO app; RESET ROLE`)
	r := b.applyLines(
		line{sql: "REVOKE SELECT ON one FROM app", as: "Grantor", done: "SELECT NOT has_table_privilege('app', 'one', 'SELECT')"},
		line{sql: "CREATE ROLE later", done: "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'later')"},
	)
	if r.Status != Changed {
		t.Fatal(r.Err)
	}
}

// Ctrl-C twice ends a run at once, and leaves no transaction behind.
func TestStatementCancelled(t *testing.T) {
	b := newBench(t, "")
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(2*time.Second, cancel)
	p := b.plan(b.bound(&list{lines: []line{table("one"), {sql: "SELECT pg_sleep(50)"}}}))
	began := time.Now()
	wantError(t, b.apply(ctx, p), Stopped, "nothing of the transaction was kept")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	for began := time.Now(); b.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgfleet' AND state <> 'idle'") != "0"; time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > 3*time.Second {
			t.Fatal("a session of ours still runs")
		}
	}
	if b.sql("SELECT to_regclass('one') IS NULL") != "t" {
		t.Error("the transaction was committed")
	}
}

// A transaction that is lost on the way is gone; whether a COMMIT arrived that was
// not answered, nobody knows.
func TestConnectionLost(t *testing.T) {
	b := newBench(t, "")
	kill := "SELECT pg_terminate_backend(pg_backend_pid())"
	wantError(t, b.applyLines(table("one"), line{sql: kill}), Failed, "administrator command; nothing of the transaction was kept")
	b.sql(`CREATE TABLE t (a int);
		CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF new.a = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RAISE ''no''; END';
		CREATE CONSTRAINT TRIGGER x AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f()`)
	wantError(t, b.applyLines(line{sql: "INSERT INTO t VALUES (1)"}), Failed, "COMMIT: ", "not known")
	wantError(t, b.applyLines(line{sql: "INSERT INTO t VALUES (2)"}), Failed, "COMMIT: no; nothing of the transaction was kept")
}

func TestReplan(t *testing.T) {
	b := newBench(t, "")
	l := &list{unknown: "a script has run"}
	task := b.bound(l)
	p := b.plan(task)
	wantError(t, b.apply(context.Background(), p), Failed, "it still cannot be planned: a script has run")
	l.unknown = ""
	l.lines = []line{table("one"), {sql: "CREATE DATABASE more", alone: true, done: "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'more')"}, table("two")}
	if r := b.apply(context.Background(), p); r.Status != Changed || r.Changes != 3 || r.Done != 1 {
		t.Errorf("%+v", r)
	}
	if r := b.apply(context.Background(), p); r.Status != Unchanged || r.Changes != 0 || r.Done != 1 {
		t.Errorf("again: %+v", r)
	}
	l.lines = append(l.lines, table("three"), line{sql: "DROP DATABASE nowhere", alone: true})
	// What was committed before the error counts.
	if r := b.apply(context.Background(), p); r.Status != Failed || r.Changes != 1 || r.Done != 0 {
		t.Errorf("half: %+v", r)
	}
}

// Without its primary in the run a standby can only see whether all is there.
func TestReplicatedWithoutPrimary(t *testing.T) {
	b := newBench(t, "")
	l := &list{replicated: true, lines: []line{table("one"), {sql: "GRANT", database: "other", done: "SELECT to_regclass('one') IS NOT NULL"}}}
	task := b.bound(l)
	p := b.plan(task)
	ask := func(query string) tasks.Step {
		want := "t"
		return tasks.Step{Tasks: []*tasks.Bound{{Name: "proof"}}, Changes: []tasks.Change{
			{Action: tasks.Ask{Server: b.server(), Database: "postgres", Query: query, Expect: &want, Timeout: 5 * time.Second}},
		}}
	}
	before, after := ask("SELECT true"), ask("SELECT to_regclass('one') IS NOT NULL")
	p.Steps = append([]tasks.Step{before}, append(p.Steps, after)...)
	r := b.apply(context.Background(), p)
	wantError(t, r, Stopped, "what differs comes by replication from pg09: apply there")
	if r.Steps != 4 || r.Done != 1 || r.Changes != 0 {
		t.Errorf("%+v", r)
	}
	if want := []string{"started 1", "done 1", "waiting 0", "started 2", "failed 2", "end 0"}; !slices.Equal(b.events, want) {
		t.Errorf("events %q, want %q", b.events, want)
	}
	b.sql("CREATE TABLE one (a int)")
	r = b.apply(context.Background(), p)
	if r.Status != Unchanged || r.Err != nil || r.Done != 4 {
		t.Errorf("%+v", r)
	}
	want := "started 1, done 1, waiting 0, started 2, done 2, started 3, done 3, started 4, done 4, end 0"
	if got := strings.Join(b.events, ", "); got != want {
		t.Errorf("events %s", got)
	}
	l.replicated, l.lines = false, []line{table("two")}
	wantError(t, b.apply(context.Background(), p), Failed, "was a standby, and is a primary now")
}
