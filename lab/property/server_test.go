//go:build lab

package property

import (
	"fmt"
	"strings"
)

// ours restricts a query to schemas that are not the system's.
const ours = ` n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp%' `

// ask asks the server what there is, with functions and views of its own that
// answer for it: has_table_privilege and its kin, pg_has_role, aclexplode,
// pg_policies. Databases are those whose contents are asked for.
func (h *host) ask(databases ...string) *told {
	h.t.Helper()
	x := newTold()
	h.askShared(x)
	for _, db := range databases {
		h.askContents(x, db)
	}
	return x.finish()
}

func (h *host) askShared(x *told) {
	for _, r := range h.rows("postgres", `SELECT r.rolname, concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit,
		coalesce(CASE WHEN isfinite(rolvaliduntil) THEN to_char(rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') ELSE rolvaliduntil::text END, 'infinity'),
		EXISTS (SELECT FROM pg_authid a WHERE a.oid = r.oid AND a.rolpassword IS NOT NULL)), coalesce(shobj_description(r.oid, 'pg_authid'), '')
		FROM pg_roles r WHERE r.oid >= 16384 OR r.oid = 10`) {
		x.add(r[1], "role %s", r[0])
		x.add(r[2], "comment on role %s", r[0])
	}
	options := "true, true"
	kinds := "'MEMBER', 'USAGE'"
	if h.major >= 16 {
		options = "m.inherit_option, m.set_option"
		kinds += ", 'SET'"
	}
	for _, r := range h.rows("postgres", `SELECT pg_get_userbyid(roleid), pg_get_userbyid(member), CASE WHEN `+fmt.Sprint(h.major >= 16)+` THEN pg_get_userbyid(grantor) ELSE '' END,
		concat_ws(' ', admin_option, `+options+`) FROM pg_auth_members m WHERE member >= 16384`) {
		x.add(r[3], "membership of %s in %s by %s", r[1], r[0], r[2])
	}
	for _, r := range h.rows("postgres", `SELECT a.rolname, b.rolname, array_to_string(ARRAY(SELECT k FROM unnest(ARRAY[`+kinds+`]) k WHERE pg_has_role(a.oid, b.oid, k)), ' ')
		FROM pg_roles a, pg_roles b WHERE a.oid >= 16384 AND b.oid >= 16384 AND a.oid <> b.oid`) {
		x.add(r[2], "what %s may of role %s", r[0], r[1])
	}
	for _, r := range h.rows("postgres", `SELECT datname, pg_get_userbyid(datdba), datconnlimit, coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname !~ '^template'`) {
		o := object{kind: "DATABASE", database: r[0], name: r[0]}
		x.owners[o], x.acls[o] = r[1], nil
		x.add(r[2], "connection limit of database %s", r[0])
		x.add(r[3], "comment on database %s", r[0])
	}
	for _, r := range h.rows("postgres", `SELECT datname, e.grantee = 0, pg_get_userbyid(e.grantee), pg_get_userbyid(e.grantor), privilege_type, is_grantable
		FROM pg_database d, aclexplode(coalesce(datacl, acldefault('d', datdba))) e WHERE datname !~ '^template'`) {
		x.give(object{kind: "DATABASE", database: r[0], name: r[0]}, r[1:])
	}
	for _, r := range h.rows("postgres", `SELECT coalesce(pg_get_userbyid(nullif(setrole, 0)), ''), coalesce((SELECT datname FROM pg_database d WHERE d.oid = setdatabase), ''),
		split_part(c, '=', 1), substr(c, strpos(c, '=') + 1) FROM pg_db_role_setting, unnest(setconfig) c`) {
		x.add(r[3], "setting %s of role %q in database %q", r[2], r[0], r[1])
	}
	for _, r := range h.rows("postgres", h.can("DATABASE", "datname", "''", "pg_database o", "o.oid", "datname !~ '^template'")) {
		x.add(r[4], "what %s may on %s", r[0], object{kind: "DATABASE", database: r[1], name: r[1]})
	}
}

// give adds a row of aclexplode.
func (x *told) give(o object, r []string) {
	g := given{grantee: r[1], grantor: r[2], privilege: r[3], option: r[4] == "t"}
	if r[0] == "t" {
		g.grantee = ""
	}
	x.acls[o] = append(x.acls[o], g)
}

// can returns a query of which privileges each role has on objects, also those
// that it has through others: the role, two columns of name, and the privileges.
func (h *host) can(kind, name, schema, from, id, where string) string {
	function := map[string]string{"DATABASE": "database", "SCHEMA": "schema", "TABLE": "table", "SEQUENCE": "sequence", "FUNCTION": "function", "COLUMN": "column"}[kind]
	more := "''"
	if kind == "FUNCTION" {
		more = "o.oid::regprocedure::text"
	}
	if kind == "COLUMN" {
		more = "a.attname"
	}
	return `SELECT r.rolname, ` + name + `, ` + schema + `, ` + more + `, array_to_string(ARRAY(SELECT p FROM unnest(ARRAY['` + strings.Join(withOptions(privileges(kind, h.major)), "', '") + `']) p
		WHERE has_` + function + `_privilege(r.oid, ` + id + `, p)), ', ') FROM pg_roles r, ` + from + ` WHERE (r.oid >= 16384 OR r.oid = 10) AND ` + where
}

// withOptions returns each privilege, and each WITH GRANT OPTION.
func withOptions(privileges []string) []string {
	var list []string
	for _, p := range privileges {
		list = append(list, p, p+" WITH GRANT OPTION")
	}
	return list
}

