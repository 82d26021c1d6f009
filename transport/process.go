package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// readyLine begins the first line that every program of ours on a host prints:
// behind it stands its process group. What comes before it can only be from
// sudo or a login shell, so its absence means that our program never ran.
const readyLine = "pgfleet "

// maxStderr bounds what is kept of a program's standard error.
const maxStderr = 64 << 10

// A process is one program on the host, on a channel of its own. Standard input
// is written with Write and ended with CloseWrite.
type process struct {
	c     *client
	ch    ssh.Channel
	whom  become        // whose rights it has
	ready chan struct{} // closed when the ready line was read, or cannot come any more
	group string        // the process group on the host; empty if the ready line never came
	why   error         // why it never came, where we know better than the host
	in    *meter        // what out reads from
	out   *bufio.Reader // standard output behind the ready line; use it only after ready

	settling sync.Once

	input sync.Mutex // held to answer sudo and to end standard input
	ended bool

	stderr *tail
	exited chan struct{} // closed when the channel is closed on both sides
	status int           // how it ended, once exited is closed; -1 if the host did not say
	signal string
}

// open opens a channel for a program that is started with exec.
func (c *client) open(ctx context.Context, whom become) (*process, error) {
	ch, reqs, err := c.openChannel(ctx)
	if err != nil {
		return nil, err
	}
	in := newMeter(ch)
	p := &process{
		c: c, ch: ch, whom: whom,
		ready:  make(chan struct{}),
		in:     in,
		out:    bufio.NewReaderSize(in, 32<<10),
		stderr: &tail{max: maxStderr},
		exited: make(chan struct{}),
		status: -1,
	}
	var streams sync.WaitGroup
	streams.Go(func() { _, _ = io.Copy(p.password(p.stderr), ch.Stderr()) })
	go func() {
		p.wait(reqs)
		streams.Wait()
		close(p.exited)
		c.sessions.release()
	}()
	return p, nil
}

// exec starts a loader with its first script, and returns without waiting for
// an answer. If that cannot be sent the process ends like one that failed.
func (p *process) exec(loader, script string) {
	command := "LC_ALL=C " // in C sudo's messages are recognised
	if encoded := encode(script); len(encoded) <= maxVariable {
		command += "LC_PGFLEET='" + encoded + "' "
	}
	p.start(command+"exec "+p.whom.command(loader), script)
}

// start runs a command line that prints the ready line, and sends script on
// standard input if the ready line says that it did not come with the command.
func (p *process) start(command, script string) {
	p.in.allow(maxPreamble)
	late := time.AfterFunc(p.c.startTimeout, func() {
		p.settle("", fmt.Errorf("it did not start within %s", p.c.startTimeout))
	})
	go func() {
		defer late.Stop()
		// A login shell's start-up file may print something first.
		for {
			line, err := p.out.ReadString('\n')
			if rest, ok := strings.CutPrefix(line, readyLine); ok && err == nil {
				group, came, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
				if came == "" && script != "" {
					if _, err := p.ch.Write(frame(script)); err != nil {
						p.settle("", nil)
						return
					}
				}
				p.in.allow(unlimited)
				p.settle(group, nil)
				return
			}
			_, _ = p.stderr.Write([]byte(line))
			if errors.Is(err, errTooMuch) {
				p.settle("", err)
				return
			}
			if err != nil {
				p.settle("", nil)
				return
			}
		}
	}()
	// No reply is asked for: the ready line is the reply.
	if _, err := p.ch.SendRequest("exec", false, ssh.Marshal(struct{ Command string }{command})); err != nil {
		p.kill()
	}
}

// settle says, once, how starting went: what the ready line said, or why there
// will be none. Then out is no longer read by start, unless it gave up.
func (p *process) settle(group string, why error) {
	p.settling.Do(func() {
		p.group, p.why = group, why
		close(p.ready)
	})
	if why != nil {
		p.kill()
	}
}

