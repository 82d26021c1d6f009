package postgres

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// testSettings reads pg_settings whole.
func testSettings(t *testing.T, s *realServer) []Setting {
	t.Helper()
	rows, err := s.Admin.Query(t.Context(), `SELECT name, coalesce(setting, '') AS setting, coalesce(unit, '') AS unit, category, context,
		vartype AS var_type, source, coalesce(min_val, '') AS min_val, coalesce(max_val, '') AS max_val, enumvals AS enum_vals,
		coalesce(boot_val, '') AS boot_val, coalesce(reset_val, '') AS reset_val, coalesce(sourcefile, '') AS source_file,
		coalesce(sourceline, 0) AS source_line, pending_restart FROM pg_settings ORDER BY name`)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := pgx.CollectRows(rows, pgx.RowToStructByName[Setting])
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

func TestRealSettings(t *testing.T) {
	t.Parallel()
	eachServer(t, func(t *testing.T, s *realServer) {
		settings := testSettings(t, s)
		t.Run("rows", func(t *testing.T) { testRows(t, s, settings) })
		t.Run("history", func(t *testing.T) { testHistory(t, s, settings) })
		t.Run("values", func(t *testing.T) { testValues(t, s, settings) })
		t.Run("keywords", func(t *testing.T) { testKeywords(t, s) })
	})
}

// testRows: what the server has by itself passes Check and is stable under Normalize.
func testRows(t *testing.T, s *realServer, settings []Setting) {
	if len(settings) < 300 {
		t.Fatalf("only %d settings", len(settings))
	}
	catalog := NewCatalog(s.version, settings)
	for _, row := range settings {
		for _, value := range []string{row.BootVal, row.Setting, row.ResetVal} {
			if value == "" && row.VarType != "string" && row.VarType != "enum" || value == "unset" && row.VarType == "enum" {
				continue
			}
			once, err := row.Normalize(value)
			if err != nil {
				t.Errorf("%s = %q: %v", row.Name, value, err)
				continue
			}
			twice, err := row.Normalize(once)
			if err != nil || once != twice {
				t.Errorf("%s = %q: %q, then %q, %v", row.Name, value, once, twice, err)
			}
		}
		if row.VarType != "string" && !row.Equal(row.ResetVal, row.Running()) && row.ResetVal != "" && row.Source != "session" {
			t.Errorf("%s: reset value %q is not the running %q", row.Name, row.ResetVal, row.Running())
		}
		if found, ok := catalog.Lookup(strings.ToUpper(row.Name)); !ok || found.Name != row.Name {
			t.Errorf("%s is not found in capitals", row.Name)
		}
	}
}

// testHistory: the table of what came and went agrees with this server.
func testHistory(t *testing.T, s *realServer, settings []Setting) {
	known := make(map[string]bool)
	for _, row := range settings {
		known[strings.ToLower(row.Name)] = true
	}
	for _, h := range history {
		there := s.version.Major() >= h.added && (h.removed == 0 || s.version.Major() < h.removed)
		if there && !known[h.name] {
			t.Errorf("%s should be on %s", h.name, s.version)
		}
		// A minor release brought these to older versions as well.
		if !there && known[h.name] && h.name != "restrict_nonsystem_relation_kind" && h.name != "allow_in_place_tablespaces" {
			t.Errorf("%s should not be on %s", h.name, s.version)
		}
	}
	for _, name := range RestartOrderUp {
		if !known[name] {
			t.Errorf("%s is not on %s", name, s.version)
		}
	}
}

var testNumbers = []string{
	"", " ", "0", "1", "-1", "2", "10", "100", "1000", "64", "010", "08", "0x10", "0X1F", "0xg", "1.5", "0.5", ".5", "5.", "1e3", "1E2", "1e", "1e400", "1e-400",
	"-0.4", "2147483647", "2147483648", "-2147483648", "99999999999999999999", "nan", "NaN", "inf", "-Infinity", "lots", "1x", "1 x", "+5", "- 5", "  7  ", "7\t",
	"64kB", "64 kB", "64KB", "64kb", "1MB", "1.5MB", "0.7GB", "30.1GB", "1TB", "8192B", "100B", "1B", "1GB x", "1GBGB", "1kBx", "MB",
	"1ms", "1 s", "1min", "2h", "1d", "1.5d", "1500us", "500us", "1.5s", "90 min", "1S", "1Min", "100000d", "0x1p3", "0x1.8", "1_000", "1e3ms", "1e1kB",
	"0.25", "100.5", "1e10", "0.1234567", "12345678.9",
}

var testWords = []string{
	"on", "ON", "of", "off", "o", "t", "tr", "tRuE", "truex", "y", "ye", "yes", "n", "no", "nope", "f", "false", "1", "0", "2", "01", "", " on", "on ", "debug",
	"archive", "hot_standby", "replica", "Replica", "minimal", "info", "fatal", "panic", "log", "auto", "none", "always", "try", "TLSv1.2", "tlsv1.2", "TLSv1.4",
	"serializable", "Read Committed", "read_committed", "hex", "pglz", "lz4", "md5", "scram-sha-256", "scram", "local0", "remote_apply", "regress",
}

// testValues: every value of the tables is judged the same by the server and by Check, for every parameter that is no string,
// and Normalize gives what the server shows.
func testValues(t *testing.T, s *realServer, settings []Setting) {
	compared := 0
	seen := make(map[string]bool)
	for _, row := range settings {
		// Parameters of one kind are judged by the same code: one of each will do, but in a soak.
		kind := fmt.Sprint(row.VarType, row.Unit, row.MinVal, row.MaxVal, row.EnumVals, row.octal(), row.Context == "user")
		if seen[kind] && os.Getenv("PGFLEET_SOAK") == "" {
			continue
		}
		values := testNumbers
		switch row.VarType {
		case "bool", "enum":
			values = testWords
		case "string":
			continue
		}
		if row.Context == "internal" || inList(notInFiles, row.Name) || row.Name == "data_directory_mode" {
			continue
		}
		seen[kind] = true
		for _, value := range values {
			normal, err := row.Normalize(value)
			shown, serverErr := s.try(t, row, value)
			compared++
			switch {
			case err != nil && serverErr == nil && row.Name == "password_encryption":
				// 13 still takes on for md5; refused here, since nobody who writes on wants that.
			case err != nil && serverErr == nil:
				t.Errorf("%s = %q: the server takes it (%q): %v", row.Name, value, shown, err)
			case err == nil && serverErr != nil && !ownOpinion(row.Name, serverErr):
				t.Errorf("%s = %q: taken as %q, but the server: %v", row.Name, value, normal, serverErr)
			case err == nil && serverErr == nil && shown != "" && normal != shown:
				t.Errorf("%s = %q: %q, but the server shows %q", row.Name, value, normal, shown)
			}
		}
	}
	s.Exec(t, "ALTER SYSTEM RESET ALL")
	if compared < 3000 {
		t.Errorf("only %d values compared", compared)
	}
}

// try gives a value to the server. Where a session may set the parameter it returns what is shown then.
func (s *realServer) try(t *testing.T, row Setting, value string) (shown string, err error) {
	// A timeout of a millisecond or exit_on_error would end this very session.
	session := (row.Context == "user" || row.Context == "superuser") && !strings.Contains(row.Name, "timeout") && row.Name != "exit_on_error"
	if !session {
		_, err := s.Admin.Exec(t.Context(), fmt.Sprintf("ALTER SYSTEM SET %s = %s", QuoteIdent(row.Name), QuoteLiteral(value)))
		return "", err
	}
	tx, err := s.Admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "SELECT set_config($1, $2, true)", row.Name, value); err != nil {
		return "", err
	}
	if strings.HasPrefix(row.Name, "tcp_") {
		return "", nil // shows what the session's own socket has
	}
	return shown, tx.QueryRow(t.Context(), "SELECT setting FROM pg_settings WHERE name = $1", row.Name).Scan(&shown)
}

