package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

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
