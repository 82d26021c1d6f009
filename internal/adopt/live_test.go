package adopt

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

const confDir = "/etc/postgresql/15/main"

// A live is a server's facts, made by hand.
type live struct {
	files    map[string]string // by path
	settings []postgres.Setting
	server   facts.Server
	packages []string
	cluster  *catalog.Cluster // with the contents of its databases
}

func newLive() *live {
	return &live{
		files: map[string]string{
			confDir + "/postgresql.conf": "listen_addresses = '*' # all\nwork_mem = 8MB\nport = 5432\ninclude_dir = 'conf.d'\n",
			confDir + "/pg_hba.conf":     "# ours\nlocal all postgres peer\nhost  app  app 10.0.8.0/24  md5 # since 2019\n",
			confDir + "/pg_ident.conf":   "# none\n",
		},
		settings: []postgres.Setting{
			{Name: "listen_addresses", Setting: "*", Context: "postmaster", VarType: "string", Source: "configuration file", BootVal: "localhost", ResetVal: "*"},
			{Name: "work_mem", Setting: "8192", Unit: "kB", Context: "user", VarType: "integer", Source: "configuration file", MinVal: "64", MaxVal: "2147483647", BootVal: "4096", ResetVal: "8192"},
			{Name: "port", Setting: "5432", Context: "postmaster", VarType: "integer", Source: "configuration file", MinVal: "1", MaxVal: "65535", BootVal: "5432", ResetVal: "5432"},
			{Name: "ssl", Setting: "off", Context: "sighup", VarType: "bool", Source: "default", BootVal: "off", ResetVal: "off"},
			{Name: "log_connections", Setting: "off", Context: "superuser-backend", VarType: "bool", Source: "default", BootVal: "off", ResetVal: "off"},
			{Name: "shared_preload_libraries", Context: "postmaster", VarType: "string", Source: "default"},
			{Name: "primary_conninfo", Context: "sighup", VarType: "string", Source: "default"},
		},
		server: facts.Server{
			Reached: true, Version: 150020, ConfigFile: confDir + "/postgresql.conf", HBAFile: confDir + "/pg_hba.conf",
			IdentFile: confDir + "/pg_ident.conf", DataDirectory: "/var/lib/postgresql/15/main", Loaded: time.Unix(2000, 0),
		},
		packages: []string{"postgresql-15"},
		cluster:  newCluster(),
	}
}

// running returns the settings of a server that has loaded its files.
func (l *live) running() []postgres.Setting {
	read := func(p string) (string, bool) { text, ok := l.files[p]; return text, ok }
	glob := func(dir string) []string {
		var names []string
		for _, p := range slices.Sorted(maps.Keys(l.files)) {
			if path.Dir(p) == dir {
				names = append(names, path.Base(p))
			}
		}
		return names
	}
	effective, _ := postgres.Effective(l.server.ConfigFile, read, glob, l.server.DataDirectory+"/postgresql.auto.conf")
	settings := slices.Clone(l.settings)
	for i, x := range settings {
		for _, e := range effective {
			if !strings.EqualFold(e.Name, x.Name) {
				continue
			}
			if value, err := x.Normalize(e.Value); err == nil {
				settings[i].Setting, settings[i].ResetVal, settings[i].Source = value, value, "configuration file"
			}
		}
	}
	return settings
}

