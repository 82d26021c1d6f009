// Package transporttest is the conformance suite of transport.Conn: what every
// Conn must do, tried on a host that it connects to.
//
//	transporttest.Run(t, transporttest.Host{Open: dial, Dir: "/root/work"})
package transporttest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/transport"
)

// A Host is what the suite runs on.
type Host struct {
	// Open returns a new connection, which the suite closes.
	Open func(t *testing.T) transport.Conn
	// Dir is a folder on the host where root may write and nobody else; the
	// suite makes folders in it and leaves them there.
	Dir string
	// Users: root and postgres are really different users on the host, and
	// /var/lib/postgresql is the home of postgres.
	Users bool
	// Debian: systemd runs there, and dpkg manages its packages.
	Debian bool
	// Postgres is a server on the host; nil if there is none. Its port
	// answers on 127.0.0.1 if TCP is set.
	Postgres *transport.Endpoint
	TCP      bool
	// Brief leaves out the tests that depend neither on how rights are got nor
	// on how many sessions there may be.
	Brief bool
}

// Run runs the suite.
func Run(t *testing.T, h Host) {
	for _, test := range []struct {
		name  string
		run   func(*testing.T, Host, transport.Conn)
		brief bool
	}{
		{"Files", testFiles, false}, {"Globs", testGlobs, false}, {"ReadHost", testReadHost, false}, {"ReadTwice", testReadTwice, true},
		{"Probe", testProbe, false}, {"CertificateFile", testCertificateFile, false}, {"Debian", testDebian, false},
		{"Run", testRun, true}, {"RunInput", testRunInput, true}, {"RunOutput", testRunOutput, false}, {"RunUsers", testRunUsers, true},
		{"RunEnds", testRunEnds, true}, {"RunMany", testRunMany, true}, {"Pipe", testPipe, true}, {"PipeEnds", testPipeEnds, true},
		{"WriteFiles", testWriteFiles, false}, {"WriteLarge", testWriteLarge, false}, {"WriteLinks", testWriteLinks, false},
		{"WriteAllOrNothing", testWriteAllOrNothing, true}, {"WriteRights", testWriteRights, true}, {"PlantedLinks", testPlantedLinks, true}, {"Remove", testRemove, false}, {"Fenced", testFenced, true},
		{"Postgres", testPostgres, true}, {"PostgresLarge", testPostgresLarge, false}, {"PostgresCancel", testPostgresCancel, true},
		{"ReadServer", testReadServer, true}, {"Cluster", testCluster, false}, {"Contents", testContents, false}, {"Deparse", testDeparse, false}, {"Rehearse", testRehearse, false}, {"Query", testQuery, false}, {"NoServer", testNoServer, true}, {"DialPostgres", testDialPostgres, true},
		{"Context", testContext, false}, {"Closed", testClosed, false},
	} {
		if h.Brief && !test.brief || !h.has(test.name) {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			c := h.Open(t)
			defer c.Close()
			test.run(t, h, c)
		})
	}
}

// has reports whether the host has what a test is about.
func (h Host) has(test string) bool {
	switch test {
	case "Debian":
		return h.Debian
	case "RunUsers", "WriteRights", "PlantedLinks":
		return h.Users
	case "Postgres", "PostgresLarge", "PostgresCancel", "ReadServer", "Query", "Cluster", "Contents", "Deparse", "Rehearse":
		return h.Postgres != nil
	case "DialPostgres":
		return h.TCP
	}
	return true
}

// context returns one that ends when a test has hung.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// sh runs a script as root and returns what it printed.
func sh(t *testing.T, c transport.Conn, script string) string {
	t.Helper()
	out, err := c.Run(deadline(t), transport.Command{Script: script, User: "root"})
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	if out.ExitCode != 0 {
		t.Fatalf("%s: exit status %d: %s", script, out.ExitCode, out.Stderr)
	}
	return strings.TrimSuffix(string(out.Stdout), "\n")
}

// folder makes a folder of its own for a test.
func folder(t *testing.T, h Host, c transport.Conn) string {
	t.Helper()
	return sh(t, c, "umask 022; d=$(mktemp -d "+transport.Quote(h.Dir)+"/t.XXXXXX) && chmod 755 $d && echo $d")
}

