package tasks

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// cluster is a second member of pg01's cluster.
const cluster = "replication = \"orders\"\n[hosts.pg02]\naddress = \"10.77.0.12\"\nreplication = \"orders\"\n"

func (w world) hba(rules string) {
	w.write(WriteFile{Path: conf + "/pg_hba.conf", Content: rules, Mode: 0o640})
}

func (w world) streams(tls bool) {
	w.server(func(s *facts.Server) {
		s.Standbys = []facts.Standby{{Name: "15/main", User: "replicator", Addr: netip.MustParseAddr("10.77.0.12"), TLS: tls}}
	})
}

func TestStandbysKeepTheirMethod(t *testing.T) {
	trust := "local all all peer\nhost replication replicator 10.77.0.12/32 trust\n"
	for name, c := range map[string]struct {
		current, rules string
		tls            bool
		ssl            string
		refused        string
		warned         string
	}{
		"trust becomes a password": {current: trust, tls: true, ssl: "on",
			refused: `it gets in by "host replication replicator 10.77.0.12/32 trust" now, and would need a password for "hostssl replication all 10.77.0.12/32 scram-sha-256", which pgfleet adds`},
		"by a rule of the user's": {current: trust, tls: true, ssl: "on", rules: `, "hostssl replication replicator 10.77.0.12/32 scram-sha-256"`,
			warned: "the standby 15/main (replicator from 10.77.0.12) gets in by"},
		"cert becomes a password": {current: "hostssl replication all 10.77.0.12/32 cert\n", tls: true, ssl: "on", refused: "would need a password"},
		"scram stays":             {current: "hostssl replication all all scram-sha-256\n", tls: true, ssl: "on"},
		"md5 becomes scram":       {current: "host replication all all md5\n", tls: true, ssl: "on", warned: "stored as SCRAM and not as MD5"},
		"no TLS":                  {current: "host replication all all scram-sha-256\n", ssl: "on", refused: `it connects without TLS, and only with it "hostssl replication all 10.77.0.12/32 scram-sha-256" matches first; let its primary_conninfo say sslmode=require`},
		"no TLS, none to be had":  {current: "host replication all all scram-sha-256\n", ssl: "off"},
		"without a rule":          {current: trust, tls: true, ssl: "on", rules: `, "host replication all all reject"`, refused: `"host replication all all reject" matches first; give its host the same replication`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.hba(c.current)
			w.streams(c.tls)
			w.setting("ssl", func(x *postgres.Setting) { x.Setting, x.Source = c.ssl, "configuration file" })
			w.write(WriteFile{Path: conf + "/conf.d/00-ssl.conf", Content: "ssl = " + c.ssl + "\n", Mode: 0o644})
			p := mustPlan(t, w, cluster+hba(`"local all postgres peer"`+c.rules))
			got := lockouts(p)
			if c.refused != "" {
				if len(p.Lockouts) != 1 || p.Lockouts[0].Who != "standby:pg02" || !p.Lockouts[0].Named("standby:15/main") || !strings.Contains(got, c.refused) {
					t.Errorf("lock-outs %q, want %q", got, c.refused)
				}
				return
			}
			if got != "" {
				t.Errorf("lock-outs: %s", got)
			}
			if got := warnings(p); c.warned == "" && got != "" || !strings.Contains(got, c.warned) {
				t.Errorf("warnings %q, want %q", got, c.warned)
			}
			// Rules that are in force lock nobody out.
			w.carryOut(p)
			if p := mustPlan(t, w, cluster+hba(`"local all postgres peer"`+c.rules)); len(p.Lockouts) > 0 || len(p.Steps) > 0 {
				t.Errorf("afterwards: %v, %s", p.Steps, lockouts(p))
			}
		})
	}
}

