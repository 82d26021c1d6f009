package secrets_test

import (
	"testing"

	"github.com/gofrs/flock"
)

// lockFile locks a file as another process would, and returns how to unlock it.
func lockFile(t *testing.T, file string) func() {
	t.Helper()
	lock := flock.New(file)
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := lock.Unlock(); err != nil {
			t.Error(err)
		}
	}
}
