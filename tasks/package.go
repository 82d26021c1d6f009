package tasks

import (
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Package installs or removes packages of the host's distribution. It does not
// upgrade: which version runs is for the distribution's own means to decide.
type Package struct {
	Common
	Packages inventory.Strings `toml:"packages" required:"true" doc:"Names of packages, such as \"postgresql-{{ .Instance.Version }}-pgaudit\"."`
	State    string            `toml:"state" enum:"present,absent" doc:"absent removes the packages; their configuration stays."`
}

// Check finds names that no package manager would take.
func (t *Package) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	for i, name := range t.Packages {
		if name == "" || strings.HasPrefix(name, "-") || strings.ContainsFunc(name, notInPackageName) {
			errs.Add(t.atIndex("packages", i), "packages: %q is not the name of a package", name)
		}
	}
	return errs
}

// notInPackageName follows Debian Policy 5.6.1, and what RPM adds to it.
func notInPackageName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("+-._:", r))
}

// Reads asks for each package.
func (t *Package) Reads(inventory.Instance, *State) []facts.Read {
	var reads []facts.Read
	for _, name := range t.Packages {
		reads = append(reads, facts.Package{Name: name})
	}
	return reads
}

// Plan lists the packages that are missing, or still there.
func (t *Package) Plan(_ inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	var names []string
	manager := "apt"
	for _, name := range t.Packages {
		p, err := s.Package(name)
		if err != nil {
			return out, err
		}
		manager = orElse(p.Manager, manager)
		if p.Installed == (t.State == "absent") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return out, nil
	}
	c := Change{Key: "package:" + strings.Join(names, ","), Before: Absent, Intent: "install " + strings.Join(names, ", ") + " (" + manager + ")",
		Action: SetPackages{Manager: manager, Install: names}}
	if t.State == "absent" {
		c.Before, c.After = "installed", Absent
		c.Intent = "remove " + strings.Join(names, ", ") + " (" + manager + ")"
		c.Action = SetPackages{Manager: manager, Remove: names}
	}
	out.Changes = []Change{c}
	return out, nil
}
