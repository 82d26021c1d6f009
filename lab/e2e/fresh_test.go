//go:build lab

package e2e

import (
	"testing"
)

// Whoever connects after an apply has begun, and before the step that would lock
// him out, is not locked out unless that is allowed.
func TestLabLockoutOfALateSession(t *testing.T) {
	t.Run("postgres-17", func(t *testing.T) {
		const host = "pg17"
		fresh(t, host)
		applications(t, host)
		look(t, host, "rm -f /run/go")
		b := newBench(t, "\n[[task]]\nname = \"Wait\"\nkind = \"command\"\nrun = \"touch /run/waits; until [ -e /run/go ]; do sleep 0.1; done\"\ncreates = \"/run/go\"\nuser = \"root\"\n"+
			who("local all postgres peer"), host)
		before := etcFiles(t, host)
		r := b.start("apply", "--yes")
		look(t, host, "for i in $(seq 300); do [ -e /run/waits ] && exit; sleep 0.1; done; exit 1")
		stays(t, host, "user=reports dbname=postgres")
		look(t, host, "touch /run/go")
		who := "reports@" + fleet.Lab.Application.String()
		wantWords(t, r.end(1), "since it was planned this has changed: ", "would lose access: reports in postgres from ", "nothing was changed; if that is meant, add --allow-lockout "+who)
		for path, sum := range etcFiles(t, host) {
			if before[path] != sum {
				t.Errorf("%s was changed", path)
			}
		}
		b.Want(0, "apply", "--yes", "--allow-lockout", who)
	})
}

// A file that a setting of TLS names is tried before it is put in place, also where
// no setting changes.
func TestLabTrialOfAFileOfTLS(t *testing.T) {
	t.Run("postgres-17", func(t *testing.T) {
		const host, file = "pg17", "/etc/postgresql/17/main/own.pem"
		fresh(t, host)
		look(t, host, "install -o postgres -m 600 /etc/ssl/certs/ssl-cert-snakeoil.pem "+file+"; echo \"ssl_cert_file = '"+file+"'\" >/etc/postgresql/17/main/conf.d/99-own.conf; systemctl reload postgresql@17-main")
		before := look(t, host, "cat "+file)
		b := newBench(t, "\n[[task]]\nname = \"Certificate\"\nkind = \"file\"\npath = \"own.pem\"\nmode = \"0600\"\ncontent = \"no certificate\\n\"\n", host)
		says(t, b.Want(1, "apply", "--yes"), "a server does not start with the new configuration, so it was not put in place: ", "could not load server certificate file \""+file+"\"")
		if now := look(t, host, "cat "+file); now != before {
			t.Errorf("it was replaced:\n%s", now)
		}
		look(t, host, "rm /etc/postgresql/17/main/conf.d/99-own.conf "+file)
	})
}
