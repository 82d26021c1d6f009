//go:build lab

package property

import (
	"fmt"
	"slices"
	"strings"
)

func (l *list) grant() {
	w := l.w
	db := w.pick(w.databases())
	pairs := []string{"database", text(db)}
	var objects []object
	switch n := w.random.IntN(6); {
	case n == 0: // columns
		tables := w.held[db].of("TABLE")
		if len(tables) == 0 {
			return
		}
		t := tables[w.random.IntN(len(tables))]
		names := w.some(columnNames())
		for _, c := range names {
			o := t.object
			o.kind, o.more = "COLUMN", c
			objects = append(objects, o)
		}
		pairs = append(pairs, "columns", "{ "+text(t.qualified())+" = "+texts(names)+" }")
	case n == 1:
		keys, things := l.all(db)
		for _, t := range things {
			objects = append(objects, t.object)
		}
		pairs = append(pairs, keys...)
	default:
		first := w.on(db)
		objects = []object{first}
		for range 2 {
			if o := w.on(db); o.kind == first.kind && !slices.Contains(objects, o) {
				objects = append(objects, o)
			}
		}
		pairs = append(pairs, keysOf(objects)...)
	}
	if len(objects) == 0 {
		return
	}
	kind := objects[0].kind
	to := w.some(append(slices.Clone(w.roles), ""))
	words := w.words(kind)
	named := slices.Clone(words)
	if w.one(4) {
		words, named = privileges(kind, w.major), []string{w.pick([]string{"ALL", "all privileges"})}
	}
	exact := w.one(3)
	absent := !exact && w.one(4)
	if exact && w.one(6) {
		words = nil // and nothing at all
	}
	option := !absent && !slices.Contains(to, "") && w.one(4)
	for _, r := range to {
		for _, o := range objects {
			if l.contradicts(r, o, absent) {
				return
			}
		}
	}
	for _, r := range to {
		for _, o := range objects {
			l.declare(r, o, words, option, exact, absent)
		}
	}
	for i, r := range to {
		to[i] = l.public(r)
	}
	pairs = append(pairs, "to", l.oneOrMore(to))
	if len(words) > 0 {
		pairs = append(pairs, "privileges", texts(named))
	}
	for key, on := range map[string]bool{"exact": exact, "grant_option": option} {
		if on {
			pairs = append(pairs, key, "true")
		}
	}
	if absent {
		pairs = append(pairs, "state", `"absent"`)
	}
	l.task("grant", pairs...)
}

// contradicts reports whether a grant would undo what another task declares.
func (l *list) contradicts(to string, o object, absent bool) bool {
	if o.kind == "DATABASE" && to == "" && l.taken["database "+o.name] {
		return true
	}
	for _, w := range l.declared {
		if w.to == to && w.object.base() == o.base() && w.absent != absent {
			return true
		}
	}
	return false
}

func (l *list) declare(to string, o object, words []string, option, exact, absent bool) {
	key := [2]string{to, o.String()}
	w := l.declared[key]
	if w == nil {
		w = &wanted{object: o, to: to}
		l.declared[key] = w
		l.goal(func(x *told) string { return l.granted(x, w) })
	}
	w.privileges = set(append(w.privileges, words...))
	if option {
		w.options = set(append(w.options, words...))
	}
	w.exact, w.absent = w.exact || exact, absent
	if exact && o.kind == "TABLE" { // its columns are meant as well
		for _, c := range columnNames() {
			column := o
			column.kind, column.more = "COLUMN", c
			l.declare(to, column, nil, false, true, false)
		}
	}
}

// granted says what is wrong with the privileges of one role on one object.
func (l *list) granted(x *told, w *wanted) string {
	got, options := x.holds(w.object, w.to)
	owner := x.owners[w.object.base()]
	problem := ""
	switch {
	case w.absent:
		if kept := without(w.privileges, without(w.privileges, got)); len(kept) > 0 {
			problem = "still has " + strings.Join(kept, ", ")
		}
	case len(without(w.privileges, got)) > 0:
		problem = "lacks " + strings.Join(without(w.privileges, got), ", ")
	case len(without(w.options, options)) > 0:
		problem = "lacks the option for " + strings.Join(without(w.options, options), ", ")
	case w.exact && owner != w.to && len(without(got, w.privileges)) > 0:
		problem = "also has " + strings.Join(without(got, w.privileges), ", ")
	case w.exact && owner != w.to && len(without(options, w.options)) > 0:
		problem = "also has the option for " + strings.Join(without(options, w.options), ", ")
	}
	if problem == "" {
		return ""
	}
	return fmt.Sprintf("%s %s on %s", grantee(w.to), problem, w.object)
}

