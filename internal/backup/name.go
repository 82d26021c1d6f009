package backup

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
)

// Names of files in a set.
const (
	GlobalsName  = "globals.sql.age"
	ManifestName = "manifest.json"
	FailedName   = "failed.json"
	ProofName    = "proof.json"

	dumpSuffix   = ".dump.age"
	checksSuffix = ".checks.age"

	// PartialSuffix ends the name of a file that is being written.
	PartialSuffix = ".partial"
)

// idLayout is a set's ID as a layout of the package time.
const idLayout = "20060102T150405Z"

// NewID returns the ID of a set that begins at a time: 20261126T023000Z.
func NewID(began time.Time) string { return began.UTC().Format(idLayout) }

// ParseID returns when the set with an ID began, in UTC.
func ParseID(id string) (time.Time, error) {
	t, err := time.Parse(idLayout, id)
	if err != nil || NewID(t) != id { // Parse takes fractions of a second too
		return time.Time{}, fmt.Errorf("%q is not the ID of a set, such as 20261126T023000Z", id)
	}
	return t, nil
}

// Escape makes a part of a file's name of the name of a database:
// every byte but A-Z, a-z, 0-9, _ and - becomes % and two upper-case digits.
func Escape(name string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if c := name[i]; isPlain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

// Unescape returns the name of which [Escape] makes part.
func Unescape(part string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(part); i++ {
		if part[i] != '%' {
			b.WriteByte(part[i])
			continue
		}
		high, low := -1, -1
		if i+2 < len(part) {
			high, low = unhex(part[i+1]), unhex(part[i+2])
		}
		if high < 0 || low < 0 {
			return "", fmt.Errorf("%q is not written as pgfleet writes names", part)
		}
		b.WriteByte(byte(high<<4 | low)) //nolint:gosec // both are less than 16
		i += 2
	}
	if Escape(b.String()) != part || part == "" {
		return "", fmt.Errorf("%q is not written as pgfleet writes names", part)
	}
	return b.String(), nil
}

func isPlain(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

func unhex(c byte) int { return strings.IndexByte("0123456789ABCDEF", c) }

// DumpName returns the name of the file with a database's dump.
func DumpName(database string) string { return Escape(database) + dumpSuffix }

// ChecksName returns the name of the file with the checksums of a database's contents.
func ChecksName(database string) string { return Escape(database) + checksSuffix }

// Folder returns the folder of an instance's sets in a target, BACKUP/INSTANCE. The slash
// in an instance's name, such as pg01/second, is a plus sign there.
func Folder(backup, instance string) string {
	return backup + "/" + strings.ReplaceAll(instance, "/", "+")
}

// SetFolder returns the folder of one set in a target.
func SetFolder(backup, instance, id string) string { return path.Join(Folder(backup, instance), id) }

// CheckName refuses the names of objects that could lead out of a target's folder or be
// taken for something else: a name is words of A-Z, a-z, 0-9, '_', '-', '.', '%' and '+' with
// / between them, none of which begins with '.', and the first not with '-'.
func CheckName(name string) error {
	if strings.HasPrefix(name, "-") { // a program would take it for an option
		return fmt.Errorf("%q cannot be a file's name in a target: it begins with '-'", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' {
			return fmt.Errorf("%q cannot be a file's name in a target: a part of it is empty or begins with '.'", name)
		}
		for i := 0; i < len(part); i++ {
			if c := part[i]; !isPlain(c) && c != '.' && c != '%' && c != '+' {
				return fmt.Errorf("%q cannot be a file's name in a target: it may hold letters, digits, '_', '-', '.', '%%' and '+'", name)
			}
		}
	}
	if len(name) > 900 { // S3 allows keys of 1024 bytes, together with the prefix
		return errors.New("a file's name in a target is too long: " + name[:60] + "…")
	}
	return nil
}

// CheckStored is [CheckName] for what is to be written or read: an unfinished file is neither.
func CheckStored(name string) error {
	if strings.HasSuffix(name, PartialSuffix) {
		return fmt.Errorf("%q is the name of an unfinished file", name)
	}
	return CheckName(name)
}
