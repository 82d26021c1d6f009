package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"unicode"
)

// check makes the Fleet of what was read and finds what is wrong with it.
func (l *loader) check() {
	if t := l.file.Fleet; t != nil {
		l.fleet.Name = t.Name.Value
		if t.Name.Node != nil && t.Name.Node.Kind == KindString {
			l.name(t.Name.Pos(), "fleet", t.Name.Value)
		}
	}
	pg := l.file.Postgres
	l.fleet.Postgres = Postgres{pg.Version, cmp.Or(pg.Cluster.Value, "main"), cmp.Or(pg.Port.Value, 5432)}
	l.cluster(pg.Cluster)
	ssh := l.file.SSH
	l.fleet.SSH = SSH{ssh.User.Value, ssh.Port, ssh.Identity, ssh.KnownHosts, ssh.Config, ssh.ConnectTimeout, ssh.Jump.Value, ssh.Become}
	l.user(ssh.User)
	l.jump(ssh.Jump)
	l.fleet.Vars = l.variables(l.vars)

	taken := map[string]taken{}
	l.checkHosts(taken)
	own := l.checkGroups(taken)
	l.replications(taken)
	l.mergeVariables(own)
	l.rollout()
	l.checkCA()
	l.checkClients()
	l.checkRotations()
	l.checkBackups()
	l.checkTasks()
}

// A taken name is that of a host, a group or a replication cluster.
type taken struct {
	what, name string
	pos        Position
}

// take reserves a name, in any case, and reports whether it was free.
func (l *loader) take(all map[string]taken, what, name string, pos Position) bool {
	key := strings.ToLower(name)
	if key == "all" {
		l.errs.Add(pos, "a %s cannot be called %q, which stands for every instance", what, name)
		return false
	}
	if t, ok := all[key]; ok {
		switch {
		case t.what == what && t.name == name:
			l.errs.Add(pos, "%s %q is here for the second time; the first is at %s", what, name, t.pos)
		case t.name == name:
			l.errs.Add(pos, "%s %q is called like a %s (%s); selectors could not tell them apart", what, name, t.what, t.pos)
		default:
			l.errs.Add(pos, "%s %q differs from %s %q (%s) in upper and lower case only", what, name, t.what, t.name, t.pos)
		}
		return false
	}
	all[key] = taken{what, name, pos}
	return true
}

// name checks how something is called.
func (l *loader) name(pos Position, what, name string) bool {
	if name == "" {
		l.errs.Add(pos, "a %s needs a name", what)
		return false
	}
	for i, r := range name {
		if !isNameChar(r) || i == 0 && strings.ContainsRune(".-_", r) {
			l.errs.Add(pos, "%q is no valid name for a %s: letters, digits, dots, dashes and underscores, the first one a letter or digit", name, what)
			return false
		}
	}
	return true
}

func (l *loader) checkHosts(all map[string]taken) {
	addresses := map[string]*Host{}
	versionless := false
	for _, e := range l.hosts {
		t := e.Value
		h := &Host{
			Name: e.Name, Pos: e.Pos,
			Address:  cmp.Or(t.Address.Value, e.Name),
			Port:     cmp.Or(t.Port.Value, l.fleet.SSH.Port),
			User:     cmp.Or(t.User.Value, l.fleet.SSH.User),
			Identity: cmp.Or(t.Identity, l.fleet.SSH.Identity),
			Jump:     l.fleet.SSH.Jump,
			Become:   cmp.Or(t.Become, l.fleet.SSH.Become),
		}
		if t.Jump.Node != nil {
			h.Jump = t.Jump.Value
		}
		valid := l.name(e.Pos, "host", e.Name)
		if !l.take(all, "host", e.Name, e.Pos) {
			continue
		}
		l.fleet.Hosts = append(l.fleet.Hosts, h)
		l.fleet.hosts[h.Name] = h
		l.user(t.User)
		l.jump(t.Jump)
		if valid && l.address(t.Address) {
			key := fmt.Sprintf("%s port %d", canonical(h.Address), cmp.Or(h.Port, 22))
			if other := addresses[key]; other != nil {
				pos := e.Pos
				if t.Address.Node != nil {
					pos = t.Address.Pos()
				}
				l.errs.Add(pos, "%s port %d is the address of host %q too (%s)", h.Address, cmp.Or(h.Port, 22), other.Name, other.Pos)
			} else {
				addresses[key] = h
			}
		}
		l.instances(h, t)
		for _, i := range h.Instances {
			if i.Version == 0 && !versionless && !l.partial {
				versionless = true
				l.errs.Add(i.Pos, "which version of PostgreSQL? Set version in [postgres], or in the table postgres of host %q", h.Name)
			}
		}
	}
}

