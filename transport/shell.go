package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// The loaders are what the host's command line holds: one line, without single
// quotes. They print the ready line with their process group (field 5 of
// /proc/PID/stat, proc(5)) and run scripts.
//
// The first script comes in the variable LC_PGFLEET, encoded as printf's %b
// reads it. sshd gives a session no window to write to before the request to
// run its command has gone there and back, so that way saves a round trip. sudo
// passes variables of that name on if they hold neither / nor % (env_check,
// sudoers(5)). Where it does not, the ready line lacks a word, and the script is
// sent on standard input like all later ones: a line with the length in bytes,
// and the script. head reads no byte more than that, and a script that arrives
// shorter, because we died, does not run.
const (
	announce = `LC_ALL=C; export LC_ALL; read -r a b c d g r 2>/dev/null </proc/$$/stat || g=0; echo "` + readyLine + `$g ${LC_PGFLEET:+1}"; `
	decode   = `s=$(printf %b "$LC_PGFLEET"; echo .); `
	receive  = `s=$(head -c "$n"; echo .); [ "${#s}" -eq "$((n+1))" ] || exit 125; `

	// loadOne runs one script, which gets the rest of standard input.
	loadOne = announce + `if [ -n "$LC_PGFLEET" ]; then ` + decode + `else IFS= read -r n || exit 125; ` + receive + `fi; ` +
		`unset LC_ALL LC_PGFLEET a b c d g r n; eval "${s%.}"`
	// loadMany runs scripts until standard input ends, each in a subshell
	// without standard input, and says E and its exit status after each.
	loadMany = announce + `if [ -n "$LC_PGFLEET" ]; then ` + decode + `unset LC_PGFLEET; (eval "${s%.}") </dev/null; echo "E$?"; fi; ` +
		`while IFS= read -r n; do ` + receive + `(eval "${s%.}") </dev/null; echo "E$?"; done`
)

// maxVariable is the longest encoded script that fits in a variable: Linux
// limits one to 128 KiB (MAX_ARG_STRLEN), and the login shell's -c argument,
// which holds it, as well.
const maxVariable = 100 << 10

// encode writes a script so that printf's %b gives it back, in letters that
// every login shell takes literally between single quotes.
func encode(script string) string {
	var b strings.Builder
	for i := 0; i < len(script); i++ {
		switch c := script[i]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c < ' ' || c > '~' || strings.IndexByte(`'\/%!`, c) >= 0:
			fmt.Fprintf(&b, `\0%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// frame puts a script's length before it, as the loaders want it.
func frame(script string) []byte {
	return fmt.Appendf(nil, "%d\n%s", len(script), script)
}

// A shell is a root shell that stays open for several scripts that only read.
type shell struct {
	p      *process
	parked *parked
	used   bool // it has got its first script
}

// shells keeps the shell that a host's last Read has used.
type shells struct {
	mu   sync.Mutex
	free []*shell
}

// shell returns an open shell, or a new one.
func (h *host) shell(ctx context.Context) (*shell, error) {
	for {
		h.shells.mu.Lock()
		n := len(h.shells.free)
		if n == 0 {
			h.shells.mu.Unlock()
			break
		}
		s := h.shells.free[n-1]
		h.shells.free = h.shells.free[:n-1]
		h.shells.mu.Unlock()
		if h.c.sessions.unpark(s.parked) {
			return s, nil
		}
	}
	root, err := h.as(ctx, "root")
	if err != nil {
		return nil, err
	}
	p, err := h.c.open(ctx, root)
	if err != nil {
		return nil, err
	}
	s := &shell{p: p}
	s.parked = &parked{close: func() { _ = p.CloseWrite() }}
	return s, nil
}

// keep puts a shell that works back for the next Read.
func (h *host) keep(s *shell) {
	h.shells.mu.Lock()
	h.shells.free = append(h.shells.free, s)
	h.shells.mu.Unlock()
	h.c.sessions.park(s.parked)
}

// ask runs a script in a root shell and has its output read by parse, which
// must stop in front of the line that begins with E. parse runs in a goroutine
// of its own: when ctx ends, ask returns although parse may still be reading,
// so parse must hand over what it found by its return value.
func ask[T any](ctx context.Context, h *host, script string, parse func(*process) (T, error)) (T, error) {
	var zero T
	s, err := h.shell(ctx)
	if err != nil {
		return zero, err
	}
	type parsed struct {
		v   T
		err error
	}
	answer := make(chan parsed, 1)
	first := !s.used
	s.used = true
	go func() {
		if first {
			s.p.exec(loadMany, script)
		} else {
			_, _ = s.p.Write(frame(script)) // why it may have failed, started knows
		}
		if err := s.p.started(ctx); err != nil {
			answer <- parsed{err: err}
			return
		}
		s.p.in.allow(maxAnswer)
		v, err := parse(s.p)
		if err == nil {
			err = s.end()
		}
		answer <- parsed{v, err}
	}()
	var a parsed
	select {
	case a = <-answer:
	case <-h.c.dead:
		a.err = h.c.cause
	case <-ctx.Done():
		a.err = ctx.Err()
	}
	if a.err != nil {
		return zero, s.p.abandon(ctx, a.err)
	}
	h.keep(s)
	return a.v, nil
}

// end reads the line that the loader prints after each script.
func (s *shell) end() error {
	line, err := s.p.out.ReadString('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			return s.p.remoteError("ask the host")
		}
		return err
	}
	if !strings.HasPrefix(line, "E") {
		return fmt.Errorf("ask the host: its answer ends with %q", line)
	}
	return nil
}
