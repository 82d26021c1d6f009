package tasks

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Database is a database with its owner, its settings and what PUBLIC may do
// with it: nothing, by default, where PostgreSQL lets every role connect.
type Database struct {
	Common
	Database   inventory.Positioned[string] `toml:"database" required:"true" doc:"The database's name."`
	Owner      inventory.Positioned[string] `toml:"owner" doc:"The role that owns it. Left out, it is left as it is."`
	Template   string                       `toml:"template" doc:"What a new one is copied from; template1 by default."`
	Encoding   string                       `toml:"encoding" doc:"Of a new one, such as \"UTF8\"; one that has another is refused."`
	Locale     string                       `toml:"locale" doc:"LC_COLLATE and LC_CTYPE of a new one, likewise."`
	Collate    string                       `toml:"lc_collate" doc:"LC_COLLATE of a new one, likewise."`
	Ctype      string                       `toml:"lc_ctype" doc:"LC_CTYPE of a new one, likewise."`
	Provider   string                       `toml:"locale_provider" enum:"libc,icu,builtin" doc:"Of a new one, from 15 on (builtin from 17 on), likewise."`
	ICULocale  string                       `toml:"icu_locale" doc:"Locale of the providers icu and builtin, likewise."`
	Tablespace string                       `toml:"tablespace" doc:"Of a new one."`
	ConnLimit  *int                         `toml:"connection_limit" min:"-1" doc:"CONNECTION LIMIT; -1 is none. Left out, it is left as it is."`
	Public     *inventory.Strings           `toml:"public" doc:"What PUBLIC may do: CONNECT, TEMPORARY, CREATE. Nothing by default: every role that is to connect needs a grant."`
	Settings   *parameters                  `toml:"settings" doc:"ALTER DATABASE … SET; what is set by hand beside them is reset."`
	Comment    *string                      `toml:"comment" doc:"COMMENT ON DATABASE. Left out, it is left as it is."`

	public catalog.Privileges
}

// Check finds mistakes in names and what a version does not have.
func (t *Database) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	checkName("database", t.Database, &errs)
	checkName("owner", t.Owner, &errs)
	if t.Locale != "" && (t.Collate != "" || t.Ctype != "") {
		errs.Add(t.at("locale"), "locale: it sets lc_collate and lc_ctype; give either it or them")
	}
	if t.Provider != "" && in.Version < 15 || t.Provider == "builtin" && in.Version < 17 {
		errs.Add(t.at("locale_provider"), "locale_provider: %s exists from PostgreSQL %d on; %s is %d", t.Provider, map[bool]int{true: 17, false: 15}[t.Provider == "builtin"], in.ID(), in.Version)
	}
	if t.Public != nil {
		var err error
		if t.public, err = catalog.ParsePrivileges(*t.Public, catalog.DatabaseKind, in.Version); err != nil {
			errs.Add(t.at("public"), "public: %v", err)
		}
	}
	return errs
}

// Reads asks what the databases share, and for the template of one that is not
// there yet.
func (t *Database) Reads(in inventory.Instance, s *State) []facts.Read {
	c, err := s.Cluster()
	if err != nil {
		return catalogReads(in)
	}
	template := orElse(t.Template, "template1")
	if d := c.Databases[template]; c.Databases[t.Database.Value] == nil && d != nil && d.AllowConn {
		return catalogReads(in, template)
	}
	return catalogReads(in)
}

// Plan makes the database, or compares it with what is wanted.
func (t *Database) Plan(in inventory.Instance, s *State) (Outcome, error) {
	return t.planSQL(s, nil, func(x *script, out *Outcome) error {
		name := t.Database.Value
		if err := needRole(x.catalogs, t.Owner.Value, t.Owner.Pos()); err != nil {
			return err
		}
		found := x.catalogs.Databases[name]
		closed := found != nil && t.unfinished(x.catalogs, *found)
		if found != nil && found.ConnLimit == 0 && t.ConnLimit == nil {
			out.Warnings = append(out.Warnings, t.shut(closed))
		}
		if found == nil {
			closed = t.revokes()
			if err := t.create(x, in, closed); err != nil {
				return err
			}
		} else if err := t.fixed(*found); err != nil {
			return err
		}
		now := x.catalogs.Databases[name]
		object := catalog.Object{Kind: catalog.DatabaseKind, Name: name}
		if t.Owner.Value != "" && now.Owner != t.Owner.Value {
			x.do(maintenanceDatabase, catalog.AlterOwner{Object: object, Owner: t.Owner.Value})
		}
		var problems []error
		problems = append(problems, t.publicly(x, object))
		problems = append(problems, setParameters(s, x, catalog.Setting{Database: name}, t.parameters()))
		if t.Comment != nil && x.catalogs.Databases[name].Comment != *t.Comment {
			x.do(maintenanceDatabase, catalog.SetComment{On: "DATABASE", Name: name, Text: *t.Comment})
		}
		limit := x.catalogs.Databases[name].ConnLimit
		if closed {
			limit = -1
		}
		if t.ConnLimit != nil {
			limit = *t.ConnLimit
		}
		if x.catalogs.Databases[name].ConnLimit != limit {
			x.do(maintenanceDatabase, catalog.AlterDatabase{Name: name, ConnLimit: limit})
		}
		return errors.Join(problems...)
	})
}

