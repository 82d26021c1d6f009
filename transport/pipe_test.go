package transport_test

import (
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/transport"
	"github.com/pgfleet/pgfleet/transport/sshtest"
)

// A slowWriter counts, takes nothing until it is let, and keeps the most memory that was in use.
type slowWriter struct {
	n    atomic.Int64
	open chan struct{}
	most uint64
}

func (w *slowWriter) Write(b []byte) (int, error) {
	<-w.open
	if before := w.n.Add(int64(len(b))); before%(16<<20) < int64(len(b)) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		w.most = max(w.most, m.HeapAlloc)
	}
	return len(b), nil
}

// A countingReader yields zeros up to a number of bytes, and counts them.
type countingReader struct {
	left int64
	n    atomic.Int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(r.left, int64(len(b)))
	r.left -= n
	r.n.Add(n)
	return int(n), nil
}

func TestPipeHoldsNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the host's side is Linux")
	}
	s := sshtest.New(t, sshtest.Options{})
	c := dial(t, dialer(t), target(s))
	const size = 256 << 20
	in, out := &countingReader{left: size}, &slowWriter{open: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := c.Pipe(t.Context(), transport.Command{Script: "cat"}, in, out)
		done <- err
	}()
	// Who reads nothing stops who writes: two windows of SSH's, the pipes and the network are all there is.
	var before int64
	for before = -1; in.n.Load() != before; time.Sleep(300 * time.Millisecond) {
		before = in.n.Load()
	}
	if before > 32<<20 || before == 0 {
		t.Errorf("%d bytes were sent though nothing was read", before)
	}
	close(out.open)
	if err := <-done; err != nil || out.n.Load() != size {
		t.Errorf("%d bytes, %v", out.n.Load(), err)
	}
	if out.most > 64<<20 {
		t.Errorf("%d bytes of memory were in use", out.most)
	}
}

func TestPipeIsCut(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the host's side is Linux")
	}
	s := sshtest.New(t, sshtest.Options{})
	proxy, to := through(t, s, 0)
	for _, sending := range []bool{true, false} {
		c := dial(t, dialer(t), to)
		in, out := &countingReader{left: 1 << 40}, &slowWriter{open: make(chan struct{})}
		close(out.open)
		script := "cat >/dev/null"
		if !sending {
			in.left, script = 0, "cat /dev/zero"
		}
		go func() {
			for in.n.Load()+out.n.Load() < 8<<20 {
				time.Sleep(time.Millisecond)
			}
			proxy.Cut()
		}()
		_, err := c.Pipe(t.Context(), transport.Command{Script: script}, in, out)
		var e *transport.Error
		if !errors.As(err, &e) || e.Kind != transport.KindUnreachable {
			t.Errorf("sending %t: %v", sending, err)
		}
	}
	// What ran there has ended with its streams.
	for began := time.Now(); s.Running() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d commands still run", s.Running())
		}
	}
}
