package sshtest

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Proxy forwards TCP connections and can do to them what networks do: be
// far away, stop, or cut off. It listens on 127.0.0.1 until Close.
type Proxy struct {
	// Addr is where it listens, host:port.
	Addr string

	target string
	delay  time.Duration // each way
	listen net.Listener
	stall  atomic.Int64 // bytes from the target after which nothing passes any more; -1 for never
	passed atomic.Int64
	cut    atomic.Int64 // bytes to the target after which everything is cut; -1 for never
	sent   atomic.Int64
	refuse atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
}

// NewProxy returns a proxy to target (host:port) that holds up every byte for
// delay, in each direction: a round trip takes twice as long. How much is under
// way at once is not limited.
func NewProxy(target string, delay time.Duration) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, delay: delay, listen: l}
	p.stall.Store(-1)
	p.cut.Store(-1)
	go p.serve()
	return p, nil
}

// StallAfter makes everything stop, silently and in both directions, once n
// more bytes have come back from the target. Connections stay open.
func (p *Proxy) StallAfter(n int64) { p.stall.Store(p.passed.Load() + n) }

// Refuse cuts all connections, and new ones at once.
func (p *Proxy) Refuse() {
	p.refuse.Store(true)
	p.Cut()
}

// Mend ends Refuse and StallAfter for new connections.
func (p *Proxy) Mend() {
	p.stall.Store(-1)
	p.refuse.Store(false)
}

// Passed returns how many bytes have come from the target so far.
func (p *Proxy) Passed() int64 { return p.passed.Load() }

// Sent returns how many bytes have gone to the target so far.
func (p *Proxy) Sent() int64 { return p.sent.Load() }

// CutAfter cuts all connections once n more bytes have gone to the target.
func (p *Proxy) CutAfter(n int64) { p.cut.Store(p.sent.Load() + n) }

// Cut closes all connections at once.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// Close stops listening and cuts all connections.
func (p *Proxy) Close() error {
	err := p.listen.Close()
	p.Cut()
	return err
}

func (p *Proxy) serve() {
	for {
		in, err := p.listen.Accept()
		if err != nil {
			return
		}
		if p.refuse.Load() {
			in.Close()
			continue
		}
		go p.forward(in)
	}
}

func (p *Proxy) forward(in net.Conn) {
	// The handshake of TCP takes a round trip as well. The listener has
	// already answered it, so the first bytes wait for that.
	time.Sleep(2 * p.delay)
	out, err := net.Dial("tcp", p.target)
	if err != nil {
		in.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, in, out)
	p.mu.Unlock()
	if p.refuse.Load() { // since it was accepted
		p.Cut()
		return
	}
	go p.copy(out, in, &p.sent)
	p.copy(in, out, &p.passed)
}

// copy passes on what it reads, each piece delay later.
func (p *Proxy) copy(to, from net.Conn, count *atomic.Int64) {
	type piece struct {
		due  time.Time
		data []byte
	}
	queue := make(chan piece, 1<<16)
	go func() {
		defer close(queue)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				queue <- piece{time.Now().Add(p.delay), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for q := range queue {
		time.Sleep(time.Until(q.due))
		if limit := p.stall.Load(); limit >= 0 {
			left := limit - p.passed.Load()
			if left <= 0 {
				select {} // for ever, as networks do
			}
			if count == &p.passed && int64(len(q.data)) > left {
				q.data = q.data[:left]
			}
		}
		count.Add(int64(len(q.data)))
		limit, cutting := p.cut.Load(), false
		if count == &p.sent && limit >= 0 && p.sent.Load() >= limit {
			cutting = true
			q.data = q.data[:max(0, int64(len(q.data))-(p.sent.Load()-limit))]
		}
		if _, err := to.Write(q.data); err != nil {
			return
		}
		if cutting {
			p.cut.Store(-1)
			p.Cut()
			return
		}
	}
	if c, ok := to.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
}
