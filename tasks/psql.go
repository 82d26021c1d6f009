package tasks

import (
	"time"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// Psql runs a script of SQL through the host's psql. It has to say when it is
// due: unless, a query; creates, what it makes; or always, and then its run is
// not counted as a change. What else it changes is known only where it is
// rehearsed.
type Psql struct {
	Common
	Script   inventory.Positioned[string] `toml:"script" doc:"A file with SQL beside fleet.toml; it is a template."`
	SQL      inventory.Positioned[string] `toml:"sql" doc:"The SQL itself."`
	Literal  bool                         `toml:"literal" doc:"script is taken as it is, not as a template."`
	Database string                       `toml:"database" doc:"postgres by default."`
	Unless   inventory.Positioned[string] `toml:"unless" doc:"A query that only looks, such as \"SELECT EXISTS (…)\": true means there is nothing to do. It runs while planning, read-only."`
	Always   bool                         `toml:"always" doc:"Run at every apply, not counted as a change."`
	Creates  positionedNames              `toml:"creates" doc:"What the script makes, such as [\"table public.orders\", \"view public.v owner appowner\"]: it is due while one of these is missing, and later tasks are planned with them."`
	Rehearse bool                         `toml:"rehearse" doc:"While planning, when it is due, run the script in a transaction that is rolled back, and show its errors and what it changes. This touches the server: locks, for 2 s at most waited for, and sequences."`
	As       inventory.Positioned[string] `toml:"as" doc:"The role that it runs as (SET ROLE), and that owns what it makes; the superuser by default."`
	Single   *bool                        `toml:"single_transaction" doc:"All of the script or nothing; true by default."`
	Timeout  time.Duration                `toml:"timeout" doc:"How long it may take; 10m by default."`

	text    string
	name    string
	creates []created
}

// Load reads script.
func (t *Psql) Load(local Local) inventory.Errors {
	t.text, t.name = t.SQL.Value, "sql"
	if t.Script.Value == "" {
		return nil
	}
	var errs inventory.Errors
	b, err := local(t.Script.Value)
	if err != nil {
		errs.Add(t.Script.Pos(), "script: %v", err)
	}
	t.text, t.name = string(b), t.Script.Value
	return errs
}

// Render renders script.
func (t *Psql) Render(render Render) inventory.Errors {
	if t.Script.Value == "" || t.Literal {
		return nil
	}
	text, err := render(t.text, inventory.Position{File: t.Script.Value, Line: 1, Column: 1})
	if err != nil {
		return asErrors(t.Script.Pos(), err)
	}
	t.text = text
	return nil
}

// Check wants one script, and to know when it is due.
func (t *Psql) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	if (t.Script.Value == "") == (t.SQL.Value == "") {
		errs.Add(t.node.Pos, "one of script and sql is needed")
	}
	said := 0
	for _, is := range []bool{t.Unless.Value != "", t.Always, len(t.Creates) > 0} {
		if is {
			said++
		}
	}
	if said != 1 {
		errs.Add(t.node.Pos, "say in one way when the script is due: unless = \"SELECT …\", creates = [\"table …\"], or always = true")
	}
	if t.Rehearse && secrets.HasPlaceholder(t.text) {
		errs.Add(t.at("rehearse"), "rehearse: a script with a secret is not rehearsed, because its text goes into the plan's questions")
	}
	if t.Rehearse && t.Single != nil && !*t.Single {
		errs.Add(t.at("rehearse"), "rehearse: it runs in one transaction, and single_transaction is false")
	}
	checkName("as", t.As, &errs)
	t.parseCreates(&errs)
	return errs
}

func (t *Psql) database() string { return orElse(t.Database, "postgres") }

func (t *Psql) query(in inventory.Instance) facts.Query {
	return facts.Query{Port: in.Port, SocketDir: socketDir, Database: t.database(), SQL: t.Unless.Value}
}

