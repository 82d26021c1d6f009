package tasks

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/templates"
)

// A Bound is one task of the list for one instance: rendered, decoded and
// checked.
type Bound struct {
	Name     string // with the element of for_each, where there is one
	Kind     string
	Pos      inventory.Position
	On       string // "all", "primary", "standby", "one", "operator"
	Limit    inventory.Selector
	Instance inventory.Instance
	Task     Task
	// Selected is false for a task that --tags leaves out: it is not planned,
	// but what it owns is no orphan.
	Selected bool
	// Secrets are those that the task's texts refer to.
	Secrets []secrets.Ref
}

// Options says which tasks are wanted and where files are read.
type Options struct {
	Tags  []string // only tasks with one of these tags; all when empty
	Kinds []string // only tasks of these kinds; all when empty
	Names []string // only tasks with these names in fleet.toml; all when empty
	Local Local
	// Renew makes every certificate due that is there when it is first planned.
	Renew bool
	// TakeBackCA has hosts give up a CA that is newer than those here; without it that is
	// an error, because it was somebody with newer files who has brought it there.
	TakeBackCA bool
	// CheckSecret, if not nil, returns an error for a reference that cannot be
	// resolved whatever is stored, as of a store that the fleet does not have.
	CheckSecret func(secrets.Ref) error

	ca *Authority
}

// Expand binds the fleet's tasks to instances, in the order of the list. Every
// mistake in every task is returned, each once, however many hosts it is found
// for; the tasks are of no use then. A task whose kind is not known is left out:
// loading the fleet has reported it.
func Expand(fleet *inventory.Fleet, instances []inventory.Instance, o Options) (map[inventory.InstanceID][]*Bound, inventory.Errors) {
	all := map[inventory.InstanceID][]*Bound{}
	var errs inventory.Errors
	o.ca, errs = LoadAuthority(fleet, o.Local)
	if o.ca != nil {
		o.ca.takesBack = o.TakeBackCA
	}
	if o.ca != nil && o.CheckSecret != nil && o.ca.Issuer.Key != (secrets.Ref{}) {
		if err := o.CheckSecret(o.ca.Issuer.Key); err != nil {
			errs.Add(fleet.CA.Key.Pos(), "key: %v", err)
		}
	}
	for i := range fleet.Tasks {
		raw := &fleet.Tasks[i]
		if (raw.On == "one" || raw.On == "operator") && raw.Limit.NeedsRole() {
			errs.Add(raw.Pos, "on = %q takes the first instance that limit selects, before any server is asked for its role; let limit = %q name hosts, groups or clusters only%s",
				raw.On, raw.Limit, orPrimary(raw.On))
			continue
		}
		selected := (len(o.Tags) == 0 || slices.ContainsFunc(raw.Tags, func(t string) bool { return slices.Contains(o.Tags, t) })) &&
			(len(o.Kinds) == 0 || slices.Contains(o.Kinds, raw.Kind)) && (len(o.Names) == 0 || slices.Contains(o.Names, raw.Name))
		for _, in := range instances {
			bound, taskErrs := expand(fleet, raw, in, o)
			errs = append(errs, taskErrs...)
			for _, b := range bound {
				b.Selected = selected
			}
			all[in.ID()] = append(all[in.ID()], bound...)
			if len(bound) > 0 && (bound[0].On == "one" || bound[0].On == "operator") {
				break
			}
		}
	}
	for _, in := range instances {
		backups, backupErrs := expandBackups(fleet, in, o)
		errs = append(errs, backupErrs...)
		all[in.ID()] = append(all[in.ID()], backups...)
		list := all[in.ID()]
		clients, clientErrs := clientsOf(fleet, in)
		errs = append(errs, clientErrs...)
		for _, b := range list {
			c := commonOf(b.Task)
			c.list, c.clients = list, clients
		}
		errs = append(errs, conflicts(list)...)
	}
	return all, errs.Sorted()
}

// orPrimary names the other way for a task that is to run once.
func orPrimary(on string) string {
	if on == "operator" {
		return ""
	}
	return ", or say on = \"primary\" or on = \"standby\""
}

// expand binds one task to one instance: not at all where it does not apply,
// once, or once for each element of for_each.
func expand(fleet *inventory.Fleet, raw *inventory.Task, in inventory.Instance, o Options) ([]*Bound, inventory.Errors) {
	var errs inventory.Errors
	if kinds()[raw.Kind] == nil {
		return nil, nil
	}
	if raw.Limit.Match(in, nil) == inventory.No {
		return nil, nil
	}
	data := templates.NewData(fleet, in)
	if raw.When.Value != "" {
		due, err := templates.EvalWhen(raw.When, data)
		if err != nil {
			return nil, asErrors(raw.When.Pos(), err)
		}
		if !due {
			return nil, nil
		}
	}
	elements, errs := templates.Each(raw.ForEach, data)
	if len(errs) > 0 {
		return nil, errs
	}
	var bound []*Bound
	for _, e := range elements {
		b, taskErrs := bind(fleet, raw, in, e, o)
		errs = append(errs, taskErrs...)
		if b != nil {
			bound = append(bound, b)
		}
	}
	return bound, errs
}

func bind(fleet *inventory.Fleet, raw *inventory.Task, in inventory.Instance, data templates.Data, o Options) (*Bound, inventory.Errors) {
	node, errs := templates.RenderNode(raw.Body, data)
	if len(errs) > 0 {
		return nil, errs
	}
	name, err := templates.Render(raw.Name, raw.NamePos, data)
	if err != nil {
		return nil, asErrors(raw.NamePos, err)
	}
	if each := data.EachLabel(); each != "" && name == raw.Name {
		name += " (" + each + ")"
	}
	task := kinds()[raw.Kind]()
	if errs := inventory.Decode(node, task); len(errs) > 0 {
		return nil, errs
	}
	c := commonOf(task)
	c.Name, c.node, c.fleet, c.ca, c.here = name, node, fleet, o.ca, raw.On == "operator"
	if t, ok := task.(*Certificate); ok {
		t.renew = o.Renew
	}
	if _, ok := task.(runsHere); c.here && !ok {
		return nil, inventory.Errors{{Pos: raw.Pos, Msg: fmt.Sprintf("on = \"operator\" is for tasks of kind command and verify, not %s", raw.Kind)}}
	}
	if l, ok := task.(Loader); ok {
		if errs := l.Load(o.Local); len(errs) > 0 {
			return nil, errs
		}
	}
	if r, ok := task.(Renderer); ok {
		render := func(text string, pos inventory.Position) (string, error) { return templates.Render(text, pos, data) }
		if errs := r.Render(render); len(errs) > 0 {
			return nil, errs
		}
	}
	if errs := task.Check(in); len(errs) > 0 {
		return nil, errs
	}
	b := &Bound{Name: name, Kind: raw.Kind, Pos: raw.Pos, On: raw.On, Limit: raw.Limit, Instance: in, Task: task}
	if b.On == "" {
		b.On = "all"
		if d, ok := task.(interface{ on() string }); ok {
			b.On = d.on()
		}
	}
	named, err := secretsOf(node, task, raw.Pos)
	if err != nil {
		return nil, asErrors(raw.Pos, err)
	}
	if errs := checkSecrets(named, task, o.CheckSecret); len(errs) > 0 {
		return nil, errs
	}
	for _, n := range named {
		b.Secrets = append(b.Secrets, n.ref)
	}
	if t, ok := task.(interface{ secrets() []secrets.Ref }); ok {
		b.Secrets = append(b.Secrets, t.secrets()...)
	}
	return b, nil
}

// runsHere is implemented by kinds that can be carried out on the operator's
// machine, once for the fleet, in the place that the first instance's plan gives
// them.
type runsHere interface{ runsHere() }

// skipped reports whether the task is not for this instance because of the role
// that its server has now.
func (b *Bound) skipped(s *State) (bool, error) {
	role := s.Role()
	if role == "" && (b.On == "primary" || b.On == "standby" || b.Limit.NeedsRole()) {
		if s.Server() == nil && s.Known(ServerRead(b.Instance)) && b.Instance.Replication == "" {
			role = "primary" // a server that stands alone will be one once it runs
		} else {
			return false, errors.New("whether the server is a primary or a standby is not known: " + s.ServerProblem())
		}
	}
	if (b.On == "primary" || b.On == "standby") && b.On != role {
		return true, nil
	}
	of := func(inventory.InstanceID) (string, bool) { return role, true }
	return b.Limit.Match(b.Instance, of) == inventory.No, nil
}

// A TaskError is why a task cannot be planned or carried out.
type TaskError struct {
	Task string
	Err  error
}

// Error returns the task's name and the reasons, each on a line of its own
// where there are several.
func (e *TaskError) Error() string {
	reasons := strings.Split(e.Err.Error(), "\n")
	for i, r := range reasons {
		reasons[i] = fmt.Sprintf("%s: %s", e.Task, r)
	}
	return strings.Join(reasons, "\n")
}

// Unwrap returns the reason.
func (e *TaskError) Unwrap() error { return e.Err }

// taskErrors collects why tasks cannot be planned. What stands in the way of
// several of them is said once.
type taskErrors []*TaskError

func (e *taskErrors) add(b *Bound, err error) {
	for _, earlier := range *e {
		if earlier.Err.Error() == err.Error() {
			earlier.Task += ", " + b.Name
			return
		}
	}
	*e = append(*e, &TaskError{Task: b.Name, Err: err})
}

func (e taskErrors) join() error {
	var list []error
	for _, x := range e {
		list = append(list, x)
	}
	return errors.Join(list...)
}

// asErrors turns an error into positioned ones; one that has no position of its
// own is at pos.
func asErrors(pos inventory.Position, err error) inventory.Errors {
	var many inventory.Errors
	if errors.As(err, &many) {
		return many
	}
	var one inventory.Error
	if errors.As(err, &one) {
		return inventory.Errors{one}
	}
	return inventory.Errors{{Pos: pos, Msg: err.Error()}}
}
