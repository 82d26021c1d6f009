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

// A reader counts on a standby what a writer writes, again and again, and opens its
// session anew when it is lost.
type reader struct {
	stop   context.CancelFunc
	group  sync.WaitGroup
	reads  int
	faults []string    // what was not as it should be
	failed []time.Time // when a read began that failed
}

func read(t *testing.T, host string) *reader {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{stop: cancel}
	r.group.Go(func() {
		var conn *pgx.Conn
		most := 0
		for ; ctx.Err() == nil; time.Sleep(tick) {
			one, cancel := context.WithTimeout(ctx, 2*time.Second)
			at := time.Now()
			var err error
			if conn == nil {
				conn, err = login(one, host, "bench")
			}
			var rows, largest, distinct int
			if err == nil {
				err = conn.QueryRow(one, "SELECT count(*), coalesce(max(n), 0), count(DISTINCT n) FROM written").Scan(&rows, &largest, &distinct)
			}
			cancel()
			switch {
			case err == nil:
				r.reads++
				// Rows come in order, and none goes again.
				if rows != distinct || rows > largest || rows < most {
					r.faults = append(r.faults, fmt.Sprintf("%s: %d rows, %d different ones up to %d, after %d rows", host, rows, distinct, largest, most))
				}
				most = rows
			case ctx.Err() == nil:
				r.failed = append(r.failed, at)
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
	t.Cleanup(func() { r.ends() })
	return r
}

func (r *reader) ends() {
	r.stop()
	r.group.Wait()
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