// arguments returns what stands in the brackets of a regprocedure.
func arguments(signature string) string {
	return strings.ReplaceAll(strings.TrimSuffix(signature[strings.LastIndex(signature, "(")+1:], ")"), ",", ", ")
}

func (h *host) askContents(x *told, db string) {
	name := func(o object, r []string) object { // kind is set; r is the name, the schema and more
		o.database, o.name, o.schema = db, r[0], r[1]
		switch o.kind {
		case "FUNCTION":
			o.more = arguments(r[2])
		case "COLUMN":
			o.more = r[2]
		}
		return o
	}
	const objects = `(SELECT 'SCHEMA' k, n.nspname o, '' s, '' m, nspowner own, nspacl acl, acldefault('n', nspowner) d FROM pg_namespace n WHERE ` + ours + `
		UNION ALL SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname, n.nspname, '', relowner, relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)
			FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND ` + ours + `
		UNION ALL SELECT 'FUNCTION', proname, n.nspname, p.oid::regprocedure::text, proowner, proacl, acldefault('f', proowner) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE ` + ours + `
		UNION ALL SELECT 'COLUMN', relname, n.nspname, attname, relowner, attacl, acldefault('c', relowner)
			FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_attribute a ON attrelid = c.oid WHERE attnum > 0 AND attacl IS NOT NULL AND ` + ours + `) all_of_them`
	for _, r := range h.rows(db, `SELECT k, o, s, m, pg_get_userbyid(own) FROM `+objects+` WHERE k <> 'COLUMN'`) {
		o := name(object{kind: r[0]}, r[1:])
		x.owners[o], x.acls[o] = r[4], nil
		h.tried["judged "+strings.ToLower(r[0])]++
	}
	for _, r := range h.rows(db, `SELECT k, o, s, m, e.grantee = 0, pg_get_userbyid(e.grantee), pg_get_userbyid(e.grantor), privilege_type, is_grantable
		FROM `+objects+`, aclexplode(coalesce(acl, d)) e`) {
		x.give(name(object{kind: r[0]}, r[1:]), r[4:])
		h.tried["judged privilege"]++
	}
	tables := "pg_class o JOIN pg_namespace n ON n.oid = relnamespace"
	for _, q := range []struct{ kind, sql string }{
		{"SCHEMA", h.can("SCHEMA", "nspname", "''", "pg_namespace n", "n.oid", ours)},
		{"TABLE", h.can("TABLE", "relname", "nspname", tables, "o.oid", "relkind IN ('r', 'p', 'v', 'm', 'f') AND "+ours)},
		{"SEQUENCE", h.can("SEQUENCE", "relname", "nspname", tables, "o.oid", "relkind = 'S' AND "+ours)},
		{"FUNCTION", h.can("FUNCTION", "proname", "nspname", "pg_proc o JOIN pg_namespace n ON n.oid = pronamespace", "o.oid", ours)},
		{"COLUMN", h.can("COLUMN", "relname", "nspname", tables+" JOIN pg_attribute a ON attrelid = o.oid", "o.oid, a.attnum", "attnum > 0 AND attacl IS NOT NULL AND "+ours)},
	} {
		for _, r := range h.rows(db, q.sql) {
			x.add(r[4], "what %s may on %s", r[0], name(object{kind: q.kind}, r[1:]))
			h.tried["judged has_privilege"]++
		}
	}
	for _, r := range h.rows(db, `SELECT schemaname, tablename, rowsecurity, (SELECT relforcerowsecurity FROM pg_class WHERE oid = format('%I.%I', schemaname, tablename)::regclass)
		FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`) {
		x.add(r[2]+" "+r[3], "row-level security of %s", object{kind: "TABLE", database: db, schema: r[0], name: r[1]})
	}
	for _, r := range h.rows(db, `SELECT schemaname, tablename, policyname, permissive || ' ' || cmd || ' to ' || (SELECT string_agg(r, ', ' ORDER BY r COLLATE "C") FROM unnest(roles) r),
		coalesce(qual, ''), coalesce(with_check, '') FROM pg_policies`) {
		o := object{kind: "TABLE", database: db, schema: r[0], name: r[1]}
		x.add(r[3], "policy %q of %s", r[2], o)
		x.add(r[4], "policy %q of %s: USING", r[2], o)
		x.add(r[5], "policy %q of %s: WITH CHECK", r[2], o)
		h.tried["judged policy"]++
	}
	for _, r := range h.rows(db, `SELECT pg_get_userbyid(defaclrole), coalesce(n.nspname, ''), CASE defaclobjtype WHEN 'r' THEN 'TABLE' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FUNCTION' WHEN 'T' THEN 'TYPE' ELSE 'SCHEMA' END,
		coalesce(string_agg((CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE ('"' || replace(pg_get_userbyid(e.grantee), '"', '""') || '"') END) || ': ' || privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END
			|| ' by ' || ('"' || replace(pg_get_userbyid(e.grantor), '"', '""') || '"'), '; '), '')
		FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = defaclnamespace LEFT JOIN aclexplode(defaclacl) e ON true GROUP BY 1, 2, 3`) {
		x.add(strings.Join(set(strings.Split(r[3], "; ")), "; "), "default privileges of %s in schema %q on %s of database %s", r[0], r[1], r[2], db)
		h.tried["judged default"]++
	}
	for _, r := range h.rows(db, `SELECT nspname, coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace n WHERE `+ours) {
		x.add(r[1], "comment on schema %q of database %s", r[0], db)
	}
}
