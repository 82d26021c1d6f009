package transport

import (
	"bytes"
	"context"
)

// defaultMaxOutput is what Command.MaxOutput means when it is 0.
const defaultMaxOutput = 1 << 20

// Run implements [Conn].
func (h *host) Run(ctx context.Context, c Command) (Output, error) {
	whom, err := h.as(ctx, c.User)
	if err != nil {
		return Output{}, err
	}
	return h.run(ctx, whom, c.script(whom), c.Stdin, c.MaxOutput)
}

// script returns what sh is given to run the command with the rights of whom.
func (c Command) script(whom become) string {
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
	return script
}

// run runs a script whose standard input is stdin.
func (h *host) run(ctx context.Context, whom become, script string, stdin []byte, maxOutput int) (Output, error) {
	if maxOutput <= 0 {
		maxOutput = defaultMaxOutput
	}
	stdout := &tail{max: maxOutput}
	out, err := h.pipe(ctx, whom, script, bytes.NewReader(stdin), stdout, maxOutput)
	if err != nil {
		return Output{}, err
	}
	out.Stdout = stdout.Bytes()
	out.Truncated = out.Truncated || stdout.Truncated()
	return out, nil
}
