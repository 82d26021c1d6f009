package tasks

import (
	"errors"
	"slices"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Owner gives objects to a role.
type Owner struct {
	Common
	objectKeys
	Database inventory.Positioned[string] `toml:"database" doc:"The database that the objects are in."`
	Owner    inventory.Positioned[string] `toml:"owner" required:"true" doc:"The role that is to own them."`
}

// Check wants objects.
func (t *Owner) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	checkName("owner", t.Owner, &errs)
	t.checkDatabase(t.node.Pos, t.Database, &errs)
	return errs
}

// Reads asks for the catalogs.
func (t *Owner) Reads(in inventory.Instance, _ *State) []facts.Read {
	return catalogReads(in, t.Database.Value)
}

// Plan compares the owners. What belongs to an extension, and the sequence of a
// column, which follows its table, are left out of "all in a schema".
func (t *Owner) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var needs []string
	if t.Database.Value != "" {
		needs = []string{t.Database.Value}
	}
	return t.planSQL(s, needs, func(x *script, _ *Outcome) error {
		if err := needRole(x.catalogs, t.Owner.Value, t.Owner.Pos()); err != nil {
			return err
		}
		if t.Database.Value != "" {
			if _, err := needDatabase(x.catalogs, s, t.Database.Value, t.Database.Pos()); err != nil {
				return err
			}
		}
		objects, err := t.objects(x.catalogs, t.Database.Value)
		if err != nil {
			return err
		}
		database := orElse(t.Database.Value, maintenanceDatabase)
		var problems []error
		for _, o := range objects {
			owner, ok := x.catalogs.Owner(t.Database.Value, o)
			if !ok || owner == t.Owner.Value {
				continue
			}
			switch extension, table := belongs(x.catalogs.Contents[t.Database.Value], o); {
			case !t.byName(o) && (extension != "" || table != catalog.Name{}):
			case table != catalog.Name{}:
				problems = append(problems, problemAt(t.at("sequences"), "%s belongs to a column of table %s.%s and follows its owner: name the table", o, table.Schema, table.Name))
			default:
				x.do(database, catalog.AlterOwner{Object: o, Owner: t.Owner.Value})
			}
		}
		return errors.Join(problems...)
	})
}

// byName reports whether an object is one that the task names itself.
func (t *Owner) byName(o catalog.Object) bool {
	all := slices.Concat(t.Tables, t.Sequences, t.Functions, t.Schemas, t.Databases)
	return len(t.AllTables)+len(t.AllSequences)+len(t.AllFunctions) == 0 || slices.ContainsFunc(all, func(p positionedName) bool {
		return p.name == o.Name || p.name == o.Schema+"."+o.Name
	})
}

// belongs returns the extension or, of a sequence, the table that an object
// belongs to.
func belongs(held *catalog.Contents, o catalog.Object) (extension string, table catalog.Name) {
	if held == nil {
		return "", table
	}
	switch o.Kind {
	case catalog.Table, catalog.Sequence:
		if r := held.Relations[catalog.Name{Schema: o.Schema, Name: o.Name}]; r != nil {
			return r.Extension, r.PartOf
		}
	case catalog.Routine:
		if f := held.Functions[catalog.Signature{Schema: o.Schema, Name: o.Name, Args: o.Args}]; f != nil {
			return f.Extension, table
		}
	}
	return "", table
}
