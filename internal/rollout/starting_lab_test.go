//go:build lab

package rollout

import (
	"context"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// A server that recovers for longer than a silent one would get is waited for.
func TestLabSlowRecovery(t *testing.T) {
	const host = "postgres-17"
	l := upLab(t, lab.Host{Name: host, Postgres: 17})
	t.Run(host, func(t *testing.T) {
		b := labBench(t, l, host)
		x := b.executor()
		look(t, l, host, "touch /var/lib/postgresql/17/main/recovery.signal; chown postgres: /var/lib/postgresql/17/main/recovery.signal\n"+
			"echo \"restore_command = 'sleep 3; false'\" >/etc/postgresql/17/main/conf.d/99-slow.conf; systemctl --no-block restart postgresql@17-main")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began, said := time.Now(), map[string]bool{}
		const silent = 4 * time.Second
		err := x.untilSilent(ctx, silent, func(text string) { said[text] = true })
		if took := time.Since(began); err == nil || took < silent+2*time.Second || !said["the database system is starting up"] {
			t.Errorf("%v after %v: %v", err, took, said)
		}
		if now, err := x.server(t.Context()); err != nil || !now.Reached {
			t.Errorf("it is not up: %v, %s", err, now.Problem)
		}
	})
}
