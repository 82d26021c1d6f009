package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/inventory"
)

func (a *app) backupVerifyCommand() *cobra.Command {
	var restore, asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [NAME[@ID]]",
		Short: "Prove that backups can be read, or restored",
		Long: `Verify takes the newest good set of each instance, or the one with the ID. It compares every file's SHA-256 with the
manifest, decrypts it on this machine, and has pg_restore read every dump to its end, on the host that
verify_on names, or else on the instance's own. No plaintext is written to a disk.

With --restore it makes a scratch cluster on the host that verify_on names, restores roles and databases into it,
and compares rows and checksums of every table with those of the moment of the dump. The scratch
cluster has no network and is removed afterwards, whatever happens.

What it came to is written beside the set, and backup list shows it. Without an ID, verify also fails when backups are not made any more:
when the newest run is not good, its unit has failed or is missing, no timer starts it, or the newest good set is older than max_age.`,
		Example: `  pgfleet backup verify nightly
  pgfleet backup verify nightly --restore -l orders`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backupVerify(cmd.Context(), first(args), restore, asJSON)
		},
	}
	cmd.Flags().BoolVar(&restore, "restore", false, "restore it into a scratch cluster and compare")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what it came to as JSON")
	return cmd
}

type verifyDocument struct {
	Format int         `json:"format"`
	Proofs []proofLine `json:"proofs"`
	Wrong  []wrongLine `json:"wrong,omitempty"`
}

// A wrongLine is something that is wrong with a backup, whatever its sets are good for.
type wrongLine struct {
	Backup   string `json:"backup"`
	Instance string `json:"instance"`
	Message  string `json:"message"`

	instance inventory.InstanceID
}

// A proofLine is what verifying one set came to.
type proofLine struct {
	Backup    string   `json:"backup"`
	Instance  string   `json:"instance"`
	ID        string   `json:"id,omitempty"`
	Level     string   `json:"level,omitempty"`
	OK        bool     `json:"ok"`
	Where     string   `json:"where,omitempty"`
	Version   string   `json:"server_version,omitempty"`
	Bytes     int64    `json:"bytes,omitempty"`
	Databases []string `json:"databases,omitempty"`
	Seconds   float64  `json:"seconds,omitempty"`
	Message   string   `json:"message,omitempty"`
}

func (a *app) backupVerify(ctx context.Context, arg string, restore, asJSON bool) error {
	name, id, err := splitSet(arg)
	if err != nil {
		return err
	}
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	backups, err := backupsNamed(s.fleet, name)
	if err != nil {
		return err
	}
	for _, b := range backups {
		if restore && b.VerifyOn == "" {
			return &inputError{fmt.Errorf("%s: backup %s: --restore needs a host with PostgreSQL for the scratch cluster: name one with verify_on", b.Pos, b.Name)}
		}
	}
	open := map[*inventory.Backup][]age.Identity{}
	for _, b := range backups { // before any host is asked
		if open[b], err = a.identities(ctx, s.fleet, b); err != nil {
			return err
		}
	}
	began := time.Now()
	all := a.holdings(ctx, s, backups)
	holdings := haveSets(all)
	var lines []proofLine
	var failed []failure
	for i := range holdings { // one after the other: the host that restores has enough to do with one
		h := &holdings[i]
		line, err := a.verifyOne(ctx, s, h, open[h.backup], id, restore)
		if err != nil {
			failed = append(failed, failure{h.instance, err})
			line.Message = err.Error()
		}
		lines = append(lines, line)
		if !asJSON && line.OK {
			a.ui.Print(verifyText(line))
		}
		if ctx.Err() != nil {
			break
		}
	}
	var wrong []wrongLine
	if id == "" && ctx.Err() == nil {
		wrong = s.wrong(ctx, all, began)
		for _, w := range wrong {
			failed = append(failed, failure{w.instance, errors.New(w.Backup + ": " + w.Message)})
		}
	}
	if asJSON {
		if err := a.ui.JSON(verifyDocument{jsonFormat, lines, wrong}); err != nil {
			return err
		}
	}
	return a.failures(failed)
}

func verifyText(l proofLine) string {
	what := "read whole on " + l.Where
	if l.Level == backup.LevelRestore {
		what = "restored on " + l.Where + " (PostgreSQL " + l.Version + ")"
	}
	return clean(fmt.Sprintf("%s of %s: %s %s; %s, %s, %s", l.Backup, l.Instance, l.ID, what, count(len(l.Databases), "database", "databases"), bytesText(l.Bytes),
		seconds(time.Duration(l.Seconds*float64(time.Second)))))
}

// withSets returns the holdings of backups, but those of instances without a set where another member of the
// cluster has some.
func (a *app) withSets(ctx context.Context, s *session, backups []*inventory.Backup) []holding {
	return haveSets(a.holdings(ctx, s, backups))
}

func haveSets(all []holding) []holding {
	return slices.DeleteFunc(slices.Clone(all), func(h holding) bool {
		if h.err != nil || len(h.sets) > 0 || h.in == nil || h.in.Replication == "" {
			return false
		}
		return slices.ContainsFunc(all, func(o holding) bool {
			return o.backup == h.backup && o.in != nil && o.in.Replication == h.in.Replication && len(o.sets) > 0
		})
	})
}

