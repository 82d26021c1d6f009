package tasks

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// secretTasks name secrets in every way there is, with templates in their paths.
const secretTasks = `
[[task]]
name = "Role"
kind = "role"
role = "appuser"
password = "STORE:prod/{{ .Host.Replication }}/appuser#password"
[[task]]
name = "Certificate"
kind = "certificate"
file = "server.crt"
[[task]]
name = "Login"
kind = "verify"
login = { role = "appuser", password = "STORE:prod/{{ .Host.Replication }}/login#password", ca = "ca.pem" }
[[task]]
name = "File"
kind = "file"
path = "/root/.pgpass"
content = '{{ secret (printf "STORE:prod/%s/file#password" .Host.Replication) }}'
[[task]]
name = "File from a file"
kind = "file"
path = "/root/other"
source = "source"
[[task]]
name = "Script"
kind = "psql"
always = true
sql = '''SELECT {{ secret (printf "STORE:prod/%s/psql#password" .Host.Replication) | literal }}'''
`

func expandSecrets(t *testing.T, store, replication string) (map[inventory.InstanceID][]*Bound, inventory.Errors) {
	t.Helper()
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "CA", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "fleet.toml")
	text := `[fleet]
name = "prod"
[postgres]
version = 15
[hosts.pg01]
replication = "orders"
[ca]
certificate = "ca.pem"
key = "STORE:prod/ca#key"
[hosts.pg02]
` + replication + secretTasks
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "STORE", store)), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet, err := inventory.Load(path, inventory.Options{Kinds: Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	return Expand(fleet, fleet.Instances(), Options{
		Local: func(name string) ([]byte, error) {
			if name == "ca.pem" {
				return ca.CertificatePEM(), nil
			}
			if name != "source" {
				return nil, fs.ErrNotExist
			}
			return []byte(strings.ReplaceAll(`{{ secret (printf "STORE:prod/%s/source#password" .Host.Replication) }}`, "STORE", store)), nil
		},
		CheckSecret: func(ref secrets.Ref) error {
			if ref.Store != "age" {
				return errors.New("there is no such store")
			}
			return ref.Check()
		},
	})
}

func TestTemplatesInSecrets(t *testing.T) {
	bound, errs := expandSecrets(t, "age", `replication = "shop"`)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for host, cluster := range map[inventory.InstanceID]string{"pg01": "orders", "pg02": "shop"} {
		var found []string
		for _, b := range bound[host] {
			for _, ref := range b.Secrets {
				found = append(found, ref.String())
			}
			switch task := b.Task.(type) {
			case *Certificate:
				found = append(found, task.ca.Issuer.Key.String())
			case *Verify:
				found = append(found, task.ref.String())
			}
		}
		var want []string
		for _, s := range []string{"appuser#password", "ca#key", "login#password", "file#password", "source#password", "psql#password"} {
			if s == "ca#key" { // there is one CA for all
				want = append(want, "age:prod/ca#key")
				continue
			}
			want = append(want, "age:prod/"+cluster+"/"+s)
		}
		if !slices.Equal(found, want) {
			t.Errorf("%s has %v, want %v", host, found, want)
		}
	}
}

// TestBadSecretPaths: a template that leaves a hole in a path is a mistake where the
// path stands.
func TestBadSecretPaths(t *testing.T) {
	wantAt := func(errs inventory.Errors, want []string, lines ...int) {
		t.Helper()
		if len(errs) != len(lines) {
			t.Fatalf("%d mistakes, want %d:\n%v", len(errs), len(lines), errs)
		}
		for i, err := range errs {
			if err.Pos.Line != lines[i] || err.Pos.Column == 0 || !strings.Contains(err.Msg, want[min(i, len(want)-1)]) {
				t.Errorf("mistake %d is %v, want one in line %d that says %s", i, err, lines[i], want)
			}
		}
	}
	_, errs := expandSecrets(t, "age", "")
	wantAt(errs, []string{"the path has an empty part"}, 16, 24, 29, 39, 1)

	// The name of a store may be the beginning of a password.
	_, errs = expandSecrets(t, "hunter2", "")
	wantAt(errs, []string{"key: there is no such store", "no secret store of the name before the colon", "no secret store of the name before the colon", "there is no such store"}, 9, 16, 24, 29, 30, 39)
	for _, i := range []int{1, 2} {
		if strings.Contains(errs[i].Msg, "hunter2") {
			t.Errorf("what may be a password is repeated: %v", errs[i])
		}
	}
}
