package secrets_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/internal/secrets/storetest"
)

func TestEnvStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		env := make(map[string]string)
		return storetest.Fixture{
			Store: secrets.NewEnvStore(lookupIn(env)),
			Make: func(_ *testing.T, name string, keys map[string]secrets.Secret) string {
				env[name] = string(keys[""].Expose())
				return name
			},
		}
	})
}

func TestFileStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		dir := t.TempDir()
		return storetest.Fixture{
			Store: secrets.NewFileStore(dir, lookupIn(nil)),
			Make: func(t *testing.T, name string, keys map[string]secrets.Secret) string {
				write(t, filepath.Join(dir, name), string(keys[""].Expose())+"\n")
				return name
			},
		}
	})
}

func TestAgeStore(t *testing.T) {
	kinds := map[string]func(t *testing.T, file string) (recipient string){
		"X25519":       x25519,
		"post-quantum": hybrid,
		"ssh-ed25519":  func(t *testing.T, file string) string { return sshKey(t, file, "") },
	}
	for kind, makeKey := range kinds {
		t.Run(kind, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Fixture {
				dir := t.TempDir()
				config := secrets.AgeConfig{
					Identities: []string{"key"},
					Recipients: []string{makeKey(t, filepath.Join(dir, "key"))},
				}
				open := func(t *testing.T) secrets.Store {
					return ageStore(t, secrets.Config{Dir: dir, Age: config})
				}
				return storetest.Fixture{
					Store:  open(t),
					Reopen: open,
					Path:   func(name string) string { return "prod/" + name },
				}
			})
		})
	}
}

func TestFileStoreKeys(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "json"), `{"password": "p1", "port": 5432, "deep": {"x": 1}}`)
	write(t, filepath.Join(dir, "lines"), "# comment\nuser=app\n\nPASSWORD = \"p=2\"\n")
	write(t, filepath.Join(dir, "crlf"), "p3\r\n")
	write(t, filepath.Join(dir, "plain"), "hunter2=\n\n")
	r := resolver(t, secrets.Config{Dir: dir})
	tests := []struct{ ref, want string }{
		{"file:json#password", "p1"},
		{"file:json#port", "5432"},
		{"file:lines#PASSWORD", "p=2"},
		{"file:lines#user", "app"},
		{"file:crlf", "p3"},
		{"file:plain", "hunter2=\n"},
		{"file:" + filepath.Join(dir, "crlf"), "p3"},
	}
	for _, test := range tests {
		got, _, err := r.Resolve(t.Context(), mustRef(t, test.ref))
		if err != nil {
			t.Errorf("%s: %v", test.ref, err)
		} else if string(got.Expose()) != test.want {
			t.Errorf("%s = %q, want %q", test.ref, got.Expose(), test.want)
		}
	}
	// What looks like a key in a file may be the password itself.
	_, _, err := r.Resolve(t.Context(), mustRef(t, "file:plain#password"))
	if !errors.Is(err, secrets.ErrNotFound) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a missing key: %v", err)
	}
}

func TestFileStoreRefusesReadableByOthers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pass word")
	write(t, file, "x")
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o604} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		_, err := secrets.NewFileStore(dir, lookupIn(nil)).Get(t.Context(), "pass word", "")
		if err == nil || !strings.Contains(err.Error(), "chmod 600 '"+file+"'") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestAgeErrors(t *testing.T) {
	dir := t.TempDir()
	mine := x25519(t, filepath.Join(dir, "mine"))
	theirs := x25519(t, filepath.Join(dir, "theirs"))
	quantum := hybrid(t, filepath.Join(dir, "quantum"))
	write(t, filepath.Join(dir, "readable"), "x")
	if err := os.Chmod(filepath.Join(dir, "readable"), 0o644); err != nil {
		t.Fatal(err)
	}
	put := func(c secrets.AgeConfig, path string) error {
		s := ageStore(t, secrets.Config{Dir: dir, Age: c})
		_, err := s.Put(t.Context(), path, secrets.Change{Set: map[string]secrets.Secret{"k": secrets.NewString("v")}})
		return err
	}
	if err := put(secrets.AgeConfig{Identities: []string{"theirs"}, Recipients: []string{theirs}}, "theirs"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		config secrets.AgeConfig
		path   string
		want   []string
	}{
		{"mixed", secrets.AgeConfig{Identities: []string{"mine"}, Recipients: []string{mine, quantum}}, "a", []string{"cannot be mixed", mine[:20]}},
		{"not among the recipients", secrets.AgeConfig{Identities: []string{"mine"}, Recipients: []string{theirs}}, "a", []string{"nothing was written", "none of the identities (mine)"}},
		{"somebody else's", secrets.AgeConfig{Identities: []string{"mine"}, Recipients: []string{mine}}, "theirs", []string{"none of the identities (mine)", "1 × age1…", "must add your public key"}},
		{"no identity", secrets.AgeConfig{Recipients: []string{mine}}, "theirs", []string{"no identity is configured", "age-keygen"}},
		{"no recipient", secrets.AgeConfig{Identities: []string{"mine"}}, "a", []string{"nobody is configured", mine}},
		{"missing file", secrets.AgeConfig{Identities: []string{"nosuch"}, Recipients: []string{mine}}, "theirs", []string{"identity nosuch", "no such file"}},
		{"readable identity", secrets.AgeConfig{Identities: []string{"readable"}, Recipients: []string{mine}}, "theirs", []string{"chmod 600"}},
		{"identity as recipients", secrets.AgeConfig{Identities: []string{"mine"}, Recipients: []string{"mine"}}, "a", []string{"holds a secret key"}},
		{"bad recipient", secrets.AgeConfig{Identities: []string{"mine"}, Recipients: []string{"age1xyz"}}, "a", []string{"age1xyz", "not a public key"}},
		{"path", secrets.AgeConfig{Identities: []string{"mine"}, Recipients: []string{mine}}, "../a", []string{"the path must be"}},
		{"hidden path", secrets.AgeConfig{Identities: []string{"mine"}, Recipients: []string{mine}}, "a/.b", []string{"the path must be"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := put(test.config, test.path)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "AGE-SECRET-KEY") {
				t.Error("the error holds an identity")
			}
		})
	}
	if _, err := secrets.NewResolver(secrets.Config{Age: secrets.AgeConfig{Identities: []string{string(read(t, filepath.Join(dir, "mine")))}}}); err == nil || strings.Contains(err.Error(), "AGE-SECRET-KEY-1") {
		t.Errorf("an identity in fleet.toml itself: %v", err)
	}
}

