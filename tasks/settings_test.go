package tasks

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// mistakes expands the tasks of a fleet with one host that have mistakes.
func mistakes(t *testing.T, tasks string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.toml")
	text := "[fleet]\nname = \"test\"\n[postgres]\nversion = 15\n[hosts.pg01]\naddress = \"10.77.0.11\"\n" + tasks
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet, err := inventory.Load(path, inventory.Options{Kinds: Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	_, errs := Expand(fleet, fleet.Instances(), Options{Local: func(string) ([]byte, error) { return nil, fs.ErrNotExist }})
	var list []string
	for _, e := range errs {
		list = append(list, strings.TrimPrefix(e.Error(), filepath.Dir(path)+"/"))
	}
	return strings.ReplaceAll(strings.Join(list, "\n"), filepath.Dir(path)+"/", "")
}

// mustPlan plans what has to be planned.
func mustPlan(t *testing.T, w world, tasks string) *Plan {
	t.Helper()
	p, err := plan(t, w, tasks)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func warnings(p *Plan) string {
	var list []string
	for _, n := range p.Warnings {
		list = append(list, n.Text)
	}
	return strings.Join(list, "\n")
}

// again carries a plan out in the world, and plans once more.
func (w world) again(t *testing.T, p *Plan, tasks string) *Plan {
	t.Helper()
	w.carryOut(p)
	return mustPlan(t, w, tasks)
}

// carryOut writes the files of a plan, and lets the server load them.
func (w world) carryOut(p *Plan) {
	for _, c := range p.Changes() {
		if a, ok := c.Action.(WriteFile); ok {
			w.write(a)
		}
	}
	w.server(func(s *facts.Server) {
		s.Settings = slices.Clone(s.Settings)
		for i, x := range s.Settings {
			if v, ok := p.After.running[x.Name]; ok {
				s.Settings[i].Setting, s.Settings[i].Source = v, "configuration file"
			}
		}
	})
}

func (w world) write(a WriteFile) {
	f := file(a.Path, a.Content)
	f.Mode = a.Mode
	if asked := (facts.File{Path: a.Path}); w[asked].Value != nil {
		w[asked] = facts.Answer{Value: f}
	}
	for r, answer := range w {
		g, ok := r.(facts.Files)
		if !ok || !globMatches(g.Glob, a.Path) {
			continue
		}
		list := slices.DeleteFunc(slices.Clone(answer.Value.([]facts.FileInfo)), func(x facts.FileInfo) bool { return x.Path == a.Path })
		list = append(list, f)
		slices.SortFunc(list, func(a, b facts.FileInfo) int { return strings.Compare(a.Path, b.Path) })
		w[r] = facts.Answer{Value: list}
	}
}

func (w world) setting(name string, change func(*postgres.Setting)) {
	w.server(func(s *facts.Server) {
		s.Settings = slices.Clone(s.Settings)
		for i := range s.Settings {
			if s.Settings[i].Name == name {
				change(&s.Settings[i])
				return
			}
		}
		x := postgres.Setting{Name: name}
		change(&x)
		s.Settings = append(s.Settings, x)
	})
}

func TestMistakesBeforeAnybodyIsAsked(t *testing.T) {
	for name, c := range map[string]struct{ tasks, want string }{
		"port":            {settings("a", "10-a.conf", `port = 5433`), "fleet.toml:12:14: port: pgfleet looks for this server on port 5432, and would not find it on 5433: change the port on the host by hand, restart, and then say postgres.port = 5433"},
		"the same port":   {settings("a", "10-a.conf", `port = 5432`), ""},
		"no socket":       {settings("a", "10-a.conf", `unix_socket_directories = "/tmp"`), `let it be in the list, such as "/tmp, /var/run/postgresql"`},
		"the socket":      {settings("a", "10-a.conf", `unix_socket_directories = ["/tmp", "/run/postgresql"]`), ""},
		"data_directory":  {settings("a", "10-a.conf", `data_directory = "/data"`), "fleet.toml:12:14: data_directory: where the server's files are"},
		"an include":      {settings("a", "10-a.conf", `include_dir = "x"`), "it is no parameter"},
		"no name":         {settings("a", "10-a.conf", `"work mem" = 1`), `"work mem" is no parameter name`},
		"two values":      {settings("a", "10-a.conf", `work_mem = "8MB"`) + settings("b", "20-b.conf", `WORK_MEM = "4MB"`), `fleet.toml:18:25: WORK_MEM is 4MB here and 8MB at fleet.toml:12:25 (task "a"), and only one can hold`},
		"one value twice": {settings("a", "10-a.conf", `work_mem = "8MB"`) + settings("b", "20-b.conf", `work_mem = "8MB"`), ""},
		"by role": {settings("a", "10-a.conf", `work_mem = "8MB"`) + "on = \"primary\"\n" +
			settings("b", "20-b.conf", `work_mem = "4MB"`) + "on = \"standby\"\n", ""},
		"one fragment":  {settings("a", "10-a.conf", `work_mem = "8MB"`) + settings("b", "10-a.conf", `ssl = true`), `fleet.toml:17:8: file: the task "a" at fleet.toml:8:3 has the fragment 10-a.conf as well`},
		"libraries":     {settings("a", "10-a.conf", `shared_preload_libraries = "x"`) + settings("b", "20-b.conf", `shared_preload_libraries = "y"`), ""},
		"exact":         {settings("a", "10-a.conf", `shared_preload_libraries = "x"`) + settings("b", "20-b.conf", `shared_preload_libraries = "y"`) + "exact = [\"shared_preload_libraries\"]\n", "exact leaves out what fleet.toml:12:41 adds to it"},
		"two hba":       {hba(`"local all postgres peer"`) + strings.Replace(hba(`"local all all peer"`), "who", "me", 1), `the task "who" at fleet.toml:8:3 writes the whole of pg_hba.conf as well`},
		"one of a role": {"\n[[task]]\nname = \"x\"\nkind = \"command\"\nrun = \"true\"\non = \"one\"\nlimit = \"role=standby\"\n", `on = "one" takes the first instance that limit selects`},
		"setuid":        {"\n[[task]]\nname = \"x\"\nkind = \"file\"\npath = \"/x\"\ncontent = \"\"\nmode = \"0000\"\n", "mode: want permissions"},
	} {
		t.Run(name, func(t *testing.T) {
			got := mistakes(t, c.tasks)
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("mistakes %q, want %q in them", got, c.want)
			}
		})
	}
}

// Fragments of several tasks that add to one list settle, in both orders, also
// when the earlier one adds another library later.
func TestPreloadListsOfSeveralTasks(t *testing.T) {
	w := newWorld()
	a := settings("a", "10-a.conf", `shared_preload_libraries = "pgaudit"`)
	b := settings("b", "20-b.conf", `shared_preload_libraries = "pg_stat_statements"`)
	p := mustPlan(t, w, a+b+service)
	if p := w.again(t, p, a+b+service); len(p.Steps) > 0 {
		t.Errorf("still due: %v", intents(p))
	}
	more := settings("a", "10-a.conf", `shared_preload_libraries = "pgaudit, auth_delay"`)
	p = mustPlan(t, w, more+b+service)
	if got := p.After.running["shared_preload_libraries"]; got != "pgaudit, auth_delay, pg_stat_statements" {
		t.Errorf("preloads %q", got)
	}
	if p := w.again(t, p, more+b+service); len(p.Steps) > 0 {
		t.Errorf("still due: %v", intents(p))
	}
}

// A parameter may move from one task to another.
func TestParameterMovesToAnEarlierFragment(t *testing.T) {
	w := newWorld()
	p := mustPlan(t, w, settings("a", "10-a.conf", `ssl = true`)+settings("b", "20-b.conf", `work_mem = "4MB"`))
	moved := settings("a", "10-a.conf", `ssl = true, work_mem = "8MB"`) + settings("b", "20-b.conf", `log_connections = true`)
	p = w.again(t, p, moved)
	if p := w.again(t, p, moved); len(p.Steps) > 0 {
		t.Errorf("still due: %v", intents(p))
	}
}

func TestOldNamesAreTheNewOnes(t *testing.T) {
	w := newWorld()
	w.fragment("99-z.conf", "work_mem = '1MB'\n")
	if _, err := plan(t, w, settings("a", "10-a.conf", `sort_mem = "8MB"`)); err == nil || !strings.Contains(err.Error(), "sort_mem would have no effect: /etc/postgresql/15/main/conf.d/99-z.conf line 1 sets it to 1MB") {
		t.Errorf("error %v", err)
	}
	w = newWorld()
	tasks := settings("a", "10-a.conf", `sort_mem = "8MB"`)
	w.fragment("10-a.conf", mustPlan(t, w, tasks).Steps[0].Changes[0].Action.(WriteFile).Content)
	if d := cmp.Diff([][]string{{"reload: work_mem is 4MB and should be 8MB"}}, intents(mustPlan(t, w, tasks))); d != "" {
		t.Error(d)
	}
}

// What ALTER ROLE ALL sets hides what the server would run with, and is reset.
func TestSettingOfAllRoles(t *testing.T) {
	w := newWorld()
	w.setting("work_mem", func(x *postgres.Setting) { x.Setting, x.Source = "1024", "global" })
	w.server(func(s *facts.Server) { s.Overrides = []facts.Override{{Name: "work_mem", Value: "1MB"}} })
	tasks := settings("a", "10-a.conf", `work_mem = "8MB"`)
	p := mustPlan(t, w, tasks)
	if d := cmp.Diff([]string{"ALTER ROLE ALL RESET work_mem"}, intents(p)[0]); d != "" {
		t.Error(d)
	}
	// The file was written and never loaded, which no value tells.
	a := p.Steps[1].Changes[0].Action.(WriteFile)
	w.fragment("10-a.conf", a.Content)
	w.server(func(s *facts.Server) { s.Overrides = nil })
	if p := mustPlan(t, w, tasks); len(p.Steps) > 0 {
		t.Errorf("still due: %v", intents(p))
	}
	files := w[facts.Files{Glob: conf + "/conf.d/*.conf"}].Value.([]facts.FileInfo)
	files[0].Changed = now
	want := [][]string{{"reload: /etc/postgresql/15/main/conf.d/10-a.conf is newer than what the server has loaded"}}
	if d := cmp.Diff(want, intents(mustPlan(t, w, tasks))); d != "" {
		t.Error(d)
	}
}

// Without include_dir no fragment is read, and what shadows it is there all the
// same.
func TestShadowWhereNothingIsIncluded(t *testing.T) {
	w := newWorld()
	w.write(WriteFile{Path: conf + "/postgresql.conf", Content: "# nothing\n", Mode: 0o644})
	tasks := settings("a", "10-a.conf", `work_mem = "8MB"`)
	p := mustPlan(t, w, tasks)
	if p := w.again(t, p, tasks); len(p.Steps) > 0 {
		t.Errorf("still due: %v", intents(p))
	}
	w = newWorld()
	w.write(WriteFile{Path: conf + "/postgresql.conf", Content: "# nothing\n", Mode: 0o644})
	auto := "/var/lib/postgresql/15/main/postgresql.auto.conf"
	w[facts.File{Path: auto}] = facts.Answer{Value: file(auto, "work_mem = '1MB'\n")}
	p = mustPlan(t, w, tasks)
	if got := intents(p); !strings.Contains(fmt.Sprint(got), "ALTER SYSTEM RESET work_mem (it was 1MB)") {
		t.Errorf("planned %v", got)
	}
}

func TestAddressesThatAreNotBound(t *testing.T) {
	for _, c := range []struct{ listen, sockets, want string }{
		{"localhost, 10.77.0.11", "127.0.0.1:5432", "10.77.0.11"},
		{"localhost, 10.77.0.11", "[::1]:5432 10.77.0.11:5432", ""},
		{"localhost, 10.77.0.11", "0.0.0.0:5432", ""},
		{"*", "[::]:5432", ""},
		{"*", "0.0.0.0:5433", "*"},
		{"0.0.0.0, ::", "0.0.0.0:5432", "::"},
		{"db.example.com", "", ""},
	} {
		w := newWorld()
		w.setting("listen_addresses", func(x *postgres.Setting) { x.Setting, x.Source = c.listen, "configuration file" })
		var sockets []netip.AddrPort
		for _, s := range strings.Fields(c.sockets) {
			sockets = append(sockets, netip.MustParseAddrPort(s))
		}
		w[facts.Sockets{}] = facts.Answer{Value: sockets}
		tasks := settings("a", "10-a.conf", `listen_addresses = "`+c.listen+`"`)
		w.fragment("10-a.conf", mustPlan(t, w, tasks).Steps[0].Changes[0].Action.(WriteFile).Content)
		want := ""
		if c.want != "" {
			want = "the server does not listen on " + c.want + ", port 5432, though"
		}
		if got := warnings(mustPlan(t, w, tasks)); want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%s on %s: warnings %q, want %q", c.listen, c.sockets, got, want)
		}
	}
}

func TestServerThatIsDownAndStaysSo(t *testing.T) {
	w := newWorld()
	w[facts.Postgres{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.Server{Problem: "connection refused"}}
	tasks := settings("a", "10-a.conf", `work_mem = "8MB"`) + hba(`"local all postgres peer"`)
	if got, want := warnings(mustPlan(t, w, tasks)), `the server does not answer (connection refused), and no task of kind "service" starts it: what is written waits until it runs`; got != want {
		t.Errorf("warnings %q", got)
	}
	if got := warnings(mustPlan(t, w, tasks+service)); got != "" {
		t.Errorf("warnings %q", got)
	}
}

func TestModesOfFiles(t *testing.T) {
	w := newWorld()
	w[facts.File{Path: "/opt/x"}] = facts.Answer{Value: facts.FileInfo{Path: "/opt/x"}}
	w[facts.File{Path: "/opt"}] = facts.Answer{Value: facts.FileInfo{Path: "/opt", Exists: true, Dir: true}}
	p := mustPlan(t, w, "\n[[task]]\nname = \"x\"\nkind = \"file\"\npath = \"/opt/x\"\ncontent = \"x\"\nmode = \"4755\"\n")
	c := p.Steps[0].Changes[0]
	if got := c.Action.(WriteFile).Mode; got != 0o755|fs.ModeSetuid || c.Intent != "create /opt/x (root:root 4755)" {
		t.Errorf("mode %v, %s", got, c.Intent)
	}
}

// A file mode's default is shown in decimal, and the value that runs in octal.
func TestFileModesAreOctal(t *testing.T) {
	w := newWorld()
	w.setting("unix_socket_permissions", func(x *postgres.Setting) {
		*x = postgres.Setting{Name: x.Name, Setting: "0700", BootVal: "511", MinVal: "0", MaxVal: "511", VarType: "integer", Context: "postmaster", Source: "configuration file"}
	})
	if got, want := warnings(mustPlan(t, w, settings("a", "10-a.conf", `work_mem = "4MB"`))), "unix_socket_permissions is 0700 and should be 0777;"; !strings.HasPrefix(got, want) {
		t.Errorf("warnings %q", got)
	}
}

// An adopted fragment that the server cannot read is not fine.
func TestAdoptedFileThatCannotBeRead(t *testing.T) {
	w := newWorld()
	w.fragment("10-a.conf", "work_mem = 4MB # ours\n")
	tasks := settings("a", "10-a.conf", `work_mem = "4MB"`)
	if p := mustPlan(t, w, tasks); len(p.Steps) > 0 {
		t.Errorf("due: %v", intents(p))
	}
	f := &w[facts.Files{Glob: conf + "/conf.d/*.conf"}].Value.([]facts.FileInfo)[0]
	f.Owner, f.Group, f.Mode = "root", "root", 0o600
	p := mustPlan(t, w, tasks)
	c := p.Steps[0].Changes[0]
	if c.Intent != "change /etc/postgresql/15/main/conf.d/10-a.conf (owner root:root becomes postgres:postgres)" || !strings.Contains(c.Action.(WriteFile).Content, "# ours") {
		t.Errorf("%s:\n%s", c.Intent, c.Action.(WriteFile).Content)
	}
}
