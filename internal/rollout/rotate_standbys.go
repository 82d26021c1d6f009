package rollout

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// giveStandbys gives standbys the password that they stream with, ends their
// connections, and waits until they stream again: the proof that it is right.
func (x *executor) giveStandbys(ctx context.Context, a tasks.GiveStandbys) error {
	password, ok := x.run.reveal(a.Password)
	if !ok {
		return fmt.Errorf("the password %s was not read", a.Password)
	}
	x.rotation.old = a.Old
	for _, s := range x.peers.standbys {
		given, err := x.giveStandby(ctx, s, a.Role, password)
		if err != nil {
			return fmt.Errorf("the standby %s: %w", s.ID(), err)
		}
		if given {
			x.rotation.given = append(x.rotation.given, s)
		}
	}
	if len(x.rotation.given) == 0 {
		return fmt.Errorf("no standby of the cluster that is in the run streams as %s; let --limit mean the whole cluster", a.Role)
	}
	for _, in := range append([]inventory.Instance{x.instance}, x.peers.standbys...) {
		var n int
		err := x.query(ctx, in, `SELECT count(pg_catalog.pg_terminate_backend(pid))::pg_catalog.int4 FROM pg_catalog.pg_stat_activity
			WHERE backend_type OPERATOR(pg_catalog.=) 'walsender' AND datid IS NULL AND usename OPERATOR(pg_catalog.=) `+postgres.QuoteLiteral(a.Role), &n)
		if err != nil {
			return fmt.Errorf("%s could not end its connections of %s: %w", in.ID(), a.Role, err)
		}
	}
	return x.streamAgain(ctx, x.rotation.given)
}

// streamAgain waits until all of the standbys stream.
func (x *executor) streamAgain(ctx context.Context, standbys []inventory.Instance) error {
	deadline := time.Now().Add(x.run.gateTimeout())
	for {
		why := ""
		for _, s := range standbys {
			f, err := x.following(ctx, s, "0/0")
			switch {
			case err != nil:
				why = fmt.Sprintf("%s does not answer: %v", s.ID(), err)
			case f.status != "streaming":
				why = fmt.Sprintf("%s does not stream; pg_stat_wal_receiver says %s, and its log says why", s.ID(), orSay(f.status, "nothing"))
			}
		}
		switch {
		case why == "":
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("after %v %s", x.run.gateTimeout(), why)
		}
		x.phase("waiting for streaming replication: " + why)
		select {
		case <-time.After(readyEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// giveStandby reports whether the standby streams as the role; then it has the new
// password.
func (x *executor) giveStandby(ctx context.Context, s inventory.Instance, role string, password secrets.Secret) (bool, error) {
	y, err := x.at(ctx, s)
	if err != nil {
		return false, err
	}
	var text, file, home string
	err = x.query(ctx, s, `SELECT setting, coalesce(sourcefile, ''), pg_catalog.current_setting('data_directory') FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'primary_conninfo'`, &text, &file, &home)
	if err != nil {
		return false, err
	}
	info, err := postgres.ParseConninfo(text)
	if err != nil {
		return false, fmt.Errorf("primary_conninfo: %w", err)
	}
	if info.Get("user") != role {
		return false, nil
	}
	x.phase("giving " + string(s.ID()) + " the new password")
	passfile, inText := info.Get("passfile"), info.Get("password") != ""
	if inText && path.Base(file) != "postgresql.auto.conf" {
		return false, fmt.Errorf("its password stands in primary_conninfo in %s, which pgfleet does not rewrite; put it into a password file, and let primary_conninfo name that: passfile=…", file)
	}
	if passfile == "" || inText {
		out, err := y.conn.Run(ctx, transport.Command{Script: `printf %s "$(getent passwd postgres | cut -d: -f6)"`, User: "postgres", Unfenced: true})
		if err != nil {
			return false, err
		}
		passfile = strings.TrimSpace(string(out.Stdout)) + "/.pgpass"
	}
	if inText {
		passfile += "." + s.Unit()
		line := "*:*:*:" + postgres.EscapePassfile(role) + ":" + postgres.EscapePassfile(string(password.Expose())) + "\n"
		if err := y.conn.WriteFiles(ctx, []transport.File{{Path: passfile, Content: []byte(line), Owner: "postgres", Group: "postgres", Mode: 0o600}}); err != nil {
			return false, err
		}
		return true, y.namePassfile(ctx, info, passfile)
	}
	return true, y.edit(ctx, passfile, func(text string) (string, error) {
		text, n := postgres.SetPassfile(text, []string{role}, role, string(password.Expose()))
		if n == 0 {
			return "", fmt.Errorf("%s has no line for %s: write one, host:port:replication:%s:password, whose password pgfleet then keeps", passfile, role, role)
		}
		return text, nil
	})
}

// namePassfile has a standby take its password from a file rather than from
// primary_conninfo itself: whenever that changes, the server writes it to its log,
// and nothing keeps it from that. ALTER SYSTEM cannot be in a transaction.
func (x *executor) namePassfile(ctx context.Context, info postgres.Conninfo, passfile string) error {
	info = info.With("password", "").With("passfile", passfile)
	conn, err := x.conn.Postgres(ctx, transport.Endpoint{Port: x.instance.Port})
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	if err := x.hold(ctx, conn); err != nil {
		return err
	}
	for _, sql := range []string{"ALTER SYSTEM SET primary_conninfo = " + postgres.QuoteLiteral(info.String()), "SELECT pg_catalog.pg_reload_conf()"} {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
			return errors.New("primary_conninfo: " + pg.Message)
		} else if err != nil {
			return because(ctx, err)
		}
	}
	return nil
}
