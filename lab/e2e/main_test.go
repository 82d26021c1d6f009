//go:build lab

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/lab/labtest"
)

// fleet is what all tests of the package use: the program and a lab that is booted
// once.
var fleet labtest.Fleet

// versions are the major versions that tests run against.
func versions() []int { return []int{13, 15, 17, 18} }

// sampled returns some of the versions, for what takes long and hardly depends on
// them, and in a soak all.
func sampled(some ...int) []int {
	if os.Getenv("PGFLEET_SOAK") != "" {
		return versions()
	}
	return some
}

func TestMain(m *testing.M) {
	fleet.Main(m, []lab.Host{
		{Name: "pg13", Postgres: 13},
		{Name: "pg15", Postgres: 15},
		{Name: "pg17", Postgres: 17},
		{Name: "pg18", Postgres: 18},
		{Name: "primary"},
		{Name: "standby", StandbyOf: "primary"},
		{Name: "asks", SudoPassword: "Xk7-lab-only-9q"},
		{Name: "noforward", DisableForwarding: true, NoPgaudit: true},
		{Name: "asroot", RootLogin: true, Instances: []lab.Instance{{Cluster: "second", Port: 5433}}},
		{Name: "down", Down: true},
	})
}

// A bench is a folder with a fleet.toml for some hosts.
type bench struct{ *labtest.Bench }

// newBench writes a fleet.toml for some of the lab's hosts with the given
// tasks. The CA's key is in a file, which tests of other things keep simple.
func newBench(t *testing.T, tasks string, hosts ...string) *bench {
	t.Helper()
	b := &bench{fleet.NewBench(t)}
	b.fleet(tasks, hosts...)
	return b
}

func (b *bench) fleet(tasks string, hosts ...string) {
	b.T.Helper()
	l := fleet.Lab
	var text strings.Builder
	fmt.Fprintf(&text, "[fleet]\nname = \"lab\"\n\n[ssh]\nuser = %q\nidentity = %q\nknown_hosts = %q\n\n[vars]\napplications = %q\n", l.User, l.Key, l.KnownHosts, l.Applications.String())
	for _, name := range hosts {
		h := l.Host(name)
		if h == nil {
			b.T.Fatalf("the lab has no host %s", name)
		}
		fmt.Fprintf(&text, "\n[hosts.%s]\naddress = %q\nuser = %q\npostgres.version = %d\n", name, h.Address, h.User, h.Postgres)
		if name == "primary" || name == "standby" {
			fmt.Fprintln(&text, `replication = "orders"`)
		}
	}
	if strings.Contains(tasks, "kind = \"certificate\"") && !strings.Contains(tasks, "[ca]") {
		text.WriteString("\n[ca]\ncertificate = \"ca.pem\"\nkey = \"file:ca.key\"\n")
	}
	b.Write("fleet.toml", text.String()+tasks)
}

func look(t *testing.T, host, script string) string {
	t.Helper()
	return fleet.Look(t, host, script)
}

func sql(t *testing.T, host, query string) string {
	t.Helper()
	return fleet.SQL(t, host, query)
}

// fresh makes a host as it was at its first boot as far as PostgreSQL goes: its
// configuration, its databases and its roles. So tests do not depend on each
// other's order. A standby has what its primary has.
func fresh(t *testing.T, hosts ...string) {
	t.Helper()
	for _, h := range hosts {
		v := fleet.Lab.Host(h).Postgres
		look(t, h, fmt.Sprintf(`set -e
cd /
d=/var/lib/postgresql/%[1]d/main
p() { runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 "$@"; }
if [ ! -d /root/etc-postgresql ]; then
	cp -a /etc/postgresql /root/etc-postgresql
	cp -a $d/postgresql.auto.conf /root # a standby's says whom it follows
	p -c "SELECT quote_literal(rolname) FROM pg_roles WHERE rolname !~ '^pg_'" | paste -sd, >/root/roles
	exit 0
fi
systemctl stop 'pgfleet-undo-*' # of a test that killed pgfleet
rm -rf /etc/postgresql/*; cp -a /root/etc-postgresql/. /etc/postgresql/
rm -rf /var/lib/pgfleet/*
cp -a /root/postgresql.auto.conf $d/
systemctl restart postgresql@%[1]d-main
for i in $(seq 100); do runuser -u postgres -- pg_isready -q && break; sleep 0.1; done
[ "$(p -c 'SELECT pg_is_in_recovery()')" = f ] || exit 0
roles="rolname !~ '^pg_' AND rolname NOT IN ($(cat /root/roles))"
p <<END
ALTER ROLE postgres PASSWORD NULL;
ALTER ROLE postgres RESET ALL;
ALTER ROLE ALL RESET ALL;
SELECT format('ALTER DATABASE %%I IS_TEMPLATE false', datname) FROM pg_database WHERE datistemplate AND datname !~ '^template[01]\$' \gexec
SELECT format('DROP DATABASE %%I WITH (FORCE)', datname) FROM pg_database WHERE datname !~ '^(template[01]|postgres)\$' \gexec
END
# pgaudit first: its event triggers would want its library for what comes after.
for db in template1 postgres; do p -d $db <<END
SET client_min_messages = warning;
SELECT format('DROP EXTENSION %%I CASCADE', extname) FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY extname <> 'pgaudit' \gexec
SELECT 'GRANT CREATE ON SCHEMA public TO PUBLIC' WHERE current_setting('server_version_num')::int < 150000 \gexec
SELECT format('DROP OWNED BY %%I CASCADE', rolname) FROM pg_roles WHERE $roles \gexec
END
done
p -c "SELECT format('DROP ROLE %%I;', rolname) FROM pg_roles WHERE $roles" | p
`, v))
	}
}
