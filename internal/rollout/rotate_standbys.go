package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// A streamer is a standby, and what it streams with.
type streamer struct {
	inventory.Instance
	info     postgres.Conninfo // primary_conninfo
	file     string            // where that stands
	name     string            // the application_name that its upstream sees
	receiver int               // the WAL receiver's pid; 0 for none
}

// streamer asks a standby what it streams with. A WAL receiver is called by
// primary_conninfo, cluster_name or "walreceiver" (manual, 19.6.3 Standby Servers).
func (x *executor) streamer(ctx context.Context, s inventory.Instance) (streamer, error) {
	st := streamer{Instance: s}
	var text string
	err := x.query(ctx, s, `SELECT setting, coalesce(sourcefile, ''), pg_catalog.current_setting('cluster_name'), coalesce((SELECT pid FROM pg_catalog.pg_stat_wal_receiver), 0)
		FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'primary_conninfo'`, &text, &st.file, &st.name, &st.receiver)
	if err != nil {
		return st, err
	}
	if st.info, err = postgres.ParseConninfo(text); err != nil {
		return st, fmt.Errorf("primary_conninfo: %w", err)
	}
	st.name = cmp.Or(st.info.Get("application_name"), st.name, "walreceiver")
	return st, nil
}

// as reports whether the standby streams as the role. Without a user it does as who
// its server runs as.
func (st streamer) as(role string) bool {
	return len(st.info) > 0 && cmp.Or(st.info.Get("user"), "postgres") == role
}

// rewritable says why its primary_conninfo cannot be given a password file in the
// place of a password; "" if it can, or need not.
func (st streamer) rewritable() string {
	if st.info.Get("password") == "" {
		return ""
	}
	const todo = "put it into a password file, and let primary_conninfo name that: passfile=…"
	if path.Base(st.file) != "postgresql.auto.conf" {
		return fmt.Sprintf("its password stands in primary_conninfo in %s, which pgfleet does not rewrite; %s", st.file, todo)
	}
	// ALTER SYSTEM takes the whole of it, and the server logs each change.
	for _, name := range []string{"sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"} {
		if st.info.Get(name) != "" {
			return fmt.Sprintf("its password stands in primary_conninfo beside %s, which the server would write to its log when pgfleet rewrites it; %s", name, todo)
		}
	}
	return ""
}

// A walsender is a row of pg_stat_replication.
type walsender struct {
	Name, Addr, State, Database string
	On                          inventory.InstanceID `json:"-"`
}

func (w walsender) String() string {
	text := orSay(w.Name, "no application_name") + " from " + orSay(w.Addr, "the host itself") + " on " + string(w.On)
	if w.Database != "" {
		text += ", logical replication of " + w.Database
	}
	return text
}

// strangers returns those that are no stream of these standbys: copies of the
// write-ahead log and base backups too, from wherever they come. Where replication
// goes over another network than fleet.toml's addresses, the name has to do, once for
// each standby.
func strangers(rows []walsender, standbys []streamer) []walsender {
	found := map[inventory.InstanceID]bool{}
	match := func(rows []walsender, same func(walsender, streamer) bool) []walsender {
		var left []walsender
		for _, w := range rows {
			i := slices.IndexFunc(standbys, func(st streamer) bool { return w.Name == st.name && same(w, st) })
			if i < 0 || w.Database != "" || w.State == "backup" {
				left = append(left, w)
				continue
			}
			found[standbys[i].ID()] = true
		}
		return left
	}
	left := match(rows, func(w walsender, st streamer) bool { return w.Addr == st.Host.Address })
	return match(left, func(_ walsender, st streamer) bool { return st.receiver != 0 && !found[st.ID()] })
}

// onlyStandbys makes sure that all who stream as a role are standbys that get its new
// password: everybody else would be refused from now on. Nothing has been changed
// before.
func (x *executor) onlyStandbys(ctx context.Context, conn *pgx.Conn, a tasks.SetVerifier) error {
	if a.Force {
		return nil
	}
	var streams bool
	err := conn.QueryRow(ctx, "SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) "+postgres.QuoteLiteral(a.Role),
		pgx.QueryExecModeSimpleProtocol).Scan(&streams)
	if err != nil || !streams {
		return because(ctx, err)
	}
	var standbys []streamer
	for _, s := range x.peers.standbys {
		st, err := x.streamer(ctx, s)
		if err != nil {
			return fmt.Errorf("whether the standby %s streams as %s is not known, so nothing was changed: %w", s.ID(), a.Role, err)
		}
		if !st.as(a.Role) {
			continue
		}
		if why := st.rewritable(); why != "" {
			return fmt.Errorf("the standby %s: %s; nothing was changed", s.ID(), why)
		}
		standbys = append(standbys, st)
	}
	var rows []walsender
	for _, in := range append([]inventory.Instance{x.instance}, x.peers.standbys...) {
		var text string
		err := x.query(ctx, in, `SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('Name', r.application_name, 'Addr', coalesce(pg_catalog.host(r.client_addr), ''),
			'State', coalesce(r.state, ''), 'Database', coalesce(a.datname, ''))), '[]')::pg_catalog.text
			FROM pg_catalog.pg_stat_replication r JOIN pg_catalog.pg_stat_activity a USING (pid) WHERE r.usename OPERATOR(pg_catalog.=) `+postgres.QuoteLiteral(a.Role), &text)
		var here []walsender
		if err == nil {
			err = json.Unmarshal([]byte(text), &here)
		}
		if err != nil {
			return fmt.Errorf("who streams as %s from %s is not known, so nothing was changed: %w", a.Role, in.ID(), err)
		}
		for _, w := range here {
			w.On = in.ID()
			rows = append(rows, w)
		}
	}
	var names []string
	for _, w := range strangers(rows, standbys) {
		names = append(names, w.String())
	}
	if len(names) > 0 {
		return fmt.Errorf("not all who stream as %s are standbys that pgfleet gives the new password, and the others would be refused when they connect again: %s; let them end or use another role, or go on with --force; nothing was changed",
			a.Role, strings.Join(names, "; "))
	}
	return nil
}

