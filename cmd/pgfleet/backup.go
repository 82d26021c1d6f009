package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Make, list, prove and restore backups",
		Long: `A backup is a set of dumps of an instance's databases and roles, encrypted with age. It counts only once it
was restored: see verify --restore. These are logical dumps, to the moment of the dump; they are no
point-in-time recovery.`,
		Args: a.noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.backupRunCommand(), a.backupListCommand(), a.backupVerifyCommand(), a.backupRestoreCommand(), a.backupPruneCommand(), a.backupRekeyCommand())
	return cmd
}

// splitSet takes NAME or NAME@ID apart.
func splitSet(arg string) (name, id string, err error) {
	name, id, at := strings.Cut(arg, "@")
	if at {
		if _, err := backup.ParseID(id); err != nil {
			return "", "", &inputError{fmt.Errorf("%s: %w", arg, err)}
		}
	}
	return name, id, nil
}

// backupsNamed returns the backup of that name, all if it is "".
func backupsNamed(fleet *inventory.Fleet, name string) ([]*inventory.Backup, error) {
	var all []*inventory.Backup
	var names []string
	for i := range fleet.Backups {
		b := &fleet.Backups[i]
		names = append(names, b.Name)
		if name == "" && !b.Absent || name == b.Name {
			all = append(all, b)
		}
	}
	switch {
	case len(all) > 0:
		return all, nil
	case name == "":
		return nil, &inputError{fmt.Errorf("there is no [[backup]] in %s", fleet.Path)}
	}
	return nil, &inputError{fmt.Errorf("there is no backup %q in %s%s", name, fleet.Path, inventory.DidYouMean(name, names))}
}

// backupFolder is the folder of an instance's sets in a target.
func backupFolder(b *inventory.Backup, id inventory.InstanceID) string {
	return backup.Folder(b.Name, string(id))
}

// identities reads what opens the sets of a backup.
func (a *app) identities(ctx context.Context, fleet *inventory.Fleet, b *inventory.Backup) ([]age.Identity, error) {
	names := b.Identities
	if len(names) == 0 && fleet.Secrets.Age != nil {
		names = fleet.Secrets.Age.Identities
	}
	if len(names) == 0 {
		return nil, &inputError{fmt.Errorf("backup %s: nothing says which identities open it: name files of them as its identities, or as those of [secrets.age]", b.Name)}
	}
	ids, err := secrets.Identities(names, filepath.Dir(fleet.Path), a.term.LookupEnv, func(prompt string) (secrets.Secret, error) {
		return a.ui.Secret(ctx, prompt)
	})
	if err != nil {
		return nil, &inputError{fmt.Errorf("backup %s: %w", b.Name, err)}
	}
	return ids, nil
}

// A holding is what there is of one backup and instance in its target.
type holding struct {
	backup   *inventory.Backup
	instance inventory.InstanceID
	in       *inventory.Instance // nil if fleet.toml has it no more
	target   backup.Target
	sets     []backup.Set // the oldest first
	unit     *unitState   // what makes it on the host; nil if nothing does, or it is not known
	err      error        // why it could not be read
}

// name is how the user names it.
func (h *holding) name() string { return h.backup.Name + " of " + string(h.instance) }

// holdings reads the targets of backups, for the instances that are meant. Where a target is no host's own
// it may have sets of instances that are in fleet.toml no more: they are meant if nothing limits.
func (a *app) holdings(ctx context.Context, s *session, backups []*inventory.Backup) []holding {
	var all []holding
	for _, b := range backups {
		if b.To.Path != "" && b.To.Host == "" { // on each host itself
			var mine []holding
			for i := range s.instances {
				if in := &s.instances[i]; b.Means(*in) {
					mine = append(mine, holding{backup: b, instance: in.ID(), in: in})
				}
			}
			each(s.app.forks, mine, func(h *holding) {
				if h.target, h.err = a.backupTarget(ctx, s, b, h.in); h.err == nil {
					h.unit = s.unitOf(ctx, h)
					h.sets, h.err = backup.ReadSets(ctx, h.target, backupFolder(b, h.instance))
				}
			})
			all = append(all, mine...)
			continue
		}
		target, err := a.backupTarget(ctx, s, b, nil)
		var sets []backup.Set
		if err == nil {
			sets, err = backup.ReadSets(ctx, target, b.Name)
		}
		for i := range s.instances {
			if in := &s.instances[i]; b.Means(*in) {
				h := holding{backup: b, instance: in.ID(), in: in, target: target, sets: ofInstance(sets, in.ID()), err: err}
				h.unit = s.unitOf(ctx, &h)
				all = append(all, h)
			}
		}
		if a.limit == "" {
			for _, set := range sets {
				id := inventory.InstanceID(set.Instance)
				known := slices.ContainsFunc(all, func(h holding) bool { return h.backup == b && h.instance == id })
				if _, declared := s.fleet.Instance(id); !known && !declared {
					all = append(all, holding{backup: b, instance: id, target: target, sets: ofInstance(sets, id)})
				}
			}
		}
	}
	return all
}

