package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// A Writer appends to the journal of the run that this process carries out. The
// file is locked until Close, or until the process ends, however it does. It may
// be used by several goroutines at once.
type Writer struct {
	run  string
	path string
	mask func(string) string
	lock *flock.Flock

	mu   sync.Mutex
	file *os.File
	seq  int
	hash string
	err  error // why nothing can be appended any more
}

// Create begins a journal with its first record, of the kind RunStarted. Mask is
// given every string that is to be written, and hides what must not be in a file.
func (f Folder) Create(mask func(string) string, started Started) (*Writer, error) {
	w, err := f.create(mask, started)
	if err != nil {
		return nil, fmt.Errorf("the journal of runs in %s cannot be written: %w", f, reason(err))
	}
	return w, nil
}

func (f Folder) create(mask func(string) string, started Started) (*Writer, error) {
	dir := string(f)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	// It is locked before anybody can see it, and seen with its first record.
	file, err := os.CreateTemp(dir, ".new-*") // with mode 0600, and O_RDWR
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	w := &Writer{mask: mask, file: file, lock: flock.New(file.Name(), flock.SetFlag(os.O_RDWR))}
	if locked, err := w.lock.TryLock(); err != nil || !locked {
		file.Close()
		return nil, errors.Join(err, errors.New("it cannot be locked"))
	}
	if err := w.begin(dir, started); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// begin writes the first record and gives the file its name.
func (w *Writer) begin(dir string, started Started) error {
	now := time.Now().UTC()
	w.run = now.Format("20060102T150405") + "-" + random(4)
	w.path = filepath.Join(dir, w.run+suffix)
	if err := w.append(Record{Format: Format, Run: w.run, Time: now, Kind: RunStarted}, started); err != nil {
		return err
	}
	// A link, unlike a rename, does not replace another run's.
	if err := os.Link(w.file.Name(), w.path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// random returns so many letters and digits, without those that are taken for
// others.
func random(n int) string {
	const letters = "23456789abcdefghijkmnpqrstuvwxyz" // 32, so that each byte is as likely
	b := make([]byte, n)
	rand.Read(b)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}

// Run returns the run's ID.
func (w *Writer) Run() string { return w.run }

// Append writes a record of some kind, and returns when it is on the disk. After
// an error nothing more is written: the file may end in half a line.
func (w *Writer) Append(kind string, data any) error {
	if err := w.append(Record{Kind: kind, Time: time.Now().UTC()}, data); err != nil {
		return fmt.Errorf("the journal %s cannot be written: %w", w.path, reason(err))
	}
	return nil
}

func (w *Writer) append(r Record, data any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	var err error
	if r.Data, err = masked(data, w.mask); err != nil {
		return err
	}
	r.Seq = w.seq + 1
	line, hash, err := seal(w.hash, r)
	if err != nil {
		return err
	}
	if _, err = w.file.Write(line); err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		w.err = err
		return err
	}
	w.seq, w.hash = r.Seq, hash
	return nil
}

// Err returns why records are missing from the journal, or nil.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		return nil
	}
	return fmt.Errorf("the journal %s could not be written, and ends before the run did: %w", w.path, reason(w.err))
}

// Close ends the journal and unlocks it.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = os.ErrClosed
	}
	return errors.Join(w.file.Close(), w.lock.Close())
}

// reason takes the file's name off an error that will be given it anyway.
func reason(err error) error {
	if perr, ok := errors.AsType[*os.PathError](err); ok {
		return perr.Err
	}
	return err
}
