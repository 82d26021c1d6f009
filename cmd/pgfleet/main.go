// Pgfleet plans and applies the configuration of a fleet of PostgreSQL servers
// over SSH. See `pgfleet --help`.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

func main() {
	// A run is short and its heap is small: to collect less often is to be done
	// sooner.
	debug.SetGCPercent(400)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(os.Args[1:], terminal{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv}, signals))
}

// run carries one command line out and returns its exit code.
func run(args []string, t terminal, signals chan os.Signal) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a := &app{ui: newUI(t), term: t, signals: newInterrupts(cancel)}
	go a.signals.watch(ctx, signals)
	defer a.ui.Close()

	root := a.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.started {
		err = &inputError{err} // cobra's own: a command, a flag or an argument
	}
	a.ui.Error(err)
	return exitCode(err, a.detailed || wantsDetail(args))
}

// exitCode is 0 when all is well, 1 when a host failed, 2 when the input was
// wrong. With plan --detailed-exitcode it is 0 when nothing is due, 2 when
// changes are, and 1 after any error.
func exitCode(err error, detailed bool) int {
	var input *inputError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errChangesDue):
		return 2
	case errors.As(err, &input) && !detailed:
		return 2
	default:
		return 1
	}
}

// wantsDetail finds --detailed-exitcode in a command line that may be too wrong
// to be parsed: its exit code must not be taken for "changes are due".
func wantsDetail(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "--detailed-exitcode", "--detailed-exitcode=true":
			return true
		}
	}
	return false
}

var (
	// errHostFailed says that a host failed, which was already reported.
	errHostFailed = errors.New("a host failed")
	// errChangesDue is how plan --detailed-exitcode ends when something is due.
	errChangesDue = errors.New("changes are due")
)

// An inputError is the user's to mend before anything can be done: fleet.toml,
// a flag, a secret that is not there.
type inputError struct{ err error }

func (e *inputError) Error() string { return e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }
