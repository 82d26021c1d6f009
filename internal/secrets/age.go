package secrets

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/gofrs/flock"
)

const (
	ageName   = "age"
	ageSuffix = ".age"
	// ageTemp begins the names of files that are being written, ageLock is the file
	// that writers lock.
	ageTemp = ".tmp-"
	ageLock = ".lock"
	// lockRetry is how often a lock that somebody else holds is tried, and lockWait for
	// how long.
	lockRetry = 50 * time.Millisecond
	lockWait  = 15 * time.Second
)

// An AgeConfig says where an age store is and who can read it.
type AgeConfig struct {
	// Name is the store's name, "age" if it is empty.
	Name string
	// Dir is the store's folder, "secrets" if it is empty.
	Dir string
	// Identities are the files with the keys that open secrets: age identities,
	// also protected by a passphrase, or SSH private keys. "env:NAME" takes age
	// identities from an environment variable.
	Identities []string
	// Recipients are who is to be able to open what is written: age or SSH public
	// keys, or files that hold one on each line.
	Recipients []string
	// Now is the clock for [Version.Created]; nil means time.Now.
	Now func() time.Time
}

// An AgeStore keeps each secret as an age file, PATH.age in its folder, encrypted to
// all recipients. Inside is JSON with the secret's versions. Plaintext never reaches
// a disk. A write is durable once it has returned, and whatever dies while it goes
// on, readers find the old file or the new one. Writers of one folder wait for each
// other, on this machine; between machines the folder travels by version control,
// which finds conflicts.
type AgeStore struct {
	name       string
	dir        string
	identities *identities
	recipients []string // as configured
	base       string   // from where files of recipients are seen
	lookupEnv  func(string) (string, bool)
	now        func() time.Time
}

