package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// Stores are the secret stores that can be written to.
type Stores interface {
	WritableStore(name string) (secrets.WritableStore, error)
}

// A rotation is what the steps of one rotation hand on to each other, and what has
// to be put back when one of them fails.
type rotation struct {
	version string // of the secret, that was written as pending
	// Of a password that was changed in place:
	set     *tasks.SetVerifier
	before  secrets.Secret       // the verifier that the server had
	altered time.Time            // when the new one counted; zero if nothing is to be put back
	given   []inventory.Instance // standbys that have the new password
	old     secrets.Ref          // of the password that they had
	// promoted is when the new password was published.
	promoted time.Time
}

// rotate carries out a step of a rotation. When one fails between the change of a
// password in place and its publication, the old verifier comes back: the store
// still gives the old password to everybody.
func (x *executor) rotate(ctx context.Context, a tasks.Action) error {
	if _, proof := a.(tasks.ProvePassword); !proof {
		x.begun = true
	}
	err := x.rotateOne(ctx, a)
	switch {
	case err == nil, leaseLost(err), errors.Is(err, errPublished):
		return err
	case afterPublication(a):
		return fmt.Errorf("%w; the new password is published, and the next pgfleet rotate does what is left", err)
	case x.rotation.altered.IsZero():
		return fmt.Errorf("%w; nothing was published, and the next pgfleet rotate finds out how far it came", err)
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTimeout)
	defer cancel()
	set := x.rotation.set
	problem := x.putPasswordBack(back)
	switch {
	case problem != nil && set.Back:
		return fmt.Errorf("%w; the server has the password that it was to go back to, the store did not publish it, and putting the other one back failed: %w; pgfleet rotate --status says where it stands", err, problem)
	case problem != nil:
		return fmt.Errorf("%w; the server has the new password, which is pending in the store, and putting the old one back failed: %w; pgfleet rotate goes on from there", err, problem)
	case set.Back:
		return fmt.Errorf("%w; the role has the password again that it had before, and the secret is as it was", err)
	}
	return fmt.Errorf("%w; the role has its old password again, and the new one stays pending: pgfleet rotate goes on with it", err)
}

// afterPublication reports whether a step comes after the publication.
func afterPublication(a tasks.Action) bool {
	switch a.(type) {
	case tasks.Told, tasks.TellUnit, tasks.TellUserlist, tasks.TellPassfile, tasks.Retire:
		return true
	}
	return false
}

func (x *executor) rotateOne(ctx context.Context, a tasks.Action) error {
	switch a := a.(type) {
	case tasks.PutPassword:
		return x.putPassword(ctx, a)
	case tasks.SetVerifier:
		return x.setVerifier(ctx, a)
	case tasks.GiveStandbys:
		return x.giveStandbys(ctx, a)
	case tasks.ProvePassword:
		return x.provePassword(ctx, a)
	case tasks.Promote:
		return x.promote(ctx, a)
	case tasks.Told:
		return x.must(ctx, transport.Command{Script: "rm -f -- " + transport.Quote(a.Owed), User: "root"})
	case tasks.TellUnit:
		return x.onHosts(ctx, a.Hosts, func(y *executor) error {
			return y.setUnit(ctx, tasks.SetUnit{Name: a.Unit, Reload: a.Verb == "reload", Restart: a.Verb == "restart"})
		})
	case tasks.TellUserlist:
		return x.tellUserlist(ctx, a)
	case tasks.TellPassfile:
		return x.tellPassfile(ctx, a)
	case tasks.Retire:
		return x.retire(ctx, a)
	}
	return fmt.Errorf("an action of type %T does not stand alone", a)
}

