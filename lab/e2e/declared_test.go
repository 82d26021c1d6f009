//go:build lab

package e2e

import "testing"

// declared are the guide's steps 2, 4, 5 and 6.
const declared = `
[[task]]
name = "Who may connect"
kind = "hba"
rules = ["local all postgres peer", "local appdb all scram-sha-256", "host all,replication postgres all reject"]

[[task]]
name = "Audit log"
kind = "audit_logging"
file = "30-audit.conf"
[task.settings]
log_destination = "stderr"
password_encryption = "scram-sha-256"

[[task]]
name = "PostgreSQL"
kind = "service"

[[task]]
name = "Superuser"
kind = "role"
role = "postgres"
password = "none"
remote = false

[[task]]
name = "Owner"
kind = "role"
role = "appowner"
member_of = []

[[task]]
name = "Application"
kind = "role"
role = "appuser"
login = true
password = "env:APP_PASSWORD"
connection_limit = 20
member_of = []
settings = { statement_timeout = "30s" }

[[task]]
name = "Reader"
kind = "role"
role = "readuser"
login = true
password = "env:READ_PASSWORD"
member_of = []

[[task]]
name = "Database"
kind = "database"
database = "appdb"
owner = "appowner"

[[task]]
name = "Schema"
kind = "schema"
database = "appdb"
schema = "public"
owner = "appowner"

[[task]]
name = "Extension"
kind = "extension"
for_each = ["postgres", "appdb"]
database = "{{ .Each }}"
extension = "pgaudit"

[[task]]
name = "Nothing for PUBLIC"
kind = "grant"
database = "appdb"
schemas = "public"
to = "PUBLIC"
exact = true

[[task]]
name = "Connect"
kind = "grant"
databases = "appdb"
to = ["appuser", "readuser"]
privileges = "CONNECT"

[[task]]
name = "Usage"
kind = "grant"
database = "appdb"
schemas = "public"
to = ["appuser", "readuser"]
privileges = "USAGE"

[[task]]
name = "Future tables, written"
kind = "default_privileges"
database = "appdb"
for_role = "appowner"
in_schemas = "public"
objects = "tables"
to = "appuser"
privileges = ["SELECT", "INSERT", "UPDATE", "DELETE"]

[[task]]
name = "Future tables, read"
kind = "default_privileges"
database = "appdb"
for_role = "appowner"
in_schemas = "public"
objects = "tables"
to = "readuser"
privileges = "SELECT"

[[task]]
name = "Future functions"
kind = "default_privileges"
database = "appdb"
for_role = "appowner"
objects = "functions"
to = "PUBLIC"
privileges = "EXECUTE"
state = "absent"

[[task]]
name = "Orders"
kind = "psql"
database = "appdb"
as = "appowner"
sql = "CREATE TABLE public.orders (id int PRIMARY KEY, tenant int NOT NULL)"
creates = ["table public.orders"]

[[task]]
name = "Tables"
kind = "grant"
database = "appdb"
all_tables_in = "public"
to = ["appuser"]
privileges = ["SELECT", "INSERT", "UPDATE", "DELETE"]
exact = true

[[task]]
name = "Tables, read"
kind = "grant"
database = "appdb"
all_tables_in = "public"
to = ["readuser"]
privileges = "SELECT"
exact = true

[[task]]
name = "Tables, not for PUBLIC"
kind = "grant"
database = "appdb"
all_tables_in = "public"
to = "PUBLIC"
exact = true

[[task]]
name = "Owners"
kind = "owner"
database = "appdb"
owner = "appowner"
all_tables_in = "public"

[[task]]
name = "Tenants"
kind = "policy"
database = "appdb"
table = "public.orders"
policy = "tenant"
using = "tenant = NULLIF(current_setting('app.tenant', true), '')::int"
exact = true
`

// newDeclared is a bench for hosts with nothing of the tasks on them.
func newDeclared(t *testing.T, hosts ...string) *bench {
	t.Helper()
	fresh(t, hosts...)
	b := newBench(t, declared, hosts...)
	b.Env = append(b.Env, "APP_PASSWORD="+appPassword, "READ_PASSWORD="+readPassword)
	return b
}
