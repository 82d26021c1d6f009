package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

// A session is a fleet whose hosts can be dialled, and the instances of it that
// the command is about. Close it.
type session struct {
	app       *app
	fleet     *inventory.Fleet
	instances []inventory.Instance
	run       *rollout.Run
	secrets   *secrets.Resolver
	connector *connector
	// Undecided are instances whose role, which --limit depends on, could not
	// be learned.
	undecided map[inventory.InstanceID]error
	asked     bool // hosts were asked for their roles
	beside    []rollout.Known
	// kinds are those of the tasks that are meant, all if there are none; renew has
	// certificates be due; only, if not nil, leaves more tasks out of the plan; replaced
	// are files beside fleet.toml as they are going to be. See certsRun.
	kinds    []string
	renew    bool
	only     func(map[inventory.InstanceID][]*tasks.Bound) error
	replaced map[string][]byte
	// takeBackCA is tasks.Options.TakeBackCA.
	takeBackCA bool
}

// load reads fleet.toml. If there are mistakes in it, those of its tasks are
// looked for as well, so that all are reported together.
func (a *app) load() (*inventory.Fleet, error) {
	fleet, err := inventory.Load(a.fleet, inventory.Options{Kinds: tasks.Kinds()})
	if errors.Is(err, fs.ErrNotExist) && fleet == nil {
		return nil, &inputError{fmt.Errorf("there is no %s; name the file with -f, or write one with pgfleet init", a.fleet)}
	}
	var mistakes inventory.Errors
	if errors.As(err, &mistakes) && fleet != nil {
		options := tasks.Options{Local: local(fleet, a.term.LookupEnv)}
		_, more := tasks.Expand(fleet, fleet.Instances(), options)
		_, rotations := tasks.NewRotations(fleet, fleet.Instances(), nil, tasks.Asked{}, options)
		return nil, &inputError{slices.Concat(mistakes, more, rotations).Sorted()}
	}
	if err != nil {
		return nil, &inputError{err}
	}
	if len(a.tags) > 0 {
		if err := checkTags(fleet, a.tags); err != nil {
			return nil, &inputError{err}
		}
	}
	return fleet, nil
}

