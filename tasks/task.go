package tasks

import (
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/inventory"
)

// A Task is one entry of the ordered list, decoded for one instance. It does
// no I/O at all, and its methods may be called any number of times: planning
// calls Plan to see what is due, and after the change again to verify that
// nothing is.
type Task interface {
	// Check finds mistakes that can be seen without any host. Every mistake
	// is returned, with its position.
	Check(in inventory.Instance) inventory.Errors

	// Reads says what Plan has to know. It is called twice: first with a
	// State that knows nothing, then with one that holds the answers of the
	// first round, because paths and versions may depend on them. Questions
	// already answered need not be left out.
	Reads(in inventory.Instance, s *State) []facts.Read

	// Plan returns what is due. The error is one that the user must mend
	// before anything is changed on this instance.
	Plan(in inventory.Instance, s *State) (Outcome, error)
}

// A Loader is a Task that needs files of the operator's machine: a script, a
// template, a CA certificate. Load is called once, before Check.
type Loader interface {
	Load(local Local) inventory.Errors
}

// A Renderer is a Loader whose file is a template. Render is called once, after
// Load and before Check.
type Renderer interface {
	Render(render Render) inventory.Errors
}

// Render renders a template with the data of the task's instance. The position
// is where the text begins.
type Render func(text string, pos inventory.Position) (string, error)

// Local reads a file of the operator's machine. Relative paths are relative to
// the fleet.toml's folder.
type Local func(path string) ([]byte, error)

// An Outcome is what planning one task came to.
type Outcome struct {
	Changes []Change
	// Warnings are things the user should know that do not stop the run.
	Warnings []string
	// Unknown says what could not be known while planning, and why. It is
	// printed as unknown, never as ok.
	Unknown []string
	// Lockouts are those who would lose access.
	Lockouts []Lockout
}

// Common is what every kind of task knows of itself. Kinds embed it.
type Common struct {
	Name  string
	node  *inventory.Node // the kind's keys, rendered
	fleet *inventory.Fleet
	list  []*Bound // all tasks of the same instance, in order
	// clients are those that are declared for the same instance.
	clients []client
	ca      *Authority // nil without [ca]
	here    bool       // on = "operator": on the operator's machine and not on the host
}

// hostNames returns the names of the fleet's hosts.
func (c *Common) hostNames() []string {
	var names []string
	for _, h := range c.fleet.Hosts {
		names = append(names, h.Name)
	}
	return names
}

// at returns the position of a key of the task, or of the task itself where the
// key was not given.
func (c *Common) at(key string) inventory.Position {
	if c.node != nil {
		if n := c.node.Get(key); n != nil {
			return n.Pos
		}
		return c.node.Pos
	}
	return inventory.Position{}
}

// atIndex returns the position of an element of a list under a key.
func (c *Common) atIndex(key string, i int) inventory.Position {
	if c.node != nil {
		if n := c.node.Get(key); n != nil && i < len(n.Items) {
			return n.Items[i].Pos
		}
	}
	return c.at(key)
}

// given reports whether the task has the key.
func (c *Common) given(key string) bool { return c.node != nil && c.node.Get(key) != nil }

func (c *Common) common() *Common { return c }
