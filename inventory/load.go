package inventory

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Options are for [Load].
type Options struct {
	// Kinds are the names of the kinds of tasks. Without any, kinds are not checked.
	Kinds []string
	// FS is where the files are; paths are slash-separated and cannot leave it. Without it they are the machine's.
	FS fs.FS
}

// Load reads the fleet.toml at path and the files that it includes. Its error is [Errors], sorted by position, if there
// are mistakes in them, and otherwise why fleet.toml cannot be read at all.
//
// Together with Errors it returns the Fleet too, if the tasks can still be checked without following from those mistakes
// to wrong ones: misspelt names count as what they most likely mean, and tasks that make no sense are left out. Such a
// Fleet is good for finding further mistakes in the same run and for nothing else. Otherwise it is nil.
func Load(path string, opt Options) (*Fleet, error) {
	l := newLoader(opt)
	text, err := l.read(path)
	if err != nil {
		return nil, err
	}
	l.main(path, text)
	l.check()
	if l.partial {
		return nil, l.errs.Err()
	}
	return l.fleet, l.errs.Err()
}

// A loader gathers what the files hold.
type loader struct {
	opt   Options
	read  func(string) ([]byte, error)
	glob  func(string) ([]string, error)
	isAbs func(string) bool

	seen    map[string]Position // files, by path, and where they were included
	partial bool                // a file could not be read, so that a name that is missing may be there
	errs    Errors

	fleet   *Fleet
	file    mainFile
	vars    Entries[*Node]
	hosts   Entries[hostTable]
	groups  Entries[groupTable]
	clients []*Node
	tasks   []*Node

	rotations []*Node
	caPos     Position // of [ca]
	backups   []Positioned[backupTable]
}

func newLoader(opt Options) *loader {
	l := &loader{opt: opt, read: os.ReadFile, glob: filepath.Glob, isAbs: filepath.IsAbs, seen: map[string]Position{}}
	if opt.FS != nil {
		l.read = func(name string) ([]byte, error) { return fs.ReadFile(opt.FS, path.Clean(name)) }
		l.glob = func(pattern string) ([]string, error) { return fs.Glob(opt.FS, path.Clean(pattern)) }
		l.isAbs = path.IsAbs
	}
	return l
}

// main reads fleet.toml itself.
func (l *loader) main(name string, text []byte) {
	l.fleet = &Fleet{Path: name, hosts: map[string]*Host{}, Vars: map[string]*Node{}}
	top := Position{File: name, Line: 1, Column: 1}
	l.seen[filepath.Clean(name)] = top
	n := l.parse(name, text)
	if n == nil {
		return
	}
	l.errs = append(l.errs, Decode(n, &l.file)...)
	l.fleet.Secrets = l.file.Secrets
	if ca := n.Get("ca"); ca != nil {
		l.caPos = ca.Pos
	}
	if v := l.file.Version; v.Node != nil && v.Value != 1 && v.Node.Kind == KindInt {
		l.errs.Add(v.Pos(), "version %d of the format is not known to this pgfleet, which reads version 1", v.Value)
	}
	l.content(name, l.file.includedFile, []string{filepath.Clean(name)})
}

func (l *loader) parse(name string, text []byte) *Node {
	l.fleet.Files = append(l.fleet.Files, name)
	n, errs := Parse(name, text)
	l.errs = append(l.errs, errs...)
	l.partial = l.partial || n == nil
	return n
}

// content takes over what a file holds, what it includes first.
func (l *loader) content(name string, file includedFile, stack []string) {
	for _, pattern := range file.Include {
		if pattern.Value != "" {
			l.include(name, pattern, stack)
		} else if pattern.Node.Kind == KindString {
			l.errs.Add(pattern.Pos(), "include: a path is missing")
		}
	}
	l.vars = append(l.vars, file.Vars...)
	l.hosts = append(l.hosts, file.Hosts...)
	l.groups = append(l.groups, file.Groups...)
	l.clients = append(l.clients, file.Clients...)
	l.rotations = append(l.rotations, file.Rotations...)
	l.backups = append(l.backups, file.Backups...)
	l.tasks = append(l.tasks, file.Tasks...)
}

// include reads the files that a pattern in the file called from matches. stack holds the files that are being read.
func (l *loader) include(from string, pattern Positioned[string], stack []string) {
	p := pattern.Value
	if !l.isAbs(p) {
		p = filepath.Join(filepath.Dir(from), p)
	}
	matches, err := l.glob(p)
	if err != nil {
		l.errs.Add(pattern.Pos(), "include: %q is no valid glob", pattern.Value)
		return
	}
	if len(matches) == 0 {
		l.partial = l.partial || !isGlob(p)
		l.errs.Add(pattern.Pos(), "include: no file matches %q", pattern.Value)
		return
	}
	slices.Sort(matches)
	for _, name := range matches {
		clean := filepath.Clean(name)
		if i := slices.Index(stack, clean); i >= 0 {
			l.errs.Add(pattern.Pos(), "include: %s includes itself: %s", clean, strings.Join(append(slices.Clone(stack[i:]), clean), " > "))
			continue
		}
		if first, ok := l.seen[clean]; ok {
			l.errs.Add(pattern.Pos(), "include: %s is included for the second time; the first is at %s", clean, first)
			continue
		}
		l.seen[clean] = pattern.Pos()
		text, err := l.read(name)
		if err != nil {
			l.partial = true
			l.errs.Add(pattern.Pos(), "include: %s", reason(name, err))
			continue
		}
		n := l.parse(name, text)
		if n == nil {
			continue
		}
		for _, k := range n.Keys {
			if !slices.Contains(namesOf(includedType), k.Name) && slices.Contains(namesOf(mainType), k.Name) {
				l.errs.Add(k.Pos, "%s belongs into %s, not into an included file", k.Name, l.fleet.Path)
				n = n.Without(k.Name)
			}
		}
		var file includedFile
		l.errs = append(l.errs, Decode(n, &file)...)
		l.content(name, file, append(slices.Clone(stack), clean))
	}
}

var (
	mainType     = reflect.TypeFor[mainFile]()
	includedType = reflect.TypeFor[includedFile]()
	taskType     = reflect.TypeFor[taskKeys]()
)

// reason says why a file cannot be read, with its name once.
func reason(name string, err error) string {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		err = perr.Err
	}
	return fmt.Sprintf("cannot read %s: %s", name, err)
}
