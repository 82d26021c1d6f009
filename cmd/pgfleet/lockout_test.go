package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/tasks"
)

// Who would lose access has its own lines in a plan, with the flag that allows
// it, and its own list in JSON.
func TestShowLockouts(t *testing.T) {
	fleet := testFleet(t, 2)
	var known []rollout.Known
	for _, in := range fleet.Instances() {
		known = append(known, rollout.Known{Instance: in, Plan: &tasks.Plan{Instance: in, Steps: []tasks.Step{step("Who may connect", write("/etc/postgresql/15/main/pg_hba.conf", "a\n", "b\n"))}}})
	}
	app := tasks.Lockout{Task: "Who may connect", Who: "app@10.0.0.1", Subject: "app in app from 10.0.0.1", Sessions: 3, Why: "no rule matches"}
	known[0].Plan.Lockouts = []tasks.Lockout{app, {Who: "pgfleet", Subject: "pgfleet itself", Why: "no rule matches"}}
	known[1].Plan.Lockouts = []tasks.Lockout{app}
	got := renderPlans(known, newStyle(false), false)
	want := `  would lose access: app in app from 10.0.0.1 (3 sessions now): no rule matches; to go on: --allow-lockout app@10.0.0.1
  would lose access: pgfleet itself: no rule matches; to go on: --allow-lockout pgfleet  [pg01]
`
	if !strings.HasSuffix(got, want) {
		t.Errorf("%s\nwant at its end:\n%s", got, want)
	}
	text, err := json.Marshal(planJSON(fleet, known).Instances[0].Lockouts)
	if err != nil {
		t.Fatal(err)
	}
	if want := `[{"who":"app@10.0.0.1","task":"Who may connect","subject":"app in app from 10.0.0.1","sessions":3,"why":"no rule matches"},{"who":"pgfleet","subject":"pgfleet itself","why":"no rule matches"}]`; string(text) != want {
		t.Errorf("%s\nwant %s", text, want)
	}
}
