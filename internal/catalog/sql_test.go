package catalog

import (
	"testing"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

func TestSQL(t *testing.T) {
	orders, items := Name{"public", "orders"}, Name{"Odd Schema", `T"1`}
	table := func(n Name) Object { return Object{Kind: Table, Schema: n.Schema, Name: n.Name} }
	column := func(name string) Object {
		return Object{Kind: Column, Schema: "public", Name: "orders", Column: name}
	}
	routine := Object{Kind: Routine, Schema: "public", Name: "f", Args: "integer, text"}
	plain := Role{Name: "appuser", Inherit: true, ConnLimit: -1}
	full := Role{Name: "App User", Superuser: true, CreateRole: true, CreateDB: true, Login: true, Replication: true, BypassRLS: true, ConnLimit: 0,
		ValidUntil: "2030-02-03T04:05:06Z"}
	limited := plain
	limited.Login, limited.ConnLimit = true, 50
	for _, c := range []struct {
		s            Statement
		sql, subject string
	}{
		{CreateRole{plain}, "CREATE ROLE appuser", "role appuser"},
		{CreateRole{limited}, "CREATE ROLE appuser LOGIN CONNECTION LIMIT 50", "role appuser"},
		{CreateRole{full}, `CREATE ROLE "App User" SUPERUSER CREATEDB CREATEROLE NOINHERIT LOGIN REPLICATION BYPASSRLS CONNECTION LIMIT 0 VALID UNTIL '2030-02-03T04:05:06Z'`, `role "App User"`},
		{AlterRole{limited, plain}, "ALTER ROLE appuser NOLOGIN CONNECTION LIMIT -1", "role appuser"},
		{AlterRole{full, plain}, `ALTER ROLE "App User" NOSUPERUSER NOCREATEDB NOCREATEROLE INHERIT NOLOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1 VALID UNTIL 'infinity'`, `role "App User"`},
		{DropRole{"user"}, `DROP ROLE "user"`, `role "user"`},
		{SetPassword{Role: "appuser", Secret: secrets.Ref{Store: "age", Path: "x"}}, "ALTER ROLE appuser PASSWORD '••••'", "role appuser"},
		{SetPassword{Role: "appuser", None: true}, "ALTER ROLE appuser PASSWORD NULL", "role appuser"},
		{GrantRole{Role: "app", Member: "appuser", Admin: new(true), Set: new(false), Major: 15}, "GRANT app TO appuser WITH ADMIN OPTION", "role appuser"},
		{GrantRole{Role: "app", Member: "appuser", Admin: new(true), Inherit: new(true), Set: new(false), Major: 16}, "GRANT app TO appuser WITH ADMIN TRUE, INHERIT TRUE, SET FALSE", "role appuser"},
		{GrantRole{Role: "app", Member: "appuser", Major: 18}, "GRANT app TO appuser", "role appuser"},
		{RevokeRole{Role: "app", Member: "appuser"}, "REVOKE app FROM appuser", "role appuser"},
		{RevokeRole{"app", "appuser", "Boss", "INHERIT"}, `REVOKE INHERIT OPTION FOR app FROM appuser GRANTED BY "Boss"`, "role appuser"},

		{SetParameter{Setting{"appuser", "", "work_mem", "8MB"}, false}, "ALTER ROLE appuser SET work_mem TO '8MB'", "role appuser"},
		{SetParameter{Setting{"x", "", "search_path", `"$user", public`}, false}, `ALTER ROLE x SET search_path TO "$user", public`, "role x"},
		{SetParameter{Setting{"", "appdb", "search_path", `app,"Odd Schema"`}, false}, `ALTER DATABASE appdb SET search_path TO app, 'Odd Schema'`, "database appdb"},
		{SetParameter{Setting{"x", "appdb", "search_path", ""}, false}, "ALTER ROLE x IN DATABASE appdb SET search_path TO ''", "role x"},
		{SetParameter{Setting{"", "", "pgaudit.log", "ddl, write"}, false}, "ALTER ROLE ALL SET pgaudit.log TO 'ddl, write'", "all roles"},
		{SetParameter{Setting{"x", "", "DateStyle", "ISO, DMY"}, false}, "ALTER ROLE x SET datestyle TO 'ISO, DMY'", "role x"},
		{SetParameter{Setting{"x", "", "MyApp.Tenant", `a'b\`}, false}, `ALTER ROLE x SET "MyApp"."Tenant" TO E'a''b\\'`, "role x"},
		{SetParameter{Setting{"x", "appdb", "work_mem", ""}, true}, "ALTER ROLE x IN DATABASE appdb RESET work_mem", "role x"},
		{SetComment{"ROLE", "x", "it's"}, "COMMENT ON ROLE x IS 'it''s'", "role x"},
		{SetComment{"DATABASE", "x", ""}, "COMMENT ON DATABASE x IS NULL", "database x"},

		{CreateDatabase{Database{Name: "appdb", Owner: "appowner"}, "", 15, false}, "CREATE DATABASE appdb OWNER appowner", "database appdb"},
		{CreateDatabase{Database{Name: "A", Encoding: "UTF8", Collate: "C", Ctype: "C.UTF-8", Provider: "icu", Locale: "en-US", Tablespace: "fast", ConnLimit: 9, Template: true}, "template0", 15, false},
			`CREATE DATABASE "A" TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' TABLESPACE fast CONNECTION LIMIT 9 IS_TEMPLATE true`, `database "A"`},
		{CreateDatabase{Database{Name: "a", Provider: "builtin", Locale: "C.UTF-8"}, "template0", 17, false}, `CREATE DATABASE a TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'`, "database a"},
		{CreateDatabase{Database{Name: "a", Provider: "libc"}, "", 13, false}, "CREATE DATABASE a", "database a"},
		{CreateDatabase{Database{Name: "a", ConnLimit: 9}, "", 13, true}, "CREATE DATABASE a CONNECTION LIMIT 0", "database a"},
		{AlterDatabase{"appdb", -1}, "ALTER DATABASE appdb CONNECTION LIMIT -1", "database appdb"},
		{CreateSchema{"app", ""}, "CREATE SCHEMA app", "schema app"},
		{CreateSchema{"app", "appowner"}, "CREATE SCHEMA app AUTHORIZATION appowner", "schema app"},
		{DropSchema{"app"}, "DROP SCHEMA app", "schema app"},
		{CreateExtension{"uuid-ossp", "1.1", "app"}, `CREATE EXTENSION "uuid-ossp" SCHEMA app VERSION '1.1'`, `extension "uuid-ossp"`},
		{UpdateExtension{"pgcrypto", "1.3"}, "ALTER EXTENSION pgcrypto UPDATE TO '1.3'", "extension pgcrypto"},
		{UpdateExtension{"pgcrypto", ""}, "ALTER EXTENSION pgcrypto UPDATE", "extension pgcrypto"},
		{MoveExtension{"pgcrypto", "app"}, "ALTER EXTENSION pgcrypto SET SCHEMA app", "extension pgcrypto"},
		{DropExtension{"pgcrypto"}, "DROP EXTENSION pgcrypto", "extension pgcrypto"},

		{Grant{[]Object{table(orders), table(items)}, "readuser", Insert | Select, false}, `GRANT SELECT, INSERT ON TABLE public.orders, "Odd Schema"."T""1" TO readuser`, `table public.orders, "Odd Schema"."T""1"`},
		{Grant{[]Object{column("id"), column("total")}, "u", Select | Update, true}, "GRANT SELECT (id, total), UPDATE (id, total) ON TABLE public.orders TO u WITH GRANT OPTION", "table public.orders"},
		{Grant{[]Object{routine}, "", Execute, false}, "GRANT EXECUTE ON ROUTINE public.f(integer, text) TO PUBLIC", "function public.f(integer, text)"},
		{Grant{[]Object{{Kind: Sequence, Schema: "public", Name: "s"}}, "u", Usage | Select | Update, false}, "GRANT USAGE, SELECT, UPDATE ON SEQUENCE public.s TO u", "sequence public.s"},
		{Revoke{On: []Object{{Kind: DatabaseKind, Name: "appdb"}}, Privileges: Connect | Temporary}, "REVOKE CONNECT, TEMPORARY ON DATABASE appdb FROM PUBLIC", "database appdb"},
		{Revoke{[]Object{{Kind: SchemaKind, Name: "app"}}, "x", Usage, true, "Boss"}, `REVOKE GRANT OPTION FOR USAGE ON SCHEMA app FROM x -- granted by "Boss"`, "schema app"},
		{AlterDefaultPrivileges{Role: "o", Schema: "s", Kind: Table, To: "r", Privileges: Select}, "ALTER DEFAULT PRIVILEGES FOR ROLE o IN SCHEMA s GRANT SELECT ON TABLES TO r", "default privileges of role o in schema s"},
		{AlterDefaultPrivileges{Role: "o", Kind: Routine, Privileges: Execute, Revoke: true}, "ALTER DEFAULT PRIVILEGES FOR ROLE o REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC", "default privileges of role o"},
		{AlterDefaultPrivileges{Role: "o", Kind: SchemaKind, To: "r", Privileges: Usage, Revoke: true, Grantable: true}, "ALTER DEFAULT PRIVILEGES FOR ROLE o REVOKE GRANT OPTION FOR USAGE ON SCHEMAS FROM r", "default privileges of role o"},
		{AlterDefaultPrivileges{Role: "o", Kind: Sequence, To: "r", Privileges: Usage, Grantable: true}, "ALTER DEFAULT PRIVILEGES FOR ROLE o GRANT USAGE ON SEQUENCES TO r WITH GRANT OPTION", "default privileges of role o"},

		{AlterOwner{table(orders), "o"}, "ALTER TABLE public.orders OWNER TO o", "table public.orders"},
		{AlterOwner{routine, "o"}, "ALTER ROUTINE public.f(integer, text) OWNER TO o", "function public.f(integer, text)"},
		{ReassignOwned{"a", "b"}, "REASSIGN OWNED BY a TO b", "role a"},
		{DropOwned{"a"}, "DROP OWNED BY a", "role a"},

		{EnableRLS{orders, true}, "ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY", "table public.orders"},
		{EnableRLS{orders, false}, "ALTER TABLE public.orders DISABLE ROW LEVEL SECURITY", "table public.orders"},
		{ForceRLS{orders, true}, "ALTER TABLE public.orders FORCE ROW LEVEL SECURITY", "table public.orders"},
		{ForceRLS{orders, false}, "ALTER TABLE public.orders NO FORCE ROW LEVEL SECURITY", "table public.orders"},
		{CreatePolicy{orders, Policy{Name: "own", Command: "SELECT", Roles: []string{"b", "a"}, Using: "x > 0"}}, "CREATE POLICY own ON public.orders AS RESTRICTIVE FOR SELECT TO a, b USING (x > 0)", "table public.orders"},
		{CreatePolicy{orders, Policy{Name: "Own", Permissive: true, WithCheck: "true -- all"}}, "CREATE POLICY \"Own\" ON public.orders TO PUBLIC WITH CHECK (true -- all\n)", "table public.orders"},
		{AlterPolicy{orders, "own", []string{""}, new("true"), new("false")}, "ALTER POLICY own ON public.orders TO PUBLIC USING (true) WITH CHECK (false)", "table public.orders"},
		{DropPolicy{orders, "own"}, "DROP POLICY own ON public.orders", "table public.orders"},
	} {
		if got := c.s.SQL(); got != c.sql {
			t.Errorf("%s\nwant %s", got, c.sql)
		}
		if got := c.s.Subject(); got != c.subject {
			t.Errorf("%s: subject %s, want %s", c.sql, got, c.subject)
		}
		if _, database := c.s.(CreateDatabase); c.s.Alone() != database {
			t.Errorf("%s: alone is %v", c.sql, c.s.Alone())
		}
	}
}

func TestObjectString(t *testing.T) {
	for want, o := range map[string]Object{
		"TABLE public.orders":               {Kind: Table, Schema: "public", Name: "orders"},
		"SCHEMA app":                        {Kind: SchemaKind, Name: "app"},
		`DATABASE "App"`:                    {Kind: DatabaseKind, Name: "App"},
		"FUNCTION public.f(integer, text)":  {Kind: Routine, Schema: "public", Name: "f", Args: "integer, text"},
		`TABLE public.orders ("Total")`:     {Kind: Column, Schema: "public", Name: "orders", Column: "Total"},
		`SEQUENCE "Odd Schema".orders_id_s`: {Kind: Sequence, Schema: "Odd Schema", Name: "orders_id_s"},
	} {
		if got := o.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestStoredValue(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"work_mem", "8MB", "8MB"}, {"search_path", `app,"$user"`, `app, "$user"`}, {"search_path", "", `""`}, {"search_path", `""`, `""`},
		{"Search_Path", "APP", "app"}, {"session_preload_libraries", "auto_explain,/x/Y", `auto_explain, "/x/Y"`}, {"pgaudit.log", "ddl,write", "ddl,write"},
	} {
		if got := StoredValue(c.name, c.value); got != c.want {
			t.Errorf("%s = %s: %s, want %s", c.name, c.value, got, c.want)
		}
	}
}

func TestParsePrivileges(t *testing.T) {
	for _, c := range []struct {
		words []string
		kind  Kind
		major int
		want  string
	}{
		{[]string{"select", " Insert "}, Table, 15, "SELECT, INSERT"},
		{[]string{"ALL"}, Table, 16, "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"},
		{[]string{"all  privileges"}, Table, 17, "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER, MAINTAIN"},
		{[]string{"TEMP", "connect"}, DatabaseKind, 15, "CONNECT, TEMPORARY"},
		{[]string{"MAINTAIN"}, Table, 16, "the privilege MAINTAIN is there from PostgreSQL 17 on; this is 16, which has SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"},
		{[]string{"selct"}, Table, 15, `"selct" is no privilege of a table (did you mean "SELECT"?); it is SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER or ALL`},
		{[]string{"DELETE"}, Column, 15, `"DELETE" is no privilege of a column; it is SELECT, INSERT, UPDATE, REFERENCES or ALL`},
		{[]string{"EXECUTE"}, SchemaKind, 15, `"EXECUTE" is no privilege of a schema; it is CREATE, USAGE or ALL`},
	} {
		p, err := ParsePrivileges(c.words, c.kind, c.major)
		got := p.String()
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q: %s\nwant %s", c.words, got, c.want)
		}
	}
}
