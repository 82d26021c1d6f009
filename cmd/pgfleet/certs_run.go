package main

import (
	"context"
	"fmt"

	"github.com/pgfleet/pgfleet/internal/journal"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
)

// A certsRun is an apply of the tasks about certificates alone. Its methods may be
// called for nil, which is an apply of all tasks.
type certsRun struct {
	command string // "certs renew"
	// first is what is done to the CA's files and keys, after who is asked has said yes
	// and before a host is changed; nil where that is nothing. It returns what it did,
	// a line for each write that it made, also with an error.
	first func(ctx context.Context) (done []string, err error)
	// find decides what else is to be known while planning; nil where nothing is.
	find  func(ctx context.Context, s *session, wanted []inventory.Instance) error
	force bool     // certificates are due whatever they are like
	names []string // of the certificates that are meant; all if there are none
	kinds []string // of the tasks that are meant; certKinds if there are none
}

// certKinds are the kinds of tasks that the commands of certs plan.
func certKinds() []string { return []string{"certificate", "ca_file", "crl_file"} }

// meant returns the kinds of tasks that the run is about.
func (c *certsRun) meant() []string {
	if len(c.kinds) == 0 {
		return certKinds()
	}
	return c.kinds
}

// changes reports whether the run changes something here, before it does on hosts.
func (c *certsRun) changes() bool { return c != nil && c.first != nil }

// again is the command that goes on with what a run has left.
func (c *certsRun) again() string {
	if c == nil {
		return "apply"
	}
	return c.command
}

// prepare limits the plan to the tasks that the command is about.
func (c *certsRun) prepare(ctx context.Context, s *session, wanted []inventory.Instance) error {
	if s.fleet.CA == nil {
		return &inputError{fmt.Errorf("%s has no table [ca]; pgfleet certs init makes a CA and writes it", s.fleet.Path)}
	}
	s.kinds, s.renew, s.only, s.takeBackCA = c.meant(), c.force, c.named, false
	if c.find != nil {
		return c.find(ctx, s, wanted)
	}
	return nil
}

// afterCA does what comes first, and then carries the plan out.
func (x *applying) afterCA(ctx context.Context, s *session, known []rollout.Known) (results []rollout.Result, early, err error) {
	if x.certs.changes() {
		done, err := x.certs.first(ctx)
		for _, text := range done {
			x.app.ui.Note(clean(text))
			if x.journal != nil {
				// What was written is written; a journal that takes no more ends the run
				// before its first step.
				_ = x.journal.Writer.Append(journal.CAChanged, map[string]string{"text": x.app.mask(text)})
			}
		}
		if err == nil {
			// The keys are read now that the store holds what it is to hold.
			err = s.resolve(ctx, rollout.Secrets(known), "no host was changed")
		}
		if err != nil && len(done) == 0 {
			return nil, err, err
		}
		if err != nil {
			return nil, err, fmt.Errorf("%w; pgfleet %s goes on from there", err, x.certs.again())
		}
	}
	results, early = x.carryOut(ctx, s, known)
	return results, early, nil
}
