package secrets

import (
	"context"
	"errors"
	"fmt"
)

// envStore reads environment variables: env:NAME.
type envStore struct {
	lookup func(string) (string, bool)
}

// NewEnvStore returns the store "env", which reads environment variables. A nil
// lookup is a mistake; os.LookupEnv is the usual one.
func NewEnvStore(lookup func(string) (string, bool)) Store {
	return &envStore{lookup: lookup}
}

func (*envStore) Name() string { return "env" }

func (s *envStore) Get(ctx context.Context, path, version string) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, s.fail(path, err, "")
	}
	if !isEnvName(path) {
		return Entry{}, s.fail(path, ErrNotFound, "a variable's name has only letters, digits and _, and no digit first")
	}
	value, ok := s.lookup(path)
	switch {
	case !ok:
		return Entry{}, s.fail(path, fmt.Errorf("environment variable %w", ErrNotFound), "set and export "+path)
	case value == "":
		return Entry{}, s.fail(path, errors.New("the environment variable is empty"), "")
	}
	if err := checkOnlyVersion(version); err != nil {
		return Entry{}, s.fail(path, err, "")
	}
	return Entry{Keys: map[string]Secret{"": NewString(value)}}, nil
}

func (s *envStore) Versions(ctx context.Context, path string) ([]Version, error) {
	_, err := s.Get(ctx, path, "")
	return nil, err
}

func (s *envStore) fail(path string, err error, hint string) error {
	return &Error{Store: s.Name(), Path: path, Err: err, Hint: hint}
}

func isEnvName(s string) bool {
	for i, c := range []byte(s) {
		if !(c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || i > 0 && '0' <= c && c <= '9') {
			return false
		}
	}
	return s != ""
}

// checkOnlyVersion is for stores that keep no versions: there is only the current.
func checkOnlyVersion(version string) error {
	if version == "" || version == string(Current) {
		return nil
	}
	return fmt.Errorf("version %s %w: the store keeps no versions", version, ErrNotFound)
}
