//go:build lab

package rollouts

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func login(ctx context.Context, host, database string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s user=bench dbname=%s sslmode=disable connect_timeout=2", fleet.Lab.Host(host).Address, database))
	if err != nil {
		return nil, err
	}
	config.Password = password
	return pgx.ConnectConfig(ctx, config)
}

// A span is a time for which a host did not answer.
type span struct{ from, to time.Time }

func (s span) length() time.Duration { return s.to.Sub(s.from) }

// A poller asks every host 20 times a second whether it answers, in a session
// that it opens anew when it is lost.
type poller struct {
	stop  context.CancelFunc
	group sync.WaitGroup
	asked atomic.Int64

	mu   sync.Mutex
	down map[string][]span
}

const tick = 50 * time.Millisecond

func poll(t *testing.T, hosts []string) *poller {
	ctx, cancel := context.WithCancel(context.Background())
	p := &poller{stop: cancel, down: map[string][]span{}}
	for _, host := range hosts {
		p.group.Go(func() { p.watch(ctx, host) })
	}
	t.Cleanup(func() { p.ends() })
	return p
}

func (p *poller) ends() map[string][]span {
	p.stop()
	p.group.Wait()
	return p.down
}

func (p *poller) watch(ctx context.Context, host string) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var conn *pgx.Conn
	var since time.Time
	for ctx.Err() == nil {
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		at := time.Now()
		var err error
		if conn == nil {
			conn, err = login(one, host, "postgres")
		}
		if err == nil {
			_, err = conn.Exec(one, "SELECT 1", pgx.QueryExecModeSimpleProtocol)
		}
		cancel()
		p.asked.Add(1)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if since.IsZero() {
				since = at
			}
			if conn != nil {
				_ = conn.Close(ctx)
				conn = nil
			}
		case !since.IsZero():
			p.mu.Lock()
			p.down[host] = append(p.down[host], span{since, time.Now()})
			p.mu.Unlock()
			since = time.Time{}
		}
		<-ticker.C
	}
	if !since.IsZero() {
		p.mu.Lock()
		p.down[host] = append(p.down[host], span{since, time.Now()})
		p.mu.Unlock()
	}
	if conn != nil {
		_ = conn.Close(context.Background())
	}
}

// A writer inserts one number after the other into a primary, and remembers those
// of which the server said that they are committed.
type writer struct {
	stop      context.CancelFunc
	group     sync.WaitGroup
	committed []int
	failures  int
}

func write(t *testing.T, host string) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{stop: cancel}
	w.group.Go(func() {
		var conn *pgx.Conn
		for n := 1; ctx.Err() == nil; n++ {
			time.Sleep(20 * time.Millisecond)
			var err error
			if conn == nil {
				conn, err = login(ctx, host, "bench")
			}
			if err == nil {
				_, err = conn.Exec(ctx, "INSERT INTO written VALUES ($1)", n)
			}
			switch {
			case err == nil:
				w.committed = append(w.committed, n)
			case ctx.Err() == nil:
				w.failures++
				if conn != nil {
					_ = conn.Close(ctx)
					conn = nil
				}
			}
		}
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	})
	t.Cleanup(func() { w.ends() })
	return w
}

func (w *writer) ends() []int {
	w.stop()
	w.group.Wait()
	return w.committed
}
