package tasks

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// maintenanceDatabase is where statements about what the databases share run.
const maintenanceDatabase = "postgres"

// A script is the statements that one task comes to, in order, and the catalogs
// as they leave them.
type script struct {
	catalogs *catalog.Cluster
	list     []placed
}

// A placed statement is one with the database that it runs in.
type placed struct {
	database  string
	statement catalog.Statement
}

// do adds a statement, whose effect the ones after it see.
func (x *script) do(database string, st catalog.Statement) {
	st.Apply(x.catalogs, database)
	x.list = append(x.list, placed{database, st})
}

// planSQL plans a task that changes the catalogs of a server. Databases are
// those whose contents it depends on. What cannot be known is left to the moment
// when its turn comes.
func (c *Common) planSQL(s *State, databases []string, plan func(*script, *Outcome) error) (Outcome, error) {
	var out Outcome
	known, err := s.Cluster()
	if err != nil {
		if errors.Is(err, errUnasked) || s.Server() != nil {
			return out, err
		}
		return c.later(s, "the server answers ("+err.Error()+")"), nil
	}
	for _, db := range databases {
		if by := s.uncertainSince(db); by != "" {
			return c.later(s, by+" has run in database "+db), nil
		}
	}
	x := &script{catalogs: known.Clone()}
	if err := plan(x, &out); err != nil {
		return out, err
	}
	out.Changes = append(out.Changes, c.changes(s, x.list)...)
	return out, nil
}

// later is the outcome of a task that is planned when its turn comes.
func (c *Common) later(s *State, when string) Outcome {
	out := Outcome{Unknown: []string{"what is due is known once " + when}}
	if s.Role() != "standby" {
		out.Changes = []Change{{
			Key: "later:" + c.Name, Intent: "planned and carried out once " + when, Action: Replan{Why: when},
		}}
	}
	return out
}

// changes turns statements into changes. On a standby they are none: they come
// from the primary.
func (c *Common) changes(s *State, list []placed) []Change {
	var changes []Change
	for _, p := range list {
		change := Change{
			Key: "sql:" + p.database + ":" + p.statement.Subject(), Intent: p.statement.SQL(), Part: "sql " + p.database + " " + c.Name,
			Action: Execute{s.serverOf(), p.database, p.statement},
		}
		if p.statement.Alone() {
			change.Part = ""
		}
		if s.Role() == "standby" {
			from := c.primary(s)
			change.Intent = "comes by replication from " + orElse(from, "its primary") + ": " + change.Intent
			change.Action = Replicated{s.serverOf(), from, p.database, p.statement}
		}
		changes = append(changes, change)
	}
	return changes
}

// primary names the member of the fleet that a standby streams from; "" where
// none is known by the address.
func (c *Common) primary(s *State) string {
	srv := s.Server()
	if srv == nil {
		return ""
	}
	var others []string
	for _, in := range c.fleet.Replication(s.instance.Replication) {
		if in.ID() == s.instance.ID() {
			continue
		}
		if StreamsFrom(srv, in) {
			return string(in.ID())
		}
		others = append(others, string(in.ID()))
	}
	if len(others) == 1 {
		return others[0] // a standby that does not stream at the moment
	}
	return ""
}

// StreamsFrom reports whether a standby says that it streams from an instance. The
// port counts only where the instance's host has several: it may be another one on
// the way there.
func StreamsFrom(standby *facts.Server, in inventory.Instance) bool {
	return standby.Upstream != "" && (standby.Upstream == in.Host.Address || standby.Upstream == in.Host.Name) &&
		(standby.UpstreamPort == in.Port || standby.UpstreamPort == 0 || len(in.Host.Instances) < 2)
}

// catalogReads asks for what the databases share and for the contents of some.
func catalogReads(in inventory.Instance, databases ...string) []facts.Read {
	reads := []facts.Read{clusterRead(in)}
	for _, db := range databases {
		if db != "" {
			reads = append(reads, contentsRead(in, db))
		}
	}
	return reads
}

// needRole returns an error unless there is a role of that name.
func needRole(c *catalog.Cluster, name string, pos inventory.Position) error {
	if name == "" || c.Roles[name] != nil {
		return nil
	}
	return inventory.Error{Pos: pos, Msg: fmt.Sprintf("there is no role %q%s; a task of kind \"role\" before this one makes it",
		name, inventory.DidYouMean(name, slices.Sorted(maps.Keys(c.Roles))))}
}

// needDatabase returns a database's contents. That there is none of that name is
// a mistake at pos; that it cannot be read is the server's.
func needDatabase(c *catalog.Cluster, s *State, name string, pos inventory.Position) (*catalog.Contents, error) {
	if held := c.Contents[name]; held != nil {
		return held, nil
	}
	_, err := s.Contents(name)
	if err == nil {
		err = &noDatabaseError{name, slices.Sorted(maps.Keys(c.Databases))}
	}
	if missing, ok := errors.AsType[*noDatabaseError](err); ok {
		return nil, inventory.Error{Pos: pos, Msg: missing.Error()}
	}
	return nil, err
}

// grantee reads the name of who is granted something: "" is PUBLIC, which is a
// keyword in any case.
func grantee(name string) string {
	if strings.EqualFold(name, "public") {
		return ""
	}
	return name
}

// granteeName is the other way round, for the reader.
func granteeName(name string) string {
	if name == "" {
		return "PUBLIC"
	}
	return name
}

// checkName finds mistakes in the name of a role, a database or a schema.
func checkName(what string, name inventory.Positioned[string], errs *inventory.Errors) {
	if name.Value == "" && name.Node == nil {
		return
	}
	checkNameAt(what, name.Value, name.Pos(), errs)
}

func checkNameAt(what, name string, pos inventory.Position, errs *inventory.Errors) {
	switch err := postgres.CheckIdent(name); {
	case err != nil:
		errs.Add(pos, "%s: %v", what, err)
	case strings.EqualFold(name, "current_user"), strings.EqualFold(name, "session_user"), strings.EqualFold(name, "current_role"):
		errs.Add(pos, "%s: %s would be the role that pgfleet runs as; write its name, such as \"postgres\"", what, strings.ToUpper(name))
	}
}

// problemAt is a mistake at a place of fleet.toml that only planning finds.
func problemAt(pos inventory.Position, format string, args ...any) error {
	return inventory.Error{Pos: pos, Msg: fmt.Sprintf(format, args...)}
}
