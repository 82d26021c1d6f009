package tasks

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
)

// catalogWorld is a fresh cluster with a role app and a database appdb.
func catalogWorld() world {
	w := newWorld()
	c := &catalog.Cluster{
		Version: 150018, Bootstrap: "postgres",
		Roles:     map[string]*catalog.Role{"postgres": {Name: "postgres", Superuser: true, ConnLimit: -1}, "app": {Name: "app", ConnLimit: -1, Inherit: true}},
		Databases: map[string]*catalog.Database{},
	}
	for _, name := range []string{"postgres", "appdb"} {
		c.Databases[name] = &catalog.Database{Name: name, Owner: "postgres", AllowConn: true, ConnLimit: -1}
	}
	w[facts.Cluster{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.ClusterInfo{Cluster: c}}
	w.holds("appdb", emptyContents())
	w.holds("postgres", emptyContents())
	return w
}

func emptyContents() *catalog.Contents {
	return &catalog.Contents{
		Schemas:   map[string]*catalog.Schema{"public": {Name: "public", Owner: "pg_database_owner"}},
		Relations: map[catalog.Name]*catalog.Relation{}, Functions: map[catalog.Signature]*catalog.Function{},
		Extensions: map[string]*catalog.Extension{},
	}
}

func (w world) holds(database string, held *catalog.Contents) {
	w[facts.Contents{Port: 5432, SocketDir: socketDir, Database: database}] = facts.Answer{Value: facts.ContentsInfo{Contents: held}}
}

func (w world) cluster() *catalog.Cluster {
	return w[facts.Cluster{Port: 5432, SocketDir: socketDir}].Value.(facts.ClusterInfo).Cluster
}

// relations returns contents with relations in them.
func relations(list ...catalog.Relation) *catalog.Contents {
	held := emptyContents()
	for _, r := range list {
		held.Relations[r.Name] = &r
	}
	return held
}

func public(kind byte, name, owner string) catalog.Relation {
	return catalog.Relation{Name: catalog.Name{Schema: "public", Name: name}, Kind: kind, Owner: owner}
}

func psql(keys string) string {
	return "\n[[task]]\nname = \"script\"\nkind = \"psql\"\ndatabase = \"appdb\"\nsql = \"CREATE TABLE t (id serial)\"\n" + keys + "\n"
}

const grantOnTables = `
[[task]]
name = "grant"
kind = "grant"
database = "appdb"
to = "app"
privileges = ["SELECT"]
all_tables_in = ["public"]
`

func TestPsqlMistakes(t *testing.T) {
	for keys, want := range map[string]string{
		"": "say in one way when the script is due",
		"always = true\ncreates = [\"table public.t\"]":          "say in one way when the script is due",
		"unless = \"SELECT true\"\ncreates = \"table public.t\"": "say in one way when the script is due",
		"rehearse = true":              "say in one way when the script is due",
		"creates = \"table public.t\"": "",
		"creates = \"TABLE public.\\\"T owner x\\\" OWNER App x\"":   "",
		"creates = [\"table public.t\", \"table t\"]":                `fleet.toml:13:30: creates: t does not say its schema`,
		"creates = \"index public.i\"":                               `"index public.i": want "table SCHEMA.NAME"`,
		"creates = \"tables public.i\"":                              `want "table SCHEMA.NAME"`,
		"creates = \"table public.t owner \"":                        `is no name`,
		"creates = \"view public.v\"\nas = \"\"":                     "as: a name must not be empty",
		"creates = \"view public.v\"\nas = \"current_user\"":         "as: CURRENT_USER would be the role that pgfleet runs as",
		"always = true\nrehearse = true\nsingle_transaction = false": "rehearse: it runs in one transaction, and single_transaction is false",
	} {
		if got := mistakes(t, psql(keys)); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", keys, got, want)
		}
	}
	secret := "\n[[task]]\nname = \"x\"\nkind = \"psql\"\nsql = \"SELECT '{{ secret \\\"env:X\\\" }}'\"\nalways = true\nrehearse = true\n"
	if got := mistakes(t, secret); !strings.Contains(got, "rehearse: a script with a secret is not rehearsed") {
		t.Errorf("with a secret: %q", got)
	}
}

