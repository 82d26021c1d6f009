package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/transport"
)

// A fakeHost stands for a host with two databases, whose programs do nothing but write. It refuses what it does not know.
type fakeHost struct {
	transport.Conn // nil: everything else is refused by a panic
	dump           func(w io.Writer) (transport.Output, error)
	rest           string // what psql prints behind the snapshot
}

func (f *fakeHost) Run(_ context.Context, c transport.Command) (transport.Output, error) {
	if c.User != "pgfleet_backup" || !strings.Contains(c.Script, "/bin/pg_dump --version") || !strings.Contains(c.Script, "psql -XAtqw") {
		return transport.Output{}, fmt.Errorf("unknown: %s", c.Script)
	}
	return transport.Output{Stdout: []byte("pg_dump (PostgreSQL) 17.5\n\n" + `{"server_version":"17.5","major":17,"role":"primary","system_identifier":"7","lsn":"0/1","timeline":1,"databases":[{"name":"a","owner":"o","encoding":"UTF8"},{"name":"scratch"}]}` + "\n")}, nil
}

func (f *fakeHost) Pipe(ctx context.Context, c transport.Command, stdin io.Reader, stdout io.Writer) (transport.Output, error) {
	switch {
	case c.User != "pgfleet_backup":
	case strings.Contains(c.Script, "pg_dumpall' -w -g -l postgres"), strings.Contains(c.Script, "pg_dumpall -w -g -l postgres"):
		_, err := io.WriteString(stdout, "CREATE ROLE app;\n")
		return transport.Output{}, err
	case strings.Contains(c.Script, "--snapshot=00000003-1"):
		return f.dump(stdout)
	case strings.Contains(c.Script, "psql -XAtqw"):
		var asked bytes.Buffer
		said := false
		buf := make([]byte, 4096)
		for {
			n, err := stdin.Read(buf)
			asked.Write(buf[:n])
			if !said && strings.Contains(asked.String(), "pg_export_snapshot") {
				said = true
				_, _ = io.WriteString(stdout, `{"relation":"s","kind":"sequence","last_value":1}`+"\nsnapshot 00000003-1\n")
			}
			if err == io.EOF {
				_, err := io.WriteString(stdout, f.rest)
				return transport.Output{}, err
			}
			if err != nil {
				return transport.Output{}, err
			}
		}
	}
	return transport.Output{}, fmt.Errorf("unknown: %s", c.Script)
}

// A memory target keeps small objects, and of larger ones the size.
type memory struct {
	mu   sync.Mutex
	all  map[string][]byte
	size map[string]int64
	fail string // the suffix of a name that cannot be put
}

func (m *memory) Put(_ context.Context, name string, r io.Reader) (int64, string, error) {
	if m.fail != "" && strings.HasSuffix(name, m.fail) {
		_, _ = io.CopyN(io.Discard, r, 100)
		return 0, "", errors.New("no space left")
	}
	var kept bytes.Buffer
	n, err := io.Copy(&kept, io.LimitReader(r, 1<<20))
	if err == nil {
		var more int64
		more, err = io.Copy(io.Discard, r)
		n += more
	}
	if err != nil {
		return 0, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all[name], m.size[name] = kept.Bytes(), n
	return n, strings.Repeat("0", 64), nil
}

func (m *memory) Get(_ context.Context, name string, w io.Writer) error {
	text, ok := m.all[name]
	if !ok {
		return fs.ErrNotExist
	}
	_, err := w.Write(text)
	return err
}

func (m *memory) List(_ context.Context, folder string) ([]Object, error) {
	var all []Object
	for name, n := range m.size {
		if folder != "" && !strings.HasPrefix(name, folder+"/") {
			continue
		}
		all = append(all, Object{Name: name, Bytes: n})
	}
	return all, nil
}

func (m *memory) Remove(_ context.Context, names ...string) error {
	for _, n := range names {
		delete(m.all, n)
		delete(m.size, n)
	}
	return nil
}

func (m *memory) String() string { return "memory" }

func testOperator(t *testing.T, host *fakeHost) (*Operator, *memory, age.Identity) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	target := &memory{all: map[string][]byte{}, size: map[string]int64{}}
	return &Operator{
		Conn: host, Target: target, Backup: "nightly", Instance: "pg01", Role: "pgfleet_backup", SocketDir: "/run/postgresql", Port: 5432, BinDir: "/bin",
		Check: "rows", Means: func(name string) bool { return name == "a" }, Written: []string{identity.Recipient().String()}, Recipients: []age.Recipient{identity.Recipient()},
		Now: time.Now, Bytes: &atomic.Int64{},
	}, target, identity
}

