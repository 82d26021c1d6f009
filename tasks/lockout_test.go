package tasks

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// lockouts lists a plan's lock-outs, a line each.
func lockouts(p *Plan) string {
	var list []string
	for _, l := range p.Lockouts {
		list = append(list, l.Who+": "+l.String())
	}
	return strings.Join(list, "\n")
}

func session(user, database, from string, tls bool) facts.Session {
	s := facts.Session{User: user, Database: database, TLS: tls, Count: 1}
	if from != "" {
		s.Addr = netip.MustParseAddr(from)
	}
	return s
}

// cluster15 is what a server's catalogs hold: the role app is a member of apps
// and may connect to the database app, as every role may.
func cluster15() *catalog.Cluster {
	role := func(name string) *catalog.Role {
		return &catalog.Role{Name: name, Login: true, Inherit: true, ConnLimit: -1}
	}
	c := &catalog.Cluster{
		Version:   150018,
		Roles:     map[string]*catalog.Role{"postgres": role("postgres"), "app": role("app"), "apps": role("apps"), "other": role("other")},
		Databases: map[string]*catalog.Database{"app": {Name: "app", Owner: "postgres", AllowConn: true, ConnLimit: -1}, "postgres": {Name: "postgres", Owner: "postgres", AllowConn: true, ConnLimit: -1}},
		Members:   []catalog.Membership{{Role: "apps", Member: "app", Grantor: "postgres", Inherit: true, Set: true}},
		Contents:  map[string]*catalog.Contents{},
	}
	c.Roles["postgres"].Superuser = true
	return c
}

func (w world) catalogs(c *catalog.Cluster) {
	w[facts.Cluster{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.ClusterInfo{Cluster: c}}
}

func (w world) ssl(value string) {
	w.setting("ssl", func(x *postgres.Setting) { x.Setting, x.Source = value, "configuration file" })
	w.write(WriteFile{Path: conf + "/conf.d/00-ssl.conf", Content: "ssl = " + value + "\n", Mode: 0o644})
}

const ours = `"local all postgres peer", `

// Who is connected now, under rules of every sort.
func TestLockoutsOfSessions(t *testing.T) {
	all := "local all all peer\nhost all all all md5\n"
	for name, c := range map[string]struct {
		now, rules string
		session    facts.Session
		want       string // of the lock-out; none where empty
		warned     string
	}{
		"another network":     {rules: `"host app app 10.2.0.0/16 md5"`, session: session("app", "app", "10.1.0.1", true), want: `app@10.1.0.1: app in app from 10.1.0.1 (1 session now): "host all all 0.0.0.0/0 reject" matches first`},
		"its own network":     {rules: `"host app app 10.1.0.0/16 md5"`, session: session("app", "app", "10.1.0.1", true)},
		"IPv6":                {rules: `"host app app 0.0.0.0/0 md5"`, session: session("app", "app", "2001:db8::1", true), want: `app@2001:db8::1: app in app from 2001:db8::1 (1 session now): "host all all ::/0 reject" matches first`},
		"another database":    {rules: `"host other app all md5"`, session: session("app", "app", "10.1.0.1", true), want: "reject"},
		"a reject rule ahead": {rules: `"host all app all reject", "host all all all md5"`, session: session("app", "app", "10.1.0.1", true), want: `"host all app all reject" matches first`},
		"a reject rule after": {rules: `"host app app all md5", "host all app all reject"`, session: session("app", "app", "10.1.0.1", true)},
		"hostssl with TLS":    {rules: `"hostssl app app all md5"`, session: session("app", "app", "10.1.0.1", true)},
		"hostssl without":     {rules: `"hostssl app app all md5"`, session: session("app", "app", "10.1.0.1", false), want: `it connects without TLS, and only with it "hostssl app app all md5" matches first`},
		"hostnossl with TLS":  {rules: `"hostnossl app app all md5"`, session: session("app", "app", "10.1.0.1", true), want: "reject"},
		"the socket":          {rules: `"host app app all md5"`, session: session("app", "app", "", false), want: `app@local: app in app from the local socket (1 session now): no rule matches`},
		"its group":           {rules: `"host app +apps all md5"`, session: session("app", "app", "10.1.0.1", true)},
		"another's group":     {rules: `"host app +apps all md5"`, session: session("other", "app", "10.1.0.1", true), want: "other@10.1.0.1"},
		"samerole":            {rules: `"host samerole all all md5"`, session: session("app", "apps", "10.1.0.1", true)},
		"a host name":         {rules: `"host app app app.example.org md5"`, session: session("app", "app", "10.1.0.1", true), warned: `whether app in app from 10.1.0.1 could connect again cannot be told: line 1: the rule "host app app app.example.org md5" cannot be decided here`},
		"another method":      {rules: `"hostssl app app all cert"`, session: session("app", "app", "10.1.0.1", true), warned: "would need a client certificate"},
		"rejected already":    {now: "local all all peer\nhost all all all reject\n", rules: `"host app app 10.2.0.0/16 md5"`, session: session("app", "app", "10.1.0.1", true), warned: "app in app from 10.1.0.1 is not let in by the rules in force"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.ssl("on")
			w.hba(all + c.now)
			if c.now != "" {
				w.hba(c.now)
			}
			w.catalogs(cluster15())
			w.server(func(s *facts.Server) { s.Sessions = []facts.Session{c.session} })
			p := mustPlan(t, w, hba(ours+c.rules))
			if got := lockouts(p); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("lock-outs: %s\nwant: %s", got, c.want)
			}
			if got := warnings(p); c.warned == "" && got != "" || !strings.Contains(got, c.warned) {
				t.Errorf("warnings: %s\nwant: %s", got, c.warned)
			}
		})
	}
}

