package tasks

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

func audit(keys string) string {
	return "\n[[task]]\nname = \"audit\"\nkind = \"audit_logging\"\nfile = \"30-audit.conf\"\n" + keys
}

// proofs are the changes of a plan that prove the audit log.
func proofs(p *Plan) []Change {
	var list []Change
	for _, s := range p.Steps {
		for _, c := range s.Changes {
			if _, ok := c.Action.(ProveLog); ok {
				list = append(list, c)
			}
		}
	}
	return list
}

func unknown(p *Plan) string {
	var list []string
	for _, n := range p.Unknown {
		list = append(list, n.Text)
	}
	return strings.Join(list, "\n")
}

func TestAuditLogging(t *testing.T) {
	for name, c := range map[string]struct {
		keys string
		want []string // lines of the fragment
		not  string
	}{
		"defaults": {"", []string{
			"shared_preload_libraries = 'pgaudit'", "pgaudit.log = 'ddl, write, role'", "log_connections = 'on'", "log_disconnections = 'on'",
			"log_checkpoints = 'on'", "log_lock_waits = 'on'", "log_line_prefix = '%m [%p] %q%u@%d %a %h '",
			"log_destination = 'stderr,syslog'", "syslog_facility = 'LOCAL0'", "syslog_ident = 'postgres-main'",
		}, ""},
		"classes": {`log = "ddl"`, []string{"pgaudit.log = 'ddl'"}, "write"},
		"settings win": {"settings = { log_connections = false, log_destination = \"stderr\", \"pgaudit.log_relation\" = true }\n",
			[]string{"log_connections = 'off'", "log_destination = 'stderr'", "pgaudit.log_relation = 'on'"}, "'stderr,syslog'"},
		"libraries beside it": {`settings = { shared_preload_libraries = "pg_stat_statements" }`, []string{"shared_preload_libraries = 'pg_stat_statements, pgaudit'"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := auditWorld()
			p := mustPlan(t, w, audit(c.keys)+service)
			content := p.Steps[0].Changes[0].Action.(WriteFile).Content
			for _, line := range c.want {
				if !strings.Contains(content, line+"\n") {
					t.Errorf("no line %s in\n%s", line, content)
				}
			}
			if c.not != "" && strings.Contains(content, c.not) {
				t.Errorf("%q in\n%s", c.not, content)
			}
			if len(proofs(p)) != 1 {
				t.Errorf("%d proofs", len(proofs(p)))
			}
			if got := warnings(p); got != "" {
				t.Errorf("warnings %q", got)
			}
			p = w.again(t, p, audit(c.keys)+service)
			if left := p.Changes(); len(left) > 0 {
				t.Errorf("still due: %v", intents(p))
			}
			if len(proofs(p)) != 1 {
				t.Errorf("%d proofs, the second time", len(proofs(p)))
			}
		})
	}
}

// auditWorld is a server that knows what the task sets.
func auditWorld() world {
	w := newWorld()
	for _, name := range []string{"log_disconnections", "log_checkpoints", "log_lock_waits", "log_line_prefix", "log_destination", "syslog_facility", "syslog_ident", "log_statement", "log_min_duration_statement"} {
		w.setting(name, func(x *postgres.Setting) { x.VarType, x.Context, x.Source = "string", "sighup", "default" })
	}
	w.setting("log_statement", func(x *postgres.Setting) { x.Setting, x.BootVal = "none", "none" })
	w.setting("log_min_duration_statement", func(x *postgres.Setting) { x.Setting, x.BootVal = "-1", "-1" })
	return w
}

func TestAuditLoggingMistakes(t *testing.T) {
	for keys, want := range map[string]string{
		"log = \"ddl\"\nsettings = { \"pgaudit.log\" = \"write\" }": "fleet.toml:12:7: log: settings has pgaudit.log as well",
		`settings = { log_connections = "{{ secret \"env:X\" }}" }`: "a secret in a server parameter",
		"state = \"absent\"": "",
	} {
		if got := mistakes(t, audit(keys)); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", keys, got, want)
		}
	}
	both := audit("") + settings("a", "10-a.conf", `pgaudit.log = "write"`)
	if got := mistakes(t, both); !strings.Contains(got, "pgaudit.log is write here and ddl, write, role at") {
		t.Errorf("two tasks: %q", got)
	}
	_, err := plan(t, auditWorld(), audit(`log = "ddl, wrte"`))
	if err == nil || !strings.Contains(err.Error(), "fleet.toml:12:7:") || !strings.Contains(err.Error(), "wrte") {
		t.Errorf("a class: %v", err)
	}
	w := auditWorld()
	w[facts.Libraries{Version: 15}] = facts.Answer{Value: []string{"auth_delay"}}
	if _, err := plan(t, w, audit("")); err == nil || !strings.Contains(err.Error(), `the server has no library "pgaudit"`) {
		t.Errorf("without the package: %v", err)
	}
}

