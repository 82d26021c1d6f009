package tasks

import (
	"path"
	"slices"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// siblings returns the instance's tasks that are carried out on a server with
// its role, in the order of the list, the task itself among them. What must not
// depend on the order of the list is decided by what all of them declare.
func (c *Common) siblings(s *State) []*Bound {
	return slices.DeleteFunc(slices.Clone(c.list), func(b *Bound) bool {
		skip, err := b.skipped(s)
		return !b.Selected || skip || err != nil
	})
}

// upcoming returns the siblings that come after the task. Those before it have
// been foreseen already.
func (c *Common) upcoming(s *State) []*Bound {
	all := c.siblings(s)
	at := slices.IndexFunc(all, func(b *Bound) bool { return commonOf(b.Task) == c })
	return all[at+1:]
}

func commonOf(t Task) *Common { return t.(interface{ common() *Common }).common() }

// declared returns the State with the fragments of all settings tasks that are
// still to come: what the configuration will be in the end, but for the
// libraries that lists of several tasks have in common.
func (c *Common) declared(s *State) *State {
	n := s
	for _, b := range c.upcoming(s) {
		t := settingsOf(b.Task)
		if t == nil {
			continue
		}
		fragment := t.fragment(s)
		f := facts.FileInfo{Path: fragment}
		if t.State != "absent" {
			var values []postgres.ConfValue
			for _, p := range t.Settings {
				values = append(values, postgres.ConfValue{Name: p.name, Value: p.value})
			}
			f.Exists, f.Regular, f.Content = true, true, []byte(postgres.RenderConf("", values))
			if include := t.includeDir(s.instance, n); include != nil {
				n = n.Foresee(*include)
			}
			if reset, err := t.resetAuto(n); err == nil { // an error of it is its own plan's
				for _, change := range reset {
					n = n.Foresee(change)
				}
			}
		}
		next := *n
		next.files = with(n.files, fragment, f)
		n = &next
	}
	return n
}

// rewritten reports whether a settings task that is still to come decides what
// is in a file, so that what it holds now does not count.
func (c *Common) rewritten(s *State, file string) bool {
	return slices.ContainsFunc(c.upcoming(s), func(b *Bound) bool {
		t := settingsOf(b.Task)
		return t != nil && t.fragment(s) == file
	})
}

// fragment returns the path of the task's own file.
func (t *Settings) fragment(s *State) string {
	return path.Join(s.paths().confDir, "conf.d", t.File.Value)
}

// notStarted warns, once for an instance, that its server does not answer and
// that no task starts it, so that what is written waits.
func (c *Common) notStarted(s *State) []string {
	if s.Server() != nil || s.restarted {
		return nil
	}
	first := true
	for _, b := range c.siblings(s) {
		switch t := b.Task.(type) {
		case *Service:
			if t.own(s.instance) {
				return nil
			}
		case *Settings, *AuditLogging, *HBA, *Ident, *Certificate:
			if first && commonOf(b.Task) != c {
				return nil // that one says it
			}
			first = false
		}
	}
	return []string{"the server does not answer (" + s.ServerProblem() + "), and no task of kind \"service\" starts it: what is written waits until it runs"}
}

// together reports whether there is a role with which a server carries out both
// tasks.
func together(a, b *Bound) bool {
	return a.forRole("primary") && b.forRole("primary") || a.forRole("standby") && b.forRole("standby")
}

func (b *Bound) forRole(role string) bool {
	if (b.On == "primary" || b.On == "standby") && b.On != role {
		return false
	}
	of := func(inventory.InstanceID) (string, bool) { return role, true }
	return b.Limit.Match(b.Instance, of) != inventory.No
}
