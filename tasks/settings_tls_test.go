package tasks

import (
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// The rules of replication want TLS as the configuration will have it, whatever
// ALTER SYSTEM says of it before.
func TestReplicationRulesWhereAlterSystemTurnsTLSOff(t *testing.T) {
	w := newWorld()
	w[facts.File{Path: auto}] = facts.Answer{Value: file(auto, "ssl = 'off'\n")}
	w.server(func(s *facts.Server) {
		s.Standbys = []facts.Standby{{Name: "pg02", User: "replicator", Addr: netip.MustParseAddr("10.77.0.12"), TLS: true}}
	})
	path := filepath.Join(t.TempDir(), "fleet.toml")
	text := "[fleet]\nname = \"test\"\n[postgres]\nversion = 15\n[hosts.pg01]\naddress = \"10.77.0.11\"\nreplication = \"r\"\n[hosts.pg02]\naddress = \"10.77.0.12\"\nreplication = \"r\"\n" +
		hba(`"local all postgres peer"`) + settings("tls", "20-tls.conf", "ssl = true")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet, err := inventory.Load(path, inventory.Options{Kinds: Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	in := fleet.Instances()[0]
	bound, errs := Expand(fleet, fleet.Instances(), Options{Local: func(string) ([]byte, error) { return nil, fs.ErrNotExist }})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	p, err := PlanInstance(in, NewState(in, w, nil), bound[in.ID()])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Changes() {
		if a, ok := c.Action.(WriteFile); ok && strings.HasSuffix(a.Path, "pg_hba.conf") && !strings.Contains(a.Content, "hostssl ") {
			t.Errorf("rules:\n%s", a.Content)
		}
	}
	w.carryOut(p)
	p, err = PlanInstance(in, NewState(in, w, nil), bound[in.ID()])
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Steps) > 0 {
		t.Errorf("still due: %v", intents(p))
	}
}
