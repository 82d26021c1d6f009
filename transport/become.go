package transport

import (
	"errors"
	"fmt"
	"strings"
)

// become is how the login user gets another user's rights.
type become struct {
	login string // who logged in
	user  string // whose rights are wanted; empty or login for the login user's own
	// With a password for sudo: what sudo asks with, which nobody else knows,
	// and what it is answered.
	prompt   string
	password []byte
}

// self reports whether no other rights are needed.
func (b become) self() bool { return b.user == "" || b.user == b.login }

// asks reports whether sudo may ask for a password before our program runs.
func (b become) asks() bool { return b.prompt != "" && !b.self() && b.login != "root" }

// command returns the command line that runs script, one line, with sh. The
// login shell that gets it may be another one than sh, so it holds nothing that
// zsh or fish would read differently. (csh has no variables before a command.)
func (b become) command(script string) string {
	sh := "sh -c " + Quote(script)
	switch {
	case b.self():
		return sh
	case b.login == "root":
		return "runuser -u " + Quote(b.user) + " -- " + sh
	case b.asks():
		return "sudo -S -p " + Quote(b.prompt) + " -u " + Quote(b.user) + " -- " + sh
	}
	return "sudo -n -u " + Quote(b.user) + " -- " + sh
}

// sudoersHint is what an administrator can do so that sudo works unattended.
func (b become) sudoersHint() string {
	return fmt.Sprintf("on the host, visudo -f /etc/sudoers.d/pgfleet and add: %s ALL=(ALL) NOPASSWD: ALL", b.login)
}

// refused explains why a program did not start, from what was printed instead
// of its ready line.
func (b become) refused(stderr string, status int) *Error {
	user := b.user
	if b.self() {
		user = b.login
	}
	e := &Error{Kind: KindBecome, Op: "become " + user}
	has := func(s string) bool { return strings.Contains(stderr, s) }
	switch {
	case b.self():
		e.Kind, e.Op = KindRemote, "run sh as "+user
		e.Err = errors.New(printed(stderr, status))
		e.Hint = "the login must run the commands that it is given: is its shell nologin, or is there a ForceCommand?"
	case b.login == "root":
		e.Kind = KindRemote
		e.Err = errors.New(printed(stderr, status))
	case has("you must have a tty"): // requiretty
		e.Err = errors.New("sudo demands a terminal (requiretty)")
		e.Hint = fmt.Sprintf("on the host, visudo -f /etc/sudoers.d/pgfleet and add: Defaults:%s !requiretty", b.login)
	case b.asks() && (has("Sorry, try again") || has("incorrect password")):
		e.Err = fmt.Errorf("sudo does not accept the password of %s", b.login)
	case has("a password is required"), has("a terminal is required"), has("no password was provided"):
		e.Err = fmt.Errorf("sudo asks %s for a password", b.login)
		e.Hint = b.sudoersHint() + " (or give the password: --ask-become-pass)"
	case has("is not in the sudoers file"), has("is not allowed to"), has("may not run sudo"):
		e.Err = fmt.Errorf("sudo does not let %s become %s", b.login, user)
		e.Hint = b.sudoersHint()
	case has("unknown user"): // no fault of the login
		e.Kind = KindRemote
		e.Err = fmt.Errorf("there is no user %s on the host", user)
	case status == 127 && has("sudo"):
		e.Err = errors.New("sudo is not installed on the host")
		e.Hint = "install sudo there, or log in as root"
	default:
		e.Err = errors.New(printed(stderr, status))
		e.Hint = b.sudoersHint()
	}
	return e
}

// printed is the last resort: what was printed, or the status.
func printed(stderr string, status int) string {
	if stderr != "" {
		return lastLines(stderr, 3)
	}
	if status < 0 {
		return "it ended without an exit status"
	}
	return fmt.Sprintf("it ended with exit status %d and printed nothing", status)
}

// lastLines returns at most n lines from the end, joined with "; ".
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// Quote makes one word of s for sh: whatever is in it is taken literally. A NUL
// byte cannot be in an argument and is left out.
func Quote(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@,+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Word quotes a word of a command line that somebody is to read or to run, where
// a shell would need it.
func Word(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@:./_-") == "" {
		return s
	}
	return Quote(s)
}
