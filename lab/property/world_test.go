//go:build lab

package property

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// A world is a server with random roles, databases and what is in them. It
// follows from its seed alone.
type world struct {
	*host
	seed   uint64
	number int // of the case
	random *rand.Rand
	life   []string // what was done by hand, for the report of a failure
	serial int
	roles  []string
	held   map[string]*held // by database
}

// A held is what a database holds, sorted.
type held struct {
	schemas []string
	things  []thing
}

// A thing is an object of a database.
type thing struct {
	object
	relkind string
	owner   string
	part    bool // the sequence of a column
}

func (h *host) newWorld(seed uint64) *world {
	w := &world{host: h, seed: seed, random: rand.New(rand.NewPCG(seed, uint64(h.major)))}
	w.clear()
	for range 6 {
		w.hand("postgres", w.createRole())
	}
	names := databaseNames()
	w.random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:2] {
		w.leave()
		w.must("postgres", "CREATE DATABASE "+ident(name))
	}
	w.look()
	for _, db := range w.databases() {
		for range 3 {
			w.hand(db, w.defaults(db))
		}
		for range 2 {
			w.hand(db, "CREATE SCHEMA "+ident(w.pick(schemaNames())))
		}
		w.look()
		for range 9 {
			w.create(db)
		}
		w.look()
		w.live(db, 25)
	}
	return w
}

// clear drops what the world before has left.
func (w *world) clear() {
	for _, r := range w.rows("postgres", "SELECT datname FROM pg_database WHERE datname !~ '^(template[01]|postgres)$'") {
		w.leave()
		w.must("postgres", "DROP DATABASE "+ident(r[0]))
	}
	roles := w.rows("postgres", "SELECT rolname FROM pg_roles WHERE oid >= 16384")
	for _, db := range []string{"postgres", "template1"} {
		for _, r := range roles {
			w.must(db, "DROP OWNED BY "+ident(r[0])+" CASCADE")
		}
	}
	for _, r := range roles {
		w.must("postgres", "DROP ROLE "+ident(r[0]))
	}
}

// one is true about once in so many times.
func (w *world) one(in int) bool             { return w.random.IntN(in) == 0 }
func (w *world) pick(list []string) string   { return list[w.random.IntN(len(list))] }
func (w *world) databases() []string         { return sorted(w.held) }
func (w *world) anybody() string             { return w.pick(w.roles) }
func (w *world) some(list []string) []string { return w.between(list, 1) }

// between returns some elements of a list, at least so many.
func (w *world) between(list []string, least int) []string {
	list = slices.Clone(list)
	w.random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), least+w.random.IntN(3))]
}

func (w *world) anybodyOrPublic() string {
	if w.one(5) {
		return ""
	}
	return w.anybody()
}

// look finds out what there is.
func (w *world) look() {
	w.roles, w.held = nil, map[string]*held{}
	for _, r := range w.rows("postgres", `SELECT rolname FROM pg_roles WHERE oid >= 16384 ORDER BY rolname COLLATE "C"`) {
		w.roles = append(w.roles, r[0])
	}
	for _, d := range w.rows("postgres", "SELECT datname FROM pg_database WHERE datname !~ '^(template[01]|postgres)$'") {
		w.held[d[0]] = w.lookInto(d[0])
	}
}

func (w *world) lookInto(db string) *held {
	x := &held{}
	for _, r := range w.rows(db, `SELECT nspname FROM pg_namespace n WHERE `+ours+` ORDER BY nspname COLLATE "C"`) {
		x.schemas = append(x.schemas, r[0])
	}
	for _, r := range w.rows(db, `SELECT * FROM (SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END k, nspname s, relname o, '' m, relkind::text, pg_get_userbyid(relowner),
			EXISTS (SELECT FROM pg_depend d WHERE objid = c.oid AND classid = 'pg_class'::regclass AND refobjsubid > 0 AND deptype IN ('a', 'i') AND relkind = 'S')
			FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'S') AND `+ours+`
		UNION ALL SELECT 'FUNCTION', nspname, proname, p.oid::regprocedure::text, prokind::text, pg_get_userbyid(proowner), false
			FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE `+ours+`) x ORDER BY k, s COLLATE "C", o COLLATE "C", m COLLATE "C"`) {
		t := thing{object: object{kind: r[0], database: db, schema: r[1], name: r[2]}, relkind: r[4], owner: r[5], part: r[6] == "t"}
		if t.kind == "FUNCTION" {
			t.more = arguments(r[3])
		}
		x.things = append(x.things, t)
	}
	return x
}

