package secrets

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const digestKeyLen = 32

// A Digester makes digests of contents. What holds a secret gets an HMAC with the
// operator's key: with a plain digest in a plan or a journal, anybody could test
// guesses of a password. It may be used by several goroutines at once.
type Digester struct {
	key Secret
}

// NewDigester returns a Digester with a key of 32 bytes.
func NewDigester(key Secret) (*Digester, error) {
	if n := len(key.bytes()); n != digestKeyLen {
		return nil, fmt.Errorf("the key for digests has %d bytes rather than %d", n, digestKeyLen)
	}
	return &Digester{key: key}, nil
}

// LoadDigester reads the operator's key from a file, which it makes on first use
// with mode 0600. Digests made with another key do not match.
func LoadDigester(path string) (*Digester, error) {
	key, err := readDigestKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDigestKey(path); err == nil {
			key, err = readDigestKey(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key for digests: %w", err)
	}
	return NewDigester(key)
}

func readDigestKey(path string) (Secret, error) {
	text, err := readPrivate(path)
	if err != nil {
		return Secret{}, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != digestKeyLen {
		// err would quote a part of the key.
		return Secret{}, fmt.Errorf("%s does not hold %d hexadecimal digits: remove it to have a new one made, after which older plans do not match", path, 2*digestKeyLen)
	}
	return New(key), nil
}

// makeDigestKey writes a new key unless somebody else has in the meantime.
func makeDigestKey(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	key := make([]byte, digestKeyLen)
	rand.Read(key)
	f, err := os.CreateTemp(filepath.Dir(path), ".digest-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(hex.EncodeToString(key) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	// A link, unlike a rename, does not replace the key of another process that
	// was faster.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// PlainDigest returns "sha256:" and the SHA-256 of content, for what holds no secret.
func PlainDigest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Digest returns "hmac:" and an HMAC-SHA-256 of content, for what holds a secret.
func (d *Digester) Digest(content Secret) string {
	return d.DigestSum(sha256.Sum256(content.bytes()))
}

// DigestSum returns what Digest returns for the content with the SHA-256 sum. The
// HMAC is made of the sum, so that a host needs to send no more than that.
func (d *Digester) DigestSum(sum [sha256.Size]byte) string {
	mac := hmac.New(sha256.New, d.key.bytes())
	mac.Write(sum[:])
	return "hmac:" + hex.EncodeToString(mac.Sum(nil))
}

// Matches reports whether digest, of either form, is that of the content with the
// SHA-256 sum.
func (d *Digester) Matches(digest string, sum [sha256.Size]byte) bool {
	want := "sha256:" + hex.EncodeToString(sum[:])
	if strings.HasPrefix(digest, "hmac:") {
		want = d.DigestSum(sum)
	}
	return hmac.Equal([]byte(digest), []byte(want))
}
