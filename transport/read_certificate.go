package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// sslRequest asks a PostgreSQL server for TLS: the length, and 1234 and 5679
// where other messages have the protocol's version ("SSLRequest" in the
// manual's chapter on message formats).
func sslRequest() []byte { return []byte{0, 0, 0, 8, 4, 210, 22, 47} }

// certificateTimeout bounds how long a server may take to present itself.
const certificateTimeout = 10 * time.Second

// served fetches the certificate that a server presents. It sends no startup
// message, and says goodbye in TLS before it hangs up, so the server has nothing
// to complain about in its log. The error returned concerns the whole host.
func (h *host) served(ctx context.Context, r facts.Certificate) (facts.Served, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, certificateTimeout, errConnectTimeout)
	defer cancel()
	found, err := h.present(ctx, r)
	if errors.Is(context.Cause(ctx), errConnectTimeout) && found.Chain == nil && h.c.err() == nil {
		return facts.Served{Reached: found.Reached, Problem: fmt.Sprintf("port %d: no answer for %s", r.Port, certificateTimeout)}, nil
	}
	return found, err
}

// present has the server present itself. All curves are offered at once: a server
// that accepts none of them (ssl_ecdh_curve, ssl_groups) would log an error.
func (h *host) present(ctx context.Context, r facts.Certificate) (facts.Served, error) {
	conn, problem, err := h.dialServer(ctx, r)
	if conn == nil {
		return facts.Served{Problem: problem}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	found := facts.Served{Reached: true}
	broken := func(err error) (facts.Served, error) {
		if dead := h.c.err(); dead != nil {
			return found, dead
		}
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		found.Problem = fmt.Sprintf("port %d does not answer like PostgreSQL: %s", r.Port, quiet(err))
		return found, nil
	}
	if !conn.requested {
		if _, err := conn.Write(sslRequest()); err != nil {
			return broken(err)
		}
	}
	var reply [1]byte
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return broken(err)
	}
	switch reply[0] {
	case 'S':
	case 'N':
		found.Problem = "the server does not support TLS"
		return found, nil
	case 'E': // too many connections, or a server that is starting up
		text, _ := io.ReadAll(io.LimitReader(conn, 1024))
		found.Problem = "the server refuses: " + strings.Trim(strings.Map(printable, string(text)), " ")
		return found, nil
	default:
		return broken(errors.New("not an answer to SSLRequest"))
	}
	found.TLS = true
	t := tls.Client(conn, &tls.Config{
		// Not to be trusted but to be looked at. Old versions too: what the
		// server presents is the question, not whether it is safe.
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS10,
		CurvePreferences:   []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521},
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			found.Chain = raw
			return nil
		},
		GetClientCertificate: func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			found.ClientCAs = asked.AcceptableCAs
			return new(tls.Certificate), nil // none
		},
	})
	if err := t.HandshakeContext(ctx); err != nil && found.Chain == nil {
		found.Problem = "TLS handshake: " + quiet(err)
	}
	_ = t.Close()
	return found, nil
}

// A serverConn is a connection from the host to a server.
type serverConn struct {
	net.Conn
	requested bool // the SSLRequest is already on its way
}

// dialServer connects from the host to the first address that accepts it:
// through sshd, which needs no process on the host, or by the bridge where sshd
// must not forward. It returns no connection and the problem if none accepts,
// and an error that concerns the whole host.
func (h *host) dialServer(ctx context.Context, r facts.Certificate) (*serverConn, string, error) {
	var addresses []string
	for _, a := range strings.Split(r.Addresses, ",") {
		if a = strings.TrimSpace(a); a != "" {
			addresses = append(addresses, a)
		}
	}
	problem := "no address"
	for _, a := range addresses {
		if h.c.noForwarding.Load() {
			break
		}
		address := net.JoinHostPort(a, strconv.Itoa(r.Port))
		each, cancel := context.WithTimeout(ctx, certificateTimeout/3)
		conn, err := h.c.forward(each, address)
		cancel()
		var refused *ssh.OpenChannelError
		switch {
		case err == nil:
			return &serverConn{Conn: conn}, "", nil
		case errors.As(err, &refused) && refused.Reason == ssh.ConnectionFailed:
			problem = fmt.Sprintf("%s port %d: %s", a, r.Port, refused.Message)
		case refused != nil:
			h.c.noForwarding.Store(true)
		case h.c.err() != nil:
			return nil, "", h.c.err()
		case ctx.Err() != nil:
			return nil, "", ctx.Err()
		default:
			problem = fmt.Sprintf("%s port %d: no answer", a, r.Port)
		}
	}
	if !h.c.noForwarding.Load() {
		return nil, problem, nil
	}
	s, err := h.bridgeTCP(ctx, addresses, r.Port)
	if err != nil {
		return nil, "", err
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	// What is written first starts the bridge and goes along with it.
	_, err = s.Write(sslRequest())
	if up := s.connected(ctx, "connect", KindPostgres); up != nil {
		err = up
	}
	switch {
	case err == nil:
		return &serverConn{Conn: s, requested: true}, "", nil
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case concernsHost(err):
		return nil, "", err
	}
	var e *Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return nil, err.Error(), nil
}

// quiet words an error for a fact.
func quiet(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it closed the connection"
	}
	return err.Error()
}

// printable keeps the letters of a protocol message.
func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return ' '
	}
	return r
}
