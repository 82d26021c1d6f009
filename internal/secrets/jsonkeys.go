package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// JSONKeys are the keys of a secret as a store that holds JSON has them. A value is
// usually a string. Other values, which somebody else has written, are kept as they
// are, and read as their JSON text. Bytes that are not UTF-8 are written as an
// object with their base64: {"base64": "AAH//g=="}.
//
// It holds values in the open, so it must never be printed.
type JSONKeys map[string]json.RawMessage

// jsonBinary is the value of a key that holds other bytes than UTF-8.
type jsonBinary struct {
	Base64 *[]byte `json:"base64"`
}

// JSONValue returns the value of a key for a secret.
func JSONValue(s Secret) json.RawMessage {
	b := s.bytes()
	var value any = string(b)
	if !utf8.Valid(b) {
		value = jsonBinary{&b}
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // strings and byte slices can always be encoded
	}
	return text
}

// Secrets returns the values.
func (k JSONKeys) Secrets() map[string]Secret {
	all := make(map[string]Secret)
	for name, raw := range k {
		var text string
		var binary jsonBinary
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		switch {
		case json.Unmarshal(raw, &text) == nil && string(raw) != "null":
			all[name] = NewString(text)
		case d.Decode(&binary) == nil && binary.Base64 != nil:
			all[name] = New(*binary.Base64)
		default:
			all[name] = New(raw)
		}
	}
	return all
}

// Equal reports whether both hold the same keys with the same values, however their
// JSON is written.
func (k JSONKeys) Equal(other JSONKeys) bool {
	return maps.EqualFunc(k, other, EqualJSON)
}

// EqualJSON reports whether two texts are the same value in JSON.
func EqualJSON(a, b json.RawMessage) bool {
	x, errX := canonicalJSON(a)
	y, errY := canonicalJSON(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func canonicalJSON(raw json.RawMessage) ([]byte, error) {
	var value any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	return json.Marshal(value) // sorts the members of objects
}

// Apply returns the keys after the change. The error names a key that cannot be one.
func (c Change) Apply(keys JSONKeys) (JSONKeys, error) {
	changed := maps.Clone(keys)
	if changed == nil {
		changed = make(JSONKeys)
	}
	for _, name := range c.Remove {
		delete(changed, name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Set)) {
		if err := checkRefPart("key", name); name == "" || err != nil {
			return nil, fmt.Errorf("%q cannot be the name of a key", name)
		}
		changed[name] = JSONValue(c.Set[name])
	}
	if len(changed) == 0 {
		return nil, errors.New("a version without any key cannot be written")
	}
	return changed, nil
}
