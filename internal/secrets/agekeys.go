package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
)

const (
	ageHeader    = "age-encryption.org/"
	ageKeyPrefix = "AGE-SECRET-KEY-"

	// Types of stanzas in an age file's header.
	stanzaX25519 = "X25519"
	stanzaHybrid = "mlkem768x25519"
)

// holdsAgeKey reports whether s is, or holds, the text of an age identity.
func holdsAgeKey(s string) bool {
	return strings.Contains(strings.ToUpper(s), ageKeyPrefix)
}

// identities are the keys that open secrets, read from their files once.
type identities struct {
	names      []string // as configured
	base       string
	lookupEnv  func(string) (string, bool)
	passphrase func(string) (Secret, error)

	mu     sync.Mutex
	loaded []age.Identity

	asking sync.Mutex // held while the user is asked for a passphrase
}

// load returns the identities, those that ask for a passphrase last, so that nobody
// is asked as long as another one does.
func (ids *identities) load() ([]age.Identity, error) {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	if ids.loaded != nil {
		return ids.loaded, nil
	}
	if len(ids.names) == 0 {
		return nil, &hintedError{errors.New("no identity is configured to open it with"),
			`make one with "age-keygen -o ~/.config/pgfleet/key.txt" and name the file among the identities of the age store in fleet.toml`}
	}
	var open, asking []age.Identity
	for _, name := range ids.names {
		found, err := ids.read(name)
		if err != nil {
			return nil, fmt.Errorf("identity %s: %w", name, err)
		}
		for _, id := range found {
			if _, ok := id.(*askingIdentity); ok {
				asking = append(asking, id)
			} else {
				open = append(open, id)
			}
		}
	}
	ids.loaded = slices.Concat(open, asking)
	return ids.loaded, nil
}

// read returns the identities in one file or environment variable.
func (ids *identities) read(name string) ([]age.Identity, error) {
	if variable, ok := strings.CutPrefix(name, "env:"); ok {
		value, _ := ids.lookupEnv(variable)
		if value == "" {
			return nil, fmt.Errorf("the environment variable %s is not set", variable)
		}
		return parseIdentities([]byte(value))
	}
	file, err := expandPath(name, ids.base, ids.lookupEnv)
	if err != nil {
		return nil, err
	}
	content, err := readPrivate(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("there is no such file")
	}
	if err != nil {
		return nil, err
	}
	switch start := bytes.TrimSpace(content); {
	case bytes.HasPrefix(start, []byte(ageHeader)), bytes.HasPrefix(start, []byte(armor.Header)):
		return []age.Identity{ids.protectedFile(name, content)}, nil
	case bytes.HasPrefix(start, []byte("-----BEGIN")):
		return ids.readSSH(name, file, content)
	}
	return parseIdentities(content)
}

// parseIdentities reads age identities. The parser's own errors are not passed on,
// as they might quote a key.
func parseIdentities(content []byte) ([]age.Identity, error) {
	found, err := age.ParseIdentities(bytes.NewReader(content))
	if err != nil {
		return nil, errors.New("it is neither an age identity (" + ageKeyPrefix + "…) nor an SSH private key")
	}
	return found, nil
}

// openIdentities reads an age identity file that is encrypted with a passphrase.
func openIdentities(content, passphrase []byte) ([]age.Identity, error) {
	scrypt, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, err
	}
	var src io.Reader = bytes.NewReader(content)
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte(armor.Header)) {
		src = armor.NewReader(src)
	}
	plain, err := age.Decrypt(src, scrypt)
	if err != nil {
		if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
			return nil, errors.New("it is encrypted, but not with a passphrase, or the passphrase is wrong")
		}
		return nil, err
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		return nil, err
	}
	return parseIdentities(text)
}

func (ids *identities) readSSH(name, file string, content []byte) ([]age.Identity, error) {
	id, err := agessh.ParseIdentity(content)
	if err == nil {
		return []age.Identity{id}, nil
	}
	missing, ok := errors.AsType[*ssh.PassphraseMissingError](err)
	if !ok {
		return nil, errors.New("the SSH key cannot be used: it must be of the type ssh-ed25519 or ssh-rsa")
	}
	public := missing.PublicKey
	if public == nil { // the old PEM form does not hold it in the open
		if public, err = readPublicKey(file + ".pub"); err != nil {
			return nil, fmt.Errorf("the SSH key is in the old PEM form, for which its public key is needed: %w", err)
		}
	}
	protected, err := agessh.NewEncryptedSSHIdentity(public, content, func() ([]byte, error) {
		return ids.askFor(name)
	})
	if err != nil {
		return nil, errors.New("the SSH key cannot be used: it must be of the type ssh-ed25519 or ssh-rsa")
	}
	return []age.Identity{&askingIdentity{lock: &ids.asking, unwrap: protected.Unwrap}}, nil
}

// askFor asks the user for the passphrase of an identity.
func (ids *identities) askFor(name string) ([]byte, error) {
	if ids.passphrase == nil {
		return nil, fmt.Errorf("identity %s is protected by a passphrase and there is no terminal to ask for it", name)
	}
	passphrase, err := ids.passphrase("Passphrase for " + name)
	if err != nil {
		return nil, fmt.Errorf("passphrase for identity %s: %w", name, err)
	}
	return passphrase.Expose(), nil
}

// protectedFile returns an identity that stands for those in an age file that is
// encrypted with a passphrase. The passphrase is asked for once one is needed.
func (ids *identities) protectedFile(name string, content []byte) age.Identity {
	var opened []age.Identity
	return &askingIdentity{lock: &ids.asking, unwrap: func(stanzas []*age.Stanza) ([]byte, error) {
		if !slices.ContainsFunc(stanzas, func(s *age.Stanza) bool { return s.Type == stanzaX25519 || s.Type == stanzaHybrid }) {
			return nil, age.ErrIncorrectIdentity // asking would be of no use
		}
		if opened == nil {
			passphrase, err := ids.askFor(name)
			if err != nil {
				return nil, err
			}
			if opened, err = openIdentities(content, passphrase); err != nil {
				return nil, fmt.Errorf("identity %s: %w", name, err)
			}
		}
		for _, id := range opened {
			if key, err := id.Unwrap(stanzas); !errors.Is(err, age.ErrIncorrectIdentity) {
				return key, err
			}
		}
		return nil, age.ErrIncorrectIdentity
	}}
}

// An askingIdentity may ask for a passphrase. The lock, which all of them share,
// lets one question be asked at a time, and keeps what follows from its answer.
type askingIdentity struct {
	lock   *sync.Mutex
	unwrap func([]*age.Stanza) ([]byte, error)
}

// Unwrap implements [age.Identity].
func (a *askingIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	return a.unwrap(stanzas)
}

func readPublicKey(file string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	return public, err
}
