package rollout

import (
	"errors"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/awsstore"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest/awsserver"
	"github.com/pgfleet/pgfleet/tasks"
)

// A pending password is published although somebody has changed another key of the
// secret meanwhile, which stays; what is not pending is not.
func TestPromoteBesideAnotherKey(t *testing.T) {
	server := awsserver.New(t)
	for name, v := range server.Env() {
		t.Setenv(name, v)
	}
	store := awsstore.New(awsstore.Config{Region: awsserver.Region, Endpoint: server.URL, RetryWait: time.Millisecond})
	server.Write("app", `{"password":"p1","username":"app_a","port":5432}`)
	id, err := store.Put(t.Context(), "app", secrets.Change{Set: map[string]secrets.Secret{"password": secrets.NewString("p2"), "username": secrets.NewString("app_b")}})
	if err != nil {
		t.Fatal(err)
	}
	server.Write("app", `{"password":"p1","username":"app_a","port":6432}`)
	current, err := store.Get(t.Context(), "app", string(secrets.Current))
	if err != nil {
		t.Fatal(err)
	}
	a := tasks.Promote{Secret: secrets.Ref{Store: "aws", Path: "app", Key: "password"}, IfCurrent: current.ID}
	err = store.Promote(t.Context(), "app", id)
	if !errors.Is(err, secrets.ErrConflict) {
		t.Fatalf("promoted as it is: %v", err)
	}
	anew, err := promoteAnew(t.Context(), store, a, id, err)
	if err != nil || anew == id {
		t.Fatalf("%s, %v", anew, err)
	}
	if text, _ := server.Read("app"); text != `{"password":"p2","port":6432,"username":"app_b"}` {
		t.Error("what readers get is not the new password beside the changed key")
	}
	if _, err := promoteAnew(t.Context(), store, a, current.ID, secrets.ErrConflict); !errors.Is(err, secrets.ErrConflict) {
		t.Errorf("a version that is not pending: %v", err)
	}
}
