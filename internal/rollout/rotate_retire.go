package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// retire takes a role's password once nobody has a session of it. Sessions that do
// not end are left alone, and so is the password; where they are to be ended, the
// password is taken before, so that no other ones begin.
func (x *executor) retire(ctx context.Context, a tasks.Retire) error {
	since := x.rotation.promoted
	if since.IsZero() {
		since = time.Now() // it was published by an earlier run
	}
	keeps := func(err error) error {
		if errors.Is(err, errStopped) {
			x.noted(fmt.Sprintf("%s keeps its old password, because pgfleet was stopped; the next rotation takes it", a.Role))
			return nil
		}
		return err
	}
	if err := x.sleep(ctx, time.Until(since.Add(a.After)), fmt.Sprintf("leaving the old password of %s for %v", a.Role, a.After)); err != nil {
		return keeps(err)
	}
	members := append([]inventory.Instance{x.instance}, x.peers.standbys...)
	if a.EndSessions {
		taken, err := x.takePassword(ctx, a)
		if err == nil && taken {
			err = x.endSessions(ctx, members, a.Role, a.Wait)
		}
		if errors.Is(err, errStopped) {
			x.noted(a.Role + " has no password any more, and may still have sessions, because pgfleet was stopped")
			err = nil
		}
		if err != nil {
			return err
		}
		return x.retired(ctx, a)
	}
	deadline := time.Now().Add(a.Wait)
	for {
		who, err := x.sessionsOf(ctx, members, a.Role)
		switch {
		case err != nil:
			return fmt.Errorf("whether %s still has sessions is not known, so it keeps its old password: %w", a.Role, err)
		case who == "":
			if _, err := x.takePassword(ctx, a); err != nil {
				return err
			}
			return x.retired(ctx, a)
		case !time.Now().Before(deadline):
			x.noted(fmt.Sprintf("%s keeps its old password, because it still has sessions: %s; pgfleet rotate --end-sessions ends them", a.Role, who))
			return x.retired(ctx, a)
		}
		if err := x.sleep(ctx, readyEvery, "waiting for sessions of "+a.Role+" to end: "+who); err != nil {
			return keeps(err)
		}
	}
}

// retired notes that nothing more is to be done about the old role.
func (x *executor) retired(ctx context.Context, a tasks.Retire) error {
	return x.must(ctx, transport.Command{Script: "rm -f -- " + transport.Quote(a.Owed), User: "root"})
}

// takePassword takes the role's password, unless the store says that it is in use
// again: somebody may have gone back by hand while its sessions were waited for. It
// reports whether it has.
func (x *executor) takePassword(ctx context.Context, a tasks.Retire) (bool, error) {
	store, err := x.run.Stores.WritableStore(a.Secret.Store)
	if err != nil {
		return false, err
	}
	entry, err := store.Get(ctx, a.Secret.Path, string(secrets.Current))
	if err != nil {
		return false, fmt.Errorf("whether %s is in use again is not known, so it keeps its old password: %w", a.Role, err)
	}
	if entry.Keys[tasks.UsernameKey].Equal(secrets.NewString(a.Role)) {
		x.noted(fmt.Sprintf("%s keeps its password: version %s of the secret, which is current now, says that it is in use", a.Role, entry.ID))
		return false, nil
	}
	conn, err := x.session(ctx, a.Server)
	if err != nil {
		return false, err
	}
	defer closeSession(ctx, conn)
	return true, x.transaction(ctx, conn).run(ctx, []catalog.Statement{catalog.SetPassword{Role: a.Role, None: true}})
}

// sleep waits, and ends early when the run is told to start nothing more: a
// rotation is done by then, and the old password is only left where it is.
func (x *executor) sleep(ctx context.Context, d time.Duration, phase string) error {
	if d <= 0 {
		return ctx.Err()
	}
	x.phase(phase)
	select {
	case <-time.After(d):
		return nil
	case <-x.stop:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sessionsOf says what sessions a role has on the members of the cluster; "" for none.
func (x *executor) sessionsOf(ctx context.Context, members []inventory.Instance, role string) (string, error) {
	var list []string
	for _, in := range members {
		var n int
		var from string
		err := x.query(ctx, in, `SELECT count(*)::pg_catalog.int4, coalesce(pg_catalog.string_agg(DISTINCT coalesce(nullif(application_name, ''), 'no application_name') || ' from ' || coalesce(client_addr::pg_catalog.text, 'the host itself'), ', '), '')
			FROM pg_catalog.pg_stat_activity WHERE usename OPERATOR(pg_catalog.=) `+postgres.QuoteLiteral(role), &n, &from)
		if err != nil {
			return "", err
		}
		if n > 0 {
			list = append(list, fmt.Sprintf("%d on %s (%s)", n, in.ID(), from))
		}
	}
	return strings.Join(list, "; "), nil
}

// endSessions ends a role's sessions until there are none, for so long at most: a
// standby lets the role in until it has replayed that its password was taken.
func (x *executor) endSessions(ctx context.Context, members []inventory.Instance, role string, wait time.Duration) error {
	ended := 0
	defer func() {
		if ended > 0 {
			x.noted(fmt.Sprintf("sessions of %s that were ended: %d", role, ended))
		}
	}()
	deadline := time.Now().Add(wait)
	for {
		for _, in := range members {
			var n int
			err := x.query(ctx, in, `SELECT count(pg_catalog.pg_terminate_backend(pid))::pg_catalog.int4 FROM pg_catalog.pg_stat_activity
				WHERE usename OPERATOR(pg_catalog.=) `+postgres.QuoteLiteral(role), &n)
			if err != nil {
				return fmt.Errorf("the sessions of %s on %s could not be ended: %w", role, in.ID(), err)
			}
			ended += n
		}
		if err := x.sleep(ctx, replayEvery, "ending sessions of "+role); err != nil {
			return err
		}
		who, err := x.sessionsOf(ctx, members, role)
		switch {
		case err != nil:
			return fmt.Errorf("%s has no password any more; whether it still has sessions is not known: %w", role, err)
		case who == "":
			return nil
		case !time.Now().Before(deadline):
			x.noted(fmt.Sprintf("%s has no password any more, and still has sessions after %v, so that it is let in without one, or a standby does not replay: %s", role, wait, who))
			return nil
		}
		if err := x.sleep(ctx, readyEvery, "waiting for sessions of "+role+" to end: "+who); err != nil {
			return err
		}
	}
}
