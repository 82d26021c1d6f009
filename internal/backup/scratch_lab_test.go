//go:build lab

package backup

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
	"github.com/pgfleet/pgfleet/transport"
)

// left is what a scratch cluster would leave on a host.
const left = `ls -d /run/pgfleet-scratch-* /var/tmp/systemd-private-*pgfleet-scratch* /var/tmp/systemd-private-*pgfleet-scratch*/tmp/* 2>/dev/null
ps -eo args | grep '[p]gfleet-scratch'; true`

func TestLabScratch(t *testing.T) {
	var hosts []lab.Host
	for _, v := range []int{13, 15, 17, 18} {
		hosts = append(hosts, lab.Host{Name: fmt.Sprintf("postgres-%d", v), Postgres: v})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel) // the subtests go on when this function has returned
	l, err := lab.Up(ctx, lab.Options{Hosts: hosts, Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	for _, h := range l.Hosts() {
		t.Run(h.Name, func(t *testing.T) {
			t.Parallel()
			look := func(script string) string {
				out, err := h.Exec(ctx, script)
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				return strings.TrimSpace(out)
			}
			d := &transport.Dialer{}
			defer d.Close()
			conn, err := d.Dial(ctx, transport.Target{Name: h.Name, Address: h.Address.String(), User: h.User, Identity: l.Key, KnownHosts: l.KnownHosts})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			found, err := FindBinaries(ctx, conn)
			if err != nil || len(found) != 1 || found[0] != h.Postgres {
				t.Fatalf("%v, %v", found, err)
			}
			look("mkdir -p /etc/pgfleet/backup /home/x")
			s, err := StartScratch(ctx, conn, BinDir(h.Postgres), []string{"pgaudit"})
			if err != nil {
				t.Fatal(err)
			}
			session, err := conn.Postgres(ctx, s.Endpoint("template1"))
			if err != nil {
				t.Fatal(err)
			}
			var name, listen string
			if err := session.QueryRow(ctx, "SELECT current_setting('cluster_name'), current_setting('listen_addresses')").Scan(&name, &listen); err != nil || name != "pgfleet-scratch" || listen != "" {
				t.Errorf("%q, %q, %v", name, listen, err)
			}
			// What a dump could have it do is done in the unit: it sees no other cluster, and no network.
			var seen string
			const look1 = "CREATE TEMP TABLE out (line text); COPY out FROM PROGRAM 'cat /var/lib/postgresql/*/main/PG_VERSION 2>/dev/null; cat /proc/net/dev | tail -n +3 | cut -d: -f1; true'"
			if _, err := session.Exec(ctx, look1); err != nil {
				t.Fatal(err)
			}
			if err := session.QueryRow(ctx, "SELECT string_agg(trim(line), ',') FROM out").Scan(&seen); err != nil || seen != "lo" {
				t.Errorf("it sees %q, %v", seen, err)
			}
			// Nor does it become postgres, or reach a cluster, its files or systemd. The paths of /proc lead to what processes outside of the unit see.
			const exploit = `CREATE TEMP TABLE got (line text); COPY got FROM PROGRAM 'exec 2>/dev/null; id -un
for d in /var/run/postgresql /run/postgresql /proc/[0-9]*/root/run/postgresql; do for u in postgres pgfleet_scratch; do
psql -XAtw -h $d -U $u -d postgres -c "SELECT ''in $d as '' || current_user"; done; done
cat /etc/postgresql/*/main/* /var/lib/postgresql/*/main/global/pg_control | head -c 40
ls /etc/postgresql /etc/pgfleet /var/backups /home /root /run/dbus
systemctl --no-pager list-units | head -n 1; true'`
			if _, err := session.Exec(ctx, exploit); err != nil {
				t.Fatal(err)
			}
			if err := session.QueryRow(ctx, "SELECT string_agg(trim(line), ',') FROM got").Scan(&seen); err != nil || seen != "pgfleet_scratch" {
				t.Errorf("the exploit got %q, %v", seen, err)
			}
			if got := look(`runuser -u nobody -- psql -XAtw -h ` + s.SocketDir() + ` -U postgres -d template1 -c 'SELECT 1' 2>&1; true`); !strings.Contains(got, "eer authentication failed") {
				t.Errorf("another account gets in: %q", got)
			}
			_ = session.Close(ctx)
			if got := look(left); !strings.Contains(got, "/run/"+s.unit) || !strings.Contains(got, "/data") {
				t.Errorf("while it runs: %q", got)
			}
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
			if got := look(left); got != "" {
				t.Errorf("after its end: %s", got)
			}
			// A run that vanishes.
			if s, err = StartScratch(ctx, conn, BinDir(h.Postgres), nil); err != nil {
				t.Fatal(err)
			}
			s.cancel()
			look("touch -d '6 minutes ago' " + s.alive())
			for range 100 {
				if look(left) == "" {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if got := look(left); got != "" {
				t.Errorf("nobody was heard of: %s", got)
			}
			// What does not start is named.
			if _, err := StartScratch(ctx, conn, BinDir(h.Postgres), []string{"nosuchlibrary"}); err == nil || !strings.Contains(err.Error(), `could not access file "nosuchlibrary"`) {
				t.Errorf("%v", err)
			}
			if got := look(left); got != "" {
				t.Errorf("after a failed start: %s", got)
			}
		})
	}
}
