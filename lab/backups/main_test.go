//go:build lab

package backups

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// fleet is the program and the hosts, which are booted once.
var fleet labtest.Fleet

// versions are the major versions; each has a host called like it, pg15.
func versions() []int { return []int{13, 15, 17, 18} }

func TestMain(m *testing.M) {
	var hosts []lab.Host
	for _, v := range versions() {
		// What is restored is restored on the other one.
		hosts = append(hosts, lab.Host{Name: fmt.Sprintf("pg%d", v), Postgres: v}, lab.Host{Name: fmt.Sprintf("other%d", v), Postgres: v})
	}
	fleet.Main(m, append(hosts, lab.Host{Name: "standby", Postgres: 17, StandbyOf: "pg17"}))
}

// A bench is a folder with a fleet.toml for all hosts, and the keys of two recipients.
type bench struct {
	*labtest.Bench
	identities [2]*age.X25519Identity
}

// newBench writes fleet.toml, with further tables.
func newBench(t *testing.T, more string) *bench {
	t.Helper()
	b := &bench{Bench: fleet.NewBench(t)}
	var recipients, secret strings.Builder
	for i := range b.identities {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		b.identities[i] = identity
		fmt.Fprintln(&recipients, identity.Recipient())
		fmt.Fprintln(&secret, identity)
	}
	b.Write("recipients.txt", recipients.String())
	b.Write("identity.txt", secret.String())
	b.declare(more)
	return b
}

// declare writes fleet.toml anew, with further tables.
func (b *bench) declare(more string) {
	b.T.Helper()
	identity := fmt.Sprintf("\n[secrets.age]\nidentities = [%q]\n", filepath.Join(b.Dir, "identity.txt"))
	b.Write("fleet.toml", fleet.Lab.Fleet()+identity+more)
}
