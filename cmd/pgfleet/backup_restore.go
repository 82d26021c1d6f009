package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// A restoring is what the command line of backup restore asks for.
type restoring struct {
	set       string // NAME[@ID]
	database  string
	as        string
	to        string
	from      string
	overwrite string
	globals   bool
	yes       bool
	json      bool
}

func (a *app) backupRestoreCommand() *cobra.Command {
	var r restoring
	cmd := &cobra.Command{
		Use:   "restore NAME[@ID] (--database DB | --globals)",
		Short: "Restore a database, or the roles, from a backup",
		Long: `Restore takes the newest good set, or the one with the ID. It looks first whether the server has the roles and
extensions that the dump needs, and reads the whole dump: nothing of it reaches the server before its SHA-256 is the manifest's
and pg_restore has read it to its end. Then it restores under a name that nobody uses, compares the contents with
those of the moment of the dump, and only then gives the database its name. What fails leaves nothing behind.

It becomes a new database. With --overwrite DB it takes the place of DB, in one transaction, after ending the sessions there;
the old database is kept, under a name that is printed, until you drop it. So the disk must have room for both.

With --globals the roles are restored, with their passwords, memberships and settings, and the tablespaces. Roles that
the server has stay as they are.`,
		Example: `  pgfleet backup restore nightly --database shop --as shop_tuesday
  pgfleet backup restore nightly --globals --to pg09
  pgfleet backup restore nightly@20261126T023000Z --database shop --to pg09 --overwrite shop`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.set = args[0]
			return a.backupRestore(cmd.Context(), r)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.database, "database", "", "the `database` of the set to restore")
	f.StringVar(&r.as, "as", "", "what it is to be called; the same `name` by default")
	f.StringVar(&r.to, "to", "", "the `instance` to restore to; the one that was dumped, or its primary, by default")
	f.StringVar(&r.from, "from", "", "the `instance` whose sets are meant, as backup list names it")
	f.StringVar(&r.overwrite, "overwrite", "", "take the place of this `database`, which is kept under another name")
	f.BoolVar(&r.globals, "globals", false, "restore roles and tablespaces")
	f.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&r.json, "json", false, "print what it came to as JSON; needs --yes")
	return cmd
}

// check refuses what contradicts itself.
func (r *restoring) check() error {
	switch {
	case r.globals && (r.database != "" || r.as != "" || r.overwrite != ""):
		return errors.New("--globals restores roles and tablespaces: give --database, --as and --overwrite to a command of its own")
	case !r.globals && r.database == "":
		return errors.New("say what to restore: --database DB, or --globals")
	case r.overwrite != "" && r.as != "" && r.as != r.overwrite:
		return fmt.Errorf("--overwrite %s and --as %s name two databases", r.overwrite, r.as)
	case r.json && !r.yes:
		return errors.New("--json: nobody is asked; add --yes")
	}
	return nil
}

// name is what the database is to be called.
func (r *restoring) name() string {
	switch {
	case r.overwrite != "":
		return r.overwrite
	case r.as != "":
		return r.as
	}
	return r.database
}

type restoreDocument struct {
	Format   int    `json:"format"`
	Set      string `json:"set"`
	To       string `json:"to"`
	Database string `json:"database,omitempty"`
	// Kept is what the database is called now whose place was taken.
	Kept     string        `json:"kept,omitempty"`
	Compared bool          `json:"compared"`
	Proof    *backup.Proof `json:"proof,omitempty"` // of the set
	Made     []string      `json:"made,omitempty"`
	Left     []string      `json:"left_alone,omitempty"`
	Failed   []string      `json:"failed,omitempty"`
	Notes    []string      `json:"notes,omitempty"`
	Seconds  float64       `json:"seconds"`
}