// TestAgeFile looks at what is on disk.
func TestAgeFile(t *testing.T) {
	dir := t.TempDir()
	config := secrets.Config{Dir: dir, Age: secrets.AgeConfig{
		Identities: []string{"key"},
		Recipients: []string{"recipients.txt"},
	}}
	write(t, filepath.Join(dir, "recipients.txt"), "# everybody\n"+x25519(t, filepath.Join(dir, "key"))+"\n"+sshKey(t, filepath.Join(dir, "ssh"), "")+"\n")
	s := ageStore(t, config)
	const canary = "canary-in-a-coal-mine"
	change := secrets.Change{Set: map[string]secrets.Secret{"password": secrets.NewString(canary)}}
	// A temporary file of a writer that died is removed.
	stale := filepath.Join(dir, "secrets", "prod", ".tmp-stale")
	if err := os.MkdirAll(filepath.Dir(stale), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, stale, "x")
	id, err := s.Put(t.Context(), "prod/app", change)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Promote(t.Context(), "prod/app", id); err != nil {
		t.Fatal(err)
	}
	var found []string
	control := filepath.Join(dir, "control")
	write(t, control, canary)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if path != filepath.Join(dir, "recipients.txt") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		if bytes.Contains(read(t, path), []byte(canary)) && path != control {
			t.Errorf("%s holds the value in the clear", path)
		} else if path == control && !bytes.Contains(read(t, path), []byte(canary)) {
			t.Error("the search does not find a value in the clear")
		}
		found = append(found, filepath.Base(path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(found, " "); got != "control key recipients.txt .lock app.age ssh" {
		t.Errorf("files: %s", got)
	}
	if paths, err := s.List(t.Context()); err != nil || strings.Join(paths, " ") != "prod/app" {
		t.Errorf("List: %v, %v", paths, err)
	}

	// The other recipient reads it too, until it is encrypted again without them.
	config.Age.Identities = []string{"ssh"}
	other := ageStore(t, config)
	if _, err := other.Get(t.Context(), "prod/app", ""); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(dir, "recipients.txt"), strings.Split(string(read(t, filepath.Join(dir, "recipients.txt"))), "\n")[1])
	if err := s.Rekey(t.Context(), "prod/app"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Get(t.Context(), "prod/app", ""); !errors.Is(err, age.ErrIncorrectIdentity) {
		t.Errorf("after the recipient was dropped: %v", err)
	}
	if err := s.Rekey(t.Context(), "prod/nosuch"); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("Rekey of a missing secret: %v", err)
	}

	// A damaged file is an error that says so.
	file := filepath.Join(dir, "secrets", "prod", "app.age")
	content := read(t, file)
	content[len(content)-1] ^= 1
	write(t, file, string(content))
	if _, err := s.Get(t.Context(), "prod/app", ""); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestAgeKeepsVersions(t *testing.T) {
	dir := t.TempDir()
	s := ageStore(t, secrets.Config{Dir: dir, Age: secrets.AgeConfig{
		Identities: []string{"key"}, Recipients: []string{x25519(t, filepath.Join(dir, "key"))},
	}})
	for range 15 {
		id, err := s.Put(t.Context(), "a", secrets.Change{Set: map[string]secrets.Secret{"k": secrets.GeneratePassword()}})
		if err == nil {
			err = s.Promote(t.Context(), "a", id)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	versions, err := s.Versions(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if len(versions) != 10 || versions[0].ID != "6" || versions[9].ID != "15" {
		t.Errorf("versions kept: %v", versions)
	}
}

func TestAgePassphrase(t *testing.T) {
	for _, kind := range []string{"age", "ssh"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			var recipient string
			if kind == "ssh" {
				recipient = sshKey(t, filepath.Join(dir, "key"), "open sesame")
			} else {
				recipient = x25519(t, filepath.Join(dir, "plain"))
				protect(t, filepath.Join(dir, "plain"), filepath.Join(dir, "key"), "open sesame")
			}
			asked := 0
			answer := "open sesame"
			config := secrets.Config{
				Dir: dir,
				Age: secrets.AgeConfig{Identities: []string{"key"}, Recipients: []string{recipient}},
				Passphrase: func(prompt string) (secrets.Secret, error) {
					asked++
					if prompt != "Passphrase for key" {
						t.Errorf("prompt %q", prompt)
					}
					return secrets.NewString(answer), nil
				},
			}
			s := ageStore(t, config)
			for _, path := range []string{"a", "b"} {
				if _, err := s.Put(t.Context(), path, secrets.Change{Set: map[string]secrets.Secret{"k": secrets.NewString("v")}}); err != nil {
					t.Fatal(err)
				}
			}
			if asked != 1 {
				t.Errorf("asked %d times for one passphrase", asked)
			}
			answer = "wrong passphrase"
			if _, err := ageStore(t, config).Get(t.Context(), "a", "pending"); err == nil || strings.Contains(err.Error(), answer) {
				t.Errorf("a wrong passphrase: %v", err)
			}
			config.Passphrase = nil
			if _, err := ageStore(t, config).Get(t.Context(), "a", "pending"); err == nil || !strings.Contains(err.Error(), "no terminal") {
				t.Errorf("no terminal: %v", err)
			}
			// Who has another identity is not asked.
			config.Age.Identities = []string{"key", "env:AGE_IDENTITY"}
			config.Age.Recipients = []string{x25519(t, filepath.Join(dir, "other"))}
			config.LookupEnv = lookupIn(map[string]string{"AGE_IDENTITY": string(read(t, filepath.Join(dir, "other")))})
			if _, err := ageStore(t, config).Put(t.Context(), "c", secrets.Change{Set: map[string]secrets.Secret{"k": secrets.NewString("v")}}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAgeLock has another writer hold the lock.
func TestAgeLock(t *testing.T) {
	dir := t.TempDir()
	s := ageStore(t, secrets.Config{Dir: dir, Age: secrets.AgeConfig{
		Identities: []string{"key"}, Recipients: []string{x25519(t, filepath.Join(dir, "key"))},
	}})
	change := secrets.Change{Set: map[string]secrets.Secret{"k": secrets.NewString("v")}}
	if _, err := s.Put(t.Context(), "a", change); err != nil {
		t.Fatal(err)
	}
	unlock := lockFile(t, filepath.Join(dir, "secrets", ".lock"))
	ctx, cancel := context.WithTimeout(t.Context(), 100e6)
	defer cancel()
	_, err := s.Put(ctx, "b", change)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "locked by another") {
		t.Errorf("while locked: %v", err)
	}
	unlock()
	if _, err := s.Put(t.Context(), "b", change); err != nil {
		t.Error(err)
	}
}

func TestAgeSymlinkOutOfFolder(t *testing.T) {
	dir := t.TempDir()
	config := secrets.AgeConfig{Identities: []string{"key"}, Recipients: []string{x25519(t, filepath.Join(dir, "key"))}}
	if err := os.Mkdir(filepath.Join(dir, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "secrets", "prod")); err != nil {
		t.Fatal(err)
	}
	s := ageStore(t, secrets.Config{Dir: dir, Age: config})
	if _, err := s.Put(t.Context(), "prod/a", secrets.Change{Set: map[string]secrets.Secret{"k": secrets.NewString("v")}}); err == nil {
		t.Error("a secret was written through a symbolic link out of the folder")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

// writableAge is what a test needs of the store "age".
type writableAge interface {
	secrets.WritableStore
	List(context.Context) ([]string, error)
	Rekey(context.Context, string) error
}

func ageStore(t *testing.T, c secrets.Config) writableAge {
	t.Helper()
	s, err := resolver(t, c).WritableStore("age")
	if err != nil {
		t.Fatal(err)
	}
	return s.(writableAge)
}

func resolver(t *testing.T, c secrets.Config) *secrets.Resolver {
	t.Helper()
	if c.LookupEnv == nil {
		c.LookupEnv = lookupIn(nil)
	}
	r, err := secrets.NewResolver(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func lookupIn(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
}

func mustRef(t *testing.T, s string) secrets.Ref {
	t.Helper()
	ref, err := secrets.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func x25519(t *testing.T, file string) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, "# a key\n"+id.String()+"\n")
	return id.Recipient().String()
}

func hybrid(t *testing.T, file string) string {
	t.Helper()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, id.String()+"\n")
	return id.Recipient().String()
}

func sshKey(t *testing.T, file, passphrase string) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(pem.EncodeToMemory(block)))
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// protect encrypts an identity file with a passphrase.
func protect(t *testing.T, plain, file, passphrase string) {
	t.Helper()
	r, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	r.SetWorkFactor(10)
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err == nil {
		_, err = w.Write(read(t, plain))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, out.String())
}