// of returns the things of some kinds in a database.
func (x *held) of(kinds ...string) []thing {
	var list []thing
	for _, t := range x.things {
		if slices.Contains(kinds, t.kind) {
			list = append(list, t)
		}
	}
	return list
}

// tables returns those that can have row-level security.
func (x *held) tables() []thing {
	return slices.DeleteFunc(x.of("TABLE"), func(t thing) bool { return t.relkind != "r" && t.relkind != "p" })
}

// hand does something by hand. The server may refuse it.
func (w *world) hand(db string, statements ...string) {
	for _, sql := range statements {
		if sql == "" {
			return
		}
		result := "ok"
		if err := w.exec(db, sql); err != nil {
			result = err.Error()
		} else {
			w.tried["by hand"]++
		}
		w.life = append(w.life, fmt.Sprintf("%s=# %s; -- %s", db, sql, result))
	}
}

func (w *world) attributes() string {
	sql := ""
	for _, word := range []string{"CREATEDB", "CREATEROLE", "LOGIN", "REPLICATION", "BYPASSRLS", "INHERIT"} {
		switch {
		case w.one(4):
			sql += " " + word
		case w.one(4):
			sql += " NO" + word
		}
	}
	if w.one(12) {
		sql += " SUPERUSER"
	}
	if w.one(4) {
		sql += fmt.Sprintf(" CONNECTION LIMIT %d", w.random.IntN(12)-1)
	}
	if w.one(4) {
		sql += " VALID UNTIL " + w.pick([]string{"'infinity'", "'2031-05-06 07:08:09.5+02'", "'2020-01-01'"})
	}
	if w.one(5) {
		sql += " PASSWORD " + w.pick([]string{"NULL", "'by hand'"})
	}
	return sql
}

func (w *world) createRole() string {
	return "CREATE ROLE " + ident(w.pick(roleNames())) + w.attributes()
}

// live lets so many things happen in a database. Nothing is dropped, and what is
// there keeps its name.
func (w *world) live(db string, n int) {
	for range n {
		kinds := []func(string) []string{
			w.grant, w.grant, w.grant, w.grantColumns, w.passOn, w.revoke,
			func(db string) []string { return []string{w.defaults(db)} },
			func(string) []string { return []string{"ALTER ROLE " + ident(w.anybody()) + w.attributes()} },
			func(string) []string { return []string{w.member()} },
			w.own, w.rls, w.policy, w.setting, w.comment,
		}
		w.hand(db, kinds[w.random.IntN(len(kinds))](db)...)
	}
}

// create makes an object, as its owner where that may.
func (w *world) create(db string) {
	w.serial++
	base := w.pick(objectNames())
	if w.serial > 10 && len(base) < 60 {
		base += fmt.Sprint(w.serial)
	}
	o, owner := ident(w.pick(w.held[db].schemas))+"."+ident(base), w.anybody()
	sql := w.pick([]string{
		"CREATE TABLE " + o + " " + columns, "CREATE TABLE " + o + " " + columns,
		"CREATE TABLE " + o + " " + strings.Replace(columns, "id int", "id serial", 1),
		"CREATE TABLE " + o + " " + strings.Replace(columns, "id int", "id int GENERATED BY DEFAULT AS IDENTITY", 1),
		"CREATE TABLE " + o + " " + columns + " PARTITION BY LIST (id)",
		"CREATE VIEW " + o + ` AS SELECT 1 AS id, 2.0 AS total, 'x' AS who, 3 AS "Odd Col"`,
		"CREATE MATERIALIZED VIEW " + o + ` AS SELECT 1 AS id, 2.0 AS total, 'x' AS who, 3 AS "Odd Col"`,
		"CREATE SEQUENCE " + o,
		"CREATE FUNCTION " + o + "(a int, b text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"CREATE FUNCTION " + o + "() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"CREATE PROCEDURE " + o + "(varchar[], timestamptz) LANGUAGE sql AS 'SELECT 1'",
		"CREATE AGGREGATE " + o + "(int) (sfunc = int4pl, stype = int)",
	})
	super := w.rows("postgres", "SELECT rolsuper FROM pg_roles WHERE rolname = $1", owner)[0][0] == "t"
	if !super {
		w.hand(db, "ALTER ROLE "+ident(owner)+" SUPERUSER")
	}
	w.hand(db, "SET ROLE "+ident(owner), sql, "RESET ROLE")
	if !super {
		w.hand(db, "ALTER ROLE "+ident(owner)+" NOSUPERUSER")
	}
}

