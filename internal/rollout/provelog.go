package rollout

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed" // the script
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/tasks"
	"github.com/pgfleet/pgfleet/transport"
)

//go:embed provelog.sh
var proveLogScript string

// How long a record gets to arrive, and how often it is looked for.
const (
	proveTimeout = 10 * time.Second
	proveEvery   = 200 * time.Millisecond
)

// A sink is one of the places that log_destination names.
type sink struct {
	destination string // "stderr", "syslog", …
	file        string // of the server itself; "" for syslog and the journal
	journal     bool
	looked      string // where it is looked for
	hint        string // what to do when nothing arrives
	problem     string // why nothing can arrive
}

// proveLog writes a record with a random word through pgaudit, and finds it again
// in every place that log_destination names. That the server is told to log, and
// says so, does not mean that anything arrives.
func (x *executor) proveLog(ctx context.Context, a tasks.ProveLog) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(a.Timeout, proveTimeout)+closeTimeout)
	defer cancel()
	x.phase("proving that audit records arrive")
	conn, err := x.conn.Postgres(ctx, transport.Endpoint{SocketDir: a.SocketDir, Port: a.Port})
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	if err := x.hold(ctx, conn); err != nil {
		return err
	}
	since, err := x.hostClock(ctx)
	if err != nil {
		return err
	}
	sinks, err := x.sinks(ctx, conn)
	if err != nil {
		return err
	}
	word, err := writeRecord(ctx, conn)
	if err != nil {
		return err
	}
	var files []string // the server's own, which are no proof of another place
	for _, s := range sinks {
		files = append(files, s.file)
	}
	deadline := time.Now().Add(cmp.Or(a.Timeout, proveTimeout))
	for {
		if sinks, err = x.lookFor(ctx, word, since, files, sinks); err != nil {
			return because(ctx, err)
		}
		if len(sinks) == 0 {
			return nil
		}
		if time.Now().After(deadline) || !slices.ContainsFunc(sinks, func(s sink) bool { return s.problem == "" }) {
			break
		}
		select {
		case <-time.After(proveEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var problems []error
	for _, s := range sinks {
		problems = append(problems, s.failed())
	}
	return errors.Join(problems...)
}

func (s sink) failed() error {
	if s.problem != "" {
		return errors.New(s.problem)
	}
	return fmt.Errorf("log_destination has %s, and no audit record arrived in %s: %s", s.destination, s.looked, s.hint)
}

// writeRecord has pgaudit write a record, and returns the word in it. Everything
// but what decides whether this statement is audited stays as it is.
func writeRecord(ctx context.Context, conn *pgx.Conn) (string, error) {
	// A parameter that a file sets for a library which is not loaded is not in
	// pg_settings.
	rows, err := conn.Query(ctx, `SELECT s.name, pg_catalog.set_config(s.name, v.value, false) FROM pg_catalog.pg_settings s
		JOIN (VALUES ('pgaudit.log', 'all'), ('pgaudit.log_level', 'log'), ('pgaudit.log_client', 'off'), ('pgaudit.log_catalog', 'on'),
			('pgaudit.log_statement', 'on')) AS v (name, value) ON v.name = s.name`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return "", err
	}
	set := 0
	var name, value string
	if _, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error { set++; return nil }); err != nil {
		return "", err
	}
	if set == 0 {
		return "", errors.New("pgaudit is not loaded, so nothing is audited: shared_preload_libraries has to name it, and a restart loads it")
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never returns an error
	word := "pgfleet-proof-" + hex.EncodeToString(random)
	_, err = conn.Exec(ctx, "SELECT "+postgres.QuoteLiteral(word), pgx.QueryExecModeSimpleProtocol)
	return word, err
}

// sinks asks the server where it logs.
func (x *executor) sinks(ctx context.Context, conn *pgx.Conn) ([]sink, error) {
	setting := func(name string) (string, error) {
		var value string
		err := conn.QueryRow(ctx, "SELECT pg_catalog.current_setting("+postgres.QuoteLiteral(name)+")", pgx.QueryExecModeSimpleProtocol).Scan(&value)
		return value, err
	}
	values := map[string]string{}
	for _, name := range []string{"log_destination", "logging_collector", "data_directory", "log_min_messages"} {
		var err error
		if values[name], err = setting(name); err != nil {
			return nil, err
		}
	}
	hint := "see what is written there instead"
	if level := values["log_min_messages"]; level == "fatal" || level == "panic" {
		hint = "log_min_messages = " + level + " keeps audit records out of the log; they are of level log"
	}
	destinations, err := postgres.ParseList("log_destination", values["log_destination"])
	if err != nil {
		return nil, err
	}
	var list []sink
	for _, d := range destinations {
		s := sink{destination: strings.ToLower(d), hint: hint}
		switch {
		case s.destination == "syslog":
			s.looked = "the journal or under /var/log"
			if hint == "see what is written there instead" {
				s.hint = "is /dev/log there (systemctl status systemd-journald.socket rsyslog)?"
			}
		case values["logging_collector"] == "on":
			if s.file, err = currentLog(ctx, conn, s.destination, values["data_directory"]); err != nil {
				return nil, err
			}
			s.looked = s.file
			if s.file == "" {
				s.problem = fmt.Sprintf("log_destination has %s, and the server has no such log file open: does the logging collector run, and is log_directory writable for postgres?", s.destination)
			}
		case s.destination == "stderr":
			if s.file, err = x.stderrOf(ctx, values["data_directory"]); err != nil {
				return nil, err
			}
			s.looked = s.file
			switch {
			case strings.HasPrefix(s.file, "/dev/"), strings.HasSuffix(s.file, " (deleted)"):
				s.problem = fmt.Sprintf("log_destination has stderr, and the server's stderr is %s", s.file)
			case !strings.HasPrefix(s.file, "/"): // a socket or a pipe: systemd's
				s.file, s.journal, s.looked = "", true, "the journal, where the server's stderr goes"
			}
		default:
			s.problem = fmt.Sprintf("log_destination has %s, which needs logging_collector = on", s.destination)
		}
		list = append(list, s)
	}
	return list, nil
}

// currentLog returns the file that the logging collector writes in some format.
func currentLog(ctx context.Context, conn *pgx.Conn, format, dataDir string) (string, error) {
	var file string
	err := conn.QueryRow(ctx, "SELECT coalesce(pg_catalog.pg_current_logfile("+postgres.QuoteLiteral(format)+"), '')", pgx.QueryExecModeSimpleProtocol).Scan(&file)
	if file != "" && !path.IsAbs(file) {
		file = path.Join(dataDir, file)
	}
	return file, err
}

// stderrOf returns what the postmaster's stderr is: the file that pg_ctlcluster
// opened, or a socket of the journal's.
func (x *executor) stderrOf(ctx context.Context, dataDir string) (string, error) {
	out, err := x.conn.Run(ctx, transport.Command{
		Script: "set -e; cd " + transport.Quote(dataDir) + "; read -r pid <postmaster.pid; readlink /proc/$pid/fd/2", User: "postgres", Unfenced: true,
	})
	if err != nil {
		return "", err
	}
	if out.ExitCode != 0 {
		return "", fmt.Errorf("where the server's stderr goes is not known: %s", message(out))
	}
	return strings.TrimSpace(string(out.Stdout)), nil
}

func (x *executor) hostClock(ctx context.Context) (int64, error) {
	out, err := x.conn.Run(ctx, transport.Command{Script: "date +%s", Unfenced: true})
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(out.Stdout)), 10, 64)
}

