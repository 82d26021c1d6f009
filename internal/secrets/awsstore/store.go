// Package awsstore keeps secrets in AWS Secrets Manager.
//
// The stages are staging labels: AWSCURRENT, which readers get, AWSPENDING and
// AWSPREVIOUS. A label moves from one version to another in a single request that
// fails if the label is not where it was thought to be (UpdateSecretVersionStage,
// RemoveFromVersionId), which stands in for the check-and-set that the service does
// not have: a pending version exists once it has AWSPENDING, and is promoted by moving
// AWSCURRENT from the version that it was made from, which a label of its own names.
package awsstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

const (
	current  = "AWSCURRENT"
	pending  = "AWSPENDING"
	previous = "AWSPREVIOUS"
	// madeFrom begins a label of a pending version; the ID of the version that was
	// current when it was made follows.
	madeFrom = "pgfleet-made-from-"
	// emptyID is the ID of the first version of a secret that pgfleet made: {}. The
	// service gives AWSCURRENT to the first version of a secret in any case
	// (PutSecretValue), which a value that is not proven yet must not have.
	emptyID = "pgfleet-without-a-value-00000000"

	defaultName    = "aws"
	defaultTimeout = 15 * time.Second
	// tries is how often a write begins anew when somebody else's came in between.
	tries = 10
)

// A Config says where the store is. What is empty is left to the environment and to
// ~/.aws, as for the command aws.
type Config struct {
	Name     string // of the store; "aws" if it is empty
	Region   string
	Profile  string
	Endpoint string        // another URL than the region's, such as that of a VPC endpoint
	Timeout  time.Duration // for a whole operation; 15s if it is 0
	// RetryWait is the most that is waited before a request that failed is repeated;
	// 20s if it is 0.
	RetryWait time.Duration
}

// A Store is the Secrets Manager of an account in a region. It may be used by several
// goroutines at once.
type Store struct {
	config Config

	mu     sync.Mutex
	client *secretsmanager.Client // nil until it is needed
}

// New returns the store. Nothing is read or asked yet.
func New(c Config) *Store {
	if c.Name == "" {
		c.Name = defaultName
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return &Store{config: c}
}

// Name returns the store's name.
func (s *Store) Name() string { return s.config.Name }

// connect reads the configuration.
func (s *Store) connect(ctx context.Context) (*secretsmanager.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	options := []func(*config.LoadOptions) error{
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				if s.config.RetryWait > 0 {
					o.MaxBackoff = s.config.RetryWait
				}
			})
		}),
	}
	if s.config.Region != "" {
		options = append(options, config.WithRegion(s.config.Region))
	}
	if s.config.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(s.config.Profile))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, err
	}
	if c.Region == "" {
		return nil, hint(errors.New("no region is known"), "say region in [secrets."+s.Name()+"], or set AWS_REGION")
	}
	s.client = secretsmanager.NewFromConfig(c, func(o *secretsmanager.Options) {
		if s.config.Endpoint != "" {
			o.BaseEndpoint = &s.config.Endpoint
		}
	})
	return s.client, nil
}

// A session is one operation on one secret.
type session struct {
	client *secretsmanager.Client
	secret *string
}

// Get implements [secrets.Store].
func (s *Store) Get(ctx context.Context, path, version string) (entry secrets.Entry, err error) {
	err = s.operation(ctx, path, func(ctx context.Context, c session) error {
		in := &secretsmanager.GetSecretValueInput{SecretId: c.secret}
		switch secrets.Stage(version) {
		case secrets.Current, "":
			in.VersionStage = aws.String(current)
		case secrets.Pending:
			in.VersionStage = aws.String(pending)
		case secrets.Previous:
			in.VersionStage = aws.String(previous)
		default:
			if !isVersionID(version) {
				return fmt.Errorf("version %s %w", version, secrets.ErrNotFound)
			}
			in.VersionId = &version
		}
		out, err := c.client.GetSecretValue(ctx, in)
		if err != nil {
			return err
		}
		v := versionOf(*out.VersionId, out.VersionStages, out.CreatedDate)
		switch {
		case v.ID == emptyID && in.VersionStage != nil && *in.VersionStage == current:
			return hint(fmt.Errorf("current version %w", secrets.ErrNotFound), "it has only versions that were never promoted")
		case v.ID == emptyID, version == string(secrets.Pending) && v.Stage != secrets.Pending:
			return fmt.Errorf("version %s %w", version, secrets.ErrNotFound)
		}
		entry = secrets.Entry{Version: v, Keys: parse(out).secrets()}
		return nil
	})
	return entry, err
}

// isVersionID reports whether the service takes s for an ID; it is an error otherwise.
func isVersionID(s string) bool { return len(s) >= 32 && len(s) <= 64 }

