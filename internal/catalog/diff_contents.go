package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// contents compares what one database holds.
func (d *differ) contents(db string, a, b *Contents) {
	for _, name := range eitherKey(a.Schemas, b.Schemas) {
		d.schema("schema "+postgres.QuoteIdent(name), a.Schemas[name], b.Schemas[name])
	}
	for _, name := range eitherKey(a.Extensions, b.Extensions) {
		d.extension(subjectExtension(name), a.Extensions[name], b.Extensions[name])
	}
	relations := maps.Clone(a.Relations)
	maps.Copy(relations, b.Relations)
	for name := range relations {
		d.relation(a.Relations[name], b.Relations[name])
	}
	functions := maps.Clone(a.Functions)
	maps.Copy(functions, b.Functions)
	for signature := range functions {
		d.function(a.Functions[signature], b.Functions[signature])
	}
	d.defaults(db, a, b)
}

func (d *differ) schema(subject string, a, b *Schema) {
	switch {
	case a == nil:
		d.say("%s is made, owner %s", subject, postgres.QuoteIdent(b.Owner))
		a = &Schema{Owner: b.Owner}
	case b == nil:
		d.say("%s is dropped", subject)
		return
	}
	d.owner(subject, a.Owner, b.Owner)
	d.comment(subject, a.Comment, b.Comment)
	d.acl(subject, SchemaKind, a.Owner, a.ACL, b.Owner, b.ACL)
}

func (d *differ) extension(subject string, a, b *Extension) {
	switch {
	case a == nil:
		d.say("%s is made, version %s, in schema %s", subject, b.Version, postgres.QuoteIdent(b.Schema))
		return
	case b == nil:
		d.say("%s is dropped", subject)
		return
	}
	d.owner(subject, a.Owner, b.Owner)
	d.field(subject, "version", a.Version, b.Version)
	d.field(subject, "schema", a.Schema, b.Schema)
}

func (d *differ) relation(a, b *Relation) {
	if a != nil && b != nil && a.Kind != b.Kind {
		d.relation(a, nil)
		a = nil
	}
	switch {
	case a == nil:
		if b.Extension != "" {
			return
		}
		d.say("%s is made, owner %s", b.subject(), postgres.QuoteIdent(b.Owner))
		a = &Relation{Name: b.Name, Kind: b.Kind, Owner: b.Owner, Columns: b.Columns}
	case b == nil:
		if a.Extension == "" {
			d.say("%s is dropped", a.subject())
		}
		return
	}
	subject, kind := b.subject(), b.object().Kind
	d.owner(subject, a.Owner, b.Owner)
	d.acl(subject, kind, a.Owner, a.ACL, b.Owner, b.ACL)
	for _, column := range eitherKey(a.ColumnACL, b.ColumnACL) {
		d.acl(subject+" ("+postgres.QuoteIdent(column)+")", Column, a.Owner, a.ColumnACL[column], b.Owner, b.ColumnACL[column])
	}
	if len(a.Columns) > 0 && len(b.Columns) > 0 {
		d.columns(subject, a.Columns, b.Columns)
	}
	d.flag(subject, "row level security", a.RLS, b.RLS)
	d.flag(subject, "force row level security", a.Force, b.Force)
	for _, name := range eitherKey(a.Policies, b.Policies) {
		d.policy("policy "+postgres.QuoteIdent(name)+" on "+b.String(), a.Policies[name], b.Policies[name])
	}
}

func (d *differ) columns(subject string, a, b []string) {
	for _, c := range b {
		if !slices.Contains(a, c) {
			d.say("%s: column %s is added", subject, postgres.QuoteIdent(c))
		}
	}
	for _, c := range a {
		if !slices.Contains(b, c) {
			d.say("%s: column %s is dropped", subject, postgres.QuoteIdent(c))
		}
	}
}

// subject names a relation by what it is: "materialized view app.totals".
func (r *Relation) subject() string {
	kind := "table"
	switch r.Kind {
	case 'v':
		kind = "view"
	case 'm':
		kind = "materialized view"
	case 'f':
		kind = "foreign table"
	case 'S':
		kind = "sequence"
	}
	return kind + " " + r.String()
}

func (d *differ) policy(subject string, a, b *Policy) {
	switch {
	case a == nil:
		d.say("%s is made: %s", subject, strings.TrimPrefix(b.clauses(), " "))
		return
	case b == nil:
		d.say("%s is dropped", subject)
		return
	}
	was, now := *a, *b
	if a.Foreseen || b.Foreseen {
		was.Using, was.WithCheck, now.Using, now.WithCheck = "", "", "", ""
	}
	if was.clauses() != now.clauses() {
		d.say("%s: %s, it was %s", subject, strings.TrimPrefix(now.clauses(), " "), strings.TrimPrefix(was.clauses(), " "))
	}
}

func (d *differ) function(a, b *Function) {
	switch {
	case a == nil:
		if b.Extension != "" {
			return
		}
		d.say("%s is made, owner %s", b.subject(), postgres.QuoteIdent(b.Owner))
		a = &Function{Owner: b.Owner}
	case b == nil:
		if a.Extension == "" {
			d.say("%s is dropped", a.subject())
		}
		return
	}
	d.owner(b.subject(), a.Owner, b.Owner)
	d.acl(b.subject(), Routine, a.Owner, a.ACL, b.Owner, b.ACL)
}

func (f *Function) subject() string {
	kind := "function"
	switch f.Kind {
	case 'p':
		kind = "procedure"
	case 'a':
		kind = "aggregate"
	}
	return kind + " " + f.String()
}

func (d *differ) defaults(db string, a, b *Contents) {
	type key struct {
		role, schema string
		kind         Kind
	}
	keys := map[key]bool{}
	for _, x := range slices.Concat(a.Defaults, b.Defaults) {
		keys[key{x.Role, x.Schema, x.Kind}] = true
	}
	for k := range keys {
		if d.b.Roles[k.role] == nil || k.schema != "" && b.Schemas[k.schema] == nil {
			continue // went with its role or schema
		}
		subject := AlterDefaultPrivileges{Role: k.role, Schema: k.schema}.Subject()
		d.acl(fmt.Sprintf("%s on %ss", subject, strings.ToLower(string(k.kind))), k.kind,
			k.role, d.a.EffectiveDefault(db, k.role, k.schema, k.kind), k.role, d.b.EffectiveDefault(db, k.role, k.schema, k.kind))
	}
}