// Rules about members of a role are left open where memberships are not known.
func TestMembershipsThatAreNotKnown(t *testing.T) {
	w := newWorld()
	w.hba("local all all peer\nhost all all all md5\n")
	w[facts.Cluster{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.ClusterInfo{Problem: "no answer"}}
	w.server(func(s *facts.Server) { s.Sessions = []facts.Session{session("app", "app", "10.1.0.1", true)} })
	p := mustPlan(t, w, hba(ours+`"host app +apps all md5"`))
	if got := warnings(p); len(p.Lockouts) > 0 || !strings.Contains(got, `whether "app" is a member of "apps" is not known`) {
		t.Errorf("lock-outs %v, warnings %s", p.Lockouts, got)
	}
}

// Logical replication is a connection to its database, and no standby.
func TestLogicalReplication(t *testing.T) {
	for rules, want := range map[string]string{
		`"host app subscriber all md5"`:         "",
		`"host replication subscriber all md5"`: `subscriber@10.1.0.1: subscriber in app from 10.1.0.1 (1 session now): "host all all 0.0.0.0/0 reject" matches first`,
	} {
		w := newWorld()
		w.hba("local all all peer\nhost all all all md5\n")
		w.server(func(s *facts.Server) {
			s.Standbys = []facts.Standby{{Name: "sub", User: "subscriber", Database: "app", Addr: netip.MustParseAddr("10.1.0.1"), TLS: true}}
		})
		if got := lockouts(mustPlan(t, w, hba(ours+rules))); got != want {
			t.Errorf("%s: %s\nwant %s", rules, got, want)
		}
	}
}

func declaredClient(keys string) string { return "\n[[client]]\nname = \"shop\"\n" + keys + "\n" }

func TestLockoutsOfDeclaredClients(t *testing.T) {
	const app = "user = \"app\"\nfrom = \"10.1.0.0/24\"\n"
	for name, c := range map[string]struct {
		client, rules, ssl string
		want, warned       string
	}{
		"let in":              {client: app, rules: `"hostssl app app 10.1.0.0/16 md5"`},
		"never let in before": {client: "user = \"other\"\nfrom = \"10.1.0.0/24\"\n", rules: `"hostssl app app all md5"`, want: `shop: client shop (other in other from 10.1.0.0/24): "host all all 0.0.0.0/0 reject" matches first`},
		"half of its network": {client: app, rules: `"hostssl app app 10.1.0.0/25 md5"`, want: `client shop (app in app from 10.1.0.128/25): "host all all 0.0.0.0/0 reject" matches first`},
		"one address of it":   {client: app, rules: `"host all all 10.1.0.77/32 reject", "hostssl app app 10.1.0.0/16 md5"`, want: `client shop (app in app from 10.1.0.77): "host all all 10.1.0.77/32 reject" matches first`},
		"IPv6": {client: "user = \"app\"\nfrom = \"2001:db8::/64\"\n", rules: `"hostssl app app 2001:db8::/65 md5"`,
			want: `client shop (app in app from 2001:db8:0:0:8000::/65): "host all all ::/0 reject" matches first`},
		"two reasons": {client: app, rules: `"host all all 10.1.0.0/26 reject", "hostssl app app 10.1.0.0/25 md5"`,
			want: "client shop (app in app from 10.1.0.0/26): \"host all all 10.1.0.0/26 reject\" matches first\nshop: client shop (app in app from 10.1.0.128/25)"},
		"its database":                  {client: app + "database = [\"app\", \"stock\"]\n", rules: `"hostssl app app all md5"`, want: "client shop (app in stock from 10.1.0.0/24)"},
		"hostssl without TLS":           {client: app + "tls = false\n", rules: `"hostssl app app all md5"`, want: `matches first, and with TLS "hostssl app app all md5" matches first`},
		"hostnossl with TLS":            {client: app, rules: `"hostnossl app app all md5"`, want: `and without TLS "hostnossl app app all md5" matches first`},
		"TLS that is not there":         {client: app, rules: `"host app app all md5"`, ssl: "off", want: "it connects with TLS, and ssl is off; say tls = false"},
		"no TLS, none needed":           {client: app + "tls = false\n", rules: `"host app app all md5"`, ssl: "off"},
		"the socket":                    {client: "user = \"app\"\nfrom = \"local\"\n", rules: `"host app app all md5"`, want: "client shop (app in app from the local socket): no rule matches"},
		"replication":                   {client: app + "replication = true\n", rules: `"hostssl replication app all md5"`},
		"replication, by all":           {client: app + "replication = true\n", rules: `"hostssl all app all md5"`, want: `client shop (app in replication from 10.1.0.0/24): "host replication all 0.0.0.0/0 reject" matches first`},
		"its group":                     {client: app, rules: `"hostssl app +apps all md5"`},
		"another's group":               {client: "user = \"other\"\ndatabase = \"app\"\nfrom = \"10.1.0.0/24\"\n", rules: `"hostssl app +apps all md5"`, want: "client shop (other in app"},
		"a host name":                   {client: app, rules: `"host app app app.example.org md5"`, warned: "whether client shop (app in app from 10.1.0.0/24) could connect cannot be told"},
		"another instance":              {client: "user = \"other\"\nfrom = \"10.1.0.0/24\"\nlimit = \"!pg01\"\n", rules: `"hostssl app app all md5"`},
		"a primary's, of the primary":   {client: "user = \"other\"\nfrom = \"10.1.0.0/24\"\nlimit = \"role=primary\"\n", rules: `"hostssl app app all md5"`, want: "client shop (other"},
		"a standby's, on the primary":   {client: "user = \"other\"\nfrom = \"10.1.0.0/24\"\nlimit = \"role=standby\"\n", rules: `"hostssl app app all md5"`},
		"a template":                    {client: "user = \"{{ .Vars.who }}\"\nfrom = [\"{{ .Vars.net }}\"]\n[vars]\nwho = \"app\"\nnet = \"10.9.0.0/24\"\n", rules: `"hostssl app app 10.1.0.0/16 md5"`, want: "client shop (app in app from 10.9.0.0/24)"},
		"a member by a task to come":    {client: "user = \"other\"\ndatabase = \"app\"\nfrom = \"10.1.0.0/24\"\n", rules: `"hostssl app +apps all md5"]` + "\n[[task]]\nname = \"other\"\nkind = \"role\"\nrole = \"other\"\nlogin = true\nmember_of = [\"apps\"", want: ""},
		"a negative network, many bits": {client: "user = \"app\"\nfrom = \"0.0.0.0/0\"\n", rules: `"host all all 10.1.2.3/32 reject", "hostssl app app 0.0.0.0/0 md5"`, want: "client shop (app in app from 10.1.2.3)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.ssl("on")
			if c.ssl != "" {
				w.ssl(c.ssl)
			}
			w.hba("local all all peer\nhostssl app app all md5\n")
			w.catalogs(cluster15())
			tasks := hba(ours+c.rules) + declaredClient(c.client)
			p := mustPlan(t, w, tasks)
			if got := lockouts(p); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("lock-outs: %s\nwant: %s", got, c.want)
			}
			if got := warnings(p); c.warned == "" && got != "" || !strings.Contains(got, c.warned) {
				t.Errorf("warnings: %s\nwant: %s", got, c.warned)
			}
			// What is in force is warned of.
			w.carryOut(p)
			p = mustPlan(t, w, tasks)
			if got := lockouts(p); got != "" {
				t.Errorf("in force, lock-outs: %s", got)
			}
			if got := warnings(p); c.want != "" != strings.Contains(got, "is not let in by the rules in force") {
				t.Errorf("in force, warnings: %s", got)
			}
		})
	}
}

