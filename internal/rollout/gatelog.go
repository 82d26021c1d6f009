package rollout

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

// A loginLog is where a server says whom it lets not in.
type loginLog struct {
	file    string
	size    int64  // when it was looked at
	problem string // why it cannot be searched; then the rest is empty
}

// loginLog asks the server where it logs, and how long that file is.
func (x *executor) loginLog(ctx context.Context) loginLog {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	file, err := x.stderrFile(ctx)
	if err != nil {
		return loginLog{problem: err.Error()}
	}
	out, err := x.conn.Run(ctx, transport.Command{Script: "stat -Lc %s " + transport.Quote(file), User: "postgres", Unfenced: true})
	if err == nil && out.ExitCode != 0 {
		err = fmt.Errorf("%s", message(out))
	}
	if err != nil {
		return loginLog{problem: fmt.Sprintf("the size of %s is not known: %v", file, err)}
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(out.Stdout)), 10, 64)
	if err != nil {
		return loginLog{problem: err.Error()}
	}
	return loginLog{file: file, size: size}
}

// stderrFile returns the file that has the server's log in its plain format. The
// error says why refused logins cannot be found in one.
func (x *executor) stderrFile(ctx context.Context) (string, error) {
	conn, err := x.conn.Postgres(ctx, transport.Endpoint{Port: x.instance.Port})
	if err != nil {
		return "", err
	}
	defer closeSession(ctx, conn)
	var language, level string
	err = conn.QueryRow(ctx, "SELECT pg_catalog.current_setting('lc_messages'), pg_catalog.current_setting('log_min_messages')", pgx.QueryExecModeSimpleProtocol).Scan(&language, &level)
	if err != nil {
		return "", err
	}
	switch {
	case !english(language):
		return "", fmt.Errorf("lc_messages is %s, and only English messages are known", postgres.QuoteLiteral(language))
	case level == "panic":
		return "", fmt.Errorf("log_min_messages = panic keeps them out of the log")
	}
	sinks, err := x.sinks(ctx, conn)
	if err != nil {
		return "", err
	}
	why := "log_destination has no stderr"
	for _, s := range sinks {
		switch {
		case s.destination != "stderr":
		case s.problem != "":
			why = s.problem
		case s.file == "":
			why = "the log goes to " + s.looked
		default:
			return s.file, nil
		}
	}
	return "", fmt.Errorf("%s", why)
}

// english reports whether a locale of messages is one in which the server does not
// translate them.
func english(locale string) bool {
	return locale == "" || locale == "C" || locale == "POSIX" || strings.HasPrefix(locale, "C.") || strings.HasPrefix(strings.ToLower(locale), "en")
}

// refusedLogins are the server's messages to those whom it does not let in (auth.c,
// hba.c and postinit.c of PostgreSQL).
const refusedLogins = "FATAL:  (no pg_hba.conf entry|pg_hba.conf rejects|.* authentication failed for user|permission denied for database|role .* is not permitted to log in).*"

// knownFrom is how much of the log from before the run is searched for those who
// were refused then, in bytes.
const knownFrom = 64 << 20

// refusals compares who was refused since the first step began with who was
// before, by what the server's log says. Logins that verify tasks made to be refused
// do not count. Of a log that has become shorter all is new; where the server
// writes another file now, that is searched as well.
func (x *executor) refusals(ctx context.Context, log loginLog, plan *tasks.Plan) error {
	if log.problem != "" {
		return nil // the gate has said so
	}
	now := ""
	if file, err := x.stderrFile(ctx); err == nil && file != log.file {
		now = file
	}
	out, err := x.conn.Run(ctx, transport.Command{Script: fmt.Sprintf(`export LC_ALL=C
f=%s now=%s size=%d
pick() { grep -aoE %s | sort -u | head -n 500; }
[ "$(stat -Lc %%s "$f" 2>/dev/null || echo 0)" -ge "$size" ] || size=0
from=$((size > %[5]d ? size - %[5]d : 0))
[ ! -e "$f" ] || tail -c +$((from + 1)) "$f" | head -c $((size - from)) | pick
echo
{ [ ! -e "$f" ] || tail -c +$((size + 1)) "$f"; [ -z "$now" ] || cat "$now"; } | pick`,
		transport.Quote(log.file), transport.Quote(now), log.size, transport.Quote(refusedLogins), knownFrom), User: "postgres", Unfenced: true})
	if err != nil {
		return err
	}
	before, after, _ := strings.Cut("\n"+string(out.Stdout), "\n\n")
	known := logMessages(before)
	var fresh []string
	for _, m := range logMessages(after) {
		if !slices.Contains(known, m) && !meantToFail(m, plan) && !x.run.rotates(m) {
			fresh = append(fresh, m)
		}
	}
	if len(fresh) > 0 {
		return fmt.Errorf("logins are refused that were not before: %s", strings.Join(fresh[:min(3, len(fresh))], "; "))
	}
	return nil
}

// logMessages returns the messages of lines of a log, each once.
func logMessages(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		_, m, ok := strings.Cut(strings.TrimSpace(line), "FATAL:  ")
		if ok && !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}

// rotates reports whether a message is about a role whose password the run changes.
func (r *Run) rotates(message string) bool {
	return slices.ContainsFunc(r.Rotated, func(role string) bool { return strings.Contains(message, fmt.Sprintf("user %q", role)) })
}

func meantToFail(message string, plan *tasks.Plan) bool {
	return slices.ContainsFunc(plan.Steps, func(s tasks.Step) bool {
		return slices.ContainsFunc(s.Changes, func(c tasks.Change) bool {
			l, ok := c.Action.(tasks.Login)
			return ok && l.Refused && strings.Contains(message, fmt.Sprintf("user %q", l.Role))
		})
	})
}
