package rollout

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// A bench is a PostgreSQL from the machine's own binaries, behind an SSH server
// inside the test process; or a host of the lab.
type bench struct {
	t       *testing.T
	dir     string // of the socket
	port    int
	admin   *pgx.Conn
	log     func() string
	run     *Run
	in      inventory.Instance
	mu      sync.Mutex
	events  []string
	secrets map[secrets.Ref]secrets.Secret
}

// newBench starts a server for the test, with more lines of postgresql.conf.
func newBench(t *testing.T, conf string) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a server")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the host's side is Linux")
	}
	b := &bench{t: t}
	b.startServer(conf)
	ssh := sshtest.New(t, sshtest.Options{})
	t.Setenv("SSH_AUTH_SOCK", "")
	b.dial(map[string]transport.Target{"pg01": {
		Name: "pg01", Address: ssh.Host, Port: ssh.Port, User: ssh.User, Identity: ssh.Identity, KnownHosts: ssh.Known,
	}})
	b.run.Locking.Dir = b.dir + "/pgfleet"
	return b
}

// dial makes the run and its fleet, of hosts that are all of one version and one
// replication cluster.
func (b *bench) dial(hosts map[string]transport.Target) {
	t := b.t
	t.Helper()
	text := fmt.Sprintf("[fleet]\nname = \"test\"\n[postgres]\nversion = 15\nport = %d\n", b.port)
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		text += "[hosts." + name + "]\nreplication = \"orders\"\n"
	}
	fleet, err := inventory.Load("fleet.toml", inventory.Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(text)}}})
	if err != nil {
		t.Fatal(err)
	}
	d := &transport.Dialer{SSHConfig: filepath.Join(t.TempDir(), "none")}
	t.Cleanup(func() { d.Close() })
	b.in, b.secrets = fleet.Instances()[0], map[secrets.Ref]secrets.Secret{}
	b.run = &Run{Fleet: fleet, Observer: b, Resolver: b, Connector: dialTo{d, hosts}}
	t.Cleanup(b.run.Close)
}

// A dialTo dials hosts by their names.
type dialTo struct {
	dialer *transport.Dialer
	hosts  map[string]transport.Target
}

func (d dialTo) Dial(ctx context.Context, h *inventory.Host) (transport.Conn, error) {
	return d.dialer.Dial(ctx, d.hosts[h.Name])
}

// Resolve implements Resolver.
func (b *bench) Resolve(_ context.Context, ref secrets.Ref) (secrets.Secret, string, error) {
	return b.secrets[ref], "1", nil
}

// Observe implements Observer.
func (b *bench) Observe(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := map[EventKind]string{StepStarted: "started", StepDone: "done", StepFailed: "failed", Waiting: "waiting", InstanceDone: "end"}
	if name := names[e.Kind]; name != "" {
		b.events = append(b.events, fmt.Sprintf("%s %d", name, e.Step))
	}
}

func (b *bench) startServer(conf string) {
	t := b.t
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("no PostgreSQL binaries on this machine")
		}
		t.Skip("no PostgreSQL binaries on this machine")
	}
	bin := filepath.Dir(found[len(found)-1])
	dir, err := os.MkdirTemp("", "pg") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // PostgreSQL refuses root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.SysProcAttr, cmd.Dir, cmd.Env = attr, dir, []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.dir, b.port = dir, l.Addr().(*net.TCPAddr).Port
	l.Close()
	f, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "port = %d\nunix_socket_directories = '%s'\nlisten_addresses = ''\nfsync = off\nshared_buffers = 16MB\n%s\n", b.port, dir, conf)
	f.Close()
	b.log = func() string {
		text, err := os.ReadFile(filepath.Join(dir, "log"))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server := command("postgres", "-D", data)
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
	})
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if b.admin, err = b.connect("postgres"); err == nil {
			t.Cleanup(func() { b.admin.Close(context.Background()) })
			return
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("PostgreSQL does not start: %v\n%s", err, b.log())
		}
	}
}

// connect opens a session past pgfleet.
func (b *bench) connect(database string) (*pgx.Conn, error) {
	return pgx.Connect(context.Background(), fmt.Sprintf("host=%s port=%d user=postgres dbname='%s' application_name=test", b.dir, b.port, database))
}

