package postgres

import (
	"errors"
	"strings"
	"testing"
)

// testCatalog is a handful of rows as a server of that version has them.
func testCatalog(version Version) *Catalog {
	rows := []Setting{
		{Name: "work_mem", VarType: "integer", Unit: "kB", MinVal: "64", MaxVal: "2147483647", Context: "user"},
		{Name: "shared_buffers", VarType: "integer", Unit: "8kB", MinVal: "16", MaxVal: "1073741823", Context: "postmaster"},
		{Name: "wal_buffers", VarType: "integer", Unit: "8kB", MinVal: "-1", MaxVal: "262143", Context: "postmaster"},
		{Name: "statement_timeout", VarType: "integer", Unit: "ms", MinVal: "0", MaxVal: "2147483647", Context: "user"},
		{Name: "log_connections", VarType: "bool", Context: "superuser-backend"},
		{Name: "log_destination", VarType: "string", Context: "sighup"},
		{Name: "log_statement", VarType: "enum", EnumVals: []string{"none", "ddl", "mod", "all"}, Context: "superuser"},
		{Name: "shared_preload_libraries", VarType: "string", Context: "postmaster"},
		{Name: "unix_socket_permissions", VarType: "integer", MinVal: "0", MaxVal: "511", Context: "postmaster"},
		{Name: "random_page_cost", VarType: "real", MinVal: "0", MaxVal: "1.79769e+308", Context: "user"},
		{Name: "max_connections", VarType: "integer", MinVal: "1", MaxVal: "262143", Context: "postmaster"},
		{Name: "block_size", VarType: "integer", Context: "internal"},
		{Name: "archive_command", VarType: "string", Context: "sighup"},
		{Name: "synchronous_standby_names", VarType: "string", Context: "sighup"},
		{Name: "ssl_min_protocol_version", VarType: "enum", EnumVals: []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}, Context: "sighup"},
		{Name: "DateStyle", VarType: "string", Context: "user"},
	}
	if version.Major() >= 18 {
		rows = append(rows, Setting{Name: "ssl_groups", VarType: "string", Context: "sighup"})
	} else {
		rows = append(rows, Setting{Name: "ssl_ecdh_curve", VarType: "string", Context: "sighup"})
	}
	return NewCatalog(version, rows)
}

