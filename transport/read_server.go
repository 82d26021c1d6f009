package transport

import (
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
)

// askAboutServer asks a server of a major version about itself.
//
// Names are qualified because the first query runs before search_path is set: it
// must show the parameters as they are. For the same reason the session starts
// with no parameters but application_name and client_encoding.
func askAboutServer(r facts.Postgres, major int) *question {
	s := facts.Server{Reached: true}
	hba := "NULL, NULL, "
	hbaOrder := ""
	if major >= 16 {
		hba, hbaOrder = "rule_number, file_name, ", "rule_number, file_name, "
	}
	into := func(read func(*facts.Server, row) error) func(row) error {
		return func(r row) error { return read(&s, r) }
	}
	failed := func(note func(*facts.Server, *pgconn.PgError)) func(*pgconn.PgError) {
		return func(pg *pgconn.PgError) { note(&s, pg) }
	}
	all := []statement{
		{sql: `SELECT name, setting, unit, context, vartype, source, min_val, max_val, pg_catalog.array_to_json(enumvals), boot_val, reset_val,
			sourcefile, sourceline, pending_restart FROM pg_catalog.pg_settings`, columns: 14, read: into(readSetting)},
		{sql: `SET LOCAL search_path = ''`},
		setTimeout(),
		{sql: `SET LOCAL lock_timeout = '5s'`},
		{sql: `SELECT pg_catalog.pg_is_in_recovery(), (SELECT system_identifier FROM pg_catalog.pg_control_system()),
			extract(epoch FROM pg_catalog.pg_postmaster_start_time()), extract(epoch FROM pg_catalog.pg_conf_load_time()),
			extract(epoch FROM pg_catalog.clock_timestamp())`, columns: 5, read: into(readIdentity)},
		{sql: `SELECT sourcefile, sourceline, name, setting, applied, error FROM pg_catalog.pg_file_settings ORDER BY seqno`,
			columns: 6, read: into(readFileSetting), failed: failed(noFileSettings)},
		{sql: `SELECT ` + hba + `line_number, type, pg_catalog.array_to_json(database), pg_catalog.array_to_json(user_name), address, netmask,
			auth_method, pg_catalog.array_to_json(options), error
			FROM pg_catalog.pg_hba_file_rules ORDER BY ` + hbaOrder + `line_number`,
			columns: 11, read: into(readHBA), failed: failed(noHBA)},
		{sql: `SELECT coalesce(d.datname, ''), CASE s.setrole WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(s.setrole) END, c FROM pg_catalog.pg_db_role_setting s
			LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, pg_catalog.unnest(s.setconfig) c ORDER BY 1, 2, 3`, columns: 3, read: into(readOverride)},
		// The functions behind pg_stat_replication, pg_stat_activity and
		// pg_stat_ssl, because planning the joins of the views takes the server
		// longer than all the rest.
		{sql: `SELECT a.application_name, pg_catalog.pg_get_userbyid(a.usesysid), a.client_addr, r.state, r.sync_state, coalesce(a.ssl, false), coalesce(d.datname, '')
			FROM pg_catalog.pg_stat_get_wal_senders() r JOIN pg_catalog.pg_stat_get_activity(NULL) a USING (pid)
			LEFT JOIN pg_catalog.pg_database d ON d.oid = a.datid ORDER BY 1, 3, pid`, columns: 7, read: into(readStandby)},
		{sql: `SELECT sender_host, sender_port FROM pg_catalog.pg_stat_wal_receiver`, columns: 2, read: into(readUpstream)},
		{sql: `SELECT d.datname, pg_catalog.pg_get_userbyid(a.usesysid), a.client_addr, coalesce(a.ssl, false), a.application_name, pg_catalog.count(*)
			FROM pg_catalog.pg_stat_get_activity(NULL) a LEFT JOIN pg_catalog.pg_database d ON d.oid = a.datid
			WHERE a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid() AND a.application_name <> '` + applicationName + `'
			GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5`, columns: 6, read: into(readSession)},
	}
	if major >= 15 {
		all = append(all, statement{sql: `SELECT line_number, error FROM pg_catalog.pg_ident_file_mappings WHERE error IS NOT NULL ORDER BY 1`,
			columns: 2, read: into(readIdentError), failed: failed(noIdent)})
	}
	return &question{
		read: r, begin: "BEGIN READ ONLY", end: endReading, list: all,
		answer: func(r reply) (any, error) {
			if r.failed != nil {
				return facts.Server{}, r.failed
			}
			finish(&s)
			return s, nil
		},
	}
}

// finish takes what was read together.
func finish(s *facts.Server) {
	withoutSession(s)
	for name, to := range map[string]*string{"data_directory": &s.DataDirectory, "config_file": &s.ConfigFile, "hba_file": &s.HBAFile, "ident_file": &s.IdentFile} {
		if row, ok := s.Setting(name); ok {
			*to = row.Setting
		}
	}
	if row, ok := s.Setting("server_version_num"); ok {
		n, _ := strconv.Atoi(row.Setting)
		s.Version = postgres.Version(n)
	}
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
		Name: r.text(0), User: r.text(1), Addr: r.addr(2), State: r.text(3), SyncState: r.text(4), TLS: r.bool(5), Database: r.text(6),
	})
	return nil
}

func readUpstream(s *facts.Server, r row) error {
	s.Upstream, s.UpstreamPort = r.text(0), r.int(1)
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
