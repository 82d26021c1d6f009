package main

import (
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/inventory"
)

func TestParseUnit(t *testing.T) {
	u := parseUnit("LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=1\nInvocationID=abc\nInactiveEnterTimestamp=Thu 2026-11-26 12:00:00 UTC\n\n" +
		"LoadState=loaded\nActiveState=active\nNextElapseUSecRealtime=Fri 2026-11-27 02:30:00 UTC\n")
	if !u.Loaded || u.running() || u.Active != "failed" || u.Invocation != "abc" || u.Ended == nil || u.Next == nil || u.Next.Hour() != 2 || !u.Timer {
		t.Errorf("%+v", u)
	}
	u = parseUnit("LoadState=not-found\nActiveState=inactive\nResult=success\nInactiveEnterTimestamp=\n\nLoadState=not-found\nActiveState=inactive\nNextElapseUSecRealtime=\n")
	if u.Loaded || u.Timer || u.Next != nil || u.Ended != nil {
		t.Errorf("%+v", u)
	}
	if u := parseUnit("LoadState=loaded\nActiveState=activating\n"); !u.running() {
		t.Errorf("%+v", u)
	}
}

func TestFailureIn(t *testing.T) {
	for journal, want := range map[string]string{
		"app: pg_dump: killed\nThe backup has failed: app: pg_dump: killed\nx.service: Main process exited, code=exited, status=1/FAILURE\nFailed to start x.service": "app: pg_dump: killed",
		"/bin/sh: not found\nx.service: Failed with result 'exit-code'.":                                                                                              "/bin/sh: not found",
		"x.service: Failed with result 'timeout'.":                                                                                                                    "x.service: Failed with result 'timeout'.",
		"": "",
	} {
		if got := failureIn(journal); got != want {
			t.Errorf("%q: %q, want %q", journal, got, want)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 12_345: "12 kB", 999_499: "999 kB", 999_500: "1.0 MB", 200_000_000: "200 MB", 2_500_000_000_000: "2.5 TB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	var r rate
	start := time.Unix(0, 0)
	if got := r.add(start, 0); got != 0 {
		t.Error(got)
	}
	for i := 1; i <= 60; i++ {
		got := r.add(start.Add(time.Duration(i)*time.Second), int64(i)*1000)
		if got != 1000 {
			t.Errorf("after %d s: %d", i, got)
		}
	}
	if len(r.at) > 13 {
		t.Errorf("%d points are kept", len(r.at))
	}
}

func TestRenderBackup(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	ended := now.Add(-9 * time.Hour)
	l := backupLine{
		Backup: "nightly", Instance: "pg01", Target: "pg01:/var/backups/pgfleet", Declared: true,
		Unit: &unitState{Loaded: true, Active: "failed", Ended: &ended, Message: "app: No space left on device\x1b[2J"},
		Sets: []setLine{
			{ID: "20261126T023000Z", Began: now.Add(-9 * time.Hour), State: backup.Failing, Why: "app: No space left on device"},
			{ID: "20261125T023000Z", Began: now.Add(-33 * time.Hour), Bytes: 12_000_000, State: backup.Good, Proof: &backup.Proof{OK: true, Level: backup.LevelRestore, At: now.Add(-48 * time.Hour)}},
			{ID: "20261124T023000Z", Began: now.Add(-57 * time.Hour), Bytes: 12_000_000, State: backup.Good},
			{ID: "20261123T023000Z", Began: now.Add(-81 * time.Hour), Bytes: 12_000_000, State: backup.Good, Proof: &backup.Proof{Level: backup.LevelRead, At: now.Add(-3 * time.Hour), Message: "x is cut off\nmore"}},
		},
		Others: []string{"pgBackRest archives the WAL (archive_command)"},
	}
	want := `nightly of pg01 in pg01:/var/backups/pgfleet
  the last run has failed 9 hours ago: app: No space left on device\x1b[2J; there is no timer
  SET               AGE       SIZE   STATE   PROVEN
  20261126T023000Z  9 hours   0 B    failed
  20261125T023000Z  33 hours  12 MB  good    restored 2 days ago
  20261124T023000Z  2 days    12 MB  good    no
  20261123T023000Z  3 days    12 MB  good    failed 3 hours ago: x is cut off
  20261126T023000Z: app: No space left on device
  beside it: pgBackRest archives the WAL (archive_command)
`
	if got := renderBackup(l, now, newStyle(false)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	l = backupLine{Backup: "nightly", Instance: "pg02", Target: "x", Declared: true, Unit: &unitState{}, Problem: "one\ntwo"}
	if got := renderBackup(l, now, newStyle(false)); !strings.Contains(got, "  one\n  two\n") || !strings.Contains(got, "pgfleet apply makes it") || strings.Contains(got, "no set yet") {
		t.Error(got)
	}
}

// healthy is a backup of one instance whose newest set is of an hour before a time.
func healthy(now time.Time) *holding {
	set := func(ago time.Duration) backup.Set {
		return backup.Set{ID: backup.NewID(now.Add(-ago)), Manifest: &backup.Manifest{}}
	}
	began := now.Add(-time.Hour)
	return &holding{
		backup:   &inventory.Backup{Name: "nightly", Schedule: inventory.Positioned[string]{Value: "daily"}, MaxAge: inventory.Age(26 * time.Hour), To: inventory.BackupTarget{Path: "/b"}},
		instance: "pg01", in: &inventory.Instance{Host: &inventory.Host{Name: "pg01"}, Version: 15, Cluster: "main"},
		sets: []backup.Set{set(25 * time.Hour), set(time.Hour)}, unit: &unitState{Loaded: true, Active: "inactive", Timer: true, Began: &began},
	}
}

func TestHealth(t *testing.T) {
	now := time.Now()
	well := healthy(now)
	if x := well.health([]holding{*well}, now); len(x.all()) > 0 {
		t.Errorf("nothing is wrong: %q", x.all())
	}
	for want, change := range map[string]func(*holding){
		"the last run of pgfleet-backup-nightly-15-main has failed: disk": func(h *holding) { h.unit.Active, h.unit.Message = "failed", "disk" },
		"the unit pgfleet-backup-nightly-15-main is not on the host":      func(h *holding) { h.unit = &unitState{} },
		"systemd says nothing about pgfleet-backup-nightly-15-main":       func(h *holding) { h.unit = nil },
		"nightly-15-main.timer is not active":                             func(h *holding) { h.unit.Timer = false },
		"the last run began 50m0s ago and made no set":                    func(h *holding) { at := now.Add(-50 * time.Minute); h.unit.Began = &at },
		"lies in the future": func(h *holding) {
			h.sets = append(h.sets, backup.Set{ID: backup.NewID(now.Add(48 * time.Hour)), Manifest: &backup.Manifest{}})
		},
		"is not good but failed: pg_dump: killed": func(h *holding) {
			h.sets[1].Manifest, h.sets[1].Failed = nil, &backup.Failed{Step: "pg_dump", Message: "killed"}
		},
	} {
		h := healthy(now)
		change(h)
		x := h.health([]holding{*h}, now)
		if len(x.all()) != 1 || !strings.Contains(x.all()[0], want) {
			t.Errorf("got %q, want one with %q", x.all(), want)
		}
	}
	// Of a cluster, one member's sets are enough.
	h := healthy(now)
	h.backup.MaxAge = inventory.Age(2 * time.Hour)
	h.in.Replication = "c"
	h.sets = h.sets[:1]
	other := *healthy(now)
	other.backup, other.in, other.instance = h.backup, &inventory.Instance{Replication: "c"}, "pg02"
	if x := h.health([]holding{*h, other}, now); len(x.all()) > 0 {
		t.Errorf("%q", x.all())
	}
	if x := h.health([]holding{*h}, now); len(x.all()) != 1 || !strings.Contains(x.all()[0], "the newest good set is 25 hours old, and max_age is 2h0m0s") {
		t.Errorf("%q", x.all())
	}
	h.sets = nil
	if x := h.health([]holding{*h}, now); !x.none || len(x.all()) > 0 {
		t.Errorf("%q", x.all())
	}
	h.backup.Absent = true
	if x := h.health([]holding{*h}, now); len(x.all()) > 0 {
		t.Errorf("an absent one: %q", x.all())
	}
}

// What is restored by default is the newest set that no proof speaks against, and what is known of it is said.
func TestToRestore(t *testing.T) {
	now := time.Now()
	h := healthy(now)
	set, err := h.toRestore("")
	if err != nil || set.ID != h.sets[1].ID || h.provenText(set, now) != "it was never verified" {
		t.Errorf("%v, %v, %s", set, err, h.provenText(set, now))
	}
	h.sets[1].Proof = &backup.Proof{Level: backup.LevelRestore, At: now.Add(-time.Minute), Where: "pg09", Message: "rows differ\nmore"}
	const bad = "could not be restored when it was verified on pg09, 1m0s ago: rows differ"
	if set, err = h.toRestore(""); err != nil || set.ID != h.sets[0].ID {
		t.Fatalf("%v, %v", set, err)
	}
	h.sets[0].Proof = &backup.Proof{Level: backup.LevelRestore, OK: true, At: now.Add(-3 * time.Hour), Where: "pg09"}
	if got, want := h.provenText(set, now), "it was restored and compared on pg09, 3 hours ago\npassed over: the set "+h.sets[1].ID+" "+bad; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if set, err = h.toRestore(h.sets[1].ID); err != nil || set.ID != h.sets[1].ID || h.provenText(set, now) != "the set "+set.ID+" "+bad {
		t.Errorf("%v, %v, %s", set, err, h.provenText(set, now))
	}
	h.sets = h.sets[1:]
	if set, err = h.toRestore(""); err != nil || !strings.Contains(h.provenText(set, now), bad) {
		t.Errorf("the only one: %v, %v", set, err)
	}
	if got := h.disproof(now); !strings.Contains(got, bad) {
		t.Error(got)
	}
}

func TestLeftOver(t *testing.T) {
	if got := leftOver("pgfleet_restoring_x"); !strings.Contains(got, `DROP DATABASE "pgfleet_restoring_x"`) && !strings.Contains(got, "DROP DATABASE pgfleet_restoring_x") {
		t.Error(got)
	}
	if got := leftOver("Shop"); !strings.HasSuffix(got, `ALTER DATABASE "Shop" WITH ALLOW_CONNECTIONS true`) {
		t.Error(got)
	}
}

// A proof that a set can be read never hides what came of restoring it.
func TestTakesPlace(t *testing.T) {
	read := func(ok bool) *backup.Proof { return &backup.Proof{Level: backup.LevelRead, OK: ok} }
	restore := func(ok bool) *backup.Proof { return &backup.Proof{Level: backup.LevelRestore, OK: ok} }
	for i, c := range []struct {
		proof, before *backup.Proof
		want          bool
	}{
		{read(true), nil, true}, {read(true), read(false), true}, {read(false), read(true), true},
		{read(true), restore(true), false}, {read(true), restore(false), false}, {read(false), restore(false), false}, {read(false), restore(true), true},
		{restore(true), restore(false), true}, {restore(false), restore(true), true}, {restore(true), read(false), true},
	} {
		if got := takesPlace(c.proof, c.before); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}
