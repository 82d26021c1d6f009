package backup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// A State is what a set is good for.
type State string

// The states.
const (
	Good    State = "good"    // its manifest is there and every file that it lists, in its size
	Failing State = "failed"  // its run has failed and said why
	CutOff  State = "cut off" // its run ended without saying anything
	Running State = "running" // its run still writes
	Damaged State = "damaged" // its manifest is there, but cannot be read or lists files that are not
)

// Quiet is for how long a run may have written nothing before it counts as cut off,
// where nobody knows whether it runs.
const Quiet = 15 * time.Minute

// A Set is what a target holds of one run.
type Set struct {
	Backup, Instance, ID string

	Objects []Object // its files, with names in its folder

	Manifest       *Manifest // nil if there is none, or it cannot be read
	ManifestSHA256 string    // of the manifest's file, "" if there is none
	Failed         *Failed   // nil if there is none
	Proof          *Proof    // nil if there is none
	Unreadable     error     // why the manifest, failed.json or proof.json cannot be read; nil if they can
}

// Folder returns the set's folder in its target.
func (s *Set) Folder() string { return SetFolder(s.Backup, s.Instance, s.ID) }

// Began returns when the set's run began, in UTC.
func (s *Set) Began() time.Time {
	t, _ := ParseID(s.ID) // ReadSets makes no set without
	return t
}

// Bytes returns the size of all that the target holds of the set.
func (s *Set) Bytes() int64 {
	var n int64
	for _, o := range s.Objects {
		n += o.Bytes
	}
	return n
}

// State returns the set's state at a time, and why it is not good; "" if it is. Active
// says that the run which makes the set is known to go on.
func (s *Set) State(now time.Time, active bool) (State, string) {
	switch {
	case s.has(ManifestName) && s.Manifest == nil:
		return Damaged, fmt.Sprintf("%s: %v", ManifestName, s.Unreadable)
	case s.Manifest != nil:
		if problem := s.incomplete(); problem != "" {
			return Damaged, problem
		}
		return Good, ""
	case s.Failed != nil:
		return Failing, s.Failed.Step + ": " + s.Failed.Message
	case s.has(FailedName):
		return Failing, fmt.Sprintf("%s: %v", FailedName, s.Unreadable)
	case active:
		return Running, "its run goes on"
	}
	last := s.Began()
	for _, o := range s.Objects {
		if o.Modified.After(last) {
			last = o.Modified
		}
	}
	if now.Sub(last) < Quiet {
		return Running, "its run wrote something " + now.Sub(last).Round(time.Second).String() + " ago"
	}
	return CutOff, "its run ended without a manifest and without saying why: the host or the connection failed, or it was killed"
}

// incomplete says which file of the manifest is not there as it should be.
func (s *Set) incomplete() string {
	for _, f := range s.Manifest.Files {
		i := slices.IndexFunc(s.Objects, func(o Object) bool { return o.Name == f.Name })
		if i < 0 {
			return f.Name + " is missing"
		}
		if got := s.Objects[i].Bytes; got != f.Bytes {
			return fmt.Sprintf("%s has %d bytes and should have %d", f.Name, got, f.Bytes)
		}
	}
	return ""
}

// Proven returns the proof if it is of the manifest that is there now.
func (s *Set) Proven() *Proof {
	if s.Proof == nil || s.Proof.ManifestSHA256 != s.ManifestSHA256 {
		return nil
	}
	return s.Proof
}

func (s *Set) has(name string) bool {
	return slices.ContainsFunc(s.Objects, func(o Object) bool { return o.Name == name })
}

// Removable returns the names in the target of the files that a set's manifest lists,
// and of the set's own documents, in the order in which they are to be removed: while
// some are left the manifest still says which. It returns nil if there is no manifest.
func (s *Set) Removable() []string {
	if s.Manifest == nil {
		return nil
	}
	var names []string
	for _, f := range s.Manifest.Files {
		names = append(names, path.Join(s.Folder(), f.Name))
	}
	for _, name := range []string{RunningName, FailedName, ProofName, ManifestName} {
		if s.has(name) {
			names = append(names, path.Join(s.Folder(), name))
		}
	}
	return names
}

// GroupSets makes sets of a target's objects, by backup, instance and ID. Objects that
// are not in the folder of a set are left out. The documents are not read.
func GroupSets(objects []Object) []Set {
	var sets []Set
	byFolder := make(map[string]int)
	for _, o := range objects {
		parts := strings.Split(o.Name, "/")
		if len(parts) != 4 {
			continue
		}
		if _, err := ParseID(parts[2]); err != nil {
			continue
		}
		folder := path.Dir(o.Name)
		i, ok := byFolder[folder]
		if !ok {
			i = len(sets)
			byFolder[folder] = i
			sets = append(sets, Set{Backup: parts[0], Instance: strings.ReplaceAll(parts[1], "+", "/"), ID: parts[2]})
		}
		o.Name = parts[3]
		sets[i].Objects = append(sets[i].Objects, o)
	}
	slices.SortFunc(sets, func(a, b Set) int {
		return cmp.Or(strings.Compare(a.Backup, b.Backup), strings.Compare(a.Instance, b.Instance), strings.Compare(a.ID, b.ID))
	})
	return sets
}

// maxDocument bounds a manifest, in bytes: a file takes about 300.
const maxDocument = 64 << 20

// ReadSets returns the sets in a folder of a target, such as [Folder] returns, or all if it is "", sorted by backup,
// instance and time, with their documents. A document that cannot be read is its
// set's problem; the error is the target's.
func ReadSets(ctx context.Context, t Target, folder string) ([]Set, error) {
	objects, err := t.List(ctx, folder)
	if err != nil {
		return nil, err
	}
	sets := GroupSets(objects)
	for i := range sets {
		if err := sets[i].read(ctx, t); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// read reads the set's documents.
func (s *Set) read(ctx context.Context, t Target) error {
	for _, document := range []struct {
		name  string
		parse func([]byte) error
	}{
		{ManifestName, s.setManifest},
		{FailedName, func(text []byte) (err error) { s.Failed, err = ParseFailed(text); return err }},
		{ProofName, func(text []byte) (err error) { s.Proof, err = ParseProof(text); return err }},
	} {
		if !s.has(document.name) {
			continue
		}
		var text limited
		err := t.Get(ctx, path.Join(s.Folder(), document.name), &text)
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed since it was listed
			s.Objects = slices.DeleteFunc(s.Objects, func(o Object) bool { return o.Name == document.name })
			continue
		case errors.Is(err, errLong):
		case err != nil:
			return err
		default:
			err = document.parse(text.Bytes())
		}
		if err != nil && s.Unreadable == nil {
			s.Unreadable = err
		}
	}
	return nil
}

func (s *Set) setManifest(text []byte) error {
	sum := sha256.Sum256(text)
	s.ManifestSHA256 = hex.EncodeToString(sum[:])
	m, err := ParseManifest(text)
	if err != nil {
		return err
	}
	if m.ID != s.ID || m.Backup != s.Backup || m.Instance != s.Instance {
		return fmt.Errorf("it is the manifest of another set: %s", SetFolder(m.Backup, m.Instance, m.ID))
	}
	s.Manifest = m
	return nil
}

var errLong = errors.New("it is longer than makes sense")

// A limited buffer takes no more than maxDocument.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > maxDocument {
		return 0, errLong
	}
	return l.Buffer.Write(b)
}
