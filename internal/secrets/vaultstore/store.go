// Package vaultstore keeps secrets in OpenBao or HashiCorp Vault, in a mount of the
// KV secrets engine, version 2 (https://openbao.org/api-docs/secret/kv/kv-v2/).
//
// KV has one line of versions, of which readers get the latest, so a pending version
// cannot be one of them. What readers get stands at PATH, as plain keys and nothing
// else. All that pgfleet must know besides (the pending version, the stages, older
// values) is one document at pgfleet-versions/PATH. Both are written with
// check-and-set only.
//
// A promotion is one write to PATH; the document follows. Whoever reads both puts the
// document right for themselves first (document.reconcile): what stands at PATH is
// current, whoever wrote it. So it does not matter if the writer dies in between, or
// if somebody writes to PATH by other means.
package vaultstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

const (
	defaultName      = "vault"
	defaultMount     = "secret"
	defaultVersions  = "pgfleet-versions"
	defaultAuth      = "approle"
	defaultTimeout   = 15 * time.Second
	defaultRetryWait = 150 * time.Millisecond
	// tries is how often a write begins anew when somebody else's came in between.
	tries = 10
)

// A Config says where the store is and how to log in.
type Config struct {
	Name      string // of the store; "vault" if it is empty
	Address   string // such as "https://vault.example.org:8200"
	Namespace string // "" for the root namespace
	Mount     string // of the KV engine; "secret" if it is empty
	Versions  string // the folder in the mount where pgfleet keeps versions; "pgfleet-versions" if it is empty
	CAFile    string // a file with the certificates of the CA in PEM; "" for those of the system

	// Token is where the token is. If it and RoleID are the zero Ref, it is taken
	// from BAO_TOKEN, VAULT_TOKEN or ~/.vault-token, in that order.
	Token secrets.Ref
	// RoleID and SecretID log in by AppRole, at auth/AUTH ("approle" if it is empty).
	RoleID, SecretID secrets.Ref
	Auth             string

	Timeout   time.Duration // for a whole operation; 15s if it is 0
	RetryWait time.Duration // before a request that failed is repeated, three times; 150ms if it is 0

	// Read reads Token, RoleID and SecretID. It is for the stores env and file.
	Read func(context.Context, secrets.Ref) (secrets.Secret, error)
	// LookupEnv reads the environment.
	LookupEnv func(string) (string, bool)
	// Redactor, if not nil, is told of the token.
	Redactor *secrets.Redactor
	Now      func() time.Time // nil means time.Now
}

// A Store is a mount of KV version 2. It may be used by several goroutines at once.
type Store struct {
	config Config
	client *api.Client

	mu    sync.Mutex
	login int // counts how often a token was got; 0 if there is none yet
}

