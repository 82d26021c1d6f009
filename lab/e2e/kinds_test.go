//go:build lab

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab/labtest"
)

// restTasks are the kinds that are not the server's configuration.
const restTasks = `
[[task]]
name = "A unit"
kind = "file"
path = "/etc/systemd/system/pgfleet-e2e.service"
source = "unit.tmpl"
check = "systemd-analyze verify %s"

[[task]]
name = "The unit's own file"
kind = "file"
path = "/etc/pgfleet-e2e.conf"
content = "token = {{ secret \"file:token\" }}\n"
mode = "0600"

[[task]]
name = "The unit runs"
kind = "service"
unit = "pgfleet-e2e.service"
enabled = true
watch = ["/etc/pgfleet-e2e.conf"]

[[task]]
name = "A command"
kind = "command"
run = "touch /var/tmp/pgfleet-e2e"
creates = "/var/tmp/pgfleet-e2e"

[[task]]
name = "Here"
kind = "command"
on = "operator"
run = "date >here"
unless = "test -e here"

[[task]]
name = "Role and database"
kind = "psql"
script = "roles.sql"
single_transaction = false
unless = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'appdb')"

[[task]]
name = "Log in as an application does"
kind = "verify"
database = "appdb"
query = "SELECT current_user"
expect = "appuser"
login = { role = "appuser", password = "env:APP_PASSWORD", ca = "ca.pem" }

[[task]]
name = "Not from a database host"
kind = "verify"
database = "appdb"
login = { role = "appuser", password = "env:APP_PASSWORD", ca = "ca.pem", from = "{{ .Host.Name }}", refused = true }

[[task]]
name = "TLS is on"
kind = "verify"
query = "SHOW ssl"
expect = "on"

[[task]]
name = "The port answers"
kind = "verify"
port = {}
`

const unit = `[Unit]
Description=For {{ .Host.Name }}
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
`

func TestLabEveryKind(t *testing.T) {
	for _, v := range versions() {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			host := fmt.Sprintf("pg%d", v)
			fresh(t, host)
			look(t, host, "rm -f /var/tmp/pgfleet-e2e; systemctl disable --now pgfleet-e2e 2>/dev/null; rm -f /etc/pgfleet-e2e.conf /etc/systemd/system/pgfleet-e2e.service; systemctl daemon-reload; cd /; runuser -u postgres -- psql -Xqc 'DROP DATABASE IF EXISTS appdb' -c 'DROP ROLE IF EXISTS appuser'")
			// The login comes from here, which the rules let in.
			b := newBench(t, strings.Replace(serverTasks, "{{ .Vars.applications }}", fleet.Lab.Operator.String()+"/32", 1)+restTasks, host)
			b.withCA()
			b.Write("unit.tmpl", unit)
			const token, password = "tok-Qz81-hushed", "pw-7Kd2_unsaid"
			b.Write("token", token+"\n")
			b.Write("roles.sql", "CREATE ROLE appuser LOGIN PASSWORD {{ secret \"env:APP_PASSWORD\" | literal }};\nCREATE DATABASE appdb OWNER appuser;\n")
			b.Env = append(b.Env, "APP_PASSWORD="+password)

			plan := b.Want(2, "plan", "--detailed-exitcode")
			apply := b.Want(0, "apply", "--yes", "-v")
			b.Want(0, "plan", "--detailed-exitcode")
			again := b.Want(0, "apply", "--yes")

			for what, script := range map[string]string{
				"the unit runs":         "systemctl is-active pgfleet-e2e",
				"the unit is enabled":   "systemctl is-enabled pgfleet-e2e",
				"the command ran":       "test -e /var/tmp/pgfleet-e2e",
				"the secret is in":      "grep -qx 'token = " + token + "' /etc/pgfleet-e2e.conf",
				"nobody else may read":  "[ $(stat -c %U:%a /etc/pgfleet-e2e.conf) = root:600 ]",
				"systemd knows":         "[ $(systemctl show -P NeedDaemonReload pgfleet-e2e) = no ]",
				"the template rendered": "grep -qx 'Description=For " + host + "' /etc/systemd/system/pgfleet-e2e.service",
			} {
				if out, err := fleet.Lab.Host(host).Exec(t.Context(), script); err != nil {
					t.Errorf("%s: %v %s", what, err, out)
				}
			}
			if _, err := os.Stat(filepath.Join(b.Dir, "here")); err != nil {
				t.Error(err)
			}
			for _, s := range []labtest.Said{plan, apply, again} {
				for _, value := range []string{token, password} {
					for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))} {
						if strings.Contains(s.All(), form) {
							t.Errorf("the output shows a secret:\n%s", s.All())
						}
					}
				}
			}
			// The search would find it: what is asked for in the clear is masked by
			// the program's own way out, and only there.
			control := b.Want(0, "exec", "--user", "root", "--", "cat /etc/pgfleet-e2e.conf | tr a-z b-za")
			if !strings.Contains(control.Stdout, "uplfo") {
				t.Errorf("the control finds nothing:\n%s", control.All())
			}

			// A watched file that changes restarts the unit, whoever changed it.
			pid := look(t, host, "systemctl show -P MainPID pgfleet-e2e")
			b.Write("token", "tok-Other-hushed\n")
			changed := b.Want(0, "apply", "--yes")
			if strings.Contains(changed.All(), "hushed") {
				t.Errorf("the output shows a secret:\n%s", changed.All())
			}
			if now := look(t, host, "systemctl show -P MainPID pgfleet-e2e"); now == pid {
				t.Error("the unit was not restarted though its file changed")
			}
		})
	}
}