// read asks one question, which must be answered.
func read[T any](t *testing.T, c transport.Conn, r facts.Read) T {
	t.Helper()
	answers, err := c.Read(deadline(t), []facts.Read{r})
	if err != nil {
		t.Fatalf("%#v: %v", r, err)
	}
	if answers[r].Err != nil {
		t.Fatalf("%#v: %v", r, answers[r].Err)
	}
	v, ok := answers[r].Value.(T)
	if !ok {
		t.Fatalf("%#v: the answer is a %T", r, answers[r].Value)
	}
	return v
}

// noise is content that no text handling leaves alone.
func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(n)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func testFiles(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	odd := dir + "/it's \"odd\"\n $(x) *é\x01"
	files := map[string][]byte{
		dir + "/empty": {}, dir + "/zeros": make([]byte, 5000), dir + "/noise": noise(100_000),
		dir + "/E": []byte("E0\nS x 0 0\n"), odd: []byte("odd"),
	}
	var write []transport.File
	for p, content := range files {
		write = append(write, transport.File{Path: p, Content: content, Mode: 0o640})
	}
	if err := c.WriteFiles(deadline(t), write); err != nil {
		t.Fatal(err)
	}
	sh(t, c, "cd "+dir+" && ln -s noise link && ln -s gone dangling && mkdir sub && ln -s sub dirlink && head -c 4194305 /dev/zero >large && head -c 4194304 /dev/zero >max && ln noise hard")
	reads := []facts.Read{
		facts.File{Path: dir + "/link"}, facts.File{Path: dir + "/dangling"}, facts.File{Path: dir + "/gone"}, facts.File{Path: dir + "/noise/x"},
		facts.File{Path: dir + "/sub"}, facts.File{Path: dir + "/dirlink"}, facts.File{Path: dir + "/large"}, facts.File{Path: dir + "/max"}, facts.File{Path: dir + "/hard"},
		facts.File{Path: "relative"},
	}
	for p := range files {
		reads = append(reads, facts.File{Path: p})
	}
	answers, err := c.Read(deadline(t), reads)
	if err != nil {
		t.Fatal(err)
	}
	info := func(p string) facts.FileInfo {
		t.Helper()
		a := answers[facts.File{Path: p}]
		if a.Err != nil {
			t.Fatalf("%q: %v", p, a.Err)
		}
		return a.Value.(facts.FileInfo)
	}
	for p, want := range files {
		f := info(p)
		if !f.Exists || !f.Regular || f.Dir || f.TooLarge || f.Path != p || f.Resolved != p || f.Size != int64(len(want)) || f.Mode != 0o640 || f.Owner == "" || f.Group == "" {
			t.Errorf("%q: %+v", p, f)
		}
		if f.Content == nil || !bytes.Equal(f.Content, want) {
			t.Errorf("%q: content of %d bytes differs from the %d written", p, len(f.Content), len(want))
		}
		if time.Since(f.Modified).Abs() > time.Hour || time.Since(f.Changed).Abs() > time.Hour || f.Modified.Nanosecond() == 0 && f.Changed.Nanosecond() == 0 {
			t.Errorf("%q: modified %s, changed %s", p, f.Modified, f.Changed)
		}
	}
	if f := info(dir + "/link"); !f.Regular || f.Resolved != dir+"/noise" || !bytes.Equal(f.Content, files[dir+"/noise"]) {
		t.Errorf("link: %v, %d bytes", f.Resolved, len(f.Content))
	}
	if f := info(dir + "/hard"); !bytes.Equal(f.Content, files[dir+"/noise"]) {
		t.Errorf("hard link: %d bytes", len(f.Content))
	}
	if f := info(dir + "/dangling"); f.Exists || f.Resolved != dir+"/gone" {
		t.Errorf("dangling link: %+v", f)
	}
	for _, p := range []string{dir + "/gone", dir + "/noise/x"} {
		if f := info(p); f.Exists || f.Path != p {
			t.Errorf("%s: %+v", p, f)
		}
	}
	for _, p := range []string{dir + "/sub", dir + "/dirlink"} {
		if f := info(p); !f.Exists || !f.Dir || f.Regular || f.Content != nil {
			t.Errorf("%s: %+v", p, f)
		}
	}
	if f := info(dir + "/large"); !f.TooLarge || f.Content != nil || f.Size != facts.MaxFileSize+1 {
		t.Errorf("large: %d bytes, %d of content, too large: %t", f.Size, len(f.Content), f.TooLarge)
	}
	if f := info(dir + "/max"); f.TooLarge || len(f.Content) != facts.MaxFileSize {
		t.Errorf("max: %d bytes of content, too large: %t", len(f.Content), f.TooLarge)
	}
	if answers[facts.File{Path: "relative"}].Err == nil {
		t.Error("a relative path was accepted")
	}
}

