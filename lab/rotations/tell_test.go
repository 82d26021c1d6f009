//go:build lab

package rotations

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// telling tells everybody that can be told.
const telling = `
tell = [
  { userlist = "/etc/pgbouncer-userlist.txt", hosts = ["a2"] },
  { passfile = "/root/.pgpass-shop", hosts = ["a2", "b2"] },
  { service = "shop-app.service", hosts = ["b2"] },
  { command = "echo {{ .Host.Replication }} >> told.txt" },
]
`

func TestLabTold(t *testing.T) {
	b := newBench(t, strings.Replace(alternate, `role = "shop"`, "role = \"shop\"\nlimit = \"a1-cluster\"", 1)+telling)
	fleet.Look(t, "a2", "umask 077; touch /etc/pgbouncer-userlist.txt")
	s := b.Want(1, "rotate", "shop", "--yes") // there is no password file yet
	has(t, s.All(), "there is no /root/.pgpass-shop", "the new password is published, and the next pgfleet rotate does what is left")
	address := fleet.Lab.Host("a1").Address.String()
	for _, h := range []string{"a2", "b2"} {
		fleet.Look(t, h, `umask 077; printf '`+address+`:5432:shop:shop_a:old\n10.9.9.9:5432:shop:shop_a:kept\n*:*:*:other:kept\n' >/root/.pgpass-shop; printf '"admin" "kept"\n' >/etc/pgbouncer-userlist.txt; chown postgres /etc/pgbouncer-userlist.txt
printf '[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/sh -c "echo >>/root/reloaded"\n' >/etc/systemd/system/shop-app.service; systemctl daemon-reload; systemctl start shop-app; rm -f /root/reloaded`)
		t.Cleanup(func() {
			fleet.Look(t, h, "systemctl stop shop-app; rm -f /root/.pgpass-shop /etc/pgbouncer-userlist.txt /etc/systemd/system/shop-app.service /root/reloaded; systemctl daemon-reload")
		})
	}
	first, err := b.entry(t.Context(), "a1-cluster/shop")
	if err != nil {
		t.Fatal(err)
	}
	if user := string(first.Keys["username"].Expose()); user != "shop_a" {
		t.Fatalf("published is %s", user)
	}
	// What was not told is told by the next one, which begins no other rotation.
	s = b.Want(0, "rotate", "shop", "--yes")
	has(t, s.All(), "is published", "goes on with a rotation that was begun before")
	check := func(user string, times int) {
		t.Helper()
		entry, err := b.entry(t.Context(), "a1-cluster/shop")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(entry.Keys["username"].Expose()); got != user {
			t.Fatalf("%s is published, want %s", got, user)
		}
		password := string(entry.Keys["password"].Expose())
		verifier := fleet.SQL(t, "a1", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+user+"'")
		list := fleet.Look(t, "a2", "cat /etc/pgbouncer-userlist.txt; stat -c '%U %a' /etc/pgbouncer-userlist.txt")
		has(t, list, fmt.Sprintf("%q %q\n", "admin", "kept"), fmt.Sprintf("%q %q\n", user, verifier), "postgres 600")
		for _, h := range []string{"a2", "b2"} {
			want := address + ":5432:shop:" + user + ":" + password + "\n10.9.9.9:5432:shop:shop_a:kept\n*:*:*:other:kept\nroot 600\n"
			if text := fleet.Look(t, h, "cat /root/.pgpass-shop; stat -c '%U %a' /root/.pgpass-shop"); text != want {
				t.Errorf("%s has another password file", h)
			}
		}
		if n := strings.Count(fleet.Look(t, "b2", "cat /root/reloaded"), "\n"); n != times {
			t.Errorf("the service was reloaded %d times, want %d", n, times)
		}
		told, err := os.ReadFile(filepath.Join(b.Dir, "told.txt"))
		if err != nil || strings.Count(string(told), "a1-cluster\n") != times {
			t.Errorf("the command has left %q, %v", told, err)
		}
	}
	check("shop_a", 1)
	b.Want(0, "rotate", "shop", "--yes")
	check("shop_b", 2)
	b.Want(0, "rotate", "shop", "--yes", "--rollback")
	check("shop_a", 3)
	if left := fleet.Look(t, "a1", "ls /var/lib/pgfleet | grep tell || true"); left != "" {
		t.Errorf("left on the host: %s", left)
	}
}
