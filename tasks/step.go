package tasks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/inventory"
)

// A Step is what is done as one: its changes are staged, checked, put in place,
// activated and verified together, or all put back.
type Step struct {
	ID      string
	On      inventory.InstanceID
	Tasks   []*Bound // whose changes these are; planning them again must find nothing
	Changes []Change
	Server  Server // of the instance
}

// Writes reports whether the step changes anything on the host.
func (s Step) Writes() bool {
	return slices.ContainsFunc(s.Changes, func(c Change) bool { return Writes(c.Action) })
}

// A Plan is what is due on one instance.
type Plan struct {
	Instance inventory.Instance
	Role     string
	Steps    []Step
	Warnings []Note
	Unknown  []Note
	Lockouts []Lockout // who would lose access; apply refuses unless told otherwise
	Orphans  []string  // own files that no task declares any more
	// After is the State that the plan leaves, for the other instances of the
	// host; see State.After.
	After *State
	// Skipped names tasks that are not for this instance, because of its role.
	Skipped []string
}

// A Note is a remark about one task.
type Note struct{ Task, Text string }

// Changes returns the writing changes of all steps.
func (p *Plan) Changes() []Change {
	var list []Change
	for _, s := range p.Steps {
		for _, c := range s.Changes {
			if Writes(c.Action) {
				list = append(list, c)
			}
		}
	}
	return list
}

// PlanInstance plans an instance's tasks in order, each against the State that
// the earlier ones leave. The error names every task that cannot be planned,
// and is the user's to mend; nothing may be changed on the instance then.
func PlanInstance(in inventory.Instance, s *State, bound []*Bound) (*Plan, error) {
	p := &planner{plan: &Plan{Instance: in, Role: s.Role()}, state: s}
	if srv := s.Server(); srv != nil && srv.Version.Major() != in.Version {
		return nil, fmt.Errorf("the server on port %d is PostgreSQL %d, and fleet.toml says %d: give the host postgres.version = %d, or the right port",
			in.Port, srv.Version.Major(), in.Version, srv.Version.Major())
	}
	var problems taskErrors
	var finishing []*Bound
	if w := undoWarning(s); w != "" {
		p.plan.Warnings = append(p.plan.Warnings, Note{"", w})
	}
	if c := leftovers(s); c != nil {
		p.add(&Bound{Name: "Tidying up", Instance: in, Selected: true}, *c)
	}
	for _, b := range bound {
		if !b.Selected {
			continue
		}
		skip, err := b.skipped(p.state)
		if err != nil {
			problems.add(b, err)
			continue
		}
		if skip {
			p.plan.Skipped = append(p.plan.Skipped, b.Name)
			if t, ok := b.Task.(replicated); ok && b.On == "primary" && p.state.Role() == "standby" {
				p.state = t.elsewhere(in, p.state)
				p.left = append(p.left, leftBy{b, p.state})
			}
			continue
		}
		if _, ok := b.Task.(needsServer); ok {
			p.activate()
		}
		out, err := b.Task.Plan(in, p.state)
		if err != nil {
			problems.add(b, err)
			continue
		}
		p.take(b, out)
		if _, ok := b.Task.(finisher); ok {
			finishing = append(finishing, b)
		}
	}
	p.activate()
	for _, b := range finishing {
		out, err := b.Task.(finisher).Finish(in, p.state)
		if err != nil {
			problems.add(b, err)
			continue
		}
		p.take(b, out)
	}
	if len(problems) > 0 {
		return nil, problems.join()
	}
	for _, w := range p.state.restartOwed() {
		p.plan.Warnings = append(p.plan.Warnings, Note{"", w + "; only a restart applies it, and a task of kind \"service\" is what restarts the server"})
	}
	p.lockouts(s)
	p.plan.Orphans = orphans(p.state, bound)
	p.plan.After = p.state
	return p.plan, nil
}

// needsServer is implemented by kinds that use the server with its
// configuration as declared so far, so that it has to be loaded before.
type needsServer interface{ needsServer() }

// finisher is implemented by kinds that prove something of the server as the
// whole list leaves it. Finish is called after all tasks were planned.
type finisher interface {
	Finish(in inventory.Instance, s *State) (Outcome, error)
}

// Statements plans again what a step of SQL of the task consists of. It needs no
// more facts than the server's own and those that the task Reads.
func (b *Bound) Statements(s *State) (Outcome, error) {
	if t, ok := b.Task.(resetter); ok {
		return Outcome{Changes: t.resets(s)}, nil
	}
	return b.Task.Plan(b.Instance, s)
}

