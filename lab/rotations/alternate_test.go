//go:build lab

package rotations

import (
	"strings"
	"testing"
	"time"
)

// rounds is how many rotations there are in a row.
const rounds = 20

// TestLabNoFailedLogin rotates again and again while an application on each cluster
// reads the store and logs in, on the primary and on the standby.
func TestLabNoFailedLogin(t *testing.T) {
	b := newBench(t, alternate+inPlace)
	b.Want(0, "rotate", "--all", "--yes")
	var list []*application
	for _, c := range names() {
		path := c + "-cluster/shop"
		list = append(list,
			&application{b: b, host: c, path: path, database: "shop"},
			&application{b: b, host: c[:1] + "2", path: path, database: "shop", every: 5 * interval},
		)
	}
	stop := applications(list...)
	began := time.Now()
	users := map[string]int{}
	for range rounds {
		s := b.Run("rotate", "shop", "--yes")
		if s.Code != 0 {
			stop()
			t.Fatalf("rotate: %s", s.All())
		}
		entry, err := b.entry(t.Context(), "a1-cluster/shop")
		if err != nil {
			t.Fatal(err)
		}
		users[string(entry.Keys["username"].Expose())]++
	}
	took := time.Since(began)
	stop()
	attempts := 0
	for _, a := range list {
		attempts += a.attempts
		if len(a.failures) > 0 {
			t.Errorf("on %s %d of %d logins failed, such as %s", a.host, len(a.failures), a.attempts, a.failures[0])
		}
		if least := int(took/max(interval, a.every)) / 4; a.attempts < least {
			t.Errorf("on %s there were %d logins, and to be worth anything there must be %d", a.host, a.attempts, least)
		}
	}
	if users["shop_a"] != rounds/2 || users["shop_b"] != rounds/2 {
		t.Errorf("the roles took turns: %v", users)
	}
	for _, c := range names() {
		held := fleet.SQL(t, c, "SELECT string_agg(rolname || ' ' || (rolpassword IS NOT NULL), ', ' ORDER BY rolname) FROM pg_authid WHERE rolname IN ('shop_a', 'shop_b')")
		if strings.Count(held, "true") != 1 {
			t.Errorf("on %s the roles have passwords so: %s", c, held)
		}
	}
	t.Logf("PROOF: %d rotations on each of %d clusters in %v, and %d logins meanwhile, on primaries and standbys: none failed", rounds, len(names()), took.Round(time.Second), attempts)
}

// TestLabInPlaceFailsNowAndThen shows that the applications of the other test would
// have noticed: the one password of a role is wrong for a moment.
func TestLabInPlaceFailsNowAndThen(t *testing.T) {
	b := newBench(t, alternate+inPlace)
	b.Want(0, "rotate", "svc", "--yes")
	var list []*application
	for _, c := range names() {
		list = append(list, &application{b: b, host: c, path: c + "-cluster/svc", user: "svc", database: "postgres"})
	}
	stop := applications(list...)
	defer stop()
	for range 3 {
		s := b.Want(0, "rotate", "svc", "--yes")
		has(t, s.All(), "the old password of svc was refused for")
		for line := range strings.Lines(s.Stdout) {
			if strings.Contains(line, "was refused for") {
				t.Log("PROOF: " + strings.TrimSpace(line))
			}
		}
	}
	stop()
	failed := 0
	for _, a := range list {
		failed += len(a.failures)
		for _, f := range a.failures {
			if !strings.Contains(f, "28P01") {
				t.Errorf("%s: %s", a.host, f)
			}
		}
	}
	if failed == 0 {
		t.Error("no login failed during rotations in place: the applications would notice nothing")
	}
	t.Logf("PROOF: in place %d logins failed", failed)
}
