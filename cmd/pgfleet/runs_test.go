package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pgfleet/pgfleet/internal/journal"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// writeJournal is a command of scripts: journal OUTCOME FLEET writes the journal
// of a run that ended so, and puts its ID into $RUN.
func writeJournal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: journal died|running|done|damaged FLEET")
	}
	folder, err := journal.In(func(name string) (string, bool) { return ts.Getenv(name), true })
	ts.Check(err)
	d, err := secrets.LoadDigester(filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "pgfleet", "digest.key"))
	ts.Check(err)
	file := ts.MkAbs(args[1])
	fleet, err := inventory.Load(file, inventory.Options{})
	ts.Check(err)
	digest, err := fleetDigest(fleet, d)
	ts.Check(err)
	started := journal.Started{
		Pgfleet: "test", Command: "apply", Who: "ops@laptop", PID: 4711, Fleet: "prod", File: file, FileDigest: digest,
		Tags: []string{"log"}, Key: keyOf(d), Instances: []inventory.InstanceID{"pg01", "pg02", "pg03"},
	}
	w, err := folder.Create(func(s string) string { return s }, started)
	ts.Check(err)
	ts.Setenv("RUN", w.Run())
	r := &journal.Recorder{Writer: w, Digester: d}
	for _, id := range started.Instances {
		change := rollout.SavedChange{Key: "file:/etc/a", Intent: "change /etc/a", Before: "hmac:0123456789abcdef", After: "hmac:ba9876543210fedc"}
		ts.Check(w.Append(journal.InstancePlanned, rollout.SavedInstance{Instance: id, Steps: []rollout.SavedStep{{Tasks: []string{"Log"}, Changes: []rollout.SavedChange{change}}}}))
	}
	record := func(kind rollout.EventKind, id inventory.InstanceID, result *rollout.Result) {
		e := rollout.Event{Kind: kind, Instance: id, Step: 1, Steps: 1, Text: "Log", Result: result}
		if result != nil {
			e.Err = result.Err
		}
		ts.Check(r.Record(e))
	}
	record(rollout.StepStarted, "pg01", nil)
	record(rollout.StepStarted, "pg02", nil)
	record(rollout.StepDone, "pg01", nil)
	record(rollout.InstanceDone, "pg01", &rollout.Result{Instance: "pg01", Status: rollout.Changed, Steps: 1, Done: 1, Changes: 1, Down: 400 * time.Millisecond})
	if args[0] == "done" {
		for _, id := range started.Instances[1:] {
			record(rollout.InstanceDone, id, &rollout.Result{Instance: id, Status: rollout.Unchanged})
		}
		ts.Check(r.Finish([]rollout.Result{{Status: rollout.Changed, Changes: 1}}, nil, 0))
	} else {
		record(rollout.InstanceDone, "pg03", &rollout.Result{Instance: "pg03", Status: rollout.Unreachable, Err: errors.New("connect: refused")})
	}
	if args[0] == "running" {
		ts.Defer(func() { w.Close() })
		return
	}
	ts.Check(w.Close())
	if args[0] == "damaged" {
		path := filepath.Join(string(folder), w.Run()+".jsonl")
		text, err := os.ReadFile(path)
		ts.Check(err)
		ts.Check(os.WriteFile(path, bytes.Replace(text, []byte(`"instance":"pg02"`), []byte(`"instance":"pg09"`), 1), 0o600))
	}
}
