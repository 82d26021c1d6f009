package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// single carries out a change that stands alone.
func (x *executor) single(ctx context.Context, c tasks.Change) error {
	switch c.Action.(type) {
	case tasks.SetPackages, tasks.SetUnit, tasks.RemoveStaging, tasks.DaemonReload:
		x.begun = true
	}
	switch a := c.Action.(type) {
	case tasks.SetPackages:
		return x.setPackages(ctx, a)
	case tasks.SetUnit:
		return x.setUnit(ctx, a)
	case tasks.RemoveStaging:
		var words []string
		for _, dir := range a.Dirs {
			words = append(words, transport.Quote(dir))
		}
		return x.must(ctx, transport.Command{Script: "rm -rf -- " + strings.Join(words, " "), User: a.Owner})
	case tasks.DaemonReload:
		return x.must(ctx, transport.Command{Script: "systemctl daemon-reload", User: "root"})
	case tasks.IssueCertificate:
		return x.issueAlone(ctx)
	case tasks.RunCommand:
		return x.runCommand(ctx, a)
	case tasks.RunScript:
		return x.runScript(ctx, a)
	case tasks.Login:
		return x.login(ctx, a)
	case tasks.Port:
		return x.port(ctx, a)
	case tasks.Ask:
		return x.ask(ctx, a)
	case tasks.ProveLog:
		return x.proveLog(ctx, a)
	}
	return x.rotate(ctx, c.Action)
}

// must runs a command that has to succeed.
func (x *executor) must(ctx context.Context, c transport.Command) error {
	out, err := x.conn.Run(ctx, c)
	if err != nil {
		return err
	}
	if out.ExitCode != 0 {
		return fmt.Errorf("%s", message(out))
	}
	return nil
}

// message returns what a command said when it failed: its stderr, or its
// stdout where that is empty, the last lines of it.
func message(out transport.Output) string {
	text := strings.TrimSpace(string(out.Stderr))
	if text == "" {
		text = strings.TrimSpace(string(out.Stdout))
	}
	if text == "" {
		return fmt.Sprintf("exit code %d, without a word", out.ExitCode)
	}
	lines := strings.Split(text, "\n")
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return strings.Join(lines, "\n")
}

// setPackages installs or removes packages. An installation that would remove
// something else is refused: apt is asked first what it would do.
func (x *executor) setPackages(ctx context.Context, a tasks.SetPackages) error {
	ctx, cancel := context.WithTimeout(ctx, packageTimeout)
	defer cancel()
	var words []string
	for _, p := range append(a.Install, a.Remove...) {
		words = append(words, transport.Quote(p))
	}
	names := strings.Join(words, " ")
	var script string
	switch {
	case a.Manager == "apt" && len(a.Install) > 0:
		x.phase("installing packages")
		script = `export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l LC_ALL=C
apt='apt-get -q -y -o DPkg::Lock::Timeout=120'
sim=$($apt -s install --no-install-recommends ` + names + ` 2>/dev/null) || {
	$apt update >/dev/null || exit
	sim=$($apt -s install --no-install-recommends ` + names + `) || exit
}
gone=$(printf '%s\n' "$sim" | sed -n 's/^Remv \([^ ]*\).*/\1/p')
[ -z "$gone" ] || { echo "apt would remove" $gone "; install by hand if that is wanted" >&2; exit 1; }
exec $apt install --no-install-recommends ` + names
	case a.Manager == "apt":
		x.phase("removing packages")
		script = "export DEBIAN_FRONTEND=noninteractive LC_ALL=C; exec apt-get -q -y -o DPkg::Lock::Timeout=120 remove " + names
	case a.Manager == "dnf" && len(a.Install) > 0:
		script = "exec dnf -y -q install " + names
	case a.Manager == "dnf":
		script = "exec dnf -y -q remove " + names
	default:
		return fmt.Errorf("the host's package manager %q is not known", a.Manager)
	}
	return x.must(ctx, transport.Command{Script: script, User: "root"})
}