// New returns the store. Nothing is asked of the server yet.
func New(c Config) (*Store, error) {
	for _, d := range []struct {
		value  *string
		unless string
	}{{&c.Name, defaultName}, {&c.Mount, defaultMount}, {&c.Versions, defaultVersions}, {&c.Auth, defaultAuth}} {
		if *d.value = strings.Trim(*d.value, "/"); *d.value == "" {
			*d.value = d.unless
		}
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.RetryWait == 0 {
		c.RetryWait = defaultRetryWait
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	client, err := newClient(c)
	if err != nil {
		return nil, fmt.Errorf("secret store %s: %w", c.Name, err)
	}
	return &Store{config: c, client: client}, nil
}

// Name returns the store's name.
func (s *Store) Name() string { return s.config.Name }

// Get implements [secrets.Store].
func (s *Store) Get(ctx context.Context, path, version string) (entry secrets.Entry, err error) {
	err = s.operation(ctx, path, func(ctx context.Context) error {
		entry, err = s.get(ctx, path, version)
		return err
	})
	return entry, err
}

func (s *Store) get(ctx context.Context, path, version string) (secrets.Entry, error) {
	wantCurrent := version == "" || version == string(secrets.Current)
	st, err := s.load(ctx, path, wantCurrent)
	if err != nil {
		return secrets.Entry{}, err
	}
	if wantCurrent {
		version = string(secrets.Current)
		if st.current.data == nil {
			return secrets.Entry{}, s.noCurrent(ctx, path, st)
		}
	}
	r := st.doc.find(version)
	if r == nil {
		if r, err = s.foreign(ctx, path, version); err != nil {
			return secrets.Entry{}, err
		}
	}
	return secrets.Entry{Version: r.version(), Keys: r.Data.Secrets()}, nil
}

// noCurrent says why readers get nothing at a path.
func (s *Store) noCurrent(ctx context.Context, path string, st *state) error {
	where := s.config.Mount + "/" + path
	switch {
	case st.current.destroyed:
		return hint(fmt.Errorf("version %d of %s was destroyed: %w", st.current.version, where, secrets.ErrNotFound), "write it anew")
	case st.current.version > 0:
		return hint(fmt.Errorf("version %d of %s was deleted: %w", st.current.version, where, secrets.ErrNotFound),
			fmt.Sprintf("to have it back: bao kv undelete -mount=%s -versions=%d %s", s.config.Mount, st.current.version, path))
	case len(st.doc.Versions) > 0:
		return hint(fmt.Errorf("current version %w", secrets.ErrNotFound), "it has only versions that were never promoted")
	}
	if err := s.checkMount(ctx); err != nil {
		return err
	}
	return hint(secrets.ErrNotFound, "there is nothing at "+where)
}

// foreign returns a version that was written to the path by other means, and is not
// in the document: kv-N.
func (s *Store) foreign(ctx context.Context, path, id string) (*revision, error) {
	number, isForeign := strings.CutPrefix(id, foreignID)
	n, err := strconv.Atoi(number)
	if !isForeign || err != nil || n < 1 {
		return nil, fmt.Errorf("version %s %w", id, secrets.ErrNotFound)
	}
	v, err := s.read(ctx, path, n)
	if err != nil {
		return nil, err
	}
	if v.data == nil {
		return nil, fmt.Errorf("version %s %w", id, secrets.ErrNotFound)
	}
	return &revision{ID: id, Created: v.created, Data: v.data}, nil
}

// Versions implements [secrets.Store]. Versions that were written by other means are
// listed if they are the current one, or were when pgfleet wrote the next.
func (s *Store) Versions(ctx context.Context, path string) (versions []secrets.Version, err error) {
	err = s.operation(ctx, path, func(ctx context.Context) error {
		st, err := s.load(ctx, path, true)
		if err != nil {
			return err
		}
		for _, r := range st.doc.Versions {
			versions = append(versions, r.version())
		}
		if versions == nil {
			return s.noCurrent(ctx, path, st)
		}
		return nil
	})
	return versions, err
}

// Put implements [secrets.WritableStore].
func (s *Store) Put(ctx context.Context, path string, c secrets.Change) (id string, err error) {
	err = s.operation(ctx, path, func(ctx context.Context) error {
		id, err = s.put(ctx, path, c)
		return err
	})
	return id, err
}

func (s *Store) put(ctx context.Context, path string, c secrets.Change) (string, error) {
	writer := rand.Text()
	for range tries {
		st, err := s.loadToWrite(ctx, path)
		if err != nil {
			return "", err
		}
		r, err := st.doc.put(c, writer, s.config.Now())
		if err != nil {
			return "", err
		}
		err = s.writeDocument(ctx, path, st)
		if err == nil {
			return r.ID, nil
		}
		// It may have been written all the same: by a request whose answer got lost,
		// or by the one before a repeated request.
		if again, loadErr := s.load(ctx, path, false); loadErr == nil {
			if r := again.doc.writtenBy(writer); r != nil {
				return r.ID, nil
			}
		}
		if !errors.Is(err, errCheckAndSet) {
			return "", err
		}
	}
	return "", secrets.ErrConflict
}

// Promote implements [secrets.WritableStore].
func (s *Store) Promote(ctx context.Context, path, id string) error {
	return s.operation(ctx, path, func(ctx context.Context) error { return s.promote(ctx, path, id) })
}

func (s *Store) promote(ctx context.Context, path, id string) error {
	wasPending := false
	for range tries {
		st, err := s.loadToWrite(ctx, path)
		if err != nil {
			return err
		}
		r := st.doc.find(id)
		if r == nil || r.ID != id {
			if r, err = s.foreign(ctx, path, id); err != nil {
				return err
			}
			st.doc.Versions = append(st.doc.Versions, r)
			st.changed = true
		}
		if wasPending && r.Stage != secrets.Pending && r.Stage != secrets.Current {
			return fmt.Errorf("%w: another version was promoted after %s", secrets.ErrConflict, id)
		}
		wasPending = wasPending || r.Stage == secrets.Pending
		err = s.publish(ctx, path, st, r)
		if !errors.Is(err, errCheckAndSet) {
			return err
		}
	}
	return secrets.ErrConflict
}

// publish makes r what readers get. Nothing is overwritten that the document does not
// hold.
func (s *Store) publish(ctx context.Context, path string, st *state, r *revision) error {
	if r.Stage == secrets.Current && !st.changed {
		return nil
	}
	if r.Stage == secrets.Pending {
		if err := st.rebase(r); err != nil {
			return err
		}
	}
	if st.changed {
		if err := s.writeDocument(ctx, path, st); err != nil {
			return err
		}
	}
	if r.Stage == secrets.Current {
		return nil
	}
	n, err := s.write(ctx, path, r.Data, st.current.version)
	if err != nil {
		return err
	}
	r.KV = n
	st.doc.makeCurrent(r)
	err = s.writeDocument(ctx, path, st)
	if errors.Is(err, errCheckAndSet) {
		return err // somebody has put it right already, which the next round finds
	}
	if err != nil {
		return hint(fmt.Errorf("readers get version %s now, but it could not be noted in %s: %w", r.ID, s.documentPath(path), err), "do the same again")
	}
	return nil
}

// A state is what stands at both paths of a secret, put right.
type state struct {
	doc        document
	docVersion int     // of KV, for check-and-set
	current    kvValue // what readers get
	changed    bool    // doc holds something that the server's does not
}

// load reads both paths. With lenient, who may not read the document gets an empty one:
// those who only read secrets need no right to it.
func (s *Store) load(ctx context.Context, path string, lenient bool) (*state, error) {
	// The document comes last: it then knows each version that readers got before.
	current, err := s.read(ctx, path, 0)
	if err != nil {
		return nil, err
	}
	st := &state{current: current}
	v, err := s.read(ctx, s.config.Versions+"/"+path, 0)
	if lenient && errors.Is(err, errForbidden) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	st.docVersion = v.version
	if v.data != nil {
		if st.doc, err = parseDocument(v.data); err != nil {
			return nil, fmt.Errorf("%s: %w", s.documentPath(path), err)
		}
	}
	st.changed = st.doc.reconcile(current)
	return st, nil
}

// loadToWrite also makes sure that the mount keeps versions: to one of version 1,
// check-and-set would mean nothing.
func (s *Store) loadToWrite(ctx context.Context, path string) (*state, error) {
	st, err := s.load(ctx, path, false)
	if err == nil && st.current.version == 0 {
		err = s.checkMount(ctx)
	}
	return st, err
}

func (s *Store) documentPath(path string) string {
	return s.config.Mount + "/" + s.config.Versions + "/" + path
}

func (s *Store) writeDocument(ctx context.Context, path string, st *state) error {
	st.doc.prune()
	data, err := st.doc.data()
	if err != nil {
		return err
	}
	n, err := s.write(ctx, s.config.Versions+"/"+path, data, st.docVersion)
	if err != nil {
		return err
	}
	st.docVersion, st.changed = n, false
	return nil
}

// rebase gives the pending version r the keys that somebody else has written since it
// was made, so that promoting it does not undo that.
func (st *state) rebase(r *revision) error {
	current := st.doc.find(string(secrets.Current))
	if current == nil || current.ID == r.Base {
		return nil
	}
	var base secrets.JSONKeys
	if r.Base != secrets.NoVersion {
		b := st.doc.find(r.Base)
		if b == nil {
			return hint(fmt.Errorf("%w: version %s, which %s was made from, is not kept any more", secrets.ErrConflict, r.Base, r.ID), "write the pending version anew")
		}
		base = b.Data
	}
	merged, key := merge(base, current.Data, r.Data)
	if key != "" {
		return hint(fmt.Errorf("%w: key %s was written as version %s after the pending version %s was made", secrets.ErrConflict, key, current.ID, r.ID), "write the pending version anew")
	}
	r.Data, r.Base, st.changed = merged, current.ID, true
	return nil
}

// merge returns mine with what theirs has changed since base, or a key that both have
// changed.
func merge(base, theirs, mine secrets.JSONKeys) (merged secrets.JSONKeys, conflict string) {
	same := func(a, b json.RawMessage) bool { // nil stands for a key that is not there
		return (a == nil) == (b == nil) && (a == nil || secrets.EqualJSON(a, b))
	}
	var names []string
	for _, keys := range []secrets.JSONKeys{base, theirs, mine} {
		for name := range keys {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	merged = make(secrets.JSONKeys)
	for _, name := range slices.Compact(names) {
		value := mine[name]
		switch {
		case same(theirs[name], base[name]), same(theirs[name], value):
		case same(value, base[name]):
			value = theirs[name]
		default:
			return nil, name
		}
		if value != nil {
			merged[name] = value
		}
	}
	return merged, ""
}