// Of a server that does not run nobody knows whether it will have TLS.
func TestDeclaredClientsOfAServerThatIsDown(t *testing.T) {
	w := newWorld()
	w[facts.Postgres{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.Server{Problem: "no such file"}}
	p := mustPlan(t, w, hba(ours+`"hostssl app app all md5"`)+declaredClient("user = [\"app\", \"other\"]\ndatabase = \"app\"\nfrom = \"10.1.0.0/24\"\n"))
	if got, want := lockouts(p), `shop: client shop (other in app from 10.1.0.0/24): "host all all 0.0.0.0/0 reject" matches first`; got != want {
		t.Errorf("lock-outs: %s\nwant: %s", got, want)
	}
}

// A session is named after the client that it belongs to.
func TestLockoutNames(t *testing.T) {
	w := newWorld()
	w.hba("local all all peer\nhost all all all md5\n")
	w.server(func(s *facts.Server) {
		s.Sessions = []facts.Session{session("app", "app", "10.1.0.1", true), session("app", "app", "10.1.0.1", false), session("all", "app", "2001:db8::1", true), session("standby:x", "app", "", true)}
	})
	p := mustPlan(t, w, hba(`"local all postgres peer"`)+declaredClient("user = \"app\"\nfrom = \"10.1.0.0/24\"\ntls = false\n"))
	if len(p.Lockouts) != 4 {
		t.Fatal(lockouts(p))
	}
	for i, c := range []struct {
		who     string
		yes, no []string
	}{
		{"shop", []string{"shop", "app", "app@10.1.0.1", "all"}, []string{"app@10.1.0.2", "ap", "", "pgfleet"}},
		{"all@2001:db8::1", []string{"all@2001:db8::1", "all@2001:0db8::0:1", "all"}, []string{"all@local"}},
		{"standby:x@local", []string{"standby:x@local", "all"}, []string{"standby:x"}},
		{"shop", []string{"shop", "all"}, []string{"app"}},
	} {
		l := p.Lockouts[i]
		if l.Who != c.who {
			t.Errorf("%d is %s, want %s", i, l.Who, c.who)
		}
		for _, name := range c.yes {
			if !l.Named(name) {
				t.Errorf("%s is not named by %q", l.Who, name)
			}
		}
		for _, name := range c.no {
			if l.Named(name) {
				t.Errorf("%s is named by %q", l.Who, name)
			}
		}
	}
	if got := p.Lockouts[0].Sessions; got != 2 {
		t.Errorf("%d sessions, want 2", got)
	}
}

// What the catalogs refuse counts as it is in the end, and only if it was not so
// before.
func TestLockoutsByTheCatalogs(t *testing.T) {
	role := func(name, keys string) string {
		return "\n[[task]]\nname = \"role " + name + "\"\nkind = \"role\"\nrole = \"" + name + "\"\n" + keys + "\n"
	}
	connect := func(name, to, state string) string {
		return "\n[[task]]\nname = \"" + name + "\"\nkind = \"grant\"\ndatabase = \"app\"\nto = \"" + to + "\"\nprivileges = [\"CONNECT\"]\ndatabases = [\"app\"]\nstate = \"" + state + "\"\n"
	}
	for name, c := range map[string]struct {
		tasks, want, task, hba string
		change                 func(*catalog.Cluster)
		sessions               int
	}{
		"no login":                  {tasks: role("app", ""), want: "app@10.1.0.1: app in app from 10.1.0.1 (1 session now): the role becomes NOLOGIN", task: "role app"},
		"login":                     {tasks: role("app", "login = true")},
		"already without":           {tasks: role("app", ""), change: func(c *catalog.Cluster) { c.Roles["app"].Login = false }},
		"a limit below":             {tasks: role("app", "login = true\nconnection_limit = 2"), sessions: 3, want: "the role's connection limit is 2, and 3 sessions are there", task: "role app"},
		"a limit":                   {tasks: role("app", "login = true\nconnection_limit = 3"), sessions: 3},
		"a password that has ended": {tasks: role("app", "login = true\nvalid_until = 2025-12-31T00:00:00Z"), want: "its password ends: VALID UNTIL 2025-12-31T00:00:00Z", task: "role app"},
		"a password that will end":  {tasks: role("app", "login = true\nvalid_until = 2027-01-01T00:00:00Z")},
		"CONNECT for nobody":        {tasks: connect("nobody", "PUBLIC", "absent") + role("other", "login = true"), want: "the role loses CONNECT on the database", task: "nobody"},
		"CONNECT for it alone":      {tasks: connect("nobody", "PUBLIC", "absent") + connect("app", "app", "present")},
		"CONNECT for its group":     {tasks: connect("nobody", "PUBLIC", "absent") + connect("apps", "apps", "present")},
		"a membership":              {hba: "local all all peer\nhost all +apps all md5\n", tasks: role("app", "login = true\nmember_of = []"), want: `its memberships change: it gets in by "host all +apps all md5" now, and then no rule matches`, task: "role app"},
		"a membership that matters": {hba: "local all all peer\nhost all +other all reject\nhost all all all md5\n", tasks: role("app", "login = true\nmember_of = [\"other\"]"), want: `it gets in by "host all all all md5" now, and then "host all +other all reject" matches first`, task: "role app"},
		"pgfleet's own role":        {tasks: role("postgres", "login = false"), want: "pgfleet: pgfleet itself, as postgres over the local socket: the role becomes NOLOGIN", task: "role postgres"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.hba("local all all peer\nhost all all all md5\n")
			if c.hba != "" {
				w.hba(c.hba)
			}
			held := cluster15()
			held.Contents["app"] = &catalog.Contents{}
			if c.change != nil {
				c.change(held)
			}
			w.catalogs(held)
			w[facts.Contents{Port: 5432, SocketDir: socketDir, Database: "app"}] = facts.Answer{Value: facts.ContentsInfo{Contents: &catalog.Contents{}}}
			w.server(func(s *facts.Server) {
				s.Clock = now
				s.Sessions = []facts.Session{session("app", "app", "10.1.0.1", true)}
				s.Sessions[0].Count = max(c.sessions, 1)
			})
			p := mustPlan(t, w, c.tasks)
			if got := lockouts(p); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("lock-outs: %s\nwant: %s", got, c.want)
			}
			if len(p.Lockouts) > 0 && p.Lockouts[0].Task != c.task {
				t.Errorf("by the task %q, want %q", p.Lockouts[0].Task, c.task)
			}
		})
	}
}

