package transport

import (
	"context"
	"io"
	"net"
	"time"
)

// lingering is how long a program has, once its stream was closed, to pass on
// what is still under way.
const lingering = 5 * time.Second

// connectedLine is what a bridge prints once it is connected; the stream's
// bytes follow.
const connectedLine = "+\n"

// A stream is a bridge's standard input and output as a net.Conn. SSH channels
// have no deadlines and their reads cannot be interrupted; the two ends of
// net.Pipe in between have and can.
type stream struct {
	net.Conn // our end
	p        *process
	open     chan struct{} // closed when the bridge is connected, or never will be
	is       bool          // which of the two, once open is closed
}

// newStream takes over a process. The bridge is started with the first bytes
// that are written, which go to the host along with its script: they have a
// server's answer one round trip later.
func newStream(p *process, script func(first []byte) string) *stream {
	near, far := net.Pipe()
	s := &stream{Conn: near, p: p, open: make(chan struct{})}
	go func() {
		first := make([]byte, 8<<10)
		n, err := far.Read(first)
		if err != nil { // closed before anything was written
			p.kill()
			p.settle("", nil)
			return
		}
		p.exec(loadOne, script(first[:n]))
		_, _ = io.Copy(p, far) // until our end is closed
		p.c.leave(p.exited)
		late := time.After(lingering)
		select {
		case <-p.ready: // sudo may yet have to be answered
			_ = p.CloseWrite()
		case <-late:
			p.kill()
			return
		}
		select {
		case <-p.exited:
		case <-late:
			p.kill()
		}
	}()
	go func() {
		<-p.ready
		if p.group != "" {
			p.in.allow(maxPreamble)
			line, err := p.out.ReadString('\n')
			s.is = err == nil && line == connectedLine
			p.in.allow(unlimited)
		}
		close(s.open)
		if s.is {
			_, _ = io.Copy(far, p.out)
		}
		far.Close()
		if p.why != nil {
			return // start is still reading
		}
		// Our end may have been closed first: the program must not block.
		_, _ = io.Copy(io.Discard, p.out)
	}()
	go func() {
		select {
		case <-p.c.dead:
			near.Close()
		case <-p.exited:
		}
	}()
	return s
}

// connected waits until the bridge is connected, and returns why it is not.
// Where the reason is the bridge's own the error has op and kind.
func (s *stream) connected(ctx context.Context, op string, kind Kind) error {
	select {
	case <-s.open:
	case <-s.p.c.dead:
		return s.p.c.cause
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.is {
		return nil
	}
	if s.p.group == "" {
		return s.p.failure(ctx)
	}
	select {
	case <-s.p.exited:
	case <-s.p.c.dead:
		return s.p.c.cause
	case <-ctx.Done():
		return ctx.Err()
	}
	err := s.p.remoteError(op)
	err.Kind = kind
	return s.p.c.because(err)
}
