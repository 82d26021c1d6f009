// Package faults makes requests to a test server fail, before or after their effect.
package faults

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
)

// A Fault is how a request fails.
type Fault int

// The faults. In each but the last the client sees the connection end.
const (
	None      Fault = iota
	Before          // nothing is done
	After           // it is done, but the client gets no answer
	Hang            // nothing is done, and the connection stays until the client gives up
	HangAfter       // it is done, and the connection stays so
)

// An Injector passes requests on to a server, or has them fail.
type Injector struct {
	next http.Handler

	mu   sync.Mutex
	seen int
	hung int
	plan func(n int) Fault
}

// New returns an Injector that lets all requests pass.
func New(next http.Handler) *Injector { return &Injector{next: next} }

// Set has plan decide about each of the following requests, which are counted from 1.
// A nil plan lets them pass.
func (i *Injector) Set(plan func(n int) Fault) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seen, i.hung, i.plan = 0, 0, plan
}

// Seen returns how many requests came since Set.
func (i *Injector) Seen() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen
}

// Hung returns how many requests have come to where they hang since Set.
func (i *Injector) Hung() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hung
}

func (i *Injector) hang(r *http.Request) {
	i.mu.Lock()
	i.hung++
	i.mu.Unlock()
	// Only once the body is read does the server notice that the client has gone.
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// Once has only the n-th request fail.
func Once(n int, f Fault) func(int) Fault {
	return func(i int) Fault {
		if i == n {
			return f
		}
		return None
	}
}

// From has the n-th request fail, and none after it be answered: as if the server, or
// the way to it, had gone.
func From(n int, f Fault) func(int) Fault {
	return func(i int) Fault {
		switch {
		case i < n:
			return None
		case i == n:
			return f
		default:
			return Before
		}
	}
}

// ServeHTTP implements [http.Handler].
func (i *Injector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.seen++
	f := None
	if i.plan != nil {
		f = i.plan(i.seen)
	}
	i.mu.Unlock()
	switch f {
	case Before:
		panic(http.ErrAbortHandler)
	case After:
		i.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case Hang:
		i.hang(r)
	case HangAfter:
		i.next.ServeHTTP(httptest.NewRecorder(), r)
		i.hang(r)
	case None:
		i.next.ServeHTTP(w, r)
	}
}
