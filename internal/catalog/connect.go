package catalog

// CanConnect reports whether a role has CONNECT on a database: by the database's
// ACL, as its owner, through PUBLIC or as a superuser. It returns false where
// there is no such role or database.
func (c *Cluster) CanConnect(role, db string) bool {
	r := c.Roles[role]
	acl, ok := c.Effective("", Object{Kind: DatabaseKind, Name: db})
	if r == nil || !ok {
		return false
	}
	if r.Superuser {
		return true
	}
	for _, holder := range append(c.privilegesOf(role, db), "") {
		if p, _ := acl.Of(holder); p&Connect != 0 {
			return true
		}
	}
	return false
}
