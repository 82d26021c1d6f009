package secrets

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFileSize is the most that is read of a file: far above any key or password,
// and little enough to be kept in memory many times.
const maxFileSize = 1 << 20

// checkPrivate refuses a file that others than its owner can read, as ssh does with
// private keys.
func checkPrivate(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s can be read by others (mode %04o): run: chmod 600 %s", path, perm, shellWord(path))
	}
	return nil
}

// shellWord quotes a path for a command line that a user is to run, if it must be.
func shellWord(s string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-+", c)
	}
	if s != "" && strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// expandPath returns path with ~/ replaced by the home directory, and, if it is not
// absolute, seen from dir.
func expandPath(path, dir string, lookupEnv func(string) (string, bool)) (string, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, _ := lookupEnv("HOME")
		if home == "" {
			return "", fmt.Errorf("%s: HOME is not set: write the whole path", path)
		}
		return filepath.Join(home, rest), nil
	}
	if filepath.IsAbs(path) {
		return path, nil
	}
	return filepath.Join(dir, path), nil
}

// readPrivate reads a file that only its owner can read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, not of what has the name by now
	if err != nil {
		return nil, err
	}
	if err := checkPrivate(path, info); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(b) > maxFileSize {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFileSize)
	}
	return b, err
}
