package transport

import (
	"context"
	"sync"
	"time"
)

// sessions bounds how many session channels are open at once. sshd refuses more
// than MaxSessions (default 10, sshd_config(5)) with "open failed"; the first
// refusal teaches us the host's real number. What is kept open only in case it
// is needed again is closed when somebody waits.
type sessions struct {
	mu    sync.Mutex
	most  int // never more than this
	limit int // what the server seems to allow now
	used  int
	queue []chan struct{} // waiting, first come first served; closed when it is their turn
	idle  []*parked       // the oldest first
}

// acquire waits for the right to open one channel, until ctx ends or the
// connection is dead, for which it returns no error.
func (s *sessions) acquire(ctx context.Context, dead <-chan struct{}) error {
	s.mu.Lock()
	if s.used < s.limit && len(s.queue) == 0 {
		s.used++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	s.queue = append(s.queue, turn)
	evict := s.takeIdle()
	s.mu.Unlock()
	if evict != nil {
		evict.close()
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	case <-dead:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, q := range s.queue {
		if q == turn {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			return ctx.Err()
		}
	}
	// Our turn came at the same moment: pass it on.
	s.used--
	s.wake()
	return ctx.Err()
}

// release gives one back, when the channel is closed on both sides.
func (s *sessions) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.wake()
}

// refused gives one back that the server would not open, and reports whether
// waiting for another channel to close makes sense. Until then no more are
// opened than the server has accepted. It is asked for more again after a
// while: sshd also counts sessions whose channel is closed while their program
// still runs.
func (s *sessions) refused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.used == 0 {
		s.wake()
		return false
	}
	if s.limit > s.used {
		s.limit = s.used
		time.AfterFunc(time.Second, s.raise)
	}
	return true
}

// raise allows one more, up to what we started with.
func (s *sessions) raise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit < s.most {
		s.limit++
		s.wake()
	}
}

// wake lets the next ones in. s.mu is held.
func (s *sessions) wake() {
	for s.used < s.limit && len(s.queue) > 0 {
		s.used++
		close(s.queue[0])
		s.queue = s.queue[1:]
	}
}

// A parked is something kept open that nobody uses at the moment.
type parked struct{ close func() }

// park registers something idle, to be taken back with unpark. If somebody is
// waiting for a channel it is closed at once.
func (s *sessions) park(p *parked) {
	s.mu.Lock()
	if len(s.queue) > 0 {
		s.mu.Unlock()
		p.close()
		return
	}
	s.idle = append(s.idle, p)
	s.mu.Unlock()
}

// unpark takes it back, and reports whether it was still there.
func (s *sessions) unpark(p *parked) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, q := range s.idle {
		if q == p {
			s.idle = append(s.idle[:i], s.idle[i+1:]...)
			return true
		}
	}
	return false
}

// takeIdle returns the one that was parked first, or nil. s.mu is held.
func (s *sessions) takeIdle() *parked {
	if len(s.idle) == 0 {
		return nil
	}
	p := s.idle[0]
	s.idle = s.idle[1:]
	return p
}