// ownOpinion reports whether the server refuses a value for a reason that only it can know.
func ownOpinion(name string, err error) bool {
	if name == "max_stack_depth" { // bounded by the kernel's stack limit
		return true
	}
	text := err.Error()
	return !strings.Contains(text, "invalid value for parameter") && !strings.Contains(text, "outside the valid range") &&
		!strings.Contains(text, "requires a Boolean")
}

// testKeywords: QuoteIdent quotes what the server quotes.
func testKeywords(t *testing.T, s *realServer) {
	rows, err := s.Admin.Query(t.Context(), "SELECT word FROM pg_get_keywords() UNION ALL SELECT unnest(ARRAY['a','A','a b','1a','_x','x1','x$','ä','a\"b','user'])")
	if err != nil {
		t.Fatal(err)
	}
	words, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range words {
		var quoted, literal string
		if err := s.Admin.QueryRow(t.Context(), "SELECT quote_ident($1)", word).Scan(&quoted); err != nil {
			t.Fatal(err)
		}
		if mine := QuoteIdent(word); mine != quoted && mine != `"`+word+`"` {
			t.Errorf("QuoteIdent(%q) = %s, the server: %s", word, mine, quoted)
		}
		if plainIdent(quoted) != plainIdent(QuoteIdent(word)) && plainIdent(QuoteIdent(word)) {
			t.Errorf("QuoteIdent(%q) is not quoted, the server quotes it", word)
		}
		for _, text := range []string{word, `it's \ 'quoted'`, "line\nbreak", `\`, `'`} {
			if err := s.Admin.QueryRow(t.Context(), "SELECT "+QuoteLiteral(text)).Scan(&literal); err != nil || literal != text {
				t.Errorf("QuoteLiteral(%q) reads back as %q, %v", text, literal, err)
			}
		}
	}
}
