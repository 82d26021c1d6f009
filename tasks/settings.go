package tasks

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// Settings writes server parameters into a fragment of its own in conf.d.
// Names, values, units and contexts are checked against the host's own
// pg_settings before anything is written.
type Settings struct {
	Common
	File     inventory.Positioned[string] `toml:"file" required:"true" doc:"Name of the fragment in conf.d, such as \"10-network.conf\"; fragments are read in the order of their names and the last one wins."`
	Settings parameters                   `toml:"settings" doc:"Parameters by name, with values as in postgresql.conf."`
	Exact    inventory.Strings            `toml:"exact" doc:"Names of preload libraries' lists that are written as given; else what earlier files load is kept."`
	State    string                       `toml:"state" enum:"present,absent" doc:"absent removes the fragment."`
}

// parameters is a table of server parameters in the file's order. A dotted name
// such as pgaudit.log may be written with or without quotes.
type parameters []parameter

type parameter struct {
	name  string
	pos   inventory.Position // of the name
	node  *inventory.Node
	value string
}

// UnmarshalNode takes a table of strings, numbers, booleans and lists.
func (p *parameters) UnmarshalNode(n *inventory.Node) inventory.Errors {
	var errs inventory.Errors
	if n.Kind != inventory.KindTable {
		errs.Add(n.Pos, "want a table of parameters")
		return errs
	}
	p.add("", n, &errs)
	return errs
}

func (p *parameters) add(prefix string, table *inventory.Node, errs *inventory.Errors) {
	for _, k := range table.Keys {
		name := prefix + k.Name
		switch k.Value.Kind {
		case inventory.KindTable:
			p.add(name+".", k.Value, errs)
			continue
		case inventory.KindDatetime:
			errs.Add(k.Value.Pos, "%s: want a string, a number, true, false or a list", name)
			continue
		}
		if i := slices.IndexFunc(*p, func(x parameter) bool { return strings.EqualFold(x.name, name) }); i >= 0 {
			errs.Add(k.Pos, "%s is set twice, first at %v", name, (*p)[i].pos)
			continue
		}
		*p = append(*p, parameter{name, k.Pos, k.Value, parameterText(name, k.Value)})
	}
}

// parameterText writes a TOML value as postgresql.conf would have it.
func parameterText(name string, n *inventory.Node) string {
	switch n.Kind {
	case inventory.KindBool:
		if n.Bool {
			return "on"
		}
		return "off"
	case inventory.KindList:
		var items []string
		for _, item := range n.Items {
			items = append(items, parameterText(name, item))
		}
		return postgres.JoinList(name, items)
	case inventory.KindInt:
		return strconv.FormatInt(n.Int, 10)
	case inventory.KindFloat:
		return strconv.FormatFloat(n.Float, 'f', -1, 64)
	}
	return n.Str
}

// JSONSchema describes the table.
func (parameters) JSONSchema() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": map[string]any{
		"type": []any{"string", "number", "boolean", "array", "object"}}}
}

// Check finds names and values that no supported server would take.
func (t *Settings) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	switch name := t.File.Value; {
	case strings.Contains(name, "/"):
		errs.Add(t.File.Pos(), "file: want a name in conf.d, not a path: %q", name)
	case !strings.HasSuffix(name, ".conf") || strings.HasPrefix(name, "."):
		errs.Add(t.File.Pos(), "file: the server reads only names that end in .conf and do not begin with a dot: %q", name)
	}
	if t.State != "absent" && len(t.Settings) == 0 {
		errs.Add(t.at("settings"), "settings: no parameter is given; state = \"absent\" removes the fragment")
	}
	for _, p := range t.Settings {
		if why := fixed(in, p); why != "" && t.State != "absent" {
			errs.Add(p.pos, "%s: %s", p.name, why)
		} else if err := postgres.CheckConfName(p.name); err != nil {
			errs.Add(p.pos, "%v", err)
		}
		if secrets.HasPlaceholder(p.value) {
			errs.Add(p.node.Pos, "%s: a secret in a server parameter can be read by every superuser with SHOW; use a file instead", p.name)
		}
	}
	for _, name := range t.Exact {
		if !isPreload(name) {
			errs.Add(t.at("exact"), "exact: only preload lists are merged, so %q is written as given anyway", name)
		}
	}
	return errs
}