func tagsOf(fleet *inventory.Fleet) []string {
	var all []string
	for _, t := range fleet.Tasks {
		all = append(all, t.Tags...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func checkTags(fleet *inventory.Fleet, tags []string) error {
	all := tagsOf(fleet)
	for _, t := range tags {
		if !slices.Contains(all, t) {
			return fmt.Errorf("--tags: no task has the tag %q%s", t, inventory.DidYouMean(t, all))
		}
	}
	return nil
}

// selector reads --limit.
func (a *app) selector(fleet *inventory.Fleet) (inventory.Selector, error) {
	sel, err := inventory.ParseSelector(a.limit)
	if err == nil {
		err = sel.Check(fleet)
	}
	if err != nil {
		return sel, &inputError{fmt.Errorf("--limit %q: %w", a.limit, err)}
	}
	return sel, nil
}

// open loads the fleet and decides which instances are meant. Hosts are dialled
// only if --limit asks for a role.
func (a *app) open(ctx context.Context, digester *secrets.Digester) (*session, error) {
	if a.forks < 1 {
		return nil, &inputError{errors.New("--forks: want at least 1")}
	}
	fleet, err := a.load()
	if err != nil {
		return nil, err
	}
	sel, err := a.selector(fleet)
	if err != nil {
		return nil, err
	}
	s := &session{app: a, fleet: fleet, undecided: map[inventory.InstanceID]error{}}
	if s.secrets, err = a.newResolver(ctx, fleet, digester); err != nil {
		return nil, &inputError{err}
	}
	if s.connector, err = a.newConnector(ctx, fleet); err != nil {
		return nil, err
	}
	s.run = &rollout.Run{Fleet: fleet, Connector: s.connector, Resolver: s.secrets, Redactor: a.ui.redactor, Forks: a.forks}
	if err := s.choose(ctx, sel); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// choose finds the instances that are meant, in the order of the fleet.
func (s *session) choose(ctx context.Context, sel inventory.Selector) error {
	roles := map[inventory.InstanceID]string{}
	roleOf := func(id inventory.InstanceID) (string, bool) { r, ok := roles[id]; return r, ok }
	_, unknown := sel.Select(s.fleet, nil)
	if len(unknown) > 0 {
		s.asked = true
		known := s.survey(ctx, unknown, nil)
		for _, k := range known {
			switch {
			case k.Err != nil:
				s.undecided[k.Instance.ID()] = k.Err
			case k.State.Role() == "":
				s.undecided[k.Instance.ID()] = errors.New("whether it is a primary or a standby is not known: " + k.State.ServerProblem())
			default:
				roles[k.Instance.ID()] = k.State.Role()
			}
		}
	}
	for _, in := range s.fleet.Instances() {
		if sel.Match(in, roleOf) != inventory.No {
			s.instances = append(s.instances, in)
		}
	}
	if len(s.instances) == 0 {
		return &inputError{fmt.Errorf("--limit %q: no instance is meant", s.app.limit)}
	}
	return nil
}

// hosts returns the hosts of the instances, each once.
func (s *session) hosts() []*inventory.Host {
	var hosts []*inventory.Host
	for _, in := range s.instances {
		if !slices.Contains(hosts, in.Host) {
			hosts = append(hosts, in.Host)
		}
	}
	return hosts
}

// Close ends the connections.
func (s *session) Close() {
	s.run.Close()
	s.connector.Close()
}

// survey asks the hosts and plans, with the progress on the terminal.
func (s *session) survey(ctx context.Context, instances []inventory.Instance, bound map[inventory.InstanceID][]*tasks.Bound) []rollout.Known {
	p := newProgress(s.app.ui, "asking", hostNames(instances))
	s.run.Observer = p
	p.Start()
	known := s.run.Survey(ctx, instances, bound)
	p.Stop()
	s.run.Observer = nil
	for i := range known {
		if err := s.undecided[known[i].Instance.ID()]; err != nil && known[i].Err == nil {
			known[i].Err = err
		}
	}
	return known
}

func hostNames(instances []inventory.Instance) []string {
	var names []string
	for _, in := range instances {
		if !slices.Contains(names, in.Host.Name) {
			names = append(names, in.Host.Name)
		}
	}
	return names
}

// plan binds the tasks to all instances, reads the secrets that planning needs,
// and finds out what is due on those that are wanted. Nobody is dialled before
// tasks and secrets are well.
func (s *session) plan(ctx context.Context, all, wanted []inventory.Instance, tags []string) ([]rollout.Known, map[inventory.InstanceID][]*tasks.Bound, error) {
	options := tasks.Options{Tags: tags, Kinds: s.kinds, Renew: s.renew, TakeBackCA: s.takeBackCA, Local: s.local, CheckSecret: s.secrets.Check}
	bound, errs := tasks.Expand(s.fleet, all, options)
	_, more := tasks.NewRotations(s.fleet, s.fleet.Instances(), nil, tasks.Asked{}, options)
	errs = append(errs, more...).Sorted()
	if len(errs) > 0 {
		return nil, nil, &inputError{errs.Err()}
	}
	if s.only != nil {
		if err := s.only(bound); err != nil {
			return nil, nil, err
		}
	}
	var refs []secrets.Ref
	for _, in := range wanted {
		for _, b := range bound[in.ID()] {
			refs = append(refs, b.Secrets...)
		}
	}
	so := "nothing was asked of any host"
	if s.asked {
		so = "nothing was changed"
	}
	if err := s.resolve(ctx, refs, so); err != nil {
		return nil, nil, err
	}
	known := s.survey(ctx, wanted, bound)
	if ctx.Err() != nil {
		return nil, nil, errInterrupted
	}
	for _, k := range known {
		if k.Plan != nil && (len(tags) > 0 || len(s.kinds) > 0) {
			k.Plan.Orphans = nil // the tasks that were left out may declare them
		}
	}
	return known, bound, nil
}

// local reads files beside fleet.toml.
func (s *session) local(name string) ([]byte, error) {
	if b, ok := s.replaced[name]; ok {
		return b, nil
	}
	return local(s.fleet, s.app.term.LookupEnv)(name)
}

// lookBeside looks at the members of replication clusters that are not part of the
// run, where one of them is to restart.
func (s *session) lookBeside(ctx context.Context, known []rollout.Known) {
	p := newProgress(s.app.ui, "asking the others of their clusters", nil)
	s.run.Observer = p
	p.Start()
	s.beside = s.run.Beside(ctx, known)
	p.Stop()
	s.run.Observer = nil
}

// withBeside returns known and those that are looked at beside the run.
func (s *session) withBeside(known []rollout.Known) []rollout.Known {
	return append(slices.Clip(known), s.beside...)
}

// resolve reads secrets. The error says what came of it that one is missing.
func (s *session) resolve(ctx context.Context, refs []secrets.Ref, so string) error {
	var once []secrets.Ref
	for _, r := range refs {
		if !slices.Contains(once, r) && r != (secrets.Ref{}) {
			once = append(once, r)
		}
	}
	if err := s.run.Resolve(ctx, once); err != nil {
		return &inputError{fmt.Errorf("secrets could not be read, so %s:\n%w", so, err)}
	}
	return nil
}

// local reads files beside fleet.toml.
func local(fleet *inventory.Fleet, lookupEnv func(string) (string, bool)) tasks.Local {
	return func(name string) ([]byte, error) {
		path := fleet.File(name)
		if rest, ok := strings.CutPrefix(path, "~/"); ok {
			home, _ := lookupEnv("HOME")
			path = filepath.Join(home, rest)
		}
		b, err := os.ReadFile(path)
		var perr *fs.PathError
		if errors.As(err, &perr) {
			return nil, fmt.Errorf("cannot read %s: %w", path, perr.Err)
		}
		return b, err
	}
}

func (a *app) newResolver(ctx context.Context, fleet *inventory.Fleet, digester *secrets.Digester) (*secrets.Resolver, error) {
	c := secrets.Config{
		Dir:       filepath.Dir(fleet.Path),
		LookupEnv: a.term.LookupEnv,
		Passphrase: func(prompt string) (secrets.Secret, error) {
			return a.ui.Secret(ctx, prompt)
		},
		Digester: digester,
		Redactor: a.ui.redactor,
	}
	if err := addStores(&c, fleet); err != nil {
		return nil, err
	}
	return secrets.NewResolver(c)
}

// newDigester reads the operator's own key for digests, which is made at its
// first use.
func newDigester() (*secrets.Digester, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil, &inputError{fmt.Errorf("where to keep the key for digests: %w", err)}
	}
	d, err := secrets.LoadDigester(filepath.Join(dir, "pgfleet", "digest.key"))
	if err != nil {
		return nil, &inputError{err}
	}
	return d, nil
}
