package inventory_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pgfleet/pgfleet/inventory"
)

func loadBackups(text string) (*inventory.Fleet, error) {
	files := fstest.MapFS{"fleet.toml": {Data: []byte("[fleet]\nname = \"prod\"\n[postgres]\nversion = 15\n[hosts.pg01]\n[hosts.vault]\ninstances = {}\n" + text)}}
	return inventory.Load("fleet.toml", inventory.Options{FS: files})
}

func TestBackups(t *testing.T) {
	f, err := loadBackups(`
[[backup]]
name = "nightly"
limit = "pg01"
databases = ["*", "!scratch*", "!a.c", "kept_before_20260301t081500z"]
on = "standby"
recipients = ["age1x", "keys.txt"]
schedule = "*-*-* 02:30:00"
randomized_delay = "15m"
lock_timeout = "5s"
to = { path = "/srv/backups/" }
[[backup]]
name = "vault"
recipients = ["age1x"]
to = { host = "vault", path = "/home/backups" }
[[backup]]
name = "away"
databases = ["app?"]
recipients = ["age1x"]
encrypt = "operator"
to.path = "/var/backups/pgfleet"
[[backup]]
name = "bucket"
recipients = ["age1x"]
to.s3 = { bucket = "b", access_key_id = "age:s3#id", secret_access_key = "age:s3#key" }
[[backup]]
name = "gone"
state = "absent"
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Backups) != 5 {
		t.Fatalf("%d backups", len(f.Backups))
	}
	b := f.Backups[0]
	in := f.Instances()[0]
	if !b.Hosted() || b.To.Path != "/srv/backups" || b.To.Host != "" || b.Keep != 7 || b.Role != "pgfleet_backup" || b.LockTimeout != 5*time.Second ||
		b.RandomizedDelay != 15*time.Minute || b.On != "standby" || b.Check != "rows" || b.Unit(in) != "pgfleet-backup-nightly-15-main" || b.Dir("pg01/second") != "nightly/pg01+second" {
		t.Errorf("%+v", b)
	}
	for name, want := range map[string]bool{"app": true, "scratch1": false, "a.c": false, "abc": true, "x\ny": true,
		"pgfleet_restoring_20260301t081500z_0123abcd": false, "shop_before_20260301t081500z": false, "kept_before_20260301t081500z": true, "shop_before_2026": true} {
		if got := b.MeansDatabase(name); got != want {
			t.Errorf("%q is meant: %v", name, got)
		}
	}
	if b := f.Backups[1]; b.Hosted() || b.To.Host != "vault" || b.To.Path != "/home/backups" {
		t.Errorf("%+v", b)
	}
	f.Backups = f.Backups[1:]
	if b := f.Backups[1]; b.Hosted() || b.MeansDatabase("app") || !b.MeansDatabase("app1") {
		t.Errorf("%+v", b)
	}
	if b := f.Backups[2]; b.Hosted() || b.To.S3.Bucket.Value != "b" {
		t.Errorf("%+v", b)
	}
	if !f.Backups[3].Absent {
		t.Errorf("%+v", f.Backups[3])
	}
}

func TestBackupMistakes(t *testing.T) {
	const good = "[[backup]]\nname = 'n'\nrecipients = ['age1x']\n"
	for _, test := range []struct{ text, want string }{
		{"[backup]\nname = 'n'\n", "8:2: backup: want a list, found a table"},
		{"[[backup]]\nrecipients = ['age1x']\nto.here = 'x'\n", `8:3: backup: missing key "name"`},
		{"[[backup]]\nname = 'a b'\nrecipients = ['age1x']\nto.here = 'x'\n", `9:8: "a b" is no valid name for a backup`},
		{"[[backup]]\nname = 'n'\nto.here = 'x'\n", `8:3: missing key "recipients"`},
		{"[[backup]]\nname = 'n'\nrecipients = []\nto.here = 'x'\n", "10:14: recipients: want at least one"},
		{"[[backup]]\nname = 'n'\nrecipients = ['AGE-SECRET-KEY-1hunter2']\nto.here = 'x'\n", "10:15: recipients: this is a secret key"},
		{good, `8:3: missing key "to"`},
		{good + "to = {}\n", "11:6: to: want one of path"},
		{good + "to = { here = 'x', path = '/x' }\n", "to: want one target, found here and path"},
		{good + "to = { host = 'vault' }\n", "host needs path"},
		{good + "to = { host = 'valt', path = '/x' }\n", `no host "valt" (did you mean "vault"?)`},
		{good + "to.path = 'x'\n", "11:11: path: want an absolute path"},
		{good + "to.path = '/home/x'\n", "11:11: path: the unit that makes backups does not see /home"},
		{good + "to.pth = '/x'\n", `11:4: unknown key "pth" (did you mean "path"?)`},
		{good + "to.s3 = { bucket = 'b', secret_access_key = 'hunter2', access_key_id = 'age:x' }\n", "secret_access_key: want where it is"},
		{good + "to.s3 = { bucket = 'b', access_key_id = 'age:x' }\n", "want both access_key_id and secret_access_key"},
		{good + "to.command = []\n", "11:14: command: want a program"},
		{good + "to.here = 'x'\nschedule = 'daily'\n", "12:12: schedule: this backup is pulled by pgfleet"},
		{good + "to = { host = 'vault', path = '/x' }\nschedule = 'daily'\n", "12:12: schedule: this backup is pulled by pgfleet"},
		{good + "to.path = '/x'\nschedule = ''\n", "12:12: schedule: want a time"},
		{good + "to.path = '/x'\nrandomized_delay = '1m'\n", "12:20: randomized_delay: there is no schedule"},
		{good + "to.path = '/x'\nkeep = 0\n", "12:8: keep: 0 is too small"},
		{good + "to.path = '/x'\nmax_age = \"0d\"\n", "12:11: max_age: want a length of time more than none"},
		{good + "to.path = '/x'\nverify_on = 'valt'\n", `12:13: verify_on: no host "valt"`},
		{good + "to.path = '/x'\nrole = 'postgres'\n", "12:8: role: want an account that has no other use"},
		{good + "to.path = '/x'\nrole = 'A'\n", "12:8: role: \"A\" is no name of an account"},
		{good + "to.path = '/x'\ncompression = '-9 x'\n", "12:15: compression: want what pg_dump -Z takes"},
		{good + "to.path = '/x'\nlimit = 'role=primary'\n", "12:9: limit: which member"},
		{good + "to.path = '/x'\nlimit = 'pg02'\n", "12:10: limit: "},
		{good + "to.path = '/x'\non = 'all'\n", `12:6: on: "all" is none of primary, standby`},
		{good + "to.path = '/x'\n" + good + "to.path = '/y'\n", `13:8: backup "n" is here for the second time; the first is at fleet.toml:9:8`},
	} {
		_, err := loadBackups(test.text)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.text, err, test.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %q holds a secret", test.text, err)
		}
	}
}
