//go:build lab

package rotations

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestLabDrift changes passwords by hand, and sees that they are named and left alone.
func TestLabDrift(t *testing.T) {
	b := newBench(t, alternate+inPlace)
	b.Want(0, "rotate", "--all", "--yes", "-l", "a1-cluster")
	for _, c := range []struct{ role, rotation string }{{"shop_a", "shop"}, {"svc", "svc"}} {
		fleet.SQL(t, "a1", "ALTER ROLE "+c.role+" PASSWORD 'by-hand'")
		before := fleet.SQL(t, "a1", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+c.role+"'")
		for _, args := range [][]string{{"rotate", c.rotation, "--yes"}, {"rotate", c.rotation, "--plan"}, {"rotate", c.rotation, "--status"}, {"rotate", c.rotation, "--yes", "--rollback"}} {
			s := b.Want(1, append(args, "-l", "a1-cluster")...)
			if !strings.Contains(s.All(), "no previous version") {
				has(t, s.All(), "the password of "+c.role+" is not what age:a1-cluster/"+c.rotation, "somebody changed it by hand")
			}
		}
		if after := fleet.SQL(t, "a1", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+c.role+"'"); after != before {
			t.Errorf("the password of %s was overwritten", c.role)
		}
		b.Want(0, "rotate", c.rotation, "--yes", "--force", "-l", "a1-cluster")
		entry, err := b.entry(t.Context(), "a1-cluster/"+c.rotation)
		if err != nil {
			t.Fatal(err)
		}
		user := "svc"
		if u, ok := entry.Keys["username"]; ok {
			user = string(u.Expose())
		}
		if err := b.login(t.Context(), "a1", user, string(entry.Keys["password"].Expose()), "postgres"); err != nil {
			t.Errorf("after --force: %v", err)
		}
	}
}

// TestLabSessionsOfTheOldRole keeps a session of the old role open: it is waited for,
// reported, not cut off, and ended when that is asked for.
func TestLabSessionsOfTheOldRole(t *testing.T) {
	b := newBench(t, strings.Replace(alternate, `retire_wait = "5s"`, `retire_wait = "1s"`, 1))
	b.Want(0, "rotate", "shop", "--yes", "-l", "c1-cluster")
	entry, err := b.entry(t.Context(), "c1-cluster/shop")
	if err != nil {
		t.Fatal(err)
	}
	session := func(host string) (ended func() bool) {
		t.Helper()
		conn, err := b.connect(t.Context(), host, "shop_a", string(entry.Keys["password"].Expose()), "shop")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		return func() bool { return conn.Ping(t.Context()) != nil }
	}
	ended := session("c2") // on the standby
	s := b.Want(0, "rotate", "shop", "--yes", "-l", "c1-cluster")
	has(t, s.All(), "shop_a keeps its old password, because it still has sessions: 1 on c2", "--end-sessions")
	if ended() {
		t.Fatal("the session was cut off")
	}
	s = b.Want(0, "rotate", "--status", "-l", "c1-cluster")
	has(t, s.All(), "shop_b", "has its old password")
	if ended2 := session("c1"); ended2() {
		t.Fatal("the old password does not log in any more")
	}
	// It is next, and somebody uses it.
	s = b.Want(1, "rotate", "shop", "--yes", "-l", "c1-cluster")
	has(t, s.All(), "shop_a, which is next, has 2 sessions, though age:c1-cluster/shop says that shop_b is in use")
	// A client of the old role connects again at once whenever its session is ended.
	old, err := b.entry(t.Context(), "c1-cluster/shop")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var client sync.WaitGroup
	connected := make(chan struct{}, 1000)
	client.Go(func() {
		for ctx.Err() == nil {
			conn, err := b.connect(ctx, "c1", "shop_b", string(old.Keys["password"].Expose()), "shop")
			if err != nil {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			select {
			case connected <- struct{}{}:
			default:
			}
			for conn.Ping(ctx) == nil {
				time.Sleep(5 * time.Millisecond)
			}
			_ = conn.Close(context.Background())
		}
	})
	<-connected
	began := time.Now()
	s = b.Want(0, "rotate", "shop", "--yes", "--rollback", "--end-sessions", "-l", "c1-cluster")
	took := time.Since(began)
	stop()
	client.Wait()
	if took > 30*time.Second || strings.Count(s.All(), "sessions of shop_b that were ended:") != 1 {
		t.Errorf("it took %v\n%s", took, s.All())
	}
	if has := fleet.SQL(t, "c1", "SELECT rolpassword IS NOT NULL OR EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'shop_b') FROM pg_authid WHERE rolname = 'shop_b'"); has != "f" {
		t.Error("the old role still has a password, or a session")
	}
	now, err := b.entry(t.Context(), "c1-cluster/shop")
	if err != nil {
		t.Fatal(err)
	}
	if user := string(now.Keys["username"].Expose()); user != "shop_a" {
		t.Errorf("after going back %s is in use", user)
	}
}
