package postgres

import (
	"fmt"
	"testing"
)

func TestConninfo(t *testing.T) {
	for _, text := range []string{
		"user=replicator passfile='/var/lib/postgresql/.pgpass' channel_binding=prefer host=10.77.0.11 port=5432 sslmode=prefer",
		`  host = '10.0.0.1'   user='its' `,
		`user='a\'b' password='c\\d e' host=/tmp`,
		`password=a\ b host=x user=`,
		"",
	} {
		c, err := ParseConninfo(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		again, err := ParseConninfo(c.String())
		if err != nil || again.String() != c.String() {
			t.Errorf("%s is written as %s, and read as %s, %v", text, c, again, err)
		}
	}
	c, err := ParseConninfo(`user=a password='x y' user=b`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Get("user") != "b" || c.Get("host") != "" || c.With("password", `z'\`).Get("password") != `z'\` || c.Get("password") != "x y" {
		t.Errorf("%v", c)
	}
	for _, text := range []string{"user", "user=a x", "user='a", "us er=a", "postgresql://a:b@c/d", "=x", "user='it''s'"} {
		if c, err := ParseConninfo(text); err == nil {
			t.Errorf("%q is taken for %v", text, c)
		}
	}
}

func TestConninfoServers(t *testing.T) {
	for text, wanted := range map[string]string{
		"host=a port=5433":                         "[{a 5433}]",
		"host=a,b":                                 "[{a 5432} {b 5432}]",
		"host=a,b port=1,2":                        "[{a 1} {b 2}]",
		"hostaddr=10.0.0.1,10.0.0.2 host=,b":       "[{10.0.0.1 5432} {b 5432}]",
		"host=/var/run/postgresql port=5433":       "[{localhost 5433} {/var/run/postgresql 5433}]",
		"user=x":                                   "[{localhost 5432}]",
		"hostaddr='10.0.0.1' port='' dbname=other": "[{10.0.0.1 5432}]",
	} {
		c, err := ParseConninfo(text)
		if got := fmt.Sprint(c.Servers()); err != nil || got != wanted {
			t.Errorf("%s: %s, %v, want %s", text, got, err, wanted)
		}
	}
}

// FuzzConninfo reads back what is written.
func FuzzConninfo(f *testing.F) {
	f.Add("secret", "user")
	f.Add(`a'b\c d`, `x y`)
	f.Add("", "\t")
	f.Fuzz(func(t *testing.T, password, user string) {
		text := Conninfo{{"host", "/tmp"}, {"user", user}, {"password", password}, {"dbname", "d"}, {"sslmode", "disable"}}.String()
		c, err := ParseConninfo(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if c.Get("password") != password || c.Get("user") != user {
			t.Fatalf("%q is read as %q", text, c)
		}
	})
}