func TestPsqlCreates(t *testing.T) {
	all := `creates = ["table public.t", "sequence public.t_id_seq", "view public.v owner postgres", "materialized view public.m"]
as = "app"`
	made := []catalog.Relation{public('r', "t", "app"), public('S', "t_id_seq", "app"), public('v', "v", "postgres"), public('m', "m", "app")}
	for name, c := range map[string]struct {
		keys string
		held *catalog.Contents
		want []catalog.Relation // that are missing
		err  string
	}{
		"all":               {keys: all, held: emptyContents(), want: made},
		"one":               {keys: all, held: relations(made[0], made[1], made[3]), want: made[2:3]},
		"none":              {keys: all, held: relations(made...)},
		"a partitioned one": {keys: `creates = "table public.t"`, held: relations(public('p', "t", "app"))},
		"by the superuser":  {keys: `creates = "table public.t"`, held: emptyContents(), want: []catalog.Relation{public('r', "t", "postgres")}},
		"something else":    {keys: `creates = "table public.t"`, held: relations(public('v', "t", "app")), err: "fleet.toml:13:11: creates: public.t is there and is a view"},
		"no role":           {keys: `creates = "table public.t owner apq"`, held: emptyContents(), err: `fleet.toml:13:11: there is no role "apq" (did you mean "app"?)`},
		"nobody to be":      {keys: "creates = \"table public.t owner app\"\nas = \"nobody\"", held: emptyContents(), err: `there is no role "nobody"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := catalogWorld()
			w.holds("appdb", c.held)
			p, err := plan(t, w, psql(c.keys))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(c.want) == 0 {
				if len(p.Steps) > 0 {
					t.Errorf("due: %v", intents(p))
				}
				return
			}
			if d := cmp.Diff(c.want, p.Steps[0].Changes[0].Action.(RunScript).Creates); d != "" {
				t.Error(d)
			}
		})
	}
}

// What the script makes is there for the tasks after it, with what default
// privileges give on it.
func TestPsqlCreatesIsForeseen(t *testing.T) {
	w := catalogWorld()
	tasks := psql("creates = [\"table public.t\", \"view public.v\"]") + grantOnTables
	p := mustPlan(t, w, tasks)
	want := [][]string{
		{"run sql in database appdb (public.t is missing)"},
		{"GRANT SELECT ON TABLE public.t, public.v TO app"},
	}
	if d := cmp.Diff(want, intents(p)); d != "" {
		t.Error(d)
	}
	if got := unknown(p); got != "" {
		t.Errorf("unknown %q", got)
	}
	// In a database that is not there yet, too.
	w = catalogWorld()
	delete(w.cluster().Databases, "appdb")
	w[facts.Contents{Port: 5432, SocketDir: socketDir, Database: "appdb"}] = facts.Answer{Value: facts.ContentsInfo{Missing: true}}
	if _, err := plan(t, w, tasks); err == nil || !strings.Contains(err.Error(), `there is no database "appdb"`) {
		t.Errorf("no database: %v", err)
	}
}

// A script whose doing is not known is followed by what is planned later.
func TestPsqlMakesTheRestUncertain(t *testing.T) {
	w := catalogWorld()
	q := facts.Query{Port: 5432, SocketDir: socketDir, Database: "appdb", SQL: "SELECT false"}
	w[q] = facts.Answer{Value: facts.QueryResult{}}
	p := mustPlan(t, w, psql(`unless = "SELECT false"`)+strings.Replace(psql("creates = \"table public.t\""), "script", "second", 1)+grantOnTables)
	want := [][]string{
		{"run sql in database appdb (unless says so)"},
		{"planned and carried out once sql has run in database appdb"},
		{"planned and carried out once sql has run in database appdb"},
	}
	if d := cmp.Diff(want, intents(p)); d != "" {
		t.Error(d)
	}
}

func TestPsqlWhereTheServerIsDown(t *testing.T) {
	w := catalogWorld()
	down := facts.Server{Problem: "connection refused"}
	w[facts.Postgres{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: down}
	w[facts.Cluster{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.ClusterInfo{Problem: down.Problem}}
	w[facts.Contents{Port: 5432, SocketDir: socketDir, Database: "appdb"}] = facts.Answer{Value: facts.ContentsInfo{Problem: down.Problem}}
	p := mustPlan(t, w, service+psql("creates = \"table public.t\"\nrehearse = true"))
	if got, want := unknown(p), "what is due is known once the server answers (connection refused)"; got != want {
		t.Errorf("unknown %q", got)
	}
}

func rehearseRead(sql string) facts.Rehearse {
	return facts.Rehearse{Port: 5432, SocketDir: socketDir, Database: "appdb", SQL: sql, Timeout: 600_000}
}

// Only a script that is due on a primary is rehearsed.
func TestPsqlAsksForARehearsal(t *testing.T) {
	keys := "creates = \"table public.t\"\nrehearse = true\nas = \"app\""
	want := rehearseRead("SET ROLE app; CREATE TABLE t (id serial)")
	for name, c := range map[string]struct {
		keys  string
		world func(world)
		asks  bool
	}{
		"due":           {keys: keys, asks: true},
		"not asked for": {keys: strings.Replace(keys, "rehearse = true\n", "", 1)},
		"not due":       {keys: keys, world: func(w world) { w.holds("appdb", relations(public('r', "t", "app"))) }},
		"on a standby":  {keys: keys, world: func(w world) { w.server(func(s *facts.Server) { s.InRecovery = true }) }},
		"nothing is known": {keys: keys, world: func(w world) {
			maps.DeleteFunc(w, func(facts.Read, facts.Answer) bool { return true })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := catalogWorld()
			if c.world != nil {
				c.world(w)
			}
			in, bound := load(t, psql(c.keys))
			if got := slices.Contains(bound[0].Task.Reads(in, NewState(in, w, nil)), facts.Read(want)); got != c.asks {
				t.Errorf("asked for: %v", got)
			}
		})
	}
}

func TestPsqlRehearsed(t *testing.T) {
	inside := func(held *catalog.Contents) facts.Rehearsed {
		c := catalogWorld().cluster().Clone()
		c.Contents = map[string]*catalog.Contents{"appdb": held}
		return facts.Rehearsed{Cluster: c}
	}
	role := "\n[[task]]\nname = \"role\"\nkind = \"role\"\nrole = \"other\"\n"
	touched := "rehearsed on the server, in a transaction that was rolled back; what it took from sequences stays taken"
	for name, c := range map[string]struct {
		before, keys       string
		answer             facts.Rehearsed
		unasked            bool
		effects            []string
		err, unknown, warn string
	}{
		"it succeeds": {answer: inside(relations(public('r', "t", "postgres"), public('S', "t_id_seq", "postgres"))), warn: touched,
			effects: []string{"sequence public.t_id_seq is made, owner postgres", "table public.t is made, owner postgres"}},
		"it fails":                 {answer: facts.Rehearsed{Problem: "line 1: ERROR:  type \"x\" does not exist\nLINE 1: x"}, err: "sql: rehearsed on the server, in a transaction that was rolled back, it fails:\nscript: line 1: ERROR:  type \"x\" does not exist\nscript: LINE 1: x"},
		"it fails after others":    {before: role, answer: facts.Rehearsed{Problem: "line 1: ERROR:  x"}, warn: touched, unknown: "what the script does: rehearsed on the server as it is before the tasks ahead of it, it fails: line 1: ERROR:  x"},
		"outside":                  {answer: facts.Rehearsed{Outside: "line 3: VACUUM"}, err: "fleet.toml:14:12: rehearse: no transaction takes back what sql does (line 3: VACUUM); take it out"},
		"no database":              {answer: facts.Rehearsed{Missing: true}, unknown: "what the script does: database appdb is not there yet, so it was not rehearsed"},
		"it was not due":           {unasked: true, unknown: "what the script does: it is due only after the tasks before it, so it was not rehearsed"},
		"it makes something else":  {answer: inside(relations(public('r', "u", "postgres"))), warn: touched, err: "fleet.toml:13:11: creates: the script does not make public.t"},
		"it makes another's":       {answer: inside(relations(public('r', "t", "postgres"))), keys: "as = \"app\"\n", warn: touched, err: "creates: public.t will be owned by postgres and not by app"},
		"it succeeds after others": {before: role, answer: inside(relations(public('r', "t", "postgres"))), warn: touched, effects: []string{"table public.t is made, owner postgres"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := catalogWorld()
			sql := "CREATE TABLE t (id serial)"
			if c.keys != "" {
				sql = "SET ROLE app; " + sql
			}
			if !c.unasked {
				w[rehearseRead(sql)] = facts.Answer{Value: c.answer}
			}
			p, err := plan(t, w, c.before+psql("creates = \"table public.t\"\nrehearse = true\n"+c.keys)+grantOnTables)
			if c.err != "" {
				if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "script: script:", "script:"), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if unknown(p) != c.unknown || warnings(p) != c.warn {
				t.Errorf("unknown %q, warnings %q", unknown(p), warnings(p))
			}
			at := slices.IndexFunc(p.Changes(), func(c Change) bool { _, ok := c.Action.(RunScript); return ok })
			script := p.Changes()[at]
			if d := cmp.Diff(c.effects, script.Effects); d != "" {
				t.Error(d)
			}
			// What was found out of a server that is to change is not what comes after it.
			if got, want := script.Action.(RunScript).Rehearsed != nil, len(c.effects) > 0 && c.before == ""; got != want {
				t.Errorf("taken over: %v", got)
			}
			if got := fmt.Sprint(intents(p)); !strings.Contains(got, "GRANT SELECT ON TABLE public.t TO app") {
				t.Errorf("planned %v", got)
			}
		})
	}
}

// After a script that was rehearsed the database is known as it was inside, and
// which extensions can be made is known still.
func TestPsqlRehearsedIsForeseen(t *testing.T) {
	w := catalogWorld()
	w[facts.Available{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.AvailableInfo{Versions: map[string][]string{"pgcrypto": {"1.3"}}}}
	w[facts.Query{Port: 5432, SocketDir: socketDir, Database: "appdb", SQL: "SELECT false"}] = facts.Answer{Value: facts.QueryResult{}}
	c := w.cluster().Clone()
	c.Contents = map[string]*catalog.Contents{"appdb": relations(public('r', "new", "app"), public('v', "view", "postgres"))}
	w[rehearseRead("CREATE TABLE t (id serial)")] = facts.Answer{Value: facts.Rehearsed{Cluster: c}}
	p := mustPlan(t, w, psql("unless = \"SELECT false\"\nrehearse = true")+grantOnTables+"\n[[task]]\nname = \"e\"\nkind = \"extension\"\ndatabase = \"appdb\"\nextension = \"pgcrypto\"\n")
	want := [][]string{
		{"run sql in database appdb (unless says so)"},
		{"GRANT SELECT ON TABLE public.view TO app"},
		{"CREATE EXTENSION pgcrypto"},
	}
	if d := cmp.Diff(want, intents(p)); d != "" {
		t.Error(d)
	}
}

// What a script gives on its database is known as well.
func TestPsqlRehearsedGrantsOnItsDatabase(t *testing.T) {
	w := catalogWorld()
	w[facts.Query{Port: 5432, SocketDir: socketDir, Database: "appdb", SQL: "SELECT false"}] = facts.Answer{Value: facts.QueryResult{}}
	c := w.cluster().Clone()
	c.Contents = map[string]*catalog.Contents{"appdb": emptyContents()}
	(catalog.Grant{On: []catalog.Object{{Kind: catalog.DatabaseKind, Name: "appdb"}}, To: "app", Privileges: catalog.Connect}).Apply(c, "appdb")
	w[rehearseRead("CREATE TABLE t (id serial)")] = facts.Answer{Value: facts.Rehearsed{Cluster: c}}
	p := mustPlan(t, w, psql("unless = \"SELECT false\"\nrehearse = true")+
		"\n[[task]]\nname = \"grant\"\nkind = \"grant\"\nto = \"app\"\nprivileges = [\"CONNECT\"]\ndatabases = [\"appdb\"]\n")
	if d := cmp.Diff([][]string{{"run sql in database appdb (unless says so)"}}, intents(p)); d != "" {
		t.Error(d)
	}
}
