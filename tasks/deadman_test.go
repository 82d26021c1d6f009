package tasks

import (
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// What a host has put back by itself, or will, is told by the next plan.
func TestUndo(t *testing.T) {
	in := inventory.Instance{Version: 15, Cluster: "main"}
	since := time.Unix(1795666000, 0)
	armed := facts.FileInfo{Path: UndoDir(in) + "/armed.note", Content: []byte("run X\nseconds 300\n"), Modified: since}
	fired := facts.FileInfo{Path: UndoDir(in) + "/fired.note", Content: []byte("run X\nat 1795666606\nby timer\nseconds 300\nback /etc/a\nback /etc/b c\n" +
		"failed /etc/d: no \ndid systemctl restart x.service\n")}
	at := func(seconds int64) string { return clock(time.Unix(seconds, 0)) }
	for _, test := range []struct {
		notes []facts.FileInfo
		want  string
	}{
		{nil, ""},
		{[]facts.FileInfo{armed}, "puts the old files back at " + at(1795666300) + " by itself, or at the next apply"},
		{[]facts.FileInfo{fired}, "the host put the old files back by itself at " + at(1795666606) + ", because no word came from pgfleet for 5m0s (/etc/a, /etc/b c); " +
			"it ran systemctl restart x.service; it could not do all of it: /etc/d: no"},
		{[]facts.FileInfo{armed, fired}, "could not do all of it: /etc/d: no; the next apply tries again"},
	} {
		s := NewState(in, map[facts.Read]facts.Answer{undoRead(in): {Value: test.notes}}, nil)
		if got := undoWarning(s); (got == "") != (test.want == "") || !strings.HasSuffix(got, test.want) {
			t.Errorf("it says %q, want %q", got, test.want)
		}
	}
	if got := undoWarning(NewState(in, nil, nil)); got != "" {
		t.Errorf("not asked, it says %q", got)
	}
}