// ssl that is turned off locks out whom hostssl lets in.
func TestLockoutsByTLS(t *testing.T) {
	w := newWorld()
	w.ssl("on")
	w.hba("local all all peer\nhostssl all app all md5\nhost all other all md5\n")
	w.server(func(s *facts.Server) {
		s.Sessions = []facts.Session{session("app", "app", "10.1.0.1", true), session("other", "app", "10.1.0.1", true), session("other", "app", "10.1.0.1", false)}
	})
	p := mustPlan(t, w, settings("tls", "10-tls.conf", "ssl = false"))
	if got, want := lockouts(p), "app@10.1.0.1: app in app from 10.1.0.1 (1 session now): ssl is turned off, and without TLS no rule matches"; got != want {
		t.Errorf("lock-outs: %s\nwant: %s", got, want)
	}
}

// A mistake in a client's template is found before anybody is dialled.
func TestClientTemplates(t *testing.T) {
	for text, want := range map[string]string{
		"user = \"app\"\nfrom = \"{{ .Vars.nets }}\"\n":                           `fleet.toml:11:18: there is no variable "nets"`,
		"user = \"app\"\nfrom = \"{{ .Vars.net }}\"\n[vars]\nnet = \"nowhere\"\n": `fleet.toml:11:8: from: "nowhere" is neither an address nor a network`,
		"user = \"{{ secret \\\"env:X\\\" }}\"\nfrom = \"10.1.0.1\"\n":            `fleet.toml:10:8: a client's values are shown in plans, and cannot be secrets`,
	} {
		fleet := loadFleet(t, declaredClient(text))
		_, errs := Expand(fleet, fleet.Instances(), Options{})
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%v\nwant %s", errs, want)
		}
	}
}

func loadFleet(t *testing.T, tasks string) *inventory.Fleet {
	t.Helper()
	fleet, err := inventory.Load(writeFleet(t, tasks), inventory.Options{Kinds: Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	return fleet
}
