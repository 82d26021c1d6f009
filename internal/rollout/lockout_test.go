package rollout

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// losing is a survey that found lock-outs on pg01.
func losing(t *testing.T) []Known {
	known := savedKnown(t)
	known[0].Plan.Lockouts = []tasks.Lockout{
		{Task: "Who", Who: "app@10.0.0.1", Subject: "app in app from 10.0.0.1", Sessions: 3, Why: "no rule matches", Pos: inventory.Position{File: "fleet.toml", Line: 7, Column: 1}},
		{Task: "Who", Who: "pgfleet", Subject: "pgfleet itself", Why: "no rule matches"},
		{Task: "Role", Who: "o'dd user@local", Subject: "o'dd user in app from the local socket", Sessions: 1, Why: "the role becomes NOLOGIN"},
	}
	return known
}

func TestRefuseLockouts(t *testing.T) {
	for _, c := range []struct {
		allow []string
		want  string
	}{
		{nil, `Who (fleet.toml:7:1): would lose access: app in app from 10.0.0.1 (3 sessions now): no rule matches
Who: would lose access: pgfleet itself: no rule matches
Role: would lose access: o'dd user in app from the local socket (1 session now): the role becomes NOLOGIN
nothing was changed; if that is meant, add --allow-lockout app@10.0.0.1 --allow-lockout pgfleet --allow-lockout 'o'\''dd user@local'`},
		{[]string{"app@10.0.0.1", "o'dd user@local"}, "Who: would lose access: pgfleet itself: no rule matches\nnothing was changed; if that is meant, add --allow-lockout pgfleet"},
		{[]string{"app@10.0.0.1", "pgfleet", "o'dd user@local", "nobody"}, ""},
		{[]string{"all"}, ""},
	} {
		known := losing(t)
		(&Run{AllowLockout: c.allow}).RefuseLockouts(known)
		var refused *LockoutError
		if c.want == "" != (known[0].Err == nil) || c.want != "" && (!errors.As(known[0].Err, &refused) || refused.Error() != c.want) {
			t.Errorf("%q: %v\nwant %s", c.allow, known[0].Err, c.want)
		}
		if known[1].Err.Error() != "connect: refused" {
			t.Errorf("the other instance: %v", known[1].Err)
		}
	}
}

func TestApplyRefusesLockouts(t *testing.T) {
	known := losing(t)
	results, _ := (&Run{Fleet: new(inventory.Fleet)}).Apply(t.Context(), nil, known)
	if r := results[0]; r.Status != Refused || r.Done > 0 || !strings.Contains(r.Err.Error(), "would lose access") {
		t.Errorf("%+v", r)
	}
}

func TestCheckAllowLockout(t *testing.T) {
	for _, c := range []struct {
		allow []string
		known []Known
		want  string
	}{
		{nil, losing(t), ""},
		{[]string{"nobody"}, savedKnown(t), ""},
		{[]string{"nobody", "pgfleet"}, losing(t), ""},
		{[]string{"nobody", "app@10.0.0.2"}, losing(t), "nobody who would lose access is called nobody or app@10.0.0.2; these are: app@10.0.0.1, pgfleet, o'dd user@local"},
	} {
		err := (&Run{AllowLockout: c.allow}).CheckAllowLockout(c.known)
		if c.want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.allow, err, c.want)
		}
	}
}

// Who would lose access now, and would not by the plan that was reviewed, is a
// difference; who would no more is none.
func TestSavedPlanAndLockouts(t *testing.T) {
	d := digester(t, "k")
	saved, err := Save(losing(t), d, same)
	if err != nil {
		t.Fatal(err)
	}
	known := losing(t)
	known[0].Plan.Lockouts = known[0].Plan.Lockouts[1:]
	if err := saved.Hold(known, d, same); err != nil || known[0].Err != nil {
		t.Errorf("%v, %v", err, known[0].Err)
	}
	known = losing(t)
	known[0].Plan.Lockouts = append(known[0].Plan.Lockouts, tasks.Lockout{Who: "reports"})
	if err := saved.Hold(known, d, same); err != nil || known[0].Err == nil || !strings.Contains(known[0].Err.Error(), "now would also lose access: reports") {
		t.Errorf("%v, %v", err, known[0].Err)
	}
}

func TestShutOut(t *testing.T) {
	for problem, want := range map[string]bool{
		`FATAL: no pg_hba.conf entry for host "[local]", user "postgres", database "postgres", no encryption (SQLSTATE 28000)`: true,
		`FATAL: password authentication failed for user "postgres" (SQLSTATE 28P01)`:                                           true,
		`FATAL: the database system is starting up (SQLSTATE 57P03)`:                                                           false,
		"connection refused": false,
	} {
		if got := shutOut(facts.Server{Problem: problem}); got != want {
			t.Errorf("%s: %t", problem, got)
		}
	}
}
