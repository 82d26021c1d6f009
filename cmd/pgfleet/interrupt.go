package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
)

// Interrupts decides what Ctrl-C does: it cancels the command, unless the
// command has asked to be told first.
type interrupts struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	first  func()
}

func newInterrupts(cancel context.CancelFunc) *interrupts { return &interrupts{cancel: cancel} }

// watch takes signals until ctx ends. After that a signal ends the process at
// once, as without pgfleet's doing: what is being put back can take a while.
func (i *interrupts) watch(ctx context.Context, signals chan os.Signal) {
	defer signal.Stop(signals)
	for {
		select {
		case <-signals:
			i.interrupt()
		case <-ctx.Done():
			return
		}
	}
}

func (i *interrupts) interrupt() {
	i.mu.Lock()
	first := i.first
	i.first = nil
	i.mu.Unlock()
	if first != nil {
		first()
		return
	}
	i.cancel()
}

// onFirst has f called by the next interrupt instead of the command being
// cancelled. The one after that cancels. What it returns undoes it.
func (i *interrupts) onFirst(f func()) (undo func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.first = f
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.first = nil
	}
}
