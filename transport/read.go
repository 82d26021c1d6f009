package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// Read implements [Conn]. The questions about the host go to a root shell as
// one script; each database of a PostgreSQL server and each certificate has a
// session of its own; all of that happens at the same time.
func (h *host) Read(outer context.Context, reads []facts.Read) (map[facts.Read]facts.Answer, error) {
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		answers = make(map[facts.Read]facts.Answer, len(reads))
		failed  error
	)
	answer := func(r facts.Read, a facts.Answer) {
		mu.Lock()
		defer mu.Unlock()
		answers[r] = a
	}
	// fail is for what concerns the whole host: the connection, or sudo.
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if failed == nil {
			failed = err
		}
	}
	script := newHostScript(h.probeTimeout())
	servers := map[Endpoint][]facts.Read{}
	var certificates []facts.Certificate
	var wait time.Duration // that servers may make us wait
	spare := firstOf(h.d.ReadTimeout, time.Minute)
	seen := make(map[facts.Read]bool, len(reads))
	for _, r := range reads {
		if seen[r] {
			continue
		}
		seen[r] = true
		switch r := r.(type) {
		case facts.Postgres, facts.Cluster, facts.Available, facts.Contents, facts.Deparse, facts.Rehearse, facts.Query:
			at, patience := placeOf(r)
			servers[at] = append(servers[at], r)
			wait += patience
		case facts.Certificate:
			certificates = append(certificates, r)
		default:
			if err := script.add(r); err != nil {
				answer(r, facts.Answer{Err: err})
			}
		}
	}
	limit := spare + time.Duration(len(script.probes))*(h.probeTimeout()+timeoutKill) + wait
	ctx, cancel := context.WithTimeout(outer, limit)
	defer cancel()
	for _, r := range certificates {
		wg.Go(func() {
			served, err := h.served(ctx, r)
			if err != nil {
				fail(err)
				return
			}
			answer(r, facts.Answer{Value: served})
		})
	}
	for at, asked := range servers {
		wg.Go(func() {
			if err := h.askServer(ctx, at, asked, limit-spare/4, answer); err != nil {
				fail(err)
			}
		})
	}
	if !script.empty() {
		wg.Go(func() {
			found, err := ask(ctx, h, script.text(), script.parse)
			if err != nil {
				fail(err)
				return
			}
			for r, a := range found {
				answer(r, a)
			}
		})
	}
	wg.Wait()
	if err := h.c.err(); err != nil && failed != nil {
		failed = err
	}
	if errors.Is(failed, context.DeadlineExceeded) && outer.Err() == nil {
		failed = &Error{Kind: KindSilent, Op: "ask the host", Err: fmt.Errorf("it has not answered everything within %s", limit)}
	}
	if failed != nil {
		return nil, failed
	}
	for _, r := range reads {
		if _, ok := answers[r]; !ok {
			answers[r] = facts.Answer{Err: fmt.Errorf("the host gave no answer to %T", r)}
		}
	}
	return answers, nil
}

// concernsHost reports whether an error is about the host as a whole rather
// than about one server on it.
func concernsHost(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind != KindPostgres && e.Kind != KindRemote
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
