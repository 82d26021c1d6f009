package adopt

import (
	"maps"
	"slices"
	"strconv"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// databases describes the databases and what they hold. Those of initdb that are
// copied and not used have no task of their own.
func (d *describer) databases(c *catalog.Cluster) {
	for _, name := range slices.Sorted(maps.Keys(c.Databases)) {
		if name != "template0" && name != "template1" {
			d.database(c, c.Databases[name])
		}
		held, err := d.state.Contents(name)
		switch {
		case !c.Databases[name].AllowConn:
		case err != nil:
			d.blank()
			d.remark("What is in database %s could not be read: %s.", oneLine(name), oneLine(err.Error()))
			d.warn("database %s: %v", oneLine(name), err)
		default:
			d.schemas(c, name, held)
			d.extensions(name, held)
			d.owners(c, name, held)
			d.defaults(c, name, held)
			d.grants(c, name, held)
			d.policies(name, held)
		}
	}
}

// database describes one database. What counts only when it is made is left out
// of the one that every server has.
func (d *describer) database(c *catalog.Cluster, db *catalog.Database) {
	t := described{name: "Database " + db.Name, kind: "database", roles: []string{db.Owner}}
	t.add("database", literal(db.Name))
	t.add("owner", literal(db.Owner))
	if db.Name != "postgres" {
		t.locale(db)
	}
	if db.ConnLimit != -1 {
		t.add("connection_limit", strconv.Itoa(db.ConnLimit))
	}
	acl, _ := c.Effective("", catalog.Object{Kind: catalog.DatabaseKind, Name: db.Name})
	if public, _ := acl.Of(""); public != 0 {
		t.add("public", names(public.Words(catalog.DatabaseKind)))
	}
	t.comment(db.Comment)
	d.parameters(&t, "settings", catalog.Setting{Database: db.Name}, c)
	d.write(t)
}

// locale adds how the database would have to be made. Only template0 can be
// copied into another encoding or locale than its own.
func (t *described) locale(db *catalog.Database) {
	t.add("template", `"template0"`)
	t.add("encoding", literal(db.Encoding))
	if db.Collate == db.Ctype {
		t.add("locale", literal(db.Collate))
	} else {
		t.add("lc_collate", literal(db.Collate))
		t.add("lc_ctype", literal(db.Ctype))
	}
	if db.Provider != "" && db.Provider != "libc" {
		t.add("locale_provider", literal(db.Provider))
		t.add("icu_locale", literal(db.Locale))
	}
	if db.Tablespace != "" && db.Tablespace != "pg_default" {
		t.add("tablespace", literal(db.Tablespace))
	}
}

// schemas describes the schemas of a database; in template1 only what initdb did
// not make as it is.
func (d *describer) schemas(c *catalog.Cluster, database string, held *catalog.Contents) {
	public := catalog.DefaultContents(c.Version, c.Bootstrap).Schemas["public"]
	for _, name := range slices.Sorted(maps.Keys(held.Schemas)) {
		s := held.Schemas[name]
		if name == public.Name && database == "template1" && s.Owner == public.Owner {
			continue
		}
		t := described{name: "Schema " + name + " in " + database, kind: "schema", roles: []string{s.Owner}}
		t.add("database", literal(database))
		t.add("schema", literal(name))
		t.add("owner", literal(s.Owner))
		if s.Comment != public.Comment {
			t.comment(s.Comment)
		}
		d.write(t)
	}
}

// extensions describes the extensions of a database, but for plpgsql, which every
// database is born with. Versions are left to the server.
func (d *describer) extensions(database string, held *catalog.Contents) {
	for _, name := range slices.Sorted(maps.Keys(held.Extensions)) {
		x := held.Extensions[name]
		if name == "plpgsql" && x.Schema == "pg_catalog" {
			continue
		}
		t := described{name: "Extension " + name + " in " + database, kind: "extension"}
		t.add("database", literal(database))
		t.add("extension", literal(name))
		t.add("schema", literal(x.Schema)+" # version "+plain(x.Version))
		d.write(t)
	}
}
