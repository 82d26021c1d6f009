package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgfleet/pgfleet/internal/journal"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// beginJournal begins the run's journal, unless nothing would run. Where there can
// be none, nothing is changed.
func (x *applying) beginJournal(s *session, known []rollout.Known, digester *secrets.Digester) error {
	if !slices.ContainsFunc(known, somethingRuns) {
		return nil
	}
	folder, err := journal.In(x.app.term.LookupEnv)
	if err != nil {
		return err
	}
	if digester == nil {
		if digester, err = newDigester(); err != nil {
			return err
		}
	}
	plan, err := rollout.Save(known, digester, x.app.mask)
	if err != nil {
		return err
	}
	started, err := x.started(s, known, digester)
	if err != nil {
		return err
	}
	started.Key = plan.Key
	w, err := folder.Create(x.app.mask, started)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	x.began, x.journal = time.Now(), &journal.Recorder{Writer: w, Digester: digester}
	for i, in := range plan.Instances {
		if known[i].Err != nil {
			in = x.held.orElse(in)
		}
		if err := w.Append(journal.InstancePlanned, in); err != nil {
			w.Close() //nolint:errcheck // the error is known
			return fmt.Errorf("%w; nothing was changed", err)
		}
	}
	s.run.Recorder, s.run.ID = x.journal, x.runID()
	x.nameRun(false)
	if err := folder.Prune(journal.Keep); err != nil {
		x.app.ui.Note("old journals could not be removed: " + err.Error())
	}
	return nil
}

// endJournal writes the last record. The error says that records are missing.
func (x *applying) endJournal(results []rollout.Result, early error) error {
	if x.journal == nil {
		return nil
	}
	w := x.journal.Writer
	_ = x.journal.Finish(results, early, time.Since(x.began))
	err := w.Err()
	w.Close() //nolint:errcheck // every record was synced
	return err
}

// nameRun says how to look the run up, if there is a journal of it, and how to go on
// with one that has come to no good end.
func (x *applying) nameRun(unfinished bool) {
	if x.journal == nil {
		return
	}
	text := fmt.Sprintf("run %[1]s: pgfleet runs show %[1]s", x.runID())
	if unfinished && (x.earlier == nil || x.earlier.command != "undo") {
		text += "; to go on with it: pgfleet runs resume " + x.runID()
	}
	if x.asJSON {
		x.app.ui.Note(text)
	} else {
		x.app.ui.Print(text)
	}
}

// runID returns the run's ID; "" if there is no journal of it.
func (x *applying) runID() string {
	if x.journal == nil {
		return ""
	}
	return x.journal.Writer.Run()
}

// A heldPlan is what a run may do at most; nil if nothing was reviewed before.
type heldPlan struct{ *rollout.SavedPlan }

// orElse returns what the plan has for the instance, so that a later run can still
// hold to it where this one does nothing, or in.
func (h *heldPlan) orElse(in rollout.SavedInstance) rollout.SavedInstance {
	if h != nil {
		for _, p := range h.Instances {
			if p.Instance == in.Instance {
				return p
			}
		}
	}
	return in
}

// started says who runs what.
func (x *applying) started(s *session, known []rollout.Known, d *secrets.Digester) (journal.Started, error) {
	file, err := filepath.Abs(s.fleet.Path)
	if err != nil {
		return journal.Started{}, err
	}
	digest, err := fleetDigest(s.fleet, d)
	if err != nil {
		return journal.Started{}, err
	}
	started := journal.Started{
		Pgfleet: version(), Command: "apply", Who: rollout.Operator(), PID: os.Getpid(),
		Fleet: s.fleet.Name, File: file, FileDigest: digest, Limit: x.app.limit, Tags: x.tags,
	}
	if x.rotating != nil {
		started.Command, started.Rotation = "rotate", x.rotating.journal()
	}
	if x.certs != nil {
		started.Command, started.Kinds = x.certs.command, x.certs.meant()
	}
	if x.earlier != nil {
		started.Command, started.Resumes = x.earlier.command, x.earlier.of.ID
		if x.earlier.command != "undo" { // which holds to no plan
			started.Plan = x.earlier.of.Plan
		}
	}
	if x.file != "" {
		if started.Plan, err = reviewedPlan(x.file); err != nil {
			return journal.Started{}, err
		}
	}
	for _, k := range known {
		started.Instances = append(started.Instances, k.Instance.ID())
	}
	for _, in := range x.all {
		if !slices.Contains(started.Instances, in.ID()) {
			started.Beside = append(started.Beside, in.ID())
		}
	}
	return started, nil
}

func reviewedPlan(file string) (*journal.ReviewedPlan, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return &journal.ReviewedPlan{File: path, SHA256: hex.EncodeToString(sum[:])}, nil
}

// fleetDigest recognises what stood in fleet.toml and the files that it includes.
func fleetDigest(fleet *inventory.Fleet, d *secrets.Digester) (string, error) {
	h := sha256.New()
	for _, name := range fleet.Files {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(text)
		h.Write(sum[:])
	}
	return d.DigestSum([sha256.Size]byte(h.Sum(nil))), nil
}
