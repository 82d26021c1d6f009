package transport

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// FuzzQuote checks Quote and encode against sh itself.
func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "plain", "it's", "a\nb\n", `\`, `\n\\'"$(x)%s!`, "é\xff", "-n", "~root", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) || len(s) > 10_000 {
			t.Skip()
		}
		out, err := exec.Command("sh", "-c", "printf %s "+Quote(s)+"; printf '|%b' '"+encode(s)+"'").Output()
		if err != nil || string(out) != s+"|"+s {
			t.Errorf("%q: sh printed %q, %v", s, out, err)
		}
		for _, c := range []byte(encode(s)) {
			if c < ' ' || c > '~' || strings.IndexByte("'/%!", c) >= 0 {
				t.Errorf("%q: encoded as %q", s, encode(s))
			}
		}
	})
}

// FuzzHostOutput looks for a panic in what reads a host's answer.
func FuzzHostOutput(f *testing.F) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	_ = w.WriteHeader(&tar.Header{Name: "/etc/x", Size: 3, Mode: 0o600})
	_, _ = w.Write([]byte("abc"))
	_ = w.Close()
	f.Add("Sos 0 5\na b cE0\n")
	f.Add("M/etc/x\x00f root root 644 3 1.5 2.5\x00" + archive.String() + "Sfind 0 0\nL/etc/x\x00/usr/x\x00root\x00E0\n")
	f.Add("Nname0\na\x00b\x00\x00Sunits 0 17\nLoadState=loaded\nM/proc/self/.\x00d root root 555 0 3.5 3.5\x00Suptime 0 7\n1.0 2.0E0\n")
	f.Add("Ssockets 0 38\n  0: 0100007F:1538 00000000:0000 0A x xE0\n")
	f.Add("Sprobe0 0 4\nx\n=1Skey0 0 1\nxSpem0 0 1\nxSapt 0 21\na\tamd64\tinstalled\t1.0E0\n")
	f.Fuzz(func(t *testing.T, text string) {
		out, err := readHostOutput(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		s := newHostScript(time.Second)
		for _, r := range []facts.Read{facts.OS{}, facts.File{Path: "/etc/x"}, facts.Files{Glob: "/*"}, facts.Names{Glob: "/*"}, facts.Libraries{Version: 15}, facts.CertificateFile{Path: "/etc/x"},
			facts.Unit{Name: "x"}, facts.Package{Name: "a"}, facts.Sockets{}, facts.Ciphers{List: "x"}, facts.Probe{Script: "x"}} {
			if err := s.add(r); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(s.answers(out, "ops")); n != 11 {
			t.Errorf("%d answers", n)
		}
	})
}

func FuzzSSHConfig(f *testing.F) {
	f.Add("hostname h\nport 22\nidentityfile ~/.ssh/id\nproxyjump a,b\nconnecttimeout none\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseSSHConfig([]byte(text))
		_, _ = parseJump(text)
	})
}

