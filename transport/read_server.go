package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// A statement is one of the statements of a facts.Postgres.
type statement struct {
	sql     string
	columns int                            // of its rows
	read    func(*facts.Server, row) error // takes a row into the Server; nil where there are none
	// failed takes the server's error, which then does not count against the
	// whole answer; nil where it does.
	failed func(*facts.Server, *pgconn.PgError)
}

// A row is one row in text format.
type row [][]byte

func (r row) text(i int) string { return string(r[i]) }
func (r row) bool(i int) bool   { return string(r[i]) == "t" }
func (r row) int(i int) int     { n, _ := strconv.Atoi(string(r[i])); return n }

// list reads an array that the query turned into JSON; NULL elements are "".
func (r row) list(i int) ([]string, error) {
	if r[i] == nil {
		return nil, nil
	}
	var list []string
	err := json.Unmarshal(r[i], &list)
	return list, err
}

// addr is invalid for NULL, a local socket. A single address is printed without
// its prefix length.
func (r row) addr(i int) netip.Addr {
	a, _ := netip.ParseAddr(string(r[i]))
	return a
}

// statements returns what to ask a server of a major version. They are sent as
// one message, so it takes one round trip.
//
// Names are qualified because the first query runs before search_path is set: it
// must show the parameters as they are. For the same reason the session starts
// with no parameters but application_name and client_encoding.
func statements(major int) []statement {
	hba := "NULL, NULL, "
	hbaOrder := ""
	if major >= 16 {
		hba, hbaOrder = "rule_number, file_name, ", "rule_number, file_name, "
	}
	all := []statement{
		{sql: `BEGIN READ ONLY`},
		{sql: `SELECT name, setting, unit, context, vartype, source, min_val, max_val, pg_catalog.array_to_json(enumvals), boot_val, reset_val,
			sourcefile, sourceline, pending_restart FROM pg_catalog.pg_settings`, columns: 14, read: readSetting},
		{sql: `SET LOCAL search_path = ''`},
		{sql: setTimeout()},
		{sql: `SET LOCAL lock_timeout = '5s'`},
		{sql: `SELECT pg_catalog.pg_is_in_recovery(), (SELECT system_identifier FROM pg_catalog.pg_control_system()),
			extract(epoch FROM pg_catalog.pg_postmaster_start_time()), extract(epoch FROM pg_catalog.pg_conf_load_time()),
			extract(epoch FROM pg_catalog.clock_timestamp())`, columns: 5, read: readIdentity},
		{sql: `SELECT sourcefile, sourceline, name, setting, applied, error FROM pg_catalog.pg_file_settings ORDER BY seqno`,
			columns: 6, read: readFileSetting, failed: noFileSettings},
		{sql: `SELECT ` + hba + `line_number, type, pg_catalog.array_to_json(database), pg_catalog.array_to_json(user_name), address, netmask,
			auth_method, pg_catalog.array_to_json(options), error
			FROM pg_catalog.pg_hba_file_rules ORDER BY ` + hbaOrder + `line_number`,
			columns: 11, read: readHBA, failed: noHBA},
		{sql: `SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), c FROM pg_catalog.pg_db_role_setting s
			LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole,
			pg_catalog.unnest(s.setconfig) c ORDER BY 1, 2, 3`, columns: 3, read: readOverride},
		{sql: `SELECT r.application_name, r.usename, r.client_addr, r.state, r.sync_state, coalesce(l.ssl, false)
			FROM pg_catalog.pg_stat_replication r LEFT JOIN pg_catalog.pg_stat_ssl l USING (pid) ORDER BY 1, 3, r.pid`, columns: 6, read: readStandby},
		{sql: `SELECT sender_host FROM pg_catalog.pg_stat_wal_receiver`, columns: 1, read: readUpstream},
		{sql: `SELECT a.datname, a.usename, a.client_addr, coalesce(l.ssl, false), a.application_name, pg_catalog.count(*)
			FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_ssl l USING (pid)
			WHERE a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid() AND a.application_name <> '` + applicationName + `'
			GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5`, columns: 6, read: readSession},
	}
	if major >= 15 {
		all = append(all, statement{sql: `SELECT line_number, error FROM pg_catalog.pg_ident_file_mappings WHERE error IS NOT NULL ORDER BY 1`,
			columns: 2, read: readIdentError, failed: noIdent})
	}
	return append(all, statement{sql: `COMMIT`})
}

// readServer asks a server about itself. The version, which decides what can be
// asked, is known from the start of the session.
func readServer(ctx context.Context, conn *pgconn.PgConn) (facts.Server, error) {
	major, _ := strconv.Atoi(leadingDigits(conn.ParameterStatus("server_version")))
	s := facts.Server{Reached: true}
	all := statements(major)
	results, err := execute(ctx, conn, "", all)
	// A statement that may fail is left out of another try.
	for pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && len(results) < len(all) && all[len(results)].failed != nil; pg = nil {
		at := len(results)
		all[at].failed(&s, pg)
		all = slices.Delete(all, at, at+1)
		results, err = execute(ctx, conn, "ROLLBACK;\n", all)
	}
	if err != nil {
		return facts.Server{}, err
	}
	for i, st := range all {
		if st.read == nil {
			continue
		}
		for _, r := range results[i].Rows {
			if len(r) != st.columns {
				return facts.Server{}, fmt.Errorf("the server's answer has %d columns where %d were asked for: is it PostgreSQL?", len(r), st.columns)
			}
			if err := st.read(&s, row(r)); err != nil {
				return facts.Server{}, fmt.Errorf("the server's answer: %w", err)
			}
		}
	}
	withoutSession(&s)
	for name, to := range map[string]*string{"data_directory": &s.DataDirectory, "config_file": &s.ConfigFile, "hba_file": &s.HBAFile, "ident_file": &s.IdentFile} {
		if row, ok := s.Setting(name); ok {
			*to = row.Setting
		}
	}
	if row, ok := s.Setting("server_version_num"); ok {
		n, _ := strconv.Atoi(row.Setting)
		s.Version = postgres.Version(n)
	}
	return s, nil
}

