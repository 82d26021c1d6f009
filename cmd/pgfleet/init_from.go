package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/adopt"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// initFrom writes a fleet.toml that describes what a live host has now. The host
// is only read.
func (a *app) initFrom(ctx context.Context, dir string, o initOptions) error {
	host, err := o.adopted()
	if err != nil {
		return &inputError{err}
	}
	staged, err := newStaging(dir, fleetFile, "adopted")
	if err != nil {
		return err
	}
	defer staged.discard()

	// Which servers there are is not known yet; dialling needs none.
	fleet, err := staged.fleet(adopt.Inventory(host, []adopt.Cluster{{Version: 15, Name: "main", Port: 5432}}))
	if err != nil {
		return &inputError{err}
	}
	connector, err := a.newConnector(ctx, fleet)
	if err != nil {
		return err
	}
	defer connector.Close()
	a.ui.Note("asking " + host.Address + "; nothing is changed there")
	conn, err := connector.Dial(ctx, fleet.Hosts[0])
	if err != nil {
		return fmt.Errorf("%s: %w", host.Address, err)
	}
	defer conn.Close()

	clusters, err := findClusters(ctx, conn, &host)
	if err != nil {
		return fmt.Errorf("%s: %w", host.Address, err)
	}
	if fleet, err = staged.fleet(adopt.Inventory(host, clusters)); err != nil {
		return err
	}
	text, warnings, err := staged.describe(ctx, conn, fleet, adopt.Inventory(host, clusters))
	if err != nil {
		return fmt.Errorf("%s: %w", host.Address, err)
	}
	if err := staged.write(fleetFile, adoptedHead(host)+text); err != nil {
		return err
	}
	if err := staged.ignore(); err != nil {
		return err
	}
	if err := staged.check(); err != nil {
		return err
	}
	due, err := staged.firstPlan(ctx, conn)
	if err != nil {
		return err
	}
	names, err := staged.place()
	if err != nil {
		return err
	}
	a.ui.Print(adoptedReport(dir, names, warnings, due))
	return nil
}

// adopted checks the flags.
func (o initOptions) adopted() (adopt.Host, error) {
	h := adopt.Host{Fleet: o.name, Address: o.from, User: o.user, Port: o.port, Identity: o.identity, KnownHosts: o.knownHosts}
	if user, address, ok := strings.Cut(o.from, "@"); ok {
		if o.user != "" && o.user != user {
			return h, fmt.Errorf("--from %s and --user %s name two users", o.from, o.user)
		}
		h.User, h.Address = user, address
	}
	h.Name = h.Address
	if _, err := netip.ParseAddr(h.Address); err == nil {
		h.Name = "host" // until it has told its own
	} else if !validName.MatchString(h.Address) {
		return h, fmt.Errorf("--from %q: want a host as for ssh, such as pg01, ops@pg01.example.org or 10.0.0.11; --port gives a port", o.from)
	}
	if !validName.MatchString(o.name) {
		return h, fmt.Errorf("--name %q: a name consists of letters, digits, dots, dashes and underscores", o.name)
	}
	for _, file := range []*string{&h.Identity, &h.KnownHosts} {
		if *file == "" || strings.HasPrefix(*file, "~/") {
			continue
		}
		// On the command line a path is seen from here, in fleet.toml from there.
		abs, err := filepath.Abs(*file)
		if err != nil {
			return h, err
		}
		*file = abs
	}
	return h, nil
}

// findClusters learns which servers the host has, and what it calls itself.
func findClusters(ctx context.Context, conn transport.Conn, h *adopt.Host) ([]adopt.Cluster, error) {
	answers, err := conn.Read(ctx, append([]facts.Read{facts.OS{}}, adopt.FindClusters()...))
	if err != nil {
		return nil, err
	}
	for _, r := range adopt.FindClusters() {
		if err := answers[r].Err; err != nil {
			return nil, err
		}
	}
	if os, ok := answers[facts.OS{}].Value.(facts.OSInfo); ok {
		if _, err := netip.ParseAddr(h.Address); err == nil {
			if name, _, _ := strings.Cut(os.Hostname, "."); validName.MatchString(name) {
				h.Name = name
			}
		}
	}
	clusters := adopt.Clusters(answers)
	if len(clusters) == 0 {
		return nil, errors.New("there is no PostgreSQL in Debian's layout (/etc/postgresql/VERSION/CLUSTER); other layouts cannot be adopted yet")
	}
	return clusters, nil
}