// sql runs statements past pgfleet, and returns the first value.
func (b *bench) sql(query string) string {
	b.t.Helper()
	results, err := b.admin.PgConn().Exec(context.Background(), query).ReadAll()
	if err != nil {
		b.t.Fatalf("%s: %v", query, err)
	}
	for _, r := range results {
		if len(r.Rows) > 0 && len(r.Rows[0]) > 0 {
			return string(r.Rows[0][0])
		}
	}
	return ""
}

func (b *bench) server() tasks.Server { return tasks.Server{Port: b.port, SocketDir: b.dir} }

// A line is a statement that a list asks for.
type line struct {
	sql      string
	database string // "postgres" by default
	done     string // a query in database postgres that is true when it need not run any more; "" for never
	alone    bool
	as       string
	st       catalog.Statement // in the place of sql
}

func (l line) SQL() string {
	if l.st != nil {
		return l.st.SQL()
	}
	return l.sql
}
func (l line) Subject() string                { return "subject" }
func (l line) Alone() bool                    { return l.alone }
func (l line) RunAs() string                  { return l.as }
func (l line) Apply(*catalog.Cluster, string) {}

// A list is a task that is due as long as its queries say so. Unlike a real kind
// it asks the server while it plans, past pgfleet.
type list struct {
	b          *bench
	lines      []line
	replicated bool
	unknown    string
}

func (l *list) Check(inventory.Instance) inventory.Errors           { return nil }
func (l *list) Reads(inventory.Instance, *tasks.State) []facts.Read { return nil }
func (l *list) Plan(inventory.Instance, *tasks.State) (tasks.Outcome, error) {
	var out tasks.Outcome
	if l.unknown != "" {
		return tasks.Outcome{Unknown: []string{l.unknown}, Changes: []tasks.Change{{Key: "later:list", Action: tasks.Replan{}}}}, nil
	}
	for _, x := range l.lines {
		if x.database == "" {
			x.database = "postgres"
		}
		if x.done != "" && l.b.sql(x.done) == "t" {
			continue
		}
		var st catalog.Statement = x
		if x.st != nil {
			st = x.st
		}
		c := tasks.Change{Key: "sql:" + x.database + ":" + x.SQL(), Intent: x.SQL(), Action: tasks.Execute{Server: l.b.server(), Database: x.database, Statement: st}}
		if !x.alone {
			c.Part = "sql " + x.database + " list"
		}
		if l.replicated {
			c.Action = tasks.Replicated{Server: l.b.server(), From: "pg09", Database: x.database, Statement: st}
		}
		out.Changes = append(out.Changes, c)
	}
	return out, nil
}

// bound is a list as a task.
func (b *bench) bound(l *list) *tasks.Bound {
	l.b = b
	return &tasks.Bound{Name: "list", Instance: b.in, Selected: true, Task: l}
}

// plan is what the task comes to now.
func (b *bench) plan(task *tasks.Bound) *tasks.Plan {
	b.t.Helper()
	out, err := task.Task.Plan(b.in, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	p := &tasks.Plan{Instance: b.in}
	for _, part := range partsOf(out.Changes) {
		p.Steps = append(p.Steps, tasks.Step{Tasks: []*tasks.Bound{task}, Changes: part})
	}
	return p
}

func (b *bench) apply(ctx context.Context, p *tasks.Plan) Result {
	b.t.Helper()
	b.events = nil
	results, _ := b.run.Apply(ctx, make(chan struct{}), []Known{{Instance: b.in, Plan: p}})
	return results[0]
}

// lists plans and applies statements.
func (b *bench) applyLines(lines ...line) Result {
	b.t.Helper()
	return b.apply(context.Background(), b.plan(b.bound(&list{lines: lines})))
}

// wantError demands a result that failed with all of these words.
func wantError(t *testing.T, r Result, status Status, words ...string) {
	t.Helper()
	if r.Status != status || r.Err == nil {
		t.Fatalf("%s, %v; want %s", r.Status, r.Err, status)
	}
	for _, w := range words {
		if !strings.Contains(r.Err.Error(), w) {
			t.Errorf("no %q in the error: %v", w, r.Err)
		}
	}
}
