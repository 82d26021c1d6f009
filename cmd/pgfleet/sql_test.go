package main

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgfleet/pgfleet/transport"
)

func TestSQLError(t *testing.T) {
	query := "select 1,\n\tfoo\n  from ä_bar"
	err := sqlError(&pgconn.PgError{
		Severity: "ERROR", Code: "42P01", Message: `relation "ä_bar" does not exist`, Position: 23, Detail: "Really.", Hint: "Look again.",
	}, query)
	want := "ERROR:  relation \"ä_bar\" does not exist\nLINE 3:   from ä_bar\n               ^\nDETAIL:  Really.\nHINT:  Look again."
	if err.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", err, want)
	}
	err = sqlError(&pgconn.PgError{Severity: "ERROR", Code: "25006", Message: "cannot"}, query)
	if want := "ERROR:  cannot\nHINT:  Add --write to let the query change something."; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if got := caret("\tx", 2); got != "\nLINE 1: \tx\n        \t^" {
		t.Errorf("got %q", got)
	}
	if got := caret("x", 99); got != "\nLINE 1: x\n         ^" {
		t.Errorf("beyond the end: %q", got)
	}
	other := errors.New("gone")
	if !errors.Is(sqlError(other, query), other) {
		t.Error("another error was changed")
	}
}

func testReplies() []reply {
	text := func(s string) *string { return &s }
	old := rowset{columns: []string{"name", "n"}, types: []uint32{pgtype.TextOID, pgtype.Int8OID}, tag: "SELECT 2"}
	old.rows = [][]*string{{text("a\nb"), text("7")}, {nil, text("12")}}
	wider := rowset{columns: []string{"name", "n", "new"}, types: []uint32{pgtype.TextOID, pgtype.Int8OID, pgtype.BoolOID}, tag: "SELECT 1"}
	wider.rows = [][]*string{{text("ü"), text("1"), text("t")}}
	return []reply{
		{instance: "pg01", results: []rowset{old, {tag: "SET"}}},
		{instance: "pg02/second", results: []rowset{wider}},
		{instance: "pg03", err: errors.New("no")},
	}
}

func TestRenderReplies(t *testing.T) {
	golden(t, "sql.txt", renderReplies(testReplies()))
	text, err := encode(repliesJSON(testReplies()))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "sql.json", string(text))

	u, read := testUI(t)
	q := querying{app: &app{ui: u}}
	if err := q.showCSV(testReplies()); err != nil {
		t.Fatal(err)
	}
	out, _ := read()
	golden(t, "sql.csv", out)
}

// A column may be called anything. Tables show it; CSV is data and holds it as
// it is.
func TestColumnNames(t *testing.T) {
	value := "\x9b1m"
	set := rowset{columns: []string{"a\x1b[2J\u202e"}, types: []uint32{pgtype.TextOID}, rows: [][]*string{{&value}}}
	replies := []reply{{instance: "pg01", results: []rowset{set}}}
	if got, want := renderReplies(replies), " instance | a\\x1b[2J\\u202e\n----------+----------------\n pg01     | \\x9b1m\n(1 row)\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	u, read := testUI(t)
	if err := (&querying{app: &app{ui: u}}).showCSV(replies); err != nil {
		t.Fatal(err)
	}
	if out, _ := read(); out != "instance,a\x1b[2J\u202e\npg01,\x9b1m\n" {
		t.Errorf("CSV: %q", out)
	}
}

func TestJSONValue(t *testing.T) {
	text := func(s string) *string { return &s }
	tests := []struct {
		value *string
		oid   uint32
		want  string
	}{
		{nil, pgtype.TextOID, "null"}, {text("1"), pgtype.TextOID, `"1"`}, {text("1.50"), pgtype.NumericOID, "1.50"},
		{text("NaN"), pgtype.Float8OID, `"NaN"`}, {text("f"), pgtype.BoolOID, "false"}, {text(`{"a":1}`), pgtype.JSONBOID, `{"a":1}`},
	}
	for _, test := range tests {
		got, err := json.Marshal(jsonValue(test.value, test.oid))
		if err != nil || string(got) != test.want {
			t.Errorf("got %s, %v, want %s", got, err, test.want)
		}
	}
}

func TestRenderOutput(t *testing.T) {
	st := newStyle(false)
	tests := []struct {
		out  transport.Output
		want string
	}{
		{transport.Output{Stdout: []byte("up\n")}, "pg01: up\n"},
		{transport.Output{}, "pg01: (no output)\n"},
		{transport.Output{Stderr: []byte("a\nb\n"), ExitCode: 3}, "pg01:\n  a\n  b\n  exit code 3\n"},
		{transport.Output{Stdout: []byte("\x1b[31mred"), Truncated: true}, "pg01:\n  \\x1b[31mred\n  (the rest of the output was dropped)\n"},
	}
	for _, test := range tests {
		if got := renderOutput("pg01", test.out, st); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestScript(t *testing.T) {
	if got := script([]string{"echo $HOME | cat"}); got != "echo $HOME | cat" {
		t.Errorf("one argument: %s", got)
	}
	if got := script([]string{"echo", "it's", "$HOME"}); got != transport.Quote("echo")+" "+transport.Quote("it's")+" "+transport.Quote("$HOME") {
		t.Errorf("several arguments: %s", got)
	}
}
