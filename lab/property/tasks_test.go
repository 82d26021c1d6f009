//go:build lab

package property

import (
	"fmt"
	"slices"
	"strings"
)

// A list is random tasks as the text of fleet.toml, and what has to be true of
// the server once they are carried out. No two tasks contradict each other.
type list struct {
	w     *world
	text  strings.Builder
	kinds []string
	goals []func(*told) string // each says what is wrong, or nothing

	taken    map[string]bool       // what only one task may be about
	declared map[[2]string]*wanted // by grantee and object
	rls      map[object][2]string  // enable and force, of a table
}

// A wanted is what the grants of one role on one object come to.
type wanted struct {
	object              object
	to                  string
	privileges, options []string
	exact, absent       bool
}

// tasks makes a list of tasks for the world as it is.
func (w *world) tasks() *list {
	l := &list{w: w, taken: map[string]bool{}, declared: map[[2]string]*wanted{}, rls: map[object][2]string{}}
	fmt.Fprintf(&l.text, "[fleet]\nname = \"property\"\n[hosts.pg01]\npostgres.version = %d\n", w.major)
	if w.one(4) {
		l.dropRole()
	}
	l.times(1, 3, l.role)
	l.times(0, 2, l.database)
	l.times(0, 2, l.schema)
	l.times(0, 2, l.owner)
	l.times(0, 3, l.defaults)
	l.times(2, 4, l.grant)
	l.times(0, 3, l.policy)
	return l
}

func (l *list) times(least, most int, make func()) {
	for range least + l.w.random.IntN(most-least+1) {
		make()
	}
}

func (l *list) take(what string, args ...any) bool {
	key := fmt.Sprintf(what, args...)
	if l.taken[key] {
		return false
	}
	l.taken[key] = true
	return true
}

// task begins a task; the pairs are keys and values of TOML.
func (l *list) task(kind string, pairs ...string) {
	l.kinds = append(l.kinds, kind)
	fmt.Fprintf(&l.text, "\n[[task]]\nname = \"%s %d\"\nkind = %q\n", kind, len(l.kinds), kind)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(&l.text, "%s = %s\n", pairs[i], pairs[i+1])
		}
	}
	l.w.tried["task "+kind]++
}

func (l *list) goal(f func(*told) string) { l.goals = append(l.goals, f) }

// fact demands that a fact has a value.
func (l *list) fact(value, what string, args ...any) {
	key := fmt.Sprintf(what, args...)
	l.goal(func(x *told) string {
		if got, ok := x.facts[key]; !ok || got != value {
			return fmt.Sprintf("%s is %q, declared is %q", key, got, value)
		}
		return ""
	})
}

