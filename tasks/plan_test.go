package tasks

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// world is what a test's host answers; every question that a task asks has to be
// in it.
type world map[facts.Read]facts.Answer

var (
	longAgo = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	loaded  = longAgo.Add(time.Hour)
	now     = longAgo.Add(2 * time.Hour)
)

const conf = "/etc/postgresql/15/main"

func file(path, content string) facts.FileInfo {
	return facts.FileInfo{
		Path: path, Resolved: path, Exists: true, Regular: true, Content: []byte(content),
		Owner: "postgres", Group: "postgres", Mode: 0o640, Changed: longAgo, Size: int64(len(content)),
	}
}

// newWorld is a fresh Debian cluster.
func newWorld() world {
	setting := func(name, value, context, vartype, source string, enum ...string) postgres.Setting {
		return postgres.Setting{Name: name, Setting: value, BootVal: value, ResetVal: value, Context: context, VarType: vartype, Source: source, EnumVals: enum}
	}
	integer := func(name, value, unit, context, minimum, maximum string) postgres.Setting {
		s := setting(name, value, context, "integer", "default")
		s.Unit, s.MinVal, s.MaxVal = unit, minimum, maximum
		return s
	}
	w := world{}
	w[facts.OS{}] = facts.Answer{Value: facts.OSInfo{ID: "debian", Version: "12", Hostname: "pg01", Clock: now}}
	w[facts.Postgres{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.Server{
		Reached: true, Version: 150018, Started: longAgo, Loaded: loaded, Clock: now,
		DataDirectory: "/var/lib/postgresql/15/main", ConfigFile: conf + "/postgresql.conf",
		HBAFile: conf + "/pg_hba.conf", IdentFile: conf + "/pg_ident.conf",
		Settings: []postgres.Setting{
			setting("listen_addresses", "localhost", "postmaster", "string", "default"),
			setting("log_connections", "off", "superuser-backend", "bool", "default"),
			setting("shared_preload_libraries", "", "postmaster", "string", "default"),
			setting("ssl", "off", "sighup", "bool", "default"),
			setting("wal_level", "replica", "postmaster", "enum", "default", "minimal", "replica", "logical"),
			integer("work_mem", "4096", "kB", "user", "64", "2147483647"),
			integer("max_connections", "100", "", "postmaster", "1", "262143"),
		},
	}}
	w[facts.Unit{Name: "postgresql@15-main"}] = facts.Answer{Value: facts.UnitInfo{
		Name: "postgresql@15-main", LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled-runtime", ActiveEnter: longAgo}}
	w[facts.Sockets{}] = facts.Answer{Value: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5432")}}
	owned := "/var/lib/pgfleet/postgresql@15-main.files"
	w[facts.File{Path: owned}] = facts.Answer{Value: facts.FileInfo{Path: owned}}
	w[facts.File{Path: "/var/lib/postgresql/15/main/postgresql.auto.conf"}] = facts.Answer{Value: file("/var/lib/postgresql/15/main/postgresql.auto.conf", "# Do not edit\n")}
	w[facts.Files{Glob: conf + "/*.conf"}] = facts.Answer{Value: []facts.FileInfo{
		file(conf+"/pg_hba.conf", "local all all peer\n"),
		file(conf+"/pg_ident.conf", ""),
		file(conf+"/postgresql.conf", "data_directory = '/var/lib/postgresql/15/main'\ninclude_dir = 'conf.d'\n"),
	}}
	w[facts.Files{Glob: conf + "/conf.d/*.conf"}] = facts.Answer{Value: []facts.FileInfo(nil)}
	w[facts.Libraries{Version: 15}] = facts.Answer{Value: []string{"auth_delay", "pg_stat_statements", "pgaudit"}}
	return w
}

func (w world) server(change func(*facts.Server)) {
	q := facts.Postgres{Port: 5432, SocketDir: socketDir}
	s := w[q].Value.(facts.Server)
	change(&s)
	w[q] = facts.Answer{Value: s}
}

func (w world) fragment(name, content string) {
	g := facts.Files{Glob: conf + "/conf.d/*.conf"}
	f := file(conf+"/conf.d/"+name, content)
	f.Mode = 0o644
	w[g] = facts.Answer{Value: append(w[g].Value.([]facts.FileInfo), f)}
}

// writeFleet writes the fleet.toml of a fleet with one host, and returns its path.
func writeFleet(t *testing.T, tasks string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.toml")
	text := "[fleet]\nname = \"test\"\n[postgres]\nversion = 15\n[hosts.pg01]\naddress = \"10.77.0.11\"\n" + tasks
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load expands the tasks of a fleet with one host.
func load(t *testing.T, tasks string) (inventory.Instance, []*Bound) {
	t.Helper()
	fleet := loadFleet(t, tasks)
	in := fleet.Instances()[0]
	bound, errs := Expand(fleet, fleet.Instances(), Options{Local: func(string) ([]byte, error) { return nil, fs.ErrNotExist }})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return in, bound[in.ID()]
}

func plan(t *testing.T, w world, tasks string) (*Plan, error) {
	t.Helper()
	in, bound := load(t, tasks)
	return PlanInstance(in, NewState(in, w, nil), bound)
}

// intents lists a plan's steps, each with its changes.
func intents(p *Plan) [][]string {
	var all [][]string
	for _, s := range p.Steps {
		var step []string
		for _, c := range s.Changes {
			step = append(step, c.Intent)
		}
		all = append(all, step)
	}
	return all
}

const service = "\n[[task]]\nname = \"run\"\nkind = \"service\"\n"

func settings(name, file, values string) string {
	return "\n[[task]]\nname = \"" + name + "\"\nkind = \"settings\"\nfile = \"" + file + "\"\nsettings = { " + values + " }\n"
}

func hba(rules string) string {
	return "\n[[task]]\nname = \"who\"\nkind = \"hba\"\nrules = [" + rules + "]\n"
}

func TestFilesOfOneReloadAreOneStep(t *testing.T) {
	p, err := plan(t, newWorld(), settings("a", "10-a.conf", `work_mem = "8MB"`)+hba(`"local all postgres peer"`))
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{
		"create /etc/postgresql/15/main/conf.d/10-a.conf (postgres:postgres 0644)",
		"change /etc/postgresql/15/main/pg_hba.conf",
		"reload: its files change",
	}}
	if d := cmp.Diff(want, intents(p)); d != "" {
		t.Error(d)
	}
}

func TestRestartTakesThePlaceOfReload(t *testing.T) {
	p, err := plan(t, newWorld(), settings("a", "10-a.conf", `listen_addresses = "localhost, 10.77.0.11"`)+service)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{
		"create /etc/postgresql/15/main/conf.d/10-a.conf (postgres:postgres 0644)",
		"restart: listen_addresses is localhost and should be localhost, 10.77.0.11",
	}}
	if d := cmp.Diff(want, intents(p)); d != "" {
		t.Error(d)
	}
}

func TestRestartOwedWithoutServiceIsSaid(t *testing.T) {
	p, err := plan(t, newWorld(), settings("a", "10-a.conf", `max_connections = 200`))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0].Text, "max_connections is 100 and should be 200; only a restart applies it") {
		t.Errorf("warnings: %v", p.Warnings)
	}
}

func TestReloadIsOwedAfterACrash(t *testing.T) {
	w := newWorld()
	in, bound := load(t, settings("a", "10-a.conf", `log_connections = true`))
	first, err := PlanInstance(in, NewState(in, w, nil), bound)
	if err != nil {
		t.Fatal(err)
	}
	// The file was written, and then the run was killed.
	w.fragment("10-a.conf", first.Steps[0].Changes[0].Action.(WriteFile).Content)
	p, err := PlanInstance(in, NewState(in, w, nil), bound)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([][]string{{"reload: log_connections is off and should be on"}}, intents(p)); d != "" {
		t.Error(d)
	}
}

// What a plan foresees is what the next plan finds: nothing is left to do.
func TestForeseenStateNeedsNothing(t *testing.T) {
	w := newWorld()
	in, bound := load(t,
		settings("a", "10-a.conf", `listen_addresses = "localhost", work_mem = "8MB", log_connections = true`)+
			hba(`"local all postgres peer", "hostssl app app 10.78.0.0/24 scram-sha-256"`)+
			settings("b", "20-b.conf", `shared_preload_libraries = ["pgaudit"], pgaudit.log = "ddl, role"`)+service)
	s := NewState(in, w, nil)
	p, err := PlanInstance(in, s, bound)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Steps) != 1 {
		t.Fatalf("steps: %v", intents(p))
	}
	for _, c := range p.Steps[0].Changes {
		s = s.Foresee(c)
	}
	again, err := PlanInstance(in, s, bound)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Steps) > 0 {
		t.Errorf("still due: %v", intents(again))
	}
}

