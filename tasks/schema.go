package tasks

import (
	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Schema is a schema and its owner.
type Schema struct {
	Common
	Database inventory.Positioned[string] `toml:"database" required:"true" doc:"The database that it is in."`
	Schema   inventory.Positioned[string] `toml:"schema" required:"true" doc:"The schema's name."`
	Owner    inventory.Positioned[string] `toml:"owner" doc:"The role that owns it. Left out, it is left as it is."`
	Comment  *string                      `toml:"comment" doc:"COMMENT ON SCHEMA. Left out, it is left as it is."`
	State    string                       `toml:"state" enum:"present,absent" doc:"absent drops it; the server refuses that while something is in it."`
}

// Check finds mistakes in names.
func (t *Schema) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	checkName("database", t.Database, &errs)
	checkName("schema", t.Schema, &errs)
	checkName("owner", t.Owner, &errs)
	return errs
}

// Reads asks for the catalogs.
func (t *Schema) Reads(in inventory.Instance, _ *State) []facts.Read {
	return catalogReads(in, t.Database.Value)
}

// Plan compares the schema.
func (t *Schema) Plan(in inventory.Instance, s *State) (Outcome, error) {
	database := t.Database.Value
	return t.planSQL(s, []string{database}, func(x *script, _ *Outcome) error {
		held, err := needDatabase(x.catalogs, s, database, t.Database.Pos())
		if err != nil {
			return err
		}
		if err := needRole(x.catalogs, t.Owner.Value, t.Owner.Pos()); err != nil {
			return err
		}
		name := t.Schema.Value
		found := held.Schemas[name]
		switch {
		case t.State == "absent":
			if found != nil {
				x.do(database, catalog.DropSchema{Name: name})
			}
			return nil
		case found == nil:
			x.do(database, catalog.CreateSchema{Name: name, Owner: t.Owner.Value})
		case t.Owner.Value != "" && found.Owner != t.Owner.Value:
			x.do(database, catalog.AlterOwner{Object: catalog.Object{Kind: catalog.SchemaKind, Name: name}, Owner: t.Owner.Value})
		}
		if t.Comment != nil && x.catalogs.Contents[database].Schemas[name].Comment != *t.Comment {
			x.do(database, catalog.SetComment{On: "SCHEMA", Name: name, Text: *t.Comment})
		}
		return nil
	})
}