// lookFor returns the sinks in which the word has not arrived. The server's own
// files are read as postgres, whose they are, and the system's as root.
func (x *executor) lookFor(ctx context.Context, word string, since int64, skip []string, sinks []sink) ([]sink, error) {
	var own []string
	stderr, syslog := false, false
	for _, s := range sinks {
		if s.file != "" && s.problem == "" {
			own = append(own, s.file)
		}
		stderr, syslog = stderr || s.journal, syslog || s.destination == "syslog"
	}
	arrived := map[string]bool{}
	if len(own) > 0 {
		vars := fmt.Sprintf("files=%s journal=no syslog=no\n", transport.Quote(strings.Join(own, "\n")))
		if err := x.search(ctx, "postgres", word, vars, arrived); err != nil {
			return nil, err
		}
	}
	if stderr || syslog {
		vars := fmt.Sprintf("files= journal=yes syslog=%s since=%d skip=%s\n", map[bool]string{true: "yes", false: "no"}[syslog && !stderr],
			since-1, transport.Quote(strings.Join(skip, "\n")))
		if err := x.search(ctx, "root", word, vars, arrived); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(slices.Clone(sinks), func(s sink) bool {
		return s.file != "" && arrived[s.file] || s.journal && arrived["journal stdout"] || s.destination == "syslog" && arrived["syslog"]
	}), nil
}

// search looks once, and notes where the word has arrived.
func (x *executor) search(ctx context.Context, user, word, vars string, arrived map[string]bool) error {
	out, err := x.conn.Run(ctx, transport.Command{Script: vars + proveLogScript, User: user, Stdin: []byte(word + "\n"), Unfenced: true})
	if err != nil {
		return err
	}
	if out.ExitCode != 0 {
		return fmt.Errorf("the log could not be searched: %s", message(out))
	}
	for line := range strings.Lines(string(out.Stdout)) {
		arrived[strings.TrimSuffix(line, "\n")] = true
	}
	return nil
}
