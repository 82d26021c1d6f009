package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/transport"
)

// A unitState is what systemd says of the units that make a backup on a host (systemctl show, org.freedesktop.systemd1(5)).
type unitState struct {
	Loaded     bool       `json:"loaded"`
	Active     string     `json:"active,omitempty"` // "inactive", "activating" while it runs, "failed"
	Result     string     `json:"result,omitempty"` // "success", "exit-code", "signal", "timeout", …
	ExitStatus string     `json:"exit_status,omitempty"`
	Invocation string     `json:"-"`
	Began      *time.Time `json:"began,omitempty"` // when it was started last
	Ended      *time.Time `json:"ended,omitempty"` // when it ended last
	Timer      bool       `json:"timer"`
	Next       *time.Time `json:"next,omitempty"`    // when the timer starts it
	Message    string     `json:"message,omitempty"` // why it failed, from the journal
}

// running reports whether a run goes on.
func (u *unitState) running() bool { return u.Active == "activating" || u.Active == "active" }

const showUnit = `TZ=UTC LC_ALL=C systemctl show "$unit.service" --property=LoadState,ActiveState,Result,ExecMainStatus,InvocationID,ExecMainStartTimestamp,InactiveEnterTimestamp
echo
TZ=UTC LC_ALL=C systemctl show "$unit.timer" --property=LoadState,ActiveState,NextElapseUSecRealtime
`

// askUnit asks systemd about a unit.
func askUnit(ctx context.Context, conn transport.Conn, unit string) (unitState, error) {
	script := "unit=" + transport.Quote(unit) + "\n" + showUnit
	out, err := conn.Run(ctx, transport.Command{Script: script, User: "root", Unfenced: true})
	if err != nil {
		return unitState{}, err
	}
	if out.ExitCode != 0 {
		return unitState{}, fmt.Errorf("systemctl show %s: %s", unit, firstLine(string(out.Stderr)))
	}
	return parseUnit(string(out.Stdout)), nil
}

func parseUnit(text string) unitState {
	service, timer, _ := strings.Cut(text, "\n\n")
	s, t := properties(service), properties(timer)
	u := unitState{
		Loaded: s["LoadState"] == "loaded", Active: s["ActiveState"], Result: s["Result"], ExitStatus: s["ExecMainStatus"], Invocation: s["InvocationID"],
		Began: unitTime(s["ExecMainStartTimestamp"]), Ended: unitTime(s["InactiveEnterTimestamp"]), Timer: t["LoadState"] == "loaded" && t["ActiveState"] == "active",
	}
	if u.Timer {
		u.Next = unitTime(t["NextElapseUSecRealtime"])
	}
	return u
}

func properties(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			all[name] = value
		}
	}
	return all
}

// unitTime reads a time as systemctl show prints it with TZ=UTC; nil if there is none.
func unitTime(text string) *time.Time {
	t, err := time.Parse("Mon 2006-01-02 15:04:05 MST", text)
	if err != nil {
		return nil
	}
	return &t
}

// askJournal returns what a run of a unit has printed, the last lines.
func askJournal(ctx context.Context, conn transport.Conn, unit, invocation string) (string, error) {
	by := "--unit=" + transport.Quote(unit+".service")
	if invocation != "" {
		by = "_SYSTEMD_INVOCATION_ID=" + transport.Quote(invocation)
	}
	out, err := conn.Run(ctx, transport.Command{Script: "journalctl --quiet --no-pager --output=cat --lines=5 " + by, User: "root", Unfenced: true})
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(out.Stdout)), nil
}

// lastSaid is the last line of a journal.
func lastSaid(journal string) string {
	lines := strings.Split(journal, "\n")
	return lines[len(lines)-1]
}

// askOthers returns what other programs cover that make backups of a server, and what restores may have left on it: a sentence for each.
func askOthers(ctx context.Context, conn transport.Conn, port int) (others, left []string, err error) {
	session, err := conn.Postgres(ctx, transport.Endpoint{Port: port})
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = session.Close(ctx)
	}()
	var e hosted.Evidence
	const query = `SELECT coalesce(max(setting) FILTER (WHERE name = 'archive_mode'), ''), coalesce(max(setting) FILTER (WHERE name = 'archive_command'), ''),
		coalesce(max(setting) FILTER (WHERE name = 'archive_library'), ''), coalesce(max(setting) FILTER (WHERE name = 'restore_command'), ''),
		ARRAY(SELECT slot_name::text FROM pg_catalog.pg_replication_slots), ARRAY(SELECT application_name FROM pg_catalog.pg_stat_replication),
		coalesce((SELECT to_char(last_archived_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') FROM pg_catalog.pg_stat_archiver), ''),
		coalesce((SELECT last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_catalog.pg_stat_archiver), false)
		FROM pg_catalog.pg_settings`
	err = session.QueryRow(ctx, query).Scan(&e.ArchiveMode, &e.ArchiveCommand, &e.ArchiveLibrary, &e.RestoreCommand, &e.Slots, &e.Clients, &e.Archived, &e.Failing)
	if err != nil {
		return nil, nil, errors.New(firstLine(err.Error()))
	}
	rows, err := session.Query(ctx, "SELECT datname FROM pg_catalog.pg_database WHERE datname ^@ 'pgfleet_restoring_' OR NOT datallowconn AND datname <> 'template0' ORDER BY datname")
	if err != nil {
		return nil, nil, errors.New(firstLine(err.Error()))
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, nil, errors.New(firstLine(err.Error()))
	}
	for _, name := range names {
		left = append(left, leftOver(name))
	}
	return hosted.Others(e), left, nil
}

// leftOver says what to do with a database that a restore may have left.
func leftOver(name string) string {
	if strings.HasPrefix(name, "pgfleet_restoring_") {
		return fmt.Sprintf("the database %s is of a restore that goes on, or of one that was cut off or differed: then drop it, with DROP DATABASE %s", name, postgres.QuoteIdent(name))
	}
	return fmt.Sprintf("the database %s lets nobody connect; if that is not meant: ALTER DATABASE %s WITH ALLOW_CONNECTIONS true", name, postgres.QuoteIdent(name))
}
