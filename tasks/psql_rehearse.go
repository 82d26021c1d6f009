package tasks

import (
	"errors"
	"fmt"
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

// rehearsed takes over what a rehearsal of the script came to: an error of it is
// one of the plan, unless what earlier tasks will have done may mend it.
func (t *Psql) rehearsed(in inventory.Instance, s *State, change *Change, out *Outcome) error {
	r, err := ask[facts.Rehearsed](s, t.rehearseRead(in))
	switch {
	case errors.Is(err, errUnasked): // it became due only by what earlier tasks will do
		out.Unknown = append(out.Unknown, "what the script does: it was not due while planning, so it was not rehearsed")
		return nil
	case err != nil:
		return err
	case r.Outside != "":
		return problemAt(t.at("rehearse"), "rehearse: it cannot be rehearsed, because it holds what no transaction takes back: %s; take that out, or take rehearse away", r.Outside)
	case r.Missing:
		out.Unknown = append(out.Unknown, "what the script does: database "+t.database()+" is not there yet, so it was not rehearsed")
		return nil
	case r.Problem != "" && s.moved:
		out.Unknown = append(out.Unknown, "what the script does: rehearsed before the tasks ahead of it, it fails: "+strings.TrimSpace(r.Problem))
		return nil
	case r.Problem != "":
		return fmt.Errorf("%s: rehearsed on the server, in a transaction that was rolled back, it fails:\n%s", t.name, strings.TrimSpace(r.Problem))
	}
	out.Warnings = append(out.Warnings, "rehearsed on the server, in a transaction that was rolled back; what it took from sequences stays taken")
	if r.Cluster == nil || s.moved {
		return nil // inside was the server as it is now, not as earlier tasks will have made it
	}
	before := s.cluster.Clone()
	for db := range before.Contents {
		if db != t.database() {
			delete(before.Contents, db)
		}
	}
	change.Effects = catalog.Diff(before, r.Cluster)
	if a, ok := change.Action.(RunScript); ok {
		a.Rehearsed = r.Cluster
		change.Action = a
	}
	return nil
}
