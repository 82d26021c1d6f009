package tasks

import (
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// Verify proves something at the end of its place in the list, and changes
// nothing: a login over TLS, a query's answer, a port.
type Verify struct {
	Common
	Login    *LoginCheck                  `toml:"login" doc:"A role that logs in over TLS with the server's certificate verified in full."`
	Query    inventory.Positioned[string] `toml:"query" doc:"A query, run by the login, or as postgres over the server's socket without one."`
	Database string                       `toml:"database" doc:"Where the query runs; postgres by default."`
	Expect   *string                      `toml:"expect" doc:"What the query's first column of its first row must be."`
	Port     *PortCheck                   `toml:"port" doc:"A TCP port that must answer, or must not."`
	Timeout  time.Duration                `toml:"timeout" doc:"How long it may take; 15s by default."`

	ca  []byte
	ref secrets.Ref
}

// LoginCheck is the table login of a verify task.
type LoginCheck struct {
	Role     string                       `toml:"role" required:"true" doc:"Who logs in."`
	Password inventory.Positioned[string] `toml:"password" required:"true" doc:"Where the password is: a secret such as \"env:APP_PASSWORD\"."`
	CA       inventory.Positioned[string] `toml:"ca" required:"true" doc:"The CA that the server's certificate must come from, a file beside fleet.toml."`
	From     inventory.Positioned[string] `toml:"from" doc:"Where the login comes from: the name of a host of the fleet, or \"here\" (the default)."`
	Address  string                       `toml:"address" doc:"The address to connect to; the host's own by default. The certificate must name it."`
	Refused  bool                         `toml:"refused" doc:"The login must be refused."`
}

// PortCheck is the table port of a verify task.
type PortCheck struct {
	Port    int                          `toml:"port" min:"1" max:"65535" doc:"The server's port by default."`
	Address string                       `toml:"address" doc:"The host's own by default."`
	From    inventory.Positioned[string] `toml:"from" doc:"Where the connection comes from: the name of a host of the fleet, or \"here\" (the default)."`
	Closed  bool                         `toml:"closed" doc:"The port must not answer."`
}

// Load reads the CA's certificate.
func (t *Verify) Load(local Local) inventory.Errors {
	if t.Login == nil {
		return nil
	}
	b, err := local(t.Login.CA.Value)
	if err != nil {
		var errs inventory.Errors
		errs.Add(t.Login.CA.Pos(), "ca: %v", err)
		return errs
	}
	t.ca = b
	return nil
}

// Check wants exactly one thing to prove.
func (t *Verify) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	if t.Login == nil && t.Port == nil && t.Query.Value == "" {
		errs.Add(t.node.Pos, "nothing to verify: login, query or port is needed")
	}
	if t.Port != nil && (t.Login != nil || t.Query.Value != "") {
		errs.Add(t.at("port"), "port: a task of its own, please: it goes with neither login nor query")
	}
	if t.Expect != nil && t.Query.Value == "" {
		errs.Add(t.at("expect"), "expect: there is no query")
	}
	from := func(p inventory.Positioned[string]) {
		if p.Value != "" && p.Value != "here" && t.fleet.Host(p.Value) == nil {
			errs.Add(p.Pos(), "from: no host %q%s; \"here\" is the operator's machine", p.Value, inventory.DidYouMean(p.Value, t.hostNames()))
		}
	}
	if t.Login != nil {
		var err error
		if t.ref, err = passwordRef(t.Login.Password.Value); err != nil {
			errs.Add(t.Login.Password.Pos(), "password: %v", err)
		}
		from(t.Login.From)
	}
	if t.Port != nil {
		from(t.Port.From)
	}
	return errs
}

// Reads asks nothing: a proof is made while applying.
func (t *Verify) Reads(inventory.Instance, *State) []facts.Read { return nil }

// Plan returns the check, which is no change.
func (t *Verify) Plan(in inventory.Instance, s *State) (Outcome, error) {
	timeout := orTimeout(t.Timeout, 15*time.Second)
	c := Change{Key: "verify:" + t.Name}
	switch {
	case t.Login != nil:
		l := t.Login
		address := orElse(l.Address, in.Host.Address)
		c.Intent = "log in as " + l.Role + " at " + address + ", from " + orElse(l.From.Value, "here")
		c.Action = Login{
			From: orElse(l.From.Value, "here"), Address: address, Port: in.Port, Role: l.Role,
			Database: orElse(t.Database, "postgres"), Password: t.ref, CA: t.ca,
			Query: t.Query.Value, Expect: t.Expect, Refused: l.Refused, Timeout: timeout,
		}
	case t.Port != nil:
		p := t.Port
		port := p.Port
		if port == 0 {
			port = in.Port
		}
		c.Intent = "connect to a port, from " + orElse(p.From.Value, "here")
		c.Action = Port{From: orElse(p.From.Value, "here"), Address: orElse(p.Address, in.Host.Address), Port: port, Closed: p.Closed, Timeout: timeout}
	default:
		c.Intent = "ask " + firstLine(t.Query.Value)
		c.Action = Ask{Server: s.serverOf(), Database: orElse(t.Database, "postgres"), Query: t.Query.Value, Expect: t.Expect, Timeout: timeout}
	}
	return Outcome{Changes: []Change{c}}, nil
}

func (t *Verify) needsServer() {}
func (t *Verify) runsHere()    {}