// terminal is what a terminal showed so far.
type terminal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *terminal) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// psql's errors keep the server's line, caret, detail and hint; nothing is kept
// of a script that fails.
func TestLabScriptThatFails(t *testing.T) {
	fresh(t, "pg17")
	b := newBench(t, `
[[task]]
name = "Views"
kind = "psql"
script = "views.sql"
always = true
`, "pg17")
	b.Write("views.sql", "CREATE TABLE half (id int);\nSELECT relnam\nFROM pg_class;\n")
	s := b.Want(1, "apply", "--yes")
	for _, want := range []string{"pg17: Views", "views.sql:", "LINE 1", "^", `column "relnam" does not exist`, "HINT", "relname", "nothing of it was kept"} {
		if !strings.Contains(s.All(), want) {
			t.Errorf("not said: %q\n%s", want, s.All())
		}
	}
	if got := sql(t, "pg17", "SELECT count(*) FROM pg_class WHERE relname = 'half'"); got != "0" {
		t.Error("half of the script was kept")
	}
}

// A host whose sudo asks is served with --ask-become-pass, and the password is
// in no process list and no log.
func TestLabSudoAsks(t *testing.T) {
	fresh(t, "asks")
	password := fleet.Lab.Host("asks").SudoPassword
	b := newBench(t, oneSetting("log_connections", "true"), "asks")
	script, err := exec.LookPath("script")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script, "-qec", fleet.Program+" apply --yes --ask-become-pass", "/dev/null")
	cmd.Dir, cmd.Env = b.Dir, []string{"HOME=" + b.Home, "PATH=" + os.Getenv("PATH"), "TERM=dumb"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var text terminal
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Typed before it is asked for, the terminal itself would echo it.
	for range 100 {
		if strings.Contains(text.String(), "Password") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	fmt.Fprintln(in, password)
	err = cmd.Wait()
	out := text.String()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := sql(t, "asks", "SHOW log_connections"); got != "on" {
		t.Errorf("log_connections is %s\n%s", got, out)
	}
	if strings.Contains(out, password) {
		t.Errorf("the password was shown:\n%s", out)
	}
	if got := look(t, "asks", "grep -rsF '"+password+"' /var/log || journalctl --no-pager | grep -F '"+password+"' || true"); got != "" {
		t.Errorf("the password is in a log: %s", got)
	}
}
