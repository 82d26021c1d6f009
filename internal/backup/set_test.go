package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/backup/target"
)

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const globals = "CREATE ROLE app;\n"

// makeSet writes a set with roles alone to a target, and returns its folder.
func makeSet(t *testing.T, to backup.Target, recipients ...age.Recipient) string {
	t.Helper()
	m := backup.Manifest{
		Version: 1, Backup: "nightly", Instance: "pg01", ID: "20260101T000000Z", Began: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Ended: time.Date(2026, 1, 1, 0, 0, 1, 0, time.UTC),
		ServerVersion: "15.5", PgDumpVersion: "15.5", Role: "primary",
	}
	folder := backup.SetFolder(m.Backup, m.Instance, m.ID)
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipients...)
	if err == nil {
		_, err = io.WriteString(w, globals+"--"+strings.Repeat(" padding", 20000))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	for _, r := range recipients {
		m.Encryption.Recipients = append(m.Encryption.Recipients, r.(*age.X25519Recipient).String())
	}
	f := backup.File{Name: backup.GlobalsName, Kind: backup.KindGlobals}
	if f.Bytes, f.SHA256, err = to.Put(t.Context(), folder+"/"+f.Name, &sealed); err != nil {
		t.Fatal(err)
	}
	m.Files = []backup.File{f}
	text, err := backup.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := to.Put(t.Context(), folder+"/"+backup.ManifestName, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return folder
}

// only reads the one set of a target.
func only(t *testing.T, of backup.Target) *backup.Set {
	t.Helper()
	sets, err := backup.ReadSets(t.Context(), of, "")
	if err != nil || len(sets) != 1 {
		t.Fatalf("%d sets, %v", len(sets), err)
	}
	if state, why := sets[0].State(time.Now(), false); state != backup.Good {
		t.Fatalf("%s: %s", state, why)
	}
	return &sets[0]
}

func TestReader(t *testing.T) {
	dir, id := t.TempDir(), newIdentity(t)
	to := target.NewFolder(dir)
	file := filepath.Join(dir, makeSet(t, to, id.Recipient()), backup.GlobalsName)
	r := &backup.Reader{Target: to, Set: only(t, to), Identities: []age.Identity{id}}
	g, err := r.Globals(t.Context())
	if err != nil || len(g.Roles) != 1 || g.Roles[0] != "app" {
		t.Errorf("%v, %v", g, err)
	}
	r.Identities = []age.Identity{newIdentity(t)}
	if _, err := r.Globals(t.Context()); err == nil || !strings.Contains(err.Error(), "none of the identities opens nightly/pg01/20260101T000000Z/globals.sql.age, which is encrypted to "+id.Recipient().String()) {
		t.Error(err)
	}
	r.Identities = []age.Identity{id}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]struct {
		content []byte
		want    string
	}{
		"cut off in the body":   {whole[:len(whole)-5000], "is cut off: it has"},
		"cut off in the header": {whole[:40], "is cut off: it has 40 bytes"},
		"empty":                 {nil, "is cut off: it has 0 bytes"},
		"longer":                {append(bytes.Clone(whole), 'x'), "has "},
		"a bit of the body":     {flip(whole, len(whole)/2), "was changed since it was made"},
		"a bit of the header":   {flip(whole, 60), "was changed since it was made"},
		"the last bit":          {flip(whole, len(whole)-1), "was changed since it was made"},
	} {
		if err := os.WriteFile(file, change.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := r.Globals(t.Context())
		var damaged *backup.DamagedError
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "globals.sql.age "+change.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// A stumbling target fails at its nth write or removal.
type stumbling struct {
	backup.Target
	left int
}

var errStumbled = errors.New("stumbled")

func (s *stumbling) step() bool {
	s.left--
	return s.left == 0
}

func (s *stumbling) Put(ctx context.Context, name string, r io.Reader) (int64, string, error) {
	if s.step() {
		return 0, "", errStumbled
	}
	return s.Target.Put(ctx, name, r)
}

func (s *stumbling) Remove(ctx context.Context, names ...string) error {
	if s.step() {
		return errStumbled
	}
	return s.Target.Remove(ctx, names...)
}

// Wherever encrypting anew ends, the set is good, one of the keys opens it, and doing it again brings it to its end.
func TestRekey(t *testing.T) {
	old, fresh := newIdentity(t), newIdentity(t)
	recipients := []age.Recipient{fresh.Recipient(), old.Recipient()}
	written := []string{fresh.Recipient().String(), old.Recipient().String()}
	for n := 1; ; n++ {
		to := target.NewFolder(t.TempDir())
		makeSet(t, to, old.Recipient())
		set := only(t, to)
		proof := &backup.Proof{Version: 1, At: time.Now(), Level: backup.LevelRestore, OK: true, ManifestSHA256: set.ManifestSHA256}
		if err := backup.PutProof(t.Context(), to, set, proof); err != nil {
			t.Fatal(err)
		}
		stumbles := &stumbling{to, n}
		r := &backup.Reader{Target: stumbles, Set: only(t, to), Identities: []age.Identity{old}}
		err := r.Rekey(t.Context(), recipients, written, "age", nil)
		if err != nil && !errors.Is(err, errStumbled) {
			t.Fatalf("%d: %v", n, err)
		}
		done := err == nil
		r.Target, r.Set = to, only(t, to)
		if _, err := r.Globals(t.Context()); err != nil {
			t.Errorf("%d: %v", n, err)
		}
		if !done {
			if r.Set.Manifest.Stale(written) {
				if err := r.Rekey(t.Context(), recipients, written, "age", nil); err != nil {
					t.Errorf("%d, again: %v", n, err)
				}
			} else if err := to.Remove(t.Context(), r.Set.Leftovers()...); err != nil {
				t.Errorf("%d: %v", n, err)
			}
			r.Set = only(t, to)
		}
		r.Identities = []age.Identity{fresh}
		if g, err := r.Globals(t.Context()); err != nil || g.Roles[0] != "app" {
			t.Errorf("%d: %v", n, err)
		}
		if left := r.Set.Leftovers(); len(left) > 0 || r.Set.Manifest.Stale(written) {
			t.Errorf("%d: left %q, %q", n, left, r.Set.Manifest.Encryption.Recipients)
		}
		if done {
			if p := r.Set.Proven(); p == nil || !p.OK || p.Level != backup.LevelRestore {
				t.Errorf("the proof is lost: %+v", p)
			}
			if n < 4 {
				t.Errorf("only %d steps", n)
			}
			return
		}
	}
}

func TestCheckRecipients(t *testing.T) {
	mine, other := newIdentity(t), newIdentity(t)
	r := &backup.Reader{Identities: []age.Identity{mine}}
	if err := r.CheckRecipients([]age.Recipient{other.Recipient(), mine.Recipient()}); err != nil {
		t.Error(err)
	}
	if err := r.CheckRecipients([]age.Recipient{other.Recipient()}); err == nil {
		t.Error("nobody here could read it: no error")
	}
}

// A set's manifest may name files of a later generation, and no others.
func TestGenerations(t *testing.T) {
	sum := sha256.Sum256(nil)
	text := func(names ...string) []byte {
		m := backup.Manifest{
			Version: 1, Backup: "b", Instance: "i", ID: "20260101T000000Z", Began: time.Unix(1, 0), Ended: time.Unix(2, 0), ServerVersion: "15.5", Role: "primary",
			Encryption: backup.Encryption{Recipients: []string{"age1x"}},
		}
		for _, n := range names {
			m.Files = append(m.Files, backup.File{Name: n, Kind: backup.KindGlobals, Bytes: 1, SHA256: hex.EncodeToString(sum[:])})
		}
		b, err := backup.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, name := range []string{"globals.sql.age", "globals.sql.r1.age", "globals.sql.r12.age"} {
		if _, err := backup.ParseManifest(text(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"globals.sql.r0.age", "globals.sql.r01.age", "globals.sql.rx.age", "../globals.sql.r1.age", "globals.sql.r1.r1.age"} {
		if _, err := backup.ParseManifest(text(name)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := backup.ParseManifest(text("globals.sql.age", "globals.sql.r1.age")); err == nil {
		t.Error("one file twice: no error")
	}
}