// giveStandbys gives standbys the password that they stream with, ends their
// connections, and waits until they stream again: the proof that it is right.
func (x *executor) giveStandbys(ctx context.Context, a tasks.GiveStandbys) error {
	password, ok := x.run.reveal(a.Password)
	if !ok {
		return fmt.Errorf("the password %s was not read", a.Password)
	}
	x.rotation.old = a.Old
	var given []streamer
	for _, s := range x.peers.standbys {
		st, err := x.streamer(ctx, s)
		if err == nil && !st.as(a.Role) {
			continue
		}
		if err == nil {
			err = x.giveStandby(ctx, st, a.Role, password)
		}
		if err != nil {
			return fmt.Errorf("the standby %s: %w", s.ID(), err)
		}
		given = append(given, st)
		x.rotation.given = append(x.rotation.given, s)
	}
	if len(given) == 0 {
		x.noted("no standby streams as " + a.Role + ", so none was given its password")
		return nil
	}
	before := map[inventory.InstanceID]int{}
	for _, st := range given {
		before[st.ID()] = st.receiver
		if err := x.endReceiver(ctx, st); err != nil {
			return fmt.Errorf("the standby %s: its stream could not be ended: %w", st.ID(), err)
		}
	}
	return x.streamAgain(ctx, x.rotation.given, before)
}

// endReceiver ends a standby's WAL receiver, which its server then starts anew. What
// else streams as the role goes on. pg_terminate_backend does not do it: a WAL
// receiver is no backend.
func (x *executor) endReceiver(ctx context.Context, st streamer) error {
	if st.receiver == 0 {
		return nil
	}
	y, err := x.at(ctx, st.Instance)
	if err != nil {
		return err
	}
	return y.must(ctx, transport.Command{Script: fmt.Sprintf("if grep -aqs walreceiver /proc/%[1]d/cmdline; then kill -TERM %[1]d; fi", st.receiver), User: "postgres"})
}

// streamAgain waits until all of the standbys stream, each by another WAL receiver
// than before, which may still have the connection that is to end.
func (x *executor) streamAgain(ctx context.Context, standbys []inventory.Instance, before map[inventory.InstanceID]int) error {
	deadline := time.Now().Add(x.run.gateTimeout())
	for {
		why := ""
		for _, s := range standbys {
			var status string
			var receiver int
			err := x.query(ctx, s, `SELECT coalesce(pg_catalog.max(status), ''), coalesce(pg_catalog.max(pid), 0) FROM pg_catalog.pg_stat_wal_receiver`, &status, &receiver)
			switch {
			case err != nil:
				why = fmt.Sprintf("%s does not answer: %v", s.ID(), err)
			case status != "streaming":
				why = fmt.Sprintf("%s does not stream; pg_stat_wal_receiver says %s, and its log says why", s.ID(), orSay(status, "nothing"))
			case receiver == before[s.ID()]:
				why = fmt.Sprintf("%s still has the stream that it had before, by the WAL receiver %d", s.ID(), receiver)
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

// giveStandby gives a standby that streams as the role a password.
func (x *executor) giveStandby(ctx context.Context, st streamer, role string, password secrets.Secret) error {
	y, err := x.at(ctx, st.Instance)
	if err != nil {
		return err
	}
	if why := st.rewritable(); why != "" {
		return errors.New(why)
	}
	x.phase("giving " + string(st.ID()) + " the password")
	passfile, inText := st.info.Get("passfile"), st.info.Get("password") != ""
	if passfile == "" || inText {
		out, err := y.conn.Run(ctx, transport.Command{Script: `printf %s "$(getent passwd postgres | cut -d: -f6)"`, User: "postgres", Unfenced: true})
		if err != nil {
			return err
		}
		passfile = strings.TrimSpace(string(out.Stdout)) + "/.pgpass"
	}
	if inText {
		passfile += "." + st.Unit()
		line := "*:*:*:" + postgres.EscapePassfile(role) + ":" + postgres.EscapePassfile(string(password.Expose())) + "\n"
		if err := y.conn.WriteFiles(ctx, []transport.File{{Path: passfile, Content: []byte(line), Owner: "postgres", Group: "postgres", Mode: 0o600}}); err != nil {
			return err
		}
		return y.namePassfile(ctx, st.info, passfile)
	}
	// What it streams from, and what it would after a switchover.
	servers := st.info.Servers()
	for _, in := range slices.Concat([]inventory.Instance{x.instance}, x.peers.standbys) {
		member := tasks.Member{Host: in.Host.Name, Addresses: []string{in.Host.Address, in.Host.Name}, Port: in.Port}
		servers = append(servers, passfileServers([]tasks.Member{member}, st.Host.Name)...)
	}
	return y.edit(ctx, passfile, func(text string) (string, error) {
		text, n, err := postgres.SetPassfile(text, servers, []string{role}, role, string(password.Expose()))
		switch {
		case err != nil:
			return "", fmt.Errorf("%s: %w", passfile, err)
		case n == 0:
			return "", fmt.Errorf("%s has no line for %s at %s, as primary_conninfo names it: write one, host:port:replication:%s:password, whose password pgfleet then keeps", passfile, role, serverList(st.info.Servers()), role)
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
