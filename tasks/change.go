package tasks

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// A Digest identifies what was found, or what is wanted, without showing it.
// "absent" is the Digest of nothing.
type Digest string

// Absent is the Digest of a thing that is not there.
const Absent Digest = "absent"

// A Change is one write, as planned. Key, Before and Intent together identify
// it: a saved plan holds these, and an apply that would do anything else is
// refused.
type Change struct {
	Key    string // what is written: "file:/etc/…", "package:…", "server:reload"
	Before Digest // what was found there while planning
	Intent string // what is wanted: one line, secrets masked
	After  Digest // what will be there; empty where only the doing makes it
	Diff   *Diff  // for the reader; nil where there is nothing to compare
	Action Action
	// Effects are what a rehearsal of a script changed in the catalogs.
	Effects []string
	// Part names what the change belongs to. Adjacent changes of the same
	// part are one Step: they are checked together, activated once, and put
	// back together. Empty for a change that stands alone.
	Part string
}

// A Diff is the text of a file before and after, masked: neither side holds a
// secret's value.
type Diff struct {
	Path     string
	Old, New string
}

// digestFile is the Digest of a file as found, over what pgfleet would write:
// content, owner, group and mode.
func digestFile(f facts.FileInfo) Digest {
	if !f.Exists {
		return Absent
	}
	if !f.Regular {
		return Digest(fmt.Sprintf("not a regular file, mode %v", f.Mode))
	}
	return digestOf(f.Content, f.Owner, f.Group, octal(f.Mode))
}

// DigestFile is the Digest that planning gave a file, for whoever has to find
// it unchanged before writing.
func DigestFile(f facts.FileInfo) Digest { return digestFile(f) }

// DigestCertificate is the Digest that planning gave a file with a key and
// certificates; the key takes no part in it.
func DigestCertificate(c facts.CertificateFileInfo) Digest {
	if !c.File.Exists {
		return Absent
	}
	return digestOf(c.Certificates, c.File.Owner, c.File.Group, fmt.Sprintf("%04o", c.File.Mode.Perm()))
}

func digestOf(content []byte, attributes ...string) Digest {
	h := sha256.New()
	h.Write([]byte(strings.Join(attributes, "\x00") + "\x00\x00"))
	h.Write(content)
	return Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}
