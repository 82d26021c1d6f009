package transporttest

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/transport"
)

// file returns what the host has under a path.
func file(t *testing.T, c transport.Conn, p string) facts.FileInfo {
	t.Helper()
	return read[facts.FileInfo](t, c, facts.File{Path: p})
}

// leftovers fails the test if temporary files remain in a folder.
func leftovers(t *testing.T, c transport.Conn, dir string) {
	t.Helper()
	if s := sh(t, c, "find "+transport.Quote(dir)+" -name '.pgfleet*'"); s != "" {
		t.Errorf("left over: %s", s)
	}
}

func testWriteFiles(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	write := func(f transport.File) facts.FileInfo {
		t.Helper()
		if err := c.WriteFiles(deadline(t), []transport.File{f}); err != nil {
			t.Fatal(err)
		}
		got := file(t, c, f.Path)
		if !bytes.Equal(got.Content, f.Content) {
			t.Errorf("%s: wrote %d bytes, found %d", f.Path, len(f.Content), len(got.Content))
		}
		return got
	}
	mode := func(f facts.FileInfo, want fs.FileMode) {
		t.Helper()
		if f.Mode != want {
			t.Errorf("%s: mode is %o, want %o", f.Path, f.Mode, want)
		}
	}
	mode(write(transport.File{Path: dir + "/new", Content: []byte("1")}), 0o644)
	mode(write(transport.File{Path: dir + "/secret", Content: []byte("1"), Mode: 0o600}), 0o600)
	mode(write(transport.File{Path: dir + "/secret", Content: []byte("22")}), 0o600)
	mode(write(transport.File{Path: dir + "/secret", Content: nil, Mode: fs.ModeSetuid | 0o750}), fs.ModeSetuid|0o750)
	mode(write(transport.File{Path: dir + "/secret", Content: noise(70_000), Mode: 0o400}), 0o400)
	mode(write(transport.File{Path: dir + "/secret", Content: []byte("not writable, yet replaced")}), 0o400)
	write(transport.File{Path: dir + "/$(x) 'q' \"\n", Content: []byte("odd")})

	// A file that is open stays what it was: it is replaced, not overwritten.
	if got := sh(t, c, "cd "+dir+" && exec 3<new && cat <&3"); got != "1" {
		t.Fatalf("new: %q", got)
	}
	inode := sh(t, c, "stat -c %i "+dir+"/new")
	old := file(t, c, dir+"/new")
	now := write(transport.File{Path: dir + "/new", Content: []byte("2")})
	if sh(t, c, "stat -c %i "+dir+"/new") == inode || !now.Modified.After(old.Modified) {
		t.Error("the file was not replaced by a new one")
	}
	leftovers(t, c, dir)
	for _, bad := range []transport.File{{Path: "relative"}, {Path: dir + "/"}, {Path: dir}, {Path: dir + "/none/x"}, {Path: dir + "/x", Owner: "a;b"}, {Path: dir + "/x", Owner: "nosuchuser"}} {
		if err := c.WriteFiles(deadline(t), []transport.File{bad}); err == nil {
			t.Errorf("%+v was written", bad)
		}
	}
	leftovers(t, c, dir)
}

func testWriteLarge(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	a, b := noise(3<<20), noise(3<<20+7)
	if err := c.WriteFiles(deadline(t), []transport.File{{Path: dir + "/a", Content: a}, {Path: dir + "/empty"}, {Path: dir + "/b", Content: b}}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file(t, c, dir+"/a").Content, a) || !bytes.Equal(file(t, c, dir+"/b").Content, b) || file(t, c, dir+"/empty").Size != 0 {
		t.Error("content differs")
	}
}

func testWriteLinks(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	sh(t, c, "cd "+dir+" && mkdir real && echo old >real/f && chmod 640 real/f && ln -s real/f link && ln -s real dirlink && ln -s real/new dangling && mkfifo pipe")
	if err := c.WriteFiles(deadline(t), []transport.File{{Path: dir + "/link", Content: []byte("new")}, {Path: dir + "/dangling", Content: []byte("made")}, {Path: dir + "/dirlink/g", Content: []byte("g")}}); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, c, "cd "+dir+" && cat real/f real/new real/g && readlink link dangling dirlink && stat -c %a real/f"); got != "newmadegreal/f\nreal/new\nreal\n640" {
		t.Errorf("got %q", got)
	}
	if err := c.WriteFiles(deadline(t), []transport.File{{Path: dir + "/pipe", Content: []byte("x")}}); err == nil {
		t.Error("a pipe was replaced")
	}
	leftovers(t, c, dir)
}

