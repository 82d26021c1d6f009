package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A host is a Conn on a real host.
type host struct {
	d      *Dialer
	c      *client
	become string // Target.Become
	shells shells
	pg     sessionCache
}

// as returns how to get a user's rights: "" is the login user's own.
func (h *host) as(ctx context.Context, user string) (become, error) {
	b := become{login: h.c.user, user: user}
	if b.self() {
		return b, nil
	}
	if err := checkUser(user); err != nil {
		return b, &Error{Kind: KindConfig, Op: "become another user", Err: err}
	}
	if b.login == "root" {
		return b, nil
	}
	if h.become == "none" {
		return b, &Error{Kind: KindBecome, Op: "become " + user, Err: errors.New("the host's become is none, and the login is " + b.login),
			Hint: "log in as root, or let sudo be used"}
	}
	if h.d.BecomePassword != nil {
		password, err := h.d.becomePassword(ctx)
		if err != nil {
			return b, &Error{Kind: KindBecome, Op: "become " + user, Err: err}
		}
		b.password, b.prompt = password, newPrompt()
	}
	return b, nil
}

// Err implements [Conn].
func (h *host) Err() error { return h.c.err() }

// Close implements [Conn].
func (h *host) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	h.pg.close(ctx)
	h.c.farewell(ctx)
	h.c.end(errClosed)
	return nil
}

// probeTimeout is how long one probe may take.
func (h *host) probeTimeout() time.Duration {
	return max(time.Second, firstOf(h.d.ProbeTimeout, 30*time.Second))
}

// checkUser accepts the names that useradd(8) accepts: nothing that sh or sudo
// would read as anything else.
func checkUser(name string) error {
	if name == "" || name[0] == '-' || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "" {
		return fmt.Errorf("%q is not the name of a user", name)
	}
	return nil
}
