package catalog

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// CreateExtension makes an extension; empty fields are left to the server.
type CreateExtension struct{ Name, Version, Schema string }

// SQL is CREATE EXTENSION.
func (s CreateExtension) SQL() string {
	sql := "CREATE EXTENSION " + postgres.QuoteIdent(s.Name)
	if s.Schema != "" {
		sql += " SCHEMA " + postgres.QuoteIdent(s.Schema)
	}
	if s.Version != "" {
		sql += " VERSION " + postgres.QuoteLiteral(s.Version)
	}
	return sql
}

// Subject is the extension.
func (s CreateExtension) Subject() string { return subjectExtension(s.Name) }

// Alone is false.
func (s CreateExtension) Alone() bool { return false }

// Apply adds the extension, and nothing of what it brings: that is known once it
// is there. Without a schema it is taken to go to public.
func (s CreateExtension) Apply(c *Cluster, in string) {
	held := c.edit(in)
	if held == nil {
		return
	}
	version := s.Version
	if versions := held.Available[s.Name]; version == "" && len(versions) > 0 {
		version = versions[0]
	}
	held.Extensions[s.Name] = &Extension{Name: s.Name, Version: version, Schema: cmp.Or(s.Schema, "public"), Owner: c.Bootstrap}
}

// UpdateExtension is ALTER EXTENSION … UPDATE TO.
type UpdateExtension struct{ Name, Version string }

// SQL is ALTER EXTENSION.
func (s UpdateExtension) SQL() string {
	sql := "ALTER EXTENSION " + postgres.QuoteIdent(s.Name) + " UPDATE"
	if s.Version != "" {
		sql += " TO " + postgres.QuoteLiteral(s.Version)
	}
	return sql
}

// Subject is the extension.
func (s UpdateExtension) Subject() string { return subjectExtension(s.Name) }

// Alone is false.
func (s UpdateExtension) Alone() bool { return false }

// Apply changes the version.
func (s UpdateExtension) Apply(c *Cluster, in string) {
	held := c.edit(in)
	if held == nil || held.Extensions[s.Name] == nil {
		return
	}
	e := *held.Extensions[s.Name]
	if versions := held.Available[s.Name]; s.Version == "" && len(versions) > 0 {
		e.Version = versions[0]
	}
	e.Version = cmp.Or(s.Version, e.Version)
	held.Extensions[s.Name] = &e
}

// MoveExtension is ALTER EXTENSION … SET SCHEMA.
type MoveExtension struct{ Name, Schema string }

// SQL is ALTER EXTENSION.
func (s MoveExtension) SQL() string {
	return "ALTER EXTENSION " + postgres.QuoteIdent(s.Name) + " SET SCHEMA " + postgres.QuoteIdent(s.Schema)
}

// Subject is the extension.
func (s MoveExtension) Subject() string { return subjectExtension(s.Name) }

// Alone is false.
func (s MoveExtension) Alone() bool { return false }

// Apply moves the extension with what belongs to it.
func (s MoveExtension) Apply(c *Cluster, in string) {
	held := c.edit(in)
	if held == nil || held.Extensions[s.Name] == nil {
		return
	}
	e := *held.Extensions[s.Name]
	was := e.Schema
	e.Schema = s.Schema
	held.Extensions[s.Name] = &e
	for _, r := range slices.Collect(maps.Values(held.Relations)) {
		if r.Extension == s.Name {
			n := *r
			n.Schema = s.Schema
			delete(held.Relations, r.Name)
			held.Relations[n.Name] = &n
		}
	}
	for _, f := range slices.Collect(maps.Values(held.Functions)) {
		if f.Extension == s.Name {
			n := *f
			n.Schema = s.Schema
			n.Args = strings.ReplaceAll(f.Args, postgres.QuoteIdent(was)+".", postgres.QuoteIdent(s.Schema)+".") // types of its own
			delete(held.Functions, f.Signature)
			held.Functions[n.Signature] = &n
		}
	}
}

// DropExtension removes an extension on which nothing depends.
type DropExtension struct{ Name string }

// SQL is DROP EXTENSION.
func (s DropExtension) SQL() string { return "DROP EXTENSION " + postgres.QuoteIdent(s.Name) }

// Subject is the extension.
func (s DropExtension) Subject() string { return subjectExtension(s.Name) }

// Alone is false.
func (s DropExtension) Alone() bool { return false }

// Apply removes the extension with what belongs to it.
func (s DropExtension) Apply(c *Cluster, in string) {
	if held := c.edit(in); held != nil {
		held.dropExtension(s.Name)
	}
}

func subjectExtension(name string) string { return "extension " + postgres.QuoteIdent(name) }
