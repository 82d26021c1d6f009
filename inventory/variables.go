package inventory

import (
	"maps"
	"strings"
)

// variables checks a table of variables and returns it as a map.
func (l *loader) variables(entries Entries[*Node]) map[string]*Node {
	vars := map[string]*Node{}
	first := map[string]Position{}
	for _, e := range entries {
		if pos, ok := first[e.Name]; ok {
			l.errs.Add(e.Pos, "variable %q is here for the second time; the first is at %s", e.Name, pos)
			continue
		}
		first[e.Name] = e.Pos
		if !isIdentifier(e.Name) {
			l.errs.Add(e.Pos, "%q is no valid name for a variable: letters, digits and underscores, the first one no digit", e.Name)
		}
		l.plain(e.Value)
		vars[e.Name] = e.Value
	}
	return vars
}

// plain reports templates in variables, which would otherwise arrive on a host with their braces.
func (l *loader) plain(n *Node) {
	if i := strings.Index(n.Str, "{{"); i >= 0 {
		l.errs.Add(n.PosAt(i), "variables are plain values; a template belongs where the variable is used")
	}
	for _, item := range n.Items {
		l.plain(item)
	}
	for _, k := range n.Keys {
		l.plain(k.Value)
	}
}

// isIdentifier reports whether text/template takes .Vars.s.
func isIdentifier(s string) bool {
	for i, r := range s {
		if !(r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && r >= '0' && r <= '9') {
			return false
		}
	}
	return s != ""
}

// mergeVariables gives every host and instance its variables. groups are the groups' own. Where nothing is added, the
// map is shared.
func (l *loader) mergeVariables(groups map[string]map[string]*Node) {
	tables := map[string]hostTable{}
	for _, e := range l.hosts {
		if h := l.fleet.hosts[e.Name]; h != nil && h.Pos == e.Pos {
			tables[e.Name] = e.Value
		}
	}
	for _, h := range l.fleet.Hosts {
		h.Vars = l.fleet.Vars
		for _, g := range h.Groups {
			h.Vars = over(groups[g], h.Vars)
		}
		t := tables[h.Name]
		h.Vars = over(l.variables(t.Vars), h.Vars)
		for i := range h.Instances {
			h.Instances[i].Vars = h.Vars
			if len(t.Instances) > 0 {
				h.Instances[i].Vars = over(l.variables(t.Instances[i].Value.Vars), h.Vars)
			}
		}
	}
}

// over returns the variables of strong and, where it says nothing, those of weak.
func over(strong, weak map[string]*Node) map[string]*Node {
	if len(strong) == 0 {
		return weak
	}
	merged := make(map[string]*Node, len(strong)+len(weak))
	maps.Copy(merged, weak)
	maps.Copy(merged, strong)
	return merged
}
