package catalog

import (
	"cmp"
	"fmt"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// CreateDatabase makes a database from a template. Empty fields of Database are
// left to the server, and ConnLimit 0 too.
type CreateDatabase struct {
	Database Database
	From     string // the template; "" is template1
	Major    int
	// Closed makes it with CONNECTION LIMIT 0, whatever Database says, with which
	// the server lets nobody connect but superusers (CREATE DATABASE in the manual):
	// PUBLIC may connect to a new one, and no transaction can make one and take that
	// away.
	Closed bool
}

// SQL names the fields that are given.
func (s CreateDatabase) SQL() string {
	d := s.Database
	sql := "CREATE DATABASE " + postgres.QuoteIdent(d.Name)
	ident := func(word, value string) {
		if value != "" {
			sql += " " + word + " " + postgres.QuoteIdent(value)
		}
	}
	literal := func(word, value string) {
		if value != "" {
			sql += " " + word + " " + postgres.QuoteLiteral(value)
		}
	}
	ident("OWNER", d.Owner)
	ident("TEMPLATE", s.From)
	literal("ENCODING", d.Encoding)
	if s.Major >= 15 {
		ident("LOCALE_PROVIDER", d.Provider)
		switch d.Provider {
		case "icu":
			literal("ICU_LOCALE", d.Locale)
		case "builtin":
			literal("BUILTIN_LOCALE", d.Locale)
		}
	}
	literal("LC_COLLATE", d.Collate)
	literal("LC_CTYPE", d.Ctype)
	ident("TABLESPACE", d.Tablespace)
	switch {
	case s.Closed:
		sql += " CONNECTION LIMIT 0"
	case d.ConnLimit != 0:
		sql += fmt.Sprintf(" CONNECTION LIMIT %d", d.ConnLimit)
	}
	if d.Template {
		sql += " IS_TEMPLATE true"
	}
	return sql
}

// Subject is the database.
func (s CreateDatabase) Subject() string { return "database " + postgres.QuoteIdent(s.Database.Name) }

// Alone is true: CREATE DATABASE cannot run inside a transaction block.
func (s CreateDatabase) Alone() bool { return true }

// Apply adds the database, with NULL for its ACL whatever that of its template
// is, and with what the template holds.
func (s CreateDatabase) Apply(c *Cluster, _ string) {
	d := s.Database
	from := cmp.Or(s.From, "template1")
	if t := c.Databases[from]; t != nil {
		d.Encoding = cmp.Or(d.Encoding, t.Encoding)
		d.Collate = cmp.Or(d.Collate, t.Collate)
		d.Ctype = cmp.Or(d.Ctype, t.Ctype)
		if d.Provider == "" || d.Provider == t.Provider {
			d.Locale = cmp.Or(d.Locale, t.Locale)
		}
		d.Provider = cmp.Or(d.Provider, t.Provider)
		d.Tablespace = cmp.Or(d.Tablespace, t.Tablespace)
	}
	d.Owner = cmp.Or(d.Owner, c.Bootstrap)
	d.AllowConn, d.ConnLimit = true, cmp.Or(d.ConnLimit, -1)
	if s.Closed {
		d.ConnLimit = 0
	}
	d.ACL, d.Comment = nil, ""
	c.Databases[d.Name] = &d
	if c.Contents == nil {
		c.Contents = map[string]*Contents{}
	}
	c.Contents[d.Name] = c.contentsFrom(from)
}

// contentsFrom returns what a database made from a template holds.
func (c *Cluster) contentsFrom(template string) *Contents {
	if held := c.Contents[template]; held != nil {
		return held // never modified in place
	}
	fresh := DefaultContents(c.Version, c.Bootstrap)
	for _, other := range c.Contents {
		if other != nil && other.Available != nil {
			fresh.Available = other.Available // files of the host, the same for all databases
			break
		}
	}
	return fresh
}

// AlterDatabase changes a database's connection limit.
type AlterDatabase struct {
	Name      string
	ConnLimit int
}

// SQL is ALTER DATABASE.
func (s AlterDatabase) SQL() string {
	return fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", postgres.QuoteIdent(s.Name), s.ConnLimit)
}

// Subject is the database.
func (s AlterDatabase) Subject() string { return "database " + postgres.QuoteIdent(s.Name) }

// Alone is false.
func (s AlterDatabase) Alone() bool { return false }

// Apply changes the limit.
func (s AlterDatabase) Apply(c *Cluster, _ string) {
	if held := c.Databases[s.Name]; held != nil {
		d := *held
		d.ConnLimit = s.ConnLimit
		c.Databases[s.Name] = &d
	}
}

// CreateSchema makes a schema.
type CreateSchema struct{ Name, Owner string }

// SQL is CREATE SCHEMA.
func (s CreateSchema) SQL() string {
	sql := "CREATE SCHEMA " + postgres.QuoteIdent(s.Name)
	if s.Owner != "" {
		sql += " AUTHORIZATION " + postgres.QuoteIdent(s.Owner)
	}
	return sql
}

// Subject is the schema.
func (s CreateSchema) Subject() string { return "schema " + postgres.QuoteIdent(s.Name) }

// Alone is false.
func (s CreateSchema) Alone() bool { return false }

// Apply adds the schema, with its owner's default privileges.
func (s CreateSchema) Apply(c *Cluster, in string) {
	if held := c.edit(in); held != nil {
		owner := cmp.Or(s.Owner, c.Bootstrap)
		held.Schemas[s.Name] = &Schema{Name: s.Name, Owner: owner, ACL: c.newACL(in, owner, "", SchemaKind)}
	}
}

// DropSchema removes an empty schema.
type DropSchema struct{ Name string }

// SQL is DROP SCHEMA.
func (s DropSchema) SQL() string { return "DROP SCHEMA " + postgres.QuoteIdent(s.Name) }

// Subject is the schema.
func (s DropSchema) Subject() string { return "schema " + postgres.QuoteIdent(s.Name) }

// Alone is false.
func (s DropSchema) Alone() bool { return false }

// Apply removes the schema and the default privileges for it.
func (s DropSchema) Apply(c *Cluster, in string) {
	if held := c.edit(in); held != nil {
		held.dropSchema(s.Name)
	}
}
