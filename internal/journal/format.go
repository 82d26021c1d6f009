// Package journal keeps what each run did, on the operator's machine: who ran
// what, on which instances, what was planned there and what came of it.
//
// A run has a file of its own, RUN.jsonl, with a record a line:
//
//	{"format":1,"run":"20261126T035500-k3f9","seq":1,"time":…,"kind":"run started","data":{…},"hash":"…"}
//	{"seq":2,"time":…,"kind":"instance planned","data":{…},"hash":"…"}
//
// Lines are only ever appended, each whole and synced to the disk before Record
// returns. A line's hash is the SHA-256, in hexadecimal, of the hash of the line
// before it (nothing for the first), a newline, and the line's own bytes up to
// `,"hash":`. So a line that was changed, removed or moved is found. Two things
// are not: that whole lines are missing at the end, which looks as if the run had
// died there, and a forger, who can compute all hashes anew. Whoever has noted the
// last hash elsewhere finds both.
//
// The journal decides nothing: what is due comes from the hosts.
package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Format is the version of the format, which stands in the first record. It
// grows when a field changes its meaning or goes; new fields and kinds may come
// without.
const Format = 1

// A Record is one line.
type Record struct {
	Format int             `json:"format,omitempty"` // in the first
	Run    string          `json:"run,omitempty"`    // likewise: the run's ID
	Seq    int             `json:"seq"`              // from 1
	Time   time.Time       `json:"time"`             // in UTC
	Kind   string          `json:"kind"`
	Data   json.RawMessage `json:"data"`
}

const hashKey = `,"hash":"`

// seal returns the line of a record, and its hash.
func seal(previous string, r Record) (line []byte, hash string, err error) {
	text, err := encode(r)
	if err != nil {
		return nil, "", err
	}
	content := bytes.TrimSuffix(text, []byte("}"))
	hash = chain(previous, content)
	return []byte(string(content) + hashKey + hash + "\"}\n"), hash, nil
}

// open returns the record of a line, without its newline, and its hash. The
// error says what is wrong with the line itself; whether it follows from the one
// before is left to the caller.
func open(line []byte) (r Record, content []byte, hash string, err error) {
	at := bytes.LastIndex(line, []byte(hashKey))
	if at < 0 || !bytes.HasSuffix(line, []byte(`"}`)) {
		return r, nil, "", fmt.Errorf("it does not end with a hash")
	}
	content, hash = line[:at], string(line[at+len(hashKey):len(line)-2])
	if err := json.Unmarshal([]byte(string(content)+"}"), &r); err != nil {
		return r, nil, "", fmt.Errorf("it is no record: %w", err)
	}
	return r, content, hash, nil
}

func chain(previous string, content []byte) string {
	sum := sha256.Sum256([]byte(previous + "\n" + string(content)))
	return hex.EncodeToString(sum[:])
}

// encode returns JSON on one line, with <, > and & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

var jsonString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// masked encodes a value and masks each of its strings: a mask must not swallow
// a quote.
func masked(v any, mask func(string) string) (json.RawMessage, error) {
	text, err := encode(v)
	if err != nil {
		return nil, err
	}
	return jsonString.ReplaceAllFunc(text, func(quoted []byte) []byte {
		var s string
		if json.Unmarshal(quoted, &s) != nil {
			return quoted
		}
		clean := mask(s)
		if clean == s {
			return quoted
		}
		quoted, _ = encode(clean) // a string can always be encoded
		return quoted
	}), nil
}

// A ChainError is a line that does not follow from those before it.
type ChainError struct {
	Path string
	Line int // from 1
	Why  string
}

// Error says where, and what that means.
func (e *ChainError) Error() string {
	return fmt.Sprintf("%s:%d: %s: somebody has changed the file, or the disk has", e.Path, e.Line, e.Why)
}

// A Journal is what one file holds.
type Journal struct {
	Run     string
	Path    string
	Records []Record
	Hash    string // of the last record
	// Torn says that the last line was not written whole, as when the machine
	// lost its power. It is not among the records. What it would have announced
	// was not begun.
	Torn bool
}

// parse reads a file's text. With a ChainError it returns the records before
// that line.
func parse(run, path, text string) (*Journal, error) {
	j := &Journal{Run: run, Path: path}
	for line := range strings.Lines(text) {
		whole, ended := strings.CutSuffix(line, "\n")
		if !ended {
			j.Torn = true
			break
		}
		if err := j.add([]byte(whole)); err != nil {
			return j, err
		}
	}
	if len(j.Records) == 0 {
		return j, &ChainError{path, 1, "the first record is missing"}
	}
	return j, nil
}

// add takes the next line.
func (j *Journal) add(line []byte) error {
	n := len(j.Records) + 1
	r, content, hash, err := open(line)
	if err != nil {
		return &ChainError{j.Path, n, err.Error()}
	}
	switch {
	case n == 1 && r.Format == 0:
		return &ChainError{j.Path, n, "it is not the first of a run"}
	case n == 1 && r.Format != Format:
		return fmt.Errorf("%s has format %d, and this pgfleet reads format %d", j.Path, r.Format, Format)
	case chain(j.Hash, content) != hash && n == 1:
		return &ChainError{j.Path, n, "its hash is not that of the line"}
	case chain(j.Hash, content) != hash:
		return &ChainError{j.Path, n, fmt.Sprintf("its hash is not that of the line and of what stood before it at line %d", n-1)}
	case n == 1 && r.Run != j.Run:
		return &ChainError{j.Path, n, "it is of the run " + r.Run}
	case r.Seq != n:
		return &ChainError{j.Path, n, fmt.Sprintf("it has the number %d", r.Seq)}
	}
	j.Records, j.Hash = append(j.Records, r), hash
	return nil
}
