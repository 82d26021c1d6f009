package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A budget is how many hosts may be in trouble. Who starts reserves one, and
// gives it back when all went well: so no more hosts than that can ever fail,
// whatever happens to those that are being worked on.
type budget struct {
	max int // less than 0: any number

	mu      sync.Mutex
	changed chan struct{} // closed and made anew at every change
	running map[string]int
	failed  []string // hosts
}

func newBudget(limit int) *budget {
	return &budget{max: limit, changed: make(chan struct{}), running: map[string]int{}}
}

// reserve waits until the host may start. The error says why it may not.
func (b *budget) reserve(ctx context.Context, stop <-chan struct{}, host string) error {
	for {
		b.mu.Lock()
		if err := b.spent(); err != nil {
			b.mu.Unlock()
			return err
		}
		if b.max < 0 || b.running[host] > 0 || len(b.failed)+len(b.running) < b.max {
			b.running[host]++
			b.mu.Unlock()
			return nil
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-stop:
			return errStopped
		case <-ctx.Done():
			return errStopped
		}
	}
}

// done gives the reservation back, or uses it up.
func (b *budget) done(host string, failed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running[host]--; b.running[host] == 0 {
		delete(b.running, host)
	}
	if failed {
		b.fail(host)
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// fail takes note of a host in trouble. The caller holds the lock, or is alone.
func (b *budget) fail(host string) {
	if !slices.Contains(b.failed, host) {
		b.failed = append(b.failed, host)
	}
}

// halted says why nobody may start any more; nil while there is something left.
func (b *budget) halted() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spent()
}

// spent is halted, for who holds the lock.
func (b *budget) spent() error {
	if b.max < 0 || len(b.failed) < b.max {
		return nil
	}
	return fmt.Errorf("left alone: %s failed, and max_failures = %d allows no more; mend that, or leave it out with --limit, and run it again", strings.Join(b.failed, ", "), b.max)
}
