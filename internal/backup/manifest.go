package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// formatVersion is the version of all documents of a set.
const formatVersion = 1

// Kinds of files in a manifest.
const (
	KindGlobals  = "globals"
	KindDatabase = "database"
	KindChecks   = "checks"
)

// A Manifest lists the files of a good set, and says what they were made of.
type Manifest struct {
	Version          int        `json:"version"`
	Backup           string     `json:"backup"`
	Instance         string     `json:"instance"`
	ID               string     `json:"id"`
	Began            time.Time  `json:"began"`
	Ended            time.Time  `json:"ended"`
	ServerVersion    string     `json:"server_version"`  // such as "17.5 (Debian 17.5-1)"
	PgDumpVersion    string     `json:"pg_dump_version"` // as pg_dump --version prints it, without the program's name
	Role             string     `json:"role"`            // "primary" or "standby"
	SystemIdentifier string     `json:"system_identifier"`
	LSN              string     `json:"lsn"` // where the write-ahead log was when the set was begun
	Timeline         int64      `json:"timeline"`
	Encryption       Encryption `json:"encryption"`
	Files            []File     `json:"files"`
}

// Encryption says with what and for whom the files of a set are encrypted.
type Encryption struct {
	Tool       string   `json:"tool"` // such as "age 1.1.1"
	Recipients []string `json:"recipients"`
}

// A File is one file of a set. Bytes and SHA256 are those of the encrypted file.
type File struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Database string `json:"database,omitempty"` // of a dump and of checks
	Owner    string `json:"owner,omitempty"`    // of a dumped database
	Encoding string `json:"encoding,omitempty"` // of a dumped database
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256"` // 64 hexadecimal digits in lower case
}

// A Failed says how a run has failed.
type Failed struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"`
	Step    string    `json:"step"` // what was being done, such as "dump of database appdb"
	Message string    `json:"message"`
}

// Levels of a proof.
const (
	LevelRead    = "read"    // every file was decrypted and read whole
	LevelRestore = "restore" // every database was restored and its contents compared
)

// A Proof says what verifying a set has come to.
type Proof struct {
	Version        int       `json:"version"`
	At             time.Time `json:"at"`
	By             string    `json:"by"`    // the user and the machine that verified
	Level          string    `json:"level"` // LevelRead or LevelRestore
	OK             bool      `json:"ok"`
	Message        string    `json:"message"`
	Where          string    `json:"where"`          // the host on which it was restored or read
	ServerVersion  string    `json:"server_version"` // of the server into which it was restored
	ManifestSHA256 string    `json:"manifest_sha256"`
}

// ParseManifest reads a manifest and refuses one that is not whole, names files that
// are none of a set's, or has a version that this pgfleet does not know.
func ParseManifest(text []byte) (*Manifest, error) {
	var m Manifest
	if err := parse(text, &m, &m.Version); err != nil {
		return nil, err
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	return &m, nil
}

// ParseFailed reads what a failed run has left.
func ParseFailed(text []byte) (*Failed, error) {
	var f Failed
	if err := parse(text, &f, &f.Version); err != nil {
		return nil, err
	}
	if _, err := ParseID(f.ID); err != nil {
		return nil, err
	}
	return &f, nil
}

// ParseProof reads a proof.
func ParseProof(text []byte) (*Proof, error) {
	var p Proof
	if err := parse(text, &p, &p.Version); err != nil {
		return nil, err
	}
	if p.Level != LevelRead && p.Level != LevelRestore {
		return nil, fmt.Errorf("the level is %q, which is neither %q nor %q", p.Level, LevelRead, LevelRestore)
	}
	if !isSHA256(p.ManifestSHA256) {
		return nil, errors.New("manifest_sha256 is not a SHA-256")
	}
	return &p, nil
}

// Encode returns a Manifest, Failed or Proof as it is written to a file.
func Encode(document any) ([]byte, error) {
	text, err := json.MarshalIndent(document, "", "  ")
	return append(text, '\n'), err
}

// parse reads a document; version is the field of it that holds the version.
func parse(text []byte, document any, version *int) error {
	if err := json.Unmarshal(text, document); err != nil {
		return fmt.Errorf("it is not JSON of the form that pgfleet writes: %w", err)
	}
	if *version != formatVersion {
		return fmt.Errorf("it has version %d and this pgfleet reads %d: use a newer pgfleet", *version, formatVersion)
	}
	return nil
}

func (m *Manifest) validate() error {
	if _, err := ParseID(m.ID); err != nil {
		return err
	}
	switch {
	case m.Backup == "":
		return errors.New("backup is missing")
	case m.Instance == "":
		return errors.New("instance is missing")
	case CheckName(SetFolder(m.Backup, m.Instance, m.ID)) != nil || strings.Count(SetFolder(m.Backup, m.Instance, m.ID), "/") != 2:
		return fmt.Errorf("backup %q and instance %q are no names of a folder", m.Backup, m.Instance)
	case m.ServerVersion == "":
		return errors.New("server_version is missing")
	case m.Role != "primary" && m.Role != "standby":
		return fmt.Errorf("role is %q, which is neither \"primary\" nor \"standby\"", m.Role)
	case len(m.Encryption.Recipients) == 0:
		return errors.New("encryption names no recipients")
	case m.Began.IsZero() || m.Ended.Before(m.Began):
		return errors.New("began and ended are not the times of a run")
	}
	seen := make(map[string]bool)
	globals := false
	for _, f := range m.Files {
		if err := f.validate(); err != nil {
			return err
		}
		base, _ := generation(f.Name)
		if seen[base] {
			return fmt.Errorf("%s stands there twice", f.Name)
		}
		seen[base] = true
		globals = globals || f.Kind == KindGlobals
	}
	if !globals {
		return errors.New("it does not name " + GlobalsName)
	}
	for _, f := range m.Files {
		if f.Kind == KindChecks && !seen[DumpName(f.Database)] {
			return fmt.Errorf("%s belongs to no dump", f.Name)
		}
	}
	return nil
}

// validate compares a file's name with what it should be, so that no manifest names
// a file out of its folder.
func (f File) validate() error {
	want := ""
	switch f.Kind {
	case KindGlobals:
		want = GlobalsName
	case KindDatabase:
		want = DumpName(f.Database)
	case KindChecks:
		want = ChecksName(f.Database)
	default:
		return fmt.Errorf("%q has the kind %q, which this pgfleet does not know", f.Name, f.Kind)
	}
	if f.Kind != KindGlobals && f.Database == "" {
		return fmt.Errorf("%q is of no database", f.Name)
	}
	if base, _ := generation(f.Name); base != want {
		return fmt.Errorf("%q is not the name of its file, which is %q", f.Name, want)
	}
	if f.Bytes <= 0 || !isSHA256(f.SHA256) {
		return fmt.Errorf("%q has no size and SHA-256", f.Name)
	}
	return nil
}

// File returns a file of the manifest by its name.
func (m *Manifest) File(name string) (File, bool) {
	for _, f := range m.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// Databases returns the names of the databases that were dumped, in the manifest's order.
func (m *Manifest) Databases() []string {
	var names []string
	for _, f := range m.Files {
		if f.Kind == KindDatabase {
			names = append(names, f.Database)
		}
	}
	return names
}

// Bytes returns the size of all files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Bytes
	}
	return n
}

func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