// All files of a batch are on the host before the first is touched.
func testWriteAllOrNothing(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	sh(t, c, "cd "+dir+" && echo old >a && mkdir isdir")
	for _, bad := range []transport.File{{Path: dir + "/isdir"}, {Path: dir + "/none/x"}} {
		err := c.WriteFiles(deadline(t), []transport.File{{Path: dir + "/a", Content: []byte("new")}, {Path: dir + "/b", Content: []byte("new")}, bad})
		if err == nil || !strings.Contains(err.Error(), bad.Path) {
			t.Errorf("%s: %v", bad.Path, err)
		}
		if got := sh(t, c, "cd "+dir+" && cat a && ls -A"); got != "old\na\nisdir" {
			t.Errorf("%s: the folder holds %q", bad.Path, got)
		}
	}
}

// Owners and groups, extended attributes, and folders that others own.
func testWriteRights(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	sh(t, c, "cd "+dir+` && mkdir theirs open above && chown postgres:postgres theirs above && chmod 777 open && mkdir above/roots
echo old >mine && chown postgres:postgres mine && chmod 640 mine && echo old >theirs/f && chown postgres:postgres theirs/f && chmod 600 theirs/f && echo old >theirs/roots`)
	write := func(f transport.File) error {
		t.Helper()
		f.Content = []byte("new")
		err := c.WriteFiles(deadline(t), []transport.File{f})
		leftovers(t, c, dir)
		return err
	}
	for _, test := range []struct {
		file transport.File
		want string
	}{
		{transport.File{Path: dir + "/mine"}, "postgres postgres 640"},
		{transport.File{Path: dir + "/mine", Owner: "root", Mode: 0o644}, "root postgres 644"},
		{transport.File{Path: dir + "/mine", Group: "root"}, "root root 644"},
		{transport.File{Path: dir + "/fresh"}, "root root 644"},
		{transport.File{Path: dir + "/given", Owner: "postgres", Group: "postgres", Mode: 0o400}, "postgres postgres 400"},
		{transport.File{Path: dir + "/theirs/f"}, "postgres postgres 600"},
		{transport.File{Path: dir + "/theirs/f", Owner: "postgres", Group: "postgres", Mode: 0o640}, "postgres postgres 640"},
		{transport.File{Path: dir + "/theirs/fresh"}, "postgres postgres 644"},
	} {
		if err := write(test.file); err != nil {
			t.Errorf("%+v: %v", test.file, err)
			continue
		}
		if got := sh(t, c, "stat -c '%U %G %a' "+test.file.Path); got != test.want {
			t.Errorf("%+v: %s, want %s", test.file, got, test.want)
		}
	}
	for _, test := range []struct {
		file transport.File
		why  string
	}{
		{transport.File{Path: dir + "/theirs/x", Owner: "root"}, "its folder belongs to postgres"},
		{transport.File{Path: dir + "/theirs/roots"}, "its folder belongs to postgres"},
		{transport.File{Path: dir + "/open/x"}, "everybody can rename"},
		{transport.File{Path: dir + "/above/roots/x"}, "a folder above belongs to"},
	} {
		if err := write(test.file); err == nil || !strings.Contains(err.Error(), test.why) {
			t.Errorf("%+v: %v, want %q", test.file, err, test.why)
		}
	}
}

func testRemove(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	sh(t, c, "cd "+dir+" && touch -- a 'b  c' -d keep && ln -s keep link && mkdir isdir")
	if err := c.Remove(deadline(t), dir+"/a", dir+"/b  c", dir+"/-d", dir+"/link", dir+"/gone", dir+"/gone/too"); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, c, "ls -A "+dir); got != "isdir\nkeep" {
		t.Errorf("the folder holds %q", got)
	}
	if err := c.Remove(deadline(t), dir+"/isdir"); err == nil {
		t.Error("a folder was removed")
	}
	if err := c.Remove(deadline(t), "relative"); err == nil {
		t.Error("a relative path was accepted")
	}
}
