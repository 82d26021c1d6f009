//go:build lab

package rollouts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// shared is the program and a fleet that is booted once.
type shared struct {
	program string
	lab     *lab.Lab
}

var fleet shared

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
	code, err := withLab(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the lab cannot start:", err)
		code = 1
	}
	os.Exit(code)
}

func withLab(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "pgfleet-rollouts")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	fleet.program = filepath.Join(dir, "pgfleet")
	build := exec.Command("go", "build", "-o", fleet.program, "github.com/pgfleet/pgfleet/cmd/pgfleet")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	var hosts []lab.Host
	for _, c := range clusters() {
		hosts = append(hosts, c)
		for _, name := range members(c.Name)[1:] {
			hosts = append(hosts, lab.Host{Name: name, Postgres: c.Postgres, StandbyOf: c.Name})
		}
	}
	fleet.lab, err = lab.Up(ctx, lab.Options{Hosts: hosts, Log: os.Stderr})
	if err != nil {
		return 1, err
	}
	defer fleet.lab.Down()
	return m.Run(), nil
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
type bench struct {
	t         *testing.T
	dir, home string
}

// newBench brings all hosts to the base tasks.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), home: t.TempDir()}
	b.fleet("", "")
	b.want(0, "apply", "--yes")
	return b
}

// fleet writes a fleet.toml with [rollout] and further tasks. Settings come
// before the task that restarts.
func (b *bench) fleet(rollout, settings string) {
	b.t.Helper()
	tasks := fmt.Sprintf(base, fleet.lab.Applications)
	head, rest, _ := strings.Cut(tasks, "\n[[task]]\nname = \"Who may connect\"")
	text := fleet.lab.Fleet() + rollout + head + settings + "\n[[task]]\nname = \"Who may connect\"" + rest
	if err := os.WriteFile(filepath.Join(b.dir, "fleet.toml"), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// A said is what a run of pgfleet printed and how it ended.
type said struct {
	stdout, stderr string
	code           int
}

func (s said) all() string { return s.stdout + s.stderr }

func (b *bench) run(args ...string) said {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, fleet.program, args...)
	cmd.Dir = b.dir
	cmd.Env = []string{"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "BENCH_PASSWORD=" + password}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return said{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func (b *bench) want(code int, args ...string) said {
	b.t.Helper()
	s := b.run(args...)
	if s.code != code {
		b.t.Fatalf("pgfleet %s exited with %d, want %d\n%s\n%s", strings.Join(args, " "), s.code, code, s.stdout, s.stderr)
	}
	return s
}

// An outcome is what apply --json says of an instance.
type outcome struct {
	Status string
	Down   float64
	Error  string
}

func outcomes(t *testing.T, s said) (map[string]outcome, string) {
	t.Helper()
	var doc struct {
		Instances []struct {
			Instance string
			outcome
		}
		Error string
	}
	if err := json.Unmarshal([]byte(s.stdout), &doc); err != nil {
		t.Fatalf("apply --json: %v\n%s", err, s.all())
	}
	m := map[string]outcome{}
	for _, in := range doc.Instances {
		m[in.Instance] = in.outcome
	}
	return m, doc.Error
}

// look runs a script inside a host as root, past ssh and pgfleet.
func look(t *testing.T, host, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := fleet.lab.Host(host).Exec(ctx, script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", host, err, out)
	}
	return strings.TrimSpace(out)
}

// sql asks a host's server as postgres.
func sql(t *testing.T, host, query string) string {
	t.Helper()
	return look(t, host, "cd /; runuser -u postgres -- psql -XAtqc '"+strings.ReplaceAll(query, "'", `'\''`)+"'")
}
