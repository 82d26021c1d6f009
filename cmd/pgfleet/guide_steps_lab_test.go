//go:build lab

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/lab"
)

// guideCommands are the commands and settings of the guide, by its steps. docs/guide.md
// has to speak of each.
func guideCommands() map[int][]string {
	return map[int][]string{
		1: {"grep listen_addresses", "listen_addresses = '192.168.1.50, 10.0.0.50'", "SHOW hba_file", "local all postgres peer", "hostssl appdb appuser 10.0.0.0/24 scram-sha-256",
			"host all all 0.0.0.0/0 reject", "host all all ::/0 reject", "systemctl reload postgresql"},
		2: {`\password postgres`, `psql -c "\password postgres"`, "disable remote login"},
		3: {"ssl = on", "ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_min_protocol_version = 'TLSv1.2'", "ssl_ciphers = 'HIGH:!aNULL:!MD5'",
			"openssl req -new -x509 -days 3650 -nodes", "chown postgres", "chmod 600", "systemctl restart postgresql", "sslmode=require"},
		4: {"CREATE ROLE appuser WITH LOGIN PASSWORD", "CREATE ROLE appowner NOLOGIN", "CREATE DATABASE appdb OWNER appowner", "GRANT CONNECT", "GRANT USAGE ON SCHEMA",
			"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES", "GRANT USAGE, SELECT ON ALL SEQUENCES", "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT", "CREATE ROLE readuser",
			"REVOKE CREATE ON SCHEMA public FROM PUBLIC", `\dp`, `\du`},
		5: {"log_destination = 'syslog'", "syslog_facility", "syslog_ident", "log_connections", "log_disconnections", "log_failed_attempts = on", "log_hostname", "log_min_duration_statement",
			"log_statement = 'ddl'", "apt install postgresql-16-pgaudit", "shared_preload_libraries = 'pgaudit'", "pgaudit.log = 'ddl, write, role'", "pgaudit.log_catalog",
			"pgaudit.log_parameter = on", "pgaudit.log_statement_once", "ALTER ROLE appuser SET pgaudit.log = 'write'"},
		6: {"ALTER TABLE orders ENABLE ROW LEVEL SECURITY", "CREATE POLICY", "current_setting('app.current_user_id')::int", "SET LOCAL app.current_user_id = '42'"},
		7: {"pg_dump -U postgres", "gzip", "age -R", "mkdir -p", "find", "-mtime +30 -delete", "age -d", "gunzip", "psql -U postgres appdb"},
		8: {"openssl rand -base64 32", "ALTER ROLE appuser PASSWORD", "aws secretsmanager put-secret-value", "Restart application"},
	}
}

// A proof is a command of docs/guide.md and what it must print.
type proof struct {
	step    int
	where   string // "host", "app" or "fleet"
	command string
	want    []string // lines; "..." stands for any number of them
}

var guideStep = regexp.MustCompile(`^## Step (\d+):`)

// guideProofs reads docs/guide.md, and fails where it leaves out a command of the
// guide or has a step without a proof.
func guideProofs(t *testing.T) []proof {
	t.Helper()
	text, err := os.ReadFile("../../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	var proofs []proof
	step, where, said := 0, "", map[int]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if m := guideStep.FindStringSubmatch(line); m != nil {
			_, _ = fmt.Sscan(m[1], &step)
		}
		said[step] += line + "\n"
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence:
			_, where, _ = strings.Cut(fence, " ")
		case where == "":
		case strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "$ "):
			proofs = append(proofs, proof{step: step, where: where, command: line[2:]})
		case len(proofs) > 0:
			last := &proofs[len(proofs)-1]
			last.want = append(last.want, line)
		}
	}
	for step, commands := range guideCommands() {
		for _, c := range commands {
			if !strings.Contains(strings.ReplaceAll(said[step], `\|`, "|"), c) {
				t.Errorf("docs/guide.md says nothing of %q in step %d", c, step)
			}
		}
		if !slices.ContainsFunc(proofs, func(p proof) bool { return p.step == step }) {
			t.Errorf("docs/guide.md proves nothing in step %d", step)
		}
	}
	return proofs
}

// wantSteps walks the guide on a host: each command that docs/guide.md shows is run
// there, and prints what stands in it.
func wantSteps(t *testing.T, h, application *lab.Running, dir string, proofs []proof) {
	t.Helper()
	here := strings.NewReplacer("10.85.0.11", h.Address.String(), "pg01", h.Name, "/15/main", fmt.Sprintf("/%d/main", h.Postgres), "15-main", fmt.Sprintf("%d-main", h.Postgres))
	for _, p := range proofs {
		command := here.Replace(p.command)
		var out string
		var err error
		switch p.where {
		case "host":
			out, err = h.Exec(t.Context(), "cd /; "+command)
		case "app":
			role, password := applicationLogin(t, h.Name, dir)
			// Not in the command line of anybody's test run either: by a variable of the host's shell alone.
			out, err = application.Exec(t.Context(), fmt.Sprintf("cd /; ROLE=%s PASSWORD=%s; %s", role, password, command))
		case "fleet":
			code := 0
			if code, out = pgfleet(t, dir, strings.Fields(command)[1:]...); code != 0 {
				err = fmt.Errorf("exit %d", code)
			}
		default:
			t.Errorf("step %d: a block of %q", p.step, p.where)
		}
		want := strings.Split(here.Replace(strings.Join(p.want, "\n")), "\n")
		// grep -c says 0 and fails.
		if (err != nil && strings.TrimSpace(out) != "0") || !linesMatch(strings.Split(strings.TrimSuffix(out, "\n"), "\n"), want) {
			t.Errorf("%s, step %d of the guide: %s\nprints %v\n%s\nwant\n%s", h.Name, p.step, command, err, out, strings.Join(want, "\n"))
		}
	}
}

// linesMatch compares lines with a pattern in which "..." stands for any number of
// them.
func linesMatch(lines, pattern []string) bool {
	if len(pattern) == 0 {
		return len(lines) == 0
	}
	if pattern[0] == "..." {
		for i := range len(lines) + 1 {
			if linesMatch(lines[i:], pattern[1:]) {
				return true
			}
		}
		return false
	}
	return len(lines) > 0 && strings.TrimRight(lines[0], " ") == strings.TrimRight(pattern[0], " ") && linesMatch(lines[1:], pattern[1:])
}

// applicationLogin is what an application reads from the store.
func applicationLogin(t *testing.T, cluster, dir string) (role, password string) {
	t.Helper()
	term := terminal{LookupEnv: os.LookupEnv}
	resolver, err := (&app{term: term, ui: newUI(term)}).newResolver(t.Context(), loadInit(t, dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	get := func(key string) string {
		s, _, err := resolver.Resolve(t.Context(), secrets.Ref{Store: "age", Path: cluster + "/appuser", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return string(s.Expose())
	}
	return get("username"), get("password")
}

// trustCA gives the application's host the fleet's CA.
func trustCA(t *testing.T, application *lab.Running, dir string) {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := application.Exec(t.Context(), "cat >/root/ca.pem <<'END'\n"+string(ca)+"END"); err != nil {
		t.Fatalf("%s %v", out, err)
	}
}