// on returns some object of a database, or the database.
func (w *world) on(db string) object {
	x := w.held[db]
	switch n := w.random.IntN(8); {
	case n == 0:
		return object{kind: "DATABASE", database: db, name: db}
	case n == 1 || len(x.things) == 0:
		return object{kind: "SCHEMA", database: db, name: w.pick(x.schemas)}
	}
	return x.things[w.random.IntN(len(x.things))].object
}

func (w *world) words(kind string) []string { return w.some(privileges(kind, w.major)) }

func (w *world) grant(db string) []string {
	o, to := w.on(db), w.anybodyOrPublic()
	sql := "GRANT " + strings.Join(w.words(o.kind), ", ") + " ON " + o.keyword() + " " + o.qualified() + " TO " + grantee(to)
	if to != "" && w.one(4) {
		sql += " WITH GRANT OPTION"
	}
	return []string{sql}
}

func (w *world) grantColumns(db string) []string {
	tables := w.held[db].of("TABLE")
	if len(tables) == 0 {
		return nil
	}
	var words []string
	for _, p := range w.words("COLUMN") {
		words = append(words, p+" ("+identifiers(w.some(columnNames()))+")")
	}
	return []string{"GRANT " + strings.Join(words, ", ") + " ON " + tables[w.random.IntN(len(tables))].qualified() + " TO " + grantee(w.anybodyOrPublic())}
}

// passOn lets somebody with a grant option use it.
func (w *world) passOn(db string) []string {
	if !w.one(3) {
		return nil
	}
	list := w.rows(db, `SELECT pg_get_userbyid(grantee), format('%s ON %I.%I', privilege_type, nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace,
			aclexplode(relacl) WHERE is_grantable AND grantee <> relowner AND relkind <> 'S' AND `+ours+`
		UNION ALL SELECT pg_get_userbyid(grantee), format('%s ON SCHEMA %I', privilege_type, nspname) FROM pg_namespace n, aclexplode(nspacl) WHERE is_grantable AND grantee <> nspowner AND `+ours+`
		ORDER BY 1, 2`)
	if len(list) == 0 {
		return nil
	}
	r := list[w.random.IntN(len(list))]
	sql := "GRANT " + r[1] + " TO " + grantee(w.anybodyOrPublic())
	return []string{"SET ROLE " + ident(r[0]), sql, "RESET ROLE"}
}

func (w *world) revoke(db string) []string {
	o := w.on(db)
	return []string{"REVOKE " + strings.Join(w.words(o.kind), ", ") + " ON " + o.keyword() + " " + o.qualified() + " FROM " + grantee(w.anybodyOrPublic()) + " CASCADE"}
}

func (w *world) defaults(db string) string {
	kind := w.pick([]string{"TABLE", "SEQUENCE", "FUNCTION", "TYPE", "SCHEMA"})
	sql := "ALTER DEFAULT PRIVILEGES FOR ROLE " + ident(w.anybody())
	if kind != "SCHEMA" && w.one(2) {
		sql += " IN SCHEMA " + ident(w.pick(w.held[db].schemas))
	}
	words, to := strings.Join(w.words(kind), ", ")+" ON "+kind+"S", w.anybodyOrPublic()
	switch {
	case w.one(3):
		return sql + " REVOKE " + words + " FROM " + grantee(to)
	case to != "" && w.one(4):
		return sql + " GRANT " + words + " TO " + grantee(to) + " WITH GRANT OPTION"
	}
	return sql + " GRANT " + words + " TO " + grantee(to)
}

