package tasks

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

const backupKey = "age15jnpxal84xf6226w5xkf4ajkscvlt9k99hc0kvwtvv3nsz0amaksmcn54f"

const aBackup = `
[[backup]]
name = "nightly"
recipients = ["` + backupKey + `"]
schedule = "daily"
to.path = "/var/backups/pgfleet"
`

// backupWorld is a host that nobody has made backups on.
func backupWorld(hba string) world {
	w := newWorld()
	w.server(func(s *facts.Server) {
		for _, name := range []string{"default_transaction_read_only", "lo_compat_privileges"} {
			s.Settings = append(s.Settings, postgres.Setting{Name: name, Setting: "off", BootVal: "off", ResetVal: "off", Context: "superuser", VarType: "bool", Source: "default"})
		}
	})
	w[facts.File{Path: conf + "/pg_hba.conf"}] = facts.Answer{Value: file(conf+"/pg_hba.conf", hba)}
	role := func(name string) *catalog.Role {
		return &catalog.Role{Name: name, Login: name == "postgres", Superuser: name == "postgres", Inherit: true, ConnLimit: -1}
	}
	w[facts.Cluster{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.ClusterInfo{Cluster: &catalog.Cluster{
		Version: 150018, Bootstrap: "postgres",
		Roles:     map[string]*catalog.Role{"postgres": role("postgres"), "pg_read_all_data": role("pg_read_all_data"), "pg_read_all_stats": role("pg_read_all_stats")},
		Databases: map[string]*catalog.Database{"postgres": {Name: "postgres", Owner: "postgres", AllowConn: true}, "shop": {Name: "shop", Owner: "postgres", AllowConn: true, ACL: catalog.ACL{{Grantee: "postgres", Grantor: "postgres", Privileges: catalog.Connect}}}, "li\nes": {Name: "li\nes", Owner: "postgres", AllowConn: true}},
	}}}
	w[facts.Package{Name: "age"}] = facts.Answer{Value: facts.PackageInfo{Name: "age", Manager: "apt"}}
	w[facts.Probe{User: "root", Script: "getent passwd pgfleet_backup >/dev/null"}] = facts.Answer{Value: facts.ProbeResult{ExitCode: 2}}
	w[facts.Probe{User: "root", Script: "LC_ALL=C systemd-analyze calendar 'daily'"}] = facts.Answer{Value: facts.ProbeResult{}}
	w[facts.Probe{User: "root", Script: hosted.CheckAbove("/var/backups/pgfleet")}] = facts.Answer{Value: facts.ProbeResult{}}
	for _, f := range []string{
		hosted.Dir, hosted.Dir + "/nightly-15-main.sh", hosted.Dir + "/nightly-15-main.recipients", "/var/backups/pgfleet",
		"/etc/systemd/system/pgfleet-backup-nightly-15-main.service", "/etc/systemd/system/pgfleet-backup-nightly-15-main.timer",
	} {
		w[facts.File{Path: f}] = facts.Answer{Value: facts.FileInfo{Path: f}}
	}
	for _, u := range []string{"pgfleet-backup-nightly-15-main.service", "pgfleet-backup-nightly-15-main.timer"} {
		w[facts.Unit{Name: u}] = facts.Answer{Value: facts.UnitInfo{Name: u, LoadState: "not-found", ActiveState: "inactive"}}
	}
	q := subscriptions(inventory.Instance{Port: 5432})
	w[q] = facts.Answer{Value: facts.QueryResult{True: true}}
	return w
}

func TestBackupIsPlanned(t *testing.T) {
	p, err := plan(t, backupWorld("local all all peer\n"), aBackup)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, step := range intents(p) {
		all = append(all, strings.Join(step, "\n"))
	}
	said := strings.Join(all, "\n--\n")
	for _, part := range []string{"install age (apt)", "CREATE ROLE pgfleet_backup LOGIN BYPASSRLS CONNECTION LIMIT 8", "GRANT pg_read_all_data TO pgfleet_backup",
		"GRANT CONNECT ON DATABASE shop TO pgfleet_backup", "make the account pgfleet_backup", "make the folder /var/backups/pgfleet (pgfleet_backup 0700)",
		"create /etc/pgfleet/backup/nightly-15-main.sh (root:root 0755)", "systemctl daemon-reload, for pgfleet-backup-nightly-15-main\n--\nenable, start (pgfleet-backup-nightly-15-main.timer)"} {
		if !strings.Contains(said, part) {
			t.Errorf("the plan lacks %q:\n%s", part, said)
		}
	}
	var warnings []string
	for _, n := range p.Warnings {
		warnings = append(warnings, n.Text)
	}
	for _, part := range []string{"there is one recipient", "there are subscriptions", `the name of the database "li\nes" holds a line break`} {
		if !strings.Contains(strings.Join(warnings, "\n"), part) {
			t.Errorf("no warning says %q: %q", part, warnings)
		}
	}
}

func TestBackupProblems(t *testing.T) {
	for name, test := range map[string]struct {
		hba    string
		change func(world)
		want   string
	}{
		"rejected by a rule": {"local all postgres peer\nlocal shop all reject\nlocal all all peer\n", nil, `could not log in to database "shop" over the local socket`},
		"no rule":            {"local all postgres peer\n", nil, `put "local all pgfleet_backup peer" before it`},
		"somebody else's folder": {"local all all peer\n", func(w world) {
			w[facts.File{Path: "/var/backups/pgfleet"}] = facts.Answer{Value: facts.FileInfo{Path: "/var/backups/pgfleet", Exists: true, Dir: true, Owner: "root", Mode: os.ModeDir | 0o755}}
		}, "/var/backups/pgfleet belongs to root"},
		"a folder above it": {"local all all peer\n", func(w world) {
			w[facts.Probe{User: "root", Script: hosted.CheckAbove("/var/backups/pgfleet")}] = facts.Answer{Value: facts.ProbeResult{ExitCode: 1, Output: "/var/backups belongs to joe and not to root\n"}}
		}, "path: backups would not be safe in /var/backups/pgfleet: /var/backups belongs to joe and not to root; name a folder"},
		"no such time": {"local all all peer\n", func(w world) {
			w[facts.Probe{User: "root", Script: "LC_ALL=C systemd-analyze calendar 'daily'"}] = facts.Answer{Value: facts.ProbeResult{ExitCode: 1, Output: "Failed to parse calendar specification 'daily': Invalid argument\n"}}
		}, `schedule: systemd on pg01 does not understand "daily" (man systemd.time): Failed to parse`},
	} {
		w := backupWorld(test.hba)
		if test.change != nil {
			test.change(w)
		}
		if _, err := plan(t, w, aBackup); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

// The folder is made under root's own alone.
func TestMakeTarget(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	top := t.TempDir()
	if out, err := exec.Command("sh", "-c", `cd "$0" && mkdir theirs theirs/own && chown 12345 theirs && mkdir real && ln -s real link && mkdir away && ln -s ../away real/away`, top).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for dir, want := range map[string]string{"new/backups": "daemon 700", "real/backups": "daemon 700", "theirs/own": "root 755", "theirs/new": "", "link/backups2": "", "real/away": "root 755"} {
		dir = top + "/" + dir
		err := exec.Command("sh", "-c", makeTarget(hosted.Config{Target: dir, Role: "daemon"})).Run()
		got, _ := exec.Command("stat", "-L", "-c", "%U %a", dir).Output()
		if strings.TrimSpace(string(got)) != want || (err == nil) != strings.HasPrefix(want, "daemon") {
			t.Errorf("%s is %q, %v; want %q", dir, got, err, want)
		}
	}
}

// The line for the account stands ahead of what an hba task declares, which may reject it.
func TestHBALetsBackupsIn(t *testing.T) {
	p, err := plan(t, backupWorld("local all postgres peer\n"), hba(`"local all postgres peer", "local all all reject"`)+aBackup)
	if err != nil {
		t.Fatal(err)
	}
	w, ok := p.Steps[0].Changes[0].Action.(WriteFile)
	if !ok || !strings.HasPrefix(w.Path, conf) {
		t.Fatalf("the first change is %+v", p.Steps[0].Changes[0])
	}
	ours, theirs := strings.Index(w.Content, "pgfleet_backup"), strings.Index(w.Content, "reject")
	if ours < 0 || theirs < ours {
		t.Errorf("pg_hba.conf is %s", w.Content)
	}
}