// wait reads how the program ended until the channel is closed.
func (p *process) wait(reqs <-chan *ssh.Request) {
	for r := range reqs {
		switch r.Type {
		case "exit-status": // RFC 4254, 6.10
			var m struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil {
				p.status = int(m.Status)
			}
		case "exit-signal":
			var m struct {
				Signal     string
				CoreDumped bool
				Message    string
				Lang       string
			}
			if ssh.Unmarshal(r.Payload, &m) == nil {
				p.signal = m.Signal
			}
		}
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
	// Both sides must close before sshd counts the session as over.
	p.ch.Close()
}

// Write writes to standard input once our own program reads it: before, sudo
// might take it for a password, or the script might have to come first. No time
// is lost by that: sshd takes no input before the program runs.
func (p *process) Write(b []byte) (int, error) {
	<-p.ready
	if p.group == "" {
		return 0, io.ErrClosedPipe
	}
	return p.ch.Write(b)
}

// CloseWrite ends standard input. It may be called again, and by several.
func (p *process) CloseWrite() error {
	p.input.Lock()
	defer p.input.Unlock()
	if p.ended {
		return nil
	}
	p.ended = true
	return p.ch.CloseWrite()
}

// kill closes the channel without waiting for the program.
func (p *process) kill() { _ = p.ch.Close() }

// started waits until our own program runs on the host.
func (p *process) started(ctx context.Context) error {
	select {
	case <-p.ready:
	case <-p.c.dead:
		return p.c.cause
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.group != "" {
		return nil
	}
	return p.failure(ctx)
}

// failure says why the ready line never came.
func (p *process) failure(ctx context.Context) error {
	if p.why != nil {
		e := p.whom.refused(p.stderr.String(), -1)
		e.Kind, e.Err = KindSilent, p.why
		if said := p.stderr.String(); said != "" {
			e.Err = fmt.Errorf("%w; it printed: %s", p.why, lastLines(said, 1))
		}
		e.Hint = "see what sudo or the login shell waits for there"
		return e
	}
	_ = p.CloseWrite()
	select {
	case <-p.exited:
	case <-p.c.dead:
		return p.c.cause
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := p.c.because(nil); err != nil {
		return err
	}
	return p.whom.refused(p.stderr.String(), p.status)
}

// exitCode is as a shell would put it: 128 and the signal's number after a
// signal.
func (p *process) exitCode() int {
	if p.signal == "" {
		return p.status
	}
	// signal(7); the names are those of RFC 4254, 6.10.
	numbers := map[string]int{"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "ABRT": 6, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15}
	return 128 + numbers[p.signal]
}

// password wraps w so that sudo's prompt, which never reaches w, is answered
// with the password: once. sudo asks again when it was wrong.
func (p *process) password(w io.Writer) io.Writer {
	if !p.whom.asks() {
		return w
	}
	return &prompter{w: w, prompt: []byte(p.whom.prompt), answer: func(times int) {
		if times > 1 {
			_ = p.CloseWrite()
			return
		}
		p.input.Lock()
		defer p.input.Unlock()
		if p.ended {
			return
		}
		line := append(append([]byte(nil), p.whom.password...), '\n')
		_, _ = p.ch.Write(line)
		clear(line)
	}}
}

// A prompter calls answer whenever prompt comes by, and writes everything else
// to w.
type prompter struct {
	w      io.Writer
	prompt []byte
	answer func(times int)
	held   []byte // the beginning of what may become the prompt
	times  int
}

func (p *prompter) Write(b []byte) (int, error) {
	p.held = append(p.held, b...)
	for {
		i := bytes.Index(p.held, p.prompt)
		if i < 0 {
			break
		}
		_, _ = p.w.Write(p.held[:i])
		p.held = append(p.held[:0], p.held[i+len(p.prompt):]...)
		p.times++
		p.answer(p.times)
	}
	// Keep what may be the beginning of a prompt.
	keep := 0
	for n := min(len(p.held), len(p.prompt)-1); n > 0; n-- {
		if bytes.HasSuffix(p.held, p.prompt[:n]) {
			keep = n
			break
		}
	}
	_, _ = p.w.Write(p.held[:len(p.held)-keep])
	p.held = append(p.held[:0], p.held[len(p.held)-keep:]...)
	return len(b), nil
}

// A tail keeps the first bytes of what is written to it, up to max, and whether
// there were more.
type tail struct {
	mu   sync.Mutex
	max  int
	buf  []byte
	more bool
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(b), t.max-len(t.buf))
	t.buf = append(t.buf, b[:n]...)
	t.more = t.more || n < len(b)
	return len(b), nil
}

// Bytes returns a copy.
func (t *tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf)
}

// Truncated reports whether more was written than was kept.
func (t *tail) Truncated() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.more
}

// String returns what was kept without white space around it.
func (t *tail) String() string { return string(bytes.TrimSpace(t.Bytes())) }

// abandon gives up a program after err, and returns the reason to report: the
// connection's end, the context's end, or err. A program whose context has ended
// is asked to end, too.
func (p *process) abandon(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		p.kill()
		return p.c.because(err)
	}
	p.terminate()
	if dead := p.c.err(); dead != nil {
		return dead
	}
	return ctx.Err()
}

// terminate asks the program to end, with SIGTERM to its process group. sshd
// refuses to send a signal to what sudo runs, so it is sent by kill with the
// same rights, over another channel. It does not wait.
func (p *process) terminate() {
	go func() {
		defer p.kill()
		ctx, cancel := context.WithTimeout(context.Background(), 2*lingering)
		defer cancel()
		select {
		case <-p.ready: // it may only just be starting
		case <-ctx.Done():
			return
		}
		if p.group == "" || strings.Trim(p.group, "0123456789") != "" {
			return
		}
		k, err := p.c.open(ctx, p.whom)
		if err != nil {
			return
		}
		k.exec(loadOne, "kill -s TERM -- -"+p.group)
		select {
		case <-k.exited:
		case <-ctx.Done():
			k.kill()
		}
	}()
}

// remoteError makes an error of what a program printed when it failed.
func (p *process) remoteError(op string) *Error {
	why := p.stderr.String()
	if why == "" {
		why = fmt.Sprintf("exit status %d", p.exitCode())
	}
	return &Error{Kind: KindRemote, Op: op, Err: errors.New(why)}
}

// limit changes how much is kept.
func (t *tail) limit(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.max = n
}