func TestSessionsThatNeedAnotherMethod(t *testing.T) {
	w := newWorld()
	w.hba("local all all peer\nhost all all 10.77.0.0/24 trust\n")
	w.server(func(s *facts.Server) {
		s.Sessions = []facts.Session{
			{Database: "app", User: "app", Addr: netip.MustParseAddr("10.77.0.20")},
			{Database: "app", User: "app", Addr: netip.MustParseAddr("10.77.0.20"), Application: "other"},
			{Database: "app", User: "report", Addr: netip.MustParseAddr("10.77.0.21")},
			{Database: "app", User: "ops", Addr: netip.MustParseAddr("10.77.0.22"), Count: 1},
		}
	})
	p := mustPlan(t, w, hba(`"local all postgres peer", "host app app 10.77.0.0/24 scram-sha-256", "hostssl app report 10.77.0.0/24 scram-sha-256"`))
	want := strings.Join([]string{
		`app in app from 10.77.0.20 gets in by "host all all 10.77.0.0/24 trust" now, and would need a password for "host app app 10.77.0.0/24 scram-sha-256"`,
		`report in app from 10.77.0.21 is connected without TLS, and only with it "hostssl app report 10.77.0.0/24 scram-sha-256" matches first: it comes back unless it says sslmode=disable`,
	}, "\n")
	if got := warnings(p); got != want {
		t.Errorf("warnings:\n%s\nwant:\n%s", got, want)
	}
	if got, want := lockouts(p), `ops@10.77.0.22: ops in app from 10.77.0.22 (1 session now): "host all all 0.0.0.0/0 reject" matches first`; got != want {
		t.Errorf("lock-outs: %s\nwant: %s", got, want)
	}
}

// The rules that pgfleet adds are the same wherever ssl is set, and stay so.
func TestReplicationRulesDoNotDependOnOrder(t *testing.T) {
	who := hba(`"local all postgres peer"`)
	for _, value := range []string{"true", "false"} {
		tls := settings("tls", "10-tls.conf", "ssl = "+value)
		for name, tasks := range map[string]string{"before": cluster + who + tls, "after": cluster + tls + who} {
			w := newWorld()
			if value == "false" {
				w.setting("ssl", func(x *postgres.Setting) { x.Setting, x.Source = "on", "configuration file" })
				w.write(WriteFile{Path: conf + "/conf.d/00-ssl.conf", Content: "ssl = on\n", Mode: 0o644})
			}
			p := mustPlan(t, w, tasks)
			kind := map[string]string{"true": "hostssl  replication", "false": "host    replication  all       10.77.0.12/32"}[value]
			found := false
			for _, c := range p.Changes() {
				if a, ok := c.Action.(WriteFile); ok && strings.HasSuffix(a.Path, "pg_hba.conf") {
					found = strings.Contains(a.Content, kind)
				}
			}
			if !found {
				t.Errorf("ssl = %s, hba %s it: no rule %q in %v", value, name, kind, p.Changes())
			}
			if p := w.again(t, p, tasks); len(p.Steps) > 0 {
				t.Errorf("ssl = %s, hba %s it: still due: %v", value, name, intents(p))
			}
		}
	}
}

func TestMapsThatLetPgfleetIn(t *testing.T) {
	rules := hba(`"local all all peer map=ops"`)
	ident := func(maps string) string {
		return "\n[[task]]\nname = \"maps\"\nkind = \"ident\"\nmaps = [" + maps + "]\n"
	}
	good, bad := ident(`"ops postgres postgres"`), ident(`"ops alice postgres"`)
	run := "\n[[task]]\nname = \"x\"\nkind = \"command\"\nrun = \"true\"\nalways = true\n"
	for name, c := range map[string]struct{ found, tasks, want string }{
		"found":               {found: "ops postgres postgres\n", tasks: rules},
		"not found":           {tasks: rules, want: "its map does not let the account postgres be the role postgres"},
		"declared before":     {tasks: good + rules},
		"declared after":      {tasks: rules + good},
		"declared much later": {tasks: rules + run + good, want: `its map is written only later, by the task "maps"`},
		"taken away after":    {found: "ops postgres postgres\n", tasks: rules + bad, want: `the map ops that the task "maps" declares does not let`},
		"taken away before":   {found: "ops postgres postgres\n", tasks: bad + rules, want: "its map does not let"},
		"taken away alone":    {found: "own postgres postgres\n", tasks: bad, want: `"local all all peer map=own" in pg_hba.conf is for it, and its map does not let`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			if name == "taken away alone" {
				w.hba("local all all peer map=own\n")
			}
			w.write(WriteFile{Path: conf + "/pg_ident.conf", Content: c.found, Mode: 0o640})
			got := lockouts(mustPlan(t, w, c.tasks))
			if c.want == "" != (got == "") || !strings.Contains(got, c.want) || c.want != "" && !strings.HasPrefix(got, "pgfleet: pgfleet itself") {
				t.Errorf("lock-outs %q, want %q", got, c.want)
			}
		})
	}
}