// isPreload reports whether a parameter is a list of libraries to which several
// parties add, so that a fragment must keep what is there.
func isPreload(name string) bool {
	return slices.Contains([]string{"shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"}, strings.ToLower(name))
}

// Reads asks what libraries there are and what the ciphers select.
func (t *Settings) Reads(in inventory.Instance, s *State) []facts.Read {
	var reads []facts.Read
	for _, p := range t.Settings {
		switch strings.ToLower(p.name) {
		case "shared_preload_libraries":
			reads = append(reads, facts.Libraries{Version: in.Version})
		case "ssl_ciphers":
			// Only a value that the server does not run with yet is in doubt.
			if running, ok := s.Running(p.name); ok && running != p.value {
				reads = append(reads, facts.Ciphers{List: p.value})
			}
		}
	}
	return reads
}

// Plan takes back what hides the task's values from all sessions, and then sees
// to the files.
func (t *Settings) Plan(in inventory.Instance, s *State) (Outcome, error) {
	out, err := t.planFiles(in, s)
	out.Changes = append(t.resets(s), out.Changes...)
	return out, err
}

// planFiles compares the fragment with what is there, and what the server runs
// with with what it will find in its files.
func (t *Settings) planFiles(in inventory.Instance, s *State) (Outcome, error) {
	out := Outcome{Warnings: t.notStarted(s)}
	fragment := t.fragment(s)
	found, err := s.File(fragment)
	if err != nil {
		return out, err
	}
	if t.State == "absent" {
		if found.Exists {
			out.Changes = append(out.Changes, removeFile(s, found, ConfigurationPart(in))...)
		}
		return out, nil
	}
	if c := t.includeDir(in, s); c != nil {
		if err := noPlaceholder(s.paths().config, c.Action.(WriteFile).Content); err != nil {
			return out, err
		}
		out.Changes = append(out.Changes, *c)
		s = s.Foresee(*c) // what is in conf.d counts from here on
	}
	wanted, err := t.wanted(in, s, fragment, &out)
	if err != nil {
		return out, err
	}
	content := postgres.RenderConf(header(t.Name), wanted)
	if means := s.saysAlready(found, content, sameConf); !means || !readable(found) {
		if means {
			content = s.adopted(found, content)
		}
		out.Changes = append(out.Changes, writeFile(s, found, WriteFile{
			Path: fragment, Content: content, Owner: "postgres", Group: "postgres", Mode: keepMode(found, 0o644),
		}, ConfigurationPart(in))...)
	}
	reset, err := t.resetAuto(s)
	if err != nil {
		return out, err
	}
	out.Changes = append(out.Changes, reset...)
	if len(out.Changes) > 0 || s.Server() == nil {
		return out, nil
	}
	if why := t.notLoaded(s, found); len(why) > 0 {
		out.Changes = append(out.Changes, reloadChange(s, why))
	}
	out.Warnings = append(out.Warnings, t.notBound(in, s)...)
	return out, nil
}

// sameConf compares two fragments by what they set. What cannot be read, or
// includes other files, is the same as nothing.
func sameConf(a, b string) bool {
	values := func(text string) map[string]string {
		entries, err := postgres.ParseConf(text)
		if err != nil {
			return nil
		}
		m := map[string]string{}
		for _, e := range entries {
			if e.Include() != "" {
				return nil
			}
			m[strings.ToLower(e.Name)] = e.Value // the last one wins
		}
		return m
	}
	x, y := values(a), values(b)
	return x != nil && y != nil && maps.Equal(x, y)
}

// notLoaded says which of the task's own parameters the server does not run
// with though its files have them and a reload would apply them, or else that
// the fragment is newer than what the server has loaded: what our own session's
// role overrides hides what the server runs with.
func (t *Settings) notLoaded(s *State, found facts.FileInfo) []string {
	if s.activated {
		return nil
	}
	var why []string
	for _, p := range s.pending() {
		own := slices.ContainsFunc(t.Settings, func(x parameter) bool {
			return postgres.CanonicalName(x.name, s.version()) == strings.ToLower(p.Name)
		})
		if own && !p.Restart {
			why = append(why, fmt.Sprintf("%s is %s and should be %s", p.Name, shown(p.actual), shown(p.wanted)))
		}
	}
	if len(why) == 0 && found.Changed.After(s.Server().Loaded) {
		why = append(why, found.Path+" is newer than what the server has loaded")
	}
	return why
}

