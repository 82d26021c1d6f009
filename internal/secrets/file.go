package secrets

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
)

// fileStore reads files: file:PATH or file:PATH#KEY.
type fileStore struct {
	dir    string
	lookup func(string) (string, bool)
}

// NewFileStore returns the store "file", which reads files. Paths are seen from
// dir; ~/ stands for the home directory, which lookupEnv knows. Files that others
// than their owner can read are refused.
//
// Without a key the value is the whole file but for one newline at its end. With
// one, it is a member of a JSON object, or what follows KEY= on a line of a file in
// which each line is of that form, empty, or a comment after #. Quotes around such
// a value are dropped.
func NewFileStore(dir string, lookupEnv func(string) (string, bool)) Store {
	return &fileStore{dir: dir, lookup: lookupEnv}
}

func (*fileStore) Name() string { return "file" }

func (s *fileStore) Get(ctx context.Context, path, version string) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, s.fail(path, err, "")
	}
	full, err := expandPath(path, s.dir, s.lookup)
	if err != nil {
		return Entry{}, s.fail(path, err, "")
	}
	content, err := readPrivate(full)
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, s.fail(path, ErrNotFound, "there is no file "+full)
	}
	if err != nil {
		return Entry{}, s.fail(path, err, "")
	}
	if err := checkOnlyVersion(version); err != nil {
		return Entry{}, s.fail(path, err, "")
	}
	keys := readKeys(content)
	keys[""] = New(cutNewline(content))
	if keys[""].IsEmpty() {
		return Entry{}, s.fail(path, errors.New("the file is empty"), "")
	}
	return Entry{Keys: keys}, nil
}

func (s *fileStore) Versions(ctx context.Context, path string) ([]Version, error) {
	_, err := s.Get(ctx, path, "")
	return nil, err
}

func (s *fileStore) fail(path string, err error, hint string) error {
	return &Error{Store: s.Name(), Path: path, Err: err, Hint: hint}
}

func cutNewline(b []byte) []byte {
	b = bytes.TrimSuffix(b, []byte("\n"))
	return bytes.TrimSuffix(b, []byte("\r"))
}

// readKeys returns the keys of a JSON object or of KEY=VALUE lines; none if the
// file is neither.
func readKeys(content []byte) map[string]Secret {
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")) {
		if keys, ok := readJSON(content); ok {
			return keys
		}
	}
	return readLines(content)
}

func readJSON(content []byte) (map[string]Secret, bool) {
	var object map[string]any
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if err := d.Decode(&object); err != nil {
		return nil, false
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, false
	}
	keys := make(map[string]Secret)
	for name, value := range object {
		switch v := value.(type) {
		case string:
			keys[name] = NewString(v)
		case json.Number:
			keys[name] = NewString(v.String())
		}
	}
	return keys, true
}

func readLines(content []byte) map[string]Secret {
	keys := make(map[string]Secret)
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, maxFileSize+1)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !found || !isEnvName(strings.NewReplacer(".", "_", "-", "_").Replace(name)) {
			return make(map[string]Secret)
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		keys[name] = NewString(value)
	}
	return keys
}