func TestCatalogCheck(t *testing.T) {
	for _, test := range []struct {
		major       int
		name, value string
		want        string // "" when it is taken
	}{
		{15, "work_mem", "64MB", ""},
		{15, "WORK_MEM", "64MB", ""},
		{15, "work_mem", "lots", `invalid value for parameter "work_mem": "lots"`},
		{15, "work_mem", "64mb", `invalid value for parameter "work_mem": "64mb" (Valid units for this parameter are "B", "kB", "MB", "GB", and "TB".)`},
		{15, "work_mem", "1kB", `1 kB is outside the valid range for parameter "work_mem" (64 .. 2147483647)`},
		{15, "statement_timeout", "5m", `invalid value for parameter "statement_timeout": "5m" (Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".)`},
		{15, "statement_timeout", "1000d", `invalid value for parameter "statement_timeout": "1000d" (Value exceeds integer range.)`},
		{15, "max_connections", "100kB", `invalid value for parameter "max_connections": "100kB"`},
		{15, "log_connections", "maybe", `parameter "log_connections" requires a Boolean value (on or off)`},
		{15, "log_statement", "dll", `invalid value for parameter "log_statement": "dll" (Available values: none, ddl, mod, all. Did you mean "ddl"?)`},
		{15, "log_destination", "syslog, stderr", ""},
		{15, "log_destination", "sylog", `invalid value for parameter "log_destination": "sylog" (Unrecognized key word: "sylog". Available: stderr, csvlog, jsonlog, syslog.)`},
		{14, "log_destination", "jsonlog", `invalid value for parameter "log_destination": "jsonlog" (Unrecognized key word: "jsonlog". Available: stderr, csvlog, syslog.)`},
		{15, "shared_preload_libraries", `"pgaudit`, `invalid value for parameter "shared_preload_libraries": "\"pgaudit" (List syntax is invalid.)`},
		{15, "block_size", "8192", `parameter "block_size" cannot be changed`},
		{15, "log_failed_attempts", "on", `unrecognized configuration parameter "log_failed_attempts" (failed logins are logged anyway; log_connections logs every attempt)`},
		{15, "ssl_groups", "X25519", `unrecognized configuration parameter "ssl_groups" (ssl_groups exists from PostgreSQL 18 on; this server is 15; use ssl_ecdh_curve)`},
		{18, "ssl_groups", "X25519", ""},
		{18, "ssl_ecdh_curve", "prime256v1", ""},
		{13, "idle_session_timeout", "1h", `unrecognized configuration parameter "idle_session_timeout" (idle_session_timeout exists from PostgreSQL 14 on; this server is 13; there, only idle_in_transaction_session_timeout exists)`},
		{16, "promote_trigger_file", "x", `unrecognized configuration parameter "promote_trigger_file" (promote_trigger_file is gone since PostgreSQL 16; this server is 16; promote with pg_ctl promote or pg_promote())`},
		{15, "wrok_mem", "1MB", `unrecognized configuration parameter "wrok_mem" (did you mean "work_mem"?)`},
		{15, "max_conections", "10", `unrecognized configuration parameter "max_conections" (did you mean "max_connections"?)`},
		{15, "frobnicate", "1", `unrecognized configuration parameter "frobnicate"`},
		{15, "myapp.tenant", "x", ""},
		{15, "my app.x", "x", `unrecognized configuration parameter "my app.x" (a custom parameter is two or more names joined by dots)`},
		{15, "pgaudit.log", "ddl, write, -role", ""},
		{15, "pgaudit.log", "READ", ""},
		{15, "pgaudit.log", "wrte", `invalid value for parameter "pgaudit.log": "wrte" ("wrte" is no class of statements; did you mean "write"?)`},
		{15, "pgaudit.logs", "ddl", `unrecognized configuration parameter "pgaudit.logs" (did you mean "pgaudit.log"?)`},
		{15, "pgaudit.log_level", "notice", ""},
		{15, "pgaudit.log_level", "loud", `invalid value for parameter "pgaudit.log_level": "loud" (Available values: debug5, debug4, debug3, debug2, debug1, info, notice, warning, log.)`},
		{15, "pgaudit.log_catalog", "of", ""},
	} {
		err := testCatalog(MajorVersion(test.major)).Check(test.name, test.value)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%d: %s = %s:\ngot  %s\nwant %s", test.major, test.name, test.value, got, test.want)
		}
		var value *ValueError
		var name *UnknownSettingError
		if err != nil && !errors.As(err, &value) && !errors.As(err, &name) {
			t.Errorf("%s: %T", test.name, err)
		}
	}
}

func TestEqual(t *testing.T) {
	catalog := testCatalog(150000)
	for _, test := range []struct {
		name, file, running string
		want                bool
	}{
		{"work_mem", "64MB", "65536", true},
		{"work_mem", "64MB", "65537", false},
		{"shared_buffers", "128MB", "16384", true},
		{"wal_buffers", "-1", "512", true},
		{"wal_buffers", "4MB", "512", true},
		{"wal_buffers", "8MB", "512", false},
		{"statement_timeout", "1.5min", "90000", true},
		{"log_connections", "yes", "on", true},
		{"log_connections", "0", "on", false},
		{"log_statement", "DDL", "ddl", true},
		{"unix_socket_permissions", "0770", "0770", true},
		{"unix_socket_permissions", "0770", "504", true},
		{"unix_socket_permissions", "0777", "0770", false},
		{"random_page_cost", "1.10", "1.1", true},
		{"random_page_cost", "1.1", "1.2", false},
		{"shared_preload_libraries", "a,b", "a, b", true},
		{"shared_preload_libraries", "a,b", "b, a", false},
		{"shared_preload_libraries", `"a,b"`, "a, b", false},
		{"synchronous_standby_names", "FIRST 1 (a,b)", "FIRST 1 ( a, b )", true},
		{"synchronous_standby_names", "FIRST 1 (a,b)", "FIRST 2 (a, b)", false},
		{"archive_command", "cp %p /x", "(disabled)", true},
		{"archive_command", "cp %p /x", "cp %p  /x", false},
		{"DateStyle", "iso,mdy", "ISO, MDY", true},
	} {
		s, ok := catalog.Lookup(test.name)
		if !ok {
			t.Fatal(test.name)
		}
		if got := s.Equal(test.file, test.running); got != test.want {
			t.Errorf("%s: %q and %q: %v", test.name, test.file, test.running, got)
		}
	}
}

