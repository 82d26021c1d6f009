package target

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/pgfleet/pgfleet/internal/backup"
)

// A Folder keeps objects as files in a folder on this machine, which nobody else may
// read. It is made when the first is put.
type Folder struct{ dir string }

// NewFolder returns the target. Nothing is read or written yet.
func NewFolder(dir string) *Folder { return &Folder{dir} }

// String returns the folder's path.
func (f *Folder) String() string { return f.dir }

// Put implements [backup.Target].
func (f *Folder) Put(ctx context.Context, name string, r io.Reader) (int64, string, error) {
	if err := backup.CheckStored(name); err != nil {
		return 0, "", err
	}
	m := measure(ctx, r)
	return m.result(f, name, f.put(ctx, name, m))
}

func (f *Folder) put(ctx context.Context, name string, r io.Reader) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	// Through a Root no symbolic link leads out of the folder.
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	partial := name + backup.PartialSuffix
	if err := writeSynced(root, partial, r); err != nil {
		_ = root.Remove(partial) // the first error is the one that matters
		return err
	}
	err = ctx.Err()
	if err == nil {
		err = root.Rename(partial, name)
	}
	if err != nil {
		_ = root.Remove(partial)
		return err
	}
	// A folder that was just made is durable once its parent is.
	for folder := path.Dir(name); ; folder = path.Dir(folder) {
		if err := syncFolder(root, folder); err != nil {
			return err
		}
		if folder == "." {
			return nil
		}
	}
}

func writeSynced(root *os.Root, name string, r io.Reader) error {
	w, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10))
	if err == nil {
		err = w.Sync()
	}
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	return err
}

func syncFolder(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Get implements [backup.Target].
func (f *Folder) Get(ctx context.Context, name string, w io.Writer) error {
	if err := backup.CheckStored(name); err != nil {
		return err
	}
	to := &sink{w: w}
	return to.result(f, name, f.get(ctx, name, to))
}

func (f *Folder) get(ctx context.Context, name string, w io.Writer) error {
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r, err := root.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, measure(ctx, r))
	return err
}

// List implements [backup.Target].
func (f *Folder) List(ctx context.Context, folder string) ([]backup.Object, error) {
	if err := checkFolder(folder); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fail("list", f, folder, err)
	}
	defer root.Close()
	var all []backup.Object
	err = fs.WalkDir(root.FS(), path.Join(".", folder), func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is not there, or was removed since its folder was read
		}
		if err != nil || !d.Type().IsRegular() || backup.CheckName(name) != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			all = append(all, backup.Object{Name: name, Bytes: info.Size(), Modified: info.ModTime().UTC()})
		}
		return err
	})
	if err != nil {
		return nil, fail("list", f, folder, err)
	}
	sortObjects(all)
	return all, nil
}

func sortObjects(all []backup.Object) {
	slices.SortFunc(all, func(a, b backup.Object) int { return strings.Compare(a.Name, b.Name) })
}

// Remove implements [backup.Target].
func (f *Folder) Remove(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := backup.CheckName(name); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fail("remove", f, "", err)
	}
	defer root.Close()
	for _, name := range names {
		err := ctx.Err()
		if err == nil {
			err = root.Remove(name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail("remove", f, name, err)
		}
		for folder := path.Dir(name); folder != "."; folder = path.Dir(folder) {
			if err := root.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
				if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
					break
				}
				return fail("remove", f, folder, err)
			}
		}
	}
	return nil
}
