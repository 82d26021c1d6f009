package transport

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// lockTimeout is how long a question waits for somebody else's lock. Reading
// takes ACCESS SHARE at most, which only ACCESS EXCLUSIVE holds up.
const lockTimeout = 2 * time.Second

// setLockTimeout is the statement that sets it.
func setLockTimeout() statement {
	return statement{sql: fmt.Sprintf("SET LOCAL lock_timeout = '%ds'", int(lockTimeout.Seconds()))}
}

// lockProblem returns the server's message, or who kept it waiting for what.
func lockProblem(pg *pgconn.PgError, what string) string {
	if pg.Code == lockNotAvailable {
		return fmt.Sprintf("somebody holds an ACCESS EXCLUSIVE lock on %s, and has not let go of it within %s", what, lockTimeout)
	}
	return pg.Message
}

// reading returns the statements that come before those that read catalogs. No
// name is looked up outside of pg_catalog, and what the server prints of
// expressions and types is qualified, and quoted only where it must be.
func reading() []statement {
	return []statement{
		{sql: "SET LOCAL search_path = ''"},
		{sql: "SET LOCAL quote_all_identifiers = off"},
		setTimeout(),
		setLockTimeout(),
	}
}

// askCluster asks a server of a major version for what its databases share.
func askCluster(r facts.Cluster, major int) *question {
	x := newClusterReader()
	return &question{
		read: r, begin: beginReading, end: endReading, list: append(reading(), x.statements(major)...),
		answer: func(r reply) (any, error) {
			if r.failed != nil {
				return facts.ClusterInfo{Problem: r.failed.Message}, nil
			}
			return facts.ClusterInfo{Cluster: x.c}, nil
		},
	}
}

// A clusterReader fills in a Cluster.
type clusterReader struct {
	c    *catalog.Cluster
	acls acls
}

func newClusterReader() *clusterReader {
	return &clusterReader{acls: acls{}, c: &catalog.Cluster{
		Roles: map[string]*catalog.Role{}, Databases: map[string]*catalog.Database{}, Contents: map[string]*catalog.Contents{},
	}}
}

// statements returns what to ask. Roles are read from pg_authid, whose passwords
// only a superuser sees.
func (x *clusterReader) statements(major int) []statement {
	options := "true, true" // what a membership gives before 16
	if major >= 16 {
		options = "m.inherit_option, m.set_option"
	}
	locale := "'c', NULL"
	switch {
	case major >= 17:
		locale = "d.datlocprovider, d.datlocale"
	case major >= 15:
		locale = "d.datlocprovider, d.daticulocale"
	}
	return []statement{
		{sql: `SELECT pg_catalog.current_setting('server_version_num'), (SELECT rolname FROM pg_catalog.pg_authid WHERE oid = 10)`,
			columns: 2, read: x.identity},
		{sql: `SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit,
			CASE WHEN pg_catalog.isfinite(rolvaliduntil) THEN extract(epoch FROM rolvaliduntil)::pg_catalog.text ELSE rolvaliduntil::pg_catalog.text END,
			rolpassword, c.description
			FROM pg_catalog.pg_authid LEFT JOIN pg_catalog.pg_shdescription c ON c.objoid = oid AND c.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass`,
			columns: 12, read: x.role},
		{sql: `SELECT pg_catalog.pg_get_userbyid(m.roleid), pg_catalog.pg_get_userbyid(m.member), pg_catalog.pg_get_userbyid(m.grantor), m.admin_option, ` + options + `
			FROM pg_catalog.pg_auth_members m ORDER BY 1, 2, 3`,
			columns: 6, read: x.member},
		{sql: `SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, ` + locale + `,
			d.datistemplate, d.datallowconn, d.datconnlimit, t.spcname, pg_catalog.array_to_json(d.datacl), c.description
			FROM pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass
			LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace`,
			columns: 13, read: x.database},
		{sql: `SELECT CASE s.setrole WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(s.setrole) END, d.datname, c FROM pg_catalog.pg_db_role_setting s
			LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, pg_catalog.unnest(s.setconfig) c
			WHERE s.setdatabase = 0 OR d.oid IS NOT NULL ORDER BY 1, 2, 3`,
			columns: 3, read: x.setting},
		// deptype is 'o' of an owner, 'a' of an ACL, 'r' of a policy, 'i' of initial privileges.
		{sql: `SELECT pg_catalog.pg_get_userbyid(s.refobjid), d.datname, s.deptype = 'o', pg_catalog.count(DISTINCT (s.classid, s.objid)) FROM pg_catalog.pg_shdepend s
			LEFT JOIN pg_catalog.pg_database d ON d.oid = s.dbid
			WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.deptype IN ('o', 'a', 'r', 'i') AND (s.dbid = 0 OR d.oid IS NOT NULL)
			GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`,
			columns: 4, read: x.dependency},
	}
}

func (x *clusterReader) identity(r row) error {
	x.c.Version, x.c.Bootstrap = postgres.Version(r.int(0)), r.text(1)
	return nil
}

func (x *clusterReader) role(r row) error {
	until, err := validUntil(r.text(9))
	x.c.Roles[r.text(0)] = &catalog.Role{
		Name: r.text(0), Superuser: r.bool(1), Inherit: r.bool(2), CreateRole: r.bool(3), CreateDB: r.bool(4), Login: r.bool(5),
		Replication: r.bool(6), BypassRLS: r.bool(7), ConnLimit: r.int(8), ValidUntil: until,
		HasPassword: r[10] != nil, Password: secrets.New(r[10]), Comment: r.text(11),
	}
	return err
}

// validUntil turns seconds since 1970 into RFC 3339; infinity stays as it is.
func validUntil(s string) (string, error) {
	if s == "" || strings.HasSuffix(s, "infinity") {
		return s, nil
	}
	t, err := unixTime(s)
	return t.Format(time.RFC3339Nano), err
}

func (x *clusterReader) member(r row) error {
	x.c.Members = append(x.c.Members, catalog.Membership{
		Role: r.text(0), Member: r.text(1), Grantor: r.text(2), Admin: r.bool(3), Inherit: r.bool(4), Set: r.bool(5),
	})
	return nil
}

func (x *clusterReader) database(r row) error {
	acl, err := x.acls.of(r[11])
	d := catalog.Database{
		Name: r.text(0), Owner: r.text(1), Encoding: r.text(2), Collate: r.text(3), Ctype: r.text(4), Provider: r.text(5), Locale: r.text(6),
		Template: r.bool(7), AllowConn: r.bool(8), ConnLimit: r.int(9), Tablespace: r.text(10), ACL: acl, Comment: r.text(12),
	}
	switch d.Provider { // pg_collation.h, COLLPROVIDER_
	case "c":
		d.Provider = "libc"
	case "i":
		d.Provider = "icu"
	case "b":
		d.Provider = "builtin"
	}
	x.c.Databases[d.Name] = &d
	return err
}

func (x *clusterReader) setting(r row) error {
	name, value, _ := strings.Cut(r.text(2), "=")
	x.c.Settings = append(x.c.Settings, catalog.Setting{Role: r.text(0), Database: r.text(1), Name: name, Value: value})
	return nil
}

func (x *clusterReader) dependency(r row) error {
	x.c.Depends = append(x.c.Depends, catalog.Dependency{Role: r.text(0), Database: r.text(1), Owner: r.bool(2), Objects: r.int(3)})
	return nil
}