func TestMergeList(t *testing.T) {
	for _, test := range []struct{ name, have, want, merged string }{
		{"shared_preload_libraries", "", "pgaudit", "pgaudit"},
		{"shared_preload_libraries", "pg_stat_statements", "pgaudit", "pg_stat_statements, pgaudit"},
		{"shared_preload_libraries", "pgaudit,x", "x, pgaudit", "pgaudit, x"},
		{"shared_preload_libraries", `$libdir/a, "with, comma"`, "b", `$libdir/a, "with, comma", b`},
		{"search_path", `"$user", public`, "App, \"App\"", `"$user", public, app, "App"`},
		{"log_destination", "STDERR", "stderr,syslog", "STDERR, syslog"},
	} {
		got, err := MergeList(test.name, test.have, test.want)
		if err != nil || got != test.merged {
			t.Errorf("%s: %q and %q: %q, %v", test.name, test.have, test.want, got, err)
		}
	}
	for _, bad := range []string{`"a`, "a,,b", "a,", ",", `"a" b`} {
		if _, err := MergeList("shared_preload_libraries", bad, "x"); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestTables(t *testing.T) {
	seen := make(map[string]bool)
	for _, h := range history {
		if seen[h.name] || h.name != strings.ToLower(h.name) || h.added == 0 && h.removed == 0 {
			t.Errorf("history of %q", h.name)
		}
		seen[h.name] = true
	}
	for name := range wrongNames {
		if seen[name] {
			t.Errorf("%s is a real name", name)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, value := range append(append([]string{}, testNumbers...), testWords...) {
		f.Add(value)
	}
	kinds := []Setting{
		{Name: "a", VarType: "integer", Unit: "kB", MinVal: "-2147483648", MaxVal: "2147483647"},
		{Name: "b", VarType: "integer", Unit: "min", MinVal: "-1", MaxVal: "2147483647"},
		{Name: "c", VarType: "integer", MinVal: "-2147483648", MaxVal: "2147483647"},
		{Name: "unix_socket_permissions", VarType: "integer", MinVal: "0", MaxVal: "511"},
		{Name: "d", VarType: "real", MinVal: "-1.79769e+308", MaxVal: "1.79769e+308"},
		{Name: "e", VarType: "real", Unit: "ms", MinVal: "-1", MaxVal: "100"},
		{Name: "f", VarType: "bool"},
		{Name: "g", VarType: "enum", EnumVals: []string{"on", "off", "auto"}},
		{Name: "search_path", VarType: "string"},
		{Name: "pgaudit.log", VarType: "string"},
		{Name: "synchronous_standby_names", VarType: "string"},
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, s := range kinds {
			once, err := s.Normalize(value)
			if err != nil {
				if s.Check(value) == nil {
					t.Error("Check and Normalize disagree")
				}
				continue
			}
			twice, err := s.Normalize(once)
			if err != nil || once != twice {
				t.Errorf("%s: %q: %q, then %q, %v", s.Name, value, once, twice, err)
			}
			if !s.Equal(value, once) {
				t.Errorf("%s: %q is not equal to its own %q", s.Name, value, once)
			}
		}
		for _, name := range []string{"search_path", "shared_preload_libraries", "log_destination"} {
			list, err := ParseList(name, value)
			if err != nil {
				continue
			}
			again, err := ParseList(name, JoinList(name, list))
			if err != nil || strings.Join(again, "\x00") != strings.Join(list, "\x00") {
				t.Errorf("%s: %q: %q, then %q, %v", name, value, list, again, err)
			}
		}
	})
}
