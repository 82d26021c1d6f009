package transport

import (
	"context"
	"io"
)

// defaultMaxOutput is what Command.MaxOutput means when it is 0.
const defaultMaxOutput = 1 << 20

// Run implements [Conn].
func (h *host) Run(ctx context.Context, c Command) (Output, error) {
	whom, err := h.as(ctx, c.User)
	if err != nil {
		return Output{}, err
	}
	script := c.Script
	if c.Dir != "" {
		script = "cd -- " + Quote(c.Dir) + " || exit\n" + script
	} else if !whom.self() {
		// The login user's home may not be readable for others.
		script = "cd /\n" + script
	}
	if !whom.self() {
		script = "HOME=~" + whom.user + "; export HOME\n" + script
	}
	return h.run(ctx, whom, script, c.Stdin, c.MaxOutput)
}

// run runs a script whose standard input is stdin.
func (h *host) run(ctx context.Context, whom become, script string, stdin []byte, maxOutput int) (Output, error) {
	if maxOutput <= 0 {
		maxOutput = defaultMaxOutput
	}
	p, err := h.c.open(ctx, whom)
	if err != nil {
		return Output{}, err
	}
	p.stderr.limit(maxOutput)
	p.exec(loadOne, script)
	go func() {
		// A program may end without reading its input: that is no error.
		if len(stdin) > 0 {
			_, _ = p.Write(stdin)
		}
		<-p.ready
		_ = p.CloseWrite()
	}()
	stdout := &tail{max: maxOutput}
	read := make(chan error, 1)
	go func() {
		if err := p.started(ctx); err != nil {
			read <- err
			return
		}
		_, err := io.Copy(stdout, p.out)
		if err == nil {
			<-p.exited
		}
		read <- err
	}()
	select {
	case err = <-read:
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
	return Output{
		Stdout:    stdout.Bytes(),
		Stderr:    p.stderr.Bytes(),
		ExitCode:  p.exitCode(),
		Truncated: stdout.Truncated() || p.stderr.Truncated(),
	}, nil
}
