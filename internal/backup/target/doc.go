// Package target holds the targets that backups are kept in: a folder on this machine, a
// folder on a host, a bucket of S3, and a program that keeps them.
package target

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/pgfleet/pgfleet/internal/backup"
)

// A measured reader counts and digests what is read through it, until its context ends, and keeps
// how what it reads from ended. Who was given it may still be reading when that is asked for.
type measured struct {
	ctx context.Context
	r   io.Reader

	mu    sync.Mutex
	n     int64
	sum   hash.Hash
	fault error // of r
	end   bool  // it was reached
}

func measure(ctx context.Context, r io.Reader) *measured {
	return &measured{ctx: ctx, r: r, sum: sha256.New()}
}

func (m *measured) Read(b []byte) (int, error) {
	n, err := 0, m.ctx.Err()
	if err == nil {
		n, err = m.r.Read(b)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n += int64(n)
	m.sum.Write(b[:n])
	switch {
	case err == io.EOF: //nolint:errorlint // an error that wraps it is no end
		m.end = true
	case err != nil:
		m.fault = err
	}
	return n, err
}

// err returns r's error.
func (m *measured) err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fault
}

// whole returns the size in bytes and the SHA-256 of what was read, and whether that was all.
func (m *measured) whole() (n int64, digest string, ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n, hex.EncodeToString(m.sum.Sum(nil)), m.end
}

// result is what Put returns: the error of what was read as it is, any other with where it happened.
func (m *measured) result(t backup.Target, name string, err error) (int64, string, error) {
	n, digest, ended := m.whole()
	if fault := m.err(); err != nil && fault != nil {
		return 0, "", fault
	}
	if err == nil && !ended {
		err = errors.New("it did not read all that it was to keep")
	}
	if err != nil {
		return 0, "", fail("write", t, name, err)
	}
	return n, digest, nil
}

// A sink keeps the error of what it writes to, which tells it from that of what is read.
type sink struct {
	w io.Writer

	mu    sync.Mutex
	fault error
}

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = err
	return n, err
}

// result is what Get returns.
func (s *sink) result(t backup.Target, name string, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return s.fault
	}
	if err != nil {
		return fail("read", t, name, err)
	}
	return nil
}

// checkFolder refuses what is no folder of a target.
func checkFolder(name string) error {
	if name == "" {
		return nil
	}
	return backup.CheckName(name)
}

// fail says what was done with which object.
func fail(what string, t backup.Target, name string, err error) error {
	if name == "" {
		return fmt.Errorf("%s: %s: %w", t, what, err)
	}
	return fmt.Errorf("%s: %s %s: %w", t, what, name, err)
}
