package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"filippo.io/age"
)

const (
	ageFormat = 1 // of the JSON in an age file
	// ageKeep is how many retired versions are kept. A rotation that goes wrong is
	// noticed long before so many more have been made.
	ageKeep = 8
)

// ageFile is the plaintext of an age file. It holds values in the open, so it must
// never be printed, nor returned by an exported function.
type ageFile struct {
	Format     int          `json:"format"`
	Recipients []string     `json:"recipients"`
	Versions   []ageVersion `json:"versions"` // oldest first
}

type ageVersion struct {
	ID      string            `json:"id"` // a decimal number
	Stage   Stage             `json:"stage,omitempty"`
	Created time.Time         `json:"created"`
	Keys    map[string]string `json:"keys,omitempty"`
	Binary  map[string][]byte `json:"binary,omitempty"` // values that are not UTF-8
}

// encrypt returns the age file.
func (f *ageFile) encrypt(recipients []age.Recipient) ([]byte, error) {
	plain, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	var cipher bytes.Buffer
	w, err := age.Encrypt(&cipher, recipients...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return cipher.Bytes(), nil
}

// find returns the version with this ID or in this stage.
func (f *ageFile) find(version string) (*ageVersion, error) {
	stage := Stage(version)
	if version == "" {
		stage = Current
	}
	for i := range f.Versions {
		v := &f.Versions[i]
		if v.ID == version || v.Stage == stage {
			return v, nil
		}
	}
	if stage == Current {
		return nil, &hintedError{fmt.Errorf("current version %w", ErrNotFound), "it has only versions that were never promoted"}
	}
	return nil, fmt.Errorf("version %s %w", version, ErrNotFound)
}

// put adds a pending version and returns its ID.
func (f *ageFile) put(c Change, now time.Time) (string, error) {
	current, err := f.find("")
	if err != nil {
		current = &ageVersion{ID: NoVersion}
	}
	if c.IfCurrent != "" && c.IfCurrent != current.ID {
		return "", fmt.Errorf("%w: the current version is %s rather than %s", ErrConflict, current.ID, c.IfCurrent)
	}
	if pending, err := f.find(string(Pending)); err == nil {
		if !c.Replace {
			return "", fmt.Errorf("%w: %s", ErrPending, pending.ID)
		}
		pending.Stage = Retired
	}
	keys := current.secrets()
	for _, name := range c.Remove {
		delete(keys, name)
	}
	for name, value := range c.Set {
		if err := checkRefPart("key", name); name == "" || err != nil {
			return "", fmt.Errorf("%q cannot be the name of a key", name)
		}
		keys[name] = value
	}
	if len(keys) == 0 {
		return "", errors.New("a version without any key cannot be written")
	}
	last := 0
	for _, v := range f.Versions {
		if n, err := strconv.Atoi(v.ID); err == nil {
			last = max(last, n)
		}
	}
	v := ageVersion{ID: strconv.Itoa(last + 1), Stage: Pending, Created: now.UTC().Truncate(time.Second)}
	v.set(keys)
	f.Versions = append(f.Versions, v)
	f.prune()
	return v.ID, nil
}

// promote makes a version the current one.
func (f *ageFile) promote(id string) error {
	i := slices.IndexFunc(f.Versions, func(v ageVersion) bool { return v.ID == id })
	if i < 0 {
		return fmt.Errorf("version %s %w", id, ErrNotFound)
	}
	if f.Versions[i].Stage == Current {
		return nil
	}
	for j := range f.Versions {
		switch v := &f.Versions[j]; v.Stage {
		case Previous:
			v.Stage = Retired
		case Current:
			v.Stage = Previous
		}
	}
	f.Versions[i].Stage = Current
	f.prune()
	return nil
}

// prune drops the oldest retired versions.
func (f *ageFile) prune() {
	retired := 0
	for _, v := range f.Versions {
		if v.Stage == Retired {
			retired++
		}
	}
	f.Versions = slices.DeleteFunc(f.Versions, func(v ageVersion) bool {
		drop := v.Stage == Retired && retired > ageKeep
		if drop {
			retired--
		}
		return drop
	})
}

func (v *ageVersion) version() Version {
	return Version{ID: v.ID, Stage: v.Stage, Created: v.Created}
}

// secrets returns the version's values.
func (v *ageVersion) secrets() map[string]Secret {
	keys := make(map[string]Secret)
	for name, value := range v.Keys {
		keys[name] = NewString(value)
	}
	for name, value := range v.Binary {
		keys[name] = New(value)
	}
	return keys
}

func (v *ageVersion) set(keys map[string]Secret) {
	v.Keys, v.Binary = make(map[string]string), make(map[string][]byte)
	for name, s := range keys {
		if b := s.bytes(); utf8.Valid(b) {
			v.Keys[name] = string(b)
		} else {
			v.Binary[name] = b
		}
	}
}
