package postgres

import (
	"strings"
	"testing"
)

func TestQuoteIdent(t *testing.T) {
	for name, want := range map[string]string{
		"app": "app", "App": `"App"`, "a b": `"a b"`, `a"b`: `"a""b"`, "user": `"user"`, "system_user": `"system_user"`,
		"all": `"all"`, "x1": "x1", "1x": `"1x"`, "": `""`, "ä": `"ä"`, "json_table": `"json_table"`, "app-db": `"app-db"`,
	} {
		if got := QuoteIdent(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

func TestQuoteLiteral(t *testing.T) {
	for text, want := range map[string]string{"": "''", "a": "'a'", "it's": "'it''s'", `a\b`: `E'a\\b'`, `\'`: `E'\\'''`} {
		if got := QuoteLiteral(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestCheckIdent(t *testing.T) {
	if err := CheckIdent(strings.Repeat("x", 63)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", strings.Repeat("x", 64), strings.Repeat("ä", 32), "a\x00", "\xff"} {
		if CheckIdent(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestVersion(t *testing.T) {
	for v, want := range map[Version]string{150018: "15.18", 180000: "18", 0: "unknown", 130023: "13.23"} {
		if v.String() != want {
			t.Errorf("%d: %s", int(v), v)
		}
	}
	if v := Version(150018); v.Major() != 15 || v.Minor() != 18 || MajorVersion(15) != 150000 {
		t.Error(v.Major(), v.Minor())
	}
}
