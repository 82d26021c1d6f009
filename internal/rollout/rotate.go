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

// errPublished is wrapped where the new password is, or may be, published, so that
// the old one must not come back.
var errPublished = errors.New("whether it is published is not known")

// settleTime is how long a store is asked again what it has done.
const settleTime = 30 * time.Second

// promote publishes the new password. When the store does not say whether it has
// done it, it is asked what is current until it answers.
func (x *executor) promote(ctx context.Context, a tasks.Promote) error {
	store, err := x.run.Stores.WritableStore(a.Secret.Store)
	if err != nil {
		return err
	}
	id := a.Secret.Version
	if id == "pending" {
		id = x.rotation.version
	}
	switch now, err := store.Get(ctx, a.Secret.Path, string(secrets.Current)); {
	case errors.Is(err, secrets.ErrNotFound) && a.IfCurrent == secrets.NoVersion:
	case err != nil:
		return err
	case now.ID != a.IfCurrent && now.ID != id:
		return fmt.Errorf("the secret %s: %w: version %s is current, and %s was when the rotation was planned",
			a.Secret.At(id), secrets.ErrConflict, now.ID, a.IfCurrent)
	}
	// Last of all, so that as little as can be is between this and the publication.
	if err := x.note(ctx, a.Owed); err != nil {
		return err
	}
	err = store.Promote(ctx, a.Secret.Path, id)
	if errors.Is(err, secrets.ErrConflict) {
		id, err = promoteAnew(ctx, store, a, id, err)
	}
	if err != nil {
		err = x.settled(ctx, store, a.Secret.Path, id, err)
	}
	if err != nil {
		return err
	}
	x.rotation.promoted = time.Now()
	if r := x.rotation; !r.altered.IsZero() {
		if !r.before.IsEmpty() {
			x.noted(fmt.Sprintf("the old password of %s was refused for %d ms before the new one was published", r.set.Role, r.promoted.Sub(r.altered).Milliseconds()))
		}
		r.altered = time.Time{} // from here on there is nothing to put back
	}
	return nil
}

// promoteAnew publishes a pending password that the store does not publish because
// somebody has changed another key of the secret since it was written: it is written
// once more, beside the keys as they are now. That the current version is the one
// which the rotation was planned with was seen before.
func promoteAnew(ctx context.Context, store secrets.WritableStore, a tasks.Promote, id string, conflict error) (string, error) {
	pending, err := store.Get(ctx, a.Secret.Path, id)
	if err != nil || pending.Stage != secrets.Pending {
		return id, conflict
	}
	c := secrets.Change{Set: map[string]secrets.Secret{}, IfCurrent: a.IfCurrent, Replace: true}
	for _, key := range []string{a.Secret.Key, tasks.UsernameKey} {
		if v, ok := pending.Keys[key]; ok {
			c.Set[key] = v
		}
	}
	anew, err := store.Put(ctx, a.Secret.Path, c)
	if err != nil {
		return id, errors.Join(conflict, err)
	}
	return anew, store.Promote(ctx, a.Secret.Path, anew)
}

// note leaves files on the host that say what is still to be done, and makes sure
// that the lease is this run's.
func (x *executor) note(ctx context.Context, files []string) error {
	if len(files) == 0 {
		return x.stillOurs(ctx)
	}
	script := "mkdir -p /var/lib/pgfleet"
	for _, f := range files {
		script += " && : > " + transport.Quote(f) + " && sync -- " + transport.Quote(f)
	}
	return x.must(ctx, transport.Command{Script: script + " && sync -- /var/lib/pgfleet", User: "root"})
}

// settled finds out whether a version is current though the store failed to make it
// so: nil if it is.
func (x *executor) settled(ctx context.Context, store secrets.WritableStore, path, id string, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	for {
		now, err := store.Get(ctx, path, string(secrets.Current))
		switch {
		case err == nil && now.ID == id:
			return nil
		case err == nil, errors.Is(err, secrets.ErrNotFound):
			return failed
		}
		x.phase("waiting for the secret store: " + err.Error())
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("%w; for %v the store did not say which version is current, so %w; pgfleet rotate goes on once it answers", failed, settleTime, errPublished)
		}
	}
}

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
