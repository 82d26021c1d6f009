package transport

import (
	"fmt"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// acls are the ACLs of a database by their text. Thousands of objects have the
// same few ACLs, so each is taken apart once, and by the server: the text of an
// aclitem has names quoted in ways of its own.
type acls map[string]catalog.ACL

// statement returns what to ask, before anything that has an ACL: columns is a
// query of columns of type aclitem[].
func (a acls) statement(columns string) statement {
	return statement{sql: `SELECT a.acl::pg_catalog.text, CASE x.grantee WHEN 0 THEN '' ELSE coalesce(e.rolname, x.grantee::pg_catalog.text) END,
			coalesce(o.rolname, x.grantor::pg_catalog.text), x.privilege_type, x.is_grantable
			FROM (SELECT DISTINCT c.acl FROM (` + columns + `) c(acl)) a, pg_catalog.aclexplode(a.acl) WITH ORDINALITY x(grantor, grantee, privilege_type, is_grantable, n)
			LEFT JOIN pg_catalog.pg_authid e ON e.oid = x.grantee LEFT JOIN pg_catalog.pg_authid o ON o.oid = x.grantor ORDER BY a.acl::pg_catalog.text, x.n`,
		columns: 5, read: a.item}
}

func (a acls) item(r row) error {
	privilege, ok := catalog.PrivilegeNamed(r.text(3))
	if !ok {
		return fmt.Errorf("there is a privilege %s, which this version of pgfleet does not know", r.text(3))
	}
	a[r.text(0)] = a[r.text(0)].With(r.text(1), r.text(2), privilege, r.bool(4))
	return nil
}

// of returns the ACL of a column: nil for NULL.
func (a acls) of(text []byte) (catalog.ACL, error) {
	if text == nil {
		return nil, nil
	}
	if string(text) == "{}" {
		return catalog.ACL{}, nil
	}
	acl, ok := a[string(text)]
	if !ok {
		return nil, fmt.Errorf("the ACL %s was changed while it was read", text)
	}
	return acl, nil
}