// wanted checks every parameter against the server and returns the lines of the
// fragment.
func (t *Settings) wanted(in inventory.Instance, s *State, fragment string, out *Outcome) ([]postgres.ConfValue, error) {
	catalog := s.Catalog()
	if s.Server() == nil {
		out.Unknown = append(out.Unknown, "the server cannot be asked ("+s.ServerProblem()+"), so names and values are checked only as it starts")
	}
	over := t.overlay(s, fragment)
	var entries []postgres.ConfValue
	var problems []error
	refuse := func(pos inventory.Position, format string, args ...any) {
		problems = append(problems, inventory.Error{Pos: pos, Msg: fmt.Sprintf(format, args...)})
	}
	for _, p := range t.Settings {
		value := p.value
		if isPreload(p.name) && !t.exact(p.name) {
			merged, err := postgres.MergeList(p.name, over.before(p.name), value)
			if err != nil {
				refuse(p.node.Pos, "%s: %v", p.name, err)
				continue
			}
			value = merged
		}
		entries = append(entries, postgres.ConfValue{Name: p.name, Value: value})
		if s.Server() == nil {
			continue
		}
		if err := catalog.Check(p.name, value); err != nil {
			pos := p.node.Pos
			var unknown *postgres.UnknownSettingError
			if errors.As(err, &unknown) {
				pos = p.pos
			}
			refuse(pos, "%v", err)
			continue
		}
		if x, ok := catalog.Lookup(p.name); ok {
			if x.Source == "command line" && !x.Equal(value, x.Setting) {
				refuse(p.pos, "%s is given on the server's command line as %s, which wins over every file; remove it from pg_ctl.conf or the unit", p.name, shown(x.Setting))
				continue
			}
			auto := s.autoConf()
			later, ok := over.after(p.name, func(at postgres.ConfPosition) bool {
				return at.File == auto && t.undoes(s, p.name, at.Value) || t.rewritten(s, at.File)
			})
			same := x.Equal(value, later.Value) || isPreload(p.name) && holdsAll(p.name, later.Value, value)
			if ok && !same {
				mend := "remove it there, or give the fragment a name that sorts later"
				if later.File == auto {
					mend = "name its libraries here, and run ALTER SYSTEM RESET " + p.name
				}
				refuse(p.pos, "%s would have no effect: %s line %d sets it to %s and is read later; %s", p.name, later.File, later.Line, shown(later.Value), mend)
				continue
			}
		}
		t.special(in, s, p, value, out, refuse)
	}
	return entries, errors.Join(problems...)
}

// special checks what pg_settings cannot tell.
func (t *Settings) special(in inventory.Instance, s *State, p parameter, value string, out *Outcome, refuse func(inventory.Position, string, ...any)) {
	switch strings.ToLower(p.name) {
	case "shared_preload_libraries":
		libraries, err := ask[[]string](s, facts.Libraries{Version: in.Version})
		if err != nil || len(libraries) == 0 {
			out.Unknown = append(out.Unknown, "whether the libraries of shared_preload_libraries are there")
			return
		}
		wanted, err := postgres.ParseList("shared_preload_libraries", value)
		if err != nil {
			refuse(p.node.Pos, "%s: %v", p.name, err)
			return
		}
		for _, library := range wanted {
			name := strings.TrimSuffix(strings.TrimPrefix(library, "$libdir/"), ".so")
			switch {
			case strings.Contains(name, "/") || slices.Contains(libraries, name):
			case s.installed:
				out.Unknown = append(out.Unknown, fmt.Sprintf("library %s: known after its package is installed", library))
			default:
				mend := inventory.DidYouMean(name, libraries)
				if mend == "" {
					mend = fmt.Sprintf("; install its package with a task of kind \"package\" before this one (Debian: postgresql-%d-%s)", in.Version, strings.ReplaceAll(name, "_", "-"))
				}
				refuse(p.node.Pos, "shared_preload_libraries: the server has no library %q, and would not start%s", library, mend)
			}
		}
	case "ssl_ciphers":
		c, err := ask[facts.CiphersInfo](s, facts.Ciphers{List: p.value})
		if err == nil && c.Known && !c.Valid {
			refuse(p.node.Pos, "ssl_ciphers: OpenSSL knows no cipher by %q; such as ECDHE+AESGCM:ECDHE+CHACHA20", p.value)
		}
	}
}