// answer is what the host would say.
func (l *live) answer(r facts.Read) facts.Answer {
	file := func(p string) facts.FileInfo {
		content, ok := l.files[p]
		if !ok {
			return facts.FileInfo{Path: p}
		}
		return facts.FileInfo{Path: p, Resolved: p, Exists: true, Regular: true, Content: []byte(content), Owner: "postgres", Group: "postgres", Mode: 0o640, Changed: time.Unix(1000, 0)}
	}
	switch r := r.(type) {
	case facts.OS:
		return facts.Answer{Value: facts.OSInfo{ID: "debian", Pretty: "Debian GNU/Linux 12 (bookworm)"}}
	case facts.Postgres:
		s := l.server
		s.Settings = l.running()
		return facts.Answer{Value: s}
	case facts.Cluster:
		if l.cluster == nil {
			return facts.Answer{Value: facts.ClusterInfo{Problem: "canceling statement due to statement timeout"}}
		}
		shared := *l.cluster
		shared.Contents = nil
		return facts.Answer{Value: facts.ClusterInfo{Cluster: &shared}}
	case facts.Contents:
		held := l.cluster.Contents[r.Database]
		return facts.Answer{Value: facts.ContentsInfo{Contents: held, Missing: held == nil}}
	case facts.Deparse:
		return facts.Answer{Value: facts.Deparsed{Text: r.Expr}}
	case facts.File:
		return facts.Answer{Value: file(r.Path)}
	case facts.Files:
		var found []facts.FileInfo
		for _, p := range slices.Sorted(maps.Keys(l.files)) {
			if ok, _ := path.Match(r.Glob, p); ok {
				found = append(found, file(p))
			}
		}
		return facts.Answer{Value: found}
	case facts.Unit:
		return facts.Answer{Value: facts.UnitInfo{Name: r.Name, LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled-runtime"}}
	case facts.Package:
		return facts.Answer{Value: facts.PackageInfo{Name: r.Name, Installed: slices.Contains(l.packages, r.Name), Manager: "apt"}}
	case facts.Libraries:
		return facts.Answer{Value: []string{"pgaudit", "auto_explain"}}
	case facts.CertificateFile:
		return facts.Answer{Value: facts.CertificateFileInfo{File: facts.FileInfo{Path: r.Path}}}
	}
	return facts.Answer{Value: nil}
}

// survey asks what reads says, again once there are answers.
func (l *live) survey(in inventory.Instance, reads func(*tasks.State) []facts.Read) *tasks.State {
	answers := map[facts.Read]facts.Answer{}
	state := tasks.NewState(in, answers, nil)
	for range 3 {
		for _, r := range reads(state) {
			answers[r] = l.answer(r)
		}
		state = tasks.NewState(in, maps.Clone(answers), nil)
	}
	return state
}

// adopted is what describing a server came to, and the first plan of it.
type adopted struct {
	Result
	fleet string
	plan  *tasks.Plan
}

func adopt(t *testing.T, l *live) adopted {
	t.Helper()
	head := Inventory(Host{Fleet: "prod", Name: "pg01", Address: "10.0.0.11"}, []Cluster{{15, "main", 5432}})
	file := filepath.Join(t.TempDir(), "fleet.toml")
	if err := os.WriteFile(file, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet, err := inventory.Load(file, inventory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := fleet.Instances()[0]
	state := l.survey(in, func(s *tasks.State) []facts.Read { return append(tasks.Questions(in, s), Reads(in, s)...) })
	r, err := Describe(in, state)
	if err != nil {
		t.Fatal(err)
	}
	a := adopted{Result: r, fleet: head + r.Tasks}
	a.plan = a.replan(t, l)
	return a
}

// replan plans the fleet.toml on the server as it is now.
func (a adopted) replan(t *testing.T, l *live) *tasks.Plan {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fleet.toml")
	if err := os.WriteFile(file, []byte(a.fleet), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet, err := inventory.Load(file, inventory.Options{Kinds: tasks.Kinds()})
	if err != nil {
		t.Fatalf("%v\n%s", err, a.fleet)
	}
	bound, errs := tasks.Expand(fleet, fleet.Instances(), tasks.Options{Local: func(name string) ([]byte, error) {
		b, ok := a.Files[name]
		if !ok {
			return nil, os.ErrNotExist
		}
		return b, nil
	}})
	if len(errs) > 0 {
		t.Fatalf("%v\n%s", errs, a.Tasks)
	}
	in := fleet.Instances()[0]
	state := l.survey(in, func(s *tasks.State) []facts.Read {
		reads := tasks.Questions(in, s)
		for _, b := range bound[in.ID()] {
			reads = append(reads, b.Task.Reads(in, s)...)
		}
		return reads
	})
	plan, err := tasks.PlanInstance(in, state, bound[in.ID()])
	if err != nil {
		t.Fatalf("%v\n%s", err, a.Tasks)
	}
	return plan
}

func (a adopted) wantEmptyPlan(t *testing.T) {
	t.Helper()
	for _, c := range a.plan.Changes() {
		t.Errorf("due: %s", c.Intent)
	}
}

// active returns the lines of the tasks that are no comments.
func (a adopted) active() string {
	var b strings.Builder
	for line := range strings.Lines(a.Tasks) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}
