package tasks

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// HBA owns the whole of an instance's pg_hba.conf: the rules in order, the
// rules that the replication cluster's own members need, and what becomes of
// every connection that none of them names.
type HBA struct {
	Common
	Rules           []inventory.Positioned[string] `toml:"rules" required:"true" doc:"Lines as in pg_hba.conf, first match wins."`
	Otherwise       string                         `toml:"otherwise" enum:"reject,none" doc:"reject (the default) ends the file with a rule that rejects what is left over, IPv4 and IPv6, databases and replication; none leaves it to the server, which rejects as well but does not say so in its log."`
	Replication     string                         `toml:"replication" enum:"keep,none" doc:"keep (the default) lets the other members of the host's replication cluster stream from here; a rule for all databases does not."`
	ReplicationRole inventory.Positioned[string]   `toml:"replication_role" doc:"The role that standbys log in as; all roles by default, which is no more than the REPLICATION attribute allows."`

	rules []postgres.HBARule
}

// Check parses the rules.
func (t *HBA) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	t.rules = nil
	for _, r := range t.Rules {
		lines, err := postgres.ParseHBA(r.Value, majorVersion(in))
		for _, e := range postgres.ParseErrors(err) {
			errs.Add(r.Node.PosAt(max(e.Column-1, 0)), "%s", withHint(e))
		}
		if err != nil {
			continue
		}
		for _, l := range lines {
			switch {
			case l.Include != nil:
				errs.Add(r.Pos(), "rules: an include would hide rules from pgfleet; write them here")
			case l.Rule != nil:
				t.rules = append(t.rules, *l.Rule)
			}
		}
	}
	return errs
}

// majorVersion is the version that the inventory declares, as the parsers take
// it.
func majorVersion(in inventory.Instance) postgres.Version {
	return postgres.Version(in.Version * 10000)
}

// withHint prints a parse error of one line without the line's number.
func withHint(e *postgres.ParseError) string {
	if e.Hint == "" {
		return e.Msg
	}
	return e.Msg + " (" + e.Hint + ")"
}

// Reads asks for the memberships of roles where a rule depends on them.
func (t *HBA) Reads(in inventory.Instance, _ *State) []facts.Read {
	if slices.ContainsFunc(t.rules, dependsOnMembership) {
		return []facts.Read{clusterRead(in)}
	}
	return nil
}

// Plan compares the file, having found out who would be locked out by it.
func (t *HBA) Plan(in inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	rules := t.all(in, s)
	if l := t.ours(s, rules); l != nil {
		out.Lockouts = append(out.Lockouts, *l)
	}
	t.lockouts(s, rules, &out)
	for _, u := range postgres.Unreachable(rules) {
		if u.Rule.Line == 0 {
			continue // ours, and not the user's to mend
		}
		out.Warnings = append(out.Warnings, fmt.Sprintf("rule %q never matches: an earlier one takes all that it would", u.Rule.Summary()))
	}
	out.Warnings = append(out.Warnings, t.notStarted(s)...)
	text := postgres.RenderHBA(header(t.Name), rules)
	return planAuthFile(in, s, s.paths().hba, text, sameHBA(majorVersion(in)), out)
}

// planAuthFile plans pg_hba.conf or pg_ident.conf: written, or loaded where it
// was written and not loaded since. Nothing in the server tells which rules it
// holds, but it says when it last loaded them. A file that somebody else wrote
// and that has the same rules is left as it is, with its comments.
func planAuthFile(in inventory.Instance, s *State, file, text string, same func(a, b string) bool, out Outcome) (Outcome, error) {
	found, err := s.File(file)
	if err != nil {
		return out, err
	}
	if means := s.saysAlready(found, text, same); !means || !readable(found) {
		if means {
			text = s.adopted(found, text)
		}
		out.Changes = writeFile(s, found, WriteFile{
			Path: file, Content: text, Owner: "postgres", Group: "postgres", Mode: keepMode(found, 0o640),
		}, ConfigurationPart(in))
	}
	srv := s.Server()
	if len(out.Changes) == 0 && srv != nil && !s.activated && found.Changed.After(srv.Loaded) {
		out.Changes = []Change{reloadChange(s, []string{file + " is newer than what the server has loaded"})}
	}
	return out, nil
}

// sameHBA returns a function that compares two texts of pg_hba.conf by their
// rules. What cannot be read, or includes other files, is the same as nothing.
func sameHBA(version postgres.Version) func(a, b string) bool {
	rules := func(text string) ([]string, bool) {
		lines, err := postgres.ParseHBA(text, version)
		if err != nil {
			return nil, false
		}
		rules, err := postgres.HBARules(lines)
		return texts(rules), err == nil
	}
	return func(a, b string) bool { return equalRules(a, b, rules) }
}

// sameIdent is sameHBA for pg_ident.conf.
func sameIdent(version postgres.Version) func(a, b string) bool {
	rules := func(text string) ([]string, bool) {
		lines, err := postgres.ParseIdent(text, version)
		if err != nil {
			return nil, false
		}
		rules, err := postgres.IdentRules(lines)
		return texts(rules), err == nil
	}
	return func(a, b string) bool { return equalRules(a, b, rules) }
}

func equalRules(a, b string, rules func(string) ([]string, bool)) bool {
	x, ok := rules(a)
	y, okToo := rules(b)
	return ok && okToo && slices.Equal(x, y)
}

