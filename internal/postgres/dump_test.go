package postgres

import (
	"slices"
	"testing"
)

func TestSplitDump(t *testing.T) {
	const text = `--
-- PostgreSQL database cluster dump
--

\restrict abc

SET client_encoding = 'UTF8';

CREATE ROLE "Odd \ name";
COMMENT ON ROLE x IS 'a
\connect inside
';
\unrestrict abc
\connect -reuse-previous=on "dbname='it''s'"
GRANT a TO "b""c" WITH INHERIT TRUE;`
	list, err := SplitDump(text)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, st := range list {
		got = append(got, st.Text)
	}
	want := []string{
		"SET client_encoding = 'UTF8'", `CREATE ROLE "Odd \ name"`, "COMMENT ON ROLE x IS 'a\n\\connect inside\n'",
		`GRANT a TO "b""c" WITH INHERIT TRUE`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	words := list[3].Words()
	if len(words) != 7 || !words[0].Is("GRANT") || words[3].Name != `b"c` || words[3].Is("B") || list[3].Text[words[3].At:words[3].End] != `"b""c"` {
		t.Errorf("got %+v", words)
	}
	if _, err := SplitDump("COMMENT ON ROLE x IS 'never closed"); err == nil {
		t.Error("a quote that is not closed: no error")
	}
}
