package tasks

import (
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// Psql runs a script of SQL through the host's psql. What it would change
// cannot be known, so it has to say when it is due: unless, a query; or always,
// and then its run is not counted as a change.
type Psql struct {
	Common
	Script   inventory.Positioned[string] `toml:"script" doc:"A file with SQL beside fleet.toml; it is a template."`
	SQL      inventory.Positioned[string] `toml:"sql" doc:"The SQL itself."`
	Literal  bool                         `toml:"literal" doc:"script is taken as it is, not as a template."`
	Database string                       `toml:"database" doc:"postgres by default."`
	Unless   inventory.Positioned[string] `toml:"unless" doc:"A query that only looks, such as \"SELECT EXISTS (…)\": true means there is nothing to do. It runs while planning, read-only."`
	Always   bool                         `toml:"always" doc:"Run at every apply, not counted as a change."`
	Single   *bool                        `toml:"single_transaction" doc:"All of the script or nothing; true by default."`
	Timeout  time.Duration                `toml:"timeout" doc:"How long it may take; 10m by default."`

	text string
	name string
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
	if (t.Unless.Value == "") == !t.Always {
		errs.Add(t.node.Pos, "say when the script is due: unless = \"SELECT …\", or always = true")
	}
	return errs
}

func (t *Psql) database() string { return orElse(t.Database, "postgres") }

func (t *Psql) query(in inventory.Instance) facts.Query {
	return facts.Query{Port: in.Port, SocketDir: socketDir, Database: t.database(), SQL: t.Unless.Value}
}

// Reads asks the unless query.
func (t *Psql) Reads(in inventory.Instance, _ *State) []facts.Read {
	if t.Unless.Value == "" {
		return nil
	}
	return []facts.Read{t.query(in)}
}

// Plan runs the script when it is due.
func (t *Psql) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	why, maybe := "always", false
	if t.Unless.Value != "" {
		r, err := ask[facts.QueryResult](s, t.query(in))
		if err != nil {
			return out, err
		}
		if r.True && !s.moved {
			return out, nil
		}
		why = "unless says so"
		if r.True {
			maybe, why = true, "known after the changes before it"
			out.Unknown = append(out.Unknown, "whether it is due: it is not now, and is asked again after the changes before it")
		}
		if r.Problem != "" {
			out.Unknown = append(out.Unknown, "whether the script is due: "+r.Problem)
			why = "unless is known after apply"
		}
	}
	out.Changes = []Change{{
		Key: "psql:" + t.Name, After: digestOf([]byte(t.text)),
		Intent: "run " + t.name + " in database " + t.database() + " (" + why + ")",
		Action: RunScript{
			Server: s.serverOf(), Name: t.name, Database: t.database(), SQL: t.text, Unless: t.Unless.Value,
			Single: t.Single == nil || *t.Single, Always: t.Always, Maybe: maybe, Timeout: orTimeout(t.Timeout, 10*time.Minute),
		},
	}}
	return out, nil
}

func (t *Psql) needsServer() {}

// on says where the kind runs when the task does not: a standby cannot be
// written to.
func (t *Psql) on() string { return "primary" }

// rendered is the text that goes to the host, for the secrets in it.
func (t *Psql) rendered() string { return t.text }
