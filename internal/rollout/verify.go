package rollout

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// proven makes the proofs that come right after the step as long as it can be put
// back, so that a server which fails its checks is not left with what made it fail.
func (x *executor) proven(ctx context.Context) error {
	for _, s := range x.proofs {
		x.phase("checking: " + s.Title())
		proof := *x
		proof.step = s
		for _, c := range s.Changes {
			if err := proof.single(ctx, c); err != nil {
				return &tasks.TaskError{Task: s.Title(), Err: err}
			}
		}
	}
	return nil
}

// login proves that a role can log in, as an application would: over TCP from
// where it is told to come from, with TLS and the server's certificate verified
// in full.
func (x *executor) login(ctx context.Context, a tasks.Login) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, fmt.Errorf("no answer within %v", a.Timeout))
	defer cancel()
	password, ok := x.run.reveal(a.Password)
	if !ok {
		return fmt.Errorf("the password %s was not read", a.Password)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(a.CA) {
		return &refusedError{"ca holds no certificate"}
	}
	config, err := pgx.ParseConfig(pinned)
	if err != nil {
		return err
	}
	config.Host, config.Port, config.User, config.Database = a.Address, uint16(a.Port), a.Role, a.Database
	config.Password = string(password.Expose())
	config.TLSConfig = &tls.Config{RootCAs: roots, ServerName: a.Address, MinVersion: tls.VersionTLS12}
	config.Fallbacks = nil
	config.RuntimeParams = map[string]string{"application_name": "pgfleet"}
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return x.dialFrom(ctx, a.From, a.Address, a.Port)
	}
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		var refused *pgconn.PgError
		if a.Refused && errors.As(err, &refused) && strings.HasPrefix(refused.Code, "28") {
			return nil // class 28: invalid authorization
		}
		text := fmt.Sprintf("the login of %s at %s from %s failed: %s", a.Role, a.Address, a.From, loginProblem(ctx, err))
		if errors.As(err, &refused) && refusal(refused) || certificateProblem(err) {
			return &refusedError{text}
		}
		return errors.New(text)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if a.Refused {
		return fmt.Errorf("%s can log in at %s from %s, and should be refused", a.Role, a.Address, a.From)
	}
	return expect(ctx, conn, a.Query, a.Expect)
}

// certificateProblem reports whether a login failed because the server's certificate
// does not verify.
func certificateProblem(err error) bool {
	var verification *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	return errors.As(err, &verification) || errors.As(err, &unknown) || errors.As(err, &name)
}

// pinned keeps the operator's own environment (PGSSLMODE, PGPASSFILE, …) out of
// the login. A password is only ever proven by SCRAM: a server that asks for it
// in the clear, or for its MD5, is refused.
const pinned = "host=/ user=x dbname=x sslmode=disable passfile=/dev/null connect_timeout=0 target_session_attrs=any options='' require_auth=scram-sha-256"

// loginProblem says why a login failed in the server's words where it had some.
func loginProblem(ctx context.Context, err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Message
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return "the server's certificate was not signed by this CA"
	}
	var name x509.HostnameError
	if errors.As(err, &name) {
		return name.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return context.Cause(ctx).Error()
	}
	for u := errors.Unwrap(err); u != nil; u = errors.Unwrap(err) {
		err = u
	}
	return err.Error()
}

func expect(ctx context.Context, conn *pgx.Conn, query string, want *string) error {
	if query == "" {
		return nil
	}
	rows, err := conn.Query(ctx, query, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return err
	}
	defer rows.Close()
	var got string
	found := rows.Next()
	if found {
		if raw := rows.RawValues(); len(raw) > 0 {
			got = string(raw[0])
		}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	switch {
	case want == nil:
		return nil
	case !found:
		return fmt.Errorf("%s returned no row, and should return %q", query, *want)
	case got != *want:
		return fmt.Errorf("%s returned %q, and should return %q", query, got, *want)
	}
	return nil
}

// port proves that a port answers, or that it does not.
func (x *executor) port(ctx context.Context, a tasks.Port) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, fmt.Errorf("no answer within %v", a.Timeout))
	defer cancel()
	conn, err := x.dialFrom(ctx, a.From, a.Address, a.Port)
	if err == nil {
		conn.Close()
	}
	target := net.JoinHostPort(a.Address, strconv.Itoa(a.Port))
	switch {
	case err != nil && !a.Closed:
		return fmt.Errorf("%s does not answer from %s: %w", target, a.From, because(ctx, err))
	case err == nil && a.Closed:
		return fmt.Errorf("%s answers from %s, and should not", target, a.From)
	}
	return nil
}

// ask runs a query over the server's own socket.
func (x *executor) ask(ctx context.Context, a tasks.Ask) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, fmt.Errorf("no answer within %v", a.Timeout))
	defer cancel()
	conn, err := x.conn.Postgres(ctx, transport.Endpoint{SocketDir: a.SocketDir, Port: a.Port, Database: a.Database})
	if err != nil {
		return because(ctx, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return because(ctx, expect(ctx, conn, a.Query, a.Expect))
}

// dialFrom opens a byte stream to a port from the operator's machine, or from a
// host of the fleet.
func (x *executor) dialFrom(ctx context.Context, from, address string, port int) (net.Conn, error) {
	if from == "here" {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	}
	h := x.run.Fleet.Host(from)
	if h == nil {
		return nil, fmt.Errorf("no host %q", from)
	}
	conn, err := x.run.Conn(ctx, h)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	s, err := conn.DialPostgres(ctx, address, port)
	if err != nil {
		return nil, err
	}
	if c, ok := s.(net.Conn); ok {
		return c, nil
	}
	return streamConn{s, netAddr(net.JoinHostPort(address, strconv.Itoa(port)))}, nil
}

// streamConn makes a net.Conn of a Stream.
type streamConn struct {
	transport.Stream
	remote netAddr
}

func (c streamConn) LocalAddr() net.Addr  { return netAddr("") }
func (c streamConn) RemoteAddr() net.Addr { return c.remote }

type netAddr string

func (netAddr) Network() string  { return "tcp" }
func (a netAddr) String() string { return string(a) }
