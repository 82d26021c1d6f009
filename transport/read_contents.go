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
	c     *catalog.Contents
	acls  acls
	byOID map[string]*catalog.Relation
	// Names by OID: of schemas, of extensions, and of the extension that a
	// relation or a function belongs to.
	schemas, extensions, members map[string]string
}

func newContentsReader() *contentsReader {
	return &contentsReader{acls: acls{}, byOID: map[string]*catalog.Relation{}, schemas: map[string]string{}, extensions: map[string]string{}, members: map[string]string{}, c: &catalog.Contents{
		Schemas: map[string]*catalog.Schema{}, Relations: map[catalog.Name]*catalog.Relation{}, Functions: map[catalog.Signature]*catalog.Function{},
		Extensions: map[string]*catalog.Extension{},
	}}
}

// statements returns what to ask. Small tables are read by themselves and put
// together here: what a new session does for the first time, such as planning a
// join of system tables, costs the server more than the rows. Objects refer to
// each other by OID; what is not the system's has one from 16384 on
// (FirstNormalObjectId), and what lies in a schema of the system's all the same,
// such as a temporary table, is left out by x.schemas.
func (x *contentsReader) statements() []statement {
	const own = "oid >= 16384"
	return []statement{
		{sql: `SELECT n.oid, n.nspname, pg_catalog.pg_get_userbyid(n.nspowner), pg_catalog.array_to_json(n.nspacl), c.description
			FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_description c ON c.objoid = n.oid AND c.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
			WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'`,
			columns: 5, read: x.schema},
		{sql: `SELECT e.oid, e.extname, e.extversion, n.nspname, e.extrelocatable, pg_catalog.pg_get_userbyid(e.extowner) FROM pg_catalog.pg_extension e
			LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace`,
			columns: 6, read: x.extension},
		{sql: `SELECT objid, refobjid FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND deptype = 'e'
			AND classid IN ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass) AND objsubid = 0`,
			columns: 2, read: x.member},
		{sql: `SELECT oid, relnamespace, relname, relkind, pg_catalog.pg_get_userbyid(relowner), pg_catalog.array_to_json(relacl), relrowsecurity, relforcerowsecurity
			FROM pg_catalog.pg_class WHERE ` + own + ` AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')`,
			columns: 8, read: x.relation},
		{sql: `SELECT attrelid, pg_catalog.array_to_json(pg_catalog.array_agg(attname ORDER BY attnum))
			FROM pg_catalog.pg_attribute WHERE attrelid >= 16384 AND attnum > 0 AND NOT attisdropped GROUP BY attrelid`,
			columns: 2, read: x.columns},
		{sql: `SELECT attrelid, attname, pg_catalog.array_to_json(attacl) FROM pg_catalog.pg_attribute WHERE attrelid >= 16384 AND attacl IS NOT NULL AND NOT attisdropped`,
			columns: 3, read: x.columnACL},
		// 'a' is of a serial column or OWNED BY, 'i' of an identity column.
		{sql: `SELECT objid, refobjid FROM pg_catalog.pg_depend WHERE objid IN (SELECT seqrelid FROM pg_catalog.pg_sequence)
			AND classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objsubid = 0
			AND refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND refobjsubid > 0 AND deptype IN ('a', 'i')`,
			columns: 2, read: x.partOf},
		{sql: `SELECT polrelid, polname, polpermissive, polcmd,
			pg_catalog.array_to_json(ARRAY(SELECT CASE u WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(u) END FROM pg_catalog.unnest(polroles) u)),
			pg_catalog.pg_get_expr(polqual, polrelid), pg_catalog.pg_get_expr(polwithcheck, polrelid)
			FROM pg_catalog.pg_policy`,
			columns: 7, read: x.policy},
		{sql: `SELECT oid, pronamespace, proname,
			(SELECT pg_catalog.string_agg(pg_catalog.format_type(t.t, NULL), ', ' ORDER BY t.n) FROM pg_catalog.unnest(proargtypes) WITH ORDINALITY t(t, n)),
			prokind, pg_catalog.pg_get_userbyid(proowner), pg_catalog.array_to_json(proacl)
			FROM pg_catalog.pg_proc WHERE ` + own,
			columns: 7, read: x.function},
		{sql: `SELECT pg_catalog.pg_get_userbyid(d.defaclrole), n.nspname, d.defaclobjtype, pg_catalog.array_to_json(d.defaclacl) FROM pg_catalog.pg_default_acl d
			LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace ORDER BY 1, 2, 3`,
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
	schema, ok := x.schemas[r.text(1)]
	if !ok {
		return nil
	}
	acl, err := x.acls.of(r[5])
	relation := catalog.Relation{
		Name: catalog.Name{Schema: schema, Name: r.text(2)}, Kind: r[3][0], Owner: r.text(4), ACL: acl,
		RLS: r.bool(6), Force: r.bool(7), Extension: x.members[r.text(0)],
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
	relation := x.of(r[0])
	if relation.Kind == 'S' {
		return nil // they are the server's own
	}
	var err error
	relation.Columns, err = r.list(1)
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
	schema, ok := x.schemas[r.text(1)]
	if !ok {
		return nil
	}
	acl, err := x.acls.of(r[6])
	f := catalog.Function{
		Signature: catalog.Signature{Schema: schema, Name: r.text(2), Args: r.text(3)},
		Kind:      r[4][0], Owner: r.text(5), ACL: acl, Extension: x.members[r.text(0)],
	}
	x.c.Functions[f.Signature] = &f
	return err
}

func (x *contentsReader) extension(r row) error {
	x.extensions[r.text(0)] = r.text(1)
	x.c.Extensions[r.text(1)] = &catalog.Extension{Name: r.text(1), Version: r.text(2), Schema: r.text(3), Relocatable: r.bool(4), Owner: r.text(5)}
	return nil
}

func (x *contentsReader) member(r row) error {
	x.members[r.text(0)] = x.extensions[r.text(1)]
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