// instances makes the host's instances.
func (l *loader) instances(h *Host, t hostTable) {
	l.cluster(t.Postgres.Cluster)
	base := Instance{
		Host: h, Pos: h.Pos,
		Version:     cmp.Or(t.Postgres.Version, l.fleet.Postgres.Version),
		Cluster:     cmp.Or(t.Postgres.Cluster.Value, l.fleet.Postgres.Cluster),
		Port:        cmp.Or(t.Postgres.Port.Value, l.fleet.Postgres.Port),
		Replication: t.Replication.Value,
	}
	base.Name = base.Cluster
	if t.Instances == nil {
		h.Instances = []Instance{base}
		return
	}
	if len(t.Instances) == 0 && t.Replication.Node != nil {
		l.errs.Add(t.Replication.Pos(), "host %q has no instance (instances = {}), so nothing on it replicates", h.Name)
	}
	if len(t.Instances) > 1 && t.Replication.Node != nil {
		l.errs.Add(t.Replication.Pos(), "host %q has more than one instance; say replication for each of them", h.Name)
	}
	ports, clusters := map[int]Instance{}, map[string]Instance{}
	for _, e := range t.Instances {
		l.name(e.Pos, "instance", e.Name)
		l.cluster(e.Value.Cluster)
		i := base
		i.Name, i.Pos = e.Name, e.Pos
		i.Version = cmp.Or(e.Value.Version, base.Version)
		i.Cluster = cmp.Or(e.Value.Cluster.Value, e.Name)
		i.Port = cmp.Or(e.Value.Port.Value, base.Port)
		i.Replication = cmp.Or(e.Value.Replication.Value, base.Replication)
		if other, ok := ports[i.Port]; ok {
			pos := e.Pos
			if e.Value.Port.Node != nil {
				pos = e.Value.Port.Pos()
			}
			l.errs.Add(pos, "port %d is that of instance %q too (%s); two servers cannot share it", i.Port, other.Name, other.Pos)
		} else {
			ports[i.Port] = i
		}
		cluster := fmt.Sprintf("%d/%s", i.Version, i.Cluster)
		if other, ok := clusters[cluster]; ok {
			l.errs.Add(e.Pos, "cluster %s is instance %q too (%s)", cluster, other.Name, other.Pos)
		} else {
			clusters[cluster] = i
		}
		h.Instances = append(h.Instances, i)
	}
}

// cluster checks Debian's name of a cluster, which becomes part of paths and of a unit's name.
func (l *loader) cluster(c Positioned[string]) {
	if c.Node != nil && c.Node.Kind == KindString {
		l.name(c.Pos(), "cluster", c.Value)
	}
}

// replications checks the names of the replication clusters.
func (l *loader) replications(all map[string]taken) {
	seen := map[string]bool{}
	check := func(r Positioned[string]) {
		if r.Node == nil || r.Node.Kind != KindString || seen[r.Value] {
			return
		}
		seen[r.Value] = true
		if l.name(r.Pos(), "replication cluster", r.Value) {
			l.take(all, "replication cluster", r.Value, r.Pos())
		}
	}
	for _, e := range l.hosts {
		check(e.Value.Replication)
		for _, i := range e.Value.Instances {
			check(i.Value.Replication)
		}
	}
}

// address checks what is to be dialled and reports whether it can be.
func (l *loader) address(a Positioned[string]) bool {
	if a.Node == nil {
		return true
	}
	if a.Node.Kind != KindString {
		return false
	}
	if err := checkAddress(a.Value); err != nil {
		l.errs.Add(a.Pos(), "address: %s", err)
		return false
	}
	return true
}

// checkAddress takes IP addresses, DNS names and the names of ssh_config(5).
func checkAddress(s string) error {
	if ip, err := netip.ParseAddr(s); err == nil {
		if ip.IsUnspecified() || ip.IsMulticast() {
			return fmt.Errorf("%s is no address of a host", s)
		}
		return nil
	}
	if inner := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"); inner != s {
		return fmt.Errorf("%q: write it without brackets", s)
	}
	if strings.Contains(s, "@") {
		return fmt.Errorf("%q: write the login as user", s)
	}
	if host, _, ok := strings.Cut(s, ":"); ok && checkAddress(host) == nil {
		return fmt.Errorf("%q: write the port as port", s)
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return fmt.Errorf("%q is a network; a host has one address", s)
	}
	if s == "" || len(s) > 253 || strings.Trim(s[:1], "-._") == "" || strings.Contains(s, "..") || strings.ContainsFunc(s, func(r rune) bool { return !isNameChar(r) }) {
		return fmt.Errorf("%q is neither an IP address nor a host name", s)
	}
	if last := s[strings.LastIndexByte(s, '.')+1:]; strings.Trim(last, "0123456789") == "" {
		return fmt.Errorf("%q is no valid IP address", s) // no top-level domain is a number (RFC 3696, section 2)
	}
	return nil
}

