package transport

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys are known_hosts files, each set of them read once per Dialer.
type hostKeys struct {
	mu  sync.Mutex
	dbs map[string]*hostKeyDB
}

// A hostKeyDB is what one set of known_hosts files says.
type hostKeyDB struct {
	once  sync.Once
	files []string // as configured; new keys belong in the first
	db    *knownhosts.HostKeyDB

	revokedFile string // RevokedHostKeys; may be empty
	revoked     map[string]bool
	err         error
}

// open returns what the files say. A file that does not exist says nothing.
// The file of revoked keys must exist if it is named: ssh_config(5).
func (k *hostKeys) open(files []string, revoked string) (*hostKeyDB, error) {
	k.mu.Lock()
	if k.dbs == nil {
		k.dbs = map[string]*hostKeyDB{}
	}
	key := strings.Join(append(slices.Clone(files), revoked), "\x00")
	db := k.dbs[key]
	if db == nil {
		db = &hostKeyDB{files: files, revokedFile: revoked}
		k.dbs[key] = db
	}
	k.mu.Unlock()
	db.once.Do(db.read)
	return db, db.err
}

func (db *hostKeyDB) read() {
	var there []string
	for _, f := range db.files {
		if _, err := os.Stat(f); err == nil {
			there = append(there, f)
		} else if !errors.Is(err, os.ErrNotExist) {
			db.err = &Error{Kind: KindConfig, Op: "read known_hosts", Err: err}
			return
		}
	}
	var err error
	if db.db, err = knownhosts.NewDB(there...); err != nil {
		db.err = &Error{Kind: KindConfig, Op: "read known_hosts", Err: err, Hint: "repair or delete that line"}
		return
	}
	if db.revokedFile != "" {
		if db.revoked, err = revokedKeys(db.revokedFile); err != nil {
			db.err = &Error{Kind: KindConfig, Op: "read RevokedHostKeys", Err: err, Hint: "name a readable file of public keys in ssh_config, one on each line"}
		}
	}
}

// krlMagic begins a key revocation list (PROTOCOL.krl of OpenSSH).
const krlMagic = "SSHKRL\n\x00"

// revokedKeys reads a file of public keys.
func revokedKeys(file string) (map[string]bool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(text, []byte(krlMagic)) {
		return nil, fmt.Errorf("%s is a key revocation list made by ssh-keygen -k, which cannot be read here", file)
	}
	revoked := map[string]bool{}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		revoked[string(key.Marshal())] = true
	}
	return revoked, nil
}

// revokes reports whether RevokedHostKeys names a key, or the key in a
// certificate, or the one that signed it.
func (db *hostKeyDB) revokes(key ssh.PublicKey) bool {
	if db.revoked[string(key.Marshal())] {
		return true
	}
	cert, ok := key.(*ssh.Certificate)
	return ok && (db.revoked[string(cert.Key.Marshal())] || db.revoked[string(cert.SignatureKey.Marshal())])
}

// preferredHostKeys is the order in which a host that is not known is asked for
// a key: ed25519 first, as ssh does it.
func preferredHostKeys() []string {
	return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
}

// algorithms returns the host key algorithms to offer: those of the known keys
// first, or a host with several keys might show one that we do not know.
// Certificates are asked for only where an authority could have signed one.
func (db *hostKeyDB) algorithms(name string) []string {
	var algos []string
	add := func(a string) {
		if !slices.Contains(algos, a) {
			algos = append(algos, a)
		}
	}
	keys := db.db.HostKeys(name)
	for _, k := range keys {
		if k.Cert { // the type of the authority's key says nothing about the host's
			for _, a := range []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01} {
				add(a)
			}
		}
	}
	for _, k := range keys {
		switch {
		case k.Cert:
		case k.Type() == ssh.KeyAlgoRSA: // RFC 8332: the key's type is not the signature's
			add(ssh.KeyAlgoRSASHA512)
			add(ssh.KeyAlgoRSASHA256)
		default:
			add(k.Type())
		}
	}
	for _, a := range preferredHostKeys() {
		add(a)
	}
	return algos
}

// check is an ssh.HostKeyCallback for the host that known_hosts calls name.
// Nothing is ever accepted that known_hosts does not vouch for.
func (db *hostKeyDB) check(name string) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		// The address is not looked up beside the name (CheckHostIP, off by
		// default in OpenSSH).
		err := db.db.HostKeyCallback()(name, &net.TCPAddr{IP: net.IPv4zero}, key)
		offered := fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
		op := "check the host key of " + knownhosts.Normalize(name)
		if db.revokes(key) {
			return &Error{Kind: KindHostKeyChanged, Op: op,
				Err:  fmt.Errorf("the host shows %s, which %s revokes", offered, db.revokedFile),
				Hint: "do not log in; the host needs a new key"}
		}
		if err == nil {
			return nil
		}

		var revoked *xknownhosts.RevokedError
		if errors.As(err, &revoked) {
			return &Error{Kind: KindHostKeyChanged, Op: op,
				Err:  fmt.Errorf("the host shows %s, which %s:%d revokes", offered, revoked.Revoked.Filename, revoked.Revoked.Line),
				Hint: "do not log in; the host needs a new key"}
		}
		var mismatch *xknownhosts.KeyError
		if !errors.As(err, &mismatch) {
			return &Error{Kind: KindHostKeyChanged, Op: op, Err: fmt.Errorf("the host shows the certificate %s: %w", offered, err)}
		}
		if cert, ok := key.(*ssh.Certificate); ok {
			key = cert.Key
			offered = fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
		}
		if len(mismatch.Want) == 0 {
			if len(db.files) == 0 {
				return &Error{Kind: KindHostKeyUnknown, Op: op, Err: fmt.Errorf("ssh_config names no known_hosts file; the host shows %s", offered),
					Hint: "set known_hosts in fleet.toml, or UserKnownHostsFile in ssh_config"}
			}
			return &Error{Kind: KindHostKeyUnknown, Op: op,
				Err: fmt.Errorf("it is not in %s; the host shows %s", strings.Join(db.files, " or "), offered),
				Hint: fmt.Sprintf("compare that with ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub on the host's own console; if it is the same, trust it with: echo %s >> %s",
					keyFile(key), Quote(knownhosts.Line([]string{name}, key)), Quote(db.files[0]))}
		}
		known := mismatch.Want[0]
		for _, w := range mismatch.Want {
			if w.Key.Type() == key.Type() {
				known = w
			}
		}
		return &Error{Kind: KindHostKeyChanged, Op: op,
			Err: fmt.Errorf("it has changed, or somebody sits in between: the host shows %s, %s:%d has %s %s",
				offered, known.Filename, known.Line, known.Key.Type(), ssh.FingerprintSHA256(known.Key)),
			Hint: fmt.Sprintf("if you know that the host was installed anew, forget the old key with: ssh-keygen -R %s -f %s",
				Quote(knownhosts.Normalize(name)), Quote(known.Filename))}
	}
}

// keyFile is how sshd's key files are named.
func keyFile(key ssh.PublicKey) string {
	switch t := key.Type(); {
	case t == ssh.KeyAlgoRSA:
		return "rsa"
	case strings.HasPrefix(t, "ecdsa"):
		return "ecdsa"
	}
	return "ed25519"
}