func (o *Operator) runAll(t *testing.T) (string, *Manifest, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server, err := o.Ask(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return o.Run(ctx, server)
}

const table = `{"relation":"public.t","kind":"table","rows":3,"sum":"5"}` + "\n"

func TestOperator(t *testing.T) {
	dump := func(w io.Writer) (transport.Output, error) {
		_, err := io.WriteString(w, "PGDMP")
		return transport.Output{}, err
	}
	o, target, identity := testOperator(t, &fakeHost{dump: dump, rest: table})
	id, m, err := o.runAll(t)
	if err != nil {
		t.Fatal(err)
	}
	sets, err := ReadSets(t.Context(), target, "")
	if err != nil || len(sets) != 1 {
		t.Fatalf("%v, %v", sets, err)
	}
	if state, why := sets[0].State(time.Now(), false); state != Good {
		t.Errorf("the set is %s: %s", state, why)
	}
	if !slices.Equal(m.Databases(), []string{"a"}) || sets[0].ID != id {
		t.Errorf("%+v", m)
	}
	for name, want := range map[string]string{"globals.sql.age": "CREATE ROLE app;\n", "a.dump.age": "PGDMP", "a.checks.age": `{"relation":"s","kind":"sequence","last_value":1}` + "\n" + table} {
		plain, err := age.Decrypt(bytes.NewReader(target.all[sets[0].Folder()+"/"+name]), identity)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text, err := io.ReadAll(plain); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if o.Bytes.Load() == 0 {
		t.Error("no bytes were counted")
	}
	// Another in the same second is another set, and the first one goes where one is kept.
	if again, _, err := o.runAll(t); err != nil || again == id {
		t.Errorf("the second set is %s, %v", again, err)
	}
	if gone, err := o.Prune(t.Context(), 1); err != nil || !slices.Equal(gone, []string{"nightly/pg01/" + id}) || len(target.all) != 4 {
		t.Errorf("removed are %q, %v", gone, err)
	}
}

// A dump that has waited in vain for a lock is made once more, and not a third time.
func TestOperatorWaits(t *testing.T) {
	for times, want := range map[int]string{1: "", 2: "database a: pg_dump: exit status 1: pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout"} {
		dumps := 0
		o, _, _ := testOperator(t, &fakeHost{rest: table, dump: func(w io.Writer) (transport.Output, error) {
			if dumps++; dumps <= times {
				return transport.Output{ExitCode: 1, Stderr: []byte("pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout\n")}, nil
			}
			_, err := io.WriteString(w, "PGDMP")
			return transport.Output{}, err
		}})
		_, m, err := o.runAll(t)
		if want == "" && (err != nil || len(m.Files) != 3) || want != "" && (err == nil || err.Error() != want) || dumps != 2 {
			t.Errorf("%d times: %d dumps, %v, %+v", times, dumps, err, m)
		}
	}
}

func TestOperatorFails(t *testing.T) {
	good := func(w io.Writer) (transport.Output, error) {
		_, err := w.Write(make([]byte, 1<<20))
		return transport.Output{}, err
	}
	tests := []struct {
		name string
		dump func(io.Writer) (transport.Output, error)
		rest string
		fail string
		want string
	}{
		{"pg_dump", func(w io.Writer) (transport.Output, error) {
			_, _ = io.WriteString(w, "half")
			return transport.Output{ExitCode: 1, Stderr: []byte("pg_dump: error: lock timeout\n")}, nil
		}, table, "", "database a: pg_dump: exit status 1: pg_dump: error: lock timeout"},
		{"pg_dump is killed", func(io.Writer) (transport.Output, error) { return transport.Output{ExitCode: 137}, nil }, table, "", "database a: pg_dump: killed by signal 9"},
		{"the connection", func(io.Writer) (transport.Output, error) { return transport.Output{}, errors.New("no answer for 30s") }, table, "", "database a: no answer for 30s"},
		{"the target", good, table, "a.dump.age", "database a: no space left"},
		{"the target of checks", good, table, "a.checks.age", "database a: checks: no space left"},
		{"the target of the manifest", good, table, ManifestName, "manifest.json: no space left"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o, target, _ := testOperator(t, &fakeHost{dump: test.dump, rest: test.rest})
			target.fail = test.fail
			id, _, err := o.runAll(t)
			if err == nil || err.Error() != test.want {
				t.Errorf("%v, want %s", err, test.want)
			}
			sets, err := ReadSets(t.Context(), target, "")
			if err != nil || len(sets) != 1 || sets[0].ID != id || len(sets[0].Objects) != 1 {
				t.Fatalf("%+v, %v", sets, err)
			}
			if state, why := sets[0].State(time.Now(), false); state != Failing || why != test.want {
				t.Errorf("the set is %s: %s", state, why)
			}
		})
	}
}

// TestOperatorMemory dumps much more than may be kept.
func TestOperatorMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("encrypts gigabytes")
	}
	const size = 2 << 30
	o, _, _ := testOperator(t, &fakeHost{rest: table, dump: func(w io.Writer) (transport.Output, error) {
		b := make([]byte, 32<<10)
		for n := 0; n < size; n += len(b) {
			if _, err := w.Write(b); err != nil {
				return transport.Output{}, err
			}
		}
		return transport.Output{}, nil
	}})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, m, err := o.runAll(t)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if f, _ := m.File("a.dump.age"); f.Bytes < size {
		t.Errorf("%d bytes were put", f.Bytes)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%d bytes were allocated for them", grown)
	}
}