func (x *executor) setUnit(ctx context.Context, a tasks.SetUnit) error {
	var script []string
	add := func(verb string) { script = append(script, "systemctl "+verb+" "+transport.Quote(a.Name)) }
	if a.Enabled != nil {
		add(map[bool]string{true: "enable -q", false: "disable -q"}[*a.Enabled])
	}
	switch {
	case a.Running != nil && *a.Running:
		add("start")
	case a.Running != nil:
		add("stop")
	case a.Restart:
		add("restart")
	case a.Reload:
		add("reload")
	}
	if err := x.must(ctx, transport.Command{Script: strings.Join(script, " && "), User: "root"}); err != nil {
		return err
	}
	answers, err := x.conn.Read(ctx, []facts.Read{facts.Unit{Name: a.Name}})
	if err != nil {
		return err
	}
	u, _ := answers[facts.Unit{Name: a.Name}].Value.(facts.UnitInfo)
	if (a.Restart || a.Reload || a.Running != nil && *a.Running) && u.ActiveState != "active" {
		return fmt.Errorf("%s is %s after it was told to run; see journalctl -u %s on the host", a.Name, u.ActiveState, a.Name)
	}
	return nil
}

func (x *executor) runCommand(ctx context.Context, a tasks.RunCommand) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, fmt.Errorf("it took longer than its timeout of %v", a.Timeout))
	defer cancel()
	if due, err := x.stillDue(ctx, a); err != nil || !due {
		return because(ctx, err)
	}
	x.begun = true
	if a.Here {
		if err := x.must(ctx, transport.Command{Script: ":"}); err != nil { // behind the fence
			return because(ctx, err)
		}
		r, err := runHere(ctx, a.Script, x.run.dir(a.Dir))
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("it exited with %d: %s", r.ExitCode, r.Output)
		}
		return because(ctx, err)
	}
	out, err := x.conn.Run(ctx, transport.Command{Script: a.Script, User: a.User, Dir: a.Dir})
	if err != nil {
		return because(ctx, err)
	}
	if out.ExitCode != 0 {
		return fmt.Errorf("it exited with %d: %s", out.ExitCode, message(out))
	}
	return nil
}

// stillDue asks a command's probes again.
func (x *executor) stillDue(ctx context.Context, a tasks.RunCommand) (bool, error) {
	for _, p := range a.Probes {
		var r facts.ProbeResult
		var err error
		if a.Here {
			r, err = runHere(ctx, p.Script, x.run.dir(""))
		} else {
			var out transport.Output
			out, err = x.conn.Run(ctx, transport.Command{Script: p.Script, User: a.User, Unfenced: true})
			r.ExitCode = out.ExitCode
		}
		if err != nil {
			return false, err
		}
		if (r.ExitCode == 0) == p.Done {
			return false, nil
		}
	}
	return true, nil
}

// because returns why a context ended rather than that it did.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
		return cause
	}
	return err
}

