//go:build lab

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// who is an hba task with some rules.
func who(rules ...string) string {
	text, _ := json.Marshal(rules)
	return "\n[[task]]\nname = \"Who\"\nkind = \"hba\"\nrules = " + string(text) + "\n"
}

// applications prepares a host's server for logins from the applications'
// network, which nothing is asked of.
func applications(t *testing.T, host string) {
	t.Helper()
	net := fleet.Lab.Applications.String()
	look(t, host, fmt.Sprintf(`set -e; cd /
conf=/etc/postgresql/%d/main
echo "listen_addresses = '*'" >$conf/conf.d/00-test.conf
printf 'local all all peer\nhost appdb appuser %s trust\nhost replication appstream %s trust\nhost all reports %s trust\n' >$conf/pg_hba.conf
systemctl restart postgresql@%d-main
for i in $(seq 100); do runuser -u postgres -- pg_isready -q && break; sleep 0.1; done
runuser -u postgres -- psql -Xqv ON_ERROR_STOP=1 -c 'CREATE ROLE appuser LOGIN' -c 'CREATE ROLE reports LOGIN' -c 'CREATE ROLE appstream LOGIN REPLICATION' -c 'CREATE DATABASE appdb'`,
		fleet.Lab.Host(host).Postgres, net, net, net, fleet.Lab.Host(host).Postgres))
}

// login logs in from an application, without TLS.
func login(t *testing.T, host, parameters string) (*pgconn.PgConn, error) {
	t.Helper()
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s sslmode=disable connect_timeout=10 %s", fleet.Lab.Host(host).Address, parameters))
	if err != nil {
		t.Fatal(err)
	}
	config.DialFunc = fleet.Lab.FromApplication().DialContext
	return pgconn.ConnectConfig(t.Context(), config)
}

// stays logs in and stays until the test ends.
func stays(t *testing.T, host, parameters string) *pgconn.PgConn {
	t.Helper()
	conn, err := login(t, host, parameters)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func says(t *testing.T, s labtest.Said, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(s.All(), w) {
			t.Errorf("not said %q:\n%s", w, s.All())
		}
	}
}

// Whoever would lose access is named, and the host is as before; what was said to
// be meant is done.
func TestLabLockout(t *testing.T) {
	for _, v := range sampled(13, 18) {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			applications(t, host)
			from := fleet.Lab.Application.String()
			stays(t, host, "user=appuser dbname=appdb")
			stays(t, host, "user=appuser dbname=appdb")
			stream := stays(t, host, "user=appstream application_name=walreceiver replication=true")
			if _, err := stream.Exec(t.Context(), "IDENTIFY_SYSTEM").ReadAll(); err != nil {
				t.Fatal(err)
			}
			const client = "\n[[client]]\nname = \"reporting\"\nuser = \"reports\"\ndatabase = \"appdb\"\nfrom = \"{{ .Vars.applications }}\"\ntls = false\n"
			upper := strings.Replace(fleet.Lab.Applications.String(), ".0/24", ".128/25", 1)
			b := newBench(t, who("local all postgres peer", "host appdb reports "+upper+" trust")+client, host)
			before := etcFiles(t, host)

			lost := []string{
				"would lose access: the standby walreceiver (appstream from " + from + "): ",
				"would lose access: appuser in appdb from " + from + " (2 sessions now): \"host all all 0.0.0.0/0 reject\" matches first",
				"would lose access: client reporting (reports in appdb from " + strings.Replace(fleet.Lab.Applications.String(), "/24", "/25", 1) + "): \"host all all 0.0.0.0/0 reject\" matches first",
			}
			says(t, b.Want(0, "plan"), lost...)
			says(t, b.Want(2, "plan", "--detailed-exitcode", "--json"), `"who": "appuser@`+from+`"`, `"who": "standby:walreceiver"`, `"sessions": 2`)
			refused := b.Want(1, "apply", "--yes")
			says(t, refused, lost...)
			says(t, refused, "nothing was changed; if that is meant, add --allow-lockout standby:walreceiver --allow-lockout appuser@"+from+" --allow-lockout reporting", "1 refused")
			half := b.Want(1, "apply", "--yes", "--allow-lockout", "appuser", "--allow-lockout", "reporting")
			says(t, half, "add --allow-lockout standby:walreceiver\n")
			says(t, b.Want(2, "apply", "--yes", "--allow-lockout", "apuser"), "nobody who would lose access is called apuser; these are: standby:walreceiver, appuser@"+from+", reporting")
			if after := etcFiles(t, host); len(after) != len(before) {
				t.Error("files were written")
			} else {
				for path, sum := range after {
					if before[path] != sum {
						t.Errorf("%s was changed", path)
					}
				}
			}
			if conn, err := login(t, host, "user=appuser dbname=appdb"); err != nil {
				t.Error(err)
			} else {
				_ = conn.Close(t.Context())
			}

			// A reviewed plan does not hold those who came later.
			b.Want(0, "plan", "--out", "plan.json")
			stays(t, host, "user=reports dbname=postgres")
			says(t, b.Want(1, "apply", "plan.json", "--allow-lockout", "all"), "now would also lose access: reports@"+from)

			forced := []string{"apply", "--yes", "--allow-lockout", "appuser@" + from, "--allow-lockout", "standby:walreceiver", "--allow-lockout", "reporting", "--allow-lockout", "reports"}
			b.Want(0, forced...)
			if conn, err := login(t, host, "user=appuser dbname=appdb"); err == nil || !strings.Contains(err.Error(), "pg_hba.conf rejects") {
				t.Errorf("appuser: %v", err)
				_ = conn.Close(t.Context())
			}
			says(t, b.Want(0, forced...), "is not let in by the rules in force")

			shutsItselfOut(t, b, host, who("local all dba peer"))
		})
	}
}

