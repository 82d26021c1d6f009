package secrets_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// sshKeygen makes a key with the real program and returns the line of its .pub file.
func sshKeygen(t *testing.T, file, passphrase string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	args = append([]string{"-q", "-f", file, "-N", passphrase, "-C", filepath.Base(file) + "@example.org"}, args...)
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(read(t, file+".pub")))
}

// TestAccess lets people of all kinds of keys come and go.
func TestAccess(t *testing.T) {
	dir := t.TempDir()
	me := x25519(t, filepath.Join(dir, "me"))
	people := map[string]string{
		"age":             x25519(t, filepath.Join(dir, "age")),
		"ssh-ed25519":     sshKeygen(t, filepath.Join(dir, "ssh-ed25519"), "", "-t", "ed25519"),
		"ssh-rsa":         sshKeygen(t, filepath.Join(dir, "ssh-rsa"), "", "-t", "rsa", "-b", "2048"),
		"ssh-passphrase":  sshKeygen(t, filepath.Join(dir, "ssh-passphrase"), "open sesame", "-t", "ed25519"),
		"rsa, passphrase": sshKeygen(t, filepath.Join(dir, "rsa, passphrase"), "open sesame", "-t", "rsa", "-b", "2048"),
		"PEM, passphrase": sshKeygen(t, filepath.Join(dir, "PEM, passphrase"), "open sesame", "-t", "rsa", "-b", "2048", "-m", "PEM"),
	}
	for kind, recipient := range people {
		t.Run(kind, func(t *testing.T) {
			path := "prod/" + strings.NewReplacer(" ", "", ",", "").Replace(kind)
			open := func(identity string, recipients ...string) *secrets.AgeStore {
				store, err := resolver(t, secrets.Config{
					Dir: dir, Age: secrets.AgeConfig{Identities: []string{identity}, Recipients: recipients},
					Passphrase: func(string) (secrets.Secret, error) { return secrets.NewString("open sesame"), nil },
				}).Store("age")
				if err != nil {
					t.Fatal(err)
				}
				return store.(*secrets.AgeStore)
			}
			alone, both := open("me", me), open("me", me, recipient)
			id, err := alone.Put(t.Context(), path, secrets.Change{Set: map[string]secrets.Secret{"k": secrets.NewString("v")}})
			if err == nil {
				err = alone.Promote(t.Context(), path, id)
			}
			if err != nil {
				t.Fatal(err)
			}
			wantAccess(t, alone, path, secrets.Access{Recipients: []string{me}})
			wantAccess(t, both, path, secrets.Access{Recipients: []string{me}, Added: []string{recipient}})
			if err := both.Rekey(t.Context(), path); err != nil {
				t.Fatal(err)
			}
			wantAccess(t, both, path, secrets.Access{Recipients: []string{me, recipient}})
			commented := recipient
			if kind != "age" {
				commented += " (on the new laptop)"
			}
			wantAccess(t, open(kind, me, commented), path, secrets.Access{Recipients: []string{me, recipient}})
			if err := open(kind, me, recipient).CheckRecipients(); err != nil {
				t.Errorf("CheckRecipients: %v", err)
			}
			if err := open(kind, me).CheckRecipients(); err == nil || !strings.Contains(err.Error(), "is among the recipients") {
				t.Errorf("CheckRecipients of who is not among them: %v", err)
			}
			wantAccess(t, alone, path, secrets.Access{Recipients: []string{me, recipient}, Removed: []string{recipient}})
		})
	}
}

// TestAccessForeign has files that pgfleet did not encrypt.
func TestAccessForeign(t *testing.T) {
	dir := t.TempDir()
	me, other := x25519(t, filepath.Join(dir, "me")), x25519(t, filepath.Join(dir, "other"))
	ssh1, ssh2 := sshKey(t, filepath.Join(dir, "ssh1"), ""), sshKey(t, filepath.Join(dir, "ssh2"), "")
	store := ageStore(t, secrets.Config{Dir: dir, Age: secrets.AgeConfig{Identities: []string{"me"}, Recipients: []string{me, ssh1}}}).(*secrets.AgeStore)
	versions := `"versions":[{"id":"1","stage":"current","created":"2026-11-22T00:00:00Z","keys":{"k":"v"}}]}`
	inside := `{"format":1,"recipients":["` + me + `","` + ssh1 + `"],` + versions
	tests := []struct {
		name, text string
		to         []string
		foreign    bool
	}{
		{"as pgfleet does", inside, []string{me, ssh1}, false},
		{"one more", inside, []string{me, ssh1, other}, true},
		{"another SSH key", inside, []string{me, ssh2}, true},
		{"no list", `{"format":1,` + versions, []string{me}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := strings.ReplaceAll(test.name, " ", "-")
			if err := os.MkdirAll(filepath.Join(dir, "secrets"), 0o700); err != nil {
				t.Fatal(err)
			}
			encryptTo(t, filepath.Join(dir, "secrets", path+".age"), test.text, test.to)
			access, err := store.Access(t.Context(), path)
			if err != nil || access.Foreign != test.foreign || access.Stale() != test.foreign {
				t.Errorf("%+v, %v; want Foreign %v", access, err, test.foreign)
			}
			if err := store.Rekey(t.Context(), path); err != nil {
				t.Fatal(err)
			}
			wantAccess(t, store, path, secrets.Access{Recipients: []string{me, ssh1}})
		})
	}
}

// encryptTo writes an age file as the tool age would.
func encryptTo(t *testing.T, file, text string, to []string) {
	t.Helper()
	var recipients []age.Recipient
	for _, public := range to {
		var r age.Recipient
		var err error
		if strings.HasPrefix(public, "ssh-") {
			r, err = agessh.ParseRecipient(public)
		} else {
			r, err = age.ParseX25519Recipient(public)
		}
		if err != nil {
			t.Fatal(err)
		}
		recipients = append(recipients, r)
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := age.Encrypt(f, recipients...)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func wantAccess(t *testing.T, s *secrets.AgeStore, path string, want secrets.Access) {
	t.Helper()
	got, err := s.Access(t.Context(), path)
	if err != nil {
		t.Error(err)
		return
	}
	if !slices.Equal(got.Recipients, want.Recipients) || !slices.Equal(got.Added, want.Added) || !slices.Equal(got.Removed, want.Removed) || got.Foreign != want.Foreign {
		t.Errorf("access is %+v, want %+v", got, want)
	}
}

func TestShortRecipient(t *testing.T) {
	tests := map[string]string{
		"age1mups20l6zxf2k68esmmax4acfa8uuwyz7kzudny0sjzhn23ryvyqx8yg8r": "age1mups20l6zxf2k68esmma…",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIabcdefgh alice@example":    "ssh-ed25519 alice@example",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIabcdefgh":                  "ssh-ed25519 …AAAIabcdefgh",
	}
	for in, want := range tests {
		if got := secrets.ShortRecipient(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