// runScript gives SQL to psql on stdin. psql's own messages have the line, the
// caret, DETAIL and HINT; only the name of the file is not known to it.
func (x *executor) runScript(ctx context.Context, a tasks.RunScript) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, fmt.Errorf("it took longer than its timeout of %v", a.Timeout))
	defer cancel()
	if a.Maybe {
		q := facts.Query{Port: a.Port, SocketDir: a.SocketDir, Database: a.Database, SQL: a.Unless}
		answers, err := x.conn.Read(ctx, []facts.Read{q})
		if err != nil {
			return because(ctx, err)
		}
		if r, ok := answers[q].Value.(facts.QueryResult); ok && r.True {
			return nil
		}
	}
	sql, err := secrets.Expand(a.SQL, x.run.reveal)
	if err != nil {
		return err
	}
	single := ""
	if a.Single {
		single = "--single-transaction"
	}
	// A script with a secret in it is kept out of the server's log and its
	// statistics, and psql's echo of the line, which may cut a value in the middle,
	// out of the error.
	hushed := secrets.HasPlaceholder(a.SQL)
	var options []string
	if a.As != "" {
		// Given while connecting it is what RESET ROLE goes back to, and the script's
		// lines keep their numbers.
		options = append(options, "-c role="+escapeOption(a.As))
	}
	if hushed {
		options = append(options, silent)
	}
	script := "PGOPTIONS=" + transport.Quote(strings.Join(options, " ")) + " " + fmt.Sprintf("PGAPPNAME=pgfleet LC_ALL=C exec psql -X -q -w -v ON_ERROR_STOP=1 %s -h %s -p %d -d %s -f - >/dev/null",
		single, transport.Quote(a.SocketDir), a.Port, transport.Quote(a.Database))
	x.begun = true
	out, err := x.conn.Run(ctx, transport.Command{Script: script, User: "postgres", Stdin: sql.Expose(), MaxOutput: 64 << 10})
	if err != nil {
		return because(ctx, err)
	}
	if out.ExitCode != 0 {
		said := strings.ReplaceAll(message(out), "psql:<stdin>:", a.Name+":")
		if hushed {
			said = withoutEcho(said)
		}
		rolled := "; what it had done before was kept, because single_transaction is false"
		if a.Single {
			rolled = "; nothing of it was kept"
		}
		return fmt.Errorf("%s%s", strings.TrimSuffix(said, "."), rolled)
	}
	if a.Unless != "" {
		q := facts.Query{Port: a.Port, SocketDir: a.SocketDir, Database: a.Database, SQL: a.Unless}
		answers, err := x.conn.Read(ctx, []facts.Read{q})
		if err != nil {
			return err
		}
		if r, ok := answers[q].Value.(facts.QueryResult); ok && !r.True {
			return fmt.Errorf("the script ran, but its unless query is still not true, so that every run would do it again: %s", orSay(r.Problem, a.Unless))
		}
	}
	return x.created(ctx, a)
}

// created checks that a script has made what it is declared to make.
func (x *executor) created(ctx context.Context, a tasks.RunScript) error {
	if len(a.Creates) == 0 {
		return nil
	}
	q := facts.Contents{Port: a.Port, SocketDir: a.SocketDir, Database: a.Database}
	answers, err := x.conn.Read(ctx, []facts.Read{q})
	if err != nil {
		return err
	}
	if err := answers[q].Err; err != nil {
		return err
	}
	info := answers[q].Value.(facts.ContentsInfo)
	if info.Contents == nil {
		return fmt.Errorf("the script ran; what it made is not known: %s", info.Problem)
	}
	var problems []string
	for _, want := range a.Creates {
		name := want.Schema + "." + want.Name.Name
		switch found := info.Contents.Relations[want.Name]; {
		case found == nil:
			problems = append(problems, name+" is not there")
		case want.Owner != "" && found.Owner != want.Owner:
			problems = append(problems, fmt.Sprintf("%s is owned by %s, and not by %s", name, found.Owner, want.Owner))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("the script ran, and did not make what creates says: %s", strings.Join(problems, "; "))
	}
	return nil
}

// escapeOption escapes a value in PGOPTIONS, which the server splits at white
// space (libpq, PGOPTIONS).
func escapeOption(value string) string {
	var b strings.Builder
	for _, r := range value {
		if r == '\\' || unicode.IsSpace(r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// silent are the parameters that keep a session's statements out of every log
// and view. pgaudit redacts passwords but not what else a script may hold.
const silent = "-c log_min_messages=panic -c log_min_error_statement=panic -c log_statement=none -c log_min_duration_statement=-1 " +
	"-c log_min_duration_sample=-1 -c log_duration=off -c pgaudit.log=none -c pg_stat_statements.track=none -c auto_explain.log_min_duration=-1 -c track_activities=off"

// withoutEcho drops psql's echo of a statement's line, and the caret under it.
func withoutEcho(said string) string {
	var lines []string
	echo := false
	for _, line := range strings.Split(said, "\n") {
		switch {
		case strings.HasPrefix(line, "LINE "):
			echo = true
		case echo && strings.TrimSpace(line) == "^":
			echo = false
		default:
			echo = false
			lines = append(lines, line)
		}
	}
	return strings.Join(append(lines, "(the statement is not shown, because it holds a secret)"), "\n")
}

func orSay(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// Limits on what has no timeout of its own.
const (
	packageTimeout = 15 * time.Minute
	putBackTimeout = 2 * time.Minute
	redialTime     = 30 * time.Second
)
