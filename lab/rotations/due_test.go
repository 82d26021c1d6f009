//go:build lab

package rotations

import (
	"strings"
	"testing"
	"time"
)

// TestLabDue lets a password become too old: plan says so, and rotate --due changes
// it and no other. The new password is proven by a login from another host of the
// fleet, whose sshd forwards nothing.
func TestLabDue(t *testing.T) {
	young := strings.Replace(alternate, `role = "shop"`, "role = \"shop\"\nlimit = \"d1-cluster\"\nmax_age = \"30d\"\nverify_from = \"b1\"", 1)
	old := strings.Replace(inPlace, `role = "svc"`, "role = \"svc\"\nlimit = \"d1-cluster\"\nmax_age = \"1s\"\nverify_from = \"b1\"", 1)
	b := newBench(t, young+old)
	s := b.Want(0, "rotate", "--all", "--yes")
	has(t, s.All(), "log in as svc with it, from b1")
	time.Sleep(1100 * time.Millisecond)
	s = b.Want(0, "plan", "--detailed-exitcode")
	has(t, s.All(), "the password of svc on d1-cluster is", "old, and max_age is 1s: pgfleet rotate svc")
	if strings.Contains(s.All(), "password of shop") {
		t.Errorf("the other one is not due:\n%s", s.All())
	}
	s = b.Want(0, "rotate", "--status")
	has(t, s.All(), "of 1s, due", "of 30d")
	before, err := b.entry(t.Context(), "d1-cluster/shop")
	if err != nil {
		t.Fatal(err)
	}
	b.Want(0, "rotate", "--due", "--yes")
	after, err := b.entry(t.Context(), "d1-cluster/shop")
	if err != nil {
		t.Fatal(err)
	}
	if before.ID != after.ID {
		t.Error("a rotation that was not due was made")
	}
	entry, err := b.entry(t.Context(), "d1-cluster/svc")
	if err != nil {
		t.Fatal(err)
	}
	if entry.ID != "2" {
		t.Errorf("the current version is %s, want 2", entry.ID)
	}
	said := fleet.Look(t, "b1", "sshd -T | grep -i disableforwarding")
	has(t, said, "yes")
}