// Reads asks when it is due and, once that is known, for a rehearsal.
func (t *Psql) Reads(in inventory.Instance, s *State) []facts.Read {
	var reads []facts.Read
	if len(t.Creates) > 0 || t.Rehearse || t.As.Value != "" {
		reads = catalogReads(in, t.database())
	}
	if t.Unless.Value != "" {
		reads = append(reads, t.query(in))
	}
	if !t.Rehearse || s.Role() != "primary" {
		return reads
	}
	if d, err := t.due(in, s); err == nil && d.now {
		reads = append(reads, t.rehearseRead(in))
	}
	return reads
}

// A dueness is whether the script has to run, and how that is known.
type dueness struct {
	now, maybe bool
	why        string
	unknown    string
	missing    []catalog.Relation
}

// due looks for a reason to run the script.
func (t *Psql) due(in inventory.Instance, s *State) (dueness, error) {
	switch {
	case t.Always:
		return dueness{now: true, why: "always"}, nil
	case len(t.Creates) > 0:
		missing, err := t.missing(s)
		if err != nil || len(missing) == 0 {
			return dueness{}, err
		}
		return dueness{now: true, why: missing[0].Schema + "." + missing[0].Name.Name + " is missing", missing: missing}, nil
	}
	r, err := ask[facts.QueryResult](s, t.query(in))
	switch {
	case err != nil || r.True && !s.moved:
		return dueness{}, err
	case r.True:
		return dueness{maybe: true, why: "known after the changes before it", unknown: "whether it is due: it is not now, and is asked again after the changes before it"}, nil
	case r.Problem != "":
		return dueness{now: true, why: "unless is known after apply", unknown: "whether the script is due: " + r.Problem}, nil
	}
	return dueness{now: true, why: "unless says so"}, nil
}

// Plan runs the script when it is due.
func (t *Psql) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	if len(t.Creates) > 0 {
		if by := s.uncertainSince(t.database()); by != "" {
			return t.later(s, by+" has run in database "+t.database()), nil
		}
		if _, err := s.Cluster(); err != nil && s.Server() == nil {
			return t.later(s, "the server answers ("+s.ServerProblem()+")"), nil
		}
	}
	d, err := t.due(in, s)
	if err != nil || !d.now && !d.maybe {
		return out, err
	}
	if d.unknown != "" {
		out.Unknown = append(out.Unknown, d.unknown)
	}
	if c, err := s.Cluster(); err == nil {
		if err := needRole(c, t.As.Value, t.As.Pos()); err != nil {
			return out, err
		}
	}
	change := Change{
		Key: "psql:" + t.Name, After: digestOf([]byte(t.text)),
		Intent: "run " + t.name + " in database " + t.database() + " (" + d.why + ")",
		Action: RunScript{
			Server: s.serverOf(), Name: t.name, Database: t.database(), SQL: t.text, Unless: t.Unless.Value, As: t.As.Value, Creates: d.missing,
			Single: t.Single == nil || *t.Single, Always: t.Always, Maybe: d.maybe, Timeout: orTimeout(t.Timeout, 10*time.Minute),
		},
	}
	if t.Rehearse && d.now {
		if err := t.rehearsed(in, s, &change, &out); err != nil {
			return out, err
		}
	}
	out.Changes = []Change{change}
	return out, nil
}

// elsewhere returns the State of a standby once the primary has run the script.
func (t *Psql) elsewhere(in inventory.Instance, s *State) *State {
	d, err := t.due(in, s)
	if err != nil || !d.now {
		return s
	}
	n := *s
	n.foreseeScript(RunScript{Database: t.database(), Name: t.name, Creates: d.missing, Always: t.Always})
	return &n
}

func (t *Psql) needsServer() {}

// on says where the kind runs when the task does not: a standby cannot be
// written to.
func (t *Psql) on() string { return "primary" }

// rendered is the text that goes to the host, for the secrets in it.
func (t *Psql) rendered() string { return t.text }
