package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/tasks"
)

// clockAhead is how far in the future a set may have begun before a clock was wrong.
const clockAhead = 24 * time.Hour

// A health is what is wrong with the backups of one instance, whatever its sets are good for.
type health struct {
	shown  []string // what backup list shows of the unit and the sets in any case
	beside []string // what it does not
	none   bool     // there is no good set, which is what verify itself fails with
}

// all returns everything that is wrong.
func (x health) all() []string { return slices.Concat(x.shown, x.beside) }

// health finds out whether backups go on being made. Others are the holdings of all instances: of a cluster only one member makes them.
func (h *holding) health(others []holding, now time.Time) health {
	var x health
	if h.err != nil || h.backup.Absent {
		return x
	}
	for i := range h.sets {
		if set := &h.sets[i]; set.Began().Sub(now) > clockAhead {
			x.beside = append(x.beside, fmt.Sprintf("the set %s lies in the future: a clock was wrong; remove it by hand", set.ID))
		}
	}
	if h.in == nil {
		return x // nothing makes them any more
	}
	good := h.newestGoodAt(now)
	bad := ""
	if good != nil {
		if err := h.newerBad(good.ID); err != nil {
			bad = err.Error()
			x.shown = append(x.shown, bad)
		}
	}
	if h.backup.Hosted() {
		h.unitHealth(&x, bad != "", now)
	}
	newest := time.Time{}
	for i := range others {
		if o := &others[i]; o.backup == h.backup && (o.instance == h.instance || o.in != nil && o.in.Replication != "" && o.in.Replication == h.in.Replication) {
			if set := o.newestGoodAt(now); set != nil && set.Began().After(newest) {
				newest = set.Began()
			}
		}
	}
	x.none = newest.IsZero()
	if limit := time.Duration(h.backup.MaxAge); !x.none && limit > 0 && now.Sub(newest) > limit {
		x.beside = append(x.beside, fmt.Sprintf("the newest good set is %s old, and max_age is %s", tasks.AgeText(now.Sub(newest)), h.backup.MaxAge))
	}
	return x
}

// unitHealth looks at the unit; told says that why its last run failed is known already.
func (h *holding) unitHealth(x *health, told bool, now time.Time) {
	name, u := h.backup.Unit(*h.in), h.unit
	switch {
	case u == nil:
		x.shown = append(x.shown, "systemd says nothing about "+name)
		return
	case !u.Loaded:
		x.shown = append(x.shown, "the unit "+name+" is not on the host: pgfleet apply makes it")
		return
	case u.Active == "failed" && !told:
		text := "the last run of " + name + " has failed"
		if u.Message != "" {
			text += ": " + u.Message
		}
		x.shown = append(x.shown, text)
	case u.Active != "failed" && !u.running() && u.Began != nil && h.in.Replication == "":
		// A set's run begins before it names the set; a member of a cluster may have nothing to do.
		if n := len(h.sets); n > 0 && h.sets[n-1].Began().Before(u.Began.Add(-time.Minute)) {
			x.beside = append(x.beside, fmt.Sprintf("the last run began %s ago and made no set: systemctl status %s", tasks.AgeText(now.Sub(*u.Began)), name))
		}
	}
	if h.backup.Schedule.Value != "" && !u.Timer {
		x.beside = append(x.beside, fmt.Sprintf("%s.timer is not active, and so nothing starts the backup at %q: pgfleet apply starts it", name, h.backup.Schedule.Value))
	}
}

// newestGoodAt returns the newest good set that does not lie in the future; nil if there is none.
func (h *holding) newestGoodAt(now time.Time) *backup.Set {
	for i := len(h.sets) - 1; i >= 0; i-- {
		set := &h.sets[i]
		if state, _ := h.state(set); state == backup.Good && set.Began().Sub(now) <= clockAhead {
			return set
		}
	}
	return nil
}

// disproof says that what verify found out about the newest good set was bad; "" if it was not.
func (h *holding) disproof(now time.Time) string {
	set := h.newestGoodAt(now)
	if set == nil {
		return ""
	}
	p := set.Proven()
	if p == nil || p.OK {
		return ""
	}
	return provenBad(set, now)
}

// provenBad says what a failed proof of a set says.
func provenBad(set *backup.Set, now time.Time) string {
	p := set.Proven()
	what := "read"
	if p.Level == backup.LevelRestore {
		what = "restored"
	}
	return fmt.Sprintf("the set %s could not be %s when it was verified on %s, %s ago: %s", set.ID, what, p.Where, tasks.AgeText(now.Sub(p.At)), firstLine(p.Message))
}

// askWhy asks the host why a unit has failed.
func (s *session) askWhy(ctx context.Context, h *holding) error {
	if h.unit == nil || h.unit.Active != "failed" {
		return nil
	}
	conn, err := s.run.Conn(ctx, h.in.Host)
	if err != nil {
		return err
	}
	journal, err := askJournal(ctx, conn, h.backup.Unit(*h.in), h.unit.Invocation)
	if err != nil {
		return err
	}
	h.unit.Message = failureIn(journal)
	return nil
}
