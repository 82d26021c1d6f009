package tasks

import (
	"maps"
	"path"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// Foresee returns the State after a change. What the change makes unknowable
// becomes unknown.
func (s *State) Foresee(c Change) *State {
	n := *s
	n.moved = s.moved || c.Part != ConfigurationPart(s.instance) && Writes(c.Action)
	switch a := c.Action.(type) {
	case WriteFile:
		content, err := secrets.Expand(a.Content, s.reveal)
		var bytes []byte
		if err == nil {
			bytes = content.Expose()
		}
		n.files = with(s.files, a.Path, facts.FileInfo{
			Path: a.Path, Resolved: a.Path, Exists: true, Regular: true,
			Content: bytes, Size: int64(len(bytes)),
			Owner: a.Owner, Group: a.Group, Mode: a.Mode, Changed: foreseen,
		})
		n.activated = false
		if unit, ok := unitOfPath(a.Path); ok {
			u, _ := s.Unit(unit)
			u.Name, u.NeedDaemonReload = unit, true
			if u.LoadState != "loaded" && path.Base(a.Path) == unit {
				u.LoadState, u.UnitFileState = "loaded", "disabled"
				u.ActiveState = orElse(u.ActiveState, "inactive")
			}
			n.units = with(s.units, unit, u)
		}
	case RemoveFile:
		n.files = with(s.files, a.Path, facts.FileInfo{Path: a.Path, Changed: foreseen})
		n.activated = false
	case WriteRevocationLists:
		n.files = with(s.files, a.Path, facts.FileInfo{
			Path: a.Path, Resolved: a.Path, Exists: true, Regular: true, Owner: a.Owner, Group: a.Group, Mode: a.Mode, Changed: foreseen,
		})
		n.activated = false
	case IssueCertificate:
		n.certs = with(s.certs, a.Path, issued{a})
		n.activated = s.activated && a.Usage == pki.Client
	case SetPackages:
		for _, p := range a.Install {
			n.packages = with(n.packages, p, true)
		}
		for _, p := range a.Remove {
			n.packages = with(n.packages, p, false)
		}
		n.installed = true
	case Reload:
		n.running = s.afterReload()
		n.activated = true
	case Restart:
		n.running = s.afterRestart()
		n.activated, n.restarted = true, true
	case RunCommand:
		n.ran = with(s.ran, a.key(), true)
	case RunScript:
		n.foreseeScript(a)
	case Execute:
		n.foreseeStatement(a.Database, a.Statement)
	case Replicated:
		n.foreseeStatement(a.Database, a.Statement)
	case DaemonReload:
		n.units = maps.Clone(s.units)
		for name, u := range n.units {
			u.NeedDaemonReload = false
			n.units[name] = u
		}
		for r, answer := range s.answers {
			if q, ok := r.(facts.Unit); ok && answer.Err == nil {
				if _, done := n.units[q.Name]; !done {
					u := answer.Value.(facts.UnitInfo)
					u.NeedDaemonReload = false
					n.units = with(n.units, q.Name, u)
				}
			}
		}
	case SetUnit:
		u, _ := s.Unit(a.Name)
		u.Name = a.Name
		if a.Enabled != nil {
			u.UnitFileState = map[bool]string{true: "enabled", false: "disabled"}[*a.Enabled]
		}
		if a.Running != nil {
			u.ActiveState = map[bool]string{true: "active", false: "inactive"}[*a.Running]
		}
		if a.Reload || a.Restart || a.Running != nil {
			u.ActiveEnter = foreseen
		}
		n.units = with(s.units, a.Name, u)
	}
	return &n
}

// After returns the State as it is when the plan of another instance of the same
// host is carried out first: what that one does to the host, but not what it
// does to its own server. So a task about the host is planned once for it.
func (s *State) After(other *State) *State {
	if other == nil {
		return s
	}
	n := *s
	n.files, n.certs, n.packages, n.units = other.files, other.certs, other.packages, other.units
	n.installed = other.installed
	n.ranBefore = maps.Clone(other.ran)
	if n.ranBefore == nil {
		n.ranBefore = map[string]bool{}
	}
	maps.Copy(n.ranBefore, other.ranBefore)
	return &n
}

// foreseen stands for the time at which a planned change will happen: later
// than everything that was found. The last second that a time.Time's Unix form
// prints in four digits of a year.
var foreseen = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// with returns a copy of m with one more entry.
func with[V any](m map[string]V, key string, v V) map[string]V {
	c := make(map[string]V, len(m)+1)
	maps.Copy(c, m)
	c[key] = v
	return c
}
