package transport

import (
	"slices"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
)

// askContents asks for what one database holds.
func askContents(r facts.Contents) *question {
	x := newContentsReader()
	return &question{
		read: r, begin: beginReading, end: endReading, list: append(reading(), x.statements()...),
		answer: func(r reply) (any, error) {
			if r.failed != nil {
				return facts.ContentsInfo{Problem: lockProblem(r.failed, "a table of it that has policies")}, nil
			}
			return facts.ContentsInfo{Contents: x.c}, nil
		},
	}
}

// A contentsReader fills in a Contents.
type contentsReader struct {
	c       *catalog.Contents
	acls    acls
	byOID   map[string]*catalog.Relation
	schemas map[string]string // name by OID
}

func newContentsReader() *contentsReader {
	return &contentsReader{acls: acls{}, byOID: map[string]*catalog.Relation{}, schemas: map[string]string{}, c: &catalog.Contents{
		Schemas: map[string]*catalog.Schema{}, Relations: map[catalog.Name]*catalog.Relation{}, Functions: map[catalog.Signature]*catalog.Function{},
		Extensions: map[string]*catalog.Extension{},
	}}
}

// statements returns what to ask. Everything is joined to the schemas that are
// not the system's, which are few, and refers to relations by OID.
func (x *contentsReader) statements() []statement {
	const (
		schemas = `(SELECT oid, nspname, nspowner, nspacl FROM pg_catalog.pg_namespace
			WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp_|toast_temp_)')`
		relations = `(SELECT c.* FROM pg_catalog.pg_class c JOIN ` + schemas + ` n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S'))`
		routines  = `(SELECT p.* FROM pg_catalog.pg_proc p JOIN ` + schemas + ` n ON n.oid = p.pronamespace)`
	)
	// member is the extension that an object of a catalog belongs to.
	member := func(class, object string) string {
		return `LEFT JOIN (SELECT d.objid, e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
			WHERE d.classid = 'pg_catalog.` + class + `'::pg_catalog.regclass AND d.objsubid = 0
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e') x ON x.objid = ` + object
	}
	return []statement{
		x.acls.statement(`SELECT nspacl FROM ` + schemas + ` n UNION ALL SELECT relacl FROM ` + relations + ` c UNION ALL SELECT proacl FROM ` + routines + ` p
			UNION ALL SELECT defaclacl FROM pg_catalog.pg_default_acl
			UNION ALL SELECT attacl FROM pg_catalog.pg_attribute WHERE attacl IS NOT NULL`),
		{sql: `SELECT n.oid, n.nspname, o.rolname, n.nspacl, pg_catalog.obj_description(n.oid, 'pg_namespace')
			FROM ` + schemas + ` n LEFT JOIN pg_catalog.pg_authid o ON o.oid = n.nspowner`,
			columns: 5, read: x.schema},
		{sql: `SELECT c.oid, c.relnamespace, c.relname, c.relkind, o.rolname, c.relacl, c.relrowsecurity, c.relforcerowsecurity, x.extname
			FROM ` + relations + ` c LEFT JOIN pg_catalog.pg_authid o ON o.oid = c.relowner ` + member("pg_class", "c.oid"),
			columns: 9, read: x.relation},
		{sql: `SELECT c.oid, pg_catalog.array_to_json(pg_catalog.array_agg(a.attname ORDER BY a.attnum))
			FROM ` + relations + ` c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
			WHERE c.relkind <> 'S' AND a.attnum > 0 AND NOT a.attisdropped GROUP BY c.oid`,
			columns: 2, read: x.columns},
		{sql: `SELECT a.attrelid, a.attname, a.attacl FROM pg_catalog.pg_attribute a JOIN ` + relations + ` c ON c.oid = a.attrelid
			WHERE a.attacl IS NOT NULL AND NOT a.attisdropped`,
			columns: 3, read: x.columnACL},
		// 'a' is of a serial column or OWNED BY, 'i' of an identity column.
		{sql: `SELECT d.objid, d.refobjid FROM pg_catalog.pg_depend d JOIN ` + relations + ` c ON c.oid = d.objid
			WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0
			AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')`,
			columns: 2, read: x.partOf},
		{sql: `SELECT l.polrelid, l.polname, l.polpermissive, l.polcmd,
			pg_catalog.array_to_json(ARRAY(SELECT CASE u WHEN 0 THEN '' ELSE coalesce(r.rolname, u::pg_catalog.text) END
				FROM pg_catalog.unnest(l.polroles) u LEFT JOIN pg_catalog.pg_authid r ON r.oid = u)),
			pg_catalog.pg_get_expr(l.polqual, l.polrelid), pg_catalog.pg_get_expr(l.polwithcheck, l.polrelid)
			FROM pg_catalog.pg_policy l JOIN ` + relations + ` c ON c.oid = l.polrelid`,
			columns: 7, read: x.policy},
		{sql: `SELECT p.pronamespace, p.proname,
			(SELECT pg_catalog.string_agg(pg_catalog.format_type(t.t, NULL), ', ' ORDER BY t.n) FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY t(t, n)),
			p.prokind, o.rolname, p.proacl, x.extname
			FROM ` + routines + ` p LEFT JOIN pg_catalog.pg_authid o ON o.oid = p.proowner ` + member("pg_proc", "p.oid"),
			columns: 7, read: x.function},
		{sql: `SELECT e.extname, e.extversion, n.nspname, e.extrelocatable, o.rolname FROM pg_catalog.pg_extension e
			LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace LEFT JOIN pg_catalog.pg_authid o ON o.oid = e.extowner`,
			columns: 5, read: x.extension},
		{sql: `SELECT o.rolname, n.nspname, d.defaclobjtype, d.defaclacl FROM pg_catalog.pg_default_acl d
			JOIN pg_catalog.pg_authid o ON o.oid = d.defaclrole LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace ORDER BY 1, 2, 3`,
			columns: 4, read: x.defaults},
	}
}