// The proof waits for the restart that loads the library.
func TestAuditLoggingProof(t *testing.T) {
	for name, c := range map[string]struct {
		tasks, unknown string
		proofs         int
	}{
		"a restart loads it": {audit("timeout = \"20s\"") + service, "", 1},
		"no restart":         {audit(""), "proven once a restart has loaded pgaudit", 0},
		"not wanted":         {audit("prove = false") + service, "", 0},
		"absent":             {audit("state = \"absent\"") + service, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustPlan(t, auditWorld(), c.tasks)
			if len(proofs(p)) != c.proofs || !strings.Contains(unknown(p), c.unknown) {
				t.Errorf("%d proofs, unknown %q", len(proofs(p)), unknown(p))
			}
			if c.proofs > 0 {
				last := p.Steps[len(p.Steps)-1]
				if a := last.Changes[0].Action.(ProveLog); a.Timeout.Seconds() != 20 || last.Writes() {
					t.Errorf("%+v, writes %v", a, last.Writes())
				}
			}
		})
	}
	w := auditWorld()
	w[facts.Postgres{Port: 5432, SocketDir: socketDir}] = facts.Answer{Value: facts.Server{Problem: "connection refused"}}
	if p := mustPlan(t, w, audit("")); len(proofs(p)) != 0 || !strings.Contains(unknown(p), "the server does not answer") {
		t.Errorf("down: unknown %q", unknown(p))
	}
	if p := mustPlan(t, w, audit("")+service); len(proofs(p)) != 1 {
		t.Errorf("started: unknown %q", unknown(p))
	}
}

func TestAuditLoggingWarnings(t *testing.T) {
	w := auditWorld()
	w.server(func(s *facts.Server) {
		s.Overrides = []facts.Override{{Role: "appuser", Name: "pgaudit.log", Value: "write"}, {Role: "wide", Name: "pgaudit.log", Value: "all"}}
	})
	w.fragment("05-theirs.conf", "log_statement = 'ddl'\n")
	p := mustPlan(t, w, audit("settings = { \"pgaudit.log_parameter\" = true }\n")+settings("slow", "40-slow.conf", `log_min_duration_statement = 250`)+service)
	for _, want := range []string{
		"pgaudit.log is write in sessions of role appuser, by ALTER ROLE or ALTER DATABASE, not ddl, write, role; it takes the place of the global value, so these are not audited there: ddl, role",
		"log_statement = ddl logs statements as they are",
		"log_min_duration_statement = 250 logs slow statements",
		"pgaudit.log_parameter = on logs what applications store",
	} {
		if got := warnings(p); !strings.Contains(got, want) {
			t.Errorf("no warning %q in %q", want, got)
		}
	}
	if got := warnings(p); strings.Contains(got, "role wide, by ALTER ROLE or ALTER DATABASE, not ddl, write, role;") {
		t.Errorf("warned of a wider one: %q", got)
	}
}

func TestNarrowed(t *testing.T) {
	for _, c := range [][3]string{
		{"ddl, write, role", "write", "ddl, role"},
		{"ddl, write", "all", ""},
		{"all", "all, -misc", "misc"},
		{"ddl", "none", "ddl"},
		{"ddl", "ddl, none", ""},
		{"ddl", "-ddl, DDL", ""},
		{"none", "write", ""},
		{"misc_set, ddl", "misc", "ddl"},
		{"misc", "misc_set", "misc"},
		{"ddl", "wrte", `all of it: "wrte" is no class of statements`},
	} {
		if got := narrowed(c[0], c[1]); got != c[2] {
			t.Errorf("%s by %s: %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

func TestAuditLoggingOwnsItsFragment(t *testing.T) {
	in, bound := load(t, audit(""))
	s := NewState(in, auditWorld(), nil)
	if got := bound[0].Task.(declarer).declares(s); !slices.Contains(got, conf+"/conf.d/30-audit.conf") {
		t.Errorf("declares %v", got)
	}
}