func TestParseSSHConfig(t *testing.T) {
	got, err := parseSSHConfig([]byte(`host x
user ops
hostname 10.0.0.1
port 2222
identitiesonly yes
identityfile ~/.ssh/a
identityfile ~/.ssh/b
proxyjump j1,u@j2:2200
userknownhostsfile /a /b
connecttimeout 7
serveraliveinterval 3
serveralivecountmax 4
hostkeyalias al
globalknownhostsfile none
revokedhostkeys /r
`))
	if err != nil {
		t.Fatal(err)
	}
	want := sshConfig{HostName: "10.0.0.1", User: "ops", Port: 2222, IdentitiesOnly: true, IdentityFiles: []string{"~/.ssh/a", "~/.ssh/b"}, ProxyJump: []string{"j1", "u@j2:2200"},
		UserKnownHosts: []string{"/a", "/b"}, GlobalKnownHosts: []string{}, RevokedHostKeys: "/r", ConnectTimeout: 7 * time.Second, AliveInterval: 3 * time.Second, AliveCountMax: 4, HostKeyAlias: "al"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A meter stops a host that sends for ever, and can be set anew while it reads.
func TestMeter(t *testing.T) {
	m := newMeter(neverEnding{})
	if n, err := io.CopyN(io.Discard, m, 1<<20); n != 1<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	for range 2 {
		m.allow(100_000)
		if n, err := io.Copy(io.Discard, m); n != 100_000 || !errors.Is(err, errTooMuch) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	m.allow(200_000)
	if _, err := readHostOutput(bufio.NewReader(io.MultiReader(strings.NewReader("Nname0\n"), m))); !errors.Is(err, errTooMuch) {
		t.Error(err)
	}
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

func TestParseJump(t *testing.T) {
	for s, want := range map[string]Target{
		"h": {Address: "h"}, "u@h": {User: "u", Address: "h"}, "u@h:22": {User: "u", Address: "h", Port: 22}, "ssh://u@h:22/": {User: "u", Address: "h", Port: 22},
		"[fe80::1]:22": {Address: "fe80::1", Port: 22}, "fe80::1": {Address: "fe80::1"}, "a@b@h": {User: "a@b", Address: "h"},
	} {
		got, err := parseJump(s)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", s, err, d)
		}
	}
	for _, s := range []string{"", "u@", "h:0", "h:x", "-oProxyCommand=x", "u@-x"} {
		if got, err := parseJump(s); err == nil {
			t.Errorf("%q is %+v", s, got)
		}
	}
}

func TestPlainFile(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]bool{
		"": true, "# Host x\n\n  Host *\n\tSendEnv LANG LC_*\nHashKnownHosts=yes\n": true, "Include " + dir + "/none/*.conf": true,
		"Host db\n": false, "Match all\n": false, "Port 2222\n": false, "Include " + dir + "/other": false, "ProxyJump x": false,
	} {
		path := filepath.Join(dir, "config")
		for p, s := range map[string]string{path: text, filepath.Join(dir, "other"): "User x\n"} {
			if err := os.WriteFile(p, []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := plainFile(path, 0); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func TestParseSockets(t *testing.T) {
	got, err := parseSockets(`   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000
   2: 00000000000000000000000001000000:1538 00000000000000000000000000000000:0000 0A
   3: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A
`)
	want := []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:22"), netip.MustParseAddrPort("127.0.0.1:5432"), netip.MustParseAddrPort("[::1]:5432"), netip.MustParseAddrPort("[2001:db8::1]:80")}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if _, err := parseSockets("nonsense\n"); err == nil {
		t.Error("nonsense was accepted")
	}
}

func TestActiveEnter(t *testing.T) {
	boot := time.Date(2026, 1, 1, 0, 0, 0, 250_000_000, time.UTC)
	for _, test := range []struct {
		text      string
		monotonic int64
		want      time.Time
	}{
		{"", 0, time.Time{}},
		{"Thu 2026-01-01 00:00:05.123456 UTC", 1, time.Date(2026, 1, 1, 0, 0, 5, 123_456_000, time.UTC)},
		{"Thu 2026-01-01 00:00:05 UTC", 5_000_000, boot.Add(5 * time.Second)},
		{"Thu 2026-01-01 00:00:05 UTC", 7_000_000, time.Date(2026, 1, 1, 0, 0, 5, 0, time.UTC)}, // the clock was set since
	} {
		if got := activeEnter(test.text, test.monotonic, boot); !got.Equal(test.want) {
			t.Errorf("%q: %s", test.text, got)
		}
	}
}

// The prompt may come in any pieces, among anything.
func TestPrompter(t *testing.T) {
	const prompt = "pgfleet-xyxy:"
	text := "lecture\npgfleet-pgfleet-xyxy:after " + prompt + "end pgfleet-xy"
	for size := 1; size < len(text); size++ {
		var out bytes.Buffer
		var times int
		p := &prompter{w: &out, prompt: []byte(prompt), answer: func(n int) { times = n }}
		for i := 0; i < len(text); i += size {
			if _, err := io.WriteString(p, text[i:min(len(text), i+size)]); err != nil {
				t.Fatal(err)
			}
		}
		if want := "lecture\npgfleet-after end "; out.String() != want || times != 2 {
			t.Errorf("in pieces of %d: %q, answered %d times", size, out.String(), times)
		}
	}
}

func TestExpandTokens(t *testing.T) {
	if got := expandTokens("a%h%%%p%z%", map[byte]string{'h': "H", 'p': "1"}); got != "aH%1%z%" {
		t.Error(got)
	}
}