func (a *app) backupRestore(ctx context.Context, r restoring) error {
	if err := r.check(); err != nil {
		return &inputError{err}
	}
	name, id, err := splitSet(r.set)
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
	to, err := s.destination(r.to)
	if err != nil {
		return err
	}
	h, set, err := a.setToRestore(ctx, s, backups, id, r)
	if err != nil {
		return err
	}
	if to == nil {
		if to, err = s.primaryOf(ctx, h); err != nil {
			return err
		}
	}
	ids, err := a.identities(ctx, s.fleet, h.backup)
	if err != nil {
		return err
	}
	work := func(verb string) (*byteProgress, *byteWork) {
		p := newByteProgress(a.ui, verb, []string{string(to.ID())})
		p.Start()
		return p, p.Begin(string(to.ID()), 0)
	}
	p, w := work("preparing")
	reader := &backup.Reader{Target: h.target, Set: set, Identities: ids, Read: &w.bytes}
	w.Tell("connecting")
	at, err := s.placeOn(ctx, to.Host, set)
	if err != nil {
		p.Stop()
		return a.failures([]failure{{to.ID(), unprefixed(err, to.Host.Name)}})
	}
	server := transport.Endpoint{SocketDir: "/var/run/postgresql", Port: to.Port, User: "postgres"}
	doc := restoreDocument{Format: jsonFormat, Set: set.Folder(), To: string(to.ID())}
	doc.Proof = set.Proven()
	proven := h.provenText(set, time.Now())
	began := time.Now()
	if r.globals {
		w.Tell("reading the roles")
		g, err := reader.Globals(ctx)
		p.Stop()
		if err != nil {
			return a.failures([]failure{{to.ID(), err}})
		}
		return a.restoreGlobals(ctx, r, to, at, server, g, doc, proven, began)
	}
	x := &backup.Restore{Reader: reader, At: at, Server: server, Database: r.database, Name: r.name(), Overwrite: r.overwrite != "", Tell: w.Tell}
	err = x.Prepare(ctx)
	p.Stop()
	var refused *backup.RefusedError
	switch {
	case errors.As(err, &refused):
		return a.failures([]failure{{to.ID(), fmt.Errorf("%w; nothing was changed", err)}})
	case ctx.Err() != nil:
		return errInterrupted
	case err != nil:
		return a.failures([]failure{{to.ID(), fmt.Errorf("%w; nothing was changed", err)}})
	}
	what := fmt.Sprintf("%s of the set %s, of %s, becomes the database %s on %s", r.database, set.ID, localTime(set.Manifest.Began), r.name(), to.ID())
	if r.overwrite != "" {
		what += ",\nin the place of the one of this name: sessions there are ended, and it is kept under another name"
	}
	what += "\n" + proven
	if !r.json {
		a.ui.Print(clean(what))
	}
	if err := a.confirm(ctx, r.yes, "Restore it?", "nothing was changed"); err != nil {
		return err
	}
	p, w = work("restoring")
	reader.Read, x.Tell = &w.bytes, w.Tell
	done, err := x.Run(ctx)
	p.Stop()
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted; the database was not restored: %w", err)
		}
		return a.failures([]failure{{to.ID(), err}})
	}
	doc.Database, doc.Kept, doc.Compared, doc.Notes, doc.Seconds = r.name(), done.Kept, done.Compared, done.Notes, time.Since(began).Seconds()
	if r.json {
		return a.ui.JSON(doc)
	}
	a.ui.Print(restoredText(doc))
	return nil
}

func restoredText(d restoreDocument) string {
	text := fmt.Sprintf("%s is restored on %s, in %s", d.Database, d.To, seconds(time.Duration(d.Seconds*float64(time.Second))))
	if d.Compared {
		text += "; its contents are those of the moment of the dump"
	} else {
		text += "; the set has no checks that its contents could be compared with"
	}
	text += "\n"
	for _, n := range d.Notes {
		text += "note: " + n + "\n"
	}
	if d.Kept != "" {
		text += "the database that was there is now called " + d.Kept + "; when it is not needed any more, drop it\n"
	}
	return clean(text + "statistics for the planner were not restored: run ANALYZE there (vacuumdb --analyze-in-stages)")
}

// destination returns the instance that is restored to; nil if none is named.
func (s *session) destination(to string) (*inventory.Instance, error) {
	if to == "" {
		return nil, nil
	}
	id := inventory.InstanceID(strings.Replace(to, ":", "/", 1))
	if in, ok := s.fleet.Instance(id); ok {
		return &in, nil
	}
	var names []string
	for _, in := range s.fleet.Instances() {
		names = append(names, string(in.ID()))
		if string(in.ID()) == in.Host.Name+"/"+in.Name && string(id) == in.Host.Name {
			return nil, &inputError{fmt.Errorf("--to %s: the host has several instances: name one, as %s/%s", to, in.Host.Name, in.Name)}
		}
	}
	return nil, &inputError{fmt.Errorf("--to %s: there is no such instance in %s%s", to, s.fleet.Path, inventory.DidYouMean(to, names))}
}

