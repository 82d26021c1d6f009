package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// readCluster reads what databases share with queries of its own, so that a
// mistake of package transport cannot hide one of the model.
func readCluster(t *testing.T, db *pgx.Conn) *Cluster {
	t.Helper()
	c := &Cluster{Roles: map[string]*Role{}, Databases: map[string]*Database{}, Contents: map[string]*Contents{}}
	var version int
	query(t, db, "SELECT current_setting('server_version_num')::int, rolname FROM pg_authid WHERE oid = 10", []any{&version, &c.Bootstrap}, func() {})
	c.Version = postgres.Version(version)
	var r Role
	query(t, db, `SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit,
		coalesce(CASE WHEN isfinite(rolvaliduntil) THEN to_char(rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') ELSE rolvaliduntil::text END, ''),
		rolpassword IS NOT NULL, coalesce(shobj_description(oid, 'pg_authid'), '')
		FROM pg_authid WHERE oid = 10 OR oid >= 16384`,
		[]any{&r.Name, &r.Superuser, &r.Inherit, &r.CreateRole, &r.CreateDB, &r.Login, &r.Replication, &r.BypassRLS, &r.ConnLimit, &r.ValidUntil, &r.HasPassword, &r.Comment},
		func() { c.Roles[r.Name] = new(r) })
	options := "true, true"
	if c.Version.Major() >= 16 {
		options = "inherit_option, set_option"
	}
	var m Membership
	query(t, db, `SELECT roleid::regrole::text, pg_get_userbyid(roleid), pg_get_userbyid(member), pg_get_userbyid(grantor), admin_option, `+options+`
		FROM pg_auth_members WHERE member >= 16384 OR member = 10`,
		[]any{new(string), &m.Role, &m.Member, &m.Grantor, &m.Admin, &m.Inherit, &m.Set}, func() { c.Members = append(c.Members, m) })
	provider := "'libc', ''"
	switch {
	case c.Version.Major() >= 17:
		provider = "CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END, coalesce(datlocale, '')"
	case c.Version.Major() >= 15:
		provider = "CASE datlocprovider WHEN 'i' THEN 'icu' ELSE 'libc' END, coalesce(daticulocale, '')"
	}
	var d Database
	var acl []string
	query(t, db, `SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datistemplate, datallowconn, datconnlimit,
		(SELECT spcname FROM pg_tablespace t WHERE t.oid = dattablespace), datacl::text[], coalesce(shobj_description(oid, 'pg_database'), ''), `+provider+" FROM pg_database",
		[]any{&d.Name, &d.Owner, &d.Encoding, &d.Collate, &d.Ctype, &d.Template, &d.AllowConn, &d.ConnLimit, &d.Tablespace, &acl, &d.Comment, &d.Provider, &d.Locale},
		func() { d.ACL = parseACL(t, acl); c.Databases[d.Name] = new(d) })
	var s Setting
	query(t, db, `SELECT coalesce(pg_get_userbyid(nullif(setrole, 0)), ''), coalesce((SELECT datname FROM pg_database d WHERE d.oid = setdatabase), ''),
		split_part(x, '=', 1), substr(x, strpos(x, '=') + 1) FROM pg_db_role_setting, unnest(setconfig) x`,
		[]any{&s.Role, &s.Database, &s.Name, &s.Value}, func() { c.Settings = append(c.Settings, s) })
	return c
}

// ours restricts a query to schemas that are not the system's.
const ours = " n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' "