func (l *list) defaults() {
	w := l.w
	db := w.pick(w.databases())
	objects := w.pick([]string{"tables", "sequences", "functions", "types", "schemas"})
	kind := strings.ToUpper(strings.TrimSuffix(objects, "s"))
	schema := ""
	if objects != "schemas" && w.one(2) {
		schema = w.pick(w.held[db].schemas)
	}
	of, to := w.anybody(), w.anybodyOrPublic()
	words := w.words(kind)
	exact, absent := w.one(3), false
	if !exact && w.one(4) && !(to == "" && schema != "") {
		absent = true
	}
	option := !absent && to != "" && w.one(4)
	if !l.take("defaults of %s in %s of %s on %s to %s", of, schema, db, objects, to) {
		return
	}
	pairs := []string{"database", text(db), "for_role", text(of), "objects", text(objects), "to", l.oneOrMore([]string{l.public(to)}), "privileges", texts(words)}
	if schema != "" {
		pairs = append(pairs, "in_schemas", texts([]string{schema}))
	}
	switch {
	case absent:
		pairs = append(pairs, "state", `"absent"`)
	case exact:
		pairs = append(pairs, "exact", "true")
	}
	if option {
		pairs = append(pairs, "grant_option", "true")
	}
	l.task("default_privileges", pairs...)
	l.goal(func(x *told) string {
		key := fmt.Sprintf("default privileges of %s in schema %q on %s of database %s", of, schema, kind, db)
		acl, ok := x.facts[key]
		if !ok && schema == "" { // PostgreSQL's own
			acl = joined(builtin(kind, of, w.major))
		}
		var got []string
		for _, item := range strings.Split(acl, "; ") {
			if rest, ok := strings.CutPrefix(item, grantee(to)+": "); ok {
				got = append(got, rest[:strings.Index(rest, " by ")])
			}
		}
		plain := func(list []string) (names []string) {
			for _, p := range list {
				names = append(names, strings.TrimSuffix(p, "*"))
			}
			return names
		}
		problem := ""
		for _, p := range words {
			switch {
			case absent && slices.Contains(plain(got), p):
				problem = "still has " + p
			case !absent && !slices.Contains(plain(got), p):
				problem = "lacks " + p
			case option && !slices.Contains(got, p+"*"):
				problem = "lacks the option for " + p
			}
		}
		if more := without(plain(got), words); exact && of != to && len(more) > 0 {
			problem = "also has " + strings.Join(more, ", ")
		}
		if problem != "" {
			return key + ": " + grantee(to) + " " + problem
		}
		return ""
	})
}

// builtin returns PostgreSQL's own default privileges, as the manual has them.
func builtin(kind, owner string, major int) []given {
	var acl []given
	for _, p := range privileges(kind, major) {
		acl = append(acl, given{owner, owner, p, false})
		if kind == "FUNCTION" || kind == "TYPE" {
			acl = append(acl, given{"", owner, p, false})
		}
	}
	return acl
}

func (l *list) policy() {
	w := l.w
	db := w.pick(w.databases())
	tables := w.held[db].tables()
	if len(tables) == 0 {
		return
	}
	table := tables[w.random.IntN(len(tables))].object
	name := w.pick(policyNames())
	if !l.take("policy %q of %s", name, table) {
		return
	}
	if _, ok := l.rls[table]; !ok {
		enable := w.pick([]string{"", "true", "true", "false"})
		force := w.pick([]string{"", "true", "false"})
		l.rls[table] = [2]string{enable, force}
		on := map[string]string{"": "t", "true": "t", "false": "f"}[enable]
		forced := map[string]string{"": on, "true": "t", "false": "f"}[force]
		l.fact(on+" "+forced, "row-level security of %s", table)
	}
	pairs := []string{"database", text(db), "table", text(table.qualified()), "enable", l.rls[table][0], "force", l.rls[table][1]}
	if w.one(3) {
		pairs = append(pairs, "exact", "true")
		l.goal(func(x *told) string {
			suffix := " of " + table.String()
			for what := range x.facts {
				if found, ok := strings.CutSuffix(what, suffix); ok && strings.HasPrefix(found, "policy ") && !l.taken[what] {
					return what + " is still there"
				}
			}
			return ""
		})
	}
	if w.one(5) {
		what := fmt.Sprintf("policy %q of %s", name, table)
		l.task("policy", append(pairs, "policy", text(name), "state", `"absent"`)...)
		l.goal(func(x *told) string {
			if _, ok := x.facts[what]; ok {
				return what + " is still there"
			}
			return ""
		})
		return
	}
	command := w.pick([]string{"", "ALL", "SELECT", "INSERT", "UPDATE", "DELETE"})
	using, check := "", ""
	if command != "INSERT" {
		using = w.pick(expressions())
	}
	if command != "SELECT" && command != "DELETE" && (command == "INSERT" || w.one(2)) {
		check = w.pick(expressions())
	}
	permissive := w.pick([]string{"", "true", "false"})
	roles := w.between(append(slices.Clone(w.roles), ""), 0)
	pairs = append(pairs, "policy", text(name), "permissive", permissive)
	if command != "" {
		pairs = append(pairs, "command", text(command))
	}
	if using != "" {
		pairs = append(pairs, "using", text(using))
	}
	if check != "" {
		pairs = append(pairs, "with_check", text(check))
	}
	var to, names []string
	for _, r := range roles {
		to = append(to, l.public(r))
		if r != "" {
			names = append(names, r)
		}
	}
	if len(roles) > 0 {
		pairs = append(pairs, "roles", l.oneOrMore(to))
	}
	if len(names) < len(roles) || len(roles) == 0 {
		names = []string{"public"}
	}
	l.task("policy", pairs...)
	if command == "" {
		command = "ALL"
	}
	l.fact(map[bool]string{true: "RESTRICTIVE ", false: "PERMISSIVE "}[permissive == "false"]+command+" to "+strings.Join(set(names), ", "), "policy %q of %s", name, table)
	l.fact(w.deparsed[using], "policy %q of %s: USING", name, table)
	l.fact(w.deparsed[check], "policy %q of %s: WITH CHECK", name, table)
}