func (x *contentsReader) schema(r row) error {
	acl, err := x.acls.of(r[3])
	x.schemas[r.text(0)] = r.text(1)
	x.c.Schemas[r.text(1)] = &catalog.Schema{Name: r.text(1), Owner: r.text(2), ACL: acl, Comment: r.text(4)}
	return err
}

func (x *contentsReader) relation(r row) error {
	acl, err := x.acls.of(r[5])
	relation := catalog.Relation{
		Name: catalog.Name{Schema: x.schemas[r.text(1)], Name: r.text(2)}, Kind: r[3][0], Owner: r.text(4), ACL: acl,
		RLS: r.bool(6), Force: r.bool(7), Extension: r.text(8),
	}
	x.byOID[r.text(0)], x.c.Relations[relation.Name] = &relation, &relation
	return err
}

// of returns a relation by its OID, or one that nobody sees if it is not among
// those that were read.
func (x *contentsReader) of(oid []byte) *catalog.Relation {
	if found := x.byOID[string(oid)]; found != nil {
		return found
	}
	return &catalog.Relation{}
}

func (x *contentsReader) columns(r row) error {
	var err error
	x.of(r[0]).Columns, err = r.list(1)
	return err
}

func (x *contentsReader) columnACL(r row) error {
	acl, err := x.acls.of(r[2])
	relation := x.of(r[0])
	if relation.ColumnACL == nil {
		relation.ColumnACL = map[string]catalog.ACL{}
	}
	relation.ColumnACL[r.text(1)] = acl
	return err
}

func (x *contentsReader) partOf(r row) error {
	x.of(r[0]).PartOf = x.of(r[1]).Name
	return nil
}

func (x *contentsReader) policy(r row) error {
	roles, err := r.list(4)
	slices.Sort(roles)
	p := catalog.Policy{Name: r.text(1), Permissive: r.bool(2), Roles: roles, Using: r.text(5), WithCheck: r.text(6)}
	switch r.text(3) { // pg_policy.polcmd
	case "*":
		p.Command = "ALL"
	case "r":
		p.Command = "SELECT"
	case "a":
		p.Command = "INSERT"
	case "w":
		p.Command = "UPDATE"
	case "d":
		p.Command = "DELETE"
	}
	relation := x.of(r[0])
	if relation.Policies == nil {
		relation.Policies = map[string]*catalog.Policy{}
	}
	relation.Policies[p.Name] = &p
	return err
}

func (x *contentsReader) function(r row) error {
	acl, err := x.acls.of(r[5])
	f := catalog.Function{
		Signature: catalog.Signature{Schema: x.schemas[r.text(0)], Name: r.text(1), Args: r.text(2)},
		Kind:      r[3][0], Owner: r.text(4), ACL: acl, Extension: r.text(6),
	}
	x.c.Functions[f.Signature] = &f
	return err
}

func (x *contentsReader) extension(r row) error {
	x.c.Extensions[r.text(0)] = &catalog.Extension{Name: r.text(0), Version: r.text(1), Schema: r.text(2), Relocatable: r.bool(3), Owner: r.text(4)}
	return nil
}

func (x *contentsReader) defaults(r row) error {
	kind := map[string]catalog.Kind{"r": catalog.Table, "S": catalog.Sequence, "f": catalog.Routine, "T": catalog.Type, "n": catalog.SchemaKind}[r.text(2)]
	if kind == "" {
		return nil // large objects, from 18 on
	}
	acl, err := x.acls.of(r[3])
	x.c.Defaults = append(x.c.Defaults, catalog.DefaultACL{Role: r.text(0), Schema: r.text(1), Kind: kind, ACL: acl})
	return err
}