// execute sends statements as one message, after a command that prepares for
// them. It returns the results up to the first that failed.
func execute(ctx context.Context, conn *pgconn.PgConn, first string, all []statement) ([]*pgconn.Result, error) {
	sql := strings.Builder{}
	sql.WriteString(first)
	for _, s := range all {
		sql.WriteString(s.sql + ";\n")
	}
	results, err := conn.Exec(ctx, sql.String()).ReadAll()
	if n := len(results); n > 0 && results[n-1].Err != nil {
		results = results[:n-1] // it had begun
	}
	if first != "" && len(results) > 0 {
		results = results[1:]
	}
	if err == nil && len(results) != len(all) {
		err = fmt.Errorf("the server gave %d answers to %d statements: is it PostgreSQL?", len(results), len(all))
	}
	return results, err
}

// leadingDigits returns "15" of "15.18 (Debian 15.18-0+deb12u1)".
func leadingDigits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

func readSetting(s *facts.Server, r row) error {
	enum, err := r.list(8)
	s.Settings = append(s.Settings, postgres.Setting{
		Name: r.text(0), Setting: r.text(1), Unit: r.text(2), Context: r.text(3), VarType: r.text(4), Source: r.text(5),
		MinVal: r.text(6), MaxVal: r.text(7), EnumVals: enum, BootVal: r.text(9), ResetVal: r.text(10),
		SourceFile: r.text(11), SourceLine: r.int(12), PendingRestart: r.bool(13),
	})
	return err
}

func readIdentity(s *facts.Server, r row) error {
	s.InRecovery = r.bool(0)
	s.SystemIdentifier = r.text(1)
	for i, to := range []*time.Time{&s.Started, &s.Loaded, &s.Clock} {
		t, err := unixTime(r.text(2 + i))
		if err != nil {
			return err
		}
		*to = t
	}
	return nil
}

func readFileSetting(s *facts.Server, r row) error {
	s.FileSettings = append(s.FileSettings, facts.FileSetting{
		File: r.text(0), Line: r.int(1), Name: r.text(2), Value: r.text(3), Applied: r.bool(4), Error: r.text(5),
	})
	return nil
}

func readHBA(s *facts.Server, r row) error {
	h := postgres.HBARow{
		RuleNumber: r.int(0), File: r.text(1), Line: r.int(2), Type: r.text(3),
		Address: r.text(6), Netmask: r.text(7), Method: r.text(8), Error: r.text(10),
	}
	for i, to := range map[int]*[]string{4: &h.Database, 5: &h.User, 9: &h.Options} {
		list, err := r.list(i)
		if err != nil {
			return err
		}
		*to = list
	}
	s.HBA = append(s.HBA, h)
	return nil
}

// A file that the server cannot read at all has no line to complain about.
func noHBA(s *facts.Server, err *pgconn.PgError) {
	s.HBA = append(s.HBA, postgres.HBARow{Error: err.Message})
}

func noFileSettings(s *facts.Server, err *pgconn.PgError) {
	s.FileSettings = append(s.FileSettings, facts.FileSetting{Error: err.Message})
}

func noIdent(s *facts.Server, err *pgconn.PgError) {
	s.IdentErrors = append(s.IdentErrors, err.Message)
}

func readIdentError(s *facts.Server, r row) error {
	s.IdentErrors = append(s.IdentErrors, "line "+r.text(0)+": "+r.text(1))
	return nil
}

func readOverride(s *facts.Server, r row) error {
	name, value, _ := strings.Cut(r.text(2), "=")
	s.Overrides = append(s.Overrides, facts.Override{Database: r.text(0), Role: r.text(1), Name: name, Value: value})
	return nil
}

func readStandby(s *facts.Server, r row) error {
	s.Standbys = append(s.Standbys, facts.Standby{
		Name: r.text(0), User: r.text(1), Addr: r.addr(2), State: r.text(3), SyncState: r.text(4), TLS: r.bool(5),
	})
	return nil
}

func readUpstream(s *facts.Server, r row) error {
	s.Upstream = r.text(0)
	return nil
}

func readSession(s *facts.Server, r row) error {
	s.Sessions = append(s.Sessions, facts.Session{
		Database: r.text(0), User: r.text(1), Addr: r.addr(2), TLS: r.bool(3), Application: r.text(4), Count: r.int(5),
	})
	return nil
}

// withoutSession undoes what our own session and role change in pg_settings:
// where a parameter's value comes from the client, the role or the database, it
// puts back what the files say, or the built-in value. What the command line
// says of such a parameter is not visible from here.
func withoutSession(s *facts.Server) {
	for i := range s.Settings {
		st := &s.Settings[i]
		switch st.Source { // guc_tables.c, GucSource_Names
		case "client", "user", "database", "database user", "global", "session":
		default:
			continue
		}
		st.Setting, st.ResetVal, st.Source, st.SourceFile, st.SourceLine = st.BootVal, st.BootVal, "default", "", 0
		for _, f := range s.FileSettings {
			if !strings.EqualFold(f.Name, st.Name) || f.Error != "" || !f.Applied {
				continue
			}
			value, err := st.Normalize(f.Value)
			if err != nil {
				continue
			}
			st.Setting, st.ResetVal, st.Source, st.SourceFile, st.SourceLine = value, value, "configuration file", f.File, f.Line
		}
	}
}
