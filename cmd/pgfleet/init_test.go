package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// initIn runs init with a home of its own and returns its folder, its output and
// its error.
func initIn(t *testing.T, home string, args ...string) (dir, out string, err error) {
	t.Helper()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	dir = filepath.Join(t.TempDir(), "fleet")
	out, err = runInit(t, append([]string{dir}, args...)...)
	return dir, out, err
}

func runInit(t *testing.T, args ...string) (string, error) {
	t.Helper()
	outFile, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer outFile.Close()
	term := terminal{Out: outFile, Err: outFile, LookupEnv: os.LookupEnv}
	a := &app{ui: newUI(term), term: term}
	cmd := a.initCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(context.Background())
	text, readErr := os.ReadFile(outFile.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(text), err
}

func TestInitPassesCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"defaults", nil},
		{"all flags", []string{"--name", "eu-1", "--host", "pg01=10.0.0.11", "--host", "db.example=db.example.org", "--host", "six=fd00::1",
			"--app-network", "10.0.8.0/24", "--version", "17", "--user", "ops", "--port", "2222", "--identity", "~/.ssh/\"fleet\"", "--known-hosts", "known_hosts"}},
		{"hosts that differ", []string{"--host", "pg01=10.0.0.11,replication=orders", "--host", "pg02=10.0.0.12,replication=orders",
			"--host", "pg03=fd00::3,port=5433,version=17"}},
		{"IPv6", []string{"--app-network", "fd00:1::/64"}},
		{"a host of an application", []string{"--app-network", "10.0.8.0/24", "--app-host", "app.1=10.0.8.21"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, out, err := initIn(t, t.TempDir(), tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			fleet := loadInit(t, dir)
			var kinds []string
			for _, task := range fleet.Tasks {
				kinds = append(kinds, task.Kind)
			}
			if len(kinds) < 12 {
				t.Errorf("%d tasks, want 12 or more", len(kinds))
			}
			slices.Sort(kinds)
			if diff := cmp.Diff(tasks.Kinds(), slices.Compact(kinds)); diff != "" {
				t.Errorf("kinds that the example uses (-want +got):\n%s", diff)
			}
			for _, next := range []string{"pgfleet check", "pgfleet plan", "pgfleet apply", "pgfleet rotate --all", "identity.txt"} {
				if !strings.Contains(out, next) {
					t.Errorf("the report does not name %q:\n%s", next, out)
				}
			}
			left, err := filepath.Glob(filepath.Join(dir, ".pgfleet-init-*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// loadInit reads a fleet and binds its tasks, as check does.
func loadInit(t *testing.T, dir string) *inventory.Fleet {
	t.Helper()
	fleet, err := inventory.Load(filepath.Join(dir, "fleet.toml"), inventory.Options{Kinds: tasks.Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	local := func(name string) ([]byte, error) { return os.ReadFile(fleet.File(name)) }
	if _, errs := tasks.Expand(fleet, fleet.Instances(), tasks.Options{Local: local}); len(errs) > 0 {
		t.Fatal(errs)
	}
	if _, errs := tasks.NewRotations(fleet, fleet.Instances(), nil, tasks.Asked{}, tasks.Options{Local: local}); len(errs) > 0 {
		t.Fatal(errs)
	}
	return fleet
}

// The rotations that init writes: of which role, how, with which secret on each
// instance, and from where a new password is proven.
func TestInitRotations(t *testing.T) {
	hosts := []string{"--host", "pg01=10.0.0.11,replication=orders", "--host", "pg02=10.0.0.12,replication=orders", "--host", "pg03=10.0.0.13"}
	for _, tt := range []struct {
		name, from string
		args       []string
		said       bool // that logins come from here
	}{
		{"from here", "", nil, true},
		{"from a host of an application", "app1", []string{"--app-host", "app1=10.0.8.21"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, out, err := initIn(t, t.TempDir(), append(tt.args, hosts...)...)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out, "The logins come from this machine.") != tt.said {
				t.Errorf("where logins come from:\n%s", out)
			}
			fleet := loadInit(t, dir)
			local := func(name string) ([]byte, error) { return os.ReadFile(fleet.File(name)) }
			bound, errs := tasks.NewRotations(fleet, fleet.Instances(), nil, tasks.Asked{}, tasks.Options{Local: local})
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			var got []string
			for _, in := range fleet.Instances() {
				for _, b := range bound[in.ID()] {
					r := b.Task.(*tasks.Rotation)
					var roles []string
					for _, role := range r.Roles {
						roles = append(roles, role.Value)
					}
					got = append(got, fmt.Sprint(in.ID(), " ", r.Role(), " ", r.Strategy, " ", roles, " ", r.Ref(), " ", r.Database, " ", r.MaxAge, " ", r.VerifyFrom.Value))
				}
			}
			var want []string
			for _, in := range [][2]string{{"pg01", "orders"}, {"pg02", "orders"}, {"pg03", "pg03"}} {
				want = append(want,
					in[0]+" appuser alternate [appuser_a appuser_b] age:"+in[1]+"/appuser#password appdb 90d "+tt.from,
					in[0]+" readuser in-place [] age:"+in[1]+"/readuser#password appdb 90d "+tt.from)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			host := fleet.Host("app1")
			if (host != nil) != (tt.from != "") {
				t.Fatalf("app1: %v", host)
			}
			if host != nil && (host.Address != "10.0.8.21" || len(host.Instances) != 0) {
				t.Errorf("app1 has the address %s and %d instances", host.Address, len(host.Instances))
			}
		})
	}
}

// What stands behind a # at the end of fleet.toml is right once it is taken off.
func TestInitCommentedLogin(t *testing.T) {
	dir, _, err := initIn(t, t.TempDir(), "--app-host", "app1=10.0.8.21")
	if err != nil {
		t.Fatal(err)
	}
	before := len(loadInit(t, dir).Tasks)
	uncommentLogin(t, dir)
	if after := len(loadInit(t, dir).Tasks); after != before+1 {
		t.Errorf("%d tasks, and %d with the one that was commented out", before, after)
	}
}

// uncommentLogin takes the # off the task "Readers can log in".
func uncommentLogin(t *testing.T, dir string) {
	t.Helper()
	file := filepath.Join(dir, fleetFile)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, task, found := strings.Cut(string(text), "# [[task]]\n# name = \"Readers can log in\"")
	if !found {
		t.Fatal("there is no such task")
	}
	task = strings.ReplaceAll("# [[task]]\n# name = \"Readers can log in\""+task, "\n# ", "\n")
	if err := os.WriteFile(file, []byte(head+strings.TrimPrefix(task, "# ")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestInitTakesFlagsOver(t *testing.T) {
	dir, _, err := initIn(t, t.TempDir(), "--name", "eu", "--host", "pg01=10.0.0.11", "--app-network", "10.0.8.0/24", "--version", "17", "--user", "deploy")
	if err != nil {
		t.Fatal(err)
	}
	fleet := loadInit(t, dir)
	in := fleet.Instances()[0]
	got := []string{fleet.Name, in.Host.Name, in.Host.Address, in.Host.User, in.ConfDir(), fleet.Vars["app_network"].Str}
	want := []string{"eu", "pg01", "10.0.0.11", "deploy", "/etc/postgresql/17/main", "10.0.8.0/24"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(filepath.Join(dir, "fleet.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "CHANGE TH") {
		t.Error("it asks to change what was given")
	}
}

func TestInitHosts(t *testing.T) {
	dir, _, err := initIn(t, t.TempDir(), "--host", "pg01=10.0.0.11,replication=orders", "--host", "pg02=10.0.0.12,version=17,replication=orders,port=5433")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, in := range loadInit(t, dir).Instances() {
		got = append(got, fmt.Sprint(in.ID(), " ", in.Host.Address, " ", in.Version, " ", in.Port, " ", in.Replication))
	}
	if diff := cmp.Diff([]string{"pg01 10.0.0.11 15 5432 orders", "pg02 10.0.0.12 17 5433 orders"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseHost(t *testing.T) {
	for text, want := range map[string]string{
		"pg01":                               "want NAME=ADDRESS, such as pg01=10.0.0.11",
		"pg01=10.0.0.1=x":                    "want NAME=ADDRESS, such as pg01=10.0.0.11",
		"pg01=10.0.0.1,":                     `unknown key "" behind the address; there are version, replication, port`,
		"pg01=10.0.0.1,verison=17":           `unknown key "verison" (did you mean "version"?)`,
		"pg01=10.0.0.1,version":              "version=: want PostgreSQL's major version, such as version=17",
		"pg01=10.0.0.1,version=9.6":          "version=9.6: want PostgreSQL's major version, such as version=17",
		"pg01=10.0.0.1,version=17,version=1": "version is there twice",
		"pg01=10.0.0.1,port=99999":           "port=99999: want the port of PostgreSQL, such as port=5433",
		"pg01=10.0.0.1,replication=a b":      "replication=a b: want a name that a primary and its standbys share, such as replication=orders",
	} {
		if _, err := parseHost(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestInitIdentity(t *testing.T) {
	home := t.TempDir()
	identity := filepath.Join(home, ".config/pgfleet/identity.txt")
	first, out, err := initIn(t, home)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(identity)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("identity: %v %v", info, err)
	}
	key, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ToUpper(out), "AGE-SECRET-KEY") {
		t.Error("the report shows the identity")
	}
	second, _, err := initIn(t, home)
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(identity)
	if err != nil || string(again) != string(key) {
		t.Errorf("the identity was replaced: %v", err)
	}
	a, b := loadInit(t, first), loadInit(t, second)
	if diff := cmp.Diff(a.Secrets.Age, b.Secrets.Age); diff != "" {
		t.Errorf("the second fleet has another identity:\n%s", diff)
	}
	if got := []string(a.Secrets.Age.Identities); !slices.Equal(got, []string{"~/.config/pgfleet/identity.txt"}) {
		t.Errorf("identities: %q", got)
	}
	for i, dir := range []string{first, second} {
		resolver, err := (&app{term: terminal{LookupEnv: os.LookupEnv}, ui: newUI(terminal{LookupEnv: os.LookupEnv})}).newResolver(t.Context(), []*inventory.Fleet{a, b}[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		caKey, _, err := resolver.Resolve(t.Context(), secrets.Ref{Store: "age", Path: "ca", Key: "key"})
		if err != nil {
			t.Fatal(err)
		}
		ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ParseCA(ca, caKey); err != nil {
			t.Error(err)
		}
		sealed, err := os.ReadFile(filepath.Join(dir, "secrets/ca.age"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(sealed), "PRIVATE") || !strings.Contains(string(sealed), "age-encryption.org") {
			t.Error("the CA's key is not encrypted")
		}
		// Passwords are made by the first rotation, on each cluster.
		var made []string
		err = filepath.WalkDir(filepath.Join(dir, "secrets"), func(p string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				made = append(made, filepath.Base(p))
			}
			return err
		})
		if err != nil || !slices.Equal(made, []string{"ca.age"}) {
			t.Errorf("secrets: %v %v", made, err)
		}
	}
}

func TestInitOverwritesNothing(t *testing.T) {
	for _, name := range []string{"fleet.toml", "ca.pem", "secrets/ca.age", "files/rsyslog.conf", "sql/orders.sql"} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
			dir := t.TempDir()
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := runInit(t, dir)
			if err == nil || exitCode(err, false) != 2 || !strings.Contains(err.Error(), file) {
				t.Errorf("error: %v", err)
			}
			if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
				t.Errorf("%s: %q %v", name, text, err)
			}
			var found []string
			err = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					found = append(found, p)
				}
				return err
			})
			if err != nil || !slices.Equal(found, []string{file}) {
				t.Errorf("the folder holds %v %v", found, err)
			}
		})
	}
}

func TestInitRefusesFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--host", "pg01"}, {"--host", "pg 01=10.0.0.1"}, {"--host", "pg01="}, {"--host", "pg01=a b"},
		{"--host", "pg01=10.0.0.1", "--host", "pg01=10.0.0.2"},
		{"--app-network", "10.0.0.0"}, {"--app-network", "10.0.8.1/24"},
		{"--app-host", "app1"}, {"--app-host", "app1=10.0.8.21,port=5433"}, {"--app-host", "pg01=10.0.8.21"}, {"--app-host", "app1=192.0.2.12"},
		{"--host", "pg01=10.0.0.1,verison=17"}, {"--name", "my fleet"}, {"--version", "9"},
	} {
		dir, _, err := initIn(t, t.TempDir(), args...)
		if err == nil || exitCode(err, false) != 2 {
			t.Errorf("%q: error %v", args, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%q: left a folder behind", args)
		}
	}
}
