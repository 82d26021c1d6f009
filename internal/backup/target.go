package backup

import (
	"context"
	"io"
	"time"
)

// A Target keeps the files of sets as objects, whose names are paths with / between
// their parts; see [CheckName]. All methods may be called concurrently and keep to
// their context. Their errors name the target's object; the suite in target/targettest
// holds a target to this.
type Target interface {
	// Put stores what r yields under a name, in the place of what was there, and
	// returns its size in bytes and its SHA-256 in hexadecimal digits. It is there
	// whole and durably once Put has returned without an error, and otherwise what
	// stood under the name before still does. r is read as fast as the target
	// takes it, without keeping more than a part of it. r's own error is returned.
	Put(ctx context.Context, name string, r io.Reader) (n int64, sha256 string, err error)

	// Get writes an object to w. The error wraps fs.ErrNotExist if there is none.
	// What w has got before an error is not the whole object.
	Get(ctx context.Context, name string, w io.Writer) error

	// List returns the objects in a folder and the folders in it, all if the
	// folder is "", sorted by name, none if there is no such folder. A target whose
	// unfinished objects can be seen lists them with [PartialSuffix].
	List(ctx context.Context, folder string) ([]Object, error)

	// Remove deletes objects in the order in which they are named, and folders that
	// become empty by it. One that is already gone is no error.
	Remove(ctx context.Context, names ...string) error

	// String says where the target is, without any secret.
	String() string
}

// An Object is one file in a target.
type Object struct {
	Name     string    `json:"name"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
}