func TestPreloadListsAreMerged(t *testing.T) {
	w := newWorld()
	w.fragment("05-theirs.conf", "shared_preload_libraries = 'pg_stat_statements'\n")
	p, err := plan(t, w, settings("a", "10-a.conf", `shared_preload_libraries = "pgaudit"`))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Steps[0].Changes[0].Action.(WriteFile).Content; !strings.Contains(got, "'pg_stat_statements, pgaudit'") {
		t.Errorf("fragment:\n%s", got)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		tasks string
		world func(world)
		want  string
	}{
		"a later release's parameter": {tasks: settings("a", "10-a.conf", `ssl_groups = "X25519"`), want: "ssl_groups"},
		"a parameter of no release":   {tasks: settings("a", "10-a.conf", `log_failed_attempts = true`), want: "unrecognized configuration parameter"},
		"a value":                     {tasks: settings("a", "10-a.conf", `work_mem = "lots"`), want: `fleet.toml:12:25: invalid value for parameter "work_mem": "lots"`},
		"a library":                   {tasks: settings("a", "10-a.conf", `shared_preload_libraries = "pgaudti"`), want: `no library "pgaudti", and would not start (did you mean "pgaudit"?)`},
		"libraries of ALTER SYSTEM": {
			tasks: settings("a", "10-a.conf", `shared_preload_libraries = "pgaudit"`), want: "run ALTER SYSTEM RESET shared_preload_libraries",
			world: func(w world) {
				p := "/var/lib/postgresql/15/main/postgresql.auto.conf"
				w[facts.File{Path: p}] = facts.Answer{Value: file(p, "shared_preload_libraries = 'pg_stat_statements'\n")}
			},
		},
		"shadowed by a later fragment": {
			tasks: settings("a", "10-a.conf", `work_mem = "8MB"`), want: "99-z.conf line 1 sets it to 1MB and is read later",
			world: func(w world) { w.fragment("99-z.conf", "work_mem = '1MB'\n") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			if c.world != nil {
				c.world(w)
			}
			_, err := plan(t, w, c.tasks)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			var te *TaskError
			if !errors.As(err, &te) {
				t.Errorf("no TaskError: %v", err)
			}
		})
	}
}
