package inventory

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// checkGroups makes the groups, with their members and their members' members. It returns the groups' own variables.
func (l *loader) checkGroups(all map[string]taken) map[string]map[string]*Node {
	g := grouping{loader: l, tables: map[string]groupTable{}, state: map[string]int{}, depth: map[string]int{}, members: map[string]map[string]bool{}}
	own := map[string]map[string]*Node{}
	for _, e := range l.groups {
		l.name(e.Pos, "group", e.Name)
		if !l.take(all, "group", e.Name, e.Pos) {
			continue
		}
		l.fleet.Groups = append(l.fleet.Groups, &Group{Name: e.Name, Pos: e.Pos})
		g.tables[e.Name] = e.Value
		own[e.Name] = l.variables(e.Value.Vars)
	}
	for _, h := range l.fleet.Hosts {
		g.candidates = append(g.candidates, h.Name)
	}
	for _, group := range l.fleet.Groups {
		g.candidates = append(g.candidates, group.Name)
	}
	for _, group := range l.fleet.Groups {
		g.resolve(group.Name, nil)
	}
	for _, group := range l.fleet.Groups {
		g.deepen(group.Name, 0)
	}
	ordered := slices.Clone(l.fleet.Groups)
	slices.SortStableFunc(ordered, func(a, b *Group) int { return g.depth[a.Name] - g.depth[b.Name] })
	for _, h := range l.fleet.Hosts {
		for _, group := range ordered {
			if g.members[group.Name][h.Name] {
				h.Groups = append(h.Groups, group.Name)
			}
		}
	}
	for _, group := range l.fleet.Groups {
		for _, h := range l.fleet.Hosts {
			if g.members[group.Name][h.Name] {
				group.Hosts = append(group.Hosts, h)
			}
		}
	}
	return own
}

// A grouping finds out who is in which group.
type grouping struct {
	*loader
	tables     map[string]groupTable
	candidates []string                   // hosts and groups
	state      map[string]int             // 1 while a group is being resolved, 2 afterwards
	depth      map[string]int             // of groups: how many are around it at most
	members    map[string]map[string]bool // hosts of each group
}

// resolve finds the hosts of a group. stack holds the groups around it.
func (g *grouping) resolve(name string, stack []string) {
	if g.state[name] == 2 {
		return
	}
	g.state[name] = 1
	stack = append(stack, name)
	hosts := map[string]bool{}
	g.members[name] = hosts
	for i, m := range g.tables[name].Hosts {
		_, isGroup := g.tables[m.Value]
		if !isGroup && g.fleet.hosts[m.Value] == nil && !isGlob(m.Value) && m.Node.Kind == KindString {
			g.missing(m.Pos(), fmt.Sprintf("group %q: there is no host or group %q%s", name, m.Value, DidYouMean(m.Value, g.candidates)))
			m.Value, _ = Nearest(m.Value, g.candidates) // so that its variables are not missing too
			g.tables[name].Hosts[i] = m
			_, isGroup = g.tables[m.Value]
		}
		switch {
		case g.fleet.hosts[m.Value] != nil:
			hosts[m.Value] = true
		case isGroup && g.state[m.Value] == 1:
			i := slices.Index(stack, m.Value)
			g.errs.Add(m.Pos(), "group %q contains itself: %s", m.Value, strings.Join(append(slices.Clone(stack[i:]), m.Value), " > "))
		case isGroup:
			g.resolve(m.Value, stack)
			maps.Copy(hosts, g.members[m.Value])
		case isGlob(m.Value):
			g.glob(hosts, m)
		}
	}
	g.state[name] = 2
}

// glob adds the hosts that a pattern matches.
func (g *grouping) glob(hosts map[string]bool, m Positioned[string]) {
	if !validGlob(m.Value) {
		g.errs.Add(m.Pos(), "%q is no valid glob", m.Value)
		return
	}
	found := false
	for _, h := range g.fleet.Hosts {
		if ok, _ := path.Match(m.Value, h.Name); ok {
			hosts[h.Name], found = true, true
		}
	}
	if !found {
		g.missing(m.Pos(), fmt.Sprintf("%q matches no host", m.Value))
	}
}

// deepen notes that a group is at least at this depth, and the groups in it deeper.
func (g *grouping) deepen(name string, depth int) {
	if depth > len(g.tables) { // a cycle, reported already
		return
	}
	if depth > 0 && g.depth[name] >= depth {
		return
	}
	g.depth[name] = max(g.depth[name], depth)
	for _, m := range g.tables[name].Hosts {
		if _, ok := g.tables[m.Value]; ok && g.fleet.hosts[m.Value] == nil {
			g.deepen(m.Value, depth+1)
		}
	}
}