// version returns the server's version, and the declared one where it cannot be
// asked.
func (s *State) version() postgres.Version {
	if srv := s.Server(); srv != nil {
		return srv.Version
	}
	return majorVersion(s.instance)
}

// An overlay is the configuration with the fragment's names in their place, so
// that it can be seen what the fragment overrides and what overrides it.
type overlay struct {
	fragment string
	version  postgres.Version
	chains   map[string][]postgres.ConfPosition // by postgres.CanonicalName
}

func (t *Settings) overlay(s *State, fragment string) overlay {
	var text strings.Builder
	for _, p := range t.Settings {
		fmt.Fprintf(&text, "%s = ''\n", p.name)
	}
	n := *s
	n.files = with(s.files, fragment, facts.FileInfo{Path: fragment, Exists: true, Regular: true, Content: []byte(text.String())})
	o := overlay{fragment: fragment, version: s.version(), chains: map[string][]postgres.ConfPosition{}}
	for name, e := range n.configuration().settings {
		o.chains[name] = append(slices.Clone(e.Shadows), postgres.ConfPosition{File: e.File, Line: e.Line, Value: e.Value})
	}
	return o
}

// before returns the value that the fragment overrides, "" if none.
func (o overlay) before(name string) string {
	value := ""
	for _, p := range o.chains[postgres.CanonicalName(name, o.version)] {
		if p.File == o.fragment {
			return value
		}
		value = p.Value
	}
	return value
}

// after returns the value that overrides the fragment's. What is to change anyway
// does not count.
func (o overlay) after(name string, changes func(postgres.ConfPosition) bool) (postgres.ConfPosition, bool) {
	chain := o.chains[postgres.CanonicalName(name, o.version)]
	at := slices.IndexFunc(chain, func(p postgres.ConfPosition) bool { return p.File == o.fragment })
	if at < 0 {
		return postgres.ConfPosition{}, false
	}
	for _, p := range slices.Backward(chain[at+1:]) {
		if p.File != o.fragment && !changes(p) {
			return p, true
		}
	}
	return postgres.ConfPosition{}, false
}

// includeDir adds the line that makes the server read conf.d, where no line
// does.
func (t *Settings) includeDir(in inventory.Instance, s *State) *Change {
	p := s.paths()
	main, err := s.File(p.config)
	if err != nil || !main.Exists {
		return nil
	}
	entries, err := postgres.ParseConf(string(main.Content))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.Include() == "include_dir" && path.Join(p.confDir, e.Value) == path.Join(p.confDir, "conf.d") || e.Include() == "include_dir" && e.Value == path.Join(p.confDir, "conf.d") {
			return nil
		}
	}
	content := strings.TrimRight(string(main.Content), "\n") + "\n\ninclude_dir = 'conf.d'\n"
	changes := writeFile(s, main, WriteFile{Path: p.config, Content: content, Owner: main.Owner, Group: main.Group, Mode: main.Mode}, ConfigurationPart(in))
	return &changes[0]
}

// fragmentTask makes a settings task of every kind that writes a fragment.
func (t *Settings) fragmentTask() *Settings { return t }

// settingsOf returns the fragment that a task writes; nil if it writes none.
func settingsOf(t Task) *Settings {
	if f, ok := t.(interface{ fragmentTask() *Settings }); ok {
		return f.fragmentTask()
	}
	return nil
}

func (t *Settings) declares(s *State) []string {
	if t.State == "absent" {
		return nil
	}
	return []string{t.fragment(s), s.paths().config}
}