func testGlobs(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	var write []transport.File
	for _, n := range []string{"b.conf", "a.conf", "B.conf", ".hidden.conf", "c.conf~", "two words.conf", "new\nline.conf", "-n.conf"} {
		write = append(write, transport.File{Path: dir + "/" + n, Content: []byte(n)})
	}
	if err := c.WriteFiles(deadline(t), write); err != nil {
		t.Fatal(err)
	}
	want := []string{"-n.conf", "B.conf", "a.conf", "b.conf", "new\nline.conf", "two words.conf"}
	var got []string
	for _, f := range read[[]facts.FileInfo](t, c, facts.Files{Glob: dir + "/*.conf"}) {
		got = append(got, path.Base(f.Path))
		if string(f.Content) != path.Base(f.Path) {
			t.Errorf("%q holds %q", f.Path, f.Content)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Files (-want +got):\n%s", d)
	}
	got = nil
	for _, n := range read[[]string](t, c, facts.Names{Glob: dir + "/*.conf"}) {
		got = append(got, path.Base(n))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Names (-want +got):\n%s", d)
	}
	for _, r := range []facts.Read{facts.Names{Glob: dir + "/*.nothing"}, facts.Names{Glob: dir + "/$(touch " + dir + "/x)"}, facts.Names{Glob: dir + "/a b; c"}} {
		if n := read[[]string](t, c, r); len(n) != 0 {
			t.Errorf("%v: %q", r, n)
		}
	}
	if n := read[[]facts.FileInfo](t, c, facts.Files{Glob: dir + "/nothing*"}); len(n) != 0 {
		t.Errorf("nothing: %v", n)
	}
}

func testReadHost(t *testing.T, h Host, c transport.Conn) {
	info := read[facts.OSInfo](t, c, facts.OS{})
	if info.ID == "" || info.Hostname == "" || info.Kernel == "" || info.Arch == "" || info.User == "" || time.Since(info.Clock).Abs() > time.Minute {
		t.Errorf("%+v", info)
	}
	read[[]string](t, c, facts.Libraries{Version: 15})
	if s := read[facts.CiphersInfo](t, c, facts.Ciphers{List: "ECDHE+AESGCM"}); s.Known && !s.Valid {
		t.Errorf("%+v", s)
	}
	for _, list := range []string{"BAD", "-help", "--", "'; exit 1"} {
		if s := read[facts.CiphersInfo](t, c, facts.Ciphers{List: list}); s.Known && s.Valid {
			t.Errorf("%s: %+v", list, s)
		}
	}
	sockets := read[[]netip.AddrPort](t, c, facts.Sockets{})
	if len(sockets) == 0 || !slices.IsSortedFunc(sockets, netip.AddrPort.Compare) {
		t.Errorf("sockets: %v", sockets)
	}
}

func testReadTwice(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	for i := range 3 {
		if err := c.WriteFiles(deadline(t), []transport.File{{Path: dir + "/x", Content: fmt.Appendf(nil, "%d", i)}}); err != nil {
			t.Fatal(err)
		}
		if f := read[facts.FileInfo](t, c, facts.File{Path: dir + "/x"}); string(f.Content) != fmt.Sprint(i) {
			t.Errorf("%d: %q", i, f.Content)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			a, err := c.Read(deadline(t), []facts.Read{facts.File{Path: dir + "/x"}, facts.File{Path: dir + "/x"}})
			if err != nil {
				t.Error(err)
			} else if f, _ := a[facts.File{Path: dir + "/x"}].Value.(facts.FileInfo); string(f.Content) != "2" {
				t.Errorf("at once: %+v", a)
			}
		})
	}
	wg.Wait()
	if a, err := c.Read(deadline(t), nil); err != nil || len(a) != 0 {
		t.Errorf("no questions: %v, %v", a, err)
	}
}