func texts[T fmt.Stringer](rules []T) []string {
	var list []string
	for _, r := range rules {
		list = append(list, r.String())
	}
	return list
}

// all returns the rules for backups, the declared ones, the cluster's own replication and the end.
func (t *HBA) all(in inventory.Instance, s *State) []postgres.HBARule {
	rules := append(t.backups(in), t.rules...)
	if t.Replication != "none" {
		rules = append(rules, t.replication(in, s)...)
	}
	if t.Otherwise == "none" {
		return rules
	}
	all := []postgres.HBAToken{{Text: "all"}}
	for _, network := range []string{"0.0.0.0/0", "::/0"} {
		for _, database := range []string{"all", "replication"} {
			rules = append(rules, postgres.HBARule{
				Type: "host", Databases: []postgres.HBAToken{{Text: database}}, Users: all,
				Address: postgres.HBAPrefix(netip.MustParsePrefix(network)), Method: "reject",
			})
		}
	}
	return rules
}

// backups returns one rule for each account that makes backups, ahead of the declared rules, of which one may reject it.
func (t *HBA) backups(in inventory.Instance) []postgres.HBARule {
	var rules []postgres.HBARule
	for i := range t.fleet.Backups {
		b := &t.fleet.Backups[i]
		rule := postgres.HBARule{
			Type: "local", Databases: []postgres.HBAToken{{Text: "all"}}, Users: []postgres.HBAToken{postgres.HBAName(b.Role)}, Method: "peer", Comment: " backup " + b.Name,
		}
		same := func(r postgres.HBARule) bool { return r.String() == rule.String() }
		if !b.Absent && b.Means(in) && !slices.ContainsFunc(rules, same) && !slices.ContainsFunc(t.rules, same) {
			rules = append(rules, rule)
		}
	}
	return rules
}

// replication returns one rule for each other member of the cluster. They are
// the same on primary and standbys, so that a standby that is promoted accepts
// the others. They want TLS where the server will have it once all tasks are
// carried out, wherever in the list the one is that turns it on or off: else the
// rules would be others when the same task is planned again.
func (t *HBA) replication(in inventory.Instance, s *State) []postgres.HBARule {
	kind := "host"
	if on, known := t.offersTLS(s); on && known {
		kind = "hostssl"
	}
	role := postgres.HBAToken{Text: "all"}
	if t.ReplicationRole.Value != "" {
		role = postgres.HBAName(t.ReplicationRole.Value)
	}
	var rules []postgres.HBARule
	for _, peer := range t.fleet.Replication(in.Replication) {
		if peer.Host.Name == in.Host.Name {
			continue
		}
		address := postgres.HBAAddress{Host: peer.Host.Address}
		if a, err := netip.ParseAddr(peer.Host.Address); err == nil {
			address = postgres.HBAPrefix(netip.PrefixFrom(a, a.BitLen()))
		}
		rules = append(rules, postgres.HBARule{
			Type: kind, Databases: []postgres.HBAToken{{Text: "replication"}}, Users: []postgres.HBAToken{role},
			Address: address, Method: "scram-sha-256", Comment: " " + peer.Host.Name + " of cluster " + in.Replication,
		})
	}
	return rules
}

// offersTLS reports whether ssl is on once all tasks are carried out. It is not
// known of a server that does not run, and whose files say nothing of it.
func (t *HBA) offersTLS(s *State) (on, known bool) {
	tls := postgres.Setting{Name: "ssl", VarType: "bool"}
	value, err := tls.Normalize(t.declared(s).configuration().value("ssl"))
	return value == "on", err == nil
}

func (t *HBA) declares(s *State) []string { return []string{s.paths().hba} }

// Ident owns an instance's pg_ident.conf: which users of the operating system
// or which certificates may log in as which roles.
type Ident struct {
	Common
	Maps []inventory.Positioned[string] `toml:"maps" required:"true" doc:"Lines as in pg_ident.conf: map, system user, role."`

	maps []postgres.IdentRule
}

// Check parses the maps.
func (t *Ident) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	t.maps = nil
	for _, m := range t.Maps {
		lines, err := postgres.ParseIdent(m.Value, majorVersion(in))
		for _, e := range postgres.ParseErrors(err) {
			errs.Add(m.Node.PosAt(max(e.Column-1, 0)), "%s", withHint(e))
		}
		rules, includeErr := postgres.IdentRules(lines)
		if err == nil && includeErr != nil {
			errs.Add(m.Pos(), "maps: an include would hide maps from pgfleet; write them here")
		}
		t.maps = append(t.maps, rules...)
	}
	return errs
}

// Reads asks nothing that is not always asked.
func (t *Ident) Reads(inventory.Instance, *State) []facts.Read { return nil }

// Plan compares the file, having found out whether pgfleet would be locked out
// by it.
func (t *Ident) Plan(in inventory.Instance, s *State) (Outcome, error) {
	out := Outcome{Warnings: t.notStarted(s)}
	if l := t.ours(s); l != nil {
		out.Lockouts = append(out.Lockouts, *l)
	}
	return planAuthFile(in, s, s.paths().ident, postgres.RenderIdent(header(t.Name), t.maps), sameIdent(majorVersion(in)), out)
}

func (t *Ident) declares(s *State) []string { return []string{s.paths().ident} }