// putPassword makes a password and has the store keep it as pending.
func (x *executor) putPassword(ctx context.Context, a tasks.PutPassword) error {
	if err := x.stillOurs(ctx); err != nil {
		return err
	}
	store, err := x.run.Stores.WritableStore(a.Secret.Store)
	if err != nil {
		return err
	}
	password := secrets.NewPassword(a.Length, a.Alphabet)
	if x.run.Redactor != nil {
		x.run.Redactor.Add(password) // also where the store fails and says what it was given
	}
	c := secrets.Change{Set: map[string]secrets.Secret{a.Secret.Key: password}, IfCurrent: a.IfCurrent, Replace: a.Replace}
	if a.User != "" {
		c.Set["username"] = secrets.NewString(a.User)
	}
	id, err := store.Put(ctx, a.Secret.Path, c)
	if err != nil {
		return fmt.Errorf("%w; nothing was given to the server", err)
	}
	// What the store has is what counts, from here on.
	entry, err := store.Get(ctx, a.Secret.Path, id)
	if err != nil {
		return err
	}
	kept, err := entry.Value(a.Secret.Key)
	if err != nil {
		return err
	}
	if !kept.Equal(password) {
		return fmt.Errorf("the store gave another password back than the one that it was given, as version %s", id)
	}
	x.run.learn(a.Secret.At("pending"), kept)
	x.rotation.version = id
	return nil
}

// stillOurs makes sure that the lease is this run's before something is done that
// no host looks at.
func (x *executor) stillOurs(ctx context.Context) error {
	return x.must(ctx, transport.Command{Script: ":"})
}

// learn takes over a secret's value, which output is searched for from now on.
func (r *Run) learn(ref secrets.Ref, value secrets.Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vault == nil {
		r.vault = map[secrets.Ref]secrets.Secret{}
	}
	r.vault[ref] = value
	if r.Redactor != nil {
		r.Redactor.Add(value)
	}
}

// session opens one on the server, over its own socket.
func (x *executor) session(ctx context.Context, at tasks.Server) (*pgx.Conn, error) {
	return x.conn.Postgres(ctx, transport.Endpoint{SocketDir: at.SocketDir, Port: at.Port})
}

func (x *executor) transaction(ctx context.Context, conn *pgx.Conn) *transaction {
	return &transaction{conn: conn, reveal: x.run.reveal, fence: x.run.fence(x.instance.Host), lost: func() error { return x.lost(ctx) }}
}

// storedVerifier returns what the server has stored of a role; the zero Secret is no
// password.
func storedVerifier(ctx context.Context, conn *pgx.Conn, role string) (secrets.Secret, error) {
	var stored string
	err := conn.QueryRow(ctx, "SELECT coalesce(rolpassword, '') FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) "+postgres.QuoteLiteral(role),
		pgx.QueryExecModeSimpleProtocol).Scan(&stored)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return secrets.Secret{}, fmt.Errorf("there is no role %q any more", role)
	case err != nil, stored == "":
		return secrets.Secret{}, err
	}
	return secrets.NewString(stored), nil
}

// setVerifier stores the password's verifier, if the server still has what it had
// while planning.
func (x *executor) setVerifier(ctx context.Context, a tasks.SetVerifier) error {
	conn, err := x.session(ctx, a.Server)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	stored, err := storedVerifier(ctx, conn, a.Role)
	if err != nil {
		return because(ctx, err)
	}
	if !stored.Equal(a.Was) {
		return fmt.Errorf("the password of %s was %w", a.Role, errDrifted)
	}
	if err := x.onlyStandbys(ctx, conn, a); err != nil {
		return err
	}
	if a.PutBack {
		// Noted before: whether a COMMIT went through may never be known here.
		x.rotation.set, x.rotation.before, x.rotation.altered = &a, stored, time.Now()
	}
	return x.transaction(ctx, conn).run(ctx, []catalog.Statement{catalog.SetPassword{Role: a.Role, Secret: a.Password}})
}

// putPasswordBack gives a role the verifier that it had, and its standbys the
// password.
func (x *executor) putPasswordBack(ctx context.Context) error {
	r := x.rotation
	conn, err := x.session(ctx, r.set.Server)
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	t := x.transaction(ctx, conn)
	old := catalog.SetPassword{Role: r.set.Role, None: r.before.IsEmpty()}
	if !old.None {
		t.stored = &r.before
	}
	if err := t.run(ctx, []catalog.Statement{old}); err != nil {
		return err
	}
	r.altered = time.Time{}
	password, ok := x.run.reveal(r.old)
	if len(r.given) > 0 && !ok {
		return fmt.Errorf("the role has its old password again, and %s the new one to stream with: nobody here knows the old one", instanceNames(r.given))
	}
	for _, s := range r.given {
		st, err := x.streamer(ctx, s)
		if err == nil {
			err = x.giveStandby(ctx, st, r.set.Role, password)
		}
		if err != nil {
			return fmt.Errorf("the standby %s: %w", s.ID(), err)
		}
	}
	return x.streamAgain(ctx, r.given, nil)
}