// readContents reads one database.
func readContents(t *testing.T, db *pgx.Conn) *Contents {
	t.Helper()
	c := &Contents{Schemas: map[string]*Schema{}, Relations: map[Name]*Relation{}, Functions: map[Signature]*Function{},
		Extensions: map[string]*Extension{}}
	var acl []string
	var s Schema
	query(t, db, `SELECT nspname, pg_get_userbyid(nspowner), nspacl::text[], coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace n WHERE`+ours,
		[]any{&s.Name, &s.Owner, &acl, &s.Comment}, func() { s.ACL = parseACL(t, acl); c.Schemas[s.Name] = new(s) })
	var r Relation
	var kind string
	query(t, db, `SELECT n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner), c.relacl::text[], c.relrowsecurity, c.relforcerowsecurity,
		coalesce((SELECT extname FROM pg_depend d JOIN pg_extension e ON e.oid = refobjid WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e'), ''),
		coalesce(p.nspname, ''), coalesce(p.relname, ''),
		ARRAY(SELECT attname FROM pg_attribute a WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND c.relkind <> 'S' ORDER BY attnum)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN LATERAL (SELECT pn.nspname, pc.relname FROM pg_depend JOIN pg_class pc ON pc.oid = refobjid JOIN pg_namespace pn ON pn.oid = pc.relnamespace
			WHERE classid = 'pg_class'::regclass AND objid = c.oid AND refclassid = 'pg_class'::regclass AND refobjsubid > 0 AND deptype IN ('a', 'i') AND c.relkind = 'S') p ON true
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND`+ours,
		[]any{&r.Schema, &r.Name.Name, &kind, &r.Owner, &acl, &r.RLS, &r.Force, &r.Extension, &r.PartOf.Schema, &r.PartOf.Name, &r.Columns},
		func() {
			r.Kind, r.ACL = kind[0], parseACL(t, acl)
			n := new(r)
			n.ColumnACL, n.Policies = map[string]ACL{}, map[string]*Policy{}
			c.Relations[r.Name] = n
		})
	var name Name
	var column string
	query(t, db, `SELECT n.nspname, relname, attname, attacl::text[] FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE attacl IS NOT NULL AND`+ours, []any{&name.Schema, &name.Name, &column, &acl}, func() { c.Relations[name].ColumnACL[column] = parseACL(t, acl) })
	var p Policy
	query(t, db, `SELECT n.nspname, relname, polname, polpermissive,
		CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
		ARRAY(SELECT CASE x WHEN 0 THEN '' ELSE pg_get_userbyid(x) END FROM unnest(polroles) x), coalesce(pg_get_expr(polqual, polrelid), ''), coalesce(pg_get_expr(polwithcheck, polrelid), '')
		FROM pg_policy JOIN pg_class c ON c.oid = polrelid JOIN pg_namespace n ON n.oid = relnamespace`,
		[]any{&name.Schema, &name.Name, &p.Name, &p.Permissive, &p.Command, &p.Roles, &p.Using, &p.WithCheck},
		func() { slices.Sort(p.Roles); c.Relations[name].Policies[p.Name] = new(p); p.Roles = nil })
	var f Function
	query(t, db, `SELECT n.nspname, proname, oidvectortypes(proargtypes), prokind::text, pg_get_userbyid(proowner), proacl::text[],
		coalesce((SELECT extname FROM pg_depend d JOIN pg_extension e ON e.oid = refobjid WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e'), '')
		FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE`+ours,
		[]any{&f.Schema, &f.Name, &f.Args, &kind, &f.Owner, &acl, &f.Extension},
		func() { f.Kind, f.ACL = kind[0], parseACL(t, acl); c.Functions[f.Signature] = new(f) })
	var e Extension
	query(t, db, "SELECT extname, extversion, extnamespace::regnamespace::text, extrelocatable, pg_get_userbyid(extowner) FROM pg_extension",
		[]any{&e.Name, &e.Version, &e.Schema, &e.Relocatable, &e.Owner}, func() { e.Schema = strings.Trim(e.Schema, `"`); c.Extensions[e.Name] = new(e) })
	var a DefaultACL
	query(t, db, `SELECT pg_get_userbyid(defaclrole), coalesce((SELECT nspname FROM pg_namespace n WHERE n.oid = defaclnamespace), ''), defaclacl::text[],
		CASE defaclobjtype WHEN 'r' THEN 'TABLE' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FUNCTION' WHEN 'T' THEN 'TYPE' WHEN 'n' THEN 'SCHEMA' ELSE defaclobjtype::text END FROM pg_default_acl`,
		[]any{&a.Role, &a.Schema, &acl, &a.Kind}, func() { a.ACL = parseACL(t, acl); c.Defaults = append(c.Defaults, a) })
	return c
}

// readAvailable reads which extensions could be made. It is slow.
func readAvailable(t *testing.T, db *pgx.Conn) map[string][]string {
	t.Helper()
	available := map[string][]string{}
	var name string
	var versions []string
	query(t, db, "SELECT name, ARRAY[default_version] FROM pg_available_extensions", []any{&name, &versions}, func() { available[name] = slices.Clone(versions) })
	return available
}

