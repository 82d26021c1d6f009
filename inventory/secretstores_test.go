package inventory_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/pgfleet/pgfleet/inventory"
)

func loadSecrets(text string) (*inventory.Fleet, error) {
	files := fstest.MapFS{"fleet.toml": {Data: []byte("[fleet]\nname = \"prod\"\n[postgres]\nversion = 15\n[hosts.pg01]\n" + text)}}
	return inventory.Load("fleet.toml", inventory.Options{FS: files})
}

func TestSecretStores(t *testing.T) {
	f, err := loadSecrets(`
[secrets.age]
identities = "key"
[secrets.vault]
address = "https://vault.example.org:8200"
role_id = "file:~/role"
secret_id = "env:SECRET_ID"
timeout = "5s"
[secrets.corp]
kind = "openbao"
address = "http://127.0.0.1:8200"
[secrets.aws]
region = "eu-central-1"
[secrets.team]
kind = "age"
dir = "team-secrets"
[secrets.pass]
kind = "exec"
command = "./stores/pass"
`)
	if err != nil {
		t.Fatal(err)
	}
	s := f.Secrets
	var names []string
	for _, store := range s.Stores {
		names = append(names, store.Name)
	}
	if got := strings.Join(names, " "); got != "vault corp aws team pass" {
		t.Fatalf("stores: %s", got)
	}
	if s.Age == nil || s.Age.Identities[0] != "key" || s.Stores[0].Vault.Timeout.Seconds() != 5 || s.Stores[1].Vault.Address.Value != "http://127.0.0.1:8200" ||
		s.Stores[2].AWS.Region != "eu-central-1" || s.Stores[3].Age.Dir != "team-secrets" || s.Stores[4].Exec.Command.Value[0] != "./stores/pass" {
		t.Errorf("stores: %+v", s)
	}
}

func TestSecretStoreMistakes(t *testing.T) {
	tests := []struct{ text, want string }{
		{"[secrets.env]\n", "6:10: secrets: the store env is there without being named"},
		{"[secrets.file]\ndir = 'x'\n", "6:10: secrets: the store file is there"},
		{"[secrets.Corp]\nkind = 'aws'\n", `6:10: secrets: "Corp" cannot be a store's name`},
		{"[secrets.corp]\nregion = 'x'\n", `6:10: secrets.corp: missing key "kind": one of age, aws, exec, openbao, vault`},
		{"[secrets.valt]\naddress = 'http://x'\n", `(did you mean "vault"?)`},
		{"[secrets.corp]\nkind = 'vaul'\n", `7:8: kind: "vaul" is none of age, aws, exec, openbao, vault (did you mean "vault"?)`},
		{"[secrets.corp]\nkind = 1\n", `7:8: kind: want a string`},
		{"[secrets.age]\nkind = 'aws'\n", `7:8: kind: the store called age is of that kind`},
		{"[secrets]\nvault = 'x'\n", `7:9: vault: want a table, found a string`},
		{"[secrets.vault]\n", `missing key "address"`},
		{"[secrets.vault]\naddress = 'vault:8200'\n", "7:11: address: want a URL"},
		{"[secrets.vault]\naddress = 'https://me:hunter2@vault'\n", "7:11: address: want a URL without a user"},
		{"[secrets.vault]\naddress = 'http://x'\nregion = 'x'\n", `8:1: unknown key "region"`},
		{"[secrets.vault]\naddress = 'http://x'\ntoken = 'hvs.hunter2'\n", "8:9: token: want where it is, env:NAME or file:PATH"},
		{"[secrets.vault]\naddress = 'http://x'\nsecret_id = 'env:X'\n", "8:13: secret_id: want role_id too"},
		{"[secrets.vault]\naddress = 'http://x'\ntoken = 'env:X'\nrole_id = 'env:Y'\n", "9:11: role_id: there is a token already"},
		{"[secrets.vault]\naddress = 'http://x'\ntimeout = 5\n", `8:11: timeout: want a duration`},
		{"[secrets.aws]\nendpoint = 'x'\n", "7:12: endpoint: want a URL"},
		{"[secrets.exec]\n", `missing key "command"`},
		{"[secrets.exec]\ncommand = []\n", "7:11: command: want a program"},
		{"[secrets.corp]\nkind = 'exec'\ncommand = 'x'\naddress = 'y'\n", `9:1: unknown key "address"`},
	}
	for _, test := range tests {
		_, err := loadSecrets(test.text)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.text, err, test.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %q holds a secret", test.text, err)
		}
	}
}
