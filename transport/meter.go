package transport

import (
	"errors"
	"io"
	"math"
	"sync/atomic"
)

// How much a host may send, in bytes: nothing that it says can use up our memory.
const (
	maxPreamble = 64 << 10  // before the ready line, or a bridge's connectedLine
	maxAnswer   = 256 << 20 // to one script, or over one session of a Read
	maxMessage  = 64 << 20  // in one message of PostgreSQL's protocol
	unlimited   = math.MaxInt64
)

var errTooMuch = errors.New("the host sends more than makes sense")

// A meter reads until what it allows is used up.
type meter struct {
	r    io.Reader
	left atomic.Int64
}

func newMeter(r io.Reader) *meter {
	m := &meter{r: r}
	m.allow(unlimited)
	return m
}

// allow sets how much may be read from now on.
func (m *meter) allow(n int64) { m.left.Store(n) }

// Read returns errTooMuch when nothing is left.
func (m *meter) Read(b []byte) (int, error) {
	left := m.left.Load()
	if left <= 0 {
		return 0, errTooMuch
	}
	n, err := m.r.Read(b[:min(int64(len(b)), left)])
	m.left.CompareAndSwap(left, left-int64(n)) // else it has just been set anew
	return n, err
}
