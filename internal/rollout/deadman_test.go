package rollout

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

func TestEscapeUnit(t *testing.T) {
	for in, want := range map[string]string{
		"postgresql@15-main":  `postgresql\x4015\x2dmain`,
		"postgresql@9.6-a_b:": `postgresql\x409.6\x2da_b:`,
		".hidden":             `\x2ehidden`,
		`a b/c\d%ü`:           `a\x20b-c\x5cd\x25\xc3\xbc`,
	} {
		if got := escapeUnit(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		out, err := exec.Command("systemd-escape", "--", in).Output()
		if err != nil {
			continue // not on this machine
		}
		if said := strings.TrimSpace(string(out)); said != want {
			t.Errorf("%q: systemd-escape says %s", in, said)
		}
	}
}

func TestUndoUnit(t *testing.T) {
	in := inventory.Instance{Version: 15, Cluster: `50%$"x`}
	unit := undoUnit(in, []string{"/etc/a b", "/etc/a b"})
	for _, want := range []string{
		"Before=postgresql@15-50%%$\"x.service\n",
		`RequiresMountsFor="/etc/a b" "/var/lib/pgfleet/undo/postgresql@15-50%%$\"x"` + "\n",
		`ExecStart=/bin/sh "/var/lib/pgfleet/undo/postgresql@15-50%%$$\"x/restore" boot` + "\n",
		"WantedBy=multi-user.target\n",
	} {
		if !strings.Contains(unit, want) {
			t.Errorf("no %q in\n%s", want, unit)
		}
	}
}

// What an earlier step found wins over what is there now; contents go through
// standard input, each behind the last.
func TestArmCommand(t *testing.T) {
	in := inventory.Instance{Version: 15, Cluster: "main"}
	names := undoNames(in, "RUN", 90*time.Second)
	script, stdin := armCommand(in, names, undo{
		unit: in.Unit(), verb: "restart", daemon: true, others: []string{"try-restart:a.service"},
		earlier: []facts.FileInfo{
			{Path: "/etc/it's", Exists: true, Content: []byte("secret1"), Owner: "postgres", Group: "ssl-cert", Mode: 0o640},
			{Path: "/etc/new"},
		},
		paths: []string{"/etc/it's", "/etc/other"},
	})
	_, calls, _ := strings.Cut(script, armScript)
	if want := `given '/etc/it'\''s' 7 postgres:ssl-cert 0640` + "\nabsent /etc/new\nkeep /etc/other\nfinish\n"; calls != want {
		t.Errorf("the calls are\n%s", calls)
	}
	restore, given, _ := strings.Cut(string(stdin), restoreScript)
	if given != "secret1" || strings.Contains(script, "secret1") {
		t.Errorf("behind the script comes %q", given)
	}
	for _, want := range []string{"seconds=90\n", "run=RUN ", "unit=postgresql@15-main.service verb=restart daemon_reload=yes others=try-restart:a.service\n"} {
		if !strings.Contains(restore, want) {
			t.Errorf("no %q in\n%s", want, restore[:600])
		}
	}
	for name, text := range map[string]string{"arm": script, "restore": restore + restoreScript, "disarm": names + "more=\n" + disarmScript} {
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = bytes.NewBufferString(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestDeadManLength(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{0: 5 * time.Minute, -1: 5 * time.Minute, time.Millisecond: time.Second, 90*time.Second + 1: 90 * time.Second} {
		if got := (&Run{DeadMan: given}).deadMan(); got != want {
			t.Errorf("%v: %v, want %v", given, got, want)
		}
	}
}