// query calls a function for each row, with the fields scanned.
func query(t *testing.T, db *pgx.Conn, sql string, fields []any, each func()) {
	t.Helper()
	rows, err := db.Query(context.Background(), sql)
	if err == nil {
		_, err = pgx.ForEachRow(rows, fields, func() error { each(); return nil })
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// parseACL reads aclitems in the server's output form, "grantee=arw*/grantor".
func parseACL(t *testing.T, items []string) ACL {
	t.Helper()
	if items == nil {
		return nil
	}
	acl := ACL{}
	for _, text := range items {
		grantee, rest := aclName(text)
		letters, by, ok := strings.Cut(strings.TrimPrefix(rest, "="), "/")
		if !ok {
			t.Fatalf("aclitem %q", text)
		}
		item := Item{Grantee: grantee}
		item.Grantor, _ = aclName(by)
		last := Privileges(0)
		for _, r := range letters {
			if r == '*' {
				item.Grantable |= last
				continue
			}
			last = map[rune]Privileges{'a': Insert, 'r': Select, 'w': Update, 'd': Delete, 'D': Truncate, 'x': References, 't': Trigger, 'X': Execute,
				'U': Usage, 'C': Create, 'T': Temporary, 'c': Connect, 'm': Maintain}[r]
			if last == 0 {
				t.Fatalf("aclitem %q", text)
			}
			item.Privileges |= last
		}
		acl = append(acl, item)
	}
	return acl
}

func aclName(text string) (name, rest string) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, "=/")
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:]
	}
	for i := 1; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		if i+1 < len(text) && text[i+1] == '"' {
			i++
			continue
		}
		return strings.ReplaceAll(text[1:i], `""`, `"`), text[i+1:]
	}
	return "", text
}

// strictDiff returns what Diff does not tell: an ACL that is NULL on one side and
// explicit on the other, and default privileges that are stored on one side only.
func strictDiff(model, server *Cluster) []string {
	lines := Diff(model, server)
	check := func(what string, a, b ACL) {
		if !a.Equal(b) {
			lines = append(lines, fmt.Sprintf("%s: the model has %#v, the server %#v", what, a, b))
		}
	}
	for name, d := range server.Databases {
		if m := model.Databases[name]; m != nil {
			check("database "+name, m.ACL, d.ACL)
		}
	}
	for db, held := range server.Contents {
		m := model.Contents[db]
		if m == nil {
			lines = append(lines, "no contents of "+db)
			continue
		}
		for name, s := range held.Schemas {
			if m.Schemas[name] != nil {
				check(db+" schema "+name, m.Schemas[name].ACL, s.ACL)
			}
		}
		for name, r := range held.Relations {
			n := m.Relations[name]
			if n == nil {
				continue
			}
			check(db+" "+r.subject(), n.ACL, r.ACL)
			for _, column := range eitherKey(n.ColumnACL, r.ColumnACL) {
				check(db+" "+r.subject()+" "+column, n.ColumnACL[column], r.ColumnACL[column])
			}
			if n.PartOf != r.PartOf {
				lines = append(lines, fmt.Sprintf("%s %s: part of %v, on the server %v", db, r.subject(), n.PartOf, r.PartOf))
			}
		}
		for signature, f := range held.Functions {
			if m.Functions[signature] != nil {
				check(db+" "+f.subject(), m.Functions[signature].ACL, f.ACL)
			}
		}
		entries := map[string]bool{}
		for _, d := range slices.Concat(m.Defaults, held.Defaults) {
			a, inModel := model.defaultEntry(db, d.Role, d.Schema, d.Kind)
			b, onServer := server.defaultEntry(db, d.Role, d.Schema, d.Kind)
			if what := fmt.Sprintf("%s defaults of %s in %q on %s", db, d.Role, d.Schema, d.Kind); (inModel != onServer || !a.Equal(b)) && !entries[what] {
				entries[what] = true
				lines = append(lines, fmt.Sprintf("%s: the model has %v %#v, the server %v %#v", what, inModel, a, onServer, b))
			}
		}
	}
	return lines
}
