// Package targettest holds every target of backups to what backup.Target says.
package targettest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pgfleet/pgfleet/internal/backup"
)

// Run runs the suite on targets of one kind. Each call of open returns an empty one. Large is a size in
// bytes that the target does not keep in memory, or sends in several parts.
func Run(t *testing.T, large int, open func(*testing.T) backup.Target) {
	for name, test := range map[string]func(*testing.T, backup.Target, int){
		"Objects": testObjects, "Large": testLarge, "Replaced": testReplaced, "Names": testNames, "Missing": testMissing,
		"ReaderFails": testReaderFails, "WriterFails": testWriterFails, "Context": testContext, "Many": testMany,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t), large) })
	}
}

// Noise returns bytes that look like encrypted ones, the same for the same size.
func Noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(n)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, to backup.Target, name string, content []byte) {
	t.Helper()
	n, digest, err := to.Put(deadline(t), name, struct{ io.Reader }{bytes.NewReader(content)})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	if n != int64(len(content)) || digest != hex.EncodeToString(sum[:]) {
		t.Errorf("%s: %d bytes with the digest %s were put, want %d", name, n, digest, len(content))
	}
}

func wantObject(t *testing.T, in backup.Target, name string, content []byte) {
	t.Helper()
	var got bytes.Buffer
	if err := in.Get(deadline(t), name, &got); err != nil {
		t.Error(err)
	} else if !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%s has %d bytes that are not those which were put", name, got.Len())
	}
}

// wantList compares the names and sizes of objects, as "NAME SIZE", and returns them.
func wantList(t *testing.T, in backup.Target, folder string, want ...string) []backup.Object {
	t.Helper()
	all, err := in.List(deadline(t), folder)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range all {
		got = append(got, fmt.Sprintf("%s %d", o.Name, o.Bytes))
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("list of %q (-want +got):\n%s", folder, d)
	}
	return all
}

func testObjects(t *testing.T, target backup.Target, _ int) {
	const set = "nightly/pg01+second/20261126T023000Z"
	began := time.Now()
	put(t, target, set+"/my%20db.dump.age", Noise(1000))
	put(t, target, set+"/manifest.json", []byte("{}\n"))
	put(t, target, set+"/empty", nil)
	put(t, target, "nightly/pg01/20261126T023000Z/manifest.json", []byte("{}"))
	put(t, target, "nightly2/x", []byte("x"))
	wantObject(t, target, set+"/my%20db.dump.age", Noise(1000))
	wantObject(t, target, set+"/empty", nil)
	one := []string{set + "/empty 0", set + "/manifest.json 3", set + "/my%20db.dump.age 1000"}
	wantList(t, target, set, one...)
	wantList(t, target, "nightly", append(one[:3:3], "nightly/pg01/20261126T023000Z/manifest.json 2")...)
	for _, o := range wantList(t, target, "", append(one[:3:3], "nightly/pg01/20261126T023000Z/manifest.json 2", "nightly2/x 1")...) {
		if d := o.Modified.Sub(began); d < -time.Minute || d > time.Minute || o.Modified.Location() != time.UTC {
			t.Errorf("%s was modified at %s", o.Name, o.Modified)
		}
	}
	if err := target.Remove(deadline(t), set+"/empty", set+"/gone", set+"/my%20db.dump.age", set+"/manifest.json"); err != nil {
		t.Fatal(err)
	}
	wantList(t, target, set)
	wantList(t, target, "", "nightly/pg01/20261126T023000Z/manifest.json 2", "nightly2/x 1")
	if err := target.Remove(deadline(t)); err != nil {
		t.Error(err)
	}
	if strings.TrimSpace(target.String()) == "" {
		t.Error("the target has no name")
	}
}

func testLarge(t *testing.T, target backup.Target, large int) {
	for _, n := range []int{large - 1, large, large + 1, 3*large + 17} {
		name := fmt.Sprintf("a/large-%d", n)
		put(t, target, name, Noise(n))
		wantObject(t, target, name, Noise(n))
	}
}

func testReplaced(t *testing.T, target backup.Target, large int) {
	for _, n := range []int{large + 1, 3, large + 2} {
		put(t, target, "a/proof.json", Noise(n))
		wantObject(t, target, "a/proof.json", Noise(n))
		wantList(t, target, "a", fmt.Sprintf("a/proof.json %d", n))
	}
}

