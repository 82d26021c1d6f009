package main

import (
	"io"
	"net"
	"time"
)

// newProxy listens on loopback and carries each connection on to a target, every
// byte delayed by the same time in each direction; a connection is answered only
// after a round trip, as TCP's own handshake would be.
func newProxy(target string, delay time.Duration) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer out.Close()
				time.Sleep(2 * delay)
				done := make(chan struct{}, 2)
				go carry(out, in, delay, done)
				go carry(in, out, delay, done)
				<-done
				time.Sleep(2 * delay)
			}()
		}
	}()
	return l, nil
}

type piece struct {
	at   time.Time
	data []byte
}

// carry copies, each piece as late as it should be and no later: pieces that are
// under way together arrive together.
func carry(to io.Writer, from io.Reader, delay time.Duration, done chan<- struct{}) {
	pieces := make(chan piece, 4096)
	go func() {
		defer close(pieces)
		for {
			buffer := make([]byte, 32<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				pieces <- piece{time.Now().Add(delay), buffer[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	done <- struct{}{}
}
