package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// defaultDatabase is where a server is asked about itself.
const defaultDatabase = "postgres"

// applicationName is how every session of ours is known to the server.
const applicationName = "pgfleet"

// connString overrides what the operator's own environment (PGSSLMODE,
// PGTARGETSESSIONATTRS, ...) would otherwise bring in. Where to connect and as
// whom is set in the parsed configuration.
const connString = "host=/ user=postgres dbname=postgres sslmode=disable sslnegotiation=postgres sslcertmode=allow sslrootcert='' sslcert='' sslkey='' " +
	"passfile=/dev/null target_session_attrs=any require_auth='' channel_binding=prefer " +
	"min_protocol_version=3.0 max_protocol_version=3.0 connect_timeout=0 options=''"

// withDefaults fills in what an Endpoint leaves open.
func (e Endpoint) withDefaults() Endpoint {
	if e.SocketDir == "" {
		e.SocketDir = "/var/run/postgresql"
	}
	if e.Port == 0 {
		e.Port = 5432
	}
	if e.Database == "" {
		e.Database = defaultDatabase
	}
	if e.User == "" {
		e.User = "postgres"
	}
	return e
}

// socket returns the path of the server's socket (unix_socket_directories).
func (e Endpoint) socket() string {
	return e.SocketDir + "/.s.PGSQL." + strconv.Itoa(e.Port)
}

// Postgres implements [Conn].
func (h *host) Postgres(ctx context.Context, at Endpoint) (*pgx.Conn, error) {
	config, dialled, err := h.pgConfig(at.withDefaults())
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, dialled.because(ctx, err)
	}
	return conn, nil
}

// A dialled remembers the stream of a session that is being opened, because
// when that fails the bridge knows better than pgx why.
type dialled struct {
	op string

	mu     sync.Mutex
	done   bool
	stream *stream
	err    error
}

// set remembers the first dial; later ones are for cancel requests.
func (d *dialled) set(s *stream, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.done {
		d.done, d.stream, d.err = true, s, err
	}
}

func (d *dialled) get() (*stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stream, d.err
}

// pgConfig returns how pgx reaches a server through the bridge. Cancel requests
// take the same way: pgx dials once more for them.
func (h *host) pgConfig(at Endpoint) (*pgx.ConnConfig, *dialled, error) {
	config, err := pgx.ParseConfig(connString)
	if err != nil {
		return nil, nil, &Error{Kind: KindConfig, Op: "read PostgreSQL's environment variables", Err: err, Hint: "unset PGSERVICE"}
	}
	d := &dialled{op: fmt.Sprintf("connect to PostgreSQL on %s as %s", at.socket(), at.User)}
	config.Host, config.Port, config.User, config.Database = at.SocketDir, uint16(at.Port), at.User, at.Database
	config.Password = ""
	config.RuntimeParams = map[string]string{"application_name": applicationName, "client_encoding": "UTF8"}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(r, w)
		f.SetMaxBodyLen(maxMessage)
		return f
	}
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		s, err := h.bridgeUnix(ctx, at.User, at.socket())
		d.set(s, err)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	return config, d, nil
}

// because explains why no session was opened.
func (d *dialled) because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	stream, dialErr := d.get()
	if dialErr != nil {
		return dialErr
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return &Error{Kind: KindPostgres, Op: d.op, Err: pg, Hint: pg.Hint}
	}
	if stream != nil {
		wait, cancel := context.WithTimeout(ctx, lingering)
		defer cancel()
		if why := stream.connected(wait, d.op, KindPostgres); why != nil && wait.Err() == nil {
			return why
		}
		err = stream.p.c.because(err)
	}
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	return &Error{Kind: KindPostgres, Op: d.op, Err: err}
}
