//go:build lab

package rollouts

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// fleet is the program and twelve hosts that are booted once.
var fleet labtest.Fleet

// clusters are the four clusters: the name of each is that of its primary, and
// its standbys are called so with 2 and 3.
func clusters() []lab.Host {
	return []lab.Host{{Name: "a1", Postgres: 13}, {Name: "b1", Postgres: 15}, {Name: "c1", Postgres: 17}, {Name: "d1", Postgres: 18}}
}

// members returns the hosts of a cluster, its primary first.
func members(primary string) []string {
	letter := primary[:1]
	return []string{letter + "1", letter + "2", letter + "3"}
}

func TestMain(m *testing.M) {
	var hosts []lab.Host
	for _, c := range clusters() {
		hosts = append(hosts, c)
		for _, name := range members(c.Name)[1:] {
			hosts = append(hosts, lab.Host{Name: name, Postgres: c.Postgres, StandbyOf: c.Name})
		}
	}
	fleet.Main(m, hosts)
}

// password is that of the role that writes and reads while hosts restart.
const password = "pw-Bench3Tz_unsaid"

// base are the tasks of every test: the way in for the clients, and what they
// write to.
const base = `
[[task]]
name = "Network"
kind = "settings"
file = "10-network.conf"
settings = { listen_addresses = "*" }

[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "host all bench samenet scram-sha-256", "host all bench %s scram-sha-256"]

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "Clients"
kind = "role"
role = "bench"
login = true
password = "env:BENCH_PASSWORD"

[[task]]
name = "Database"
kind = "database"
database = "bench"
owner = "bench"
`

// A bench is a folder with a fleet.toml for all twelve hosts.
type bench struct{ *labtest.Bench }

// newBench brings all hosts to the base tasks.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{fleet.NewBench(t)}
	b.Env = []string{"BENCH_PASSWORD=" + password}
	b.fleet("", "")
	b.Want(0, "apply", "--yes")
	return b
}

// fleet writes a fleet.toml with [rollout] and further tasks. Settings come
// before the task that restarts.
func (b *bench) fleet(rollout, settings string) {
	b.T.Helper()
	tasks := fmt.Sprintf(base, fleet.Lab.Applications)
	head, rest, _ := strings.Cut(tasks, "\n[[task]]\nname = \"Who may connect\"")
	text := fleet.Lab.Fleet() + rollout + head + settings + "\n[[task]]\nname = \"Who may connect\"" + rest
	b.Write("fleet.toml", text)
}

// An outcome is what apply --json says of an instance.
type outcome struct {
	Status string
	Down   float64
	Error  string
}

func outcomes(t *testing.T, s labtest.Said) (map[string]outcome, string) {
	t.Helper()
	var doc struct {
		Instances []struct {
			Instance string
			outcome
		}
		Error string
	}
	if err := json.Unmarshal([]byte(s.Stdout), &doc); err != nil {
		t.Fatalf("apply --json: %v\n%s", err, s.All())
	}
	m := map[string]outcome{}
	for _, in := range doc.Instances {
		m[in.Instance] = in.outcome
	}
	return m, doc.Error
}

// look runs a script inside a host, and returns what it prints without what
// surrounds it.
func look(t *testing.T, host, script string) string {
	t.Helper()
	return strings.TrimSpace(fleet.Look(t, host, script))
}

func sql(t *testing.T, host, query string) string {
	t.Helper()
	return fleet.SQL(t, host, query)
}
