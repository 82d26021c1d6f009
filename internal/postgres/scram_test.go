package postgres

import (
	"encoding/base64"
	"strings"
	"testing"
)

// TestSCRAMVector is the exchange of RFC 7677, section 3: user, password pencil.
func TestSCRAMVector(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := SCRAMVerifier("pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	want := "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
	if verifier != want {
		t.Errorf("%s", verifier)
	}
	if !Matches(verifier, "pencil") || Matches(verifier, "Pencil") || Matches(verifier, "") {
		t.Error("Matches")
	}
}

func TestSCRAMRefuses(t *testing.T) {
	salt := make([]byte, SCRAMSaltLen)
	for _, password := range []string{"", "pässword", "Ⅸ", "tab\t", "nul\x00", strings.Repeat("x", 1025)} {
		_, err := SCRAMVerifier(password, salt, SCRAMIterations)
		if err == nil {
			t.Errorf("%q is taken", password)
		} else if password != "" && strings.Contains(err.Error(), password) {
			t.Error("the error holds the password")
		}
	}
	if _, err := SCRAMVerifier("x", salt[1:], SCRAMIterations); err == nil {
		t.Error("a short salt is taken")
	}
	if _, err := SCRAMVerifier("x", salt, 1); err == nil {
		t.Error("one iteration is taken")
	}
	good, err := SCRAMVerifier("x", salt, SCRAMIterations)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "x", "md5abc", good[1:], good + "=", good[:len(good)-2], strings.Replace(good, "4096", "0", 1),
		strings.Replace(good, "4096", "+4096", 1), strings.Replace(good, "$4096:", "$4096", 1), strings.Replace(good, "SCRAM", "scram", 1), good + "\n", strings.ReplaceAll(good, ":", "$")} {
		if _, err := ParseVerifier(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
		if Matches(bad, "x") {
			t.Errorf("%q matches", bad)
		}
	}
}
