package transport

import (
	"context"
	"errors"
	"io"
)

// Pipe implements [Conn].
func (h *host) Pipe(ctx context.Context, c Command, stdin io.Reader, stdout io.Writer) (Output, error) {
	if len(c.Stdin) > 0 {
		return Output{}, &Error{Kind: KindConfig, Op: "run a command", Err: errors.New("it has both Stdin and a stream for it")}
	}
	whom, err := h.as(ctx, c.User)
	if err != nil {
		return Output{}, err
	}
	return h.pipe(ctx, whom, c.script(whom), stdin, stdout, c.MaxOutput)
}

// pipe runs a script between two streams.
func (h *host) pipe(ctx context.Context, whom become, script string, stdin io.Reader, stdout io.Writer, maxOutput int) (Output, error) {
	if maxOutput <= 0 {
		maxOutput = defaultMaxOutput
	}
	p, err := h.c.open(ctx, whom)
	if err != nil {
		return Output{}, err
	}
	p.stderr.limit(maxOutput)
	p.exec(loadOne, script)
	// Once pipe has returned the streams are not used any more, but for a call that is under way.
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 2) // of the streams themselves
	go func() {
		// A program may end without reading its input: that is no error.
		if err := copyUntil(done, p, stdin); err != nil {
			failed <- err
			return // it must not look like the end of the input
		}
		<-p.ready
		_ = p.CloseWrite()
	}()
	read := make(chan error, 1)
	go func() {
		if err := p.started(ctx); err != nil {
			read <- err
			return
		}
		out := &output{w: stdout, done: done}
		_, err := io.Copy(out, p.out)
		if out.err != nil {
			failed <- out.err
			return
		}
		if err == nil {
			<-p.exited
		}
		read <- err
	}()
	select {
	case err = <-read:
	case err = <-failed:
		select {
		case <-p.exited:
		default:
			p.terminate()
		}
		return Output{}, err
	case <-h.c.dead:
		err = h.c.cause
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil && p.status < 0 && p.signal == "" {
		// The channel was closed under it: the host never said how it ended.
		err = &Error{Kind: KindRemote, Op: "run a command", Err: io.ErrUnexpectedEOF}
	}
	if err != nil {
		return Output{}, p.abandon(ctx, err)
	}
	return Output{Stderr: p.stderr.Bytes(), ExitCode: p.exitCode(), Truncated: p.stderr.Truncated()}, nil
}

// copyUntil copies from r to w until r's end, w's first error or done, and returns r's error.
func copyUntil(done <-chan struct{}, w io.Writer, r io.Reader) error {
	if r == nil {
		return nil
	}
	buf := make([]byte, 32<<10)
	for {
		select {
		case <-done:
			return nil
		default:
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return nil //nolint:nilerr // the program has ended, which is seen where its output is read
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// An output writes to w until done, and keeps w's error, which tells it from the program's.
type output struct {
	w    io.Writer
	done <-chan struct{}
	err  error
}

func (o *output) Write(b []byte) (int, error) {
	select {
	case <-o.done:
		return 0, io.ErrClosedPipe
	default:
	}
	n, err := o.w.Write(b)
	o.err = err
	return n, err
}

// Pipe implements [Conn].
func (f *fenced) Pipe(ctx context.Context, c Command, stdin io.Reader, stdout io.Writer) (Output, error) {
	if c.Unfenced {
		return f.host.Pipe(ctx, c, stdin, stdout)
	}
	c.Script = f.fence.before(c.Script)
	out, err := f.host.Pipe(ctx, c, stdin, stdout)
	if err != nil {
		return out, err
	}
	if err := f.fence.refused("run a command", out); err != nil {
		return Output{}, err
	}
	return out, nil
}