func (t *Database) parameters() parameters {
	if t.Settings == nil {
		return nil
	}
	return *t.Settings
}

// revokes reports whether PUBLIC may do more in a new database than is declared.
func (t *Database) revokes() bool {
	return (catalog.Connect|catalog.Temporary)&^t.public != 0
}

// unfinished reports whether a database is what create leaves if nothing comes
// after it: one that lets only superusers in, and in which PUBLIC still has what it
// loses in the transaction that opens it. What others were granted meanwhile does
// not count.
func (t *Database) unfinished(c *catalog.Cluster, d catalog.Database) bool {
	acl, ok := c.Effective("", catalog.Object{Kind: catalog.DatabaseKind, Name: d.Name})
	have, _ := acl.Of("")
	return ok && t.revokes() && d.ConnLimit == 0 && have&^t.public != 0
}

// shut warns of a database that lets only superusers in, and of which it is not
// declared that it does.
func (t *Database) shut(opens bool) string {
	if opens {
		return fmt.Sprintf("database %s has CONNECTION LIMIT 0, and PUBLIC has what it has in a new one: it is taken for one whose making was cut off, and opened; if it is closed on purpose, declare connection_limit = 0", t.Database.Value)
	}
	return fmt.Sprintf("database %s has CONNECTION LIMIT 0, with which only superusers can connect, and it is left so: declare connection_limit, -1 to open it or 0 to say that it is meant", t.Database.Value)
}

// create makes the database. A closed one is opened in the transaction in which
// PUBLIC loses what it may do there.
func (t *Database) create(x *script, in inventory.Instance, closed bool) error {
	if t.Template != "" && x.catalogs.Databases[t.Template] == nil {
		return problemAt(t.at("template"), "template: %v", &noDatabaseError{name: t.Template})
	}
	d := catalog.Database{
		Name: t.Database.Value, Owner: t.Owner.Value, Encoding: t.Encoding, Collate: orElse(t.Collate, t.Locale), Ctype: orElse(t.Ctype, t.Locale),
		Provider: t.Provider, Locale: t.ICULocale, Tablespace: t.Tablespace,
	}
	if t.ConnLimit != nil {
		d.ConnLimit = *t.ConnLimit
	}
	x.do(maintenanceDatabase, catalog.CreateDatabase{Database: d, From: t.Template, Major: in.Version, Closed: closed})
	return nil
}

// fixed refuses what cannot be changed in a database that is there.
func (t *Database) fixed(found catalog.Database) error {
	var problems []error
	for _, f := range []struct{ key, wanted, found string }{
		{"encoding", encoding(t.Encoding), encoding(found.Encoding)},
		{"locale", t.Locale, found.Collate},
		{"lc_collate", t.Collate, found.Collate},
		{"lc_ctype", t.Ctype, found.Ctype},
		{"locale_provider", t.Provider, found.Provider},
		{"icu_locale", t.ICULocale, found.Locale},
	} {
		if f.wanted != "" && f.wanted != f.found {
			problems = append(problems, problemAt(t.at(f.key), "%s: database %s has %q, and that cannot be changed: dump it and restore it into a new one, or declare what it has",
				f.key, found.Name, f.found))
		}
	}
	return errors.Join(problems...)
}

// encoding takes the spellings of an encoding's name for the same, as the server
// does (pg_valid_server_encoding): "UTF-8" is UTF8.
func encoding(name string) string {
	name = strings.ToUpper(strings.NewReplacer("-", "", "_", "", " ", "").Replace(name))
	if name == "UNICODE" {
		return "UTF8"
	}
	return name
}

// publicly leaves PUBLIC what is declared.
func (t *Database) publicly(x *script, object catalog.Object) error {
	acl, ok := x.catalogs.Effective("", object)
	if !ok {
		return fmt.Errorf("database %s: its privileges are not known", object.Name)
	}
	have, _ := acl.Of("")
	if missing := t.public &^ have; missing != 0 {
		x.do(maintenanceDatabase, catalog.Grant{On: []catalog.Object{object}, Privileges: missing})
	}
	return revoke(x, maintenanceDatabase, []catalog.Object{object}, "", have&^t.public)
}
