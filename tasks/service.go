package tasks

import (
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Service keeps a systemd unit running, and reloads or restarts it when that is
// owed. What is owed comes from the facts and not from what this run changed:
// for PostgreSQL, the running values against the files, the certificate that is
// served against the one on disk, and when the files were last loaded; for
// another unit, when it started against when the watched files changed.
type Service struct {
	Common
	Unit    string                       `toml:"unit" doc:"The unit; the instance's own PostgreSQL server by default."`
	Enabled *bool                        `toml:"enabled" doc:"Whether the unit starts at boot; left as it is by default."`
	State   inventory.Positioned[string] `toml:"state" enum:"running,stopped" doc:"running by default."`
	Restart inventory.Positioned[string] `toml:"restart" enum:"owed,never" doc:"owed (the default) restarts when only that applies what is configured; never says that a restart is owed and leaves it."`
	Watch   inventory.Strings            `toml:"watch" doc:"Files that a unit other than PostgreSQL reads at its start or reload."`
	Reload  bool                         `toml:"reload" doc:"A unit other than PostgreSQL is reloaded and not restarted when watched files changed."`
}

// Check finds keys that do not go together.
func (t *Service) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	own := t.own(in)
	if own && len(t.Watch) > 0 {
		errs.Add(t.at("watch"), "watch: for PostgreSQL's own unit the server itself says what is owed")
	}
	if own && t.State.Value == "stopped" {
		errs.Add(t.State.Pos(), "state: pgfleet cannot configure a server that it keeps stopped")
	}
	if !own && t.given("restart") {
		errs.Add(t.Restart.Pos(), "restart: only for PostgreSQL's own unit; for another, watch says what a restart depends on")
	}
	for i, f := range t.Watch {
		if !strings.HasPrefix(f, "/") {
			errs.Add(t.atIndex("watch", i), "watch: want an absolute path, found %q", f)
		}
	}
	return errs
}

// own reports whether the unit is the instance's own server.
func (t *Service) own(in inventory.Instance) bool {
	return t.Unit == "" || strings.TrimSuffix(t.Unit, ".service") == strings.TrimSuffix(in.Unit(), ".service")
}

func (t *Service) unit(in inventory.Instance) string {
	if t.own(in) {
		return in.Unit()
	}
	return t.Unit
}

// Reads asks systemd for the unit, and for the watched files.
func (t *Service) Reads(in inventory.Instance, _ *State) []facts.Read {
	reads := []facts.Read{facts.Unit{Name: t.unit(in)}}
	for _, f := range t.Watch {
		reads = append(reads, facts.File{Path: f})
	}
	return reads
}

// Plan says what the unit is owed.
func (t *Service) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	u, err := s.Unit(t.unit(in))
	if err != nil {
		return out, err
	}
	if u.LoadState == "not-found" && !s.installed {
		return out, fmt.Errorf("the host has no unit %s", t.unit(in))
	}
	if t.own(in) {
		return t.planServer(in, s, u)
	}
	c := SetUnit{Name: t.Unit}
	var what []string
	if t.Enabled != nil && *t.Enabled != (u.UnitFileState == "enabled") {
		c.Enabled = t.Enabled
		what = append(what, map[bool]string{true: "enable", false: "disable"}[*t.Enabled])
	}
	running := t.State.Value != "stopped"
	if running != (u.ActiveState == "active") {
		c.Running = &running
		what = append(what, map[bool]string{true: "start", false: "stop"}[running])
	}
	if running && c.Running == nil {
		if why := t.watched(s, u); why != "" {
			c.Reload, c.Restart = t.Reload, !t.Reload
			what = append(what, map[bool]string{true: "reload", false: "restart"}[t.Reload]+": "+why)
		}
	}
	if len(what) > 0 {
		out.Changes = []Change{{
			Key: "unit:" + t.Unit, Before: Digest(u.ActiveState + "," + u.UnitFileState),
			Intent: strings.Join(what, ", ") + " (" + t.Unit + ")", Action: c,
		}}
	}
	return out, nil
}

// watched says which watched file is newer than the unit's start.
func (t *Service) watched(s *State, u facts.UnitInfo) string {
	for _, f := range t.Watch {
		info, err := s.File(f)
		if err == nil && info.Exists && info.Changed.After(u.ActiveEnter) {
			return f + " changed since the unit was started"
		}
	}
	return ""
}

// planServer says what PostgreSQL's own unit is owed. What concerns its start at
// boot comes last, so that it does not come between the server's files and the
// restart that proves them.
func (t *Service) planServer(in inventory.Instance, s *State, u facts.UnitInfo) (Outcome, error) {
	var out Outcome
	switch restart := s.restartOwed(); {
	case s.Server() == nil && !s.restarted:
		out.Changes = append(out.Changes, restartChange(s, "start", []string{"the server does not answer: " + s.ServerProblem()}))
	case len(restart) > 0 && t.Restart.Value != "never":
		out.Changes = append(out.Changes, restartChange(s, "restart", restart))
	default:
		if len(restart) > 0 {
			out.Warnings = append(out.Warnings, "a restart is owed: "+strings.Join(restart, "; "))
		}
		if why := s.reloadOwed(); len(why) > 0 {
			out.Changes = append(out.Changes, reloadChange(s, why))
		}
	}
	enabled := u.UnitFileState == "enabled" || u.UnitFileState == "enabled-runtime"
	if t.Enabled != nil && *t.Enabled != enabled {
		out.Changes = append(out.Changes, Change{
			Key: "unit:" + in.Unit(), Before: Digest(u.UnitFileState),
			Intent: map[bool]string{true: "enable ", false: "disable "}[*t.Enabled] + in.Unit(),
			Action: SetUnit{Name: in.Unit(), Enabled: t.Enabled},
		})
	}
	return out, nil
}
