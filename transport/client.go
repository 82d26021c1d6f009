package transport

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// A client is one SSH connection that somebody logged in on: to a host or to a
// jump host. It is watched, so that everything on it fails soon after the host
// stops answering.
type client struct {
	ssh      *ssh.Client
	conn     *watchedConn
	user     string // who logged in
	sessions sessions
	stall    time.Duration

	startTimeout time.Duration // until a program has printed its ready line

	dead  chan struct{} // closed when the connection has ended
	once  sync.Once
	cause error  // why; set before dead is closed
	after func() // gives back what the connection stands on, such as a jump host

	noForwarding atomic.Bool // sshd has refused to forward a connection

	mu      sync.Mutex
	leaving map[<-chan struct{}]bool // what has been told to end, by what closes when it has
}

// newClient watches over a connection that has just been logged in on.
func newClient(c ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, conn *watchedConn, o clientOptions) *client {
	cl := &client{
		ssh:      ssh.NewClient(c, chans, reqs),
		conn:     conn,
		user:     c.User(),
		sessions: sessions{most: o.maxSessions, limit: o.maxSessions},
		stall:    o.stall,

		startTimeout: firstOf(o.startTimeout, 30*time.Second),

		dead:  make(chan struct{}),
		after: o.after,
	}
	go func() {
		err := cl.ssh.Wait()
		if err == nil {
			err = errors.New("the host closed the connection")
		}
		cl.end(&Error{Kind: KindUnreachable, Op: "SSH connection", Err: err,
			Hint: "the host or the network in between went away; what it was doing may still be running there"})
	}()
	go cl.watch(o.interval)
	return cl
}

type clientOptions struct {
	maxSessions int
	interval    time.Duration // between keepalives on a quiet connection
	stall       time.Duration // this long without a byte while an answer is owed: it is dead
	after       func()

	startTimeout time.Duration
}

// end closes the connection, once, with the reason that everything on it
// reports from now on.
func (c *client) end(cause error) {
	c.once.Do(func() {
		c.cause = cause
		close(c.dead)
		c.conn.Close()
		if c.after != nil {
			c.after()
		}
	})
}

// leave notes that something is about to end by itself; ended closes when it has.
func (c *client) leave(ended <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving == nil {
		c.leaving = map[<-chan struct{}]bool{}
	}
	c.leaving[ended] = true
	go func() {
		<-ended
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.leaving, ended)
	}()
}

// farewell waits a moment for what is leaving: there may be a goodbye to pass
// on, without which a server would complain in its log.
func (c *client) farewell(ctx context.Context) {
	c.mu.Lock()
	var left []<-chan struct{}
	for ended := range c.leaving {
		left = append(left, ended)
	}
	c.mu.Unlock()
	for _, ended := range left {
		select {
		case <-ended:
		case <-c.dead:
		case <-ctx.Done():
		}
	}
}

// err returns why the connection has ended, or nil.
func (c *client) err() error {
	select {
	case <-c.dead:
		return c.cause
	default:
		return nil
	}
}

// because returns the connection's end as the reason of err if it has ended,
// otherwise err. What breaks on a connection often breaks an instant before the
// connection is known to have ended, so it waits that instant.
func (c *client) because(err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-c.dead:
		return c.cause
	case <-time.After(10 * time.Millisecond):
		return err
	}
}

// watch asks the host for a sign of life when the connection is quiet
// (ServerAliveInterval in ssh_config(5) does the same) and ends the connection
// when none comes. Bytes that arrive count as one: a reply may have to queue
// behind a long answer on a slow line.
func (c *client) watch(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-c.dead:
			return
		case <-tick.C:
		}
		if c.conn.quiet() < interval {
			continue
		}
		asked := time.Now()
		reply := make(chan struct{})
		go func() {
			defer close(reply)
			// Its answer, even a refusal, is the sign of life.
			_, _, _ = c.ssh.SendRequest("keepalive@openssh.com", true, nil)
		}()
		for waiting := true; waiting; {
			select {
			case <-c.dead:
				return
			case <-reply:
				waiting = false
			case <-tick.C:
				if min(c.conn.quiet(), time.Since(asked)) >= c.stall {
					c.end(&Error{Kind: KindSilent, Op: "SSH connection", Err: &stallError{c.stall},
						Hint: "the host or the network in between stopped; what it was doing may still be running there"})
					return
				}
			}
		}
	}
}

// openChannel opens a session channel, waiting for others to close when sshd
// allows no more.
func (c *client) openChannel(ctx context.Context) (ssh.Channel, <-chan *ssh.Request, error) {
	for try := 1; ; try++ {
		err := c.sessions.acquire(ctx, c.dead)
		if dead := c.err(); dead != nil {
			return nil, nil, dead
		}
		if err != nil {
			return nil, nil, &Error{Kind: KindSilent, Op: "waiting for one of the sessions that sshd allows (MaxSessions)", Err: err}
		}
		ch, reqs, err := c.openChannelNow(ctx)
		if err == nil {
			return ch, reqs, nil
		}
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) {
			c.sessions.release()
			return nil, nil, c.because(err)
		}
		if c.sessions.refused() {
			continue
		}
		// None of ours is open. One whose program has not ended yet may be the
		// reason, so it is worth a second try.
		select {
		case <-time.After(time.Second):
		case <-c.dead:
			return nil, nil, c.cause
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if try > 2 {
			return nil, nil, &Error{Kind: KindRemote, Op: "open a session", Err: errors.New("sshd refuses it: " + refused.Message),
				Hint: "look at MaxSessions and ForceCommand in the host's sshd_config, and at its log"}
		}
	}
}

// openChannelNow is ssh.Client.OpenChannel with a context.
func (c *client) openChannelNow(ctx context.Context) (ssh.Channel, <-chan *ssh.Request, error) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	answer := make(chan opened, 1)
	go func() {
		ch, reqs, err := c.ssh.OpenChannel("session", nil)
		answer <- opened{ch, reqs, err}
	}()
	select {
	case a := <-answer:
		return a.ch, a.reqs, a.err
	case <-c.dead:
		return nil, nil, c.cause
	case <-ctx.Done():
		go func() { // it may yet be opened
			if a := <-answer; a.err == nil {
				go ssh.DiscardRequests(a.reqs)
				a.ch.Close()
			}
		}()
		return nil, nil, ctx.Err()
	}
}

// A watchedConn remembers when it last brought something.
type watchedConn struct {
	net.Conn
	last atomic.Int64 // UnixNano
	got  atomic.Bool
}

func newWatchedConn(c net.Conn) *watchedConn {
	w := &watchedConn{Conn: c}
	w.last.Store(time.Now().UnixNano())
	return w
}

// Read notes the time of what arrives.
func (w *watchedConn) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.last.Store(time.Now().UnixNano())
		w.got.Store(true)
	}
	return n, err
}

func (w *watchedConn) quiet() time.Duration {
	return time.Duration(time.Now().UnixNano() - w.last.Load())
}

// heard reports whether anything ever arrived.
func (w *watchedConn) heard() bool { return w.got.Load() }