func versionOf(id string, labels []string, created *time.Time) secrets.Version {
	v := secrets.Version{ID: id, Created: aws.ToTime(created)}
	switch {
	case slices.Contains(labels, current): // with AWSPENDING beside it, it was just promoted
		v.Stage = secrets.Current
	case slices.Contains(labels, pending):
		v.Stage = secrets.Pending
	case slices.Contains(labels, previous):
		v.Stage = secrets.Previous
	}
	return v
}

// Versions implements [secrets.Store]. The service forgets versions without a label
// after a day, when there are more than a hundred.
func (s *Store) Versions(ctx context.Context, path string) (versions []secrets.Version, err error) {
	err = s.operation(ctx, path, func(ctx context.Context, c session) error {
		found, err := c.list(ctx)
		for _, v := range found {
			if *v.VersionId != emptyID {
				versions = append(versions, versionOf(*v.VersionId, v.VersionStages, v.CreatedDate))
			}
		}
		if err == nil && versions == nil {
			err = secrets.ErrNotFound
		}
		return err
	})
	return versions, err
}

// A list is the versions of a secret, oldest first.
type list []types.SecretVersionsListEntry

func (c session) list(ctx context.Context) (list, error) {
	var all list
	pages := secretsmanager.NewListSecretVersionIdsPaginator(c.client, &secretsmanager.ListSecretVersionIdsInput{
		SecretId: c.secret, IncludeDeprecated: aws.Bool(true),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Versions...)
	}
	slices.SortStableFunc(all, func(a, b types.SecretVersionsListEntry) int {
		return aws.ToTime(a.CreatedDate).Compare(aws.ToTime(b.CreatedDate))
	})
	return all, nil
}

// with returns the ID of the version with a label, "" if there is none.
func (l list) with(label string) string {
	for _, v := range l {
		if slices.Contains(v.VersionStages, label) {
			return *v.VersionId
		}
	}
	return ""
}

// pending returns the ID of the pending version, "" if there is none. One that is
// also current has been promoted.
func (l list) pending() string {
	if id := l.with(pending); id != l.with(current) {
		return id
	}
	return ""
}

// current returns the ID of the current version, or NoVersion.
func (l list) current() string {
	if id := l.with(current); id != "" && id != emptyID {
		return id
	}
	return secrets.NoVersion
}

// Put implements [secrets.WritableStore].
func (s *Store) Put(ctx context.Context, path string, c secrets.Change) (id string, err error) {
	err = s.operation(ctx, path, func(ctx context.Context, session session) error {
		for range tries {
			id, err = session.put(ctx, c)
			if !errors.Is(err, errMoved) {
				return err
			}
		}
		return secrets.ErrConflict
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// put returns errMoved if another writer came in between.
func (c session) put(ctx context.Context, change secrets.Change) (string, error) {
	versions, err := c.list(ctx)
	if isCode(err, "ResourceNotFoundException") {
		if change.IfCurrent != "" && change.IfCurrent != secrets.NoVersion {
			return "", fmt.Errorf("%w: there is no current version rather than %s", secrets.ErrConflict, change.IfCurrent)
		}
		if _, err := apply(change, value{}); err != nil {
			return "", err
		}
		if err := c.create(ctx); err != nil {
			return "", err
		}
		versions, err = c.list(ctx)
	}
	if err != nil {
		return "", err
	}
	base := versions.current()
	if change.IfCurrent != "" && change.IfCurrent != base {
		return "", fmt.Errorf("%w: the current version is %s rather than %s", secrets.ErrConflict, base, change.IfCurrent)
	}
	if p := versions.pending(); p != "" && !change.Replace {
		return "", fmt.Errorf("%w: %s", secrets.ErrPending, p)
	}
	var was value
	if base != secrets.NoVersion {
		out, err := c.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: c.secret, VersionId: &base})
		if err != nil {
			return "", err
		}
		was = parse(out)
	}
	text, err := apply(change, was)
	if err != nil {
		return "", err
	}
	return c.stage(ctx, versions, base, text)
}

// create makes the secret, with a version that holds nothing.
func (c session) create(ctx context.Context) error {
	_, err := c.client.CreateSecret(ctx, &secretsmanager.CreateSecretInput{
		Name: c.secret, ClientRequestToken: aws.String(emptyID), SecretString: aws.String("{}"),
		Description: aws.String("made by pgfleet"),
	})
	if isCode(err, "ResourceExistsException") {
		return nil
	}
	return err
}

// stage writes a version and makes it the pending one.
func (c session) stage(ctx context.Context, versions list, base, text string) (string, error) {
	id := newID()
	_, err := c.client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: c.secret, ClientRequestToken: &id, SecretString: &text, VersionStages: []string{madeFrom + base},
	})
	if err != nil {
		return "", err
	}
	if err := c.move(ctx, pending, versions.with(pending), id); err != nil {
		return "", err
	}
	// Nobody else has promoted anything since, as long as this one is pending.
	versions, err = c.list(ctx)
	if err != nil {
		return "", err
	}
	if versions.current() != base {
		if err := c.move(ctx, pending, id, ""); err != nil {
			return "", err
		}
		return "", errMoved
	}
	return id, nil
}

