package facts

import (
	"net/netip"
	"time"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// A Server is what one running PostgreSQL server says of itself. When Reached
// is false the rest is empty and Problem says why.
type Server struct {
	Reached bool
	Problem string

	Version          postgres.Version
	InRecovery       bool
	SystemIdentifier string
	Started          time.Time // pg_postmaster_start_time()
	Loaded           time.Time // pg_conf_load_time()
	Clock            time.Time // the server's clock_timestamp()

	DataDirectory string
	ConfigFile    string
	HBAFile       string
	IdentFile     string

	Settings     []postgres.Setting // pg_settings, as a session without role or database overrides sees it where that can be told
	FileSettings []FileSetting      // pg_file_settings
	HBA          []postgres.HBARow  // pg_hba_file_rules: what the file says now, not what is loaded
	IdentErrors  []string           // pg_ident_file_mappings' errors, from 15 on
	Overrides    []Override         // pg_db_role_setting
	Standbys     []Standby          // pg_stat_replication
	Upstream     string             // sender_host of pg_stat_wal_receiver, on a standby
	UpstreamPort int                // its sender_port; 0 where Upstream is empty
	Sessions     []Session          // pg_stat_activity's clients, distinct
}

// A FileSetting is a row of pg_file_settings.
type FileSetting struct {
	File    string
	Line    int
	Name    string
	Value   string
	Applied bool
	Error   string
}

// An Override is a setting by ALTER ROLE or ALTER DATABASE. Database or Role is
// empty where it applies to all of them.
type Override struct {
	Database, Role string
	Name, Value    string
}

// A Standby is a row of pg_stat_replication.
type Standby struct {
	Name      string // application_name
	User      string
	Addr      netip.Addr // invalid for a local socket
	State     string
	SyncState string
	TLS       bool
	Database  string // empty for physical replication
}

// A Session is who is connected, from where: the distinct tuples of
// pg_stat_activity's client backends, pgfleet's own left out.
type Session struct {
	Database, User string
	Addr           netip.Addr // invalid for a local socket
	TLS            bool
	Application    string
	Count          int
}

// Setting returns the row of pg_settings with the given name, in the case that
// PostgreSQL prints it, and whether there is one.
func (s *Server) Setting(name string) (postgres.Setting, bool) {
	for i := range s.Settings {
		if s.Settings[i].Name == name {
			return s.Settings[i], true
		}
	}
	return postgres.Setting{}, false
}
