//go:build lab

package rotations

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestLabGated rotates behind a canary and its gate: that the sessions of the role
// which was in use have gone, and that its password is refused, is what was wanted
// and no sign that something is wrong.
func TestLabGated(t *testing.T) {
	b := newBench(t, "\n[rollout]\ncanary = [\"a1\", \"a2\"]\ngate_timeout = \"5s\"\n"+strings.Replace(alternate, `role = "shop"`, "role = \"shop\"\nlimit = \"a1-cluster,b1-cluster\"", 1))
	b.Want(0, "rotate", "shop", "--yes")
	first, err := b.entry(t.Context(), "a1-cluster/shop")
	if err != nil {
		t.Fatal(err)
	}
	password := string(first.Keys["password"].Expose())
	var pool []*pgx.Conn
	for range 3 {
		conn, err := b.connect(t.Context(), "a1", "shop_a", password, "shop")
		if err != nil {
			t.Fatal(err)
		}
		pool = append(pool, conn)
	}
	// The application goes over to the new secret, and somebody has the old one still.
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for range 600 {
			if now, err := b.entry(context.Background(), "a1-cluster/shop"); err == nil && now.ID != first.ID {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		for _, conn := range pool {
			_ = conn.Close(context.Background())
		}
		for range 30 {
			if b.login(context.Background(), "a1", "shop_a", password, "shop") != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	s := b.Want(0, "rotate", "shop", "--yes")
	<-gone
	if strings.Contains(s.All(), "the rollout has stopped") {
		t.Error(s.All())
	}
}
