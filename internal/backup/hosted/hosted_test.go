package hosted

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestScript(t *testing.T) {
	c := Config{
		Header: "Written by pgfleet.", Backup: "nightly", Instance: "pg01", Target: "/var/backups/pgfleet", Base: "/var/backups/pgfleet/nightly/pg01",
		Unit: "pgfleet-backup-nightly-15-main", Server: "postgresql@15-main", Role: "pgfleet_backup", SocketDir: "/var/run/postgresql", Port: 5432,
		BinDir: "/usr/lib/postgresql/15/bin", Named: []string{`it's "$(date)"`}, Wanted: []string{"^it's$", "^a.*$"}, Keep: 7, LockTimeout: 1500 * time.Millisecond,
		Check: "rows", On: "standby", Members: [][]string{{"10.0.0.1", "pg01"}, {"10.0.0.2"}}, Place: 1, Schedule: "daily", RandomizedDelay: 15 * time.Minute,
	}
	script, err := c.Script()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sh -n: %v\n%s", err, out)
	}
	says, _, ok := strings.Cut(script, programBegins)
	if !ok {
		t.Fatal("the program has no beginning")
	}
	cmd = exec.Command("sh", "-c", says+`printf '%s\n' "$named" "$wanted" "$lock_timeout" "$place" "$first" "$second"`)
	out, err := cmd.CombinedOutput()
	if want := `["it's \"$(date)\""]` + "\n^it's$|^a.*$\n1500\n2\n10.0.0.1 pg01\n10.0.0.2\n"; err != nil || string(out) != want {
		t.Errorf("the variables are %q (%v), want %q", out, err, want)
	}
	if s := Summary(script); !strings.HasPrefix(s, says) || strings.Count(s, "\n") != strings.Count(says, "\n")+1 {
		t.Errorf("for the reader it is %s", s)
	}
	if timer := c.Timer(); !strings.Contains(timer, "OnCalendar=daily\nRandomizedDelaySec=900s\nPersistent=true\n") {
		t.Errorf("the timer is %s", timer)
	}
	alone := c
	alone.Members = c.Members[:1]
	if one, many := alone.Service(), c.Service(); !strings.Contains(one, "RestrictAddressFamilies=AF_UNIX\n") || !strings.Contains(many, "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n") {
		t.Errorf("the service of one that has nobody to ask for is %s\nand in a cluster %s", one, many)
	}
	for _, want := range []string{"User=pgfleet_backup\n", "ReadWritePaths=/var/backups/pgfleet\n", "ExecStart=/etc/pgfleet/backup/nightly-15-main.sh\n"} {
		if !strings.Contains(c.Service(), want) {
			t.Errorf("the service lacks %q: %s", want, c.Service())
		}
	}
}

func TestOthers(t *testing.T) {
	for _, test := range []struct {
		name string
		e    Evidence
		want string
	}{
		{"nothing", Evidence{ArchiveMode: "off", ArchiveCommand: "(disabled)"}, ""},
		{"pgBackRest", Evidence{ArchiveMode: "on", ArchiveCommand: "/usr/bin/pgbackrest --stanza=main archive-push %p"}, "pgBackRest archives the WAL (archive_command)"},
		{"that fails", Evidence{ArchiveMode: "on", ArchiveCommand: "pgbackrest archive-push %p", Failing: true}, "pgBackRest archives the WAL (archive_command, and its last attempt failed)"},
		{"archive_mode is off", Evidence{ArchiveMode: "off", ArchiveCommand: "pgbackrest archive-push %p"}, "pgBackRest archives the WAL (archive_command, but archive_mode is off)"},
		{"WAL-G in an environment", Evidence{ArchiveMode: "always", ArchiveCommand: "envdir /etc/wal-g.d/env wal-g wal-push %p", RestoreCommand: "wal-g wal-fetch %f %p"},
			"WAL-G archives the WAL (archive_command), and is where restore_command fetches WAL from"},
		{"Barman streams", Evidence{ArchiveMode: "off", Clients: []string{"pg02", "barman_receive_wal"}, Slots: []string{"barman"}}, "Barman receives the WAL (as barman_receive_wal)"},
		{"Barman's slot alone", Evidence{ArchiveMode: "off", Slots: []string{"barman"}}, "Barman has the replication slot barman, and is not connected"},
		{"something else", Evidence{ArchiveMode: "on", ArchiveCommand: "/opt/bin/ship %p", Archived: "2026-11-26 02:00"}, "ship archives the WAL (archive_command, last at 2026-11-26 02:00)"},
		{"a library", Evidence{ArchiveMode: "on", ArchiveLibrary: "basic_archive"}, "the library basic_archive archives the WAL"},
		{"a name within a word", Evidence{ArchiveMode: "off", ArchiveCommand: "/opt/notpgbackrest %p"}, ""},
	} {
		if got := strings.Join(Others(test.e), "; "); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
