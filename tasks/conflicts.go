package tasks

import (
	"path"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// conflicts finds tasks of one instance that would undo each other: no order of
// them could ever have all that both declare.
func conflicts(list []*Bound) inventory.Errors {
	var errs inventory.Errors
	for i, b := range list {
		for _, a := range list[:i] {
			if !together(a, b) {
				continue
			}
			if t, ok := b.Task.(singular); ok && t.singular() != "" {
				if first, ok := a.Task.(singular); ok && first.singular() == t.singular() {
					errs.Add(b.Pos, "the task %q at %v is about %s as well; put all of it into one of them", a.Name, a.Pos, t.singular())
				}
			}
			switch t := b.Task.(type) {
			case *Settings, *AuditLogging:
				if first := settingsOf(a.Task); first != nil {
					settingsOf(t).conflicts(b, a, first, &errs)
				}
			case *HBA:
				if _, ok := a.Task.(*HBA); ok {
					errs.Add(b.Pos, "the task %q at %v writes the whole of pg_hba.conf as well; put the rules into one of them", a.Name, a.Pos)
				}
			case *Ident:
				if _, ok := a.Task.(*Ident); ok {
					errs.Add(b.Pos, "the task %q at %v writes the whole of pg_ident.conf as well; put the maps into one of them", a.Name, a.Pos)
				}
			}
		}
	}
	return errs
}

// singular is implemented by kinds that declare the whole of one thing, which
// then no second task can declare otherwise.
type singular interface{ singular() string }

func (t *Role) singular() string     { return "role " + t.Role.Value }
func (t *Database) singular() string { return "database " + t.Database.Value }
func (t *Schema) singular() string {
	return "schema " + t.Schema.Value + " of database " + t.Database.Value
}
func (t *Extension) singular() string {
	return "extension " + t.Extension.Value + " of database " + t.Database.Value
}
func (t *Certificate) singular() string { return "the file " + t.File.Value }
func (t *CAFile) singular() string      { return "the file " + t.File.Value }
func (t *CRLFile) singular() string     { return "the file " + t.File.Value }
func (t *Policy) singular() string {
	if t.Policy.Value == "" {
		return ""
	}
	return "policy " + t.Policy.Value + " of " + t.Table.Value + " in database " + t.Database.Value
}

// conflicts finds what the task and one before it declare differently.
func (t *Settings) conflicts(b, a *Bound, first *Settings, errs *inventory.Errors) {
	if t.File.Value == first.File.Value {
		if t.State != "absent" || first.State != "absent" {
			errs.Add(t.File.Pos(), "file: the task %q at %v has the fragment %s as well, and one would undo the other", a.Name, a.Pos, t.File.Value)
		}
		return
	}
	if t.State == "absent" || first.State == "absent" {
		return
	}
	version := majorVersion(b.Instance)
	for _, p := range t.Settings {
		name := postgres.CanonicalName(p.name, version)
		at := slices.IndexFunc(first.Settings, func(x parameter) bool { return postgres.CanonicalName(x.name, version) == name })
		if at < 0 {
			continue
		}
		other := first.Settings[at]
		if isPreload(name) {
			earlier, later, last := other, p, t
			if path.Base(first.File.Value) > path.Base(t.File.Value) {
				earlier, later, last = p, other, first
			}
			if last.exact(name) && !holdsAll(name, later.value, earlier.value) {
				errs.Add(later.node.Pos, "%s: exact leaves out what %v adds to it; name its libraries here, or leave exact out", later.name, earlier.node.Pos)
			}
			continue
		}
		if !strings.EqualFold(strings.TrimSpace(p.value), strings.TrimSpace(other.value)) {
			errs.Add(p.node.Pos, "%s is %s here and %s at %v (task %q), and only one can hold: set it in one of them; limit and when tell hosts apart",
				p.name, shown(p.value), shown(other.value), other.node.Pos, a.Name)
		}
	}
}

// exact reports whether a preload list is written as given.
func (t *Settings) exact(name string) bool {
	return slices.ContainsFunc(t.Exact, func(x string) bool { return strings.EqualFold(x, name) })
}

// holdsAll reports whether a list has every element of another.
func holdsAll(name, list, elements string) bool {
	merged, err := postgres.MergeList(name, list, elements)
	return err == nil && postgres.EqualLists(name, merged, list)
}
