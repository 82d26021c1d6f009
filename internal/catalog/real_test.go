package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
)

// TestModel runs random statements on a real server and compares the model with
// what the server then holds, after each of them. PGFLEET_TEST_SERVERS names
// further servers, new ones that are worth nothing afterwards, by their
// connection strings without a database, separated by semicolons.
func TestModel(t *testing.T) {
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		driveModel(t, func(db string) string { return s.URL(db, "postgres") })
	})
	for server := range strings.SplitSeq(os.Getenv("PGFLEET_TEST_SERVERS"), ";") {
		if server != "" {
			t.Run(server, func(t *testing.T) { driveModel(t, func(db string) string { return server + " dbname='" + db + "'" }) })
		}
	}
}

// A drive is a model beside the server that it has to be equal to.
type drive struct {
	t         *testing.T
	random    *rand.Rand
	url       func(db string) string
	open      map[string]*pgx.Conn
	model     *Cluster
	done      map[string]int // statements that the server took, by type
	refused   map[string]int // and those that it did not, by its message
	taken     int
	serial    int
	queue     []queued
	available map[string][]string // extensions
}

func driveModel(t *testing.T, url func(db string) string) {
	seed, statements := uint64(1), 300
	if os.Getenv("PGFLEET_SOAK") != "" {
		seed, statements = uint64(time.Now().UnixNano()), 4000
	}
	d := &drive{t: t, random: rand.New(rand.NewPCG(seed, 0)), url: url, open: map[string]*pgx.Conn{}, done: map[string]int{}, refused: map[string]int{}}
	defer d.closeAll()
	d.model = d.read("template1", "postgres")
	var last []string // the statements so far, for the report of a failure
	end, limited := t.Deadline()
	for d.taken < statements && (!limited || time.Until(end) > time.Minute) {
		db, s := d.next()
		if s == nil {
			continue
		}
		taken := d.taken
		problem := d.step(db, s)
		if d.taken > taken {
			last = append(last, fmt.Sprintf("%-9s %s", db, s.SQL()))
		}
		if problem != "" {
			last = last[max(0, len(last)-25):]
			t.Fatalf("seed %d on %s:\n%s\n\n%s", seed, d.model.Version, strings.Join(last, "\n"), problem)
		}
	}
	d.report(seed)
}

// step runs a statement on the server and, if that took it, on the model, and
// returns what then differs.
func (d *drive) step(db string, s Statement) string {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", s), "catalog.")
	if err := d.run(db, s); err != nil {
		var refused *pgconn.PgError
		if !errors.As(err, &refused) {
			return err.Error()
		}
		d.refused[kind+": "+refused.Message]++
		if refused.Code == "42601" { // a syntax error is the model's mistake
			return err.Error()
		}
		return ""
	}
	d.done[kind]++
	d.taken++
	before := d.model
	frozen := deepCopy(before)
	after := before.Clone()
	s.Apply(after, db)
	if lines := strictDiff(frozen, before); len(lines) > 0 {
		return "Apply changed the state that it started from:\n" + strings.Join(lines, "\n")
	}
	databases := slices.DeleteFunc(sortedKeys(after.Contents), func(name string) bool {
		return name != db && before.Contents[name] != nil && d.taken%20 != 0 // every now and then, all of them
	})
	server := d.read(databases...)
	for name := range after.Contents {
		if server.Contents[name] == nil {
			server.Contents[name] = before.Contents[name]
		}
	}
	if lines := strictDiff(after, server); len(lines) > 0 {
		return "from the model to the server:\n" + strings.Join(lines, "\n")
	}
	if lines := strictDiff(server, after); len(lines) > 0 {
		return "from the server to the model:\n" + strings.Join(lines, "\n")
	}
	// What the model does not foresee is taken from the server.
	after.Depends = nil
	for name, held := range server.Contents {
		n := *after.Contents[name]
		n.Relations, n.Functions = maps.Clone(n.Relations), maps.Clone(n.Functions)
		for key, r := range held.Relations {
			if r.Extension != "" {
				n.Relations[key] = r
			}
		}
		for key, f := range held.Functions {
			if f.Extension != "" {
				n.Functions[key] = f
			}
		}
		after.Contents[name] = &n
	}
	d.model = after
	return ""
}