// shutsItselfOut has pgfleet put rules in place that do not let it in: refused,
// and when it is forced, what was there comes back.
func shutsItselfOut(t *testing.T, b *bench, host, tasks string) {
	t.Helper()
	b.fleet(tasks, host)
	before, inForce := etcFiles(t, host), sql(t, host, "SELECT string_agg(auth_method, ' ' ORDER BY line_number) FROM pg_hba_file_rules")
	says(t, b.Want(0, "plan"), "would lose access: pgfleet itself, as postgres over the local socket: ", "; begin with \"local all postgres peer\"")
	says(t, b.Want(1, "apply", "--yes"), "--allow-lockout pgfleet")
	s := b.Want(1, "apply", "--yes", "--allow-lockout", "all")
	says(t, s, "the server does not let pgfleet in any more: ", "(SQLSTATE 28000)", "everything was put back")
	after := etcFiles(t, host)
	for path, sum := range before {
		if after[path] != sum {
			t.Errorf("%s is not as before\n%s", path, s.All())
		}
	}
	if got := sql(t, host, "SELECT string_agg(auth_method, ' ' ORDER BY line_number) FROM pg_hba_file_rules"); got != inForce {
		t.Errorf("the rules are %s, before %s", got, inForce)
	}
}

// Rules of every sort that shut pgfleet out, loaded by a reload and by a restart.
func TestLabLockoutOfPgfleet(t *testing.T) {
	t.Run("postgres-17", func(t *testing.T) {
		fresh(t, "pg17")
		b := newBench(t, "", "pg17")
		shutsItselfOut(t, b, "pg17", who("local all all peer map=nobody"))
		shutsItselfOut(t, b, "pg17", who("local all dba peer")+oneSetting("max_wal_senders", "15"))
		if got := sql(t, "pg17", "SHOW max_wal_senders"); got != "10" {
			t.Errorf("max_wal_senders is %s", got)
		}
	})
}

// A standby that streams is named by its host, and the cluster is left alone;
// what becomes of one instance is nothing to another.
func TestLabLockoutOfAStandby(t *testing.T) {
	t.Run("postgres-15", func(t *testing.T) {
		fresh(t, "primary", "pg17")
		b := newBench(t, who("local all postgres peer"), "primary", "standby", "pg17")
		b.edit("fleet.toml", `replication = "orders"`, "")
		address := fleet.Lab.Host("standby").Address.String()
		s := b.Want(1, "apply", "--yes")
		says(t, s, "primary: Who (fleet.toml:", "would lose access: the standby 15/main (replicator from "+address+"): \"host replication all 0.0.0.0/0 reject\" matches first", "add --allow-lockout standby:standby\n")
		if got := sql(t, "pg17", "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'reject'"); got != "4" {
			t.Errorf("pg17, where nobody loses anything, has %s rules of the new ones\n%s", got, s.All())
		}
		if got := sql(t, "primary", "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'reject'"); got != "0" {
			t.Error("primary was changed")
		}
	})
}

// A role that is connected and may not log in any more.
func TestLabLockoutByARole(t *testing.T) {
	t.Run("postgres-18", func(t *testing.T) {
		fresh(t, "pg18")
		applications(t, "pg18")
		stays(t, "pg18", "user=appuser dbname=appdb")
		b := newBench(t, "\n[[task]]\nname = \"The application's role\"\nkind = \"role\"\nrole = \"appuser\"\n", "pg18")
		says(t, b.Want(1, "apply", "--yes"), "The application's role: would lose access: appuser in appdb from "+fleet.Lab.Application.String()+" (1 session now): the role becomes NOLOGIN", "add --allow-lockout appuser@")
		if got := sql(t, "pg18", "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'appuser'"); got != "t" {
			t.Errorf("rolcanlogin is %s", got)
		}
		b.Want(0, "apply", "--yes", "--allow-lockout", "appuser")
	})
}
