//go:build lab

package crashes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// lookScript says how a host is, a line for each thing that some task is about,
// and with the word "wrong" what may be in neither state. "dead-man" is what is
// left for it, or that it has put back.
const lookScript = `cd /
conf=/etc/postgresql/VERSION/main
p() { runuser -u postgres -- psql -XAtqF ' ' -v ON_ERROR_STOP=1 "$@" 2>&1 | paste -sd' '; }
for f in $conf/conf.d/20-tls.conf $conf/conf.d/30-slow.conf $conf/conf.d/40-connections.conf $conf/pg_hba.conf $conf/postgresql.conf /etc/systemd/system/pgfleet-crash.service /etc/pgfleet-crash; do
	[ ! -e $f ] || echo "$f	$(stat -c '%U:%G %a' $f) $(sha256sum <$f)"
done
echo "certificate	$(stat -c '%U:%G %a' $conf/server.pem) $(openssl x509 -in $conf/server.pem -noout -ext subjectAltName | tail -n +2)"
echo "fingerprint	$(openssl x509 -in $conf/server.pem -noout -fingerprint -sha256)"
[ "$(openssl x509 -in $conf/server.pem -noout -pubkey)" = "$(openssl pkey -in $conf/server.pem -pubout)" ] || echo "wrong	the key is not the certificate's"
if [ -e /etc/systemd/system/pgfleet-crash.service ]; then
	echo "unit	$(tr '\0' '\n' </proc/$(systemctl show -P MainPID pgfleet-crash)/environ | grep ^STATE=)"
	[ "$(systemctl show -P NeedDaemonReload pgfleet-crash)$(systemctl is-active pgfleet-crash)" = noactive ] || echo "wrong	systemd has not read its unit, or it does not run"
fi
echo "role	$(p -c "SELECT rolcanlogin, rolconnlimit FROM pg_roles WHERE rolname = 'app'")"
echo "database	$(p -c "SELECT datconnlimit, datacl FROM pg_database WHERE datname = 'app'")"
echo "view	$(p -d app -c "SELECT definition FROM pg_views WHERE viewname = 'state'")"
echo "grant	$(p -d app -c "SELECT relacl FROM pg_class WHERE relname = 'state'")"
echo "slow	$(p -c "SELECT setting FROM pg_settings WHERE name = 'log_min_duration_statement'")"
echo "connections	$(p -c "SELECT setting FROM pg_settings WHERE name = 'max_connections'")"
w=$(p -c "SELECT f.name, f.setting, s.setting, f.error FROM pg_file_settings f LEFT JOIN pg_settings s USING (name)
	WHERE f.error IS NOT NULL OR f.applied AND f.name IN ('log_min_duration_statement', 'max_connections', 'ssl', 'listen_addresses') AND f.setting <> s.setting")
[ -z "$w" ] || echo "wrong	the server does not run with its files: $w"
w=$(p -c "SELECT name FROM pg_settings WHERE pending_restart")
[ -z "$w" ] || echo "wrong	a restart is pending: $w"
w=$(p -c "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
[ -z "$w" ] || echo "wrong	pg_hba.conf: $w"
echo "rules	$(grep -o 'probe_[a-z]*' $conf/pg_hba.conf)"
flock -n -x /var/lib/pgfleet/lock true || echo "dead-man	something that was begun still runs"
for f in /var/lib/pgfleet/undo/*/restore; do [ ! -e $f ] || echo "dead-man	armed"; done
for f in /var/lib/pgfleet/undo/*/fired.note; do [ ! -e $f ] || echo "fired	$(tr '\n' ' ' <$f)"; done
`

// leftScript lists what a run that ended well leaves nothing of. The lease of the
// run that was killed may still have some time to run on a host that was done.
const leftScript = `find /var/lib/pgfleet/undo -mindepth 1 2>/dev/null
find /etc /var/lib/postgresql -name '.pgfleet*'
find /etc/systemd/system /run/systemd -name 'pgfleet-undo*'
systemctl list-units --all --plain --no-legend 'pgfleet-undo*'
[ ! -e /var/lib/pgfleet/lease ] || grep -qx 'run RUN' /var/lib/pgfleet/lease || cat /var/lib/pgfleet/lease
[ $(pgrep -c -f 'bin/postgres -D') = 1 ] || pgrep -fa 'bin/postgres -D'
true`

// A sight is how a host was found: each thing by its name.
type sight map[string]string

func lookAt(t *testing.T, host string) sight {
	t.Helper()
	s := sight{}
	text := inside(t, host, strings.ReplaceAll(lookScript, "VERSION", fmt.Sprint(fleet.Lab.Host(host).Postgres)))
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if old := s[name]; old != "" {
			value = old + "; " + value
		}
		s[name] = value
	}
	return s
}

// aside are the things that are no task's.
func aside(name string) bool {
	return slices.Contains([]string{"wrong", "dead-man", "fired", "fingerprint"}, name)
}

// compare says which things are as one sight has them, and which as another; and
// what is wrong with the host.
func (s sight) compare(before, wanted sight) (asBefore, asWanted bool, problems []string) {
	asBefore, asWanted = true, true
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if aside(name) {
			continue
		}
		if s[name] != before[name] {
			asBefore = false
		}
		if s[name] != wanted[name] {
			asWanted = false
		}
		if s[name] != before[name] && s[name] != wanted[name] {
			problems = append(problems, fmt.Sprintf("%s is %q, was %q, and should be %q", name, s[name], before[name], wanted[name]))
		}
	}
	if s["certificate"] == before["certificate"] && s["fingerprint"] != before["fingerprint"] {
		problems = append(problems, "the certificate was made anew for the same names")
	}
	for _, name := range []string{"wrong", "dead-man"} {
		if s[name] != "" {
			problems = append(problems, name+": "+s[name])
		}
	}
	return asBefore, asWanted, problems
}

// clients says what is wrong for the declared client, who logs in from an
// application over TCP: also if the server has another certificate or other rules
// than its files say.
func (s sight) clients(ctx context.Context, host string) []string {
	var problems, served []string
	conn, err := login(ctx, host, "app", func(names []string) { served = names })
	if err != nil {
		problems = append(problems, "the declared client cannot log in: "+err.Error())
	} else {
		_ = conn.Close(ctx)
	}
	for _, name := range served {
		if !strings.Contains(s["certificate"], "DNS:"+name) {
			problems = append(problems, fmt.Sprintf("the certificate on the wire is for %s, and the one on disk for %s", name, s["certificate"]))
		}
	}
	for _, st := range []state{one, other} {
		// There is no such role. Where a rule lets it try, its password is wrong.
		probe, want := "probe_"+string(st), "28000"
		if s["rules"] == probe {
			want = "28P01"
		}
		_, err := login(ctx, host, probe, func([]string) {})
		if said, ok := errors.AsType[*pgconn.PgError](err); !ok || said.Code != want {
			problems = append(problems, fmt.Sprintf("the rules in force are not those of the file, which has %s: %v", s["rules"], err))
		}
	}
	return problems
}

func login(ctx context.Context, host, role string, served func(names []string)) (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s dbname=app sslmode=require user=%s", fleet.Lab.Host(host).Address, role))
	if err != nil {
		return nil, err
	}
	config.Password = password
	config.DialFunc = fleet.Lab.FromApplication().DialContext
	config.TLSConfig.VerifyConnection = func(c tls.ConnectionState) error {
		served(c.PeerCertificates[0].DNSNames)
		return nil
	}
	return pgconn.ConnectConfig(ctx, config)
}
