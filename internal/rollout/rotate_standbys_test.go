package rollout

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

func standbyAt(t *testing.T, name, address, application string, receiver int, info string) streamer {
	t.Helper()
	c, err := postgres.ParseConninfo(info)
	if err != nil {
		t.Fatal(err)
	}
	return streamer{Instance: inventory.Instance{Host: &inventory.Host{Name: name, Address: address}, Name: "main"}, info: c, name: application, receiver: receiver, file: "/x/postgresql.auto.conf"}
}

func TestStrangers(t *testing.T) {
	standbys := []streamer{standbyAt(t, "pg02", "10.0.0.2", "17/main", 7, ""), standbyAt(t, "pg03", "pg03.example", "17/main", 8, "")}
	row := func(name, addr, state string) walsender { return walsender{Name: name, Addr: addr, State: state} }
	pg02, pg03 := row("17/main", "10.0.0.2", "streaming"), row("17/main", "192.168.0.3", "streaming")
	for name, c := range map[string]struct {
		rows   []walsender
		wanted string
	}{
		"none":                  {nil, ""},
		"both":                  {[]walsender{pg03, pg02}, ""},
		"one that is not ended": {[]walsender{pg02, pg02, pg03}, ""},
		"another one":           {[]walsender{pg02, pg03, row("17/main", "10.0.0.9", "streaming")}, "10.0.0.9"},
		"a copy from a standby": {[]walsender{pg02, row("pg_receivewal", "10.0.0.2", "streaming")}, "pg_receivewal from 10.0.0.2"},
		"a base backup":         {[]walsender{row("17/main", "10.0.0.2", "backup")}, "10.0.0.2"},
		"a subscription":        {[]walsender{{Name: "17/main", Addr: "10.0.0.2", Database: "shop"}}, "logical replication of shop"},
	} {
		var names []string
		for _, w := range strangers(c.rows, standbys) {
			names = append(names, w.String())
		}
		if len(names) > 1 || (len(names) == 0) != (c.wanted == "") || !strings.Contains(strings.Join(names, ";"), c.wanted) {
			t.Errorf("%s: %q, want %q", name, names, c.wanted)
		}
	}
	standbys[1].receiver = 0 // it has no stream, so this is somebody else's
	if left := strangers([]walsender{pg02, pg03}, standbys); len(left) != 1 || left[0] != pg03 {
		t.Errorf("%v", left)
	}
}

func TestStreamer(t *testing.T) {
	for info, c := range map[string]struct {
		role       string
		as         bool
		rewritable string
	}{
		"user=r host=a": {"r", true, ""},
		"host=a":        {"postgres", true, ""},
		"":              {"postgres", false, ""},
		"user=r host=a passfile=/x sslpassword=abc": {"r", true, ""},
		"user=r host=a password=abc":                {"r", true, ""},
		"user=r password=abc sslpassword=def":       {"r", true, "beside sslpassword"},
	} {
		st := standbyAt(t, "pg02", "10.0.0.2", "", 0, info)
		if why := st.rewritable(); st.as(c.role) != c.as || (why == "") != (c.rewritable == "") || !strings.Contains(why, c.rewritable) || strings.Contains(why, "def") {
			t.Errorf("%s: %v, %q", info, st.as(c.role), why)
		}
	}
}

func TestPassfileServers(t *testing.T) {
	members := []tasks.Member{{Host: "pg01", Addresses: []string{"db", "10.0.0.1", "pg01"}, Port: 5432}, {Host: "pg02", Addresses: []string{"10.0.0.2", "10.0.0.2", "pg02"}, Port: 5433}}
	for on, wanted := range map[string]string{
		"app":  "db:5432, 10.0.0.1:5432, pg01:5432, 10.0.0.2:5433, pg02:5433",
		"pg02": "db:5432, 10.0.0.1:5432, pg01:5432, 10.0.0.2:5433, pg02:5433, localhost:5433, 127.0.0.1:5433, ::1:5433",
	} {
		if got := serverList(passfileServers(members, on)); got != wanted {
			t.Errorf("on %s: %s", on, got)
		}
	}
}

// What one rotation may have to put back is nothing to the next one of an instance.
func TestRotationsOfAnInstanceAreApart(t *testing.T) {
	one, two := &tasks.Bound{}, &tasks.Bound{}
	var steps []tasks.Step
	for _, task := range []*tasks.Bound{one, one, two} {
		steps = append(steps, tasks.Step{Tasks: []*tasks.Bound{task}, Changes: []tasks.Change{{Action: tasks.Told{}}}})
	}
	w := &instanceRun{known: Known{Plan: &tasks.Plan{Steps: steps}}}
	w.executor(0).rotation.altered = time.Now()
	if w.executor(1).rotation.altered.IsZero() {
		t.Error("a rotation forgets between its steps what it has to put back")
	}
	if !w.executor(2).rotation.altered.IsZero() {
		t.Error("a rotation puts back what an earlier one has changed")
	}
}

// A certificate that does not verify, and a CA without one, are final.
func TestProofThatNothingChanges(t *testing.T) {
	password := secrets.Ref{Store: "age", Path: "a", Key: "password"}
	x := &executor{run: &Run{}}
	x.run.learn(password, secrets.NewString("not to be seen"))
	in := inventory.Instance{Host: &inventory.Host{Name: "pg01"}, Name: "main"}
	began := time.Now()
	err := x.proveOne(t.Context(), tasks.ProvePassword{Logins: map[inventory.InstanceID]tasks.Login{in.ID(): {Password: password, CA: []byte("none"), Timeout: 15 * time.Second}}}, in)
	if err == nil || !strings.Contains(err.Error(), "ca holds no certificate") || time.Since(began) > 5*time.Second {
		t.Errorf("%v, after %v", err, time.Since(began))
	}
	if certificateProblem(errors.New("connection refused")) || !certificateProblem(x509.UnknownAuthorityError{}) || !certificateProblem(x509.HostnameError{}) {
		t.Error("what is final about certificates")
	}
}
