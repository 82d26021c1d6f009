//go:build lab

package crashes

import (
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// fleet is the program and a few hosts that are booted once.
var fleet labtest.Fleet

func TestMain(m *testing.M) {
	fleet.Main(m, []lab.Host{
		{Name: "shop1", Postgres: 15},
		{Name: "shop2", Postgres: 15, StandbyOf: "shop1"},
		{Name: "mail", Postgres: 13},
		{Name: "wiki", Postgres: 18},
	})
}

// password is that of the declared client.
const password = "pw-Crash9Kd_unsaid"

// A state is one of the two that the fleet goes between.
type state string

const (
	one   state = "one"
	other state = "other"
)

func (s state) opposite() state {
	if s == one {
		return other
	}
	return one
}

// fleetText is what fleet.toml says behind the hosts. Every sort of step is due on
// some host whenever the state changes, and something stands between one step of
// a server's configuration and the next. What takes a server of its own to try
// is due once on each host: a restart, or on wiki a certificate.
const fleetText = `
[ca]
certificate = "ca.pem"
key = "file:ca.key"

[vars]
applications = "APPLICATIONS"

[rollout]
canary = 1

[[client]]
name = "application"
user = "app"
database = "app"
from = "{{ .Vars.applications }}"

[[task]]
name = "Slow statements"
kind = "settings"
file = "30-slow.conf"
settings = { log_min_duration_statement = MILLISECONDS }

[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "hostssl app app {{ .Vars.applications }} scram-sha-256", "hostssl app app OPERATOR scram-sha-256", "hostssl app probe_STATE {{ .Vars.applications }} scram-sha-256"]

[[task]]
name = "PostgreSQL has read them"
kind = "service"

[[task]]
name = "A unit"
kind = "file"
limit = "shop2, wiki"
path = "/etc/systemd/system/pgfleet-crash.service"
content = """
[Unit]
Description=Stands for something beside PostgreSQL
[Service]
Environment=STATE=STATE
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""

[[task]]
name = "The unit runs"
kind = "service"
limit = "shop2, wiki"
unit = "pgfleet-crash.service"
watch = ["/etc/systemd/system/pgfleet-crash.service"]

[[task]]
name = "A command"
kind = "command"
limit = "shop1, mail"
run = "echo STATE >/etc/pgfleet-crash.new && mv /etc/pgfleet-crash.new /etc/pgfleet-crash"
unless = "grep -qx STATE /etc/pgfleet-crash"

[[task]]
name = "Certificate"
kind = "certificate"
file = "server.pem"
names = ["{{ .Host.Name }}", "{{ if eq .Host.Name \"wiki\" }}STATE{{ else }}always{{ end }}.crashes.test"]

[[task]]
name = "TLS"
kind = "settings"
file = "20-tls.conf"
settings = { listen_addresses = "*", ssl = true, ssl_cert_file = "{{ .Instance.ConfDir }}/server.pem", ssl_key_file = "{{ .Instance.ConfDir }}/server.pem", password_encryption = "scram-sha-256" }

[[task]]
name = "PostgreSQL serves it"
kind = "service"

[[task]]
name = "Role"
kind = "role"
role = "app"
login = true
password = "env:APP_PASSWORD"
connection_limit = LIMIT

[[task]]
name = "Database"
kind = "database"
database = "app"
owner = "app"
connection_limit = LIMIT

[[task]]
name = "View"
kind = "psql"
database = "app"
sql = "CREATE OR REPLACE VIEW public.state AS SELECT 'STATE'::text AS value"
unless = "SELECT EXISTS (SELECT FROM pg_views WHERE viewname = 'state' AND definition LIKE '%''STATE''%')"

[[task]]
name = "Who may use it"
kind = "grant"
database = "app"
tables = "public.state"
to = "app"
privileges = PRIVILEGES
exact = true

[[task]]
name = "Connections"
kind = "settings"
file = "40-connections.conf"
settings = { max_connections = "{{ if eq .Host.Name \"wiki\" }}100{{ else }}CONNECTIONS{{ end }}" }

[[task]]
name = "PostgreSQL runs with them"
kind = "service"

[[task]]
name = "All is in force"
kind = "verify"
query = "SELECT current_setting('max_connections')"
expect = "{{ if eq .Host.Name \"wiki\" }}100{{ else }}CONNECTIONS{{ end }}"

[[task]]
name = "The client can log in"
kind = "verify"
database = "app"
query = "SELECT current_user"
expect = "app"
login = { role = "app", password = "env:APP_PASSWORD", ca = "ca.pem" }
`

// A bench is a folder with a fleet.toml for all hosts.
type bench struct{ *labtest.Bench }

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{fleet.NewBench(t)}
	b.Env = []string{"APP_PASSWORD=" + password}
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "lab CA", Now: time.Now(), Validity: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	b.Write("ca.pem", string(ca.CertificatePEM()))
	b.Write("ca.key", string(key.Expose()))
	return b
}

// declare writes the fleet.toml that declares a state.
func (b *bench) declare(s state) {
	b.T.Helper()
	ms, limit, connections, privileges := "1000", "20", "100", `["SELECT"]`
	if s == other {
		ms, limit, connections, privileges = "2000", "30", "120", `["SELECT", "UPDATE"]`
	}
	b.Write("fleet.toml", fleet.Lab.Fleet()+strings.NewReplacer(
		"APPLICATIONS", fleet.Lab.Applications.String(), "OPERATOR", fleet.Lab.Operator.String()+"/32", "=STATE=STATE", "=STATE="+string(s),
		"STATE", string(s), "MILLISECONDS", ms, "LIMIT", limit, "CONNECTIONS", connections, "PRIVILEGES", privileges).Replace(fleetText))
}

// inside runs a script inside a host, and returns what it prints without what
// surrounds it.
func inside(t *testing.T, host, script string) string {
	t.Helper()
	return strings.TrimSpace(fleet.Look(t, host, script))
}