// deepCopy returns a copy that shares no map with the original.
func deepCopy(c *Cluster) *Cluster {
	n := c.Clone()
	for name, held := range c.Contents {
		x := *held
		x.Schemas, x.Relations, x.Functions = copied(held.Schemas), copied(held.Relations), copied(held.Functions)
		x.Extensions, x.Defaults = copied(held.Extensions), slices.Clone(held.Defaults)
		for key, r := range x.Relations {
			r.ColumnACL, r.Policies = maps.Clone(r.ColumnACL), copied(r.Policies)
			x.Relations[key] = r
		}
		n.Contents[name] = &x
	}
	n.Roles, n.Databases = copied(c.Roles), copied(c.Databases)
	return n
}

func copied[K comparable, V any](m map[K]*V) map[K]*V {
	n := map[K]*V{}
	for k, v := range m {
		n[k] = new(*v)
	}
	return n
}

// raw is SQL for the server alone, such as a GRANT by somebody else or a table:
// the model then has to be read anew, or is told by another way.
type raw struct {
	sql   []string
	apply func(*Cluster, string)
}

func (s raw) SQL() string     { return strings.Join(s.sql, "; ") }
func (s raw) Subject() string { return "" }
func (s raw) Alone() bool     { return false }
func (s raw) Apply(c *Cluster, in string) {
	if s.apply != nil {
		s.apply(c, in)
	}
}

// run runs a statement as the executor does.
func (d *drive) run(db string, s Statement) error {
	ctx := context.Background()
	if s.Alone() {
		d.closeAll() // a template must have no sessions
		_, err := d.conn("postgres").Exec(ctx, s.SQL())
		return err
	}
	statements := []string{s.SQL()}
	switch s := s.(type) {
	case raw:
		statements = s.sql
	case Revoke:
		if s.RunAs() != "" {
			statements = []string{"SET LOCAL ROLE " + grantee(s.RunAs()), s.SQL(), "RESET ROLE"}
		}
	}
	tx, err := d.conn(db).Begin(ctx)
	if err != nil {
		return err
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			_ = tx.Rollback(ctx)
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return tx.Commit(ctx)
}

func (d *drive) conn(db string) *pgx.Conn {
	if d.open[db] == nil {
		conn, err := pgx.Connect(context.Background(), d.url(db))
		if err != nil {
			d.t.Fatal(err)
		}
		d.open[db] = conn
		d.must(db, "SET search_path = public") // whatever ALTER ROLE … SET says, as the executor has it
	}
	return d.open[db]
}

func (d *drive) closeAll() {
	for _, conn := range d.open {
		conn.Close(context.Background())
		<-conn.PgConn().CleanupDone()
	}
	clear(d.open)
}

func (d *drive) read(databases ...string) *Cluster {
	c := readCluster(d.t, d.conn("postgres"))
	if d.available == nil {
		d.available = readAvailable(d.t, d.conn("postgres"))
	}
	for _, db := range databases {
		c.Contents[db] = readContents(d.t, d.conn(db))
		c.Contents[db].Available = d.available
	}
	return c
}

func (d *drive) must(db, sql string) {
	if _, err := d.conn(db).Exec(context.Background(), sql); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// report prints what was tried.
func (d *drive) report(seed uint64) {
	objects := map[string]int{"roles": len(d.model.Roles), "memberships": len(d.model.Members), "databases": len(d.model.Databases), "settings": len(d.model.Settings)}
	for _, held := range d.model.Contents {
		objects["schemas"] += len(held.Schemas)
		objects["functions"] += len(held.Functions)
		objects["extensions"] += len(held.Extensions)
		objects["default ACLs"] += len(held.Defaults)
		for _, r := range held.Relations {
			objects["relations of kind "+string(r.Kind)]++
			objects["ACLs"] += len(r.ACL)
			objects["column ACLs"] += len(r.ColumnACL)
			objects["policies"] += len(r.Policies)
		}
	}
	d.t.Logf("PostgreSQL %s, seed %d: model and server were equal after each of %d statements: %s", d.model.Version, seed, d.taken, counts(d.done))
	d.t.Logf("at the end there were %s", counts(objects))
	refused := 0
	for _, n := range d.refused {
		refused += n
	}
	d.t.Logf("the server refused %d", refused)
	if testing.Verbose() {
		for _, why := range sortedKeys(d.refused) {
			d.t.Logf("  %4d  %s", d.refused[why], why)
		}
	}
}

func counts(m map[string]int) string {
	var list []string
	for _, name := range sortedKeys(m) {
		list = append(list, fmt.Sprintf("%s %d", name, m[name]))
	}
	return strings.Join(list, ", ")
}
