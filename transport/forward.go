package transport

import (
	"context"
	"io"
	"net"
	"time"
)

// forward has sshd connect to an address (direct-tcpip, RFC 4254, 7.2). It
// takes no process on the host. An *ssh.OpenChannelError is sshd's refusal.
func (c *client) forward(ctx context.Context, address string) (net.Conn, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	answer := make(chan dialled, 1)
	go func() {
		conn, err := c.ssh.Dial("tcp", address)
		answer <- dialled{conn, err}
	}()
	select {
	case a := <-answer:
		if a.err != nil {
			return nil, c.because(a.err)
		}
		return c.interruptible(a.conn), nil
	case <-c.dead:
		return nil, c.cause
	case <-ctx.Done():
		go func() {
			if a := <-answer; a.conn != nil {
				a.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// interruptible puts a pipe before a channel, whose reads only end when the
// other side says so. When our end is closed the other side gets to read all
// that was written, and is given some time to close as well.
func (c *client) interruptible(conn net.Conn) net.Conn {
	near, far := net.Pipe()
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(conn, far)
		c.leave(ended)
		if w, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite()
		}
		select {
		case <-ended:
		case <-c.dead:
		case <-time.After(lingering):
		}
		conn.Close()
	}()
	go func() {
		defer close(ended)
		_, _ = io.Copy(far, conn)
		far.Close()
		_, _ = io.Copy(io.Discard, conn) // our end may have been closed first
	}()
	return near
}
