package catalog

import (
	"slices"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// DefaultContents returns what a database made from the template1 of a new
// server holds.
func DefaultContents(version postgres.Version, bootstrap string) *Contents {
	public := &Schema{Name: "public", Owner: bootstrap, Comment: "standard public schema"}
	anybody := Usage | Create
	if version.Major() >= 15 {
		// Release notes of 15: the schema is the database owner's, and nobody else may create in it.
		public.Owner, anybody = "pg_database_owner", Usage
	}
	public.ACL = ACL{
		{Grantee: public.Owner, Grantor: public.Owner, Privileges: Usage | Create},
		{Grantor: public.Owner, Privileges: anybody},
	}
	return &Contents{
		Schemas:    map[string]*Schema{"public": public},
		Relations:  map[Name]*Relation{},
		Functions:  map[Signature]*Function{},
		Extensions: map[string]*Extension{"plpgsql": {Name: "plpgsql", Version: "1.0", Schema: "pg_catalog", Owner: bootstrap}},
	}
}

// EffectiveDefault returns the default privileges of what a role makes: with
// schema "" those that hold everywhere, which are PostgreSQL's own where no entry
// replaces them; with a schema, what is added there.
func (c *Cluster) EffectiveDefault(db, role, schema string, kind Kind) ACL {
	if acl, ok := c.defaultEntry(db, role, schema, kind); ok {
		return acl
	}
	if schema != "" {
		return ACL{}
	}
	return DefaultACLFor(kind, role, c.Version.Major())
}

func (c *Cluster) defaultEntry(db, role, schema string, kind Kind) (ACL, bool) {
	held := c.Contents[db]
	if held == nil {
		return nil, false
	}
	at := held.defaultAt(role, schema, kind)
	if at < 0 {
		return nil, false
	}
	return held.Defaults[at].ACL, true
}

func (h *Contents) defaultAt(role, schema string, kind Kind) int {
	return slices.IndexFunc(h.Defaults, func(d DefaultACL) bool { return d.Role == role && d.Schema == schema && d.Kind == kind })
}

// setDefault stores a default ACL, or removes the entry where it says what holds
// without it, as the server does.
func (c *Cluster) setDefault(held *Contents, d DefaultACL) {
	held.Defaults = slices.DeleteFunc(slices.Clone(held.Defaults), func(x DefaultACL) bool {
		return x.Role == d.Role && x.Schema == d.Schema && x.Kind == d.Kind
	})
	none := ACL{}
	if d.Schema == "" {
		none = DefaultACLFor(d.Kind, d.Role, c.Version.Major())
	}
	if !d.ACL.Equal(none) {
		held.Defaults = append(held.Defaults, d)
	}
}

// newACL returns the ACL that a new object gets from default privileges: nil
// where they come to PostgreSQL's own, and also, as the server has it, where they
// come to nothing at all. It is get_user_default_acl of the server.
func (c *Cluster) newACL(db, owner, schema string, kind Kind) ACL {
	_, global := c.defaultEntry(db, owner, "", kind)
	added, local := c.defaultEntry(db, owner, schema, kind)
	if !global && !local {
		return nil
	}
	acl := c.EffectiveDefault(db, owner, "", kind)
	if local && schema != "" {
		for _, i := range added {
			acl = acl.With(i.Grantee, i.Grantor, i.Privileges, false)
			acl = acl.With(i.Grantee, i.Grantor, i.Grantable, true)
		}
	}
	if len(acl) == 0 || acl.Equal(DefaultACLFor(kind, owner, c.Version.Major())) {
		return nil
	}
	return acl
}

// AddRelation adds a relation as the server would make it for its owner: with
// privileges if default privileges give it some. The ACL of r is not used.
func (c *Cluster) AddRelation(db string, r Relation) {
	held := c.edit(db)
	if held == nil {
		return
	}
	if r.Owner == "" {
		r.Owner = c.Bootstrap
	}
	r.ACL = c.newACL(db, r.Owner, r.Schema, r.object().Kind)
	held.Relations[r.Name] = &r
}
