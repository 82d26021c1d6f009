package catalog

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseACL(t *testing.T) {
	got, err := ParseACL([]string{`=r/postgres`, `app=ar*wd*/"the ""owner"""`, `"a=b/c"=U/app`, `"""=r/"""=X/x`, `app=/x`})
	want := ACL{
		{Grantee: "", Grantor: "postgres", Privileges: Select},
		{Grantee: "app", Grantor: `the "owner"`, Privileges: Insert | Select | Update | Delete, Grantable: Select | Delete},
		{Grantee: "a=b/c", Grantor: "app", Privileges: Usage},
		{Grantee: `"=r/"`, Grantor: "x", Privileges: Execute},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
	for item, want := range map[string]string{
		"":          "no item",
		"app":       "no item",
		"app=r":     "no item",
		`"app=r/x`:  "no item",
		"app=r/":    "no role",
		"app=r/x=y": "no role",
		"app=rs/x":  "a privilege s",
		"app=*/x":   "a privilege *",
	} {
		if _, err := ParseACL([]string{item}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", item, err, want)
		}
	}
}
