//go:build lab

package rotations

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// fleet is the program and eight hosts that are booted once.
var fleet labtest.Fleet

// clusters are the four clusters, each called like its primary, without the 1.
func clusters() []lab.Host {
	return []lab.Host{{Name: "a1", Postgres: 13}, {Name: "b1", Postgres: 15, DisableForwarding: true}, {Name: "c1", Postgres: 17}, {Name: "d1", Postgres: 18}}
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(execDir); dir != "" {
		os.Exit(execProgram(dir))
	}
	var hosts []lab.Host
	for _, c := range clusters() {
		hosts = append(hosts, c, lab.Host{Name: c.Name[:1] + "2", Postgres: c.Postgres, StandbyOf: c.Name})
	}
	fleet.Main(m, hosts)
}

// names returns the clusters' names as fleet.toml has them.
func names() []string {
	var list []string
	for _, c := range clusters() {
		list = append(list, c.Name)
	}
	return list
}

const declared = `
[ca]
certificate = "ca.pem"
key = "file:ca.key"

[[task]]
name = "Certificate"
kind = "certificate"
file = "server.pem"

[[task]]
name = "Network and TLS"
kind = "settings"
file = "10-network.conf"
settings = { listen_addresses = "*", ssl = true, ssl_cert_file = "{{ .Instance.ConfDir }}/server.pem", ssl_key_file = "{{ .Instance.ConfDir }}/server.pem", password_encryption = "scram-sha-256" }

[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "hostssl all +shop,svc samenet scram-sha-256", "hostssl all +shop,svc %s scram-sha-256"]

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "Owner of the grants"
kind = "role"
role = "shop"

[[task]]
name = "Logins"
kind = "role"
for_each = ["shop_a", "shop_b"]
role = "{{ .Each }}"
login = true
member_of = ["shop"]
settings = { role = "shop" }

[[task]]
name = "A job"
kind = "role"
role = "svc"
login = true

[[task]]
name = "Database"
kind = "database"
database = "shop"
owner = "shop"
`

// once is the CA of all tests, so that only the first one has the hosts' certificates
// made.
var once struct {
	sync.Once
	certificate, key string
}

func authority(t *testing.T) (certificate, key string) {
	t.Helper()
	once.Do(func() {
		ca, err := pki.NewCA(pki.CAOptions{CommonName: "lab CA", Now: time.Now(), Validity: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		pem, err := ca.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		once.certificate, once.key = string(ca.CertificatePEM()), string(pem.Expose())
	})
	return once.certificate, once.key
}

// A bench is a folder with a fleet.toml for all hosts, an age store and a CA.
type bench struct {
	*labtest.Bench
	identity string
}

// newBench brings all hosts to the declared tasks, with further tables.
func newBench(t *testing.T, rotations string) *bench {
	t.Helper()
	b := &bench{Bench: fleet.NewBench(t)}
	certificate, key := authority(t)
	b.Write("ca.pem", certificate)
	b.Write("ca.key", key)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b.identity = filepath.Join(b.Dir, "identity.txt")
	b.Write("identity.txt", identity.String()+"\n")
	store := fmt.Sprintf("\n[secrets.age]\nidentities = [%q]\nrecipients = [%q]\n", b.identity, identity.Recipient().String())
	b.Write("fleet.toml", fleet.Lab.Fleet()+store+fmt.Sprintf(declared, fleet.Lab.Applications)+rotations)
	b.Want(0, "apply", "--yes")
	for _, c := range names() {
		fleet.SQL(t, c, "ALTER ROLE shop_a PASSWORD NULL")
		fleet.SQL(t, c, "ALTER ROLE shop_b PASSWORD NULL")
		fleet.SQL(t, c, "ALTER ROLE svc PASSWORD NULL")
	}
	return b
}

// alternate is a rotation of two roles that take turns.
const alternate = `
[[rotation]]
role = "shop"
secret = "age:{{ .Host.Replication }}/shop"
ca = "ca.pem"
database = "shop"
retire_after = "500ms"
retire_wait = "5s"
`

// inPlace is a rotation of a role that bears it.
const inPlace = `
[[rotation]]
role = "svc"
strategy = "in-place"
secret = "age:{{ .Host.Replication }}/svc"
ca = "ca.pem"
`

// store is the age store as another process sees it, with nothing but its files.
func (b *bench) store() (secrets.Store, error) {
	r, err := secrets.NewResolver(secrets.Config{Dir: b.Dir, Age: secrets.AgeConfig{Identities: []string{b.identity}}})
	if err != nil {
		return nil, err
	}
	return r.Store("age")
}

// entry reads the current version of a secret as an application would.
func (b *bench) entry(ctx context.Context, path string) (secrets.Entry, error) {
	store, err := b.store()
	if err != nil {
		return secrets.Entry{}, err
	}
	return store.Get(ctx, path, "")
}

func has(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}
