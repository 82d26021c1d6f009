package tasks

import (
	"maps"
	"slices"
)

// kinds names every kind of task. A new kind is one file and one line here.
func kinds() map[string]func() Task {
	return map[string]func() Task{
		"settings":           func() Task { return new(Settings) },
		"audit_logging":      func() Task { return new(AuditLogging) },
		"hba":                func() Task { return new(HBA) },
		"ident":              func() Task { return new(Ident) },
		"file":               func() Task { return new(File) },
		"certificate":        func() Task { return new(Certificate) },
		"ca_file":            func() Task { return new(CAFile) },
		"crl_file":           func() Task { return new(CRLFile) },
		"package":            func() Task { return new(Package) },
		"service":            func() Task { return new(Service) },
		"command":            func() Task { return new(Command) },
		"psql":               func() Task { return new(Psql) },
		"role":               func() Task { return new(Role) },
		"database":           func() Task { return new(Database) },
		"schema":             func() Task { return new(Schema) },
		"extension":          func() Task { return new(Extension) },
		"grant":              func() Task { return new(Grant) },
		"default_privileges": func() Task { return new(DefaultPrivileges) },
		"policy":             func() Task { return new(Policy) },
		"owner":              func() Task { return new(Owner) },
		"verify":             func() Task { return new(Verify) },
	}
}

// Kinds returns the names of all kinds, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds())) }

// Schemas returns a zero value of each kind's struct by its name, for the JSON
// Schema of fleet.toml.
func Schemas() map[string]any {
	m := map[string]any{}
	for name, make := range kinds() {
		m[name] = make()
	}
	return m
}