// canonical returns the same text for the same address.
func canonical(address string) string {
	if ip, err := netip.ParseAddr(address); err == nil {
		return ip.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(address, "."))
}

// user checks a login name, which ssh and sudo see as an argument.
func (l *loader) user(u Positioned[string]) {
	if u.Node == nil || u.Node.Kind != KindString {
		return
	}
	if u.Value == "" || strings.HasPrefix(u.Value, "-") || strings.ContainsFunc(u.Value, unfitForSSH) {
		l.errs.Add(u.Pos(), "user: %q is no valid login name", u.Value)
	}
}

// jump checks jump hosts, which ssh sees as an argument.
func (l *loader) jump(jump Positioned[Strings]) {
	if jump.Node == nil {
		return
	}
	items := jump.Node.Items
	if jump.Node.Kind == KindString {
		items = []*Node{jump.Node}
	}
	for _, n := range items {
		switch {
		case n.Kind != KindString: // reported as a wrong type
		case strings.Contains(n.Str, ","):
			l.errs.Add(n.Pos, "jump: write several jump hosts as a list")
		case n.Str == "" || strings.HasPrefix(n.Str, "-") || strings.ContainsFunc(n.Str, unfitForSSH):
			l.errs.Add(n.Pos, "jump: %q is no jump host; write [user@]host[:port]", n.Str)
		}
	}
}

func unfitForSSH(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// checkTasks makes the list of tasks.
func (l *loader) checkTasks() {
	first := map[string]Position{}
	for _, n := range l.tasks {
		if n.Kind != KindTable {
			l.errs.Add(n.Pos, "task: want a table, found %s", n.describe())
			continue
		}
		common := namesOf(taskType)
		var t taskKeys
		l.errs = append(l.errs, Decode(n.only(common), &t)...)
		task := Task{
			Name: t.Name.Value, Kind: t.Kind.Value, Pos: n.Pos, On: t.On, When: t.When, ForEach: t.ForEach,
			Body: n.Without(common...),
		}
		if name := t.Name.Node; name != nil && name.Kind == KindString {
			task.NamePos = name.PosAt(0)
			if pos, ok := first[task.Name]; ok {
				l.errs.Add(name.Pos, "task %q is here for the second time; the first is at %s", task.Name, pos)
			} else if first[task.Name] = name.Pos; strings.TrimSpace(task.Name) == "" {
				l.errs.Add(name.Pos, "a task needs a name")
			}
		}
		if kind := t.Kind.Node; kind != nil && kind.Kind == KindString && l.opt.Kinds != nil && !slices.Contains(l.opt.Kinds, task.Kind) {
			l.errs.Add(kind.Pos, "unknown kind %q%s", task.Kind, hint(task.Kind, l.opt.Kinds))
			task.Kind, _ = Nearest(task.Kind, l.opt.Kinds)
		}
		if e := task.ForEach; e != nil && e.Kind != KindList && e.Kind != KindString {
			l.errs.Add(e.Pos, "for_each: want a list or the name of a variable, found %s", e.describe())
		}
		for _, tag := range t.Tags {
			if tag.Node.Kind == KindString {
				l.name(tag.Pos(), "tag", tag.Value)
			}
			task.Tags = append(task.Tags, tag.Value)
		}
		limit, ok := l.limit(t.Limit)
		task.Limit = limit
		if ok && task.Kind != "" {
			l.fleet.Tasks = append(l.fleet.Tasks, task)
		}
	}
}

// limit reads a task's selector and reports whether it can be used.
func (l *loader) limit(p Positioned[string]) (Selector, bool) {
	if p.Node == nil {
		return Selector{}, true
	}
	return l.selector("limit", p)
}

// selector reads a selector that a key holds, and reports whether it can be used.
func (l *loader) selector(key string, p Positioned[string]) (Selector, bool) {
	if p.Node.Kind != KindString {
		return Selector{}, false
	}
	sel, err := ParseSelector(p.Value)
	var wrong *SelectorError
	if errors.As(err, &wrong) {
		l.errs.Add(p.Node.PosAt(wrong.Offset), "%s: %s", key, wrong.Msg)
		return Selector{}, false
	}
	unknown := sel.check(l.fleet)
	for _, e := range unknown {
		l.missing(p.Node.PosAt(e.Offset), key+": "+e.Msg)
	}
	return sel, len(unknown) == 0
}

// missing reports a name that is not there, unless it may be in a file that could not be read and looks like no other.
func (l *loader) missing(pos Position, msg string) {
	if !l.partial || strings.Contains(msg, "did you mean") {
		l.errs.Add(pos, "%s", msg)
	}
}

func isGlob(s string) bool { return strings.ContainsAny(s, `*?[\`) }

// validGlob reports whether path.Match understands the pattern.
func validGlob(s string) bool {
	_, err := path.Match(s, "")
	return err == nil
}