// before returns the roles that one can be a member of without a circle.
func (w *world) before(member string) []string {
	at := slices.Index(roleNames(), member)
	return slices.DeleteFunc(slices.Clone(w.roles), func(r string) bool { return slices.Index(roleNames(), r) >= at })
}

func (w *world) member() string {
	member := w.anybody()
	of := append(w.before(member), "pg_monitor")
	sql := " " + ident(w.pick(of))
	if w.one(4) {
		return "REVOKE" + sql + " FROM " + ident(member) + " CASCADE"
	}
	sql = "GRANT" + sql + " TO " + ident(member)
	switch {
	case w.major >= 16 && w.one(2):
		sql += " WITH " + w.pick([]string{"ADMIN TRUE", "INHERIT FALSE", "INHERIT TRUE", "SET FALSE", "INHERIT FALSE, SET FALSE, ADMIN TRUE"})
	case w.one(4):
		sql += " WITH ADMIN OPTION"
	}
	return sql
}

func (w *world) own(db string) []string {
	o := w.on(db)
	return []string{"ALTER " + o.keyword() + " " + o.qualified() + " OWNER TO " + ident(w.anybody())}
}

// table returns some table's name; "" where there is none.
func (w *world) table(db string) string {
	tables := w.held[db].tables()
	if len(tables) == 0 {
		return ""
	}
	return tables[w.random.IntN(len(tables))].qualified()
}

func (w *world) rls(db string) []string {
	t := w.table(db)
	if t == "" {
		return nil
	}
	return []string{"ALTER TABLE " + t + " " + w.pick([]string{"ENABLE", "DISABLE", "FORCE", "NO FORCE"}) + " ROW LEVEL SECURITY"}
}

func (w *world) policy(db string) []string {
	t, name := w.table(db), ident(w.pick(policyNames()))
	switch {
	case t == "":
		return nil
	case w.one(3):
		return []string{"ALTER POLICY " + name + " ON " + t + " TO " + grantee(w.anybodyOrPublic())}
	case w.one(3):
		return []string{"ALTER POLICY " + name + " ON " + t + " USING (" + w.pick(expressions()) + "\n)"}
	}
	sql := "CREATE POLICY " + name + " ON " + t
	if w.one(3) {
		sql += " AS RESTRICTIVE"
	}
	sql += " FOR " + w.pick([]string{"ALL", "SELECT", "UPDATE", "DELETE"}) + " TO " + grantee(w.anybodyOrPublic()) + " USING (" + w.pick(expressions()) + "\n)"
	return []string{sql}
}

// settings are parameters with values that do no harm to anybody's session.
func settings() [][2]string {
	return [][2]string{
		{"work_mem", "64MB"}, {"work_mem", "65536"}, {"statement_timeout", "5min"}, {"search_path", `app, "Odd Schema", public`}, {"search_path", "public"},
		{"lock_timeout", "10s"}, {"quote_all_identifiers", "on"}, {"DateStyle", "SQL, DMY"}, {"TimeZone", "Europe/Vienna"}, {"application_name", "it's \"odd\""},
		{"app.tenant", "7"}, {"random_page_cost", "1.10"}, {"log_statement", "ddl"},
	}
}

func (w *world) setting(db string) []string {
	s := settings()[w.random.IntN(len(settings()))]
	target := w.pick([]string{"ROLE " + ident(w.anybody()), "ROLE " + ident(w.anybody()) + " IN DATABASE " + ident(db), "DATABASE " + ident(db)})
	value := literal(s[1])
	if s[0] == "search_path" {
		value = s[1]
	}
	return []string{"ALTER " + target + " SET " + s[0] + " TO " + value}
}

func (w *world) comment(db string) []string {
	on := w.pick([]string{"ROLE " + ident(w.anybody()), "DATABASE " + ident(db), "SCHEMA " + ident(w.pick(w.held[db].schemas))})
	return []string{"COMMENT ON " + on + " IS " + w.pick([]string{"NULL", `'it''s "by hand"'`})}
}

func identifiers(names []string) string {
	var list []string
	for _, n := range names {
		list = append(list, ident(n))
	}
	return strings.Join(list, ", ")
}