// errMoved: a label is not where it was.
var errMoved = errors.New("a staging label was moved by somebody else")

// move moves a label. from is "" if no version has it, to is "" to take it away. It
// returns errMoved if another version has it.
func (c session) move(ctx context.Context, label, from, to string) error {
	in := &secretsmanager.UpdateSecretVersionStageInput{SecretId: c.secret, VersionStage: &label}
	if from != "" && from != to {
		in.RemoveFromVersionId = &from
	}
	if to != "" {
		in.MoveToVersionId = &to
	}
	_, err := c.client.UpdateSecretVersionStage(ctx, in)
	if err == nil {
		return nil
	}
	// It may have gone through before: the answer got lost, and it was repeated.
	versions, listErr := c.list(ctx)
	if listErr != nil {
		return err
	}
	switch now := versions.with(label); {
	case now == to:
		return nil
	case now != from:
		return errMoved
	}
	return err
}

// Promote implements [secrets.WritableStore].
func (s *Store) Promote(ctx context.Context, path, id string) error {
	return s.operation(ctx, path, func(ctx context.Context, c session) error {
		err := c.promote(ctx, id)
		if errors.Is(err, errMoved) {
			return fmt.Errorf("%w: another version was promoted at the same time", secrets.ErrConflict)
		}
		return err
	})
}

func (c session) promote(ctx context.Context, id string) error {
	versions, err := c.list(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(versions, func(v types.SecretVersionsListEntry) bool { return *v.VersionId == id })
	if i < 0 || id == emptyID {
		return fmt.Errorf("version %s %w", id, secrets.ErrNotFound)
	}
	if now := versions.current(); now != id {
		if versions.pending() == id {
			for _, label := range versions[i].VersionStages {
				if base, ok := strings.CutPrefix(label, madeFrom); ok && base != now {
					return hint(fmt.Errorf("%w: version %s was written after the pending version %s was made", secrets.ErrConflict, now, id),
						"write the pending version anew")
				}
			}
		}
		if err := c.move(ctx, current, versions.with(current), id); err != nil {
			return err
		}
	}
	return c.tidy(ctx, versions[:i+1], versions.pending(), id)
}

// tidy takes the labels away that a version had before it was promoted, and those of
// older ones whose writers died: all versions together may have twenty.
func (c session) tidy(ctx context.Context, versions list, pendingID, id string) error {
	for _, v := range versions {
		isOver := *v.VersionId == id || *v.VersionId != pendingID
		for _, label := range v.VersionStages {
			if !isOver || !strings.HasPrefix(label, madeFrom) && !(label == pending && *v.VersionId == id) {
				continue
			}
			if err := c.move(ctx, label, *v.VersionId, ""); err != nil && !errors.Is(err, errMoved) {
				return hint(fmt.Errorf("readers get version %s now, but its label %s could not be removed: %w", id, label, err), "do the same again")
			}
		}
	}
	return nil
}

// newID returns a random UUID (RFC 9562, version 4), as the service recommends for
// the IDs of versions.
func newID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// A value is what a version holds: keys, or a single value.
type value struct {
	keys   secrets.JSONKeys
	single *secrets.Secret // nil if it has keys
}

func parse(out *secretsmanager.GetSecretValueOutput) value {
	if out.SecretString == nil {
		s := secrets.New(out.SecretBinary)
		return value{single: &s}
	}
	var keys secrets.JSONKeys
	if err := json.Unmarshal([]byte(*out.SecretString), &keys); err != nil || keys == nil {
		s := secrets.NewString(*out.SecretString)
		return value{single: &s}
	}
	return value{keys: keys}
}

func (v value) secrets() map[string]secrets.Secret {
	if v.single != nil {
		return map[string]secrets.Secret{"": *v.single}
	}
	return v.keys.Secrets()
}

// apply returns the text of the version after the change. Setting the key "" writes a
// single value; a secret has either that or keys.
func apply(c secrets.Change, was value) (string, error) {
	single, isSingle := c.Set[""]
	switch {
	case isSingle && (len(c.Set) > 1 || len(was.keys) > 0):
		return "", hint(errors.New("a value without a key cannot be written to a secret that has keys"), "name a key")
	case isSingle:
		return string(single.Expose()), nil
	case was.single != nil:
		return "", hint(errors.New("the secret is a single value, which has no keys"), "name none, or write JSON with keys in its place")
	}
	keys, err := c.Apply(was.keys)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(keys)
	return string(text), err
}
