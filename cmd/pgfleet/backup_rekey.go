package main

import (
	"context"
	"fmt"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

func (a *app) backupRekeyCommand() *cobra.Command {
	var all, yes bool
	cmd := &cobra.Command{
		Use:   "rekey [NAME[@ID]]",
		Short: "Encrypt backups anew, for the recipients in fleet.toml",
		Long: `Rekey shows which sets are encrypted to others than the recipients in fleet.toml, asks, and encrypts these anew: each file is
decrypted and encrypted on this machine, written beside the old one, read again and compared; the manifest comes last. A
set is good at every moment of it. When rekey is interrupted, run it again: it goes on with what is left.

Whoever could open a backup may have a copy of it, and knows what was in it. What the hosts encrypt to from now on comes with pgfleet apply.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backupRekey(cmd.Context(), first(args), all, yes)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "encrypt also what has the right recipients")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// A staleSet is one to be encrypted anew.
type staleSet struct {
	h    *holding
	set  *backup.Set
	keys *rekeying
}

// A rekeying is what a backup's sets are encrypted to and opened with.
type rekeying struct {
	written    []string
	recipients []age.Recipient
	identities []age.Identity
}

func (a *app) backupRekey(ctx context.Context, arg string, all, yes bool) error {
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
	keys := map[*inventory.Backup]*rekeying{}
	for _, b := range backups {
		if keys[b], err = a.rekeying(ctx, s, b); err != nil {
			return err
		}
	}
	holdings := a.holdings(ctx, s, backups)
	var due []staleSet
	var failed []failure
	rows := [][]string{{"BACKUP", "INSTANCE", "SET", "SIZE", "RECIPIENTS"}}
	sets := 0
	for i := range holdings {
		h := &holdings[i]
		if h.err != nil {
			failed = append(failed, failure{h.instance, h.err})
			continue
		}
		for j := range h.sets {
			set := &h.sets[j]
			if set.Manifest == nil || id != "" && set.ID != id {
				continue
			}
			sets++
			k := keys[h.backup]
			if !all && !set.Manifest.Stale(k.written) && len(set.Leftovers()) == 0 {
				continue
			}
			if state, why := h.state(set); state != backup.Good {
				failed = append(failed, failure{h.instance, fmt.Errorf("the set %s is not good but %s: %s; it stays as it is", set.ID, state, why)})
				continue
			}
			due = append(due, staleSet{h, set, k})
			rows = append(rows, []string{clean(h.backup.Name), clean(string(h.instance)), set.ID, bytesText(set.Manifest.Bytes()), clean(recipientChange(set.Manifest.Encryption.Recipients, k.written))})
		}
	}
	if len(due) == 0 {
		if len(failed) == 0 {
			a.ui.Print(fmt.Sprintf("%s: the recipients are those in fleet.toml; nothing to do", count(sets, "set", "sets")))
		}
		return a.failures(failed)
	}
	a.ui.Print(columns(rows) + fmt.Sprintf("%d of %s to be encrypted anew", len(due), count(sets, "set", "sets")))
	if err := a.confirm(ctx, yes, "Encrypt them anew?", "nothing was written"); err != nil {
		return err
	}
	done := 0
	for _, d := range due {
		if ctx.Err() != nil {
			break
		}
		if err := a.rekeySet(ctx, d, all); err != nil {
			if ctx.Err() != nil {
				break
			}
			failed = append(failed, failure{d.h.instance, err})
			continue
		}
		done++
	}
	a.ui.Print(count(done, "set was", "sets were") + " encrypted anew")
	if err := a.failures(failed); err != nil {
		return err
	}
	if done < len(due) {
		return fmt.Errorf("interrupted; %s left: run rekey again", count(len(due)-done, "set is", "sets are"))
	}
	return nil
}

// recipientChange says how many recipients come and go.
func recipientChange(was, now []string) string {
	had, have := map[string]bool{}, map[string]bool{}
	for _, r := range was {
		had[r] = true
	}
	added, removed := 0, 0
	for _, r := range now {
		have[r] = true
		if !had[r] {
			added++
		}
	}
	for _, r := range was {
		if !have[r] {
			removed++
		}
	}
	text := fmt.Sprint(len(was))
	if added > 0 {
		text += fmt.Sprintf(" +%d", added)
	}
	if removed > 0 {
		text += fmt.Sprintf(" -%d", removed)
	}
	return text
}

// rekeying reads recipients and identities, before anything is written.
func (a *app) rekeying(ctx context.Context, s *session, b *inventory.Backup) (*rekeying, error) {
	k := &rekeying{}
	var list []string
	for _, r := range b.Recipients {
		list = append(list, r.Value)
	}
	written, at, err := secrets.Recipients(list, local(s.fleet, a.term.LookupEnv))
	if err != nil {
		return nil, &inputError{fmt.Errorf("%s: recipients: %w", b.Recipients[at].Pos(), err)}
	}
	if k.recipients, err = secrets.ParseRecipients(written); err != nil {
		return nil, &inputError{fmt.Errorf("%s: recipients: %w", b.Pos, err)}
	}
	k.written = written
	if k.identities, err = a.identities(ctx, s.fleet, b); err != nil {
		return nil, err
	}
	r := &backup.Reader{Identities: k.identities}
	if err := r.CheckRecipients(k.recipients); err != nil {
		return nil, &inputError{fmt.Errorf("backup %s: %w; nothing was written", b.Name, err)}
	}
	return k, nil
}

func (a *app) rekeySet(ctx context.Context, d staleSet, all bool) error {
	p := newByteProgress(a.ui, "encrypting", []string{d.set.ID})
	p.Start()
	defer p.Stop()
	w := p.Begin(d.h.name()+" "+d.set.ID, 2*d.set.Manifest.Bytes()) // each file is read again
	r := &backup.Reader{Target: d.h.target, Set: d.set, Identities: d.keys.identities, Read: &w.bytes}
	if !all && !d.set.Manifest.Stale(d.keys.written) {
		return d.h.target.Remove(ctx, d.set.Leftovers()...) // an earlier run was interrupted at its very end
	}
	return r.Rekey(ctx, d.keys.recipients, d.keys.written, "filippo.io/age", w.Tell)
}
