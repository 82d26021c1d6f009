package catalog

import (
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// A Cluster is what one server holds. What is shared by its databases is read
// as one; Contents has an entry for each database that was read, or that will
// have been made. Methods that change a Cluster are only those of Statement;
// everybody else works on a Clone.
type Cluster struct {
	Version   postgres.Version
	Bootstrap string // the role that initdb made (OID 10), "postgres" as a rule
	Roles     map[string]*Role
	Members   []Membership
	Databases map[string]*Database
	Settings  []Setting
	Depends   []Dependency
	Contents  map[string]*Contents // by database
}

// A Role is a row of pg_authid.
type Role struct {
	Name        string
	Superuser   bool
	Inherit     bool
	CreateRole  bool
	CreateDB    bool
	Login       bool
	Replication bool
	BypassRLS   bool
	ConnLimit   int    // -1 is no limit
	ValidUntil  string // "" for none, "infinity", or RFC 3339 in UTC
	HasPassword bool
	Password    secrets.Secret // rolpassword, a verifier; known only to a superuser
	Comment     string
}

// A Membership is a row of pg_auth_members: Member is a member of Role. Before
// 16 there is one for each pair, Inherit follows the member's own attribute, and
// Set is true. From 16 on there may be several, by different grantors.
type Membership struct {
	Role, Member, Grantor string
	Admin, Inherit, Set   bool
}

// A Database is a row of pg_database.
type Database struct {
	Name       string
	Owner      string
	Encoding   string // "UTF8"
	Collate    string
	Ctype      string
	Provider   string // "libc", "icu", "builtin"
	Locale     string // of icu and builtin
	Template   bool
	AllowConn  bool
	ConnLimit  int // -1 is no limit
	Tablespace string
	ACL        ACL
	Comment    string
}

// A Setting is one parameter of a row of pg_db_role_setting. An empty Role is
// every role, an empty Database every database.
type Setting struct {
	Role, Database string
	Name, Value    string
}

// A Dependency says that a database (or, where Database is empty, what the
// databases share) holds objects that are a role's (Owner), or privileges,
// policies or default privileges that name it. From pg_shdepend.
type Dependency struct {
	Role, Database string
	Owner          bool
	Objects        int
}

// Contents is what one database holds, its system schemas left out.
type Contents struct {
	Schemas    map[string]*Schema
	Relations  map[Name]*Relation
	Functions  map[Signature]*Function
	Extensions map[string]*Extension
	Available  map[string][]string // versions of extensions that could be made, by name, sorted; the default version comes first
	Defaults   []DefaultACL
}

// A Name is that of a relation.
type Name struct{ Schema, Name string }

// A Signature names a function, procedure or aggregate: Args is what
// pg_get_function_identity_arguments prints without the names of the arguments,
// "integer, text".
type Signature struct{ Schema, Name, Args string }

// A Schema is a row of pg_namespace.
type Schema struct {
	Name    string
	Owner   string
	ACL     ACL
	Comment string
}

// A Relation is a row of pg_class with privileges of its own: a table, view,
// materialized view, foreign table, partitioned table or sequence.
type Relation struct {
	Name
	Kind      byte // relkind: r p v m f S
	Owner     string
	ACL       ACL
	Columns   []string       // in order; empty where they are not known
	ColumnACL map[string]ACL // the columns that have one
	RLS       bool           // ENABLE ROW LEVEL SECURITY
	Force     bool           // FORCE ROW LEVEL SECURITY
	Policies  map[string]*Policy
	Extension string // that it belongs to, if any
	PartOf    Name   // the sequence of a serial or identity column belongs to a table
}

// A Function is a row of pg_proc.
type Function struct {
	Signature
	Kind      byte // prokind: f p a w
	Owner     string
	ACL       ACL
	Extension string
}

// An Extension is a row of pg_extension.
type Extension struct {
	Name, Version, Schema string
	Relocatable           bool
	Owner                 string
}

// A Policy is a row of pg_policy. Using and WithCheck are the server's deparse
// (pg_get_expr), or the text that was declared where it is only foreseen.
type Policy struct {
	Name       string
	Permissive bool
	Command    string   // ALL, SELECT, INSERT, UPDATE, DELETE
	Roles      []string // sorted; "" is PUBLIC
	Using      string
	WithCheck  string
	Foreseen   bool
}

// A DefaultACL is a row of pg_default_acl. Where Schema is empty, ACL stands in
// the place of PostgreSQL's own defaults; otherwise it is added to them.
type DefaultACL struct {
	Role   string
	Schema string
	Kind   Kind // Table, Sequence, Function, Type, SchemaKind
	ACL    ACL
}

// A Kind is a kind of object that has privileges.
type Kind string

// The kinds, as GRANT calls them. Column stands for columns of a Table.
const (
	DatabaseKind Kind = "DATABASE"
	SchemaKind   Kind = "SCHEMA"
	Table        Kind = "TABLE" // views, materialized views and foreign tables too
	Sequence     Kind = "SEQUENCE"
	Routine      Kind = "FUNCTION" // functions, procedures and aggregates
	Column       Kind = "COLUMN"
	Type         Kind = "TYPE" // in default privileges only
)

// An Object names something that has an owner and privileges.
type Object struct {
	Kind   Kind
	Schema string // of what lies in one
	Name   string
	Args   string // of a Routine, see Signature
	Column string // of a Column, whose Name is the table's
}