// text writes a string of TOML.
func text(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func texts(list []string) string {
	var quoted []string
	for _, s := range list {
		quoted = append(quoted, text(s))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// oneOrMore writes a list of one as a string, sometimes.
func (l *list) oneOrMore(list []string) string {
	if len(list) == 1 && l.w.one(2) {
		return text(list[0])
	}
	return texts(list)
}

// maybe returns a value or, about as often, nothing.
func (l *list) maybe(value string) string {
	if l.w.one(2) {
		return ""
	}
	return value
}

// public writes PUBLIC in any case.
func (l *list) public(role string) string {
	if role == "" {
		return l.w.pick([]string{"PUBLIC", "public"})
	}
	return role
}

// dropRole drops a role that no other task is about, first of all.
func (l *list) dropRole() {
	w := l.w
	if len(w.roles) < 4 {
		return
	}
	name := w.anybody()
	w.roles = slices.DeleteFunc(w.roles, func(r string) bool { return r == name })
	l.take("role %s", name)
	pairs := []string{"role", text(name), "state", `"absent"`}
	// What goes with it no other task can be about. A schema cannot be dropped
	// without what others have in it, nor can a database.
	drops := w.one(2) && len(w.rows("postgres", "SELECT FROM pg_database WHERE pg_get_userbyid(datdba) = $1", name)) == 0
	for db := range w.held {
		drops = drops && len(w.rows(db, "SELECT FROM pg_namespace WHERE pg_get_userbyid(nspowner) = $1", name)) == 0
	}
	if drops {
		pairs = append(pairs, "drop_owned", "true")
		for _, x := range w.held {
			x.things = slices.DeleteFunc(x.things, func(t thing) bool { return t.owner == name })
		}
	} else {
		pairs = append(pairs, "reassign_to", text(w.anybody()))
	}
	l.task("role", pairs...)
	l.goal(func(x *told) string {
		if _, ok := x.facts["role "+name]; ok {
			return "role " + name + " is still there"
		}
		return ""
	})
}

func (l *list) bool(odds int) (string, string) {
	if l.w.one(odds) {
		return "true", "t"
	}
	return l.maybe("false"), "f"
}

func (l *list) role() {
	w := l.w
	name := w.anybody()
	if w.one(3) {
		name = w.pick(roleNames())
	}
	if !l.take("role %s", name) {
		return
	}
	pairs, attributes := []string{"role", text(name)}, ""
	value := map[string]string{}
	for _, a := range []struct {
		key  string
		odds int
	}{{"superuser", 12}, {"inherit", 0}, {"createrole", 4}, {"createdb", 4}, {"login", 2}, {"replication", 5}, {"bypassrls", 5}} {
		toml, sql := "", "t"
		if a.odds > 0 {
			toml, sql = l.bool(a.odds)
		} else if w.one(3) {
			toml, sql = "false", "f"
		}
		pairs, attributes = append(pairs, a.key, toml), attributes+sql+" "
		value[a.key] = sql
	}
	limit := "-1"
	if w.one(3) {
		limit = fmt.Sprint(w.random.IntN(50))
		pairs = append(pairs, "connection_limit", limit)
	}
	until := [][2]string{{"", "infinity"}, {`"infinity"`, "infinity"}, {"2031-01-02T03:04:05Z", "2031-01-02 03:04:05"}, {"2031-01-02T03:04:05+02:00", "2031-01-02 01:04:05"}, {`"2032-02-29"`, "2032-02-29 00:00:00"}}[w.random.IntN(5)]
	pairs = append(pairs, "valid_until", until[0])
	attributes += limit + " " + until[1]
	password := w.pick([]string{"", "", `"none"`, `"env:SECRET_` + fmt.Sprint(w.random.IntN(3)) + `"`})
	pairs = append(pairs, "password", password)
	l.goal(func(x *told) string {
		got := x.facts["role "+name]
		want := attributes + map[bool]string{true: " f", false: " t"}[password == `"none"`]
		if password == "" {
			got, want = strings.TrimSuffix(strings.TrimSuffix(got, " t"), " f"), attributes
		}
		if got != want {
			return fmt.Sprintf("role %s is %q, declared is %q", name, got, want)
		}
		return ""
	})
	pairs = append(pairs, l.memberships(name, value["inherit"])...)
	pairs = append(pairs, l.settings("settings", name, "", w.one(2))...)
	databases := w.databases()
	if in := w.pick(databases); w.one(3) {
		inDatabase := l.settings("{}", name, in, true)[1]
		pairs = append(pairs, "database_settings", "{ "+text(in)+" = "+inDatabase+" }")
		databases = without(databases, []string{in})
	}
	for _, db := range databases {
		l.settings("", name, db, false)
	}
	if w.one(3) {
		pairs = append(pairs, "comment", text("it's declared"))
		l.fact("it's declared", "comment on role %s", name)
	}
	l.task("role", pairs...)
	if !slices.Contains(w.roles, name) {
		w.roles = append(w.roles, name)
	}
}

// settings declares settings of a role, a database, or a role in a database: its
// result is a key and a value. Where it is not to declare any, there may be none.
func (l *list) settings(key, role, db string, declare bool) []string {
	var pairs []string
	want := map[string]string{}
	if declare {
		for range l.w.random.IntN(3) {
			s := settings()[l.w.random.IntN(len(settings()))]
			if _, ok := want[s[0]]; !ok {
				want[s[0]] = s[1]
				pairs = append(pairs, text(s[0])+" = "+text(s[1]))
			}
		}
	}
	suffix := fmt.Sprintf(" of role %q in database %q", role, db)
	l.goal(func(x *told) string {
		found := map[string]string{}
		for what, value := range x.facts {
			if name, ok := strings.CutSuffix(what, suffix); ok && strings.HasPrefix(name, "setting ") {
				found[strings.TrimPrefix(name, "setting ")] = value
			}
		}
		if len(found) != len(want) {
			return fmt.Sprintf("settings%s are %q, declared is %q", suffix, found, want)
		}
		for name, value := range want {
			got := found[name]
			if megabytes := map[string]string{"64MB": "65536"}; megabytes[got] == value || megabytes[value] == got {
				continue
			}
			if name != "work_mem" && name != "random_page_cost" && got != value {
				return fmt.Sprintf("setting %s%s is %q, declared is %q", name, suffix, got, value)
			}
		}
		return ""
	})
	if !declare {
		return nil
	}
	return []string{key, "{ " + strings.Join(pairs, ", ") + " }"}
}

func (l *list) memberships(member, inherit string) []string {
	w := l.w
	if w.one(2) {
		return nil
	}
	want := map[string]string{}
	var items []string
	for _, of := range w.between(append(w.before(member), "pg_monitor"), 0) {
		if w.one(2) {
			items, want[of] = append(items, text(of)), "f"
			if w.major >= 16 {
				want[of] += inherit + "t"
			}
			continue
		}
		admin, a := l.bool(2)
		item := "role = " + text(of)
		if admin != "" {
			item += ", admin = " + admin
		}
		want[of] = a
		if w.major >= 16 {
			i, s := inherit, "t"
			if w.one(2) {
				i = w.pick([]string{"t", "f"})
				item += ", inherit = " + map[string]string{"t": "true", "f": "false"}[i]
			}
			if w.one(2) {
				s = w.pick([]string{"t", "f"})
				item += ", set = " + map[string]string{"t": "true", "f": "false"}[s]
			}
			want[of] += i + s
		}
		items = append(items, "{ "+item+" }")
	}
	l.goal(func(x *told) string {
		found := map[string]string{}
		for what, value := range x.facts {
			rest, ok := strings.CutPrefix(what, "membership of "+member+" in ")
			if !ok {
				continue
			}
			of := rest[:strings.LastIndex(rest, " by ")]
			value = strings.ReplaceAll(value, " ", "")
			if w.major < 16 {
				value = value[:1]
			}
			found[of] = together(found[of], value)
		}
		if fmt.Sprint(found) != fmt.Sprint(want) {
			return fmt.Sprintf("%s is a member of %v, declared is %v", member, found, want)
		}
		return ""
	})
	return []string{"member_of", "[" + strings.Join(items, ", ") + "]"}
}

// together is what two grants of one membership come to.
func together(a, b string) string {
	if a == "" {
		return b
	}
	sum := ""
	for i := range a {
		sum += map[bool]string{true: "t", false: "f"}[a[i] == 't' || b[i] == 't']
	}
	return sum
}

func (l *list) database() {
	w := l.w
	name := w.pick(w.databases())
	if w.one(3) && len(w.held) < 4 {
		name = w.pick(databaseNames())
	}
	if !l.take("database %s", name) {
		return
	}
	isNew := w.held[name] == nil
	if isNew {
		w.held[name] = &held{schemas: []string{"public"}}
	}
	o := object{kind: "DATABASE", database: name, name: name}
	pairs := []string{"database", text(name)}
	if w.one(2) && l.take("owner of %s", o) {
		owner := w.anybody()
		pairs = append(pairs, "owner", text(owner))
		l.fact(owner, "owner of %s", o)
	}
	if w.one(3) {
		limit := fmt.Sprint(w.random.IntN(90) - 1)
		pairs = append(pairs, "connection_limit", limit)
		l.fact(limit, "connection limit of database %s", name)
	}
	var public []string
	if w.one(2) {
		public = w.between(privileges("DATABASE", w.major), 0)
		pairs = append(pairs, "public", texts(public))
	}
	l.goal(func(x *told) string {
		if got, _ := x.holds(o, ""); !slices.Equal(got, set(public)) {
			return fmt.Sprintf("PUBLIC has %v on %s, declared is %v", got, o, public)
		}
		return ""
	})
	pairs = append(pairs, l.settings("settings", "", name, w.one(2))...)
	if w.one(3) {
		pairs = append(pairs, "comment", text(`the "orders"`))
		l.fact(`the "orders"`, "comment on database %s", name)
	}
	l.task("database", pairs...)
}

func (l *list) schema() {
	w := l.w
	db := w.pick(w.databases())
	name := w.pick(append(schemaNames(), w.held[db].schemas...))
	if !l.take("schema %s of %s", name, db) {
		return
	}
	o := object{kind: "SCHEMA", database: db, name: name}
	pairs := []string{"database", text(db), "schema", text(name)}
	if w.one(2) && l.take("owner of %s", o) {
		owner := w.anybody()
		pairs = append(pairs, "owner", text(owner))
		l.fact(owner, "owner of %s", o)
	}
	if w.one(3) {
		comment := w.pick([]string{"", "it's declared"})
		pairs = append(pairs, "comment", text(comment))
		l.fact(comment, "comment on schema %q of database %s", name, db)
	}
	l.task("schema", pairs...)
	if !slices.Contains(w.held[db].schemas, name) {
		w.held[db].schemas = append(w.held[db].schemas, name)
	}
}

// keysOf writes objects under the keys that tasks have for them.
func keysOf(objects []object) []string {
	byKey := map[string][]string{}
	for _, o := range objects {
		switch o.kind {
		case "DATABASE":
			byKey["databases"] = append(byKey["databases"], o.name)
		case "SCHEMA":
			byKey["schemas"] = append(byKey["schemas"], o.name)
		default:
			key := strings.ToLower(o.kind) + "s"
			byKey[key] = append(byKey[key], o.qualified())
		}
	}
	var pairs []string
	for _, key := range sorted(byKey) {
		pairs = append(pairs, key, texts(byKey[key]))
	}
	return pairs
}

// all chooses everything of a kind in one schema.
func (l *list) all(db string) (pairs []string, things []thing) {
	w := l.w
	kind, schema := w.pick([]string{"TABLE", "TABLE", "SEQUENCE", "FUNCTION"}), w.pick(w.held[db].schemas)
	for _, t := range w.held[db].of(kind) {
		if t.schema == schema {
			things = append(things, t)
		}
	}
	return []string{"all_" + strings.ToLower(kind) + "s_in", texts([]string{schema})}, things
}

func (l *list) owner() {
	w := l.w
	db, owner := w.pick(w.databases()), w.anybody()
	pairs := []string{"database", text(db), "owner", text(owner)}
	var objects []object
	if w.one(3) {
		keys, things := l.all(db)
		for _, t := range things {
			if !t.part {
				objects = append(objects, t.object)
			}
		}
		pairs = append(pairs, keys...)
	} else {
		for range 3 {
			if o := w.on(db); !slices.Contains(objects, o) && !slices.ContainsFunc(w.held[db].things, func(t thing) bool { return t.object == o && t.part }) {
				objects = append(objects, o)
			}
		}
		if len(objects) == 0 {
			return
		}
		pairs = append(pairs, keysOf(objects)...)
	}
	for _, o := range objects {
		if l.taken["owner of "+o.String()] {
			return
		}
	}
	for _, o := range objects {
		l.take("owner of %s", o)
		l.fact(owner, "owner of %s", o)
	}
	l.task("owner", pairs...)
}
