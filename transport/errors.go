package transport

import (
	"errors"
	"fmt"
	"time"
)

// A Kind sorts errors by what the user can do about them.
type Kind string

// The kinds of an [Error].
const (
	KindConfig         Kind = "config"           // ssh_config, a key file or known_hosts cannot be used as it is
	KindUnreachable    Kind = "unreachable"      // no TCP connection, or it broke
	KindSilent         Kind = "silent"           // it accepted a connection, or was logged in to, and stopped answering
	KindHostKeyUnknown Kind = "host key unknown" // not in known_hosts
	KindHostKeyChanged Kind = "host key changed" // known_hosts has another one, or has it revoked
	KindDenied         Kind = "denied"           // no key of ours is accepted
	KindBecome         Kind = "become"           // logged in, but root or postgres cannot be become
	KindPostgres       Kind = "postgres"         // no session with the PostgreSQL server
	KindRefused        Kind = "refused"          // WriteFiles or Remove was refused before anything was changed
	KindFenced         Kind = "fenced"           // the run's lease on the host was lost, so nothing was changed
	KindRemote         Kind = "remote"           // the host refused or could not do what was asked
)

// An Error says what was being done, why it failed, and what to do about it,
// each once. It does not name the host: who has several hosts adds that.
type Error struct {
	Kind Kind
	Op   string // "connect to 10.77.0.11:22"
	Err  error  // why
	Hint string // what to do, a sentence or a command; may be empty
}

// Error returns all three on one line.
func (e *Error) Error() string {
	s := e.Op + ": " + e.Err.Error()
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// A stallError is the cause of everything that fails because a host stopped
// answering in the middle.
type stallError struct{ after time.Duration }

func (e *stallError) Error() string {
	return fmt.Sprintf("no answer for %s", e.after)
}

// Timeout makes it a net.Error like other timeouts.
func (e *stallError) Timeout() bool   { return true }
func (e *stallError) Temporary() bool { return false }

// errClosed is the cause after Close.
var errClosed = errors.New("the connection was closed by us")