func instanceNames(list []inventory.Instance) string {
	var ids []inventory.InstanceID
	for _, in := range list {
		ids = append(ids, in.ID())
	}
	return joinIDs(ids)
}

// provePassword logs in everywhere: first on the primary, then on its standbys.
func (x *executor) provePassword(ctx context.Context, a tasks.ProvePassword) error {
	x.phase("logging in on " + string(x.instance.ID()))
	if err := x.proveOne(ctx, a, x.instance); err != nil {
		return err
	}
	for _, s := range x.peers.standbys {
		y, err := x.at(ctx, s)
		if err != nil {
			return fmt.Errorf("the standby %s: %w", s.ID(), err)
		}
		if err := y.replayed(ctx, x.instance); err != nil {
			return fmt.Errorf("the standby %s: %w", s.ID(), err)
		}
		x.phase("logging in on " + string(s.ID()))
		if err := y.proveOne(ctx, a, s); err != nil {
			return fmt.Errorf("the standby %s: %w", s.ID(), err)
		}
	}
	return nil
}

// proveOne logs in on one server. A server that cannot be reached is tried again; one
// that refuses has given its answer.
func (x *executor) proveOne(ctx context.Context, a tasks.ProvePassword, in inventory.Instance) error {
	login, ok := a.Logins[in.ID()]
	if !ok {
		return fmt.Errorf("the rotation is not for %s: let its limit in fleet.toml mean the whole cluster", in.ID())
	}
	deadline := time.Now().Add(login.Timeout)
	for {
		err := x.login(ctx, login)
		if err != nil && strings.Contains(err.Error(), "pg_hba.conf") {
			return fmt.Errorf("%w; the login has to come from where the rules let %s in: verify_from in [[rotation]] names a host there", err, login.Role)
		}
		refused := (*refusedError)(nil)
		if err == nil || errors.As(err, &refused) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(replayEvery):
		case <-ctx.Done():
		}
	}
}

// at is an executor for another instance of the fleet.
func (x *executor) at(ctx context.Context, in inventory.Instance) (*executor, error) {
	conn, err := x.run.Conn(ctx, in.Host)
	if err != nil {
		return nil, err
	}
	y := *x
	y.conn, y.instance = conn, in
	return &y, nil
}

// onHosts does the same on hosts of the fleet, one after the other.
func (x *executor) onHosts(ctx context.Context, hosts []string, do func(*executor) error) error {
	for _, name := range hosts {
		h := x.run.Fleet.Host(name)
		if h == nil {
			return fmt.Errorf("no host %q", name)
		}
		x.phase("on " + name)
		y, err := x.at(ctx, inventory.Instance{Host: h})
		if err == nil {
			err = do(y)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// refusedError is a server's refusal of a login, or ours of its certificate, which
// trying again does not change.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// refusal reports whether a server's error is its answer to who logs in: class 28 is
// invalid authorization, 42501 and 3D000 are a database that is closed to the role
// or is not there (manual, appendix A).
func refusal(pg *pgconn.PgError) bool {
	return strings.HasPrefix(pg.Code, "28") || slices.Contains([]string{"42501", "3D000"}, pg.Code)
}

// rotationSecrets returns what a step of a rotation needs to know that no step
// before it makes.
func rotationSecrets(a tasks.Action) []secrets.Ref {
	var refs []secrets.Ref
	add := func(list ...secrets.Ref) {
		for _, ref := range list {
			if ref.Version != "pending" && ref != (secrets.Ref{}) {
				refs = append(refs, ref)
			}
		}
	}
	switch a := a.(type) {
	case tasks.SetVerifier:
		add(a.Password)
	case tasks.GiveStandbys:
		add(a.Password, a.Old)
	case tasks.ProvePassword:
		for _, l := range a.Logins {
			add(l.Password)
		}
	case tasks.TellPassfile:
		add(a.Password)
	}
	return refs
}