// unitOf asks the host about the unit that makes the backup; nil if none does, or the host does not answer: then its sets may be
// read all the same, where they are elsewhere.
func (s *session) unitOf(ctx context.Context, h *holding) *unitState {
	if !h.backup.Hosted() {
		return nil
	}
	conn, err := s.run.Conn(ctx, h.in.Host)
	if err != nil {
		return nil
	}
	u, err := askUnit(ctx, conn, h.backup.Unit(*h.in))
	if err != nil {
		return nil
	}
	return &u
}

func ofInstance(sets []backup.Set, id inventory.InstanceID) []backup.Set {
	var list []backup.Set
	for _, set := range sets {
		if set.Instance == string(id) {
			list = append(list, set)
		}
	}
	return list
}

// state returns a set's state now, and why it is not good.
func (h *holding) state(set *backup.Set) (backup.State, string) {
	now := time.Now()
	if h.unit == nil {
		return set.State(now, false)
	}
	if h.unit.running() && set == &h.sets[len(h.sets)-1] {
		return set.State(now, true)
	}
	// Nobody writes, however short ago somebody did.
	return set.State(now.Add(backup.Quiet), false)
}

// newestGood returns the newest good set, or the one of an ID; why there is none.
func (h *holding) newestGood(id string) (*backup.Set, error) {
	if h.err != nil {
		return nil, h.err
	}
	var why string
	for i := len(h.sets) - 1; i >= 0; i-- {
		set := &h.sets[i]
		if id != "" && set.ID != id {
			continue
		}
		state, reason := h.state(set)
		if state == backup.Good {
			return set, nil
		}
		if id != "" {
			return nil, fmt.Errorf("the set %s is not good but %s: %s; take another one (pgfleet backup list)", set.Folder(), state, reason)
		}
		if why == "" {
			why = fmt.Sprintf("; the newest, %s, is %s: %s", set.ID, state, reason)
		}
	}
	switch {
	case id != "":
		return nil, fmt.Errorf("there is no set %s in %s", id, h.target)
	case len(h.sets) == 0:
		return nil, errNoSets
	}
	return nil, fmt.Errorf("none of %s in %s is good%s", count(len(h.sets), "set", "sets"), h.target, why)
}

// errNoSets is of an instance that nothing was dumped of: the other member of its cluster may have been.
var errNoSets = errors.New("there is no set")

// whoIsThis is who a proof says it is by.
func whoIsThis() string {
	name, host := "somebody", "a machine"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// bytesText writes a size for people.
func bytesText(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, names := float64(n), []string{"kB", "MB", "GB", "TB", "PB"}
	i := -1
	for value >= 999.5 && i < len(names)-1 {
		value /= unit
		i++
	}
	if value < 10 {
		return fmt.Sprintf("%.1f %s", value, names[i])
	}
	return fmt.Sprintf("%.0f %s", value, names[i])
}

// ofOneSystem refuses to choose between the sets of several database clusters, which another fleet or a
// host that was set up anew has put into the same place: the newest need not be the one that is meant.
func (h *holding) ofOneSystem() error {
	newest := map[string]string{}
	for i := range h.sets {
		if m := h.sets[i].Manifest; m != nil {
			newest[m.SystemIdentifier] = m.ID
		}
	}
	if len(newest) < 2 {
		return nil
	}
	var each []string
	for _, system := range slices.Sorted(maps.Keys(newest)) {
		each = append(each, newest[system]+" of the system "+system)
	}
	return fmt.Errorf("the sets of %s in %s are of different database clusters; say which one is meant, as %s@ID: %s", h.name(), h.target, h.backup.Name, strings.Join(each, ", "))
}