// fleet loads a text as fleet.toml would be.
func (s *staging) fleet(text string) (*inventory.Fleet, error) {
	if err := s.write(fleetFile, text); err != nil {
		return nil, err
	}
	s.names = nil // a draft
	return inventory.Load(filepath.Join(s.tmp, fleetFile), inventory.Options{Kinds: tasks.Kinds()})
}

// describe asks about every instance and returns the text of fleet.toml. A
// cluster that does not run is left without tasks.
func (s *staging) describe(ctx context.Context, conn transport.Conn, fleet *inventory.Fleet, head string) (text string, warnings []string, err error) {
	var b strings.Builder
	b.WriteString(head)
	var problems []error
	described := 0
	for _, in := range fleet.Instances() {
		state, err := survey(ctx, conn, in)
		if err != nil {
			return "", nil, err
		}
		result, err := adopt.Describe(in, state)
		if err != nil {
			problems = append(problems, err)
			warnings = append(warnings, err.Error())
			continue
		}
		described++
		b.WriteString(result.Tasks)
		warnings = append(warnings, result.Warnings...)
		for _, name := range slices.Sorted(maps.Keys(result.Files)) {
			if err := s.write(name, string(result.Files[name])); err != nil {
				return "", nil, err
			}
		}
	}
	if described == 0 {
		return "", nil, errors.Join(problems...)
	}
	return b.String(), warnings, nil
}

// survey asks all that describing an instance needs: what a round's answers
// point to is asked in the next.
func survey(ctx context.Context, conn transport.Conn, in inventory.Instance) (*tasks.State, error) {
	answers := map[facts.Read]facts.Answer{}
	for {
		state := tasks.NewState(in, answers, nil)
		var reads []facts.Read
		for _, r := range append(tasks.Questions(in, state), adopt.Reads(in, state)...) {
			if _, known := answers[r]; !known && !slices.Contains(reads, r) {
				reads = append(reads, r)
			}
		}
		if len(reads) == 0 {
			return state, nil
		}
		round, err := conn.Read(ctx, reads)
		if err != nil {
			return nil, err
		}
		next := maps.Clone(answers)
		for _, r := range reads {
			next[r] = round[r] // also one without an answer, so that this ends
		}
		answers = next
	}
}

// firstPlan plans the new fleet.toml and returns what would be due: nothing,
// unless the server has yet to load what its files say.
func (s *staging) firstPlan(ctx context.Context, conn transport.Conn) ([]string, error) {
	fleet, bound, err := s.expand()
	if err != nil {
		return nil, err
	}
	run := &rollout.Run{Fleet: fleet, Connector: connected{conn}}
	defer run.Close()
	var due []string
	for _, k := range run.Survey(ctx, fleet.Instances(), bound) {
		if k.Err != nil {
			due = append(due, fmt.Sprintf("%s: %v", k.Instance.ID(), k.Err))
			continue
		}
		for _, c := range k.Plan.Changes() {
			due = append(due, fmt.Sprintf("%s: %s", k.Instance.ID(), c.Intent))
		}
	}
	return due, nil
}

// connected is a Connector for the one host that is connected already.
type connected struct{ conn transport.Conn }

func (c connected) Dial(context.Context, *inventory.Host) (transport.Conn, error) { return c.conn, nil }

func adoptedHead(h adopt.Host) string {
	return "# What the PostgreSQL servers of " + h.Address + " were like when \"pgfleet init --from\" asked them. The first\n" +
		"# plan is empty: nothing is changed until this file is, or the host.\n" +
		"# limit keeps each task to the server that it describes; take it out to give other hosts the same.\n\n"
}

func adoptedReport(dir string, names, warnings, due []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "made in %s:\n", dir)
	for _, n := range names {
		fmt.Fprintf(&b, "  %s\n", clean(n)) // some are named as on the host
	}
	if len(warnings) > 0 {
		b.WriteString("\nNot as in the tasks:\n")
		for _, w := range warnings {
			fmt.Fprintf(&b, "  %s\n", clean(w))
		}
	}
	if len(due) > 0 {
		b.WriteString("\nThe first plan is not empty:\n")
		for _, d := range due {
			fmt.Fprintf(&b, "  %s\n", clean(d))
		}
	} else {
		b.WriteString("\nThe first plan is empty.\n")
	}
	b.WriteString("\nNext:\n")
	if filepath.Clean(dir) != "." {
		fmt.Fprintf(&b, "  cd %s\n", dir)
	}
	b.WriteString("  pgfleet plan     show what would change: nothing, until you change fleet.toml\n")
	return b.String()
}
