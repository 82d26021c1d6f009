package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/internal/rollout"
)

// each calls do for every element, some at a time.
func each[T any](forks int, list []T, do func(*T)) {
	var group errgroup.Group
	group.SetLimit(forks)
	for i := range list {
		group.Go(func() error {
			do(&list[i])
			return nil
		})
	}
	_ = group.Wait()
}

// A byteProgress shows, beside what is being done, how many bytes have gone by and how fast.
type byteProgress struct {
	*progress
	mu   sync.Mutex
	work []*byteWork
	stop chan struct{}
	done sync.WaitGroup
}

// A byteWork is one line of it.
type byteWork struct {
	p     *byteProgress
	who   string
	bytes atomic.Int64
	total int64 // 0 if it is not known

	mu   sync.Mutex
	what string
	rate rate
}

func newByteProgress(u *ui, verb string, names []string) *byteProgress {
	return &byteProgress{progress: newProgress(u, verb, names), stop: make(chan struct{})}
}

// Start begins to draw, on a terminal.
func (p *byteProgress) Start() {
	p.progress.Start()
	p.done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				p.mu.Lock()
				all := slices.Clone(p.work)
				p.mu.Unlock()
				for _, w := range all {
					w.show(now)
				}
			case <-p.stop:
				return
			}
		}
	})
}

// Stop takes what was drawn away.
func (p *byteProgress) Stop() {
	close(p.stop)
	p.done.Wait()
	p.progress.Stop()
}

// Begin adds a line.
func (p *byteProgress) Begin(who string, total int64) *byteWork {
	w := &byteWork{p: p, who: who, total: total}
	p.mu.Lock()
	p.work = append(p.work, w)
	p.mu.Unlock()
	p.Observe(rollout.Event{Kind: rollout.Connecting, Host: who})
	return w
}

// Tell says what is being done.
func (w *byteWork) Tell(what string) {
	w.mu.Lock()
	w.what = what
	w.mu.Unlock()
	w.show(time.Now())
}

// End takes the line away.
func (w *byteWork) End(err error) {
	w.p.mu.Lock()
	w.p.work = slices.DeleteFunc(w.p.work, func(x *byteWork) bool { return x == w })
	w.p.mu.Unlock()
	w.p.finish(w.who, err != nil)
}

func (w *byteWork) show(now time.Time) {
	w.mu.Lock()
	text := clean(w.what)
	n := w.bytes.Load()
	perSecond := w.rate.add(now, n)
	w.mu.Unlock()
	switch {
	case n == 0:
	case w.total > 0:
		text += fmt.Sprintf("  %s of %s", bytesText(n), bytesText(w.total))
	default:
		text += "  " + bytesText(n)
	}
	if perSecond > 0 {
		text += "  " + bytesText(perSecond) + "/s"
	}
	w.p.set(w.who, text)
}

// A rate is computed over the last seconds.
type rate struct {
	at    []time.Time
	bytes []int64
}

// add returns how many bytes went by in a second lately; 0 if that is not known yet.
func (r *rate) add(now time.Time, bytes int64) int64 {
	const window = 10 * time.Second
	r.at, r.bytes = append(r.at, now), append(r.bytes, bytes)
	for len(r.at) > 2 && now.Sub(r.at[0]) > window {
		r.at, r.bytes = r.at[1:], r.bytes[1:]
	}
	past := now.Sub(r.at[0])
	if past < time.Second/2 {
		return 0
	}
	return int64(float64(bytes-r.bytes[0]) / past.Seconds())
}
