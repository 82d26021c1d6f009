package inventory

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func loadClients(text string) (*Fleet, error) {
	text = "[fleet]\nname = \"prod\"\n[postgres]\nversion = 15\n[hosts.pg01]\n" + text
	return Load("fleet.toml", Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(text)}}})
}

func TestClients(t *testing.T) {
	f, err := loadClients(`
[[client]]
name = "shop"
user = ["shop", "shop_ro"]
database = ["shop", "stock"]
from = ["10.0.8.0/24", "2001:db8::1", "::ffff:10.1.1.1"]

[[client]]
name = "cron"
user = "postgres"
from = ["local", "127.0.0.1"]
limit = "pg01"

[[client]]
name = "backup"
user = "barman"
from = "10.0.9.9"
tls = false
replication = true

[[client]]
name = "later"
user = "app"
from = "{{ .Vars.network }}"
tls = "{{ .Vars.tls }}"
`)
	if err != nil {
		t.Fatal(err)
	}
	type login struct {
		User, Database, From string
		TLS, Replication     bool
	}
	want := map[string][]login{
		"shop": {
			{"shop", "shop", "10.0.8.0/24", true, false}, {"shop", "shop", "2001:db8::1/128", true, false}, {"shop", "shop", "10.1.1.1/32", true, false},
			{"shop", "stock", "10.0.8.0/24", true, false}, {"shop", "stock", "2001:db8::1/128", true, false}, {"shop", "stock", "10.1.1.1/32", true, false},
			{"shop_ro", "shop", "10.0.8.0/24", true, false}, {"shop_ro", "shop", "2001:db8::1/128", true, false}, {"shop_ro", "shop", "10.1.1.1/32", true, false},
			{"shop_ro", "stock", "10.0.8.0/24", true, false}, {"shop_ro", "stock", "2001:db8::1/128", true, false}, {"shop_ro", "stock", "10.1.1.1/32", true, false},
		},
		"cron":   {{"postgres", "postgres", "invalid Prefix", false, false}, {"postgres", "postgres", "127.0.0.1/32", true, false}},
		"backup": {{"barman", "", "10.0.9.9/32", false, true}},
	}
	for _, c := range f.Clients {
		if c.Name == "later" {
			continue // its values are read once they are rendered
		}
		logins, errs := c.Logins(c.Body)
		if len(errs) > 0 {
			t.Errorf("%s: %v", c.Name, errs)
		}
		var got []login
		for _, l := range logins {
			got = append(got, login{l.User, l.Database, l.From.String(), l.TLS, l.Replication})
		}
		if d := cmp.Diff(want[c.Name], got); d != "" {
			t.Errorf("%s: %s", c.Name, d)
		}
	}
	if len(f.Clients) != 4 {
		t.Errorf("%d clients", len(f.Clients))
	}
}

func TestClientMistakes(t *testing.T) {
	const good = "user = \"app\"\nfrom = \"10.0.8.0/24\"\n"
	for name, c := range map[string]struct{ text, want string }{
		"no name":           {good, `fleet.toml:6:3: missing key "name"`},
		"no user":           {"name = \"app\"\nfrom = \"10.0.8.1\"\n", `fleet.toml:6:3: missing key "user"`},
		"no address":        {"name = \"app\"\nuser = \"app\"\n", `fleet.toml:6:3: missing key "from"`},
		"an unknown key":    {"name = \"app\"\naddress = \"10.0.8.1\"\n" + good, `fleet.toml:8:1: unknown key "address"`},
		"a wrong type":      {"name = \"app\"\ntls = \"yes\"\n" + good, `fleet.toml:8:7: tls: want true or false, found a string`},
		"a bad name":        {"name = \"my app\"\n" + good, `fleet.toml:7:8: "my app" is no valid name for a client`},
		"a taken word":      {"name = \"pgfleet\"\n" + good, `fleet.toml:7:8: a client cannot be called "pgfleet"`},
		"twice":             {"name = \"app\"\n" + good + "[[client]]\nname = \"app\"\n" + good, `fleet.toml:11:8: client "app" is here for the second time; the first is at fleet.toml:7:8`},
		"a host name":       {"name = \"app\"\nuser = \"app\"\nfrom = [\"10.0.8.1\", \"app.example.org\"]\n", `fleet.toml:9:21: from: "app.example.org" is neither an address nor a network`},
		"bits of the host":  {"name = \"app\"\nuser = \"app\"\nfrom = \"10.0.8.1/24\"\n", `fleet.toml:9:8: from: 10.0.8.1/24 is an address within the network 10.0.8.0/24`},
		"an empty list":     {"name = \"app\"\nuser = []\nfrom = \"10.0.8.1\"\n", `fleet.toml:8:8: user: the list is empty`},
		"an empty name":     {"name = \"app\"\nuser = [\"app\", \"\"]\nfrom = \"10.0.8.1\"\n", `fleet.toml:8:16: user: a name is missing`},
		"TLS on the socket": {"name = \"app\"\nuser = \"app\"\nfrom = \"local\"\ntls = true\n", `fleet.toml:10:7: tls: there is no TLS over the Unix socket`},
		"a database of streams": {"name = \"app\"\nuser = \"app\"\nfrom = \"10.0.8.1\"\nreplication = true\ndatabase = \"app\"\n",
			`fleet.toml:11:12: database: physical replication is in no database`},
		"an unknown host":   {"name = \"app\"\nlimit = \"pg02\"\n" + good, `fleet.toml:8:10: limit: there is no host, group or replication cluster "pg02"`},
		"templates, partly": {"name = \"my app\"\nuser = \"{{ .Vars.app }}\"\nfrom = \"nowhere\"\n", `fleet.toml:7:8: "my app" is no valid name for a client`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loadClients("[[client]]\n" + c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}
