package adopt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

func TestDescribe(t *testing.T) {
	l := newLive()
	l.files[confDir+"/pg_ident.conf"] = "admins  ops  dba\n"
	l.files[confDir+"/conf.d/10-log.conf"] = "# by hand\nlog_connections = on\n"
	a := adopt(t, l)
	a.wantEmptyPlan(t)
	if len(a.Warnings) > 0 {
		t.Errorf("warnings: %q", a.Warnings)
	}
	want := `
[[task]]
name = "Packages of pg01"
kind = "package"
limit = "pg01"
packages = [
    "postgresql-15",
]

[[task]]
name = "postgresql.conf of pg01"
kind = "file"
limit = "pg01"
path = "/etc/postgresql/15/main/postgresql.conf"
source = "adopted/pg01/etc/postgresql/15/main/postgresql.conf"
literal = true
owner = "postgres"
group = "postgres"
mode = "0640"


[[task]]
name = "conf.d/10-log.conf of pg01"
kind = "settings"
limit = "pg01"
file = "10-log.conf"
[task.settings]
log_connections = "on"

[[task]]
name = "pg_hba.conf of pg01"
kind = "hba"
limit = "pg01"
rules = [
    "local all postgres peer",
    "host app app 10.0.8.0/24 md5",
]
otherwise = "none"
replication = "none"

[[task]]
name = "pg_ident.conf of pg01"
kind = "ident"
limit = "pg01"
maps = [
    "admins ops dba",
]

[[task]]
name = "Service of pg01"
kind = "service"
limit = "pg01"
enabled = true
restart = "never"


[[task]]
name = "Role postgres of pg01"
kind = "role"
limit = "pg01"
role = "postgres"
password = "none"

[[task]]
name = "Database postgres of pg01"
kind = "database"
limit = "pg01"
database = "postgres"
owner = "postgres"
public = ["CONNECT", "TEMPORARY"]
comment = "default administrative connection database"

[[task]]
name = "Schema public in postgres of pg01"
kind = "schema"
limit = "pg01"
database = "postgres"
schema = "public"
owner = "pg_database_owner"

[[task]]
name = "Port of pg01"
kind = "verify"
limit = "pg01"
port = { address = "127.0.0.1", from = "pg01" }

[[task]]
name = "ssl of pg01"
kind = "verify"
limit = "pg01"
query = "SHOW ssl"
expect = "off"

[[task]]
name = "shared_preload_libraries of pg01"
kind = "verify"
limit = "pg01"
query = "SHOW shared_preload_libraries"
expect = ""
`
	if diff := cmp.Diff(want, strings.TrimPrefix(a.active(), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, remark := range []string{"# work_mem = \"8MB\" # line 2\n", "# listen_addresses = \"*\" # line 1\n", "# TLS is off.\n"} {
		if !strings.Contains(a.Tasks, remark) {
			t.Errorf("no remark %q in\n%s", remark, a.Tasks)
		}
	}
	if strings.Contains(a.Tasks, "port = \"5432\"") {
		t.Error("a default is listed")
	}
}

// The comments, once the # is off, are a fleet.toml too.
func TestDescribeEquivalent(t *testing.T) {
	a := adopt(t, newLive())
	_, rest, found := strings.Cut(a.Tasks, "# [[task]]\n# name = \"Settings of pg01\"")
	block, _, end := strings.Cut(rest, "\n\n")
	if !found || !end {
		t.Fatal(a.Tasks)
	}
	text := "[[task]]\nname = \"Settings of pg01\"" + strings.ReplaceAll(block, "\n# ", "\n") + "\n"
	head := Inventory(Host{Fleet: "prod", Name: "pg01", Address: "10.0.0.11"}, []Cluster{{15, "main", 5432}})
	file := filepath.Join(t.TempDir(), "fleet.toml")
	if err := os.WriteFile(file, []byte(head+text), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet, err := inventory.Load(file, inventory.Options{Kinds: tasks.Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	if _, errs := tasks.Expand(fleet, fleet.Instances(), tasks.Options{}); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestDescribePlansEmpty(t *testing.T) {
	for name, change := range map[string]func(*live){
		"a fragment that loses to a later one": func(l *live) {
			l.files[confDir+"/conf.d/10.conf"] = "work_mem = 4MB\n"
			l.files[confDir+"/conf.d/20.conf"] = "work_mem = '8192kB'\nwork_mem = 8MB\n"
		},
		"a fragment that loses to ALTER SYSTEM": func(l *live) {
			l.files[confDir+"/conf.d/10.conf"] = "work_mem = 4MB\n"
			l.files["/var/lib/postgresql/15/main/postgresql.auto.conf"] = "work_mem = '8MB'\n"
		},
		"an empty fragment": func(l *live) { l.files[confDir+"/conf.d/10.conf"] = "# nothing\n" },
		"libraries": func(l *live) {
			l.files[confDir+"/conf.d/10.conf"] = "shared_preload_libraries = 'pgaudit'\n"
			l.files[confDir+"/postgresql.conf"] = "shared_preload_libraries = 'auto_explain'\n" + newLive().files[confDir+"/postgresql.conf"]
			l.packages = append(l.packages, "postgresql-15-pgaudit")
		},
		"braces": func(l *live) { l.files[confDir+"/conf.d/10.conf"] = "app.template = '{{ .Name }} \"x\" {{'\n" },
		"includes": func(l *live) {
			l.files[confDir+"/postgresql.conf"] += "include 'extra.conf'\n"
			l.files[confDir+"/extra.conf"] = "work_mem = 8MB\n"
		},
		"quoted names": func(l *live) {
			l.files[confDir+"/pg_hba.conf"] = "local all postgres peer\nlocal \"all\" \"My Role\",+grp peer map=x\nhost all all 10.0.0.1 255.255.255.0 md5\nhostssl sameuser \"re{{x\" .example.com cert clientcert=verify-full\n"
		},
		"another fleet's files": func(l *live) {
			l.files[confDir+"/conf.d/10.conf"] = "# Written by pgfleet: \"Log\". Changes made here are found and undone.\n\nlog_connections = 'on'\n"
			l.files[confDir+"/pg_hba.conf"] = "# Written by pgfleet: \"Who\". Changes made here are found and undone.\n\nlocal all postgres peer\n"
		},
		"fragments that include": func(l *live) {
			l.files[confDir+"/conf.d/10.conf"] = "include_if_exists 'more'\nlog_connections = on\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive()
			change(l)
			a := adopt(t, l)
			a.wantEmptyPlan(t)
		})
	}
}

// A change on the host is due again, whatever its form.
func TestDescribedIsHeld(t *testing.T) {
	for name, change := range map[string]func(*live){
		"hba":      func(l *live) { l.files[confDir+"/pg_hba.conf"] += "host all all 0.0.0.0/0 trust\n" },
		"ident":    func(l *live) { l.files[confDir+"/pg_ident.conf"] += "m root postgres\n" },
		"conf":     func(l *live) { l.files[confDir+"/postgresql.conf"] += "\n" },
		"fragment": func(l *live) { l.files[confDir+"/conf.d/10.conf"] += "work_mem = 8MB\n" },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive()
			l.files[confDir+"/conf.d/10.conf"] = "log_connections = on\n"
			a := adopt(t, l)
			a.wantEmptyPlan(t)
			change(l)
			plan := a.replan(t, l)
			if len(plan.Changes()) == 0 {
				t.Error("nothing is due")
			}
		})
	}
}

func TestDescribeCopiesNoSecret(t *testing.T) {
	const secret = "hunter2Xyz"
	for name, change := range map[string]func(*live){
		"conninfo": func(l *live) {
			l.files[confDir+"/postgresql.conf"] += "primary_conninfo = 'host=a password=" + secret + "'\n"
		},
		"conninfo, quoted": func(l *live) {
			l.files[confDir+"/postgresql.conf"] += "primary_conninfo = 'host=a password=''" + secret + "'''\n"
		},
		"URI": func(l *live) {
			l.files[confDir+"/conf.d/1.conf"] = "primary_conninfo = 'postgres://u:" + secret + "@a/'\n"
		},
		"comment": func(l *live) {
			l.files[confDir+"/postgresql.conf"] += "#primary_conninfo = 'host=a password=" + secret + "'\n"
		},
		"passphrase":  func(l *live) { l.files[confDir+"/conf.d/1.conf"] = "ssl_passphrase_command = 'echo " + secret + "'\n" },
		"own setting": func(l *live) { l.files[confDir+"/conf.d/1.conf"] = "app.jwt_secret = '" + secret + "'\n" },
		"archive_command": func(l *live) {
			l.files[confDir+"/conf.d/1.conf"] = "archive_command = 'AWS_SECRET_ACCESS_KEY=" + secret + " aws s3 cp %p s3://b/%f'\n"
		},
		"auto.conf": func(l *live) {
			l.files["/var/lib/postgresql/15/main/postgresql.auto.conf"] = "primary_conninfo = 'password=" + secret + "'\n"
		},
		"ldap": func(l *live) {
			l.files[confDir+"/pg_hba.conf"] += "host all all all ldap ldapserver=x ldapbasedn=dc ldapbinddn=b ldapbindpasswd=" + secret + "\n"
		},
		"radius": func(l *live) {
			l.files[confDir+"/pg_hba.conf"] += "host all all all radius radiusservers=1.2.3.4 radiussecrets=" + secret + "\n"
		},
		"ldap, mistaken": func(l *live) {
			l.files[confDir+"/pg_hba.conf"] += "host all all all ldap ldapbindpasswd=" + secret + "\n"
		},
		"an option of a role": func(l *live) {
			l.cluster.Roles["app"] = &catalog.Role{Name: "app", Inherit: true, ConnLimit: -1}
			l.cluster.Settings = []catalog.Setting{{Role: "app", Name: "app.token", Value: secret}, {Role: "app", Name: "work_mem", Value: "1GB"}}
		},
		"an option of all roles": func(l *live) {
			l.server.Overrides = []facts.Override{{Name: "app.token", Value: secret}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive()
			change(l)
			a := adopt(t, l)
			a.wantEmptyPlan(t)
			all := a.fleet + strings.Join(a.Warnings, "\n")
			for file, content := range a.Files {
				all += file + string(content)
			}
			if strings.Contains(all, secret) {
				t.Errorf("the secret was copied:\n%s", all)
			}
			if len(a.Warnings) == 0 {
				t.Error("no warning")
			}
		})
	}
}

func TestDescribeNeedsServer(t *testing.T) {
	fleet := filepath.Join(t.TempDir(), "fleet.toml")
	if err := os.WriteFile(fleet, []byte(Inventory(Host{Fleet: "p", Name: "h", Address: "h"}, []Cluster{{15, "main", 5432}})), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := inventory.Load(fleet, inventory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := f.Instances()[0]
	s := tasks.NewState(in, map[facts.Read]facts.Answer{tasks.ServerRead(in): {Value: facts.Server{Problem: "Connection refused"}}}, nil)
	if _, err := Describe(in, s); err == nil || !strings.Contains(err.Error(), "Connection refused") {
		t.Errorf("error: %v", err)
	}
}

func TestClusters(t *testing.T) {
	reads := FindClusters()
	file := func(p, content string) facts.FileInfo {
		return facts.FileInfo{Path: p, Exists: true, Content: []byte(content)}
	}
	got := Clusters(map[facts.Read]facts.Answer{
		reads[0]: {Value: []facts.FileInfo{
			file("/etc/postgresql/17/main/postgresql.conf", "port = 5433\n"),
			file("/etc/postgresql/15/main/postgresql.conf", "#port = 1\n"),
			file("/etc/postgresql/15/second/postgresql.conf", "port = 5440"),
			file("/etc/postgresql/9.6/main/postgresql.conf", "port = 5441"),
		}},
		reads[1]: {Value: []facts.FileInfo{file("/etc/postgresql/15/second/conf.d/a.conf", "port = '5441'\n")}},
	})
	want := []Cluster{{15, "main", 5432}, {15, "second", 5441}, {17, "main", 5433}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	name := filepath.Join(t.TempDir(), "fleet.toml")
	if err := os.WriteFile(name, []byte(Inventory(Host{Fleet: "prod", Name: "db.example", Address: "db.example"}, got)), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet, err := inventory.Load(name, inventory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, in := range fleet.Instances() {
		dirs = append(dirs, string(in.ID())+" "+in.ConfDir())
	}
	if diff := cmp.Diff([]string{"db.example/15-main /etc/postgresql/15/main", "db.example/second /etc/postgresql/15/second", "db.example/17-main /etc/postgresql/17/main"}, dirs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