func (a *app) verifyOne(ctx context.Context, s *session, h *holding, ids []age.Identity, id string, restore bool) (proofLine, error) {
	line := proofLine{Backup: h.backup.Name, Instance: string(h.instance), Level: backup.LevelRead}
	if restore {
		line.Level = backup.LevelRestore
	}
	set, err := h.newestGood(id)
	if errors.Is(err, errNoSets) {
		err = fmt.Errorf("there is no set of it in %s: pgfleet backup run %s", h.target, h.backup.Name)
	}
	if err != nil {
		return line, err
	}
	line.ID, line.Bytes, line.Databases = set.ID, set.Manifest.Bytes(), set.Manifest.Databases()
	p := newByteProgress(a.ui, "verifying", []string{string(h.instance)})
	p.Start()
	defer p.Stop()
	work := p.Begin(h.name(), 0)
	r := &backup.Reader{Target: h.target, Set: set, Identities: ids, Read: &work.bytes}
	work.Tell("connecting")
	at, err := s.readingPlace(ctx, h, set)
	line.Where = at.Host
	began := time.Now()
	if err == nil {
		if restore {
			line.Version, err = r.VerifyRestore(ctx, at, work.Tell)
		} else {
			err = r.Verify(ctx, at, work.Tell)
		}
	}
	line.Seconds = time.Since(began).Seconds()
	work.End(err)
	if ctx.Err() != nil {
		return line, errors.Join(errInterrupted, leftOnly(err))
	}
	if err != nil && !saysOfSet(err) {
		return line, err // it says nothing about the set
	}
	proof := &backup.Proof{
		Version: 1, At: time.Now().UTC(), By: whoIsThis(), Level: line.Level, OK: err == nil, Where: at.Host, ServerVersion: line.Version, ManifestSHA256: set.ManifestSHA256,
	}
	if err != nil {
		proof.Message = err.Error()
	}
	line.OK = err == nil
	if !takesPlace(proof, set.Proven()) {
		return line, err
	}
	if e := backup.PutProof(ctx, h.target, set, proof); e != nil {
		line.OK = false
		return line, errors.Join(err, fmt.Errorf("what it came to could not be written: %w", e))
	}
	set.Proof = proof
	return line, err
}

// wrong says what is wrong with backups beside what verifying their sets, which began then, has come to.
func (s *session) wrong(ctx context.Context, all []holding, began time.Time) []wrongLine {
	var list []wrongLine
	now := time.Now()
	for i := range all {
		h := &all[i]
		_ = s.askWhy(ctx, h) // that it has failed is said all the same
		found := h.health(all, now).all()
		// A read that went well has not taken the place of the proof that it cannot be restored.
		if set := h.newestGoodAt(now); set != nil && set.Proven() != nil && !set.Proven().OK && set.Proven().At.Before(began) {
			found = append(found, provenBad(set, now))
		}
		for _, w := range found {
			list = append(list, wrongLine{Backup: h.backup.Name, Instance: string(h.instance), Message: w, instance: h.instance})
		}
	}
	return list
}

// takesPlace reports whether a proof is written where there is one of the same manifest, or nil. That a set can be read says nothing about
// whether it can be restored, so it takes the place of no proof of that, be it good or bad; that it cannot be read does, as
// long as it was not known.
func takesPlace(proof, before *backup.Proof) bool {
	return before == nil || proof.Level == backup.LevelRestore || before.Level != backup.LevelRestore || !proof.OK && before.OK
}

// newerBad says that the run that came last is not good, where an older set is.
func (h *holding) newerBad(id string) error {
	for i := len(h.sets) - 1; i >= 0 && h.sets[i].ID > id; i-- {
		if state, why := h.state(&h.sets[i]); state != backup.Running && state != backup.Good {
			return fmt.Errorf("the newer set %s is not good but %s: %s", h.sets[i].ID, state, why)
		}
	}
	return nil
}

// leftOnly is what an interrupted verify has left on a host, if something.
func leftOnly(err error) error {
	var left *backup.LeftError
	if errors.As(err, &left) {
		return left
	}
	return nil
}

// saysOfSet reports whether an error is the set's fault rather than a connection's or a host's.
func saysOfSet(err error) bool {
	var damaged *backup.DamagedError
	var different *backup.DifferenceError
	var unrestorable *backup.UnrestorableError
	return errors.As(err, &damaged) || errors.As(err, &different) || errors.As(err, &unrestorable)
}

// readingPlace returns where the set's dumps are read: on the host that verify_on names, else on the instance's own.
func (s *session) readingPlace(ctx context.Context, h *holding, set *backup.Set) (backup.Place, error) {
	var host *inventory.Host
	switch {
	case h.backup.VerifyOn != "":
		host = s.fleet.Host(h.backup.VerifyOn)
	case h.in != nil:
		host = h.in.Host
	default:
		return backup.Place{}, fmt.Errorf("fleet.toml has no host %s any more on which it could be read: name one with verify_on", h.instance)
	}
	return s.placeOn(ctx, host, set)
}

// placeOn finds the programs on a host that read the set's dumps.
func (s *session) placeOn(ctx context.Context, host *inventory.Host, set *backup.Set) (backup.Place, error) {
	at := backup.Place{Host: host.Name}
	var err error
	if at.Conn, err = s.run.Conn(ctx, host); err != nil {
		return at, fmt.Errorf("%s: %w", host.Name, err)
	}
	found, err := backup.FindBinaries(ctx, at.Conn)
	if err != nil {
		return at, fmt.Errorf("%s: %w", host.Name, err)
	}
	major, err := backup.MajorOf(set.Manifest.PgDumpVersion)
	if err == nil {
		at.Major, err = found.For(major)
	}
	if err != nil {
		return at, fmt.Errorf("%s: %w", host.Name, err)
	}
	return at, nil
}