// resetter is implemented by kinds of which most is not SQL.
type resetter interface{ resets(s *State) []Change }

// replicated is implemented by kinds that are carried out on the primary and
// whose effects come to a standby: later tasks are planned with them there too.
type replicated interface {
	elsewhere(in inventory.Instance, s *State) *State
}

type planner struct {
	plan  *Plan
	state *State
	left  []leftBy
}

// take adds what planning one task came to.
func (p *planner) take(b *Bound, out Outcome) {
	for _, w := range out.Warnings {
		p.plan.Warnings = append(p.plan.Warnings, Note{b.Name, w})
	}
	for _, u := range out.Unknown {
		p.plan.Unknown = append(p.plan.Unknown, Note{b.Name, u})
	}
	for _, l := range out.Lockouts {
		l.Task = b.Name
		p.plan.Lockouts = append(p.plan.Lockouts, l)
	}
	for _, c := range out.Changes {
		p.add(b, c)
	}
	p.left = append(p.left, leftBy{b, p.state})
}

// add puts a change into the last step when it is part of it, and into one of
// its own otherwise.
func (p *planner) add(b *Bound, c Change) {
	last := p.last()
	if last == nil || c.Part == "" || last.Changes[0].Part != c.Part {
		p.activate()
		p.plan.Steps = append(p.plan.Steps, Step{
			ID: fmt.Sprintf("%s#%d", p.plan.Instance.ID(), len(p.plan.Steps)+1),
			On: p.plan.Instance.ID(), Server: p.state.serverOf(),
		})
		last = p.last()
	}
	if !slices.Contains(last.Tasks, b) {
		last.Tasks = append(last.Tasks, b)
	}
	last.insert(c)
	p.state = p.state.Foresee(c)
}

// insert keeps the activation last, and one: a restart loads what a reload
// would have.
func (s *Step) insert(c Change) {
	at := slices.IndexFunc(s.Changes, func(c Change) bool { return activates(c.Action) })
	switch {
	case at < 0:
		s.Changes = append(s.Changes, c)
	case !activates(c.Action):
		s.Changes = slices.Insert(s.Changes, at, c)
	default:
		if _, restart := c.Action.(Restart); restart {
			s.Changes[at] = c
		}
	}
}

func activates(a Action) bool {
	switch a.(type) {
	case Reload, Restart:
		return true
	}
	return false
}

// activate ends an open configuration step: what it writes has to be loaded
// before anything else relies on it.
func (p *planner) activate() {
	last := p.last()
	if last == nil || last.Changes[0].Part != ConfigurationPart(p.plan.Instance) {
		return
	}
	if slices.ContainsFunc(last.Changes, func(c Change) bool { return activates(c.Action) }) {
		return
	}
	if p.state.Server() == nil {
		return // nothing runs that could load it; a service task starts it
	}
	c := reloadChange(p.state, []string{"its files change"})
	last.insert(c)
	p.state = p.state.Foresee(c)
}

func (p *planner) last() *Step {
	if len(p.plan.Steps) == 0 {
		return nil
	}
	return &p.plan.Steps[len(p.plan.Steps)-1]
}

// ConfigurationPart names the step that holds all changes to one server's
// configuration.
func ConfigurationPart(in inventory.Instance) string { return "configuration of " + in.Unit() }

func reloadChange(s *State, why []string) Change {
	return Change{
		Key: "reload:" + s.instance.Unit(), Intent: "reload: " + strings.Join(why, "; "),
		Action: Reload{s.serverOf()}, Part: ConfigurationPart(s.instance),
	}
}

func restartChange(s *State, verb string, why []string) Change {
	return Change{
		Key: verb + ":" + s.instance.Unit(), Intent: verb + ": " + strings.Join(why, "; "),
		Action: Restart{s.serverOf()}, Part: ConfigurationPart(s.instance),
	}
}

// Title names the step for the reader: its task, or what several tasks change
// together.
func (s Step) Title() string {
	if part := s.Changes[0].Part; part != "" && len(s.Tasks) > 1 {
		return part
	}
	var names []string
	for _, b := range s.Tasks {
		names = append(names, b.Name)
	}
	title := strings.Join(names, ", ")
	if what := rotationStep(s.Changes[0].Action); what != "" {
		title += ": " + what
	}
	return title
}
