package tasks

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// rehearseRead asks for a rehearsal. What stands before the script is put on its
// first line, so that the lines of errors are the script's.
func (t *Psql) rehearseRead(in inventory.Instance) facts.Rehearse {
	sql := t.text
	if t.As.Value != "" {
		sql = "SET ROLE " + postgres.QuoteIdent(t.As.Value) + "; " + sql
	}
	return facts.Rehearse{
		Port: in.Port, SocketDir: socketDir, Database: t.database(), SQL: sql,
		Timeout: int(orTimeout(t.Timeout, 10*time.Minute) / time.Millisecond),
	}
}

// rehearsed takes over what a rehearsal of the script came to. The server was
// asked as it is: what tasks before this one change may mend an error, and makes
// the outcome another one.
func (t *Psql) rehearsed(in inventory.Instance, s *State, change *Change, out *Outcome) error {
	unknown := func(format string, args ...any) error {
		out.Unknown = append(out.Unknown, "what the script does: "+fmt.Sprintf(format, args...))
		return nil
	}
	r, err := ask[facts.Rehearsed](s, t.rehearseRead(in))
	found := s.found()
	switch {
	case errors.Is(err, errUnasked) && found != nil && found.Databases[t.database()] == nil, r.Missing:
		return unknown("database %s is not there yet, so it was not rehearsed", t.database())
	case errors.Is(err, errUnasked):
		return unknown("it is due only after the tasks before it, so it was not rehearsed")
	case err != nil:
		return err
	case r.Outside != "":
		return problemAt(t.at("rehearse"), "rehearse: no transaction takes back what %s does (%s); take it out, or take rehearse away", t.name, r.Outside)
	case r.Problem != "" && !s.moved:
		return fmt.Errorf("%s: rehearsed on the server, in a transaction that was rolled back, it fails:\n%s", t.name, strings.TrimSpace(r.Problem))
	}
	out.Warnings = append(out.Warnings, "rehearsed on the server, in a transaction that was rolled back; what it took from sequences stays taken")
	if r.Problem != "" {
		return unknown("rehearsed on the server as it is before the tasks ahead of it, it fails: %s", strings.TrimSpace(r.Problem))
	}
	if found == nil || found.Contents[t.database()] == nil || r.Cluster == nil || r.Cluster.Contents[t.database()] == nil {
		return nil
	}
	inside := r.Cluster.Clone()
	held := *inside.Contents[t.database()]
	held.Available = found.Contents[t.database()].Available // not asked again inside
	inside.Contents[t.database()] = &held
	if err := t.made(&held); err != nil {
		return err
	}
	before := found.Clone()
	maps.DeleteFunc(before.Contents, func(db string, _ *catalog.Contents) bool { return db != t.database() })
	change.Effects = catalog.Diff(before, inside)
	if a, ok := change.Action.(RunScript); ok && !s.moved {
		a.Rehearsed = inside
		change.Action = a
	}
	return nil
}

// found returns the server's catalogs as they were found, before any change; nil
// where they are not known.
func (s *State) found() *catalog.Cluster {
	n := State{instance: s.instance, answers: s.answers}
	n.readCatalogs()
	return n.cluster
}