func newAgeStore(c AgeConfig, base string, lookupEnv func(string) (string, bool), passphrase func(string) (Secret, error)) (*AgeStore, error) {
	if c.Name == "" {
		c.Name = "age"
	}
	if c.Dir == "" {
		c.Dir = "secrets"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	dir, err := expandPath(c.Dir, base, lookupEnv)
	if err != nil {
		return nil, fmt.Errorf("secret store %s: %w", c.Name, err)
	}
	for _, s := range slices.Concat(c.Identities, c.Recipients) {
		if holdsAgeKey(s) {
			return nil, fmt.Errorf("secret store %s: a secret key stands in fleet.toml itself: replace that key with a new one, keep it in a file of its own (chmod 600) and name the file", c.Name)
		}
	}
	ids := &identities{names: c.Identities, base: base, lookupEnv: lookupEnv, passphrase: passphrase}
	return &AgeStore{name: c.Name, dir: dir, identities: ids, recipients: c.Recipients, base: base, lookupEnv: lookupEnv, now: c.Now}, nil
}

// Name returns the store's name.
func (s *AgeStore) Name() string { return s.name }

// Get implements [Store].
func (s *AgeStore) Get(ctx context.Context, path, version string) (Entry, error) {
	f, err := s.read(ctx, path)
	if err != nil {
		return Entry{}, s.fail(path, err)
	}
	v, err := f.find(version)
	if err != nil {
		return Entry{}, s.fail(path, err)
	}
	return Entry{Version: v.version(), Keys: v.secrets()}, nil
}

// Versions implements [Store].
func (s *AgeStore) Versions(ctx context.Context, path string) ([]Version, error) {
	f, err := s.read(ctx, path)
	if err != nil {
		return nil, s.fail(path, err)
	}
	var versions []Version
	for _, v := range f.Versions {
		versions = append(versions, v.version())
	}
	return versions, nil
}

// Put implements [WritableStore].
func (s *AgeStore) Put(ctx context.Context, path string, c Change) (id string, err error) {
	err = s.update(ctx, path, func(f *ageFile) error {
		id, err = f.put(c, s.now())
		return err
	})
	if err != nil {
		return "", s.fail(path, err)
	}
	return id, nil
}

// Promote implements [WritableStore].
func (s *AgeStore) Promote(ctx context.Context, path, id string) error {
	err := s.update(ctx, path, func(f *ageFile) error { return f.promote(id) })
	return s.fail(path, err)
}

// List returns the paths of all secrets in the store, sorted; none if its folder
// does not exist.
func (s *AgeStore) List(ctx context.Context) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && name != s.dir
		if hidden && d.IsDir() {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(s.dir, name)
		if err != nil {
			return err
		}
		if p, ok := strings.CutSuffix(filepath.ToSlash(rel), ageSuffix); ok && !hidden && d.Type().IsRegular() {
			paths = append(paths, p)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	slices.Sort(paths)
	return paths, err
}

// Rekey encrypts the secret at path anew for the configured recipients, as is
// needed when somebody comes or leaves. Who has left may have kept copies: the
// values themselves should be rotated too.
func (s *AgeStore) Rekey(ctx context.Context, path string) error {
	err := s.update(ctx, path, func(f *ageFile) error {
		if len(f.Versions) == 0 {
			return ErrNotFound
		}
		return nil
	})
	return s.fail(path, err)
}

// fail gives an error the secret's name; nil stays nil.
func (s *AgeStore) fail(path string, err error) error {
	if err == nil {
		return nil
	}
	failure := &Error{Store: s.Name(), Path: path, Err: err}
	if h, ok := errors.AsType[*hintedError](err); ok && error(h) == err { //nolint:errorlint // the outermost error itself
		failure.Err, failure.Hint = h.err, h.hint
	}
	return failure
}

// A hintedError carries a hint up to the store's [Error].
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() + "; " + e.hint }
func (e *hintedError) Unwrap() error { return e.err }

// fileName returns the file of a secret, seen from the store's folder.
func fileName(secret string) (string, error) {
	for part := range strings.SplitSeq(secret, "/") {
		if part == "" && secret != "" {
			return "", errors.New("the path has an empty part; if a template stands in it, that renders to nothing here")
		}
		bad := strings.IndexFunc(part, func(c rune) bool { return c > '~' || !isVersionByte(byte(c)) })
		if part == "" || part[0] == '.' || part[0] == '-' || bad >= 0 {
			return "", errors.New(`the path must be words of letters, digits, '.', '_' and '-' with / between them, such as "prod/appuser"`)
		}
	}
	return secret + ageSuffix, nil
}

// read returns what is in the file of a secret, ErrNotFound if there is none.
func (s *AgeStore) read(ctx context.Context, secret string) (*ageFile, error) {
	name, cipher, err := s.readFile(ctx, secret)
	if err != nil {
		return nil, err
	}
	return s.decrypt(name, cipher)
}

// readFile returns the name of a secret's file and what it holds, encrypted.
func (s *AgeStore) readFile(ctx context.Context, secret string) (name string, cipher []byte, err error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	if name, err = fileName(secret); err != nil {
		return "", nil, err
	}
	// Through a Root no symbolic link leads out of the folder.
	root, err := os.OpenRoot(s.dir)
	if err == nil {
		defer root.Close()
		cipher, err = root.ReadFile(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return name, nil, &hintedError{ErrNotFound, "there is no file " + filepath.Join(s.dir, name)}
	}
	return name, cipher, err
}

func (s *AgeStore) decrypt(name string, cipher []byte) (*ageFile, error) {
	ids, err := s.identities.load()
	if err != nil {
		return nil, err
	}
	full := filepath.Join(s.dir, name)
	plain, err := age.Decrypt(bytes.NewReader(cipher), ids...)
	if noMatch, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, s.noIdentity(full, noMatch)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be decrypted: %w", full, err)
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", full, err)
	}
	var f ageFile
	if err := json.Unmarshal(text, &f); err != nil {
		// The error could quote a value.
		return nil, fmt.Errorf("%s was not written by pgfleet: it does not hold JSON of its form", full)
	}
	if f.Format != ageFormat {
		return nil, fmt.Errorf("%s has the format %d and this pgfleet reads %d: use the version of pgfleet that wrote it", full, f.Format, ageFormat)
	}
	return &f, nil
}

// update changes the file of a secret while holding the store's lock.
func (s *AgeStore) update(ctx context.Context, secret string, change func(*ageFile) error) error {
	name, err := fileName(secret)
	if err != nil {
		return err
	}
	recipients, written, err := s.parseRecipients()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(s.dir, ageLock), flock.SetPermissions(0o600))
	limited, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	switch _, err := lock.TryLockContext(limited, lockRetry); {
	case err != nil && ctx.Err() == nil && limited.Err() != nil:
		return &hintedError{fmt.Errorf("%s has been locked for %v by another pgfleet that writes to it", s.dir, lockWait), "try again once that has ended"}
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("%s cannot be locked: %w", s.dir, err)
	case err != nil:
		return fmt.Errorf("%s is locked by another pgfleet: %w", s.dir, err)
	}
	defer lock.Close()
	f, err := s.read(ctx, secret)
	if errors.Is(err, ErrNotFound) {
		f, err = &ageFile{}, nil
	}
	if err != nil {
		return err
	}
	if err := change(f); err != nil {
		return err
	}
	f.Format, f.Recipients = ageFormat, written
	cipher, err := f.encrypt(recipients)
	if err != nil {
		return err
	}
	// Read back before the old file is gone: who is not among the recipients would
	// lock themselves out.
	if _, err := s.decrypt(name, cipher); err != nil {
		return fmt.Errorf("nothing was written, since it could not be read back: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.write(name, cipher)
}

// write puts a file in place, durably. The caller holds the store's lock, so that
// temporary files in the same folder are those of writers who died.
func (s *AgeStore) write(name string, cipher []byte) error {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	folder := path.Dir(name)
	if err := root.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	stale, err := fs.Glob(root.FS(), path.Join(folder, ageTemp+"*"))
	if err != nil {
		return err
	}
	for _, t := range stale {
		if err := root.Remove(t); err != nil {
			return err
		}
	}
	temp := path.Join(folder, ageTemp+rand.Text())
	if err := writeSynced(root, temp, cipher); err != nil {
		_ = root.Remove(temp) // the first error is the one that matters
		return err
	}
	if err := root.Rename(temp, name); err != nil {
		_ = root.Remove(temp)
		return err
	}
	// A folder that was just made is durable once its parent is.
	for ; ; folder = path.Dir(folder) {
		if err := syncFolder(root, folder); err != nil {
			return err
		}
		if folder == "." {
			return nil
		}
	}
}

func writeSynced(root *os.Root, name string, content []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func syncFolder(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
