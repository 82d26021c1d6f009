//go:build lab

package certs

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// fleet is the program and two hosts that are booted once.
var fleet labtest.Fleet

func hosts() []lab.Host {
	return []lab.Host{{Name: "a1", Postgres: 13}, {Name: "b1", Postgres: 18}}
}

func TestMain(m *testing.M) { fleet.Main(m, hosts()) }

// declared is a fleet whose clients prove themselves with certificates. One of them,
// app, runs on a host, which keeps its certificate; guest's is exported.
const declared = `
[[task]]
name = "Certificate"
kind = "certificate"
file = "server.pem"

[[task]]
name = "Trusted CAs"
kind = "ca_file"
file = "root.crt"

[[task]]
name = "Revocation lists"
kind = "crl_file"
file = "root.crl"

[[task]]
name = "Network and TLS"
kind = "settings"
file = "10-network.conf"
[task.settings]
listen_addresses = "*"
ssl = true
ssl_cert_file = "{{ .Instance.ConfDir }}/server.pem"
ssl_key_file = "{{ .Instance.ConfDir }}/server.pem"
ssl_ca_file = "{{ .Instance.ConfDir }}/root.crt"
ssl_crl_file = "{{ .Instance.ConfDir }}/root.crl"

[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "hostssl postgres app,guest samenet cert"]

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "Clients"
kind = "role"
for_each = ["app", "guest"]
role = "{{ .Each }}"
login = true

[[task]]
name = "Certificate of the application"
kind = "certificate"
limit = "b1"
usage = "client"
role = "app"
owner = "ops"
file = "/home/ops/app.pem"
`

// A bench is a folder with a fleet.toml, an age store and a CA.
type bench struct {
	*labtest.Bench
	identity string
	app      string // the last certificate of the application
}

// newBench brings the hosts to the declared tasks, with the keys of [ca] that are given.
func newBench(t *testing.T, ca string) *bench {
	t.Helper()
	b := declare(t, ca)
	b.Want(0, "certs", "init")
	b.Want(0, "apply", "--yes")
	return b
}

// declare writes the files and changes no host. There is no CA yet.
func declare(t *testing.T, ca string) *bench {
	t.Helper()
	b := &bench{Bench: fleet.NewBench(t)}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b.identity = filepath.Join(b.Dir, "identity.txt")
	b.Write("identity.txt", identity.String()+"\n")
	b.Write("fleet.toml", fleet.Lab.Fleet()+fmt.Sprintf(`
[secrets.age]
identities = [%q]
recipients = [%q]

[ca]
certificate = "ca.pem"
key = "age:ca#key"
%s
%s`, b.identity, identity.Recipient().String(), ca, declared))
	return b
}

// store is the age store as another process sees it.
func (b *bench) store() secrets.WritableStore {
	b.T.Helper()
	r, err := secrets.NewResolver(secrets.Config{Dir: b.Dir, Age: secrets.AgeConfig{Identities: []string{b.identity}, Recipients: b.recipients()}})
	if err != nil {
		b.T.Fatal(err)
	}
	s, err := r.WritableStore("age")
	if err != nil {
		b.T.Fatal(err)
	}
	return s
}

func (b *bench) recipients() []string {
	identity, err := age.ParseX25519Identity(strings.TrimSpace(b.read("identity.txt")))
	if err != nil {
		b.T.Fatal(err)
	}
	return []string{identity.Recipient().String()}
}
