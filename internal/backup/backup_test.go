package backup

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// testManifest returns a valid manifest of a run that began at an ID.
func testManifest(id string) *Manifest {
	began, err := ParseID(id)
	if err != nil {
		panic(err)
	}
	return &Manifest{
		Version: 1, Backup: "nightly", Instance: "pg01/second", ID: id, Began: began, Ended: began.Add(time.Minute),
		ServerVersion: "17.5", PgDumpVersion: "17.5", Role: "primary", SystemIdentifier: "7", LSN: "0/1", Timeline: 1,
		Encryption: Encryption{Tool: "age 1.1.1", Recipients: []string{"age1x"}},
		Files: []File{
			{Name: GlobalsName, Kind: KindGlobals, Bytes: 10, SHA256: zeros},
			{Name: "my%20db.dump.age", Kind: KindDatabase, Database: "my db", Owner: "o", Encoding: "UTF8", Bytes: 20, SHA256: zeros},
			{Name: "my%20db.checks.age", Kind: KindChecks, Database: "my db", Bytes: 30, SHA256: zeros},
		},
	}
}

func TestManifest(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Manifest)
		want   string // in the error; "" for none
	}{
		{"as it is", func(*Manifest) {}, ""},
		{"version", func(m *Manifest) { m.Version = 2 }, "it has version 2 and this pgfleet reads 1: use a newer pgfleet"},
		{"no version", func(m *Manifest) { m.Version = 0 }, "version 0"},
		{"id", func(m *Manifest) { m.ID = "../../etc" }, "not the ID of a set"},
		{"another's folder", func(m *Manifest) { m.Backup = "../x" }, "no names of a folder"},
		{"a deeper folder", func(m *Manifest) { m.Backup = "a/b" }, "no names of a folder"},
		{"role", func(m *Manifest) { m.Role = "leader" }, "role"},
		{"out of the folder", func(m *Manifest) { m.Files[1].Name = "../appdb.dump.age" }, "not the name of its file"},
		{"absolute", func(m *Manifest) { m.Files[0].Name = "/etc/passwd" }, "not the name of its file"},
		{"its own name", func(m *Manifest) { m.Files[0].Name = ManifestName }, "not the name of its file"},
		{"kind", func(m *Manifest) { m.Files[0].Kind = "wal" }, "kind"},
		{"another's name", func(m *Manifest) { m.Files[1].Database = "other" }, "other.dump.age"},
		{"no database", func(m *Manifest) { m.Files[1].Database, m.Files[1].Name = "", ".dump.age" }, "of no database"},
		{"twice", func(m *Manifest) { m.Files = append(m.Files, m.Files[1]) }, "twice"},
		{"no globals", func(m *Manifest) { m.Files = m.Files[1:] }, GlobalsName},
		{"checks alone", func(m *Manifest) { m.Files = slices.Delete(m.Files, 1, 2) }, "belongs to no dump"},
		{"digest", func(m *Manifest) { m.Files[0].SHA256 = strings.ToUpper("abcdef") + zeros[6:] }, "SHA-256"},
		{"empty file", func(m *Manifest) { m.Files[0].Bytes = 0 }, "size"},
		{"nobody can read it", func(m *Manifest) { m.Encryption.Recipients = nil }, "recipients"},
		{"time", func(m *Manifest) { m.Ended = m.Began.Add(-time.Second) }, "times"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := testManifest("20261126T023000Z")
			test.change(m)
			text, err := Encode(m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseManifest(text)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(m, got); d != "" {
					t.Error(d)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	if _, err := ParseManifest([]byte(`{"version":1`)); err == nil {
		t.Error("a manifest that was cut off is taken")
	}
}

func TestDocuments(t *testing.T) {
	if _, err := ParseFailed([]byte(`{"version":1,"id":"20261126T023000Z","began":"2026-11-26T02:30:00+00:00","ended":"2026-11-26T02:31:00.123456+00:00","step":"s","message":"m"}`)); err != nil {
		t.Error(err)
	}
	if _, err := ParseFailed([]byte(`{"version":3,"id":"20261126T023000Z"}`)); err == nil {
		t.Error("an unknown version is taken")
	}
	if _, err := ParseProof([]byte(`{"version":1,"level":"restore","ok":true,"manifest_sha256":"` + zeros + `"}`)); err != nil {
		t.Error(err)
	}
	for _, text := range []string{`{"version":1,"level":"seen","manifest_sha256":"` + zeros + `"}`, `{"version":1,"level":"read"}`, `{"version":2,"level":"read","manifest_sha256":"` + zeros + `"}`} {
		if _, err := ParseProof([]byte(text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

func FuzzManifest(f *testing.F) {
	text, err := Encode(testManifest("20261126T023000Z"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"files":[{"name":"../x"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if path.Base(file.Name) != file.Name || CheckName(path.Join(SetFolder(m.Backup, m.Instance, m.ID), file.Name)) != nil && len(m.Backup)+len(m.Instance)+len(file.Name) < 800 {
				t.Errorf("%q leads somewhere else", file.Name)
			}
		}
	})
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"appdb", "my db", "a/b", "..", "%41", "Ü", "\x00", "a.b", "-x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		part := Escape(s)
		if s == "" {
			return
		}
		if back, err := Unescape(part); err != nil || back != s {
			t.Errorf("%q became %q, and that %q (%v)", s, part, back, err)
		}
		if strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-%") != "" {
			t.Errorf("%q became %q", s, part)
		}
		if back, err := Unescape(s); err == nil && Escape(back) != s {
			t.Errorf("%q is taken for %q, which is written otherwise", s, back)
		}
	})
}

func TestNames(t *testing.T) {
	if got, want := SetFolder("nightly", "pg01/second", "20261126T023000Z")+"/"+DumpName("my.db"), "nightly/pg01+second/20261126T023000Z/my%2Edb.dump.age"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, name := range []string{"", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "-b/a", "a b", "a\nb", "ü"} {
		if CheckName(name) == nil {
			t.Errorf("%q is taken", name)
		}
	}
	for _, id := range []string{"", "20261126T023000", "20261126T023000.5Z", "20261326T023000Z", "20261126T023000Z/.."} {
		if _, err := ParseID(id); err == nil {
			t.Errorf("%q is taken", id)
		}
	}
	if _, err := Unescape("%2e"); err == nil {
		t.Error("lower-case digits are taken")
	}
}

// testSet returns a set as it is in a state, of a run that began a minute past an hour.
func testSet(hour int, state State) Set {
	began := time.Date(2026, 11, 26, hour, 1, 0, 0, time.UTC)
	s := Set{Backup: "nightly", Instance: "pg01/second", ID: NewID(began)}
	add := func(name string, n int64) {
		s.Objects = append(s.Objects, Object{Name: name, Bytes: n, Modified: began})
	}
	add(GlobalsName, 10)
	switch state {
	case Good, Damaged:
		s.Manifest = testManifest(s.ID)
		add("my%20db.dump.age", 20)
		add(ManifestName, 100)
		if state == Good {
			add("my%20db.checks.age", 30)
		}
	case Failing:
		s.Failed = &Failed{Version: 1, ID: s.ID, Step: "dump", Message: "no space"}
		add(FailedName, 100)
	case CutOff, Running:
		add("my%20db.dump.age"+PartialSuffix, 5)
		if state == Running {
			s.Objects[1].Modified = began.Add(100 * time.Hour)
		}
	}
	return s
}

func TestStates(t *testing.T) {
	now := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	for _, want := range []State{Good, Failing, CutOff, Running, Damaged} {
		s := testSet(1, want)
		at := now
		if want == Running {
			at = s.Began().Add(100*time.Hour + time.Minute)
		}
		got, why := s.State(at, false)
		if got != want || (why == "") != (want == Good) {
			t.Errorf("%s: got %s (%s)", want, got, why)
		}
	}
	s := testSet(1, CutOff)
	if got, _ := s.State(now, true); got != Running {
		t.Errorf("a set whose run goes on is %s", got)
	}
	s = testSet(1, Good)
	s.Objects[1].Bytes = 19
	if got, why := s.State(now, false); got != Damaged || why != "my%20db.dump.age has 19 bytes and should have 20" {
		t.Errorf("a set with a short file is %s: %s", got, why)
	}
	s = testSet(1, Good)
	s.Proof = &Proof{ManifestSHA256: zeros}
	s.ManifestSHA256 = strings.Repeat("1", 64)
	if s.Proven() != nil {
		t.Error("the proof of another manifest counts")
	}
}

func TestGroupSets(t *testing.T) {
	sets := GroupSets([]Object{
		{Name: "nightly/pg01+second/20261126T023000Z/manifest.json"},
		{Name: "nightly/pg01/20261127T023000Z/manifest.json"},
		{Name: "nightly/pg01/20261126T023000Z/globals.sql.age"},
		{Name: "nightly/pg01/20261126T023000Z/globals.sql.age.partial"},
		{Name: "nightly/pg01/lost+found/x"},
		{Name: "nightly/pg01/20261126T023000Z/deeper/x"},
		{Name: "readme"},
	})
	var got []string
	for _, s := range sets {
		got = append(got, s.Folder(), string(rune('0'+len(s.Objects))))
	}
	want := []string{"nightly/pg01/20261126T023000Z", "2", "nightly/pg01/20261127T023000Z", "1", "nightly/pg01+second/20261126T023000Z", "1"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRetain(t *testing.T) {
	tests := []struct {
		name string
		sets string // the states of sets from the oldest to the newest, as letters
		keep int
		want string // - for those that go, + for those that stay
	}{
		{"none", "", 2, ""},
		{"fewer", "g", 2, "+"},
		{"as many", "gg", 2, "++"},
		{"more", "gggg", 2, "--++"},
		{"keep nothing means one", "ggg", 0, "--+"},
		{"the newest failed", "ggggf", 2, "+++++"},
		{"the newest was cut off", "ggggc", 2, "+++++"},
		{"the newest is damaged", "ggggd", 2, "+++++"},
		{"good again", "gggfgg", 2, "---+++"},
		{"the newest runs", "gggr", 2, "-+++"},
		{"the newest runs, the one before failed", "gggfr", 2, "+++++"},
		{"failed ones do not count", "gfcgfg", 2, "-+++++"},
		{"an interrupted removal is ended", "dgg", 2, "-++"},
		{"a damaged one in between", "gdg", 2, "+++"},
		{"all failed", "fff", 1, "+++"},
		{"one that verify refused does not count", "gpgg", 2, "-+++"},
		{"another cluster's are counted for themselves", "ggsssg", 2, "-+-+++"},
		{"a clock was wrong", "gggF", 2, "++++"},
		{"the newest was refused by verify", "gggp", 2, "++++"},
	}
	states := map[rune]State{'g': Good, 'f': Failing, 'c': CutOff, 'd': Damaged, 'r': Running}
	now := time.Date(2026, 11, 30, 5, 2, 0, 0, time.UTC)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var sets []Set
			for i, letter := range test.sets {
				s := testSet(i, states[letter])
				switch letter {
				case 's': // another system's
					s = testSet(i, Good)
					s.Manifest.SystemIdentifier = "8"
				case 'F': // in the future
					s = testSet(i, Good)
					s.ID = NewID(now.Add(48 * time.Hour))
				case 'p':
					s = testSet(i, Good)
					s.Proof = &Proof{Message: "broken", ManifestSHA256: s.ManifestSHA256}
				}
				if letter == 'r' {
					s.Objects[1].Modified = now
				}
				sets = append(sets, s)
			}
			// Another instance's sets are judged by themselves.
			other := testSet(0, Good)
			other.Instance = "pg02"
			sets = append(sets, other)
			got := ""
			for _, v := range Retain(sets, test.keep, now, nil) {
				if v.Reason == "" {
					t.Errorf("%s: no reason is given", v.Set.ID)
				}
				if v.Delete {
					got += "-"
				} else {
					got += "+"
				}
			}
			if got != test.want+"+" {
				t.Errorf("got %s, want %s", got, test.want+"+")
			}
		})
	}
	s := testSet(3, Good)
	names := s.Removable()
	if len(names) != 4 || path.Base(names[3]) != ManifestName {
		t.Errorf("removed are %q", names)
	}
}

func TestCompareChecks(t *testing.T) {
	dumped, err := ParseChecks(strings.NewReader(`{"kind":"sequence","relation":"a.s","last_value":9223372036854775807,"is_called":true,"increment":1}
{"kind":"sequence","relation":"a.down","last_value":-3,"is_called":true,"increment":-1}
{"kind":"sequence","relation":"a.fresh","last_value":1,"is_called":false,"increment":1}
{"kind":"sequence","relation":"a.busy","last_value":5,"is_called":true,"increment":1}
{"kind":"table","relation":"a.t","rows":3,"sum":"17"}
{"kind":"table","relation":"a.u","rows":0,"sum":"0"}
{"kind":"materialized view","relation":"a.m","rows":1,"sum":"4"}
{"relation":"","kind":"large objects","rows":2,"sum":"5"}
`))
	if err != nil {
		t.Fatal(err)
	}
	if d := CompareChecks(dumped, dumped); d != nil {
		t.Errorf("equal ones differ: %q", d)
	}
	now, err := ParseChecks(strings.NewReader(`{"kind":"sequence","relation":"a.s","last_value":1,"is_called":false,"increment":1}
{"kind":"sequence","relation":"a.down","last_value":-2,"is_called":true,"increment":-1}
{"kind":"sequence","relation":"a.fresh","last_value":1,"is_called":true,"increment":1}
{"kind":"sequence","relation":"a.busy","last_value":9,"is_called":true,"increment":1}
{"kind":"table","relation":"a.t","rows":3,"sum":"18"}
{"kind":"table","relation":"a.new","rows":1}
{"kind":"table","relation":"a.unlogged","rows":0}
{"kind":"materialized view","relation":"a.m","rows":2,"sum":"5"}
{"kind":"materialized view","relation":"a.busy","rows":2,"sum":"5"}
{"relation":"","kind":"large objects","rows":1,"sum":"5"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"there are 1 large objects and were 2",
		"materialized view a.m has 2 rows and had 1: a restore refreshes it, and it may not have been fresh or depends on the time",
		"sequence a.down is at -2 and was at -3",
		"sequence a.s is at 1 (not yet taken) and was at 9223372036854775807",
		"table a.t: the contents differ",
		"table a.u is missing",
		"table a.new was not there",
	}
	if d := cmp.Diff(want, CompareChecks(dumped, now)); d != "" {
		t.Error(d)
	}
	for _, text := range []string{"{}", `{"kind":"view","relation":"v"}`, `{"kind":"table"}`, "x", `{"kind":"table","relation":"t"}` + "\n" + `{"kind":"table","relation":"t"}`} {
		if _, err := ParseChecks(strings.NewReader(text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

func FuzzChecks(f *testing.F) {
	f.Add(`{"kind":"table","relation":"t","rows":3,"sum":"17"}`)
	f.Add(`{"kind":"large objects"}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseChecks(strings.NewReader(text))
		if err != nil {
			return
		}
		if d := CompareChecks(c, c); d != nil {
			t.Errorf("equal ones differ: %q", d)
		}
		if _, err := json.Marshal(c); err != nil {
			t.Error(err)
		}
	})
}