// setToRestore finds the one set that is meant.
func (a *app) setToRestore(ctx context.Context, s *session, backups []*inventory.Backup, id string, r restoring) (*holding, *backup.Set, error) {
	holdings := a.withSets(ctx, s, backups)
	var names []string
	var failed []failure
	var found *holding
	var set *backup.Set
	clusters := map[string]bool{}
	for i := range holdings {
		h := &holdings[i]
		names = append(names, string(h.instance))
		if r.from != "" && string(h.instance) != r.from {
			continue
		}
		x, err := h.toRestore(id)
		if err == nil && id == "" {
			err = h.ofOneSystem()
		}
		if err != nil {
			if !errors.Is(err, errNoSets) {
				failed = append(failed, failure{h.instance, err})
			}
			continue
		}
		if r.database != "" && r.from == "" && !slices.Contains(x.Manifest.Databases(), r.database) && len(holdings) > 1 {
			failed = append(failed, failure{h.instance, fmt.Errorf("the set %s has no database %q", x.ID, r.database)})
			continue
		}
		cluster := string(h.instance)
		if h.in != nil && h.in.Replication != "" {
			cluster = h.in.Replication
		}
		clusters[cluster] = true
		if set == nil || x.ID > set.ID {
			found, set = h, x
		}
	}
	switch {
	case len(clusters) > 1:
		return nil, nil, &inputError{fmt.Errorf("there are sets of %s: say whose is meant, with --from", strings.Join(names, ", "))}
	case set != nil:
		return found, set, nil
	case len(failed) > 0:
		return nil, nil, a.failures(failed)
	case r.from != "" && !slices.Contains(names, r.from):
		return nil, nil, &inputError{fmt.Errorf("--from %s: there is no set of it; there are sets of %s", r.from, strings.Join(names, ", "))}
	}
	return nil, nil, fmt.Errorf("there is no set of %s to restore from", strings.Join(names, ", "))
}

// toRestore returns the newest good set that no proof speaks against, or else the newest good one; or the one of an ID.
func (h *holding) toRestore(id string) (*backup.Set, error) {
	for i := len(h.sets) - 1; i >= 0 && id == "" && h.err == nil; i-- {
		set := &h.sets[i]
		if state, _ := h.state(set); state != backup.Good {
			continue
		}
		if p := set.Proven(); p == nil || p.OK {
			return set, nil
		}
	}
	return h.newestGood(id)
}

// provenText says what a set was proven to be good for, and which newer ones are passed over.
func (h *holding) provenText(set *backup.Set, now time.Time) string {
	text := "it was never verified"
	if p := set.Proven(); p != nil && !p.OK {
		text = provenBad(set, now)
	} else if p != nil {
		what := "read whole, not restored,"
		if p.Level == backup.LevelRestore {
			what = "restored and compared"
		}
		text = fmt.Sprintf("it was %s on %s, %s ago", what, p.Where, tasks.AgeText(now.Sub(p.At)))
	}
	for i := range h.sets {
		if newer := &h.sets[i]; newer.ID > set.ID && newer.Proven() != nil && !newer.Proven().OK {
			text += "\npassed over: " + provenBad(newer, now)
		}
	}
	return text
}

// primaryOf returns the instance that a set is restored to by default: the one that was dumped, or the primary of its
// cluster.
func (s *session) primaryOf(ctx context.Context, h *holding) (*inventory.Instance, error) {
	if h.in == nil {
		return nil, &inputError{fmt.Errorf("fleet.toml has no %s any more: say where to restore to, with --to", h.instance)}
	}
	members := s.fleet.Replication(h.in.Replication)
	if len(members) < 2 {
		return h.in, nil
	}
	for _, k := range s.survey(ctx, members, nil) {
		if k.State != nil && k.State.Role() == "primary" {
			in := k.Instance
			return &in, nil
		}
	}
	return nil, fmt.Errorf("no primary of the cluster %s was found: say where to restore to, with --to", h.in.Replication)
}

// unprefixed takes the host's name away from an error that gets it again.
func unprefixed(err error, host string) error {
	if rest, ok := strings.CutPrefix(err.Error(), host+": "); ok {
		return errors.New(rest)
	}
	return err
}

func (a *app) restoreGlobals(ctx context.Context, r restoring, to *inventory.Instance, at backup.Place, server transport.Endpoint, g *backup.Globals, doc restoreDocument, proven string, began time.Time) error {
	what := fmt.Sprintf("%s and %s of the set %s are made on %s, but for those that it has", count(len(g.Roles), "role", "roles"), count(len(g.Tablespaces), "tablespace", "tablespaces"), doc.Set, to.ID())
	if !r.json {
		a.ui.Print(clean(what + "\n" + proven))
	}
	if err := a.confirm(ctx, r.yes, "Make them?", "nothing was changed"); err != nil {
		return err
	}
	var err error
	doc.Made, doc.Left, doc.Failed, err = backup.RestoreGlobals(ctx, g, at.Conn, server)
	if err != nil {
		return a.failures([]failure{{to.ID(), err}})
	}
	doc.Seconds = time.Since(began).Seconds()
	if r.json {
		err = a.ui.JSON(doc)
	} else {
		a.ui.Print(globalsText(doc))
	}
	if err == nil && len(doc.Failed) > 0 {
		var failed []failure
		for _, f := range doc.Failed {
			failed = append(failed, failure{to.ID(), errors.New(f)})
		}
		return a.failures(failed)
	}
	return err
}

func globalsText(d restoreDocument) string {
	text := "made: " + orNone(d.Made) + "\n"
	if len(d.Left) > 0 {
		text += "left alone, because the server has them: " + strings.Join(d.Left, ", ") + "\n"
	}
	return clean(text)
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}