func testNames(t *testing.T, target backup.Target, _ int) {
	for _, name := range []string{"", "..", "../x", "/etc/passwd", "a//b", "a/", "-rf", "a b", "a\n"} {
		if _, _, err := target.Put(deadline(t), name, strings.NewReader("x")); err == nil {
			t.Errorf("%q can be put", name)
		}
		if err := target.Get(deadline(t), name, io.Discard); err == nil {
			t.Errorf("%q can be read", name)
		}
		if err := target.Remove(deadline(t), "a", name); err == nil {
			t.Errorf("%q can be removed", name)
		}
		if _, err := target.List(deadline(t), name); err == nil && name != "" {
			t.Errorf("%q can be listed", name)
		}
	}
	if _, _, err := target.Put(deadline(t), "a/x.partial", strings.NewReader("x")); err == nil {
		t.Error("an unfinished file can be put")
	}
	wantList(t, target, "")
}

func testMissing(t *testing.T, target backup.Target, _ int) {
	wantList(t, target, "nothing")
	wantList(t, target, "")
	if err := target.Get(deadline(t), "a/nothing", io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an object that does not exist: %v", err)
	} else if !strings.Contains(err.Error(), "a/nothing") || !strings.Contains(err.Error(), target.String()) {
		t.Errorf("%v: says neither what nor where", err)
	}
	if err := target.Remove(deadline(t), "a/nothing"); err != nil {
		t.Error(err)
	}
}

// A failing reader yields some bytes and then fails.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err == io.EOF {
		err = f.err
	}
	return n, err
}

func testReaderFails(t *testing.T, target backup.Target, large int) {
	errRead := errors.New("pg_dump has failed")
	put(t, target, "a/old", []byte("old"))
	for _, n := range []int{0, 5, large, 2*large + 5} {
		for _, name := range []string{"a/old", "a/new"} {
			if _, _, err := target.Put(deadline(t), name, &failing{bytes.NewReader(Noise(n)), errRead}); !errors.Is(err, errRead) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
	// io.ErrUnexpectedEOF is what a connection that ended gives: no end either.
	if _, _, err := target.Put(deadline(t), "a/new", &failing{bytes.NewReader(Noise(5)), io.ErrUnexpectedEOF}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream that was cut off: %v", err)
	}
	wantObject(t, target, "a/old", []byte("old"))
	eventually(t, func() bool {
		all, err := target.List(deadline(t), "")
		return err == nil && len(all) == 1
	})
	wantList(t, target, "", "a/old 3")
}

// eventually waits for what happens soon.
func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for began := time.Now(); !is() && time.Since(began) < 10*time.Second; {
		time.Sleep(20 * time.Millisecond)
	}
}

// A full writer takes some bytes and then fails.
type full struct {
	left int
	err  error
}

func (f *full) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, f.err
	}
	return len(b), nil
}

func testWriterFails(t *testing.T, target backup.Target, large int) {
	errWrite := errors.New("pg_restore has failed")
	put(t, target, "a/large", Noise(2*large))
	for _, n := range []int{0, large} {
		if err := target.Get(deadline(t), "a/large", &full{n, errWrite}); !errors.Is(err, errWrite) {
			t.Errorf("a writer that fails: %v", err)
		}
	}
}

func testContext(t *testing.T, target backup.Target, large int) {
	put(t, target, "a/old", []byte("old"))
	ctx, cancel := context.WithCancel(deadline(t))
	// It ends in the middle of what is put.
	r := io.MultiReader(bytes.NewReader(Noise(large+5)), readerFunc(func(b []byte) (int, error) {
		cancel()
		time.Sleep(50 * time.Millisecond)
		return len(b), nil
	}))
	if _, _, err := target.Put(ctx, "a/old", r); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if _, _, err := target.Put(ctx, "a/new", strings.NewReader("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if err := target.Get(ctx, "a/old", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: %v", err)
	}
	if _, err := target.List(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("List: %v", err)
	}
	if err := target.Remove(ctx, "a/old"); !errors.Is(err, context.Canceled) {
		t.Errorf("Remove: %v", err)
	}
	eventually(t, func() bool {
		all, err := target.List(deadline(t), "")
		return err == nil && len(all) == 1
	})
	wantList(t, target, "", "a/old 3")
	wantObject(t, target, "a/old", []byte("old"))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func testMany(t *testing.T, target backup.Target, _ int) {
	var all sync.WaitGroup
	var want []string
	for i := range 12 {
		name := fmt.Sprintf("a/%02d", i)
		want = append(want, fmt.Sprintf("%s %d", name, 1000+i))
		all.Go(func() {
			if _, _, err := target.Put(deadline(t), name, bytes.NewReader(Noise(1000+i))); err != nil {
				t.Error(err)
			}
			var got bytes.Buffer
			if err := target.Get(deadline(t), name, &got); err != nil || !bytes.Equal(got.Bytes(), Noise(1000+i)) {
				t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
			}
		})
	}
	all.Wait()
	wantList(t, target, "a", want...)
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("a/%02d", i))
	}
	if err := target.Remove(deadline(t), names...); err != nil {
		t.Error(err)
	}
	wantList(t, target, "")
}