func testProbe(t *testing.T, h Host, c transport.Conn) {
	for _, test := range []struct {
		script string
		want   facts.ProbeResult
	}{
		{"true", facts.ProbeResult{}},
		{"echo a; echo b >&2; exit 3", facts.ProbeResult{ExitCode: 3, Output: "a\nb"}},
		{"printf 'x=1'", facts.ProbeResult{Output: "x=1"}},
		{"cat; echo 'it'\\''s'", facts.ProbeResult{Output: "it's"}},
		{"if", facts.ProbeResult{ExitCode: 2}},
	} {
		got := read[facts.ProbeResult](t, c, facts.Probe{Script: test.script, User: "root"})
		if test.script == "if" {
			got.Output = ""
			got.ExitCode = min(got.ExitCode, 2)
		}
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.script, d)
		}
	}
	if got := read[facts.ProbeResult](t, c, facts.Probe{Script: "head -c 1000000 /dev/zero | tr '\\0' x; echo end"}); len(got.Output) > 16<<10 || !strings.HasSuffix(got.Output, "xend") {
		t.Errorf("a long output: %d bytes", len(got.Output))
	}
	if h.Users {
		if got := read[facts.ProbeResult](t, c, facts.Probe{Script: "id -un; echo $HOME; pwd", User: "postgres"}); got.Output != "postgres\n/var/lib/postgresql\n/" {
			t.Errorf("as postgres: %q", got.Output)
		}
	}
	r := facts.Probe{Script: "true", User: "x; y"}
	if a, err := c.Read(deadline(t), []facts.Read{r}); err != nil || a[r].Err == nil {
		t.Errorf("a user that is no name: %v, %v", a, err)
	}
}

func testCertificateFile(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	if _, err := c.Run(deadline(t), transport.Command{Script: "command -v openssl"}); err != nil {
		t.Fatal(err)
	}
	sh(t, c, "cd "+dir+" && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -keyout key -out cert 2>/dev/null && cat key cert >both && openssl ec -in key -aes256 -passout pass:x -out locked 2>/dev/null && openssl pkey -in key -pubout -out pub && echo nothing >none")
	pub := sh(t, c, "cat "+dir+"/pub") + "\n"
	cert := sh(t, c, "cat "+dir+"/cert") + "\n"
	for _, test := range []struct {
		name, certs, key string
		problem          bool
	}{{"cert", cert, "", false}, {"key", "", pub, false}, {"both", cert, pub, false}, {"locked", "", "", true}, {"none", "", "", false}, {"gone", "", "", false}} {
		got := read[facts.CertificateFileInfo](t, c, facts.CertificateFile{Path: dir + "/" + test.name})
		if string(got.Certificates) != test.certs || string(got.PublicKey) != test.key || (got.Problem != "") != test.problem || got.File.Content != nil || got.File.Exists != (test.name != "gone") {
			t.Errorf("%s: %s%s%q %+v", test.name, got.Certificates, got.PublicKey, got.Problem, got.File)
		}
	}
}

func testDebian(t *testing.T, h Host, c transport.Conn) {
	if u := read[facts.UnitInfo](t, c, facts.Unit{Name: "ssh.service"}); u.Name != "ssh.service" || u.LoadState != "loaded" || u.ActiveState != "active" || u.MainPID == 0 || u.FragmentPath == "" || u.ActiveEnter.IsZero() || time.Since(u.ActiveEnter) < 0 {
		t.Errorf("%+v", u)
	}
	if u := read[facts.UnitInfo](t, c, facts.Unit{Name: "nothing.service"}); u.LoadState != "not-found" || !u.ActiveEnter.IsZero() {
		t.Errorf("%+v", u)
	}
	if p := read[facts.PackageInfo](t, c, facts.Package{Name: "sudo"}); !p.Installed || p.Version == "" || p.Manager != "apt" {
		t.Errorf("%+v", p)
	}
	if p := read[facts.PackageInfo](t, c, facts.Package{Name: "no-such-package"}); p.Installed || p.Version != "" {
		t.Errorf("%+v", p)
	}
}
